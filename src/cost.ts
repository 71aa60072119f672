import type { Cost, FundCosts } from "./documents.js";
import type { Usage } from "./usage.js";

/** @throws TypeError for anything but an integer from 0 to 2^53 - 1, or one for each fund. */
export function assertCost(cost: unknown): asserts cost is Cost {
  if (typeof cost === "object" && cost !== null) {
    const { subscription, balance } = cost as Partial<FundCosts>;
    assertAmount(subscription, "cost.subscription");
    assertAmount(balance, "cost.balance");
  } else {
    assertAmount(cost, "cost");
  }
}

/**
 * A cost that whoever gave it can change no more: bookings run later, and again.
 *
 * @throws TypeError as `assertCost`
 */
export function costOf(given: unknown): Cost {
  const cost = copied(given);
  assertCost(cost);
  return cost;
}

/** Prices by fund in an object of their own; anything else as it is. */
export function copied(cost: unknown): unknown {
  if (typeof cost !== "object" || cost === null) return cost;
  const { subscription, balance } = cost as Partial<FundCosts>;
  return Object.freeze({ subscription, balance });
}

/** @throws TypeError for token counts that are no integers from 0 to 2^53 - 1, or too many together. */
export function assertUsage(usage: unknown): void {
  if (usage === undefined) return;
  const { inputTokens, outputTokens } = (usage ?? {}) as Partial<Usage>;
  assertAmount(inputTokens, "usage.inputTokens");
  assertAmount(outputTokens, "usage.outputTokens");
  assertAmount(inputTokens + outputTokens, "sum of usage.inputTokens and usage.outputTokens");
}

/** @throws TypeError for anything but an integer from 0 to 2^53 - 1. */
export function assertAmount(value: unknown, name: string): asserts value is number {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) {
    throw new TypeError(
      `A ${name} must be an integer from 0 to ${Number.MAX_SAFE_INTEGER}, received ${String(value)}.`,
    );
  }
}
