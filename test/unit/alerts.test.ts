import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { alertsBetween, claimAlerts, type Thresholds } from "../../src/alerts.js";
import type { AccountRecord, Amounts, KeyRecord } from "../../src/documents.js";
import { turnCycle } from "../../src/subscription.js";
import { sampleAccount } from "../../src/testing/sample-account.js";
import { sampleKey } from "../../src/testing/sample-key.js";

const T0 = Date.UTC(2025, 0, 15, 12);
const MAX = Number.MAX_SAFE_INTEGER;
const THRESHOLDS: Thresholds = { percentLeft: [20, 10, 0], balanceLeft: [50, 0] };

describe("percent of a quota", () => {
  test.each([
    [100, 79, undefined],
    [100, 80, 20],
    [100, 89, 20],
    [100, 90, 10],
    [100, 99, 10],
    [100, 100, 0],
    [100, 130, 0],
    // 20 percent of 7 are 1.4.
    [7, 5, undefined],
    [7, 6, 20],
    [7, 7, 0],
    [1, 1, 0],
    [5, 4, 20],
    [10, 9, 10],
    // 20 percent of the largest are 1,801,439,850,948,198.2.
    [MAX, MAX - 1_801_439_850_948_199, undefined],
    [MAX, MAX - 1_801_439_850_948_198, 20],
    [MAX, MAX - 900_719_925_474_100, 20],
    [MAX, MAX - 900_719_925_474_099, 10],
    // And here two products that differ by 2 are the same one in floating point.
    [MAX - 12, 8_106_479_329_266_881, 20],
    [MAX - 12, 8_106_479_329_266_882, 10],
    [MAX, MAX - 1, 10],
    [MAX, MAX, 0],
  ])("of %i, %i used: %s", (quota, used, threshold) => {
    const key = sampleKey({ quota });
    const told = tell(key, spent(key, used));
    const alert = { fund: "quota", purse: "key@0", threshold, limit: quota, left: quota - used };
    expect(told).toEqual(threshold === undefined ? [] : [alert]);
  });

  test.each<[string, KeyRecord, number, Thresholds?]>([
    ["a quota of 0 that nobody used", sampleKey({ quota: 0 }), 0],
    ["an unlimited quota", sampleKey(), MAX],
    ["no thresholds", sampleKey({ quota: 100 }), 100, { percentLeft: [], balanceLeft: [] }],
  ])("are told of nothing: %s", (_, key, used, thresholds = THRESHOLDS) => {
    const after = spent(key, used);
    expect(claimAlerts(key, after, thresholds)).toBe(after);
  });

  test("of 0 are reached by debt", () => {
    const key = sampleKey({ quota: 0 });
    expect(tell(key, spent(key, 3))).toMatchObject([{ threshold: 0, limit: 0, left: -3 }]);
  });

  test.each([[0], [1], [50], [99]])("at %i percent are reached exactly there", (percent) => {
    const key = sampleKey({ quota: 100 });
    const thresholds = { percentLeft: [percent], balanceLeft: [] };
    const at = (used: number) => claimAlerts(key, spent(key, used), thresholds).alerts;
    expect(at(100 - percent)).toEqual({ "key@0": percent });
    expect(at(99 - percent)).toBeUndefined();
  });
});

describe("what is left of a balance", () => {
  test.each([
    [1_000, 949, undefined],
    [1_000, 950, 50],
    [1_000, 999, 50],
    [1_000, 1_000, 0],
    [1_000, 1_200, 0],
    [MAX, MAX - 51, undefined],
    [MAX, MAX - 50, 50],
    [MAX, MAX, 0],
    [-10, 1, 0],
  ])("of %i credited, %i used: %s", (credited, used, threshold) => {
    const account = { ...sampleAccount(), credited };
    const after = { ...account, used: { "balance@0": used } };
    const alert = { fund: "balance", purse: "balance@0", threshold, limit: credited, left: credited - used };
    expect(tell(account, after)).toEqual(threshold === undefined ? [] : [alert]);
  });

  test("is told as it is, not in percent", () => {
    const account = sampleAccount({ credited: 1_000 });
    const after = { ...account, used: { "balance@0": 900 } };
    expect(claimAlerts(account, after, { percentLeft: [20, 10], balanceLeft: [] })).toBe(after);
  });
});

describe("a subscription", () => {
  const account = subscribed({ capPerCycle: 50 });

  test("is told of its allowance, its cap and the balance, each by itself", () => {
    const after = { ...account, used: { "subscription@1.0": 100, "payg@1.0": 41, "balance@0": 41 } };
    expect(tell(account, after)).toEqual([
      { fund: "subscription", purse: "subscription@1.0", threshold: 0, limit: 100, left: 0 },
      { fund: "payAsYouGo", purse: "payg@1.0", threshold: 20, limit: 50, left: 9 },
    ]);
  });

  test.each([[null], [{ capPerCycle: null }], [{ capPerCycle: 0 }]])(
    "is told of no cap where there is none: %j",
    (payAsYouGo) => {
      const without = subscribed(payAsYouGo);
      const after = { ...without, used: { "payg@1.0": 5 } };
      expect(claimAlerts(without, after, THRESHOLDS)).toBe(after);
    },
  );

  test("is told again in the next cycle, and no more of the last", () => {
    const used = claimAlerts(account, { ...account, used: { "subscription@1.0": 95 } }, THRESHOLDS);
    expect(used.alerts).toEqual({ "subscription@1.0": 10 });
    const next = turnCycle(used, Date.UTC(2025, 1, 20));
    expect(tell(used, next)).toEqual([]);
    const again = { ...next, used: { ...next.used, "subscription@1.1": 85 } };
    expect(tell(next, again)).toMatchObject([{ purse: "subscription@1.1", threshold: 20, left: 15 }]);
  });

  test("is told across the turn of a cycle within one write", () => {
    const next = turnCycle(account, Date.UTC(2025, 1, 20));
    const after = { ...next, used: { "subscription@1.1": 85 } };
    expect(tell(account, after)).toMatchObject([{ purse: "subscription@1.1", threshold: 20 }]);
  });
});

describe("over the life of a quota", () => {
  test.each<[string, readonly Step[], readonly (readonly number[])[]]>([
    ["each threshold is told once", [80, 85, 90, 95, 100, 110], [[20], [], [10], [], [0], []]],
    ["a jump is told of the lowest only", [95, 96], [[10], []]],
    ["a jump to the end, too", [100], [[0]]],
    [
      "what is given back re-arms nothing",
      [80, 50, 85, 70, 91, 0, 80, 95],
      [[20], [], [], [], [10], [], [], []],
    ],
    ["what did not grow is not judged", [79, 79], [[], []]],
    ["a raise re-arms", [95, { quota: 1_000 }, 800, 900], [[10], [], [20], [10]]],
    ["a raise into a threshold re-arms those below", [100, { quota: 110 }, 105, 110], [[0], [], [], [0]]],
    ["a raise that frees too little re-arms nothing", [100, { quota: 101 }, 101], [[0], [], [0]]],
    ["a smaller quota is judged at once, and not again", [50, { quota: 60 }, 51], [[], [20], []]],
    ["a smaller quota re-arms nothing", [85, { quota: 99 }, 86], [[20], [], []]],
    ["a quota where there was none", [{ quota: null }, 95, { quota: 100 }, 96], [[], [], [], [10]]],
    ["a counter from zero re-arms with its quota", [95, { quota: 200 }, 0, 160], [[10], [], [], [20]]],
  ])("%s: %j", (_, steps, expected) => {
    expect(replay(sampleKey({ quota: 100 }), steps)).toEqual(expected);
  });

  test.each([
    [110, 100, [10]],
    [110, 110, [0]],
    [1_000, 100, []],
  ])("a raise to %i and use to %i in one write are both judged", (quota, used, expected) => {
    const key = sampleKey({ quota: 100 });
    expect(tell(key, spent(raised(key, quota), used)).map(({ threshold }) => threshold)).toEqual(expected);
  });

  test("a lower threshold is told although a raise came with it", () => {
    const key = claimAlerts(sampleKey({ quota: 100 }), spent(sampleKey({ quota: 100 }), 80), THRESHOLDS);
    expect(tell(key, spent(raised(key, 110), 110))).toMatchObject([{ threshold: 0, left: 0 }]);
  });

  test("none is told twice, nor one above one that was told, while the quota stays", () => {
    const levels = fc.array(fc.nat(130), { minLength: 1, maxLength: 40 });
    fc.assert(
      fc.property(levels, (levels) => {
        const told = replay(sampleKey({ quota: 100 }), levels).flat();
        expect(told).toEqual(told.toSorted((a, b) => b - a));
        expect(new Set(told).size).toBe(told.length);
        const lowest = 100 - Math.max(...levels);
        const due = [20, 10, 0].filter((percent) => lowest <= percent);
        expect(told.at(-1)).toBe(due.length === 0 ? undefined : Math.min(...due));
      }),
    );
  });
});

test("a purse that says nothing leaves the notes of the others", () => {
  const alerts: Amounts = { "payg@1.0": 10, "later@0": 3 };
  const account = { ...subscribed({ capPerCycle: 50 }), alerts };
  const after = { ...account, used: { "subscription@1.0": 80 } };
  expect(claimAlerts(account, after, THRESHOLDS).alerts).toEqual({ ...alerts, "subscription@1.0": 20 });
});

/** What is used from now on, or another quota. */
type Step = number | { readonly quota: number | null };

/** The thresholds that each of these writes tells of a key. */
function replay(key: KeyRecord, steps: readonly Step[]): readonly (readonly number[])[] {
  let before = key;
  return steps.map((step) => {
    const changed = typeof step === "number" ? spent(before, step) : raised(before, step.quota);
    const after = claimAlerts(before, changed, THRESHOLDS);
    const told = alertsBetween(before, after).map(({ threshold }) => threshold);
    before = after;
    return told;
  });
}

function tell<L extends KeyRecord | AccountRecord>(before: L, after: L): ReturnType<typeof alertsBetween> {
  return alertsBetween(before, claimAlerts(before, after, THRESHOLDS));
}

function spent(key: KeyRecord, used: number): KeyRecord {
  return { ...key, used: used === 0 ? {} : { "key@0": used } };
}

function raised(key: KeyRecord, quota: number | null): KeyRecord {
  return { ...key, policy: { ...key.policy, quota } };
}

/** 100 in each cycle, which is its first. */
function subscribed(payAsYouGo: AccountRecord["policy"]["payAsYouGo"]): AccountRecord {
  const subscription = { plan: { name: "test", allowance: 100 } };
  return sampleAccount({ payAsYouGo, credited: 1_000, subscription }, T0);
}
