import type { KeyRecord, Limit, RequestLimit } from "./documents.js";

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
  const levels: Record<string, KeyRecord["levels"][string]> = {};
  let retryAfterMs = 0;
  for (const limit of record.policy.limits.filter(isRequestLimit)) {
    const bucket = record.levels[bucketName(limit)];
    const level = drainedLevel(limit, bucket, now) + limit.windowMs;
    const over = level - capacity(limit);
    if (over > 0) retryAfterMs = Math.max(retryAfterMs, Math.ceil(over / limit.requests));
    levels[bucketName(limit)] = { level, atMs: Math.max(now, bucket?.atMs ?? now) };
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
    const level = drainedLevel(limit, record.levels[bucketName(limit)], now);
    return {
      unit: "requests",
      limit: limit.burst ?? limit.requests,
      remaining: Math.max(0, Math.floor((capacity(limit) - level) / limit.windowMs)),
      resetAtMs: now + Math.ceil(level / limit.requests),
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

function drainedLevel(
  { requests }: RequestLimit,
  bucket: KeyRecord["levels"][string] | undefined,
  now: number,
): number {
  if (bucket === undefined) return 0;
  const elapsedMs = Math.max(0, now - bucket.atMs);
  // Compared by division first: the product of a long pause and a high rate could leave the safe integers.
  if (elapsedMs >= bucket.level / requests) return 0;
  return bucket.level - elapsedMs * requests;
}

/** Requests in flight on all processes, as far as their holds have not expired. */
function openRequests(record: KeyRecord): number {
  let open = 0;
  for (const node of Object.values(record.nodes)) open += node.open;
  return open;
}
