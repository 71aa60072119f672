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
   * What the same process promised in the write that this answer came with, in front of it. A process decides
   * many requests in one write; between the state before and the state after there were more, and they count.
   */
  readonly alongside: { readonly requests: number; readonly cost: number };
  /** What ended requests cost beyond their estimates, in all. */
  readonly debt: number;
}

/** Whether there was a moment, between arrival and answer, at which this refusal was the truth. */
export function isRefusalRight(refusal: SubjectRefusal, evidence: Evidence): boolean {
  const { states } = evidence;
  return states.some((state, index) => refuses(refusal, state, states[index + 1], evidence));
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

/** `next`: the state that followed within the time looked at, if one did. */
function refuses(refusal: SubjectRefusal, state: Body, next: Body | undefined, evidence: Evidence): boolean {
  const { digest, earliestMs, latestMs, alongside } = evidence;
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
      return policy.limits.some((limit) => {
        return (
          isBucketFull(limit, state, earliestMs) ||
          (next !== undefined && isBucketFull(limit, next, earliestMs))
        );
      });
    case "concurrency_limited":
      return policy.limits.some((limit) => {
        const more = next === undefined ? 0 : alongside.requests;
        return "inFlight" in limit && openOf(state, earliestMs) + more >= limit.inFlight;
      });
    case "key_quota_exhausted":
      return policy.quota !== null && isQuotaShort(refusal, state, next, policy.quota, evidence);
    default:
      return false;
  }
}

/**
 * Entries that nobody renewed in time are judged as what collecting makes of them. Those that expire between
 * `earliestMs` and `latestMs` may be judged either way.
 */
function isQuotaShort(
  refusal: SubjectRefusal,
  state: Body,
  next: Body | undefined,
  quota: number,
  { cost, earliestMs, latestMs, alongside, debt }: Evidence,
): boolean {
  const charges = state.policy.onCrash === "charge";
  let surelyExpired = 0;
  let maybeExpired = 0;
  for (const { renewByMs, held } of Object.values(state.nodes)) {
    if (renewByMs <= earliestMs) surelyExpired += amount(held);
    else if (renewByMs <= latestMs) maybeExpired += amount(held);
  }
  const used = amount(state.used);
  const nextUsed = next === undefined ? used : Math.max(used, amount(next.used));
  const expired = charges ? surelyExpired + maybeExpired : 0;
  if (refusal.held !== true) return Math.max(used + expired, nextUsed) + cost > quota;
  const collected = used + (charges ? surelyExpired : 0);
  // Of what is charged in one write for collected holds, the same write may take back what did not cost it.
  const surelyUsed = next === undefined ? collected : Math.min(collected, amount(next.used));
  const more = next === undefined ? 0 : alongside.cost + Math.min(debt, nextUsed - used);
  const total = used + heldBy(state) - (charges ? 0 : surelyExpired) + more;
  return total + cost > quota && surelyUsed + cost <= quota;
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
