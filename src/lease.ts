import type { Amounts, Documents } from "./documents.js";
import { add, isPurse } from "./ledger.js";
import { roomInLimits } from "./limits.js";
import { roomInFunds } from "./quota.js";
import { isTokenBucket } from "./rates.js";
import type { Reservation } from "./settle.js";
import { ratePercentOf } from "./subscription.js";

/** What several requests take together, or what is held for them. */
export interface Slice {
  readonly requests: number;
  /** In the operator's unit. */
  readonly cost: number;
  readonly tokens: number;
}

/** What a lease may be asked for. */
export interface LeaseTerms {
  readonly wanted: Slice;
  /** What limits per model count the requests by. */
  readonly families: readonly string[];
  /** The most that may be held of what is left, by all processes, in percent. */
  readonly sharePercent: number;
}

/** Fewer requests than this are not worth a lease. */
const FEWEST_REQUESTS = 2;

/**
 * How much of what is wanted a lease may hold: nowhere more than its share of what is left there, so that slices shrink as
 * money and limits run out and no refusal comes earlier by more than that share. undefined: too little for a lease.
 *
 * @param documents brought up to now.
 */
export function sliceOf(
  documents: Documents,
  { wanted, families, sharePercent }: LeaseTerms,
  now: number,
): Slice | undefined {
  const { key, account } = documents;
  const own = roomInLimits(key, families, sharePercent, now, ratePercentOf(key, account));
  const shared = account && roomInLimits(account, families, sharePercent, now);
  const room = {
    requests: Math.min(own.requests, shared?.requests ?? own.requests),
    cost: roomInFunds(documents, sharePercent),
    tokens: Math.min(own.tokens, shared?.tokens ?? own.tokens),
  };
  const slice = {
    requests: Math.min(wanted.requests, room.requests),
    cost: Math.min(wanted.cost, room.cost),
    tokens: Math.min(wanted.tokens, room.tokens),
  };
  // As many requests as the scarcest of the three lets through.
  const lets = (["cost", "tokens"] as const).map((unit) =>
    wanted[unit] === 0 ? slice.requests : (slice[unit] / wanted[unit]) * wanted.requests,
  );
  return Math.min(slice.requests, ...lets) < FEWEST_REQUESTS ? undefined : slice;
}

/** Cuts a slice off what is held, of the funds in the order in which they pay. */
export function cut(
  reservation: Reservation,
  slice: Slice,
): { readonly part: Reservation; readonly rest: Reservation } {
  const key = partOf(reservation.key, slice);
  const account = partOf(reservation.account, slice);
  return {
    part: { ...reservation, key, account, isWhole: false },
    rest: {
      ...reservation,
      key: without(reservation.key, key),
      account: without(reservation.account, account),
    },
  };
}

/** Buckets stay, also empty: what requests took goes into those that their reservation names. */
function without(amounts: Amounts, part: Amounts): Amounts {
  const buckets = Object.keys(amounts).filter((name) => !isPurse(name));
  return { ...Object.fromEntries(buckets.map((name) => [name, 0])), ...add(amounts, part, -1) };
}

function partOf(amounts: Amounts, { requests, cost, tokens }: Slice): Amounts {
  const allowance = Object.keys(amounts).find((name) => name.startsWith("subscription@"));
  const first = allowance === undefined ? 0 : Math.min(cost, amounts[allowance] ?? 0);
  const part: Record<string, number> = {};
  for (const [name, held] of Object.entries(amounts)) {
    const money = name === allowance ? first : cost - first;
    const most = isPurse(name) ? money : isTokenBucket(name) ? tokens : requests;
    if (most > 0 || !isPurse(name)) part[name] = Math.min(held, most);
  }
  return part;
}

export const NO_SLICE: Slice = { requests: 0, cost: 0, tokens: 0 };

/** Adds or takes away, within the safe integers. */
export function plus(a: Slice, b: Slice, sign: 1 | -1 = 1): Slice {
  return combined(a, b, (one, other) => Math.min(one + sign * other, Number.MAX_SAFE_INTEGER));
}

/** The lesser of both, and nothing negative. */
export function least(a: Slice, b: Slice): Slice {
  return combined(a, b, (one, other) => Math.max(0, Math.min(one, other)));
}

/** So many times as much, rounded up. */
export function times(a: Slice, factor: number): Slice {
  return combined(a, a, (one) => Math.min(Math.ceil(one * factor), Number.MAX_SAFE_INTEGER));
}

export function isWithin(a: Slice, b: Slice): boolean {
  return a.requests <= b.requests && a.cost <= b.cost && a.tokens <= b.tokens;
}

function combined(a: Slice, b: Slice, combine: (one: number, other: number) => number): Slice {
  return {
    requests: combine(a.requests, b.requests),
    cost: combine(a.cost, b.cost),
    tokens: combine(a.tokens, b.tokens),
  };
}
