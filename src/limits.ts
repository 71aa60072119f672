import type { Amounts, KeyRecord, Ledger, Level, Limit, RequestLimit, TokenLimit } from "./documents.js";
import { heldOf } from "./ledger.js";

/** Where one limit stands, for headers and for the caller. */
export interface LimitStatus {
  readonly unit: "requests" | "tokens" | "inFlight";
  readonly limit: number;
  readonly remaining: number;
  /** When it is whole again if nothing more comes. */
  readonly resetAtMs: number;
  /** The window of a rate. Like what follows, undefined for requests in flight. */
  readonly windowMs?: number;
  /** How many of them come back in a window; `limit` is how many fit at once. */
  readonly perWindow?: number;
  /** How long until time brings back one more; 0 where it is whole. */
  readonly nextInMs?: number;
}

/** A limit per time: of requests, or of tokens. */
export type RateLimit = RequestLimit | TokenLimit;

/** What limits count of one request, or of a lease for several. */
export interface Counted {
  /** What limits per model count by. */
  readonly families: readonly string[];
  /** How many tokens it is estimated to take. */
  readonly tokens: number;
  /** Of a lease: for how many requests it holds a place. Left out: one request, which takes its place at once. */
  readonly places?: number | undefined;
}

type Limited = Ledger & { readonly policy: { readonly limits: readonly Limit[] } };

/** The answer of all limits of a document to one more request: what to store and to hold, or how long to wait. */
export type LimitsOutcome =
  | { readonly fits: true; readonly levels: KeyRecord["levels"]; readonly held: Amounts }
  | {
      readonly fits: false;
      readonly reason: "rate_limited" | "concurrency_limited";
      readonly retryAfterMs: number;
    };

/** What a request refused for requests in flight is told to wait: nobody knows when one ends. */
const IN_FLIGHT_RETRY_MS = 1_000;

/** What more than a whole bucket is told to wait: beyond what a client does by itself, because waiting does not help. */
const NEVER_RETRY_MS = 3_600_000;

/** Buckets of one document for limits per model. Further models share one, and so do those with longer names. */
const MAX_MODEL_BUCKETS = 64;
const MAX_FAMILY_LENGTH = 64;

/**
 * Puts one request against every limit of a key or an account: all of them take it, or none does. A limit per model
 * takes it once for each family of models the request asks for.
 *
 * A rate limit is a leaky bucket in exact integers (continuous GCRA): a request or a token is `windowMs` units of level,
 * `requests` (or `tokens`) units drain per millisecond, and the bucket holds `burst` (unless set, that many) of them. In
 * this unit a level keeps its meaning when the limit is edited. Time that runs backwards drains nothing. Tokens, and the
 * places of a lease, are held until it is known how many there were: level, held and what is asked for together stay
 * within the bucket.
 *
 * @param ratePercent by how much the limits are multiplied.
 */
export function takeRequest(
  ledger: Limited,
  { families, tokens, places }: Counted,
  now: number,
  ratePercent = 100,
): LimitsOutcome {
  const limits = scaledLimits(ledger, ratePercent);
  const levels: Record<string, Level> = undrained(ledger, limits, now);
  const held: Record<string, number> = {};
  let retryAfterMs = 0;
  for (const limit of limits) {
    if (!isRateLimit(limit)) continue;
    const count = isTokenLimit(limit) ? tokens : (places ?? 1);
    // With those just taken, so that the bound is on all limits together.
    for (const name of bucketNames(limit, families, levels)) {
      const level = drained(limit, ledger.levels[name], now);
      retryAfterMs = Math.max(retryAfterMs, waitFor(limit, level, heldOf(ledger, name), count, now));
      const isHeld = isTokenLimit(limit) || places !== undefined;
      if (isHeld) held[name] = count;
      // Also while something is only held, so that its family stays in it.
      levels[name] = isHeld ? level : { ...level, level: level.level + limit.windowMs };
    }
  }
  if (retryAfterMs > 0) return { fits: false, reason: "rate_limited", retryAfterMs };

  const open = openRequests(ledger);
  const full = limits.some((limit) => !isRateLimit(limit) && open >= limit.inFlight);
  if (full) return { fits: false, reason: "concurrency_limited", retryAfterMs: IN_FLIGHT_RETRY_MS };
  return { fits: true, levels, held };
}

/** The bucket after one more request, and how long that request has to wait until it fits (0: it fits now). */
export function take(
  limit: RequestLimit,
  bucket: Level | undefined,
  now: number,
): { readonly level: Level; readonly waitMs: number } {
  const level = drained(limit, bucket, now);
  return {
    level: { ...level, level: level.level + limit.windowMs },
    waitMs: waitFor(limit, level, 0, 1, now),
  };
}

/** How long so many requests or tokens have to wait for their place. What is held may be given back at any time. */
function waitFor(limit: RateLimit, { level, atMs }: Level, held: number, count: number, now: number): number {
  const { windowMs } = limit;
  const burst = burstOf(limit);
  // Rounded up: what a part of a token takes is not there for another. Never beyond the safe integers.
  const missing = count - (burst - ceilDivide(level, windowMs) - held);
  if (missing <= 0) return 0;
  if (count > burst) return Math.max(windowMs, NEVER_RETRY_MS);
  const over = level - (burst - count) * windowMs;
  return over > 0 ? atMs - now + ceilDivide(over, rateOf(limit)) : IN_FLIGHT_RETRY_MS;
}

/** How much of what the limits of a document leave a lease may hold. */
export interface Room {
  readonly requests: number;
  readonly tokens: number;
}

/**
 * What a lease may hold in every bucket of these families, so that all that is held there is at most a share of what is
 * left. Nothing where requests in flight are limited, which a lease cannot know.
 */
export function roomInLimits(
  ledger: Limited,
  families: readonly string[],
  sharePercent: number,
  now: number,
  ratePercent = 100,
): Room {
  const limits = scaledLimits(ledger, ratePercent);
  if (!limits.every(isRateLimit)) return { requests: 0, tokens: 0 };
  const room = { requests: Number.MAX_SAFE_INTEGER, tokens: Number.MAX_SAFE_INTEGER };
  const known = undrained(ledger, limits, now);
  for (const limit of limits) {
    const unit = isTokenLimit(limit) ? "tokens" : "requests";
    for (const name of bucketNames(limit, families, known)) {
      const { level } = drained(limit, ledger.levels[name], now);
      const left = burstOf(limit) - ceilDivide(level, limit.windowMs);
      room[unit] = Math.min(room[unit], shareOf(left, heldOf(ledger, name), sharePercent));
    }
  }
  return room;
}

/** How much more may be held of an amount, if that is to be a share of it at most. Not negative. */
export function shareOf(left: number, held: number, sharePercent: number): number {
  return Math.max(
    0,
    floorDivide(left, 100) * sharePercent + floorDivide((left % 100) * sharePercent, 100) - held,
  );
}

/** Puts what requests took into the buckets that held a place for it. Buckets without a limit are gone. */
export function fillBuckets<L extends Limited>(
  ledger: L,
  counted: Amounts,
  now: number,
  ratePercent = 100,
): L {
  const names = Object.keys(counted);
  if (names.length === 0) return ledger;
  const levels: Record<string, Level> = { ...ledger.levels };
  for (const limit of scaledLimits(ledger, ratePercent)) {
    if (!isRateLimit(limit)) continue;
    for (const name of names) {
      const taken = counted[name] as number;
      if (!isBucketOf(limit, name) || taken <= 0) continue;
      // Without an estimate nothing had kept a place for it.
      const bucket =
        name in levels || limit.per === undefined || hasRoom(levels) ? name : sharedBucket(limit);
      const { level, atMs } = drained(limit, levels[bucket], now);
      const room = floorDivide(Number.MAX_SAFE_INTEGER - level, limit.windowMs);
      levels[bucket] = { level: level + Math.min(taken, room) * limit.windowMs, atMs };
    }
  }
  return { ...ledger, levels };
}

/** The bucket as it has drained until `now`, or as it was when last seen, if the clock is behind that. */
export function drained(limit: RateLimit, bucket: Level | undefined, now: number): Level {
  if (bucket === undefined) return { level: 0, atMs: now };
  const elapsedMs = Math.max(0, now - bucket.atMs);
  // Compared before it is multiplied: a long pause at a high rate would leave the safe integers.
  const isEmpty = elapsedMs > Number.MAX_SAFE_INTEGER / rateOf(limit);
  const level = isEmpty ? 0 : Math.max(0, bucket.level - elapsedMs * rateOf(limit));
  return { level, atMs: Math.max(now, bucket.atMs) };
}

/** Where every limit of a document stands for these families, in the order of its policy. */
export function limitStatus(
  ledger: Limited,
  families: readonly string[],
  now: number,
  ratePercent = 100,
): readonly LimitStatus[] {
  const limits = scaledLimits(ledger, ratePercent);
  const known = undrained(ledger, limits, now);
  return limits.flatMap((limit): LimitStatus[] => {
    if (isRateLimit(limit)) {
      return bucketNames(limit, families, known).map((name) =>
        bucketStatus(limit, ledger.levels[name], now, heldOf(ledger, name)),
      );
    }
    const remaining = Math.max(0, limit.inFlight - openRequests(ledger));
    return [{ unit: "inFlight", limit: limit.inFlight, remaining, resetAtMs: now + IN_FLIGHT_RETRY_MS }];
  });
}

/**
 * Limits as a plan multiplies them, rounded down, at least 1 and within what can be counted. A plan that multiplies by
 * 100 percent leaves them as they are.
 */
function scaledLimits({ policy }: Limited, ratePercent: number): readonly Limit[] {
  if (ratePercent === 100) return policy.limits;
  return policy.limits.map((limit): Limit => {
    if (!isRateLimit(limit))
      return { inFlight: scaled(limit.inFlight, ratePercent, Number.MAX_SAFE_INTEGER) };
    const most = floorDivide(Number.MAX_SAFE_INTEGER, limit.windowMs);
    const burst =
      Object.hasOwn(limit, "burst") && limit.burst !== undefined
        ? { burst: scaled(limit.burst, ratePercent, most) }
        : {};
    return isTokenLimit(limit)
      ? { ...limit, ...burst, tokens: scaled(limit.tokens, ratePercent, most) }
      : { ...limit, ...burst, requests: scaled(limit.requests, ratePercent, most) };
  });
}

function scaled(value: number, percent: number, most: number): number {
  const whole = floorDivide(value, 100);
  const product = whole * percent + floorDivide((value % 100) * percent, 100);
  return Math.min(Math.max(1, product), most);
}

/** The name of a limit's bucket, without the model. Two limits of one policy may not share it. */
export function bucketName(limit: RateLimit): string {
  const name = `${isTokenLimit(limit) ? "tokens" : "requests"}/${limit.windowMs}`;
  return limit.per === undefined ? name : `${name}/${limit.per}/`;
}

/** Whether a bucket counts tokens; else it counts requests. */
export function isTokenBucket(name: string): boolean {
  return name.startsWith("tokens/");
}

/** Whether a limit has a bucket for each family of models. */
export function isPerModel(limit: Limit): boolean {
  return isRateLimit(limit) && limit.per !== undefined;
}

export function isRateLimit(limit: Limit): limit is RateLimit {
  return !Object.hasOwn(limit, "inFlight");
}

function isTokenLimit(limit: Limit): limit is TokenLimit {
  return Object.hasOwn(limit, "tokens");
}

/** How many drain in one window. */
function rateOf(limit: RateLimit): number {
  return isTokenLimit(limit) ? limit.tokens : limit.requests;
}

/** The bucket's size in units of level: `burst * windowMs`, at most 2^53 - 1 (checked when a policy is written). */
export function capacity(limit: RateLimit): number {
  return burstOf(limit) * limit.windowMs;
}

/** How many fit at once. */
function burstOf(limit: RateLimit): number {
  return (Object.hasOwn(limit, "burst") ? limit.burst : undefined) ?? rateOf(limit);
}

/** Where one bucket stands. */
export function bucketStatus(
  limit: RateLimit,
  bucket: Level | undefined,
  now: number,
  held = 0,
): LimitStatus {
  const { level, atMs } = drained(limit, bucket, now);
  const left = floorDivide(Math.max(0, capacity(limit) - level), limit.windowMs);
  const over = level - (capacity(limit) - (left + 1) * limit.windowMs);
  return {
    unit: isTokenLimit(limit) ? "tokens" : "requests",
    limit: burstOf(limit),
    remaining: Math.max(0, left - held),
    resetAtMs: atMs + ceilDivide(level, rateOf(limit)),
    windowMs: limit.windowMs,
    perWindow: rateOf(limit),
    nextInMs: level === 0 ? 0 : atMs - now + ceilDivide(over, rateOf(limit)),
  };
}

/**
 * The buckets of a limit that a request for these families goes into. A family without a bucket of its own stays in
 * the shared one until that has drained, or it would get what it had there again.
 */
function bucketNames(
  limit: RateLimit,
  families: readonly string[],
  known: KeyRecord["levels"],
): readonly string[] {
  const name = bucketName(limit);
  if (limit.per === undefined) return [name];
  const own = (family: string): string => `${name}=${family}`;
  const shared = sharedBucket(limit);
  const fresh = families.filter((family) => !(own(family) in known));
  const fits = hasRoom(known, fresh.length) && !(shared in known);
  const buckets = families.map((family) => {
    if (family.length > MAX_FAMILY_LENGTH) return `${name}long`;
    return own(family) in known || fits ? own(family) : shared;
  });
  return [...new Set(buckets)];
}

function sharedBucket(limit: RateLimit): string {
  return `${bucketName(limit)}other`;
}

function hasRoom(levels: KeyRecord["levels"], more = 1): boolean {
  const taken = Object.keys(levels).filter((bucket) => bucket.includes("/model/=")).length;
  return taken + more <= MAX_MODEL_BUCKETS;
}

/** The buckets in which something is left; the others need not be remembered. */
function undrained(ledger: Ledger, limits: readonly Limit[], now: number): Record<string, Level> {
  const rates = limits.filter(isRateLimit);
  const kept = Object.entries(ledger.levels).filter(([name, bucket]) => {
    const limit = rates.find((one) => isBucketOf(one, name));
    if (limit === undefined) return false;
    return drained(limit, bucket, now).level > 0 || heldOf(ledger, name) > 0;
  });
  return Object.fromEntries(kept);
}

function isBucketOf(limit: RateLimit, name: string): boolean {
  const own = bucketName(limit);
  return limit.per === undefined ? name === own : name.startsWith(own);
}

/** Requests in flight on all processes, as far as their holds have not expired. */
function openRequests(record: Ledger): number {
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
