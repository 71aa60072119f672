import type { Address } from "./address.js";
import type { Level, RequestLimit } from "./documents.js";
import { bucketStatus, drained, type LimitStatus, take } from "./limits.js";
import { rateOf } from "./rates.js";

/** Addresses counted one by one. Beyond, those not seen lately share one bucket. */
const MAX_ADDRESSES = 10_000;

/**
 * A limit per client address, for this process alone, before anything is looked up. An IPv6 client counts by its /64,
 * which is what one customer gets; unknown addresses count as one.
 *
 * Memory is bounded, and a flood of addresses resets nobody's count: while all buckets are in use, new addresses share
 * one. It is the only limit that a refused request consumes.
 *
 * @returns how long a request has to wait until it fits (0: it was counted), and where the limit stands then.
 */
export function addressLimit(
  limit: RequestLimit,
  maxAddresses: number = MAX_ADDRESSES,
): (address: Address | undefined, now: number) => { readonly waitMs: number; readonly status: LimitStatus } {
  const buckets = new Map<string, Level>();
  const rate = rateOf(limit);

  function makeRoom(now: number): boolean {
    if (buckets.size < maxAddresses) return true;
    const [oldest] = buckets;
    if (oldest === undefined || drained(rate, oldest[1], now).level > 0) return false;
    return buckets.delete(oldest[0]);
  }

  return (address, now) => {
    const own = bucketOf(address);
    const name = buckets.has(own) || makeRoom(now) ? own : "others";
    const { level, waitMs } = take(rate, buckets.get(name), now);
    if (waitMs > 0) return { waitMs, status: bucketStatus(rate, buckets.get(name), now) };
    // Moved to the end, so that the first one is the one not counted for longest.
    buckets.delete(name);
    buckets.set(name, level);
    return { waitMs, status: bucketStatus(rate, level, now) };
  };
}

function bucketOf(address: Address | undefined): string {
  if (address === undefined) return "unknown";
  return address.family === 4 ? address.text : address.bits.slice(0, 2).join(":");
}
