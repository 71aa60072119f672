import { describe, expect, test } from "vitest";
import { decide } from "../../src/decide.js";
import type { AccountRecord, Cost, Documents, PayAsYouGo } from "../../src/documents.js";
import { balanceStatus, payAsYouGoQuota, subscriptionQuota } from "../../src/quota.js";
import { type Reservation, settle } from "../../src/settle.js";
import { sampleAccount } from "../../src/testing/sample-account.js";
import { sampleKey } from "../../src/testing/sample-key.js";

const T0 = Date.UTC(2025, 0, 15, 12);
const NODE = "me";

/** 100 left of the subscription, 50 of the cap, 1,000 of the balance: the table of the semantics. */
const TABLE = { allowance: 100, payAsYouGo: { capPerCycle: 50 }, balance: 1_000 };

describe("an estimate of 150 on a subscription with 100 left, a cap of 50 and a balance of 1,000", () => {
  test.each([
    { actual: 150, subscription: 100, payg: 50, debt: 0 },
    { actual: 120, subscription: 100, payg: 20, debt: 0 },
    { actual: 100, subscription: 100, payg: 0, debt: 0 },
    { actual: 90, subscription: 90, payg: 0, debt: 0 },
    { actual: 0, subscription: 0, payg: 0, debt: 0 },
    { actual: 151, subscription: 100, payg: 51, debt: 1 },
    { actual: 170, subscription: 100, payg: 70, debt: 20 },
  ])("ends with $actual as $subscription + $payg, debt $debt", ({ actual, subscription, payg, debt }) => {
    const admitted = admit(documentsOf(TABLE), 150);
    expect(statusOf(admitted.documents)).toEqual({
      subscription: { used: 0, held: 100, remaining: 0 },
      payAsYouGo: { used: 0, held: 50, remaining: 0 },
      balance: { used: 0, held: 50, remaining: 950 },
    });
    const after = end(admitted, actual);
    expect(statusOf(after)).toEqual({
      subscription: { used: subscription, held: 0, remaining: 100 - subscription },
      payAsYouGo: { used: payg, held: 0, remaining: Math.max(0, 50 - payg) },
      balance: { used: payg, held: 0, remaining: 1_000 - payg },
    });
    expect(after.key.used["key@0"] ?? 0).toBe(actual);
    // Debt blocks whatever comes next.
    expect(isAllowed(after, 0)).toBe(debt === 0);
  });
});

describe("what does not fit", () => {
  const resetAtMs = Date.UTC(2025, 1, 15, 12);

  test.each<[string, number, Partial<typeof TABLE>, object]>([
    ["151 is beyond the cap", 151, {}, { reason: "payg_cap_reached", resetAtMs }],
    [
      "pay-as-you-go is off",
      150,
      { payAsYouGo: null as never },
      { reason: "subscription_exhausted", resetAtMs },
    ],
    ["a cap of 0", 150, { payAsYouGo: { capPerCycle: 0 } }, { reason: "subscription_exhausted", resetAtMs }],
    ["a balance of 30", 150, { balance: 30 }, { reason: "balance_exhausted" }],
    ["a balance of 49", 150, { balance: 49 }, { reason: "balance_exhausted" }],
    ["cap and balance: the cap comes first", 160, { balance: 10 }, { reason: "payg_cap_reached", resetAtMs }],
  ])("%s: %s is refused, and nothing is held", (_, cost, change, expected) => {
    const documents = documentsOf({ ...TABLE, ...change });
    const decided = decide(documents, { facts: {}, cost }, T0);
    expect(decided.verdict).toMatchObject({
      allowed: false,
      refusal: { status: 402, held: false, ...expected },
    });
    expect(decided.documents).toBe(documents);
  });

  test("without a cap, as much as there is", () => {
    const documents = documentsOf({ ...TABLE, payAsYouGo: { capPerCycle: null } });
    expect(isAllowed(documents, 1_100)).toBe(true);
    expect(reasonOf(documents, 1_101)).toBe("balance_exhausted");
  });

  test("only because others hold the rest: it says so", () => {
    const { documents } = admit(documentsOf({ ...TABLE, payAsYouGo: null }), 60);
    const { verdict } = decide(documents, { facts: {}, cost: 60 }, T0);
    expect(verdict).toMatchObject({
      allowed: false,
      refusal: { reason: "subscription_exhausted", held: true },
    });
    expect(decide(documents, { facts: {}, cost: 101 }, T0).verdict).toMatchObject({
      refusal: { held: false },
    });
  });

  test("the key's own quota comes before any fund", () => {
    const documents = documentsOf(TABLE, { quota: 40 });
    expect(reasonOf(documents, 41)).toBe("key_quota_exhausted");
    expect(isAllowed(documents, 40)).toBe(true);
    expect(reasonOf(documentsOf({ ...TABLE, allowance: 10, payAsYouGo: null }, { quota: 40 }), 41)).toBe(
      "key_quota_exhausted",
    );
  });
});

describe("what exceeds its estimate", () => {
  test("goes to the next fund that has room, and only then into debt", () => {
    const admitted = admit(documentsOf(TABLE), 40);
    expect(statusOf(end(admitted, 130))).toMatchObject({
      subscription: { used: 100 },
      payAsYouGo: { used: 30 },
      balance: { used: 30 },
    });
  });

  test("is debt of the subscription where there is nothing else", () => {
    const after = end(admit(documentsOf({ ...TABLE, payAsYouGo: null }), 40), 130);
    expect(statusOf(after).subscription).toEqual({ used: 130, held: 0, remaining: 0 });
    expect(statusOf(after).balance.used).toBe(0);
    expect(reasonOf(after, 0)).toBe("subscription_exhausted");
  });

  test("is not taken from what others hold", () => {
    const first = admit(documentsOf(TABLE), 60);
    const second = admit(first.documents, 40);
    const after = settle(second.documents, first.reservation, { cost: 90, outcome: "settled" }, T0);
    expect(statusOf(after)).toMatchObject({
      subscription: { used: 60, held: 40 },
      payAsYouGo: { used: 30 },
    });
  });

  test("of a key on the balance is debt there, which a credit pays", () => {
    const documents = documentsOf({ balance: 100 });
    const after = end(admit(documents, 100), 130);
    expect(statusOf(after).balance).toEqual({ used: 130, held: 0, remaining: 0 });
    expect(reasonOf(after, 0)).toBe("balance_exhausted");
    const paid = { ...after, account: { ...(after.account as AccountRecord), credited: 131 } };
    expect(isAllowed(paid, 1)).toBe(true);
    expect(reasonOf(paid, 2)).toBe("balance_exhausted");
  });
});

describe("a price for each fund", () => {
  const price = { subscription: 3, balance: 4_200 };

  test.each<[string, Parameters<typeof documentsOf>[0], string, object]>([
    ["the allowance pays its own", { ...TABLE, balance: 10_000 }, "subscription", { used: 3 }],
    ["exactly what is left", { ...TABLE, allowance: 3 }, "subscription", { used: 3, remaining: 0 }],
    [
      "too little left: the balance pays all of it",
      { allowance: 2, payAsYouGo: { capPerCycle: null }, balance: 4_200 },
      "balance",
      { used: 4_200, remaining: 0 },
    ],
  ])("%s", (_, funds, fund, expected) => {
    const after = end(admit(documentsOf(funds), price), price);
    expect(statusOf(after)[fund as "balance"]).toMatchObject(expected);
    expect(after.key.used["key@0"]).toBe(fund === "balance" ? 4_200 : 3);
  });

  test.each([
    [{ allowance: 2, payAsYouGo: { capPerCycle: 4_199 }, balance: 9_999 }, "payg_cap_reached"],
    [{ allowance: 2, payAsYouGo: { capPerCycle: 4_200 }, balance: 4_199 }, "balance_exhausted"],
    [{ allowance: 2, payAsYouGo: null, balance: 4_200 }, "subscription_exhausted"],
  ])("%j is refused as %s", (funds, reason) => {
    expect(reasonOf(documentsOf(funds), price)).toBe(reason);
  });

  test("ends in the fund that promised it, whatever has room by then", () => {
    const admitted = admit(
      documentsOf({ allowance: 2, payAsYouGo: { capPerCycle: null }, balance: 9_000 }),
      price,
    );
    const subscription = admitted.documents.account?.subscription;
    if (subscription === undefined) throw new Error("there is a subscription");
    const raised = { ...subscription, current: { ...subscription.current, allowance: 1_000 } };
    const documents = {
      ...admitted.documents,
      account: { ...(admitted.documents.account as AccountRecord), subscription: raised },
    };
    const after = settle(
      documents,
      admitted.reservation,
      { cost: { subscription: 4, balance: 5_000 }, outcome: "settled" },
      T0,
    );
    expect(statusOf(after)).toMatchObject({ subscription: { used: 0 }, balance: { used: 5_000, held: 0 } });
  });

  test("of a key without an account, what it costs on the balance", () => {
    const key = sampleKey({ quota: 4_200 }, T0);
    expect(isAllowed({ key }, price)).toBe(true);
    expect(isAllowed({ key: { ...key, used: { "key@0": 1 } } }, price)).toBe(false);
  });
});

describe("a cost that is none", () => {
  test.each([
    -1,
    1.5,
    Number.NaN,
    2 ** 53,
    Number.POSITIVE_INFINITY,
    "5",
    null,
    { subscription: 1 },
    { subscription: 1, balance: -1 },
    { subscription: Number.NaN, balance: 1 },
  ])("%j is a TypeError that consumes nothing", (cost) => {
    const documents = documentsOf(TABLE);
    expect(() => decide(documents, { facts: {}, cost: cost as Cost }, T0)).toThrow(TypeError);
    expect(() => decide(documents, { facts: {}, cost: 1, tokens: cost as number }, T0)).toThrow(TypeError);
  });
});

interface Admitted {
  readonly documents: Documents;
  readonly reservation: Reservation;
}

function documentsOf(
  funds: { readonly allowance?: number; readonly payAsYouGo?: PayAsYouGo | null; readonly balance: number },
  key: { readonly quota?: number } = {},
): Documents {
  const { allowance, payAsYouGo = null, balance } = funds;
  const subscription = allowance === undefined ? {} : { subscription: { plan: { name: "test", allowance } } };
  const account = sampleAccount({ payAsYouGo, credited: balance, ...subscription }, T0);
  const pays = allowance === undefined ? ("balance" as const) : ("subscription" as const);
  return { key: { ...sampleKey(key, T0), account: { id: "000.test", pays } }, account };
}

function admit(documents: Documents, cost: Cost): Admitted {
  const decided = decide(documents, { facts: {}, cost, node: NODE }, T0);
  if (!decided.verdict.allowed) throw new Error(decided.verdict.refusal.reason);
  return { documents: decided.documents, reservation: decided.verdict.reservation };
}

function end({ documents, reservation }: Admitted, cost: Cost): Documents {
  return settle(documents, reservation, { cost, outcome: "settled" }, T0);
}

function isAllowed(documents: Documents, cost: Cost): boolean {
  return decide(documents, { facts: {}, cost }, T0).verdict.allowed;
}

function reasonOf(documents: Documents, cost: Cost): string | undefined {
  const { verdict } = decide(documents, { facts: {}, cost }, T0);
  return verdict.allowed ? undefined : verdict.refusal.reason;
}

function statusOf({ account }: Documents) {
  const pick = (status: ReturnType<typeof subscriptionQuota>) =>
    status && { used: status.used, held: status.held, remaining: status.remaining };
  const record = account as AccountRecord;
  return {
    subscription: pick(subscriptionQuota(record)),
    payAsYouGo: pick(payAsYouGoQuota(record)),
    balance: pick(balanceStatus(record)) as { used: number; held: number; remaining: number | null },
  };
}
