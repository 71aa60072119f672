import { DAY_MS, type Limit, type RequestLimit, type TokenLimit } from "./documents.js";
import { invalid } from "./invalid-options.js";

/** The longest window of a limit that somebody writes. */
export const MAX_WINDOW_MS: number = 31 * DAY_MS;

/** A limit per time: of requests, or of tokens. */
export type RateLimit = RequestLimit | TokenLimit;

/** A limit per time in plain numbers. */
export interface Rate {
  readonly unit: "requests" | "tokens";
  readonly windowMs: number;
  /** How many drain in one window. */
  readonly perWindow: number;
  /** How many fit at once. `burst * windowMs` is at most 2^53 - 1 (checked when a policy is written). */
  readonly burst: number;
  /** One bucket for each family of models, instead of one for all. */
  readonly isPerModel: boolean;
  /** The name of its bucket; if there are several, what their names begin with. Two limits of one policy may not share it. */
  readonly bucket: string;
}

/** The limits of a document, as they apply to all requests alike. */
export interface Rates {
  /** In the order of the policy; a number is how many requests may be in flight. */
  readonly all: readonly (Rate | number)[];
  readonly rates: readonly Rate[];
}

/** Working limits out costs more than counting by them, so it is done once for each list and plan. */
const workedOut = new WeakMap<readonly Limit[], Rates & { readonly ratePercent: number }>();

/**
 * Limits as a plan multiplies them, rounded down, at least 1 and within what can be counted. A plan that multiplies by
 * 100 percent leaves them as they are.
 */
export function ratesOf(limits: readonly Limit[], ratePercent: number): Rates {
  const found = workedOut.get(limits);
  if (found?.ratePercent === ratePercent) return found;
  const all = limits.map((limit) =>
    isRateLimit(limit)
      ? rateOf(limit, ratePercent)
      : scaled(limit.inFlight, ratePercent, Number.MAX_SAFE_INTEGER),
  );
  const rates = { all, rates: all.filter((one) => typeof one !== "number"), ratePercent };
  workedOut.set(limits, rates);
  return rates;
}

export function rateOf(limit: RateLimit, ratePercent = 100): Rate {
  const { windowMs, per } = limit;
  const isTokens = Object.hasOwn(limit, "tokens");
  const unit = isTokens ? "tokens" : "requests";
  const count = isTokens ? (limit as TokenLimit).tokens : (limit as RequestLimit).requests;
  const burst = (Object.hasOwn(limit, "burst") ? limit.burst : undefined) ?? count;
  const most = floorDivide(Number.MAX_SAFE_INTEGER, windowMs);
  const name = `${unit}/${windowMs}`;
  return {
    unit,
    windowMs,
    perWindow: scaled(count, ratePercent, most),
    burst: scaled(burst, ratePercent, most),
    isPerModel: per !== undefined,
    bucket: per === undefined ? name : `${name}/${per}/`,
  };
}

/** @throws KeystileError `invalid_options` for a rate that cannot be counted exactly. */
export function assertCountable({ burst, windowMs }: Rate, path: string): void {
  if (Number.isSafeInteger(burst * windowMs)) return;
  throw invalid(
    path,
    `burst (or requests, or tokens) times windowMs must stay within 2^53 - 1; lower one of them. Received ${burst * windowMs}`,
  );
}

function scaled(value: number, percent: number, most: number): number {
  if (percent === 100) return value;
  const whole = floorDivide(value, 100);
  const product = whole * percent + floorDivide((value % 100) * percent, 100);
  return Math.min(Math.max(1, product), most);
}

export function isRateLimit(limit: Limit): limit is RateLimit {
  return !Object.hasOwn(limit, "inFlight");
}

/** Whether a limit has a bucket for each family of models. */
export function isPerModel(limit: Limit): boolean {
  return isRateLimit(limit) && limit.per !== undefined;
}

/** Whether a bucket counts tokens; else it counts requests. */
export function isTokenBucket(name: string): boolean {
  return name.startsWith("tokens/");
}

export function isBucketOf({ bucket, isPerModel: isPrefix }: Rate, name: string): boolean {
  return isPrefix ? name.startsWith(bucket) : name === bucket;
}

/** Exact for safe integers, where a rounded quotient is not. */
export function floorDivide(dividend: number, divisor: number): number {
  return (dividend - (dividend % divisor)) / divisor;
}

export function ceilDivide(dividend: number, divisor: number): number {
  return floorDivide(dividend, divisor) + (dividend % divisor === 0 ? 0 : 1);
}
