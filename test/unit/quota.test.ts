import { describe, expect, test } from "vitest";
import { allot, quotaStatus } from "../../src/quota.js";
import { sampleKey } from "../../src/testing/sample-key.js";
import { holding, purse } from "./holding.js";

// A key's own quota. The funds of an account are in funds.test.ts.
const MAX = Number.MAX_SAFE_INTEGER;

describe("allot", () => {
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
      const record = { ...holding({ other: held }), used: purse(used) };
      const outcome = allot({ key: { ...record, policy: { ...record.policy, quota } } }, cost);
      if (fits) expect(outcome).toEqual({ fits, shares: { key: purse(cost), account: {} } });
      else expect(outcome).toEqual({ fits, reason: "key_quota_exhausted", held: isHeld });
    },
  );
});

describe("quotaStatus", () => {
  test.each([
    { quota: 100, used: 0, held: 0, remaining: 100 },
    { quota: 100, used: 40, held: 30, remaining: 30 },
    { quota: 100, used: 70, held: 30, remaining: 0 },
    { quota: 100, used: 130, held: 0, remaining: 0 },
    { quota: 0, used: 0, held: 0, remaining: 0 },
    { quota: MAX, used: MAX - 1, held: 1, remaining: 0 },
    { quota: null, used: 40, held: 30, remaining: null },
  ])("quota $quota, used $used, held $held: $remaining remaining", ({ quota, used, held, remaining }) => {
    const key = { ...holding({ other: held }), used: purse(used) };
    const status = quotaStatus({ key: { ...key, policy: { ...key.policy, quota } } });
    expect(status).toEqual({ limit: quota, used, held, remaining, unlimited: quota === null });
  });

  test("adds up what all processes hold", () => {
    expect(quotaStatus({ key: holding({ me: 3, other: 4, third: 0 }) })).toMatchObject({ held: 7 });
    expect(quotaStatus({ key: sampleKey() })).toMatchObject({ held: 0 });
  });
});
