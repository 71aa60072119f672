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

/** Buckets of one key for limits per model. Further models share one, and so do those with longer names. */
const MAX_MODEL_BUCKETS = 64;
const MAX_FAMILY_LENGTH = 64;

/**
 * Puts one request against every limit of a key: all of them take it, or none does. A limit per model takes it once
 * for each family of models the request asks for.
 *
 * A request limit is a leaky bucket in exact integers (continuous GCRA): a request is `windowMs` units of level,
 * `requests` units drain per millisecond, and the bucket holds `burst` (unless set, `requests`) requests. In this
 * unit a level keeps its meaning when the limit is edited. Time that runs backwards drains nothing.
 */
export function takeRequest(record: KeyRecord, families: readonly string[], now: number): LimitsOutcome {
  const levels: Record<string, Level> = undrained(record, now);
  let retryAfterMs = 0;
  for (const limit of record.policy.limits.filter(isRequestLimit)) {
    for (const name of bucketNames(limit, families, levels)) {
      const { level, waitMs } = take(limit, record.levels[name], now);
      retryAfterMs = Math.max(retryAfterMs, waitMs);
      levels[name] = level;
    }
  }
  if (retryAfterMs > 0) return { fits: false, reason: "rate_limited", retryAfterMs };

  const open = openRequests(record);
  const full = record.policy.limits.some((limit) => !isRequestLimit(limit) && open >= limit.inFlight);
  if (full) return { fits: false, reason: "concurrency_limited", retryAfterMs: IN_FLIGHT_RETRY_MS };
  return { fits: true, levels };
}

/** The bucket after one more request, and how long that request has to wait until it fits (0: it fits now). */
export function take(
  limit: RequestLimit,
  bucket: Level | undefined,
  now: number,
): { readonly level: Level; readonly waitMs: number } {
  const { level, atMs } = drained(limit, bucket, now);
  const over = level - (capacity(limit) - limit.windowMs);
  const waitMs = over > 0 ? atMs - now + ceilDivide(over, limit.requests) : 0;
  return { level: { level: level + limit.windowMs, atMs }, waitMs };
}

/** The bucket as it has drained until `now`, or as it was when last seen, if the clock is behind that. */
export function drained(limit: RequestLimit, bucket: Level | undefined, now: number): Level {
  if (bucket === undefined) return { level: 0, atMs: now };
  const elapsedMs = Math.max(0, now - bucket.atMs);
  // Compared before it is multiplied: a long pause at a high rate would leave the safe integers.
  const isEmpty = elapsedMs > Number.MAX_SAFE_INTEGER / limit.requests;
  const level = isEmpty ? 0 : Math.max(0, bucket.level - elapsedMs * limit.requests);
  return { level, atMs: Math.max(now, bucket.atMs) };
}

/** Where every limit of a key stands for these families, in the order of its policy. */
export function limitStatus(
  record: KeyRecord,
  families: readonly string[],
  now: number,
): readonly LimitStatus[] {
  const known = undrained(record, now);
  return record.policy.limits.flatMap((limit): LimitStatus[] => {
    if (isRequestLimit(limit)) {
      return bucketNames(limit, families, known).map((name) => bucketStatus(limit, record.levels[name], now));
    }
    const remaining = Math.max(0, limit.inFlight - openRequests(record));
    return [{ unit: "inFlight", limit: limit.inFlight, remaining, resetAtMs: now + IN_FLIGHT_RETRY_MS }];
  });
}

/** The name of a limit's bucket, without the model. Two limits of one policy may not share it. */
export function bucketName({ windowMs, per }: RequestLimit): string {
  return per === undefined ? `requests/${windowMs}` : `requests/${windowMs}/${per}/`;
}

export function isRequestLimit(limit: Limit): limit is RequestLimit {
  return "requests" in limit;
}

/** The bucket's size in units of level: `burst * windowMs`, at most 2^53 - 1 (checked when a policy is written). */
export function capacity({ requests, burst = requests, windowMs }: RequestLimit): number {
  return burst * windowMs;
}

/** Where one bucket stands. */
export function bucketStatus(limit: RequestLimit, bucket: Level | undefined, now: number): LimitStatus {
  const { level, atMs } = drained(limit, bucket, now);
  return {
    unit: "requests",
    limit: limit.burst ?? limit.requests,
    remaining: floorDivide(Math.max(0, capacity(limit) - level), limit.windowMs),
    resetAtMs: atMs + ceilDivide(level, limit.requests),
  };
}

/**
 * The buckets of a limit that a request for these families goes into. A family without a bucket of its own stays in
 * the shared one until that has drained, or it would get what it had there again.
 */
function bucketNames(
  limit: RequestLimit,
  families: readonly string[],
  known: KeyRecord["levels"],
): readonly string[] {
  const name = bucketName(limit);
  if (limit.per === undefined) return [name];
  const own = (family: string): string => `${name}=${family}`;
  const shared = `${name}other`;
  const fresh = families.filter((family) => !(own(family) in known));
  const taken = Object.keys(known).filter((bucket) => bucket.includes("/model/=")).length;
  const hasRoom = taken + fresh.length <= MAX_MODEL_BUCKETS && !(shared in known);
  const buckets = families.map((family) => {
    if (family.length > MAX_FAMILY_LENGTH) return `${name}long`;
    return own(family) in known || hasRoom ? own(family) : shared;
  });
  return [...new Set(buckets)];
}

/** The buckets of limits per model in which something is left; the others need not be remembered. */
function undrained({ policy, levels }: KeyRecord, now: number): Record<string, Level> {
  const perModel = policy.limits.filter(isRequestLimit).filter(({ per }) => per !== undefined);
  const kept = Object.entries(levels).filter(([name, bucket]) => {
    const limit = perModel.find((one) => name.startsWith(bucketName(one)));
    return limit !== undefined && drained(limit, bucket, now).level > 0;
  });
  return Object.fromEntries(kept);
}

/** Requests in flight on all processes, as far as their holds have not expired. */
function openRequests(record: KeyRecord): number {
  let open = 0;
  for (const node of Object.values(record.nodes)) open += node.open;
  return open;
}

/** Exact for safe integers, where a rounded quotient is not. */
function floorDivide(dividend: number, divisor: number): number {
  return (dividend - (dividend % divisor)) / divisor;
}

function ceilDivide(dividend: number, divisor: number): number {
  return floorDivide(dividend, divisor) + (dividend % divisor === 0 ? 0 : 1);
}
