import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { KeyRecord } from "../../src/documents.js";
import { expireHolds } from "../../src/expiry.js";
import { hold } from "../../src/ledger.js";
import { allot, type QuotaStatus, quotaStatus } from "../../src/quota.js";
import { type Reservation, settle } from "../../src/settle.js";
import { sampleKey } from "../../src/testing/sample-key.js";
import { holding, purse, reserved, T0 } from "./holding.js";

const HOUR_MS = 3_600_000;
const MAX = Number.MAX_SAFE_INTEGER;

describe("settle", () => {
  const LATER = T0 + 60_000;

  test.each([
    ["exactly the estimate", 10, 10],
    ["less", 4, 4],
    ["nothing: voided", 0, 0],
    ["more than the estimate", 25, 25],
    ["more than the quota", 1_000, 1_000],
  ])("%s", (_, actual, used) => {
    const { record, reservation } = reserved(sampleKey({ quota: 20 }), 10, "me", LATER);
    const after = settled(record, reservation, actual);
    expect(statusOf(after)).toMatchObject({ used, held: 0, remaining: Math.max(0, 20 - used) });
    expect(after.nodes["me"]).toMatchObject({ open: 0, held: {} });
  });

  test("above the quota is debt that blocks the next request until the quota is raised above it", () => {
    const { record, reservation } = reserved(sampleKey({ quota: 20 }), 10, "me", LATER);
    const indebted = settled(record, reservation, 25);
    expect(statusOf(indebted)).toEqual({ limit: 20, used: 25, held: 0, remaining: 0, unlimited: false });
    expect(allot({ key: indebted }, 1)).toMatchObject({ fits: false, held: false });
    const raised = { ...indebted, policy: { ...indebted.policy, quota: 26 } };
    expect(allot({ key: raised }, 1).fits).toBe(true);
    expect(allot({ key: raised }, 2).fits).toBe(false);
  });

  test("leaves what other requests and processes hold", () => {
    const first = reserved(holding({ other: 5 }), 10, "me", LATER);
    const second = reserved(first.record, 3, "me", LATER);
    const after = settled(second.record, first.reservation, 8);
    expect(after.nodes["me"]).toMatchObject({ open: 1, held: { "key@0": 3 } });
    expect(after.nodes["other"]).toBe(first.record.nodes["other"]);
    expect(statusOf(after)).toMatchObject({ used: 8, held: 8 });
  });

  test("books what cost something after all although nothing was held", () => {
    const record = sampleKey({ quota: 20 });
    const nothing = { node: null, key: {}, account: {} };
    const { tally, ...unchanged } = settled(record, nothing, 0);
    expect(unchanged).toEqual(record);
    expect(tally?.models[""]?.settled).toEqual([1, 0, 0, 0, 0]);
    expect(statusOf(settled(record, nothing, 3))).toMatchObject({ used: 3, held: 0 });
  });

  test("counts an unlimited key all the same", () => {
    const { record, reservation } = reserved(sampleKey(), 10, "me", LATER);
    expect(statusOf(record)).toEqual({ limit: null, used: 0, held: 10, remaining: null, unlimited: true });
    expect(statusOf(settled(record, reservation, 12))).toMatchObject({ used: 12, remaining: null });
  });

  test("the sum stays a safe integer", () => {
    const { record, reservation } = reserved(sampleKey(), 1, "me", LATER);
    const after = settled({ ...record, used: purse(MAX - 1) }, reservation, MAX);
    expect(statusOf(after)).toMatchObject({ used: MAX, held: 0 });
    expect(allot({ key: after }, 0).fits).toBe(true);
    expect(allot({ key: after }, 1).fits).toBe(false);
  });

  test("collects first what has expired by then, its own hold, too", () => {
    const { record, reservation } = reserved(holding({ other: 5 }, T0), 10, "me", T0);
    const after = settled(record, reservation, 4, T0);
    expect(statusOf(after)).toMatchObject({ used: 9, held: 0 });
    expect(after.collected).toMatchObject({ me: { collected: {} }, other: { collected: { "key@0": 5 } } });
  });

  test("a price for each fund is the balance's for a key without an account", () => {
    const { record, reservation } = reserved(sampleKey(), 10, "me", LATER);
    const ending = { cost: { subscription: 3, balance: 8 }, outcome: "settled" as const };
    expect(statusOf(settle({ key: record }, reservation, ending, T0).key)).toMatchObject({ used: 8 });
  });
});

describe("a process that comes back after its holds were collected", () => {
  test.each([
    ["charge", 6, 6, "what was charged too much is given back"],
    ["charge", 10, 10, "nothing to correct"],
    ["charge", 0, 0, "voided"],
    ["charge", 14, 14, "charged on top"],
    ["release", 6, 6, "charged after all"],
    ["release", 0, 0, "nothing to correct"],
  ] as const)("mode %s, %i used in truth: used is %i (%s)", (mode, actual, used, _) => {
    const { record, reservation } = reserved(sampleKey({ onCrash: mode }), 10, "me", T0);
    const collected = expireHolds(record, T0);
    const after = settled(collected, reservation, actual);
    expect(statusOf(after)).toMatchObject({ used, held: 0 });
    expect(after.collected["me"]).toMatchObject({ collected: {} });
    expect(after.nodes).toEqual({});
  });

  test("corrects one request and leaves the others of its entry as they were booked", () => {
    const first = reserved(sampleKey(), 10, "me", T0);
    const second = reserved(first.record, 5, "me", T0);
    const after = settled(expireHolds(second.record, T0), second.reservation, 1);
    expect(statusOf(after)).toMatchObject({ used: 11, held: 0 });
    expect(after.collected["me"]?.collected).toEqual({ "key@0": 10 });
  });

  test("corrects by what was done then, whatever the policy says now", () => {
    const { record, reservation } = reserved(sampleKey({ onCrash: "charge" }), 10, "me", T0);
    const collected = expireHolds(record, T0);
    const edited = { ...collected, policy: { ...collected.policy, onCrash: "release" as const } };
    expect(statusOf(settled(edited, reservation, 3))).toMatchObject({ used: 3 });
  });

  test("changes nothing once it is forgotten", () => {
    const { record, reservation } = reserved(sampleKey(), 10, "me", T0);
    const forgotten = expireHolds(expireHolds(record, T0), T0 + HOUR_MS);
    expect(settled(forgotten, reservation, 3)).toBe(forgotten);
    expect(statusOf(forgotten)).toMatchObject({ used: 10 });
  });
});

describe("over random histories", () => {
  const node = fc.integer({ min: 0, max: 2 });
  // Just far enough from the last safe integer that what all the others use cannot reach it: there, sums stop.
  const cost = fc.oneof(fc.integer({ min: 0, max: 60 }), fc.constant(MAX - 20_000));
  const history = fc.array(
    fc.oneof(
      { weight: 5, arbitrary: fc.record({ do: fc.constant("reserve" as const), node, cost }) },
      {
        weight: 5,
        arbitrary: fc.record({
          do: fc.constant("settle" as const),
          which: fc.nat(),
          actual: fc.integer({ min: 0, max: 80 }),
        }),
      },
      { weight: 2, arbitrary: fc.record({ do: fc.constant("wait" as const), ms: fc.nat(150) }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant("wait" as const), ms: fc.nat(2 * HOUR_MS) }) },
    ),
    { minLength: 1, maxLength: 80 },
  );
  const quota = fc.oneof(fc.constant(null), fc.integer({ min: 0, max: 400 }), fc.constant(MAX));

  test("every unit is where a ledger of single requests has it", () => {
    fc.assert(
      fc.property(
        quota,
        fc.constantFrom("charge" as const, "release" as const),
        history,
        (quota, mode, history) => {
          const ledger = newLedger(quota, mode);
          let record = sampleKey({ quota, onCrash: mode });
          let now = T0;
          for (const step of history) {
            if (step.do === "wait") now += step.ms;
            record = expireHolds(record, now);
            ledger.expire(now);
            if (step.do === "reserve") {
              const name = ledger.nameOf(step.node);
              const outcome = allot({ key: record }, step.cost);
              expect(outcome.fits).toBe(ledger.fits(step.cost));
              if (!outcome.fits) continue;
              const { shares } = outcome;
              record = hold(record, { node: name, amounts: shares.key }, now + 100);
              ledger.open(name, step.cost, now + 100, { ...shares, node: name });
            }
            if (step.do === "settle") {
              const entry = ledger.takeOpen(step.which);
              if (entry === undefined) continue;
              record = settled(record, entry.reservation, step.actual, now);
              ledger.close(entry, step.actual);
            }
            const { used, held } = statusOf(record);
            expect({ used: BigInt(used), held: BigInt(held) }).toEqual(ledger.totals());
          }
        },
      ),
      { numRuns: 300 },
    );
  });
});

interface Entry {
  readonly name: string;
  readonly cost: bigint;
  readonly reservation: Reservation;
  ended: boolean;
  isHeld: boolean;
  used: bigint;
}

/** Every request by itself, in unbounded integers: what a document that only keeps sums must agree with. */
function newLedger(quota: number | null, mode: "charge" | "release") {
  const entries: Entry[] = [];
  const renewByMs = new Map<string, number>();
  const collectedAtMs = new Map<string, number>();
  const generations = [0, 0, 0];
  const forgotten = new Set<string>();

  const totals = () => ({
    used: entries.reduce((sum, { used }) => sum + used, 0n),
    held: entries.reduce((sum, { isHeld, cost }) => sum + (isHeld ? cost : 0n), 0n),
  });

  return {
    totals,
    nameOf: (node: number) => `${node}.${generations[node]}`,
    fits: (cost: number) => totals().used + totals().held + BigInt(cost) <= BigInt(quota ?? MAX),
    open(name: string, cost: number, untilMs: number, reservation: Reservation): void {
      entries.push({ name, cost: BigInt(cost), reservation, ended: false, isHeld: true, used: 0n });
      renewByMs.set(name, Math.max(renewByMs.get(name) ?? 0, untilMs));
    },
    takeOpen(which: number): Entry | undefined {
      const open = entries.filter(({ ended }) => !ended);
      return open[which % open.length];
    },
    close(entry: Entry, actual: number): void {
      entry.ended = true;
      if (!forgotten.has(entry.name)) Object.assign(entry, { isHeld: false, used: BigInt(actual) });
    },
    expire(now: number): void {
      for (const [name, atMs] of collectedAtMs) if (atMs + HOUR_MS <= now) forgotten.add(name);
      for (const entry of entries) {
        if (entry.ended || !entry.isHeld || (renewByMs.get(entry.name) ?? 0) > now) continue;
        Object.assign(entry, { isHeld: false, used: mode === "charge" ? entry.cost : 0n });
        if (!collectedAtMs.has(entry.name))
          generations[Number(entry.name[0])] = Number(entry.name.slice(2)) + 1;
        collectedAtMs.set(entry.name, now);
      }
    },
  };
}

function settled(record: KeyRecord, reservation: Reservation, cost: number, now: number = T0): KeyRecord {
  return settle({ key: record }, reservation, { cost, outcome: "settled" }, now).key;
}

function statusOf(key: KeyRecord): QuotaStatus {
  return quotaStatus({ key });
}
