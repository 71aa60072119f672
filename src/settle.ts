import type { Amounts, Cost, Documents, KeyRecord } from "./documents.js";
import { BALANCE_PURSE, KEY_PURSE } from "./documents.js";
import { expireHolds } from "./expiry.js";
import { book as bookAmounts, type Found, isPurse, release } from "./ledger.js";
import { fillBuckets } from "./limits.js";
import { divideActual, type Shares } from "./quota.js";
import { isTokenBucket } from "./rates.js";
import { ratePercentOf, turnCycle } from "./subscription.js";
import { type Count, count } from "./tally.js";

/** What a request was promised by the documents it was decided on, under the process that serves it. */
export interface Reservation extends Shares {
  /** null: nothing was held, because there was nothing to count. */
  readonly node: string | null;
  /** Whether giving it back ends what it was made for. Of a part of a lease it does not. Default true. */
  readonly isWhole?: boolean | undefined;
}

/** How a request ended. */
export interface Ending {
  /** What it really cost. It may exceed the estimate: it is a fact. */
  readonly cost: Cost;
  /** `voided`: it came to nothing and gives everything back. */
  readonly outcome: "settled" | "voided";
  /** The model it is counted for; null: none. */
  readonly model?: string | null;
  readonly inputTokens?: number;
  readonly outputTokens?: number;
  /** What limits in tokens count. Default: input and output. */
  readonly tokens?: number;
}

/**
 * Makes a reservation final: gives back what was held, and books what the request really cost in the cycle in which it
 * was admitted. Pure. The caller does it once per reservation.
 *
 * It applies to the live entries of the reservation's process, or corrects what became of them after they were
 * collected. When even the memory of the collection is gone (after an hour), what was booked then stands.
 *
 * @param now store time in integer milliseconds.
 */
export function settle(
  documents: Documents,
  reservation: Reservation,
  ending: Ending,
  now: number,
): Documents {
  const { cost, outcome, model = null, inputTokens = 0, outputTokens = 0 } = ending;
  const { tokens = inputTokens + outputTokens } = ending;
  return book(documents, reservation, {
    cost,
    tokens,
    places: 0,
    counts: (charged, paid) => [
      { model, outcome, requests: 1, cost: charged, inputTokens, outputTokens, paid },
    ],
    now,
  });
}

/** What one request, or several of a lease, came to. */
export interface Booking {
  readonly cost: Cost;
  readonly tokens: number;
  /** How many requests took a place that had only been held. */
  readonly places: number;
  /** What reports are told, by what was charged and what of it the account's balance paid. */
  readonly counts: (charged: number, paid: number) => readonly Count[];
  /** Store time in integer milliseconds. */
  readonly now: number;
}

/** Gives back what was held, and books what it came to. Like `settle`, for any number of requests. */
export function book(
  documents: Documents,
  reservation: Reservation,
  { cost, tokens, places, counts, now }: Booking,
): Documents {
  const { key: ownShare, account: share, cycle } = reservation;
  const swept = sweep(documents, now);
  const percent = ratePercentOf(swept.key, swept.account);

  const own = releaseShare(swept.key, reservation, ownShare);
  const shared = swept.account && releaseShare(swept.account, reservation, share);
  const released = { key: own.ledger, account: shared?.ledger };
  const charged = divideActual(released, { account: share, cycle }, cost);
  // An account that has forgotten the request books nothing more: what it charged when that expired stands.
  const stands = own.found === "charged" ? share : {};
  const paid = (shared?.found === "forgotten" ? stands : charged.account)[BALANCE_PURSE] ?? 0;

  const taken = { tokens, places };
  let key = booked(own, charged.key, takenOf(ownShare, taken, own.found), now, percent);
  const account = shared && booked(shared, charged.account, takenOf(share, taken, shared.found), now);
  if (own.found !== "forgotten") {
    for (const counted of takenBack(swept.key, own.found, reservation)) key = count(key, counted, now);
    for (const counted of counts(charged.key[KEY_PURSE] ?? 0, paid)) key = count(key, counted, now);
  }
  return { key, account };
}

/**
 * Brings documents up to `now`: holds that were not renewed in time are collected and counted, and an account enters its
 * current cycle. Returns the same records where there is nothing to do.
 */
export function sweep(documents: Documents, now: number): Documents {
  const account = documents.account && sweepAccount(documents.account, now);
  const key = sweepKey(documents.key, now, ratePercentOf(documents.key, account));
  if (key === documents.key && account === documents.account) return documents;
  return { key, account };
}

export function sweepAccount<A extends NonNullable<Documents["account"]>>(account: A, now: number): A {
  return turnCycle(expireHolds(account, now), now) as A;
}

export function sweepKey(key: KeyRecord, now: number, ratePercent: number): KeyRecord {
  const swept = expireHolds(key, now, ratePercent);
  if (swept === key) return key;
  // Also those of which the memory is full already.
  const lost = Object.entries(key.nodes).filter(([node, { open }]) => open > 0 && !(node in swept.nodes));
  return lost.reduce((sum, [, { open, held }]) => {
    const cost = key.policy.onCrash === "charge" ? (held[KEY_PURSE] ?? 0) : 0;
    return count(sum, { ...EXPIRED, requests: open, cost, paid: paidByExpiry(key, cost) }, now);
  }, swept);
}

/** Of a key that pays from a subscription it is not known before its process comes back, if it does. */
function paidByExpiry({ account }: KeyRecord, cost: number): number {
  return account?.pays === "balance" ? cost : 0;
}

const EXPIRED: Omit<Count, "requests" | "cost" | "paid"> = {
  model: null,
  outcome: "expired",
  inputTokens: 0,
  outputTokens: 0,
};

function releaseShare<L extends KeyRecord | NonNullable<Documents["account"]>>(
  ledger: L,
  { node, isWhole }: Reservation,
  amounts: Amounts,
): { readonly ledger: L; readonly found: Found | "nothing" } {
  return node === null ? { ledger, found: "nothing" } : release(ledger, { node, amounts, isWhole });
}

function booked<L extends KeyRecord | NonNullable<Documents["account"]>>(
  { ledger, found }: { readonly ledger: L; readonly found: Found | "nothing" },
  charged: Amounts,
  taken: Amounts,
  now: number,
  ratePercent = 100,
): L {
  if (found === "forgotten") return ledger;
  return fillBuckets(bookAmounts(ledger, charged), taken, now, ratePercent);
}

/** What goes into the buckets in which something was held. What was charged is there; it is never taken out. */
function takenOf(
  share: Amounts,
  { tokens, places }: Pick<Booking, "tokens" | "places">,
  found: Found | "nothing",
): Amounts {
  const taken: Record<string, number> = {};
  for (const name of Object.keys(share)) {
    if (isPurse(name)) continue;
    const really = isTokenBucket(name) ? tokens : places;
    taken[name] = found === "charged" ? really - (share[name] as number) : really;
  }
  return taken;
}

/** What was collected before has been counted as such, which is taken back. */
function takenBack(
  key: KeyRecord,
  found: Found | "nothing",
  { key: share, isWhole = true }: Reservation,
): readonly Count[] {
  if (found === "live" || found === "nothing") return [];
  const collected = found === "charged" ? (share[KEY_PURSE] ?? 0) : 0;
  const requests = isWhole ? -1 : 0;
  return [{ ...EXPIRED, requests, cost: 0 - collected, paid: 0 - paidByExpiry(key, collected) }];
}
