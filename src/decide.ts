import { copyOf, countOf, withEntries } from "./copies.js";
import { assertAmount, assertCost } from "./cost.js";
import type { AccountRecord, Amounts, Cost, Documents, KeyRecord, Ledger } from "./documents.js";
import { KeystileError } from "./errors.js";
import { type Hold, hold } from "./ledger.js";
import { type LimitStatus, type LimitsOutcome, limitStatus, takeRequest } from "./limits.js";
import { evaluatePolicy, type Facts, type Rule } from "./policy.js";
import { allot, type QuotaStatus, quotaStatus } from "./quota.js";
import { type Refusal, refuse } from "./refusal.js";
import { type Reservation, sweep } from "./settle.js";
import { judgeSubscription, ratePercentOf } from "./subscription.js";

/** What is asked of the kernel: the request, and on whose behalf its cost is to be held. */
export interface DecideRequest {
  readonly facts: Facts;
  /** The estimated cost in the operator's unit: an integer from 0 to 2^53 - 1, or one for each fund. Default 1. */
  readonly cost?: Cost;
  /** How many tokens it is estimated to take, for limits in tokens: an integer from 0 to 2^53 - 1. Default 0. */
  readonly tokens?: number;
  /**
   * Of a lease: for how many requests it is to hold a place in limits on requests, an integer from 1 to 2^53 - 1. `cost`
   * and `tokens` are of all of them together. Left out: it is one request, which takes its place.
   */
  readonly places?: number | undefined;
  /** Rules of your own. Default none. */
  readonly rules?: readonly Rule[];
  /** The process that serves the request. Default `local`. */
  readonly node?: string;
  /** Until when the hold lives if that process says nothing more. Default one minute from `now`. */
  readonly holdUntilMs?: number;
}

/** The kernel's answer, as plain data. `limits` and `quota` are as they stand after it. */
export type Verdict = Granted | Denied;

export interface Granted {
  readonly allowed: true;
  readonly reservation: Reservation;
  /** The limits of the key, then those of its account. */
  readonly limits: readonly LimitStatus[];
  readonly quota: QuotaStatus;
}

export interface Denied {
  readonly allowed: false;
  readonly refusal: Refusal;
  readonly limits: readonly LimitStatus[];
  readonly quota: QuotaStatus;
}

export interface Decided {
  readonly documents: Documents;
  readonly verdict: Verdict;
}

/**
 * Decides one request over the documents of its key, and of the account the key belongs to: policy, limits,
 * subscription, quota, in the order of the refusal table.
 *
 * Pure. Given the same documents, request and time it gives the same answer; it reads no clock and changes nothing
 * it was given. An allowance returns new documents that hold the request's cost and count it against every limit.
 * A refusal returns the very documents it was given: it consumes nothing. So does an allowance of a request that
 * costs 0 where there are no limits, which has nothing to count.
 *
 * @param now store time in integer milliseconds.
 * @throws TypeError for a cost, tokens or places that are no integers from 0 to 2^53 - 1.
 * @throws KeystileError `document_invalid` when the documents have seen a time far ahead of `now`, or the account of the
 * key is missing; `document_full`.
 */
export function decide(documents: Documents, request: DecideRequest, now: number): Decided {
  // Without a prototype, so that a polluted one gives no request a price.
  const given = { __proto__: null, ...request } as DecideRequest;
  const { facts, cost = 1, tokens = 0, places, rules = [] } = given;
  const { node = "local", holdUntilMs = now + 60_000 } = given;
  const weighed = weigh(documents, { facts, cost, tokens, places, rules, node, holdUntilMs }, now);
  return { documents: weighed.documents, verdict: { ...weighed.answer, ...standingAfter(weighed) } };
}

/** A decision without a word about where limits and quota stand, which costs more than the decision itself. */
export interface Weighed {
  readonly documents: Documents;
  readonly answer: Pick<Granted, "allowed" | "reservation"> | Pick<Denied, "allowed" | "refusal">;
  /** What `standingAfter` tells of. */
  readonly seen: {
    readonly documents: Documents;
    readonly families: readonly string[];
    readonly now: number;
  };
}

/** Where limits and quota stand after a decision. */
export function standingAfter({ seen, answer }: Weighed): Standing {
  const { documents, families, now } = seen;
  const { key, account } = documents;
  return { limits: limitsOf(key, account, families, now, answer.allowed), quota: quotaStatus(documents) };
}

/** The part of `decide` that decides, of a request that has every member itself. */
export function weigh(
  documents: Documents,
  { facts, cost, tokens, places, rules, node, holdUntilMs }: Required<DecideRequest>,
  now: number,
): Weighed {
  assertCost(cost);
  assertAmount(tokens, "number of tokens");
  if (places !== undefined) assertAmount(places, "number of places");
  assertAccount(documents);

  const policy = evaluatePolicy(documents, facts, now, rules);
  const families = familiesOf(facts);
  const refused = (refusal: Refusal, seen: Documents): Weighed => ({
    documents,
    answer: { allowed: false, refusal },
    seen: { documents: seen, families, now },
  });
  if (!policy.allowed) return refused(policy.refusal, documents);

  const swept = sweep(documents, now);
  const { key, account } = swept;
  const counted = { families, tokens, places };
  const own = takeRequest(key, counted, now, ratePercentOf(key, account));
  const shared = account === undefined ? NO_LIMITS : takeRequest(account, counted, now);
  if (!own.fits || !shared.fits) return refused(limited(own, shared), swept);

  const unpaid =
    key.account?.pays === "subscription" && account ? judgeSubscription(account, now) : undefined;
  if (unpaid !== undefined) return refused(refuse(unpaid), swept);
  const quota = allot(swept, cost);
  if (!quota.fits) {
    const { reason, held, resetAtMs } = quota;
    return refused(refuse(reason, { held, ...(resetAtMs !== undefined && { resetAtMs }) }), swept);
  }

  const { shares } = quota;
  if (isFree(swept, shares)) {
    const reservation = { key: shares.key, account: shares.account, cycle: shares.cycle, node: null };
    const answer = { allowed: true, reservation } as const;
    return { documents, answer, seen: { documents: swept, families, now } };
  }
  // Also buckets of which nothing is held, because what was not estimated is counted in the end.
  const reservation = {
    key: withEntries(shares.key, own.held),
    account: withEntries(shares.account, shared.held),
    cycle: shares.cycle,
    node,
  };
  const after: Documents = {
    key: holding(key, { node, amounts: reservation.key }, own.levels, holdUntilMs),
    account: account && holding(account, { node, amounts: reservation.account }, shared.levels, holdUntilMs),
  };
  return {
    documents: after,
    answer: { allowed: true, reservation },
    seen: { documents: after, families, now },
  };
}

function holding<L extends Ledger>(
  ledger: L,
  amounts: Hold,
  levels: Ledger["levels"],
  holdUntilMs: number,
): L {
  const copy = copyOf(hold(ledger, amounts, holdUntilMs));
  copy.levels = levels;
  return copy;
}

const NO_LIMITS: LimitsOutcome = { fits: true, levels: {}, held: {} };

/** The refusal of a request that does not fit: it has to wait until both fit. */
function limited(own: LimitsOutcome, shared: LimitsOutcome): Refusal {
  const waits = [own, shared].filter((outcome) => !outcome.fits);
  const { reason } =
    waits.find((one) => one.reason === "rate_limited") ?? (waits[0] as (typeof waits)[number]);
  return refuse(reason, { retryAfterMs: Math.max(...waits.map(({ retryAfterMs }) => retryAfterMs)) });
}

/** Nothing is counted of a request that costs nothing where there are no limits. */
function isFree(
  { key, account }: Documents,
  { key: own, account: shared }: { key: Amounts; account: Amounts },
): boolean {
  const limits = key.policy.limits.length + (account?.policy.limits.length ?? 0);
  return limits === 0 && countOf(own) === 0 && countOf(shared) === 0;
}

/** A key that names an account is judged with it or not at all. */
function assertAccount({ key, account }: Documents): void {
  if (key.account !== undefined && account === undefined) {
    throw new KeystileError("document_invalid", "A key's account document is missing.");
  }
  if (key.account === undefined && account !== undefined) {
    throw new TypeError("An account was given, but the key spends none: its record names no account.");
  }
}

/** How a key stands after a decision. */
export type Standing = Pick<Granted, "limits" | "quota">;

/**
 * Where the limits of a key stand, and those that its account shares.
 *
 * @param isFresh whether a request was let in by them at that instant
 */
export function limitsOf(
  key: KeyRecord,
  account: AccountRecord | undefined,
  families: readonly string[],
  now: number,
  isFresh = false,
): readonly LimitStatus[] {
  const own = limitStatus(key, families, now, ratePercentOf(key, account), isFresh);
  return account === undefined ? own : [...own, ...limitStatus(account, families, now, 100, isFresh)];
}

/** What limits per model count this request by. A model that could not be told counts as one of its own. */
export function familiesOf({ model, modelFamilies }: Facts): readonly string[] {
  if (modelFamilies !== undefined) return modelFamilies;
  if (model === null) return [];
  const named: readonly unknown[] = Array.isArray(model) ? model : [model];
  return named.map((name) => (typeof name === "string" ? name : ""));
}
