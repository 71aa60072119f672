import { type Prices, tokenPrices } from "keystile";

/** The unit of all amounts here: a millionth of a dollar. */
export const DOLLAR = 1_000_000;

/**
 * What the models cost, in the unit per million tokens: 2 dollars a million for `gpt-demo`. What a request may come to
 * at most is held while it runs, so a limit on the output makes it cheaper to let in.
 */
export const demoPrices: Prices = tokenPrices({
  models: {
    "gpt-demo": { input: 2 * DOLLAR, cachedInput: 0.5 * DOLLAR, output: 8 * DOLLAR, maxOutputTokens: 500 },
    "gpt-demo-mini": { input: 0, output: 0, maxOutputTokens: 500 },
    "claude-*": { input: 3 * DOLLAR, output: 15 * DOLLAR, maxOutputTokens: 500 },
  },
  otherModels: { input: 10 * DOLLAR, completionMultiplier: 4, maxOutputTokens: 500 },
});
