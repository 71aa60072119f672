import type { DayTally } from "./documents.js";
import { NO_ENTRIES, withItem, withoutItem } from "./sparse.js";
import { type Count, mergeDays, withCount } from "./tally.js";

/** Counters of requests that write nothing, by key document, until they ride with a write of their key. */
export type PendingCounts = ReadonlyMap<string, DayTally>;

/** Of no day: they count on the day of the write that takes them. */
const NO_COUNTS: DayTally = { day: 0, models: {} };

export function counting(counts: PendingCounts, id: string, counted: Count): PendingCounts {
  return withItem(counts, id, withCount(counts.get(id) ?? NO_COUNTS, counted));
}

/** Those of some keys, which are taken out of them, to be given back if they were not written after all. */
export function takeCounts(counts: PendingCounts, ids: readonly string[]): PendingCounts {
  if (ids.length === 0) return NO_ENTRIES;
  const taken = new Map(ids.map((id) => [id, counts.get(id) ?? NO_COUNTS]));
  for (const id of ids) withoutItem(counts, id);
  return taken;
}

export function givenBack(counts: PendingCounts, taken: PendingCounts): PendingCounts {
  let all = counts;
  for (const [id, tally] of taken) all = withItem(all, id, mergeDays(tally, all.get(id) ?? NO_COUNTS));
  return all;
}
