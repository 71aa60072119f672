import type { DayTally } from "./documents.js";
import { type Count, mergeDays, withCount } from "./tally.js";

/** Counters of requests that write nothing, by key document, until they ride with a write of their key. */
export interface PendingCounts {
  add(id: string, counted: Count): void;
  all(): ReadonlyMap<string, DayTally>;
  /** Hands over those of some keys, to be given back if they were not written after all. */
  take(ids: readonly string[]): ReadonlyMap<string, DayTally>;
  giveBack(counts: ReadonlyMap<string, DayTally>): void;
  drop(id: string): void;
}

/** Of no day: they count on the day of the write that takes them. */
const NO_COUNTS: DayTally = { day: 0, models: {} };

const NONE: ReadonlyMap<string, DayTally> = new Map();

export function pendingCounts(): PendingCounts {
  const counts = new Map<string, DayTally>();
  return {
    add: (id, counted) => void counts.set(id, withCount(counts.get(id) ?? NO_COUNTS, counted)),
    all: () => counts,
    take(ids) {
      if (ids.length === 0) return NONE;
      const taken = new Map(ids.map((id) => [id, counts.get(id) ?? NO_COUNTS]));
      for (const id of taken.keys()) counts.delete(id);
      return taken;
    },
    giveBack(taken) {
      for (const [id, tally] of taken) counts.set(id, mergeDays(tally, counts.get(id) ?? NO_COUNTS));
    },
    drop: (id) => void counts.delete(id),
  };
}
