import { type PlanInput, type Prices, tokenPrices } from "keystile";

/** The unit of every amount here: a millionth of a dollar. */
export const DOLLAR = 1_000_000;

/** What is sold, in one place, so that tests can say what it means. */
export const plans = {
  starter: { name: "starter", allowance: 5 * DOLLAR },
  team: { name: "team", allowance: 50 * DOLLAR, rateMultiplier: 2 },
} satisfies Record<string, PlanInput>;

/** What a subscription may spend of the balance, once its allowance is used up. */
export const payAsYouGo = { capPerCycle: 10 * DOLLAR };

/** Rates per million tokens. */
export const prices: Prices = tokenPrices({
  models: {
    "gpt-5-mini": { input: 0.25 * DOLLAR, cachedInput: 0.025 * DOLLAR, output: 2 * DOLLAR },
    "gpt-*": { input: 1.25 * DOLLAR, cachedInput: 0.125 * DOLLAR, output: 10 * DOLLAR },
    "claude-*": {
      input: 3 * DOLLAR,
      cachedInput: 0.3 * DOLLAR,
      cacheWrite: 3.75 * DOLLAR,
      output: 15 * DOLLAR,
    },
    "local/**": { input: 0, output: 0 },
  },
  otherModels: { input: 15 * DOLLAR, output: 75 * DOLLAR },
});
