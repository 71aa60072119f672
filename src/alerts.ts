import {
  type AccountRecord,
  type Amounts,
  BALANCE_PURSE,
  isKey,
  KEY_PURSE,
  type KeyRecord,
  type Ledger,
} from "./documents.js";
import { cycleName } from "./subscription.js";

/** When somebody is told that money runs low. */
export interface Thresholds {
  /** Of a quota, an allowance or a cap: percent left, integers from 0 to 99. */
  readonly percentLeft: readonly number[];
  /** Of a balance: what is left, in the operator's unit. */
  readonly balanceLeft: readonly number[];
}

/** One threshold that was reached, of one purse. Told once in each cycle, by the process that claimed it. */
export interface Alert {
  readonly fund: "quota" | "subscription" | "payAsYouGo" | "balance";
  readonly purse: string;
  readonly threshold: number;
  readonly limit: number;
  readonly left: number;
}

interface Watched {
  readonly fund: Alert["fund"];
  readonly purse: string;
  readonly limit: number;
}

/**
 * Notes in a document which thresholds it has reached, so that each is told once across all processes. They are judged
 * whenever less is left than before, by what is not used yet; of several at once only the lowest is noted. What is given
 * back never takes a note back; a limit that was raised, or a counter that was reset, does.
 */
export function claimAlerts<L extends KeyRecord | AccountRecord>(
  before: L,
  after: L,
  thresholds: Thresholds,
): L {
  if (isWatchedAlike(before, after)) return after;
  const known = watchedOf(before);
  let alerts: Amounts | undefined = after.alerts;
  for (const watched of watchedOf(after)) {
    const { purse, limit } = watched;
    const was = known.find((one) => one.purse === purse) ?? watched;
    const wasRaised = limit > was.limit;
    const isLess = leftOf(after, watched) < leftOf(before, was);
    if (!wasRaised && !isLess) continue;
    const reached = lowestReached(watched, leftOf(after, watched), thresholds);
    if (wasRaised && isLower(alerts?.[purse], reached)) alerts = noted(alerts, purse, reached);
    // One that was taken back and is reached again in the same write could not be told from the old note: next time.
    const isNew = isLower(reached, before.alerts?.[purse]) && isLower(reached, alerts?.[purse]);
    if (isLess && isNew) alerts = noted(alerts, purse, reached);
  }
  return alerts === after.alerts ? after : { ...after, alerts };
}

/** Whether nothing that is watched has changed. */
function isWatchedAlike(before: KeyRecord | AccountRecord, after: KeyRecord | AccountRecord): boolean {
  if (before.used !== after.used || before.policy !== after.policy) return false;
  if (isKey(before) || isKey(after)) return true;
  return before.credited === after.credited && before.subscription === after.subscription;
}

/** Whether there is a threshold, and it lies below another one or there is no other. */
function isLower(threshold: number | undefined, other: number | undefined): boolean {
  return threshold !== undefined && (other === undefined || threshold < other);
}

/** The thresholds that one write has noted. */
export function alertsBetween<L extends KeyRecord | AccountRecord>(before: L, after: L): readonly Alert[] {
  if (before.alerts === after.alerts) return [];
  return watchedOf(after).flatMap((watched) => {
    const { fund, purse, limit } = watched;
    const threshold = after.alerts?.[purse];
    if (threshold === undefined || threshold >= (before.alerts?.[purse] ?? Number.POSITIVE_INFINITY))
      return [];
    return [{ fund, purse, threshold, limit, left: leftOf(after, watched) }];
  });
}

function watchedOf(record: KeyRecord | AccountRecord): readonly Watched[] {
  if (isKey(record)) {
    const { quota } = record.policy;
    return quota === null ? [] : [{ fund: "quota", purse: KEY_PURSE, limit: quota }];
  }
  const { subscription, policy, credited } = record;
  const balance: Watched = { fund: "balance", purse: BALANCE_PURSE, limit: credited };
  if (subscription === undefined) return [balance];
  const cycle = cycleName(subscription);
  const cap = policy.payAsYouGo?.capPerCycle ?? 0;
  return [
    { fund: "subscription", purse: `subscription@${cycle}`, limit: subscription.current.allowance },
    ...(cap > 0 ? [{ fund: "payAsYouGo", purse: `payg@${cycle}`, limit: cap } as const] : []),
    balance,
  ];
}

function leftOf({ used }: Ledger, { purse, limit }: Watched): number {
  return limit - (used[purse] ?? 0);
}

function lowestReached({ fund, limit }: Watched, left: number, thresholds: Thresholds): number | undefined {
  const { percentLeft, balanceLeft } = thresholds;
  const reached =
    fund === "balance"
      ? balanceLeft.filter((threshold) => left <= threshold)
      : percentLeft.filter((percent) => isWithin(left, percent, limit));
  return reached.length === 0 ? undefined : Math.min(...reached);
}

/** What can be multiplied by 100 and stays a safe integer. */
const SAFE_PERCENT = Math.floor(Number.MAX_SAFE_INTEGER / 100);

/** Whether `left` is at most so many percent of `limit`, exactly, where their products leave the safe integers. */
function isWithin(left: number, percent: number, limit: number): boolean {
  if (Math.max(Math.abs(left), limit) <= SAFE_PERCENT) return left * 100 <= percent * limit;
  return BigInt(left) * 100n <= BigInt(percent) * BigInt(limit);
}

function noted(alerts: Amounts | undefined, purse: string, threshold: number | undefined): Amounts {
  const { [purse]: _, ...others } = alerts ?? {};
  return threshold === undefined ? others : { ...others, [purse]: threshold };
}
