import { cycleAt } from "./cycle.js";
import { type AccountRecord, FORMAT, type Subscription } from "./documents.js";
import { emptyLedger } from "./ledger.js";

/** The record of an account that was just opened. */
export function newAccountRecord(
  { owner, policy }: Pick<AccountRecord, "owner" | "policy">,
  now: number,
): AccountRecord {
  return {
    format: FORMAT,
    ...(owner !== undefined && { owner }),
    createdAtMs: now,
    policyVersion: 1,
    policy,
    credited: 0,
    closed: {},
    ...emptyLedger(now),
  };
}

/** A subscription that begins now, in the cycle that now falls into. */
export function newSubscription(
  { plan, cycle, endsAtMs }: Pick<Subscription, "plan" | "cycle" | "endsAtMs">,
  before: Subscription | undefined,
  now: number,
): Subscription {
  return {
    serial: (before?.serial ?? 0) + 1,
    plan,
    cycle,
    current: { ...cycleAt(cycle, now), allowance: plan.allowance },
    startedAtMs: now,
    endsAtMs,
    unpaidFromMs: null,
  };
}
