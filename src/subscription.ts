import { cycleAt } from "./cycle.js";
import type { AccountRecord, KeyRecord, Plan, Subscription } from "./documents.js";
import { pick } from "./ledger.js";
import type { Reason } from "./refusal.js";

/** `unpaid`: suspended for payment, after its grace. `cancelled`: works until it ends. */
export type SubscriptionStatus = "active" | "cancelled" | "unpaid" | "ended";

/** What a subscription is at an instant: it works while `active` or `cancelled`. */
export function subscriptionStatus(
  { endsAtMs, unpaidFromMs }: Subscription,
  now: number,
): SubscriptionStatus {
  if (endsAtMs !== null && now >= endsAtMs) return "ended";
  if (unpaidFromMs !== null && now >= unpaidFromMs) return "unpaid";
  return endsAtMs === null ? "active" : "cancelled";
}

/** Why a key that pays from a subscription may not at all, whatever is left of it. */
export function judgeSubscription(account: AccountRecord, now: number): Reason | undefined {
  const { subscription } = account;
  const status = subscription && subscriptionStatus(subscription, Math.max(now, account.latestMs));
  if (status === "unpaid") return "subscription_unpaid";
  return status === undefined || status === "ended" ? "subscription_ended" : undefined;
}

/** By how much the limits of a key are multiplied: as the plan says if it pays from a subscription. */
export function ratePercentOf({ account: paid }: KeyRecord, account: AccountRecord | undefined): number {
  return paid?.pays === "subscription" ? (account?.subscription?.plan.ratePercent ?? 100) : 100;
}

/** The name of a subscription's current cycle in purses. */
export function cycleName({ serial, current }: Subscription): string {
  return `${serial}.${current.index}`;
}

/** When the current cycle is over: where the next one begins, or where the subscription ends before that. */
export function cycleEnd({ current, endsAtMs }: Subscription): number {
  return endsAtMs === null ? current.endsAtMs : Math.min(current.endsAtMs, endsAtMs);
}

/**
 * Takes an account into the cycle that `now` falls into, by the latest time it has seen: counters from zero, and the
 * plan that was chosen for then. What the closed cycle allowed is remembered while something may still be settled in it.
 * Returns the same record within a cycle, and after the end.
 */
export function turnCycle(account: AccountRecord, now: number): AccountRecord {
  const { subscription } = account;
  if (subscription === undefined) return account;
  const latest = Math.max(now, account.latestMs);
  if (latest < subscription.current.endsAtMs || subscriptionStatus(subscription, latest) === "ended")
    return account;
  const span = cycleAt(subscription.cycle, latest);
  if (span.index <= subscription.current.index) return account;
  const { nextPlan, ...kept } = subscription;
  const plan = nextPlan ?? kept.plan;
  return withSubscription(account, { ...kept, plan, current: { ...span, allowance: plan.allowance } });
}

/**
 * Takes an account into another cycle, or another subscription. What the cycle before it allowed is remembered, because
 * something may still be settled in it.
 */
export function withSubscription(account: AccountRecord, subscription: Subscription): AccountRecord {
  const { closed, subscription: before } = account;
  if (before === undefined) return { ...account, subscription };
  const ended = { ...closed, [cycleName(before)]: before.current.allowance };
  return forgetCycles({ ...account, closed: ended, subscription }, [
    cycleName(before),
    cycleName(subscription),
  ]);
}

/**
 * Changes the plan: at once to one that allows as much or more, with the part of the difference that is left of the
 * cycle; else from the next cycle on. What was used stays. Where there is no next cycle, everything is at once.
 */
export function withPlan(subscription: Subscription, plan: Plan, now: number): Subscription {
  const { nextPlan: _, ...kept } = subscription;
  const { current } = kept;
  if (kept.cycle.kind === "never") {
    return { ...kept, plan, current: { ...current, allowance: plan.allowance } };
  }
  const raise = plan.allowance - kept.plan.allowance;
  if (raise < 0) return { ...kept, nextPlan: plan };
  const left = BigInt(Math.max(0, current.endsAtMs - Math.max(now, current.startsAtMs)));
  const share = (BigInt(raise) * left) / BigInt(current.endsAtMs - current.startsAtMs);
  const allowance = Math.min(current.allowance + Number(share), Number.MAX_SAFE_INTEGER);
  return { ...kept, plan, current: { ...current, allowance } };
}

/** Drops the counters of cycles, but for the latest ones and those in which something is held or was collected. */
function forgetCycles(account: AccountRecord, latest: readonly string[]): AccountRecord {
  const { nodes, collected, closed } = account;
  const needed = new Set(latest);
  const amounts = [
    ...Object.values(nodes).map(({ held }) => held),
    ...Object.values(collected).map((entry) => entry.collected),
  ];
  for (const purse of amounts.flatMap(Object.keys)) needed.add(cycleOf(purse));
  return {
    ...account,
    used: pick(account.used, (purse) => !isCycling(purse) || needed.has(cycleOf(purse))),
    closed: pick(closed, (cycle) => needed.has(cycle)),
    alerts: pick(account.alerts ?? {}, (purse) => !isCycling(purse) || needed.has(cycleOf(purse))),
  };
}

function isCycling(purse: string): boolean {
  return purse.startsWith("subscription@") || purse.startsWith("payg@");
}

function cycleOf(purse: string): string {
  return purse.slice(purse.indexOf("@") + 1);
}
