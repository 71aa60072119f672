import type { KeyRecord, Level, Limit, RequestLimit } from "./documents.js";

/** Where one limit stands, for headers and for the caller. */
export interface LimitStatus {
  readonly unit: "requests" | "inFlight";
  readonly limit: number;
  readonly remaining: number;
  /** When it is whole again if nothing more comes. */
  readonly resetAtMs: number;
}

/** The answer of all limits of a key to one more request: the levels to store, or how long to wait. */
export type LimitsOutcome =
  | { readonly fits: true; readonly levels: KeyRecord["levels"] }
  | {
      readonly fits: false;
      readonly reason: "rate_limited" | "concurrency_limited";
      readonly retryAfterMs: number;
    };

/** What a request refused for requests in flight is told to wait: nobody knows when one ends. */
const IN_FLIGHT_RETRY_MS = 1_000;

/**
 * Puts one request against every limit of a key: all of them take it, or none does.
 *
 * A request limit is a leaky bucket in exact integers (continuous GCRA): a request is `windowMs` units of level,
 * `requests` units drain per millisecond, and the bucket holds `burst` (unless set, `requests`) requests. In this
 * unit a level keeps its meaning when the limit is edited. Time that runs backwards drains nothing.
 */
export function takeRequest(record: KeyRecord, now: number): LimitsOutcome {
  const levels: Record<string, Level> = {};
  let retryAfterMs = 0;
  for (const limit of record.policy.limits.filter(isRequestLimit)) {
    const { level, atMs } = levelAt(limit, record, now);
    const over = level - (capacity(limit) - limit.windowMs);
    if (over > 0) retryAfterMs = Math.max(retryAfterMs, atMs - now + ceilDivide(over, limit.requests));
    levels[bucketName(limit)] = { level: level + limit.windowMs, atMs };
  }
  if (retryAfterMs > 0) return { fits: false, reason: "rate_limited", retryAfterMs };

  const open = openRequests(record);
  const full = record.policy.limits.some((limit) => !isRequestLimit(limit) && open >= limit.inFlight);
  if (full) return { fits: false, reason: "concurrency_limited", retryAfterMs: IN_FLIGHT_RETRY_MS };
  return { fits: true, levels };
}

/** Where every limit of a key stands, in the order of its policy. */
export function limitStatus(record: KeyRecord, now: number): readonly LimitStatus[] {
  return record.policy.limits.map((limit) => {
    if (!isRequestLimit(limit)) {
      const remaining = Math.max(0, limit.inFlight - openRequests(record));
      return { unit: "inFlight", limit: limit.inFlight, remaining, resetAtMs: now + IN_FLIGHT_RETRY_MS };
    }
    const { level, atMs } = levelAt(limit, record, now);
    return {
      unit: "requests",
      limit: limit.burst ?? limit.requests,
      remaining: floorDivide(Math.max(0, capacity(limit) - level), limit.windowMs),
      resetAtMs: atMs + ceilDivide(level, limit.requests),
    };
  });
}

/** The name of a limit's bucket. Two limits of one policy may not share it. */
export function bucketName({ windowMs }: RequestLimit): string {
  return `requests/${windowMs}`;
}

export function isRequestLimit(limit: Limit): limit is RequestLimit {
  return "requests" in limit;
}

/** The bucket's size in units of level: `burst * windowMs`, at most 2^53 - 1 (checked when a policy is written). */
export function capacity({ requests, burst = requests, windowMs }: RequestLimit): number {
  return burst * windowMs;
}

/** The level after draining until `now`, or as it was when last seen, if the clock is behind that. */
function levelAt(limit: RequestLimit, record: KeyRecord, now: number): Level {
  const bucket = record.levels[bucketName(limit)] ?? { level: 0, atMs: now };
  const elapsedMs = Math.max(0, now - bucket.atMs);
  // Compared before it is multiplied: a long pause at a high rate would leave the safe integers.
  const isEmpty = elapsedMs > Number.MAX_SAFE_INTEGER / limit.requests;
  const level = isEmpty ? 0 : Math.max(0, bucket.level - elapsedMs * limit.requests);
  return { level, atMs: Math.max(now, bucket.atMs) };
}

/** Exact for safe integers, where a rounded quotient is not. */
function floorDivide(dividend: number, divisor: number): number {
  return (dividend - (dividend % divisor)) / divisor;
}

function ceilDivide(dividend: number, divisor: number): number {
  return floorDivide(dividend, divisor) + (dividend % divisor === 0 ? 0 : 1);
}

/** Requests in flight on all processes, as far as their holds have not expired. */
function openRequests(record: KeyRecord): number {
  let open = 0;
  for (const node of Object.values(record.nodes)) open += node.open;
  return open;
}
