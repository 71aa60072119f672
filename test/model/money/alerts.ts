import type { AccountTrack, Books, KeyTrack } from "./books.js";
import { type AccountBody, cycleOf, type KeyBody, type LedgerBody } from "./documents.js";

/** The thresholds that every process of a run is made with. */
export const THRESHOLDS = { percentLeft: [50, 20, 10, 0], balanceLeft: [100, 20, 0] } as const;

/** What somebody was told. */
export interface Told {
  readonly id: string;
  readonly fund: string;
  readonly threshold: number;
  readonly left: number;
}

interface Watched {
  readonly fund: string;
  readonly limit: number;
}

/**
 * Judges the thresholds that documents note, by what was used before and after: the lowest one reached is noted when
 * something was used, once, and stays until there is more to use. Each note is told by the process that wrote it.
 */
export function createAlertJudge(books: Books) {
  const { fail, count, claims, editsOf } = books;

  function account(track: AccountTrack, before: AccountBody, after: AccountBody, writer: string): void {
    const isReset = [...editsOf(writer, track.id)].some(({ what }) => what === "resetCycle");
    judge(track.id, [before, ofAccount(before)], [after, ofAccount(after)], writer, isReset);
  }

  function key({ id }: KeyTrack, before: KeyBody, after: KeyBody, writer: string): void {
    judge(id, [before, ofKey(before)], [after, ofKey(after)], writer, false);
  }

  function judge(
    id: string,
    [before, watchedBefore]: readonly [LedgerBody, Map<string, Watched>],
    [after, watchedAfter]: readonly [LedgerBody, Map<string, Watched>],
    writer: string,
    isReset: boolean,
  ): void {
    for (const [purse, { fund, limit }] of watchedAfter) {
      const was = before.alerts?.[purse] ?? Number.POSITIVE_INFINITY;
      const is = after.alerts?.[purse] ?? Number.POSITIVE_INFINITY;
      const left = limit - (after.used[purse] ?? 0);
      const grew = (after.used[purse] ?? 0) > (before.used[purse] ?? 0);
      const isRaised = limit > (watchedBefore.get(purse)?.limit ?? limit);
      const lowest = lowestReached(fund, left, limit);
      const what = `${purse} of ${id}, ${left} left of ${limit}, noted ${was}, then ${is}`;
      if (is > was && !isRaised && !isReset) fail("alerts-are-kept", what);
      if (grew && !isRaised && !isReset && is > lowest) fail("alerts-are-noted", what);
      if (is >= was) continue;
      if (is !== lowest) fail("alerts-are-noted", what);
      count(`noted ${fund}`);
      claims.push({ writer, what: describe({ id, fund, threshold: is, left }), told: 0 });
    }
  }

  return { account, key };
}

/** Each note is told at most once, and nothing else is told. */
export function hearAlert({ claims, fail, count }: Books, process: string, told: Told): void {
  count("told");
  const what = describe(told);
  const claim = claims.find((one) => one.what === what && one.writer === process && one.told === 0);
  if (claim === undefined) fail("alerts-are-told-once", `${process} told without a note of its own: ${what}`);
  else claim.told += 1;
}

function describe({ id, fund, threshold, left }: Told): string {
  return `${fund} of ${id} at ${threshold}, ${left} left`;
}

function ofKey({ policy }: KeyBody): Map<string, Watched> {
  return new Map(policy.quota === null ? [] : [["key@0", { fund: "quota", limit: policy.quota }]]);
}

function ofAccount(body: AccountBody): Map<string, Watched> {
  const { credited, subscription, policy } = body;
  const watched = new Map<string, Watched>([["balance@0", { fund: "balance", limit: credited }]]);
  if (subscription === undefined) return watched;
  const cycle = cycleOf(body);
  const cap = policy.payAsYouGo?.capPerCycle ?? 0;
  watched.set(`subscription@${cycle}`, { fund: "subscription", limit: subscription.current.allowance });
  if (cap > 0) watched.set(`payg@${cycle}`, { fund: "payAsYouGo", limit: cap });
  return watched;
}

function lowestReached(fund: string, left: number, limit: number): number {
  const reached =
    fund === "balance"
      ? THRESHOLDS.balanceLeft.filter((threshold) => left <= threshold)
      : THRESHOLDS.percentLeft.filter((percent) => left * 100 <= percent * limit);
  return Math.min(Number.POSITIVE_INFINITY, ...reached);
}
