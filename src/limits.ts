import { copyOf } from "./copies.js";
import type { Amounts, KeyRecord, Ledger, Level, Limit } from "./documents.js";
import { heldOf } from "./ledger.js";
import { ceilDivide, floorDivide, isBucketOf, type Rate, type Rates, ratesOf } from "./rates.js";

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
  const limits = ratesOf(ledger.policy.limits, ratePercent);
  const levels: Record<string, Level> = undrained(ledger, limits, now);
  const held: Record<string, number> = {};
  let retryAfterMs = 0;
  for (const rate of limits.rates) {
    const isTokens = rate.unit === "tokens";
    const count = isTokens ? tokens : (places ?? 1);
    const isHeld = isTokens || places !== undefined;
    // With those just taken, so that the bound is on all limits together.
    for (const name of bucketsFor(rate, families, levels)) {
      const bucket = drained(rate, ledger.levels[name], now);
      const waitMs = waitFor(rate, bucket, heldOf(ledger, name), count, now);
      if (waitMs > retryAfterMs) retryAfterMs = waitMs;
      if (isHeld) held[name] = count;
      // Also while something is only held, so that its family stays in it.
      levels[name] = isHeld ? bucket : { level: bucket.level + rate.windowMs, atMs: bucket.atMs };
    }
  }
  if (retryAfterMs > 0) return { fits: false, reason: "rate_limited", retryAfterMs };
  if (isFull(ledger, limits)) {
    return { fits: false, reason: "concurrency_limited", retryAfterMs: IN_FLIGHT_RETRY_MS };
  }
  return { fits: true, levels, held };
}

/** The bucket after one more request, and how long that request has to wait until it fits (0: it fits now). */
export function take(
  rate: Rate,
  bucket: Level | undefined,
  now: number,
): { readonly level: Level; readonly waitMs: number } {
  const { level, atMs } = drained(rate, bucket, now);
  return {
    level: { level: level + rate.windowMs, atMs },
    waitMs: waitFor(rate, { level, atMs }, 0, 1, now),
  };
}

/** How long so many requests or tokens have to wait for their place. What is held may be given back at any time. */
function waitFor(
  { windowMs, burst, perWindow }: Rate,
  { level, atMs }: Level,
  held: number,
  count: number,
  now: number,
): number {
  // Rounded up: what a part of a token takes is not there for another. Never beyond the safe integers.
  const missing = count - (burst - ceilDivide(level, windowMs) - held);
  if (missing <= 0) return 0;
  if (count > burst) return Math.max(windowMs, NEVER_RETRY_MS);
  const over = level - (burst - count) * windowMs;
  return over > 0 ? atMs - now + ceilDivide(over, perWindow) : IN_FLIGHT_RETRY_MS;
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
  const limits = ratesOf(ledger.policy.limits, ratePercent);
  if (limits.rates.length < limits.all.length) return { requests: 0, tokens: 0 };
  const room = { requests: Number.MAX_SAFE_INTEGER, tokens: Number.MAX_SAFE_INTEGER };
  const known = undrained(ledger, limits, now);
  for (const rate of limits.rates) {
    const { unit, burst, windowMs } = rate;
    for (const name of bucketsFor(rate, families, known)) {
      const { level } = drained(rate, ledger.levels[name], now);
      const left = burst - ceilDivide(level, windowMs);
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
  const copy = copyOf(ledger);
  const levels: Record<string, Level> = { ...ledger.levels };
  copy.levels = levels;
  for (const rate of ratesOf(ledger.policy.limits, ratePercent).rates) {
    for (const name of names) {
      const taken = counted[name] as number;
      if (!isBucketOf(rate, name) || taken <= 0) continue;
      // Without an estimate nothing had kept a place for it.
      const bucket = name in levels || !rate.isPerModel || hasRoom(levels) ? name : sharedBucket(rate);
      const { level, atMs } = drained(rate, levels[bucket], now);
      const room = floorDivide(Number.MAX_SAFE_INTEGER - level, rate.windowMs);
      levels[bucket] = { level: level + Math.min(taken, room) * rate.windowMs, atMs };
    }
  }
  return copy;
}

/** The bucket as it has drained until `now`, or as it was when last seen, if the clock is behind that. */
export function drained({ perWindow }: Rate, bucket: Level | undefined, now: number): Level {
  if (bucket === undefined) return { level: 0, atMs: now };
  const elapsedMs = Math.max(0, now - bucket.atMs);
  // After a long pause at a high rate the product is not exact, but then it is more than any level.
  const level = Math.max(0, bucket.level - elapsedMs * perWindow);
  return { level, atMs: Math.max(now, bucket.atMs) };
}

/**
 * Where every limit of a document stands for these families, in the order of its policy.
 *
 * @param isFresh whether it is what `takeRequest` has left of it at that instant
 */
export function limitStatus(
  ledger: Limited,
  families: readonly string[],
  now: number,
  ratePercent = 100,
  isFresh = false,
): readonly LimitStatus[] {
  const limits = ratesOf(ledger.policy.limits, ratePercent);
  const known = isFresh ? ledger.levels : undrained(ledger, limits, now);
  const statuses: LimitStatus[] = [];
  for (const limit of limits.all) {
    if (typeof limit === "number") {
      const remaining = Math.max(0, limit - openRequests(ledger));
      statuses.push({ unit: "inFlight", limit, remaining, resetAtMs: now + IN_FLIGHT_RETRY_MS });
      continue;
    }
    for (const name of bucketsFor(limit, families, known)) {
      statuses.push(bucketStatus(limit, ledger.levels[name], now, heldOf(ledger, name)));
    }
  }
  return statuses;
}

/** Where one bucket stands. */
export function bucketStatus(rate: Rate, bucket: Level | undefined, now: number, held = 0): LimitStatus {
  const { unit, burst, windowMs, perWindow } = rate;
  const { level, atMs } = drained(rate, bucket, now);
  const capacity = burst * windowMs;
  const left = floorDivide(Math.max(0, capacity - level), windowMs);
  const over = level - (capacity - (left + 1) * windowMs);
  return {
    unit,
    limit: burst,
    remaining: Math.max(0, left - held),
    resetAtMs: atMs + ceilDivide(level, perWindow),
    windowMs,
    perWindow,
    nextInMs: level === 0 ? 0 : atMs - now + ceilDivide(over, perWindow),
  };
}

/**
 * The buckets of a limit that a request for these families goes into. A family without a bucket of its own stays in
 * the shared one until that has drained, or it would get what it had there again.
 */
function bucketsFor(rate: Rate, families: readonly string[], known: KeyRecord["levels"]): readonly string[] {
  if (!rate.isPerModel) return [rate.bucket];
  const own: string[] = [];
  let fresh = 0;
  for (const family of families) {
    const name = `${rate.bucket}=${family}`;
    if (!(name in known)) fresh += 1;
    own.push(name);
  }
  const buckets = fresh === 0 ? own : placed(rate, own, fresh, known);
  return buckets.length < 2 ? buckets : [...new Set(buckets)];
}

/** Where families of which some have no bucket yet find their place. */
function placed(
  rate: Rate,
  own: readonly string[],
  fresh: number,
  known: KeyRecord["levels"],
): readonly string[] {
  const shared = sharedBucket(rate);
  const fits = hasRoom(known, fresh) && !(shared in known);
  const longest = rate.bucket.length + 1 + MAX_FAMILY_LENGTH;
  return own.map((name) => {
    if (name.length > longest) return `${rate.bucket}long`;
    return fits || name in known ? name : shared;
  });
}

function sharedBucket({ bucket }: Rate): string {
  return `${bucket}other`;
}

function hasRoom(levels: KeyRecord["levels"], more = 1): boolean {
  const taken = Object.keys(levels).filter((bucket) => bucket.includes("/model/=")).length;
  return taken + more <= MAX_MODEL_BUCKETS;
}

/** The buckets in which something is left; the others need not be remembered. */
function undrained(ledger: Ledger, { rates }: Rates, now: number): Record<string, Level> {
  const kept: Record<string, Level> = {};
  const { levels } = ledger;
  for (const name in levels) {
    if (!Object.hasOwn(levels, name)) continue;
    const bucket = levels[name] as Level;
    const rate = rateFor(rates, name);
    if (rate === undefined) continue;
    if (drained(rate, bucket, now).level > 0 || heldOf(ledger, name) > 0) kept[name] = bucket;
  }
  return kept;
}

function rateFor(rates: readonly Rate[], bucket: string): Rate | undefined {
  for (const rate of rates) if (isBucketOf(rate, bucket)) return rate;
  return undefined;
}

function isFull(ledger: Ledger, { all, rates }: Rates): boolean {
  if (all.length === rates.length) return false;
  const open = openRequests(ledger);
  return all.some((limit) => typeof limit === "number" && open >= limit);
}

/** Requests in flight on all processes, as far as their holds have not expired. */
function openRequests({ nodes }: Ledger): number {
  let open = 0;
  for (const name of Object.keys(nodes)) open += nodes[name]?.open ?? 0;
  return open;
}
