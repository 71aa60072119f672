import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { KeyRecord, Limit, RequestLimit } from "../../src/documents.js";
import * as limits from "../../src/limits.js";
import { assertCountable, rateOf } from "../../src/rates.js";
import { sampleKey } from "../../src/testing/sample-key.js";

// The limits of this file are the key's own; those per model are in model-limits.test.ts.
function takeRequest(record: KeyRecord, now: number): limits.LimitsOutcome {
  return limits.takeRequest(record, { families: [], tokens: 0 }, now);
}

function limitStatus(record: KeyRecord, now: number): readonly limits.LimitStatus[] {
  return limits.limitStatus(record, [], now);
}

const T0 = Date.UTC(2025, 0, 15, 12);

describe("one request limit", () => {
  const limit = { requests: 3, windowMs: 1_000 };

  test("takes the burst at one instant, and not one request more", () => {
    let record = keyWith([limit]);
    for (let taken = 0; taken < 3; taken++) record = afterOne(record, T0);
    expect(takeRequest(record, T0)).toEqual({ fits: false, reason: "rate_limited", retryAfterMs: 334 });
  });

  // 3 requests per 1,000 ms: one more fits after 333.3 ms, that is, from the 334th on.
  test.each([
    [333, false],
    [334, true],
  ])("of a full bucket, %i ms later one more fits: %s", (later, fits) => {
    expect(takeRequest(full(limit, T0), T0 + later).fits).toBe(fits);
  });

  test("what is left of a millisecond is kept, not rounded away", () => {
    // Three drained after exactly 1,000 ms: taken at 334 and 667, the third fits at 1,000 and not at 999.
    const record = afterOne(afterOne(full(limit, T0), T0 + 334), T0 + 667);
    expect(takeRequest(record, T0 + 999).fits).toBe(false);
    expect(takeRequest(record, T0 + 1_000).fits).toBe(true);
  });

  test.each([
    [{ requests: 1, windowMs: 1_000 }, 1_000],
    [{ requests: 1, windowMs: 1_000, burst: 5 }, 1_000],
    [{ requests: 7, windowMs: 60_000 }, 8_572],
    [{ requests: 1_000, windowMs: 1_000 }, 1],
    [{ requests: 5_000, windowMs: 1_000 }, 1],
    [{ requests: 1, windowMs: 2_678_400_000 }, 2_678_400_000],
  ])("%j asks to wait %i ms, after which the request fits and not 1 ms before", (limit, retryAfterMs) => {
    const record = full(limit, T0);
    expect(takeRequest(record, T0)).toEqual({ fits: false, reason: "rate_limited", retryAfterMs });
    expect(takeRequest(record, T0 + retryAfterMs).fits).toBe(true);
    expect(takeRequest(record, T0 + retryAfterMs - 1).fits).toBe(false);
  });

  test.each([
    ["a smaller burst than the rate", { requests: 100, windowMs: 1_000, burst: 1 }, 1],
    ["a larger burst than the rate", { requests: 1, windowMs: 1_000, burst: 9 }, 9],
  ])("%s is what the bucket holds", (_, limit, burst) => {
    let record = keyWith([limit]);
    for (let taken = 0; taken < burst; taken++) record = afterOne(record, T0);
    expect(takeRequest(record, T0).fits).toBe(false);
  });

  test("a long pause empties the bucket and no more than that", () => {
    const rested = { ...full(limit, 0), policy: keyWith([limit]).policy };
    const now = Number.MAX_SAFE_INTEGER;
    expect(limitStatus(rested, now)).toMatchObject([{ remaining: 3, resetAtMs: now }]);
    expect(takeRequest(rested, now)).toEqual({
      fits: true,
      levels: { "requests/1000": { level: 1_000, atMs: now } },
      held: {},
    });
  });

  test("a clock that steps back drains nothing, and gives nothing back when it returns", () => {
    const record = full(limit, T0);
    expect(takeRequest(record, T0 - 3_600_000).fits).toBe(false);
    const behind = afterOne(withLevel(limit, { level: 2_000, atMs: T0 }), T0 - 500);
    expect(behind.levels).toEqual({ "requests/1000": { level: 3_000, atMs: T0 } });
    expect(takeRequest(behind, T0 + 333).fits).toBe(false);
    expect(takeRequest(behind, T0 + 334).fits).toBe(true);
  });

  test("what to wait, and when it is whole again, count from the time seen when the clock is behind it", () => {
    const record = full({ requests: 1, windowMs: 1_000 }, T0);
    const behind = T0 - 700;
    expect(takeRequest(record, behind)).toMatchObject({ retryAfterMs: 1_700 });
    expect(takeRequest(record, behind + 1_700).fits).toBe(true);
    expect(takeRequest(record, behind + 1_699).fits).toBe(false);
    expect(limitStatus(record, behind)).toMatchObject([{ resetAtMs: T0 + 1_000 }]);
  });

  test("counts exactly at the largest capacity", () => {
    const windowMs = 69_431;
    const limit = { requests: 1, windowMs, burst: Number.MAX_SAFE_INTEGER / windowMs };
    const record = withLevel(limit, { level: Number.MAX_SAFE_INTEGER, atMs: T0 });
    for (const missing of [windowMs, windowMs - 1, 3, 2, 1]) {
      const now = T0 + windowMs - missing;
      expect(takeRequest(record, now)).toMatchObject({ fits: false, retryAfterMs: missing });
    }
    expect(takeRequest(record, T0 + windowMs)).toEqual({
      fits: true,
      levels: { [`requests/${windowMs}`]: { level: Number.MAX_SAFE_INTEGER, atMs: T0 + windowMs } },
      held: {},
    });
    const oneLeft = afterOne(withLevel(limit, { level: Number.MAX_SAFE_INTEGER - windowMs, atMs: T0 }), T0);
    expect(takeRequest(oneLeft, T0).fits).toBe(false);
  });

  test("a rate far above the bucket does not overflow", () => {
    const limit = { requests: Number.MAX_SAFE_INTEGER, windowMs: 1_000, burst: 2 };
    const record = full(limit, T0);
    expect(takeRequest(record, T0)).toMatchObject({ fits: false, retryAfterMs: 1 });
    expect(takeRequest(record, T0 + 1).fits).toBe(true);
  });

  test("is not bounded by the bucket, which a plan of 100 percent leaves alone", () => {
    const limit = { requests: Number.MAX_SAFE_INTEGER, windowMs: 1_000, burst: 2 };
    expect(rateOf(limit).perWindow).toBe(Number.MAX_SAFE_INTEGER);
    expect(rateOf(limit, 50).perWindow).toBe(Math.floor(Number.MAX_SAFE_INTEGER / 1_000));
  });

  test("may hold what can be counted exactly, and not one unit more", () => {
    const most = { windowMs: 6_361, requests: Number.MAX_SAFE_INTEGER / 6_361 };
    expect(Number.isInteger(most.requests)).toBe(true);
    expect(() => assertCountable(rateOf(most), "limits[0]")).not.toThrow();
    const more = rateOf({ ...most, requests: most.requests + 1 });
    expect(() => assertCountable(more, "limits[0]")).toThrow(
      /limits\[0\].*burst \(or requests, or tokens\) times windowMs must stay within 2\^53 - 1.*Received 9007199254747352/s,
    );
  });

  test("keeps what was used when the rate is edited", () => {
    const record = { ...full(limit, T0), policy: keyWith([{ requests: 6, windowMs: 1_000 }]).policy };
    expect(limitStatus(record, T0)).toMatchObject([{ limit: 6, remaining: 3 }]);
    const lowered = { ...record, policy: keyWith([{ requests: 1, windowMs: 1_000 }]).policy };
    expect(limitStatus(lowered, T0)).toMatchObject([{ limit: 1, remaining: 0 }]);
    expect(takeRequest(lowered, T0)).toMatchObject({ fits: false, retryAfterMs: 3_000 });
  });
});

describe("several limits", () => {
  const limits = [
    { requests: 2, windowMs: 1_000 },
    { requests: 3, windowMs: 60_000 },
  ];

  test("all take a request or none does", () => {
    const both = afterOne(afterOne(keyWith(limits), T0), T0);
    expect(both.levels).toEqual({
      "requests/1000": { level: 2_000, atMs: T0 },
      "requests/60000": { level: 120_000, atMs: T0 },
    });
    expect(takeRequest(both, T0)).toEqual({ fits: false, reason: "rate_limited", retryAfterMs: 500 });
    const third = afterOne(both, T0 + 1_000);
    // The first has room again; the second has not, and the first must not have lost any by that.
    const fourth = takeRequest(third, T0 + 2_000);
    expect(fourth).toEqual({ fits: false, reason: "rate_limited", retryAfterMs: 18_000 });
    expect(limitStatus(third, T0 + 2_000)).toMatchObject([{ remaining: 2 }, { remaining: 0 }]);
  });

  test("the longest of their waits is asked for, in whatever order they stand", () => {
    const spent = afterOne(afterOne(keyWith(limits), T0), T0);
    const bothFull = {
      ...spent,
      levels: { ...spent.levels, "requests/60000": { level: 180_000, atMs: T0 } },
    };
    const reversed = { ...bothFull, policy: { ...bothFull.policy, limits: limits.toReversed() } };
    expect(takeRequest(bothFull, T0)).toMatchObject({ retryAfterMs: 20_000 });
    expect(takeRequest(reversed, T0)).toMatchObject({ retryAfterMs: 20_000 });
  });

  test("none at all take everything", () => {
    expect(takeRequest(keyWith([]), T0)).toEqual({ fits: true, levels: {}, held: {} });
    expect(limitStatus(keyWith([]), T0)).toEqual([]);
  });
});

describe("requests in flight", () => {
  test.each([
    [[0, 0], true, 3],
    [[1, 1], true, 1],
    [[3], false, 0],
    [[2, 1], false, 0],
    [[1, 1, 1], false, 0],
    [[5], false, 0],
  ])("of 3, with %j open on the nodes", (open, fits, remaining) => {
    const record = withOpen(keyWith([{ inFlight: 3 }]), open);
    expect(takeRequest(record, T0).fits).toBe(fits);
    expect(limitStatus(record, T0)).toMatchObject([{ unit: "inFlight", limit: 3, remaining }]);
  });

  test("a refusal for them waits a second and consumes no rate", () => {
    const record = withOpen(keyWith([{ requests: 5, windowMs: 1_000 }, { inFlight: 1 }]), [1]);
    expect(takeRequest(record, T0)).toEqual({
      fits: false,
      reason: "concurrency_limited",
      retryAfterMs: 1_000,
    });
  });

  test("the rate is named first when both are reached", () => {
    const limit = { requests: 1, windowMs: 1_000 };
    const record = withOpen({ ...full(limit, T0), policy: keyWith([{ inFlight: 1 }, limit]).policy }, [1]);
    expect(takeRequest(record, T0)).toMatchObject({ reason: "rate_limited" });
  });
});

describe("limitStatus", () => {
  const limit = { requests: 4, windowMs: 1_000, burst: 2 };

  test.each([
    [0, 0, 2, 0, 0],
    [1, 0, 1, 1, 1],
    [1_000, 0, 1, 250, 250],
    [1_001, 0, 0, 251, 1],
    [2_000, 0, 0, 500, 250],
    [2_000, 249, 0, 251, 1],
    [2_000, 250, 1, 250, 250],
    [2_000, 499, 1, 1, 1],
    [2_000, 500, 2, 0, 0],
    [2_000, 501, 2, 0, 0],
  ])(
    "level %i, %i ms later: %i remaining, whole in %i ms, one more in %i",
    (level, later, remaining, ...times) => {
      const [wholeInMs, nextInMs] = times;
      const { windowMs } = limit;
      const now = T0 + later;
      expect(limitStatus(withLevel(limit, { level, atMs: T0 }), now)).toEqual([
        {
          unit: "requests",
          limit: 2,
          remaining,
          resetAtMs: now + wholeInMs,
          windowMs,
          perWindow: 4,
          nextInMs,
        },
      ]);
    },
  );

  test("stands in the order of the policy", () => {
    const limits = [{ inFlight: 2 }, { requests: 1, windowMs: 2_000 }, { requests: 1, windowMs: 1_000 }];
    expect(limitStatus(keyWith(limits), T0).map(({ unit }) => unit)).toEqual([
      "inFlight",
      "requests",
      "requests",
    ]);
  });

  test("what it says remains is what is taken, neither more nor less", () => {
    fc.assert(
      fc.property(
        anyLimit,
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.nat(5_000),
        (limit, fill, later) => {
          const size = (limit.burst ?? limit.requests) * limit.windowMs;
          let record = withLevel(limit, { level: Math.floor(size * fill), atMs: T0 });
          const [status] = limitStatus(record, T0 + later);
          for (let left = status?.remaining ?? 0; left > 0; left--) record = afterOne(record, T0 + later);
          expect(takeRequest(record, T0 + later).fits).toBe(false);
        },
      ),
      { numRuns: 100 },
    );
  });
});

const anyLimit = fc.record(
  {
    requests: fc.integer({ min: 1, max: 40 }),
    windowMs: fc.integer({ min: 1_000, max: 9_000 }),
    burst: fc.integer({ min: 1, max: 40 }),
  },
  { requiredKeys: ["requests", "windowMs"] },
);

test("never admits what a limiter that remembers every request would not, and refuses nothing else", () => {
  const limits = fc.uniqueArray(anyLimit, {
    minLength: 1,
    maxLength: 3,
    selector: ({ windowMs }) => windowMs,
  });
  const pause = fc.oneof(
    { weight: 6, arbitrary: fc.integer({ min: 0, max: 300 }) },
    { weight: 1, arbitrary: fc.integer({ min: 0, max: 20_000 }) },
    { weight: 1, arbitrary: fc.integer({ min: -2_000, max: -1 }) },
  );
  fc.assert(
    fc.property(limits, fc.array(pause, { minLength: 1, maxLength: 80 }), (limits, pauses) => {
      let record = keyWith(limits);
      const admittedAt: number[] = [];
      let now = T0;
      for (const ms of pauses) {
        now += ms;
        const outcome = takeRequest(record, now);
        expect(outcome.fits).toBe(fitsByMemory(limits, admittedAt, now));
        if (outcome.fits) {
          admittedAt.push(Math.max(now, admittedAt.at(-1) ?? now));
          record = { ...record, levels: outcome.levels };
          continue;
        }
        expect(fitsByMemory(limits, admittedAt, now + outcome.retryAfterMs)).toBe(true);
        expect(fitsByMemory(limits, admittedAt, now + outcome.retryAfterMs - 1)).toBe(false);
      }
    }),
    { numRuns: 300 },
  );
});

/**
 * The definition without a bucket: of the requests admitted since any earlier one, this one included, there are at
 * most `burst` and what drained since that one. Time does not go back behind the last one admitted.
 */
function fitsByMemory(limits: readonly RequestLimit[], admittedAt: readonly number[], ms: number): boolean {
  const now = Math.max(ms, admittedAt.at(-1) ?? ms);
  return limits.every(({ requests, windowMs, burst = requests }) =>
    [...admittedAt, now].every((since, index, all) => {
      const count = BigInt(all.length - index);
      const drained = BigInt(now - since) * BigInt(requests);
      return count * BigInt(windowMs) <= BigInt(burst) * BigInt(windowMs) + drained;
    }),
  );
}

function keyWith(limits: readonly Limit[]): KeyRecord {
  return sampleKey({ limits });
}

function full(limit: RequestLimit, atMs: number): KeyRecord {
  return withLevel(limit, { level: (limit.burst ?? limit.requests) * limit.windowMs, atMs });
}

function withLevel(limit: RequestLimit, level: { level: number; atMs: number }): KeyRecord {
  return { ...keyWith([limit]), levels: { [`requests/${limit.windowMs}`]: level } };
}

function withOpen(record: KeyRecord, open: readonly number[]): KeyRecord {
  const nodes = open.map((open, index) => [
    `node-${index}`,
    { seq: 1, open, renewByMs: T0 + 60_000, held: {} },
  ]);
  return { ...record, nodes: Object.fromEntries(nodes) };
}

/** The record after one request that must fit. */
function afterOne(record: KeyRecord, now: number): KeyRecord {
  const outcome = takeRequest(record, now);
  if (!outcome.fits) throw new Error(`refused: wait ${outcome.retryAfterMs} ms`);
  return { ...record, levels: outcome.levels };
}
