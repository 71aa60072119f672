import type { Cycle } from "./cycle.js";
import type { AccountRecord, Amounts, Limit, PayAsYouGo, Plan } from "./documents.js";
import { balanceStatus, payAsYouGoQuota, type QuotaStatus, subscriptionQuota } from "./quota.js";
import { sweepAccount } from "./settle.js";
import { cycleEnd, type SubscriptionStatus, subscriptionStatus } from "./subscription.js";

/** A plan as it is shown. */
export interface PlanView {
  readonly name: string;
  readonly allowance: number;
  readonly rateMultiplier: number;
}

/** A subscription as its operator sees it. */
export interface SubscriptionView {
  readonly status: SubscriptionStatus;
  readonly plan: PlanView;
  /** The plan from the next cycle on, if it is another one. */
  readonly nextPlan?: PlanView;
  readonly cycle: Cycle;
  /** `endsAt` is null where nothing is ever renewed. */
  readonly currentCycle: {
    readonly index: number;
    readonly startsAt: string;
    readonly endsAt: string | null;
  };
  /** The allowance of the current cycle. */
  readonly quota: QuotaStatus;
  /** What was spent of the balance in the current cycle because the allowance was used up. */
  readonly payAsYouGo?: QuotaStatus;
  readonly startedAt: string;
  /** When it ends, or has ended; null: not foreseen. */
  readonly endsAt: string | null;
  /** From when on it is suspended for payment; null: it is paid. */
  readonly unpaidFrom: string | null;
}

/** An account as its operator sees it. */
export interface AccountView {
  readonly id: string;
  readonly owner?: string;
  readonly label?: string;
  readonly state: "active" | "suspended";
  readonly createdAt: string;
  /** `limit`: all credits less all debits, which may be negative. `remaining`: what is left of it. */
  readonly balance: QuotaStatus;
  readonly subscription?: SubscriptionView;
  readonly payAsYouGo: PayAsYouGo | null;
  readonly limits: readonly Limit[];
  readonly onCrash: "charge" | "release";
  readonly metadata: Readonly<Record<string, string>>;
  /** The lowest threshold told of each purse. */
  readonly alerts: Amounts;
  /** Raised by every change of terms or subscription, never by traffic or credits. */
  readonly policyVersion: number;
}

export function accountView(id: string, stored: AccountRecord, now: number): AccountView {
  const account = sweepAccount(stored, now);
  const { owner, policy, createdAtMs, policyVersion, alerts = {} } = account;
  const { name, state, payAsYouGo, limits, onCrash, metadata = {} } = policy;
  const subscription = subscriptionView(account, now);
  return {
    id,
    ...(owner !== undefined && { owner }),
    ...(name !== undefined && { label: name }),
    state,
    createdAt: isoOf(createdAtMs),
    balance: balanceStatus(account),
    ...(subscription && { subscription }),
    payAsYouGo,
    limits,
    onCrash,
    metadata,
    alerts,
    policyVersion,
  };
}

/** How the subscription of an account in its current cycle stands. */
export function subscriptionView(account: AccountRecord, now: number): SubscriptionView | undefined {
  const { subscription } = account;
  const quota = subscriptionQuota(account);
  if (subscription === undefined || quota === undefined) return undefined;
  const { plan, nextPlan, cycle, current, startedAtMs, endsAtMs, unpaidFromMs } = subscription;
  const payAsYouGo = payAsYouGoQuota(account);
  const lasts = cycle.kind === "never" && endsAtMs === null;
  return {
    status: subscriptionStatus(subscription, Math.max(now, account.latestMs)),
    plan: planView(plan),
    ...(nextPlan && { nextPlan: planView(nextPlan) }),
    cycle,
    currentCycle: {
      index: current.index,
      startsAt: isoOf(Math.max(current.startsAtMs, startedAtMs)),
      endsAt: lasts ? null : isoOf(cycleEnd(subscription)),
    },
    quota,
    ...(payAsYouGo && { payAsYouGo }),
    startedAt: isoOf(startedAtMs),
    endsAt: endsAtMs === null ? null : isoOf(endsAtMs),
    unpaidFrom: unpaidFromMs === null ? null : isoOf(unpaidFromMs),
  };
}

function planView({ name, allowance, ratePercent }: Plan): PlanView {
  return { name, allowance, rateMultiplier: ratePercent / 100 };
}

function isoOf(ms: number): string {
  return new Date(ms).toISOString();
}
