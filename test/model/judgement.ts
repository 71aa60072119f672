import { amount, type Body, heldBy } from "./body.js";
import type { SubjectLimit, SubjectRefusal } from "./subject.js";

/** What a request was answered from: the states its document had between its arrival and its answer, and the time. */
export interface Evidence {
  readonly digest: string;
  readonly cost: number;
  readonly states: readonly Body[];
  /** What the store's clock showed meanwhile, widened by what a process may be wrong about it. */
  readonly earliestMs: number;
  readonly latestMs: number;
  /**
   * Requests of the same process that ended after the arrival. Their ends may stand in the same write as the
   * refusal, behind it: the document shows what came after both.
   */
  readonly endedMeanwhile: { readonly requests: number; readonly held: number; readonly used: number };
}

/** Whether there was a moment, between arrival and answer, at which this refusal was the truth. */
export function isRefusalRight(refusal: SubjectRefusal, evidence: Evidence): boolean {
  return evidence.states.some((state) => refuses(refusal, state, evidence));
}

/** Whether there was a moment at which the key, its secret and its time allowed the request. */
export function isAllowanceRight({ digest, states, earliestMs }: Evidence): boolean {
  return states.some(({ policy, secrets, latestMs }) => {
    const now = Math.max(earliestMs, latestMs);
    const secret = secrets.find((listed) => listed.digest === digest);
    if (secret === undefined || (secret.endsAtMs !== null && secret.endsAtMs <= now)) return false;
    return policy.state === "active" && (policy.expiresAtMs === null || now < policy.expiresAtMs);
  });
}

function refuses(refusal: SubjectRefusal, state: Body, evidence: Evidence): boolean {
  const { digest, earliestMs, latestMs, endedMeanwhile } = evidence;
  const { policy, secrets } = state;
  switch (refusal.reason) {
    case "key_unknown": {
      const secret = secrets.find((listed) => listed.digest === digest);
      if (secret === undefined) return true;
      return secret.endsAtMs !== null && secret.endsAtMs <= Math.max(latestMs, state.latestMs);
    }
    case "key_disabled":
      return policy.state === "disabled";
    case "key_revoked":
      return policy.state === "revoked";
    case "key_expired":
      return policy.expiresAtMs !== null && policy.expiresAtMs <= Math.max(latestMs, state.latestMs);
    case "rate_limited":
      return policy.limits.some((limit) => isBucketFull(limit, state, earliestMs));
    case "concurrency_limited":
      return policy.limits.some((limit) => {
        return "inFlight" in limit && openOf(state, earliestMs) + endedMeanwhile.requests >= limit.inFlight;
      });
    case "key_quota_exhausted":
      return policy.quota !== null && isQuotaShort(refusal, state, policy.quota, evidence);
    default:
      return false;
  }
}

/**
 * Entries that nobody renewed in time are judged as what collecting makes of them. Those that expire between
 * `earliestMs` and `latestMs` may be judged either way.
 */
function isQuotaShort(refusal: SubjectRefusal, state: Body, quota: number, evidence: Evidence): boolean {
  const { cost, earliestMs, latestMs, endedMeanwhile } = evidence;
  const charges = state.policy.onCrash === "charge";
  let surelyExpired = 0;
  let maybeExpired = 0;
  for (const { renewByMs, held } of Object.values(state.nodes)) {
    if (renewByMs <= earliestMs) surelyExpired += amount(held);
    else if (renewByMs <= latestMs) maybeExpired += amount(held);
  }
  const used = amount(state.used);
  const surelyUsed = used + (charges ? surelyExpired : 0);
  if (refusal.held !== true) return surelyUsed + (charges ? maybeExpired : 0) + cost > quota;
  const total = used + heldBy(state) - (charges ? 0 : surelyExpired) + endedMeanwhile.held;
  return total + cost > quota && surelyUsed - endedMeanwhile.used + cost <= quota;
}

function isBucketFull(limit: SubjectLimit, state: Body, earliestMs: number): boolean {
  if ("inFlight" in limit) return false;
  const { requests, windowMs, burst = requests } = limit;
  const bucket = state.levels[`requests/${windowMs}`];
  if (bucket === undefined) return false;
  const level = Math.max(0, bucket.level - Math.max(0, earliestMs - bucket.atMs) * requests);
  return level + windowMs > burst * windowMs;
}

function openOf(state: Body, earliestMs: number): number {
  let open = 0;
  for (const entry of Object.values(state.nodes)) if (entry.renewByMs > earliestMs) open += entry.open;
  return open;
}
