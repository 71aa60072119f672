import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { decide } from "../../src/decide.js";
import type { AccountRecord, Documents, KeyRecord, TokenLimit } from "../../src/documents.js";
import { fillBuckets, type LimitsOutcome, limitStatus, takeRequest } from "../../src/limits.js";
import { type Ending, type Reservation, settle, sweep } from "../../src/settle.js";
import { sampleAccount } from "../../src/testing/sample-account.js";
import { sampleKey } from "../../src/testing/sample-key.js";
import { nameOf, T0 } from "./holding.js";

const MAX = Number.MAX_SAFE_INTEGER;
const HOLD_MS = 1_000;
const NAME = "tokens/1000";
const LIMIT: TokenLimit = { tokens: 100, windowMs: 1_000 };

describe("a limit in tokens", () => {
  // A token is 1,000 units of level, 100 units drain per millisecond, and the bucket holds 100 tokens.
  test.each([
    { level: 0, held: [], estimate: 100, fits: true },
    { level: 0, held: [], estimate: 101, fits: false },
    { level: 1, held: [], estimate: 99, fits: true },
    { level: 1, held: [], estimate: 100, fits: false },
    { level: 1_000, held: [], estimate: 99, fits: true },
    { level: 1_001, held: [], estimate: 99, fits: false },
    { level: 0, held: [60], estimate: 40, fits: true },
    { level: 0, held: [60], estimate: 41, fits: false },
    { level: 0, held: [30, 20, 10], estimate: 40, fits: true },
    { level: 0, held: [30, 20, 10], estimate: 41, fits: false },
    { level: 20_000, held: [30, 10], estimate: 40, fits: true },
    { level: 20_001, held: [30, 10], estimate: 40, fits: false },
    { level: 100_000, held: [], estimate: 0, fits: true },
    { level: 100_001, held: [], estimate: 0, fits: false },
    { level: 0, held: [100], estimate: 0, fits: true },
    { level: 0, held: [101], estimate: 0, fits: false },
  ])(
    "level $level, held $held by processes, estimate $estimate: $fits",
    ({ level, held, estimate, fits }) => {
      expect(asked(busy(LIMIT, level, held), estimate).fits).toBe(fits);
      const other = { tokens: 7, windowMs: 1_000, burst: 100 };
      expect(asked(busy(other, level, held), estimate).fits).toBe(fits);
      // A limit per model counts each family so.
      const perModel = { ...LIMIT, per: "model" as const };
      const record = busy(perModel, level, held);
      expect(asked(record, estimate, T0, ["a"]).fits).toBe(fits);
      expect(asked(record, 100, T0, ["b"]).fits).toBe(true);
      expect(asked(record, estimate, T0, ["b", "a"]).fits).toBe(fits && estimate <= 100);
      // And of an account, too.
      const account = { ...sampleAccount({ limits: [LIMIT] }), ...ledgerOf(LIMIT, level, held) };
      expect(takeRequest(account, { families: [], tokens: estimate }, T0).fits).toBe(fits);
    },
  );

  test.each([
    [MAX, 0, 0, 9_007_199_254_740, true],
    [MAX, 0, 0, 9_007_199_254_741, false],
    [MAX, 9_007_199_254_739_000, 0, 1, true],
    [MAX, 9_007_199_254_739_001, 0, 1, false],
    [MAX, 0, 9_007_199_254_739, 1, true],
    [MAX, 0, 9_007_199_254_739, 2, false],
    [MAX, MAX, MAX, MAX, false],
  ])("counts exactly at the largest capacity: %i, level %i, held %i, estimate %i: %s", (size, ...row) => {
    const [level, held, estimate, fits] = row;
    const limit = { tokens: Math.floor(size / 1_000), windowMs: 1_000 };
    expect(asked(busy(limit, level, [held]), estimate).fits).toBe(fits);
  });

  test.each([
    ["the level is in the way", 50_000, [], 60, 100],
    ["a part of a millisecond counts whole", 50_001, [], 60, 101],
    ["only what is held is in the way: nobody knows when it ends", 0, [60], 60, 1_000],
    ["both: what is held may end any time", 50_000, [60], 60, 100],
    ["what is held is in the way of the last one", 60_000, [1], 40, 1_000],
    ["it never fits: longer than a client waits by itself", 0, [], 101, 3_600_000],
    ["it never fits, whatever is there", 50_000, [60], 101, 3_600_000],
  ])("says when to come back: %s", (_, level, held, estimate, retryAfterMs) => {
    const outcome = asked(busy(LIMIT, level, held), estimate);
    expect(outcome).toEqual({ fits: false, reason: "rate_limited", retryAfterMs });
  });

  test("tells who asks for more than the bucket holds that waiting does not help, and does so again", () => {
    const key = sampleKey({ limits: [{ tokens: 100, windowMs: 60_000, burst: 50 }] });
    for (const now of [T0, T0 + 60_000]) {
      const { verdict } = decide({ key }, { facts: {}, tokens: 51 }, now);
      expect(verdict).toMatchObject({ refusal: { reason: "rate_limited", retryAfterMs: 3_600_000 } });
    }
  });

  test("waits exactly as long as it says", () => {
    const record = busy(LIMIT, 50_001, []);
    expect(asked(record, 60, T0 + 100).fits).toBe(false);
    expect(asked(record, 60, T0 + 101).fits).toBe(true);
    // A clock that steps back drains nothing.
    expect(asked(record, 60, T0 - 500)).toMatchObject({ retryAfterMs: 601 });
  });

  test("takes nothing but holds the estimate, in every bucket it falls into", () => {
    const key = sampleKey({ limits: [LIMIT, { ...LIMIT, per: "model" }, { requests: 5, windowMs: 1_000 }] });
    const outcome = asked(key, 40, T0, ["a", "b"]);
    const names = [NAME, `${NAME}/model/=a`, `${NAME}/model/=b`];
    expect(outcome).toEqual({
      fits: true,
      levels: {
        ...Object.fromEntries(names.map((name) => [name, { level: 0, atMs: T0 }])),
        "requests/1000": { level: 1_000, atMs: T0 },
      },
      held: Object.fromEntries(names.map((name) => [name, 40])),
    });
  });

  test.each([
    [0, [], 100, 0],
    [1, [], 99, 1],
    [1_000, [], 99, 10],
    [20_000, [30, 10], 40, 200],
    [20_001, [30, 10], 39, 201],
    [0, [130], 0, 0],
    [150_000, [], 0, 1_500],
  ])("level %i, held %j: %i remain, whole in %i ms", (level, held, remaining, wholeInMs) => {
    const resetAtMs = T0 + wholeInMs;
    expect(limitStatus(busy(LIMIT, level, held), [], T0)).toMatchObject([
      { unit: "tokens", limit: 100, remaining, resetAtMs, windowMs: 1_000 },
    ]);
  });

  test.each([
    [100, 100, 100],
    [250, 250, 250],
    [50, 50, 50],
    [1, 1, 1],
    [33, 33, 33],
  ])("at %i percent holds %i tokens and drains as many", (percent, most, rate) => {
    const key = sampleKey({ limits: [LIMIT] });
    const ask = (record: KeyRecord, tokens: number, now: number) =>
      takeRequest(record, { families: [], tokens }, now, percent).fits;
    expect([ask(key, most, T0), ask(key, most + 1, T0)]).toEqual([true, false]);
    const full = busy(LIMIT, most * 1_000, []);
    const later = Math.ceil(1_000 / rate);
    expect([ask(full, 1, T0 + later - 1), ask(full, 1, T0 + later)]).toEqual([false, true]);
  });

  test("is multiplied for a key that pays from a subscription, not for its account", () => {
    const plan = { name: "double", allowance: 10_000, rateMultiplier: 2 };
    const account = sampleAccount({ limits: [{ tokens: 150, windowMs: 1_000 }], subscription: { plan } }, T0);
    const key = sampleKey({ account: "000.a", kind: "subscription", limits: [LIMIT] }, T0);
    const { verdict } = decide({ key, account }, { facts: {}, tokens: 120 }, T0);
    expect(verdict).toMatchObject({ allowed: true, limits: [{ limit: 200 }, { limit: 150 }] });
    expect(decide({ key, account }, { facts: {}, tokens: 151 }, T0).verdict.allowed).toBe(false);
  });
});

test("a family of which something is only held keeps its bucket", () => {
  const perModel = sampleKey({ limits: [{ ...LIMIT, per: "model" }] });
  const one = admitted({ key: perModel }, 40, T0, "a");
  const other = admitted(one.documents, 40, T0 + 1, "b");
  expect(Object.keys(other.documents.key.levels).sort()).toEqual([`${NAME}/model/=a`, `${NAME}/model/=b`]);
});

describe("the end of a request", () => {
  const key = sampleKey({ limits: [LIMIT] });

  test.each<[string, Partial<Ending>, number]>([
    ["input and output tokens", { inputTokens: 10, outputTokens: 20 }, 30],
    ["less than the estimate", { tokens: 5 }, 5],
    ["more than the estimate", { tokens: 70 }, 70],
    ["more than the bucket holds", { tokens: 1_000 }, 1_000],
    ["what limits count, apart from what reports count", { inputTokens: 90, outputTokens: 9, tokens: 7 }, 7],
    ["none", {}, 0],
    ["voided", { outcome: "voided", cost: 0 }, 0],
  ])("puts in what it took: %s", (_, ending, taken) => {
    const { documents, reservation } = admitted({ key }, 40, T0);
    const after = ended(documents, reservation, ending, T0).key;
    expect(after.levels[NAME]?.level ?? 0).toBe(taken * 1_000);
    expect(after.nodes["me"]).toMatchObject({ open: 0, held: {} });
  });

  test("puts in what it took also where nothing was estimated", () => {
    const { documents, reservation } = admitted({ key }, 0, T0);
    expect(ended(documents, reservation, { tokens: 5 }, T0).key.levels[NAME]?.level).toBe(5_000);
  });

  test("puts it in when it ends, not when it began: it has not drained yet", () => {
    const { documents, reservation } = admitted({ key }, 40, T0);
    const after = ended(documents, reservation, { tokens: 40 }, T0 + 100).key;
    expect(after.levels[NAME]).toEqual({ level: 40_000, atMs: T0 + 100 });
  });

  test("keeps the sum within the safe integers, and drains from there", () => {
    const { documents, reservation } = admitted({ key }, 40, T0);
    const after = ended(documents, reservation, { tokens: MAX }, T0).key;
    expect(after.levels[NAME]).toEqual({ level: MAX - (MAX % 1_000), atMs: T0 });
    expect(asked(after, 1, T0 + 1_000).fits).toBe(false);
    const more = fillBuckets(busy(LIMIT, 5_001, []), { [NAME]: MAX }, T0);
    expect(more.levels[NAME]?.level).toBe(MAX - ((MAX - 5_001) % 1_000));
  });

  test("leaves the buckets alone where it took nothing", () => {
    const record = busy(LIMIT, 5_000, []);
    expect(fillBuckets(record, { [NAME]: 0 }, T0 + 10).levels).toEqual(record.levels);
  });

  test("is put in after what has drained meanwhile, as fast as the plan lets it", () => {
    const record = { ...busy(LIMIT, 50_000, [40]), account: { id: "000.a", pays: "subscription" as const } };
    const reservation = { node: "node-0", key: { [NAME]: 40 }, account: {} };
    const after = ended({ key: record, account: accountAt(50) }, reservation, { tokens: 40 }, T0 + 100);
    expect(after.key.levels[NAME]).toEqual({ level: 50_000 - 100 * 50 + 40_000, atMs: T0 + 100 });
  });

  test("of a limit that is gone meanwhile leaves nothing", () => {
    const { documents, reservation } = admitted({ key }, 40, T0);
    const edited = { key: { ...documents.key, policy: sampleKey().policy, levels: {} } };
    expect(ended(edited, reservation, { tokens: 40 }, T0).key.levels).toEqual({});
  });

  test("counts for a model the family it was admitted for", () => {
    const perModel = sampleKey({ limits: [{ ...LIMIT, per: "model" }] });
    const { documents, reservation } = admitted({ key: perModel }, 40, T0, "a");
    const after = ended(documents, reservation, { tokens: 30, model: "b" }, T0).key;
    expect(after.levels).toEqual({ [`${NAME}/model/=a`]: { level: 30_000, atMs: T0 } });
  });

  test.each([
    ["charge", undefined, 40],
    ["charge", 10, 40],
    ["charge", 40, 40],
    ["charge", 55, 55],
    ["release", undefined, 0],
    ["release", 10, 10],
    ["release", 55, 55],
  ] as const)(
    "of a process that died, mode %s, then corrected to %s: %i are in",
    (onCrash, actual, taken) => {
      const mortal = sampleKey({ limits: [LIMIT], onCrash });
      const { documents, reservation } = admitted({ key: mortal }, 40, T0);
      const late = T0 + HOLD_MS;
      const swept = sweep(documents, late);
      expect(swept.key.levels[NAME]?.level ?? 0).toBe(onCrash === "charge" ? 40_000 : 0);
      const after = actual === undefined ? swept : ended(swept, reservation, { tokens: actual }, late);
      expect(after.key.levels[NAME]?.level ?? 0).toBe(taken * 1_000);
      // Collected twice is filled once.
      expect(sweep(after, late + 1)).toBe(after);
    },
  );

  test("without an estimate is bounded to 64 families all the same", () => {
    const perModel = sampleKey({ limits: [{ ...LIMIT, per: "model" }] });
    let documents: Documents = { key: perModel };
    const reservations: Reservation[] = [];
    for (let n = 0; n < 200; n += 1) {
      const one = admitted(documents, 0, T0, `model-${n}`);
      documents = one.documents;
      reservations.push(one.reservation);
    }
    for (const one of reservations) documents = ended(documents, one, { tokens: 1 }, T0);
    // 64, and the one that the others share.
    expect(Object.keys(documents.key.levels).length).toBeLessThanOrEqual(65);
    // Which does not keep those that are there, and the limit for all models, from being filled.
    const both = sampleKey({ limits: [LIMIT, { ...LIMIT, per: "model" }] });
    const own = `${NAME}/model/=model-0`;
    const filled = fillBuckets({ ...both, levels: documents.key.levels }, { [NAME]: 2, [own]: 3 }, T0);
    expect(filled.levels[NAME]?.level).toBe(2_000);
    expect(filled.levels[own]?.level).toBe((documents.key.levels[own]?.level ?? 0) + 3_000);
  });
});

describe("over random histories", () => {
  const rate = fc.record(
    {
      tokens: fc.integer({ min: 1, max: 60 }),
      windowMs: fc.constant(1_000),
      burst: fc.integer({ min: 1, max: 90 }),
    },
    { requiredKeys: ["tokens", "windowMs"] },
  );
  const limits = fc.oneof(
    rate.map((one) => [one]),
    rate.map((one) => [{ ...one, per: "model" as const }]),
    fc.tuple(rate, rate).map(([one, other]) => [one, { ...other, per: "model" as const }]),
  );
  const request = fc.record({
    estimate: fc.integer({ min: 0, max: 60 }),
    share: fc.integer({ min: 0, max: 100 }),
    family: fc.constantFrom("a", "b"),
    node: fc.constantFrom("me", "other"),
    waitMs: fc.oneof(
      { weight: 6, arbitrary: fc.integer({ min: 0, max: 200 }) },
      { weight: 1, arbitrary: fc.integer({ min: 0, max: 3_000 }) },
    ),
    /** How many of the open ones end before it. */
    ends: fc.array(fc.nat(), { maxLength: 3 }),
  });
  const history = fc.array(request, { minLength: 1, maxLength: 40 });
  const percent = fc.constantFrom(100, 37, 250);

  test("never admits what a bucket that knew all actual amounts at once would refuse", () => {
    fc.assert(
      fc.property(limits, percent, history, (limits, ratePercent, history) => {
        const oracle = knowing(limits, ratePercent);
        const key = sampleKey({ account: "000.a", kind: "subscription", limits }, T0);
        let documents: Documents = { key, account: accountAt(ratePercent) };
        const open: { readonly reservation: Reservation; readonly actual: number }[] = [];
        let now = T0;
        for (const { estimate, share, family, node, waitMs, ends } of history) {
          now += waitMs;
          for (const which of ends) {
            const [end] = open.splice(which % Math.max(1, open.length), 1);
            if (end === undefined) continue;
            documents = ended(documents, end.reservation, { cost: 0, tokens: end.actual }, now);
          }
          const name = nameOf(sweep(documents, now).key, node);
          const request = { facts: { model: family }, cost: 0, tokens: estimate, node: name };
          const decided = decide(documents, { ...request, holdUntilMs: now + HOLD_MS }, now);
          if (!decided.verdict.allowed) continue;
          const actual = Math.floor((estimate * share) / 100);
          expect(oracle.take(actual, family, now)).toBe(true);
          documents = decided.documents;
          open.push({ reservation: decided.verdict.reservation, actual });
        }
      }),
      { numRuns: 5_000 },
    );
  }, 30_000);

  test("admits just what that bucket does when every request ends at once and took its estimate", () => {
    fc.assert(
      fc.property(limits, percent, history, (limits, ratePercent, history) => {
        const oracle = knowing(limits, ratePercent);
        let record = sampleKey({ limits }, T0);
        let now = T0;
        for (const { estimate, family, waitMs } of history) {
          now += waitMs;
          const fitsAt = (ms: number) => asked(record, estimate, ms, [family], ratePercent);
          const outcome = fitsAt(now);
          expect(outcome.fits).toBe(oracle.take(estimate, family, now));
          if (outcome.fits) {
            const held = { ...record, levels: outcome.levels };
            record = fillBuckets(held, outcome.held, now, ratePercent);
          } else if (oracle.hasRoomFor(estimate)) {
            expect(fitsAt(now + outcome.retryAfterMs).fits).toBe(true);
            expect(fitsAt(now + outcome.retryAfterMs - 1).fits).toBe(false);
          }
        }
      }),
      { numRuns: 1_000 },
    );
  });
});

/** The same leaky bucket in unbounded integers, told at admission what a request will take. */
function knowing(limits: readonly TokenLimit[], ratePercent: number) {
  const scaled = (value: number): bigint => {
    const product = (BigInt(value) * BigInt(ratePercent)) / 100n;
    return product > 1n ? product : 1n;
  };
  const rates = limits.map(({ tokens, windowMs, burst = tokens, per }) => ({
    rate: scaled(tokens),
    burst: scaled(burst),
    windowMs: BigInt(windowMs),
    per,
  }));
  const buckets = new Map<string, { readonly level: bigint; readonly atMs: number }>();

  return {
    hasRoomFor: (tokens: number) => rates.every(({ burst }) => BigInt(tokens) <= burst),
    /** Whether all limits take it; then they have. */
    take(tokens: number, family: string, now: number): boolean {
      const after = rates.map(({ rate, burst, windowMs, per }, index) => {
        const name = per === undefined ? `${index}` : `${index} ${family}`;
        const { level, atMs } = buckets.get(name) ?? { level: 0n, atMs: now };
        const left = level - BigInt(Math.max(0, now - atMs)) * rate;
        const sum = (left > 0n ? left : 0n) + BigInt(tokens) * windowMs;
        return { name, fits: sum <= burst * windowMs, level: sum, atMs: Math.max(now, atMs) };
      });
      if (!after.every(({ fits }) => fits)) return false;
      for (const { name, level, atMs } of after) buckets.set(name, { level, atMs });
      return true;
    },
  };
}

/** An account whose plan multiplies limits. */
function accountAt(ratePercent: number): AccountRecord {
  const plan = { name: "any", allowance: 0, rateMultiplier: ratePercent / 100 };
  return sampleAccount({ subscription: { plan } }, T0);
}

function asked(
  record: KeyRecord,
  tokens: number,
  now: number = T0,
  families: readonly string[] = [],
  ratePercent = 100,
): LimitsOutcome {
  return takeRequest(record, { families, tokens }, now, ratePercent);
}

/** A key with a bucket that full, of which processes hold so many tokens; per model, that of the family `a`. */
function busy(limit: TokenLimit, level: number, held: readonly number[]): KeyRecord {
  return { ...sampleKey({ limits: [limit] }), ...ledgerOf(limit, level, held) };
}

function ledgerOf(
  { per }: TokenLimit,
  level: number,
  held: readonly number[],
): Pick<KeyRecord, "levels" | "nodes"> {
  const name = per === undefined ? NAME : `${NAME}/model/=a`;
  const nodes = held.map((amount, index) => [
    `node-${index}`,
    { seq: 1, open: 1, renewByMs: T0 + 60_000, held: { [name]: amount } },
  ]);
  return { levels: { [name]: { level, atMs: T0 } }, nodes: Object.fromEntries(nodes) };
}

/** The documents after one request that must fit, and what it was promised. */
function admitted(
  documents: Documents,
  tokens: number,
  now: number,
  model: string | null = null,
): { readonly documents: Documents; readonly reservation: Reservation } {
  const request = { facts: { model }, cost: 0, tokens, node: "me", holdUntilMs: now + HOLD_MS };
  const decided = decide(documents, request, now);
  if (!decided.verdict.allowed) throw new Error(decided.verdict.refusal.reason);
  return { documents: decided.documents, reservation: decided.verdict.reservation };
}

function ended(
  documents: Documents,
  reservation: Reservation,
  ending: Partial<Ending>,
  now: number,
): Documents {
  return settle(documents, reservation, { cost: 0, outcome: "settled", ...ending }, now);
}
