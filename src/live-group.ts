import type { Thresholds } from "./alerts.js";
import type { Confirmed } from "./attempt.js";
import type { AnyRecord } from "./document-schemas.js";
import { type DayTally, isLedger } from "./documents.js";
import type { Pace } from "./pacing.js";
import type { Runtime } from "./runtime.js";
import { withId, withItem, withoutItem } from "./sparse.js";
import type { StoreSession } from "./store-session.js";
import type { TaskLine } from "./task-line.js";
import { countGivenUp, type Unanswered } from "./unanswered.js";

/** What the groups of one process share. */
export interface Surroundings {
  readonly session: StoreSession;
  readonly runtime: Runtime;
  readonly holdMs: number;
  readonly storeTimeoutMs: number;
  readonly thresholds: Thresholds;
  /** A number never given before by this process. */
  nextSeq(): number;
  /** The identity for groups not seen before; `spent: true` makes a new one. */
  identity(spent: boolean): string;
  /** Told once of each document that a write of this process has changed. */
  onWritten(id: string, before: AnyRecord, after: AnyRecord): void;
}

/**
 * Documents that are decided together, as this process sees them: an account with its keys, or a key alone. Plain data, and
 * little of it, because there is one for every key in memory.
 *
 * One of them, the anchor (the account, else the key), is written with every change. So whatever is asked about an
 * attempt, whether it happened or can still happen, is asked of the anchor alone.
 */
export interface LiveGroup {
  readonly anchorId: string;
  /** Only ever what a read or an acknowledged write has shown. */
  anchor: Confirmed | undefined;
  /** The same of its other documents. */
  others: ReadonlyMap<string, Confirmed>;
  /** Documents that are only ever made once: known while an attempt needs them. */
  transient: ReadonlyMap<string, Confirmed>;
  /** What a read of this turn has not found. Absence is not remembered beyond it. */
  absent: ReadonlySet<string>;
  /** The name under which this process holds something of them. */
  node: string;
  /** Names given before, under which something may still be held. */
  formerNodes: ReadonlySet<string>;
  /** Counters of requests that write nothing, by key document. They ride with the next write. */
  counts: ReadonlyMap<string, DayTally>;
  /** Documents to be written for the sake of what is held there. */
  renewals: ReadonlySet<string>;
  /** What the attempt under way is about, the anchor first. */
  chosen: readonly string[];
  /** That of the last task that was in line by then. */
  chosenTurn: number;
  unanswered: Unanswered;
  readonly line: TaskLine;
  readonly pace: Pace;
}

const NONE: readonly string[] = [];

/** What is confirmed of a document of a group. */
export function confirmedOf(group: LiveGroup, id: string): Confirmed | undefined {
  if (id === group.anchorId) return group.anchor;
  return group.others.get(id) ?? group.transient.get(id);
}

export function confirm(group: LiveGroup, id: string, confirmed: Confirmed): void {
  if (id === group.anchorId) group.anchor = confirmed;
  else group.others = withItem(group.others, id, confirmed);
}

export function unconfirm(group: LiveGroup, id: string): void {
  if (id === group.anchorId) group.anchor = undefined;
  else group.others = withoutItem(group.others, id);
}

/** Whether nothing is known of any of its documents. */
export function isEmpty({ anchor, others }: LiveGroup): boolean {
  return anchor === undefined && others.size === 0;
}

/** Those of its chosen documents that have to be read first. */
export function unknownOf(group: LiveGroup): readonly string[] {
  const { chosen } = group;
  if (group.unanswered.length > 0) return chosen;
  const isUnknown = (id: string) => confirmedOf(group, id) === undefined;
  return chosen.some(isUnknown) ? chosen.filter(isUnknown) : NONE;
}

/** How many steps wait. @param onlyForAnswer without facts, for which nobody waits */
export function countWaiting({ line }: LiveGroup, onlyForAnswer: boolean): number {
  return line.waiting.filter(({ options }) => !(onlyForAnswer && options.isFact)).length;
}

/** Whether there is nothing to be done but to store facts, for which nobody waits. */
export function isOnlyFacts(group: LiveGroup): boolean {
  const { line, unanswered, renewals } = group;
  return (
    unanswered.length === 0 && renewals.size === 0 && line.waiting.every(({ options }) => options.isFact)
  );
}

/** How many are not known to be stored: those that wait, and those given up that may have been written. */
export function countUnsettled({ line, unanswered }: LiveGroup): number {
  return line.waiting.length + countGivenUp(unanswered);
}

/** Whether something is to be written, or found out. */
export function isUnfinished({ line, unanswered, renewals }: LiveGroup): boolean {
  return line.waiting.length > 0 || unanswered.length > 0 || renewals.size > 0;
}

/** Has what was only counted written, too. */
export function writeCounts(group: LiveGroup): void {
  for (const id of group.counts.keys()) {
    if (group.anchorId === id || group.others.has(id)) group.renewals = withId(group.renewals, id);
  }
}

/** Whether requests of this process hold something of a record that is to be renewed before so late, under any of its names. */
export function isHeldUntil(
  { node, formerNodes }: LiveGroup,
  record: AnyRecord | undefined,
  beforeMs: number,
): boolean {
  if (holdsUnder(node, record, beforeMs)) return true;
  for (const name of formerNodes) if (holdsUnder(name, record, beforeMs)) return true;
  return false;
}

export function holdsUnder(
  name: string,
  record: AnyRecord | undefined,
  beforeMs: number = Infinity,
): boolean {
  const entry = isLedger(record) ? record.nodes[name] : undefined;
  return entry !== undefined && entry.open > 0 && entry.renewByMs < beforeMs;
}
