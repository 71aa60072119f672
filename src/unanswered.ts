import { type Composed, type Confirmed, type Moment, partOf } from "./attempt.js";
import type { AnyRecord } from "./document-schemas.js";
import { type DayTally, isLedger, type Ledger } from "./documents.js";
import { mayBeForgotten } from "./expiry.js";
import type { Task } from "./task-line.js";

/** One try to write a group, with everything needed to recognise later whether it happened. */
export interface Attempt extends Omit<Composed<Task>, "tallied"> {
  readonly moment: Moment;
  /** By the process's own clock. */
  readonly preparedAtMs: number;
  readonly tallies: ReadonlyMap<string, DayTally>;
}

/**
 * The attempts of one group whose outcome is unknown. All of them expect the same version of the anchor, so at most one
 * can have happened.
 */
export type Unanswered = readonly Attempt[];

export const NO_ATTEMPTS: readonly Attempt[] = [];

interface Decided {
  /** The one that happened. */
  readonly proven?: Attempt;
  /** Those that can never happen any more, and of which it cannot be told any more whether they did. */
  readonly forgotten: readonly Attempt[];
}

/** What was decided by a time that far from the store's is undone and decided again. */
const MAX_CLOCK_ERROR_MS = 1_000;

/** Tasks that nobody waits for any longer, of which one may turn out to have been written. */
export function countGivenUp(attempts: Unanswered): number {
  const tasks = attempts.flatMap(({ results }) => results.map(({ task }) => task));
  return new Set(tasks.filter(({ state }) => state === "given up")).size;
}

/**
 * Whether one of them may have made an entry of this node in a document. Its absence proves that it was never written,
 * unless it may have been forgotten since.
 */
export function mayHaveNamed(attempts: Unanswered, node: string, id: string, ledger: Ledger): boolean {
  return attempts.some(
    ({ moment, parts }) =>
      moment.node === node &&
      hasEntry(partOf(parts, id)?.after, node) &&
      mayBeForgotten(ledger, moment.holdUntilMs),
  );
}

/** What the anchor, just read, tells of them; undefined: nothing yet. */
export function decideUnanswered(
  attempts: Unanswered,
  anchorId: string,
  anchor: Confirmed | undefined,
): Decided | undefined {
  // Gone for good: a version never repeats, so none of them can still happen.
  if (anchor === undefined) return { forgotten: [] };
  // Until the version has passed the one an attempt expects, its absence proves nothing: it may still arrive.
  if (attempts.every(({ parts }) => versionOf(parts, anchorId) >= anchor.version)) return undefined;
  const record = anchor.record as Ledger;
  const proven = attempts.find(({ moment, seq }) => proofIn(record, moment.node) === seq);
  if (proven !== undefined) return { proven, forgotten: [] };
  const forgotten = attempts.filter(
    ({ moment: { node, holdUntilMs } }) =>
      proofIn(record, node) === undefined && mayBeForgotten(record, holdUntilMs),
  );
  return { forgotten };
}

/**
 * Whether an attempt took another time for the store's. That is known to within the time a call takes: once when the
 * attempt was prepared, and once now. `timeMs`: by the process's own clock.
 */
export function wasDecidedByWrongTime(
  { moment, preparedAtMs }: Attempt,
  now: number,
  timeMs: number,
): boolean {
  const elapsedMs = timeMs - preparedAtMs;
  const passedMs = now - moment.now;
  return passedMs < elapsedMs - MAX_CLOCK_ERROR_MS || passedMs > 2 * elapsedMs + MAX_CLOCK_ERROR_MS;
}

function versionOf(parts: Attempt["parts"], id: string): number {
  return partOf(parts, id)?.confirmed.version ?? 0;
}

function hasEntry(record: AnyRecord | undefined, node: string): boolean {
  return isLedger(record) && record.nodes[node] !== undefined;
}

/** The latest attempt of a process that this record contains. */
function proofIn(record: Ledger, node: string): number | undefined {
  return (record.nodes[node] ?? record.collected[node])?.seq;
}
