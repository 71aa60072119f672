import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { KeyRecord, NodeEntry } from "../../src/documents.js";
import {
  expireHolds,
  mayBeForgotten,
  newEntry,
  quotaStatus,
  type Reservation,
  reserve,
  settle,
} from "../../src/quota.js";
import { sampleKey } from "../../src/testing/sample-key.js";

const T0 = Date.UTC(2025, 0, 15, 12);
const HOUR_MS = 3_600_000;
const MAX = Number.MAX_SAFE_INTEGER;

describe("reserve", () => {
  test.each([
    { quota: 100, used: 0, held: 0, cost: 100, fits: true },
    { quota: 100, used: 0, held: 0, cost: 101, fits: false, isHeld: false },
    { quota: 100, used: 40, held: 30, cost: 30, fits: true },
    { quota: 100, used: 40, held: 30, cost: 31, fits: false, isHeld: true },
    { quota: 100, used: 40, held: 30, cost: 60, fits: false, isHeld: true },
    { quota: 100, used: 40, held: 30, cost: 61, fits: false, isHeld: false },
    { quota: 100, used: 100, held: 0, cost: 0, fits: true },
    { quota: 100, used: 60, held: 40, cost: 0, fits: true },
    { quota: 100, used: 101, held: 0, cost: 0, fits: false, isHeld: false },
    { quota: 0, used: 0, held: 0, cost: 0, fits: true },
    { quota: 0, used: 0, held: 0, cost: 1, fits: false, isHeld: false },
    { quota: null, used: 5_000, held: 5_000, cost: 1_000_000, fits: true },
    { quota: MAX, used: 0, held: 0, cost: MAX, fits: true },
    { quota: MAX, used: 1, held: 0, cost: MAX, fits: false, isHeld: false },
    { quota: MAX, used: 0, held: 1, cost: MAX, fits: false, isHeld: true },
    { quota: MAX, used: MAX - 2, held: 1, cost: 1, fits: true },
    { quota: MAX, used: MAX - 2, held: 1, cost: 2, fits: false, isHeld: true },
    { quota: MAX, used: MAX, held: MAX, cost: MAX, fits: false, isHeld: false },
    // Even what is unlimited is counted, so it ends where counting does.
    { quota: null, used: 0, held: 1, cost: MAX, fits: false, isHeld: true },
  ])(
    "quota $quota, used $used, held $held: $cost fits is $fits",
    ({ quota, used, held, cost, fits, isHeld }) => {
      const record = { ...holding({ other: held }), used: amounts(used) };
      const outcome = reserve({ ...record, policy: { ...record.policy, quota } }, cost, "me", T0);
      expect(outcome.fits).toBe(fits);
      if (!outcome.fits) expect(outcome).toEqual({ fits: false, held: isHeld });
    },
  );

  test("holds under the process that serves the request, and nothing else changes", () => {
    const record = { ...holding({ other: 5 }), used: amounts(3) };
    const { record: after, reservation } = reserved(record, 7, "me", T0 + 50);
    expect(reservation).toEqual({ node: "me", held: { "key@0": 7 } });
    expect(after).toEqual({
      ...record,
      nodes: { ...record.nodes, me: { seq: 0, open: 1, renewByMs: T0 + 50, held: { "key@0": 7 } } },
    });
  });

  test("adds up per process, and never shortens the life of what is held already", () => {
    const first = reserved(sampleKey(), 7, "me", T0 + 50).record;
    const { record } = reserved(first, 4, "me", T0 + 20);
    expect(record.nodes["me"]).toEqual({ seq: 0, open: 2, renewByMs: T0 + 50, held: { "key@0": 11 } });
  });

  test("a cost of 0 holds no amount, but counts as a request in flight", () => {
    const { record, reservation } = reserved(sampleKey(), 0, "me", T0);
    expect(reservation).toEqual({ node: "me", held: {} });
    expect(record.nodes["me"]).toMatchObject({ open: 1, held: {} });
    expect(settle(record, reservation, 0).nodes["me"]).toMatchObject({ open: 0, held: {} });
  });

  test("takes 128 processes, and the 129th is a fault that does not touch those there are", () => {
    const names = Array.from({ length: 127 }, (_, index) => [`node-${index}`, 1] as const);
    const full = reserved(holding(Object.fromEntries(names)), 1, "the last", T0).record;
    expect(Object.keys(full.nodes)).toHaveLength(128);
    expect(reserve(full, 1, "node-7", T0).fits).toBe(true);
    expect(() => reserve(full, 1, "one more", T0)).toThrow(
      expect.objectContaining({ code: "document_full" }),
    );
    expect(() => newEntry(full)).toThrow(expect.objectContaining({ code: "document_full" }));
  });
});

describe("settle", () => {
  test.each([
    ["exactly the estimate", 10, 10],
    ["less", 4, 4],
    ["nothing: voided", 0, 0],
    ["more than the estimate", 25, 25],
    ["more than the quota", 1_000, 1_000],
  ])("%s", (_, actual, used) => {
    const { record, reservation } = reserved(sampleKey({ quota: 20 }), 10, "me", T0);
    const after = settle(record, reservation, actual);
    expect(quotaStatus(after)).toMatchObject({ used, held: 0, remaining: Math.max(0, 20 - used) });
    expect(after.nodes["me"]).toMatchObject({ open: 0, held: {} });
  });

  test("above the quota is debt that blocks the next request until the quota is raised above it", () => {
    const { record, reservation } = reserved(sampleKey({ quota: 20 }), 10, "me", T0);
    const indebted = settle(record, reservation, 25);
    expect(quotaStatus(indebted)).toEqual({ limit: 20, used: 25, held: 0, remaining: 0, unlimited: false });
    expect(reserve(indebted, 1, "me", T0)).toEqual({ fits: false, held: false });
    const raised = { ...indebted, policy: { ...indebted.policy, quota: 26 } };
    expect(reserve(raised, 1, "me", T0).fits).toBe(true);
    expect(reserve(raised, 2, "me", T0).fits).toBe(false);
  });

  test("leaves what other requests and processes hold", () => {
    const first = reserved(holding({ other: 5 }), 10, "me", T0);
    const second = reserved(first.record, 3, "me", T0);
    const after = settle(second.record, first.reservation, 8);
    expect(after.nodes["me"]).toMatchObject({ open: 1, held: { "key@0": 3 } });
    expect(after.nodes["other"]).toBe(first.record.nodes["other"]);
    expect(quotaStatus(after)).toMatchObject({ used: 8, held: 8 });
  });

  test("books what cost something after all although nothing was held", () => {
    const record = sampleKey({ quota: 20 });
    expect(settle(record, { node: null, held: {} }, 0)).toBe(record);
    expect(quotaStatus(settle(record, { node: null, held: {} }, 3))).toMatchObject({ used: 3, held: 0 });
  });

  test("counts an unlimited key all the same", () => {
    const { record, reservation } = reserved(sampleKey(), 10, "me", T0);
    expect(quotaStatus(record)).toEqual({ limit: null, used: 0, held: 10, remaining: null, unlimited: true });
    expect(quotaStatus(settle(record, reservation, 12))).toMatchObject({ used: 12, remaining: null });
  });

  test("the sum stays a safe integer", () => {
    const { record, reservation } = reserved(sampleKey(), 1, "me", T0);
    const after = settle({ ...record, used: amounts(MAX - 1) }, reservation, MAX);
    expect(quotaStatus(after)).toMatchObject({ used: MAX, held: 0 });
    expect(reserve(after, 0, "me", T0).fits).toBe(true);
    expect(reserve(after, 1, "me", T0).fits).toBe(false);
  });
});

describe("expireHolds", () => {
  test.each([
    [T0 - 1, false],
    [T0, true],
  ])("at %i, renewed until T0: collected is %s", (now, collected) => {
    const record = holding({ me: 10 }, T0);
    const after = expireHolds(record, now);
    expect("me" in after.collected).toBe(collected);
    if (!collected) expect(after).toBe(record);
  });

  test.each([
    ["charge", 10],
    ["release", 0],
  ] as const)("mode %s books %i and gives the rest free", (mode, used) => {
    const record = holding({ me: 10, other: 2 }, T0, mode);
    const renewed = withEntry(record, "other", { renewByMs: T0 + 1 });
    const after = expireHolds(renewed, T0);
    expect(quotaStatus(after)).toMatchObject({ used, held: 2 });
    expect(after.collected).toEqual({
      me: { seq: 1, collectedAtMs: T0, mode, collected: { "key@0": 10 } },
    });
    expect(Object.keys(after.nodes)).toEqual(["other"]);
  });

  test("is done once", () => {
    const after = expireHolds(holding({ me: 10 }, T0), T0);
    expect(expireHolds(after, T0)).toBe(after);
    expect(expireHolds(after, T0 + HOUR_MS - 1)).toBe(after);
  });

  test("a request in flight that holds no amount is collected, too", () => {
    const { record } = reserved(sampleKey(), 0, "me", T0);
    expect(expireHolds(record, T0).collected).toMatchObject({ me: { collected: {} } });
  });

  test("an entry that holds nothing stays as memory for an hour", () => {
    const drained = withEntry(holding({ me: 0 }, T0), "me", { open: 0, held: {} });
    expect(expireHolds(drained, T0 + HOUR_MS - 1)).toBe(drained);
    expect(expireHolds(drained, T0 + HOUR_MS).nodes).toEqual({});
  });

  test("a collected entry is remembered for an hour", () => {
    const after = expireHolds(holding({ me: 10 }, T0), T0 + 5);
    expect(expireHolds(after, T0 + 5 + HOUR_MS - 1)).toBe(after);
    const forgotten = expireHolds(after, T0 + 5 + HOUR_MS);
    expect(forgotten.collected).toEqual({});
    expect(quotaStatus(forgotten)).toMatchObject({ used: 10 });
  });

  test("of more than 64 collected entries the oldest are forgotten", () => {
    let record = sampleKey();
    for (let index = 0; index < 65; index++) {
      record = expireHolds(reserved(record, 1, `node-${index}`, T0 + index).record, T0 + index);
    }
    expect(Object.keys(record.collected)).toHaveLength(64);
    expect(record.collected).not.toHaveProperty("node-0");
    expect(record.collected).toHaveProperty("node-64");
    expect(quotaStatus(record)).toMatchObject({ used: 65, held: 0 });
  });

  test("no more than 64 are remembered when more expire at once", () => {
    const names = Array.from({ length: 100 }, (_, index) => [`node-${index}`, 1] as const);
    const after = expireHolds(holding(Object.fromEntries(names), T0), T0);
    expect(Object.keys(after.collected)).toHaveLength(64);
    expect(after.nodes).toEqual({});
    expect(quotaStatus(after)).toMatchObject({ used: 100, held: 0 });
  });

  test("of more than 64 that hold nothing the longest unused are forgotten", () => {
    const record = { ...sampleKey(), nodes: drainedNodes(65) };
    const after = expireHolds(record, T0 + 100);
    expect(Object.keys(after.nodes)).toHaveLength(64);
    expect(after.nodes).not.toHaveProperty("node-0");
    // Those whose time has not come yet are not counted and not touched.
    expect(expireHolds(record, T0 + 63)).toBe(record);
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
    const after = settle(collected, reservation, actual);
    expect(quotaStatus(after)).toMatchObject({ used, held: 0 });
    expect(after.collected["me"]).toMatchObject({ collected: {} });
    expect(after.nodes).toEqual({});
  });

  test("corrects one request and leaves the others of its entry as they were booked", () => {
    const first = reserved(sampleKey(), 10, "me", T0);
    const second = reserved(first.record, 5, "me", T0);
    const after = settle(expireHolds(second.record, T0), second.reservation, 1);
    expect(quotaStatus(after)).toMatchObject({ used: 11, held: 0 });
    expect(after.collected["me"]?.collected).toEqual({ "key@0": 10 });
  });

  test("corrects by what was done then, whatever the policy says now", () => {
    const { record, reservation } = reserved(sampleKey({ onCrash: "charge" }), 10, "me", T0);
    const collected = expireHolds(record, T0);
    const edited = { ...collected, policy: { ...collected.policy, onCrash: "release" as const } };
    expect(quotaStatus(settle(edited, reservation, 3))).toMatchObject({ used: 3 });
  });

  test("changes nothing once it is forgotten", () => {
    const { record, reservation } = reserved(sampleKey(), 10, "me", T0);
    const forgotten = expireHolds(expireHolds(record, T0), T0 + HOUR_MS);
    expect(settle(forgotten, reservation, 3)).toBe(forgotten);
    expect(quotaStatus(forgotten)).toMatchObject({ used: 10 });
  });
});

describe("mayBeForgotten", () => {
  test("is true of nothing while nothing was forgotten", () => {
    expect(mayBeForgotten(sampleKey({}, T0), T0 - HOUR_MS)).toBe(false);
    expect(mayBeForgotten(expireHolds(holding({ me: 10 }, T0), T0), T0)).toBe(false);
  });

  test.each([
    [T0 + 5, true],
    [T0 + 6, false],
  ])("after the memory of T0 + 5 went, of an entry renewed until %i: %s", (renewByMs, expected) => {
    const collected = expireHolds(holding({ me: 10 }, T0), T0 + 5);
    expect(mayBeForgotten(expireHolds(collected, T0 + 5 + HOUR_MS - 1), renewByMs)).toBe(false);
    expect(mayBeForgotten(expireHolds(collected, T0 + 5 + HOUR_MS), renewByMs)).toBe(expected);
  });

  test("stays true for an entry that was crowded out when there is room again", () => {
    const crowded = { ...sampleKey(), nodes: drainedNodes(65) };
    const renewByMs = crowded.nodes["node-0"]?.renewByMs ?? 0;
    const swept = expireHolds(crowded, T0 + 100);
    expect(swept.nodes).not.toHaveProperty("node-0");
    const busyAgain = reserved(swept, 1, "node-9", T0 + 60_000).record;
    expect(mayBeForgotten(busyAgain, renewByMs)).toBe(true);
  });

  test("is true of every entry that was there and is gone", () => {
    const entries = fc.array(fc.record({ renewByMs: fc.nat(2_000), open: fc.nat(1) }), {
      minLength: 1,
      maxLength: 256,
    });
    fc.assert(
      fc.property(entries, fc.array(fc.nat(HOUR_MS), { minLength: 1, maxLength: 5 }), (entries, pauses) => {
        const nodes = entries.map((entry, index): [string, NodeEntry] => [
          `node-${index}`,
          { seq: 1, held: amounts(entry.open), ...entry, renewByMs: T0 + entry.renewByMs },
        ]);
        let record: KeyRecord = { ...sampleKey(), nodes: Object.fromEntries(nodes) };
        let now = T0;
        for (const pause of pauses) {
          now += pause;
          record = expireHolds(record, now);
          for (const [node, { renewByMs }] of nodes) {
            const isThere = node in record.nodes || node in record.collected;
            if (!isThere) expect(mayBeForgotten(record, renewByMs)).toBe(true);
          }
        }
      }),
      { numRuns: 60 },
    );
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
              const outcome = reserve(record, step.cost, name, now + 100);
              expect(outcome.fits).toBe(ledger.fits(step.cost));
              if (!outcome.fits) continue;
              record = outcome.record;
              ledger.open(name, step.cost, now + 100, outcome.reservation);
            }
            if (step.do === "settle") {
              const entry = ledger.takeOpen(step.which);
              if (entry === undefined) continue;
              record = settle(record, entry.reservation, step.actual);
              ledger.close(entry, step.actual);
            }
            const { used, held } = quotaStatus(record);
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

function amounts(amount: number): Record<string, number> {
  return amount === 0 ? {} : { "key@0": amount };
}

/** An unlimited key of which each process holds one request of that cost. */
function holding(
  costs: Record<string, number>,
  renewByMs = T0 + 60_000,
  onCrash?: "charge" | "release",
): KeyRecord {
  const nodes = Object.entries(costs).map(([node, cost]): [string, NodeEntry] => [
    node,
    { seq: 1, open: 1, renewByMs, held: amounts(cost) },
  ]);
  return { ...sampleKey(onCrash === undefined ? {} : { onCrash }), nodes: Object.fromEntries(nodes) };
}

function drainedNodes(count: number): Record<string, NodeEntry> {
  const entry = (index: number): NodeEntry => ({ seq: 1, open: 0, renewByMs: T0 + index, held: {} });
  return Object.fromEntries(Array.from({ length: count }, (_, index) => [`node-${index}`, entry(index)]));
}

function withEntry(record: KeyRecord, node: string, change: Partial<NodeEntry>): KeyRecord {
  const entry = record.nodes[node] ?? newEntry(record);
  return { ...record, nodes: { ...record.nodes, [node]: { ...entry, ...change } } };
}

function reserved(
  record: KeyRecord,
  cost: number,
  node: string,
  renewByMs: number,
): { readonly record: KeyRecord; readonly reservation: Reservation } {
  const outcome = reserve(record, cost, node, renewByMs);
  if (!outcome.fits) throw new Error("does not fit");
  return outcome;
}
