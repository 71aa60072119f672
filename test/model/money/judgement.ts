import { boundsOf, type MoneyRequest, type Price } from "./books.js";
import { type AccountBody, cycleOf, heldIn, type KeyBody, type LedgerBody } from "./documents.js";

/** What a request was answered from: the states of its documents between its arrival and its answer, and the time. */
export interface MoneyEvidence {
  readonly request: MoneyRequest;
  readonly accounts: readonly AccountBody[];
  readonly keys: readonly KeyBody[];
  /** What the store's clock showed meanwhile, widened by what a process may be wrong about it. */
  readonly earliestMs: number;
  readonly latestMs: number;
  /** What the same process promised in the write this answer came with, in front of it; the store never shows that. */
  readonly alongside: { readonly requests: number; readonly cost: number; readonly keyCost: number };
  /** What ended requests cost beyond their estimates, in all. */
  readonly debt: number;
}

export interface MoneyRefusal {
  readonly reason: string;
  readonly status: number;
  readonly held?: boolean;
}

const STATUS: Readonly<Record<string, number>> = {
  account_suspended: 403,
  rate_limited: 429,
  concurrency_limited: 429,
};

/** Whether there was a moment, between arrival and answer, at which this refusal was the truth. */
export function isRefusalRight({ reason, status }: MoneyRefusal, evidence: MoneyEvidence): boolean {
  const { request, accounts, keys, latestMs, alongside, debt } = evidence;
  if (status !== (STATUS[reason] ?? 402)) return false;
  const [, most] = boundsOf(request.cost, request.pays);
  switch (reason) {
    case "account_suspended":
      return accounts.some(({ policy }) => policy.state === "suspended");
    case "subscription_ended":
      return accounts.some(({ subscription, latestMs: seenMs }) => {
        if (subscription === undefined) return true;
        return subscription.endsAtMs !== null && subscription.endsAtMs <= Math.max(latestMs, seenMs);
      });
    case "subscription_unpaid":
      return accounts.some(({ subscription, latestMs: seenMs }) => {
        const fromMs = subscription?.unpaidFromMs ?? Number.POSITIVE_INFINITY;
        return fromMs <= Math.max(latestMs, seenMs);
      });
    case "key_quota_exhausted":
      return keys.some(({ policy, ...key }) => {
        if (policy.quota === null) return false;
        return policy.quota - spentOf(key as LedgerBody, "key@0") - alongside.keyCost - debt < most;
      });
    case "balance_exhausted":
    case "subscription_exhausted":
    case "payg_cap_reached":
      return accounts.some((account) => isShort(reason, account, evidence));
    case "rate_limited":
      return accounts.some(({ policy }) => policy.limits.some((limit) => !("inFlight" in limit)));
    case "concurrency_limited":
      return accounts.some(({ policy, nodes }) => {
        const open = Object.values(nodes).reduce((sum, entry) => sum + entry.open, alongside.requests);
        return policy.limits.some((limit) => "inFlight" in limit && open >= (limit.inFlight as number));
      });
    default:
      return false;
  }
}

/** Whether there was a moment at which the account, and what the key pays from, allowed the request. */
export function isAllowanceRight({ request, accounts, earliestMs }: MoneyEvidence): boolean {
  return accounts.some(({ policy, subscription, latestMs }) => {
    if (policy.state !== "active") return false;
    if (request.pays === "balance") return true;
    if (subscription === undefined) return false;
    const now = Math.max(earliestMs, latestMs);
    const { endsAtMs, unpaidFromMs } = subscription;
    return (endsAtMs === null || now < endsAtMs) && (unpaidFromMs === null || now < unpaidFromMs);
  });
}

/** Whether the least that may have been left of a state's funds was too little. */
function isShort(reason: string, account: AccountBody, evidence: MoneyEvidence): boolean {
  const { request, alongside, debt, earliestMs, latestMs } = evidence;
  const { subscription, policy, credited } = account;
  const slack = alongside.cost + debt;
  const balance = credited - spentOf(account, "balance@0") - slack;
  if (request.pays === "balance") return reason === "balance_exhausted" && balance < priceOf(request.cost);
  if (subscription === undefined) return false;
  const { current, nextPlan, plan, endsAtMs } = subscription;
  const cap = policy.payAsYouGo === null ? 0 : (policy.payAsYouGo.capPerCycle ?? Number.POSITIVE_INFINITY);
  const cycle = cycleOf(account);
  const now = Math.max(earliestMs, account.latestMs);
  const mayHaveTurned = current.endsAtMs <= Math.max(latestMs, now) && endsAtMs !== current.endsAtMs;
  const hasTurned = mayHaveTurned && current.endsAtMs <= now;
  const judge = (allowance: number, capLeft: number): boolean => {
    const cost = request.cost;
    const [first, second] = typeof cost === "number" ? [cost, cost] : [cost.subscription, cost.balance];
    // What is free passes by a fund with something left, or by one that is not in debt.
    if (allowance - slack >= Math.max(first, 1)) return false;
    const rest = typeof cost === "number" ? second - Math.max(0, allowance - slack) : second;
    if (reason === "subscription_exhausted") return cap === 0;
    if (cap === 0) return false;
    return reason === "payg_cap_reached" ? capLeft - slack < rest : balance < rest;
  };
  const left = current.allowance - spentOf(account, `subscription@${cycle}`);
  if (!hasTurned && judge(left, cap - spentOf(account, `payg@${cycle}`))) return true;
  return mayHaveTurned && judge((nextPlan ?? plan).allowance, cap);
}

function spentOf(ledger: LedgerBody, purse: string): number {
  return (ledger.used[purse] ?? 0) + (heldIn(ledger)[purse] ?? 0);
}

function priceOf(cost: Price): number {
  return typeof cost === "number" ? cost : cost.balance;
}
