import type { Documents, KeyRecord } from "./documents.js";
import { type LimitStatus, limitStatus, takeRequest } from "./limits.js";
import { evaluatePolicy, type Facts, type Rule } from "./policy.js";
import { expireHolds, type QuotaStatus, quotaStatus, type Reservation, reserve } from "./quota.js";
import { type Refusal, refuse } from "./refusal.js";

/** What is asked of the kernel: the request, and on whose behalf its cost is to be held. */
export interface DecideRequest {
  readonly facts: Facts;
  /** The estimated cost in the operator's unit: an integer from 0 to 2^53 - 1. Default 1. */
  readonly cost?: number;
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
 * Decides one request over the documents of its key: policy, limits, quota, in the order of the refusal table.
 *
 * Pure. Given the same documents, request and time it gives the same answer; it reads no clock and changes nothing
 * it was given. An allowance returns new documents that hold the request's cost and count it against every limit.
 * A refusal returns the very documents it was given: it consumes nothing. So does an allowance of a request that
 * costs 0 on a key without limits, which has nothing to count.
 *
 * @param now store time in integer milliseconds.
 * @throws TypeError for a cost that is no integer from 0 to 2^53 - 1.
 * @throws KeystileError `document_invalid` when the key has seen a time far ahead of `now`; `document_full`.
 */
export function decide(documents: Documents, request: DecideRequest, now: number): Decided {
  const { facts, cost = 1, rules = [], node = "local", holdUntilMs = now + 60_000 } = request;
  assertCost(cost);

  const policy = evaluatePolicy(documents.key, facts, now, rules);
  if (!policy.allowed) return denied(documents, policy.refusal, standing(documents.key, facts, now));

  const record = expireHolds(documents.key, now);
  const limits = takeRequest(record, familiesOf(facts), now);
  if (!limits.fits) {
    return denied(
      documents,
      refuse(limits.reason, { retryAfterMs: limits.retryAfterMs }),
      standing(record, facts, now),
    );
  }
  const reserved = reserve(record, cost, node, holdUntilMs);
  if (!reserved.fits) {
    return denied(
      documents,
      refuse("key_quota_exhausted", { held: reserved.held }),
      standing(record, facts, now),
    );
  }

  if (cost === 0 && record.policy.limits.length === 0) {
    return granted(documents, { node: null, held: {} }, standing(record, facts, now));
  }
  const key = { ...reserved.record, levels: limits.levels };
  return granted({ ...documents, key }, reserved.reservation, standing(key, facts, now));
}

/** How a key stands after the decision. */
type Standing = Pick<Granted, "limits" | "quota">;

function granted(documents: Documents, reservation: Reservation, after: Standing): Decided {
  return { documents, verdict: { allowed: true, reservation, ...after } };
}

function denied(documents: Documents, refusal: Refusal, after: Standing): Decided {
  return { documents, verdict: { allowed: false, refusal, ...after } };
}

function standing(record: KeyRecord, facts: Facts, now: number): Standing {
  return { limits: limitStatus(record, familiesOf(facts), now), quota: quotaStatus(record) };
}

/** What limits per model count this request by. A model that could not be told counts as one of its own. */
export function familiesOf({ model, modelFamilies }: Facts): readonly string[] {
  if (modelFamilies !== undefined) return modelFamilies;
  if (model === null) return [];
  const named: readonly unknown[] = Array.isArray(model) ? model : [model];
  return named.map((name) => (typeof name === "string" ? name : ""));
}

/** @throws TypeError for anything but an integer from 0 to 2^53 - 1. */
export function assertCost(cost: unknown): asserts cost is number {
  if (typeof cost !== "number" || !Number.isSafeInteger(cost) || cost < 0) {
    throw new TypeError(
      `A cost must be an integer from 0 to ${Number.MAX_SAFE_INTEGER}, received ${String(cost)}.`,
    );
  }
}
