import { type Cost, type Documents, decide, settle, type Usage } from "keystile";
import { sampleAccount, sampleKey } from "keystile/testing";
import { describe, expect, test } from "vitest";
import { DOLLAR, payAsYouGo, plans, prices } from "./plans.ts";

// What a plan comes to is decided by pure functions over plain records, so a price list and its edges are tested
// without a store, a server or a clock: a month passes by calling them with a later time.
const now = Date.UTC(2030, 0, 31, 10);

/** A key of a subscription, as `accounts.subscribe()` would issue it. */
function subscriber(plan: keyof typeof plans, balance = 0): Documents {
  const cycle = { kind: "anniversary", unit: "month" } as const;
  const subscription = { plan: plans[plan], cycle };
  const account = sampleAccount({ payAsYouGo, credited: balance, subscription }, now);
  return { key: sampleKey({ kind: "subscription", account: "000.test" }, now), account };
}

/** Runs one request to its end, or says why it may not. */
function spend(documents: Documents, cost: Cost, at = now): Documents | string {
  const decided = decide(documents, { facts: {}, cost }, at);
  if (!decided.verdict.allowed) return decided.verdict.refusal.reason;
  return settle(decided.documents, decided.verdict.reservation, { cost, outcome: "settled" }, at);
}

function after(documents: Documents | string): Documents {
  if (typeof documents === "string") throw new Error(documents);
  return documents;
}

describe("the starter plan", () => {
  test("gives 5 dollars a month, then up to 10 of the balance", () => {
    const dry = after(spend(subscriber("starter", 100 * DOLLAR), 5 * DOLLAR));
    const spilled = after(spend(dry, 10 * DOLLAR));
    expect(spilled.account?.used).toMatchObject({ "balance@0": 10 * DOLLAR });
    expect(spend(spilled, 1)).toBe("payg_cap_reached");
  });

  test("begins anew on the last day of February, and on the 31st of March after that", () => {
    const dry = after(spend(subscriber("starter"), 5 * DOLLAR));
    expect(spend(dry, 1, Date.UTC(2030, 1, 28, 10) - 1)).toBe("balance_exhausted");
    const renewed = after(spend(dry, 5 * DOLLAR, Date.UTC(2030, 1, 28, 10)));
    expect(spend(renewed, 1, Date.UTC(2030, 2, 31, 10) - 1)).toBe("balance_exhausted");
    expect(spend(renewed, 1, Date.UTC(2030, 2, 31, 10))).toBeTypeOf("object");
  });

  test("one large request is divided: what is left of the allowance, and the rest from the balance", () => {
    const spent = after(spend(subscriber("starter", 100 * DOLLAR), 7 * DOLLAR));
    expect(spent.account?.used).toMatchObject({ "balance@0": 2 * DOLLAR });
  });
});

describe("prices", () => {
  const usage: Usage = {
    model: "claude-5",
    inputTokens: 1_000,
    cachedInputTokens: 800,
    cacheWriteTokens: 100,
    outputTokens: 200,
    reasoningTokens: 50,
  };

  test.each([
    // 100 fresh at 3, 800 from the cache at 0.3, 100 written at 3.75, 200 out at 15
    ["claude-5", 3_915],
    // 200 at 1.25, 800 from the cache at 0.125, 200 out at 10
    ["gpt-5", 2_350],
    ["local/llama", 0],
    ["somebody-else", 30_000],
  ])("%s, 1,000 tokens in and 200 out: %i millionths of a dollar", (model, cost) => {
    expect(prices.cost({ ...usage, model }, model)).toBe(cost);
  });

  test("what is held for a request is never less than it can cost", () => {
    const body = {
      model: "gpt-5",
      max_tokens: 200,
      messages: [{ role: "user", content: "x".repeat(4_000) }],
    };
    const { cost } = prices.estimate({ model: "gpt-5", body, bodyBytes: JSON.stringify(body).length });
    const most = { ...usage, model: "gpt-5", inputTokens: 4_000, cachedInputTokens: 0, cacheWriteTokens: 0 };
    expect(cost).toBeGreaterThanOrEqual(prices.cost(most, "gpt-5") as number);
  });
});
