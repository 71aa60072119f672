import { compose, type Part, type Step, type Subject, sweepAll } from "./attempt.js";
import { chooseDocuments, readyTasks } from "./choice.js";
import { type AnyRecord, parseMember } from "./document-schemas.js";
import { isLedger } from "./documents.js";
import { accountMissing, type KeystileError, versionFault } from "./errors.js";
import {
  confirm,
  confirmedOf,
  holdsUnder,
  isHeldUntil,
  isUnfinished,
  type LiveGroup,
  type Surroundings,
  unconfirm,
} from "./live-group.js";
import { newPace, paceAfterFailure, paceAfterWin, pauseLeftMs } from "./pacing.js";
import { counting, givenBack, takeCounts } from "./pending-counts.js";
import { NO_ENTRIES, NO_IDS, withId, withItem, withoutId, withoutItem } from "./sparse.js";
import type { Document } from "./store.js";
import type { Count } from "./tally.js";
import {
  addTask,
  dropFinished,
  dueInMs,
  giveUpLate,
  giveUpTask,
  overloaded,
  postponeTask,
  rejectTask,
  resolveTask,
  type StepOptions,
  type Task,
  taskLine,
} from "./task-line.js";
import {
  type Attempt,
  decideUnanswered,
  mayHaveNamed,
  NO_ATTEMPTS,
  wasDecidedByWrongTime,
} from "./unanswered.js";

/** What can be done with a group. Moments are by the process's own clock. */
export interface LiveGroups {
  make(anchorId: string): LiveGroup;
  /** Puts a step in line. Resolves when a write or a check has confirmed it; undefined: a document it names is not there. */
  add<T>(group: LiveGroup, subject: Subject, step: Step<T>, options: StepOptions<T>): Promise<T | undefined>;
  /** Counts a request that writes nothing, with the next write of its key. */
  count(group: LiveGroup, keyDocumentId: string, counted: Count): void;
  /** How long it is to be left alone. */
  pauseMs(group: LiveGroup): number;
  /** The documents that the next attempt is about, the anchor first, at most 16. */
  choose(group: LiveGroup, timeMs: number): readonly string[];
  /** Runs what was chosen on the confirmed records. undefined: there is nothing to write or to confirm. */
  prepare(group: LiveGroup, timeMs: number): Attempt | undefined;
  written(group: LiveGroup, attempt: Attempt, versions: readonly number[], timeMs: number): void;
  lost(group: LiveGroup, attempt: Attempt, current: readonly Document[], timeMs: number): void;
  failed(group: LiveGroup, attempt: Attempt, error: KeystileError): void;
  /** Takes over what a read has shown of these documents. `versions` are those that were confirmed when it began. */
  adopt(
    group: LiveGroup,
    ids: readonly string[],
    found: ReadonlyMap<string, Document>,
    versions: ReadonlyMap<string, number>,
    timeMs: number,
  ): void;
  /** It could not be read. */
  unreadable(group: LiveGroup, error: unknown): void;
  /** Marks the holds for renewal when less than two thirds of their time are left. */
  renewIfDue(group: LiveGroup): void;
  /** Drops what is known of a document on which nothing depends. False: something does. Of a busy group that is less. */
  forget(group: LiveGroup, id: string, isAtRest: boolean): boolean;
}

/** Attempts of unknown outcome, while reads succeed and writes do not. */
const MAX_UNANSWERED = 64;

export function liveGroups(surroundings: Surroundings): LiveGroups {
  const { session, runtime, holdMs, storeTimeoutMs } = surroundings;

  function make(anchorId: string): LiveGroup {
    return {
      anchorId,
      anchor: undefined,
      others: NO_ENTRIES,
      transient: NO_ENTRIES,
      absent: NO_IDS,
      node: surroundings.identity(false),
      formerNodes: NO_IDS,
      counts: NO_ENTRIES,
      renewals: NO_IDS,
      chosen: [],
      chosenTurn: 0,
      unanswered: NO_ATTEMPTS,
      line: taskLine(),
      pace: newPace(runtime.monotonicMs()),
    };
  }

  function add<T>(
    group: LiveGroup,
    subject: Subject,
    step: Step<T>,
    options: StepOptions<T>,
  ): Promise<T | undefined> {
    if (!options.isFact && group.unanswered.length >= MAX_UNANSWERED) return Promise.reject(overloaded());
    const deadlineMs = options.isFact ? Number.POSITIVE_INFINITY : runtime.monotonicMs() + storeTimeoutMs;
    return addTask(group.line, subject, step, options, deadlineMs);
  }

  // ── an attempt ──────────────────────────────────────────────────────────────────────────────────────────

  function choose(group: LiveGroup, timeMs: number): readonly string[] {
    const { anchorId, line, renewals } = group;
    giveUpLate(line, timeMs, storeTimeoutMs);
    if (group.absent.size > 0) group.absent = NO_IDS;
    group.chosen = chooseDocuments(anchorId, renewals, line.waiting, timeMs);
    group.chosenTurn = line.lastTurn;
    return group.chosen;
  }

  function prepare(group: LiveGroup, timeMs: number): Attempt | undefined {
    if (group.absent.size > 0) answerAbsent(group);
    if (group.anchor === undefined || !isUnfinished(group)) return undefined;

    const now = session.now(timeMs);
    const parts = sweepAll(group.chosen, (id) => confirmedOf(group, id), now);
    for (const { id, swept } of parts) renameIfSpent(group, id, swept);
    const moment = { node: group.node, now, holdUntilMs: now + holdMs };
    const composed = compose<Task>({
      anchorId: group.anchorId,
      parts,
      // Of what else is made once there is only what a day that is over leaves behind.
      days: group.transient,
      tasks: readyTasks(group.line.waiting, parts, timeMs),
      moment,
      formerNodes: group.formerNodes,
      nextSeq: surroundings.nextSeq,
      renewals: group.renewals,
      // An attempt of unknown outcome is settled by raising the version past the one it expects, so there is
      // something to write even with nothing to say.
      mustWrite: group.unanswered.length > 0,
      tallies: group.counts,
      thresholds: surroundings.thresholds,
    });
    const tallies = takeCounts(group.counts, composed.tallied);
    // Member by member: spreading it here was the dearest line of a write.
    const { changes, seq, writes, results } = composed;
    return { changes, seq, parts, writes, results, tallies, moment, preparedAtMs: timeMs };
  }

  /** There is nothing to be decided on a document that is not there. Who came after the read began is not told. */
  function answerAbsent(group: LiveGroup): void {
    const { absent, line } = group;
    for (const task of line.waiting) {
      if (task.turn > group.chosenTurn) break;
      const missing = task.ids.all.find((id) => absent.has(id) && !id.startsWith("entry:"));
      if (missing === undefined) continue;
      const isOrphan = task.subject.keyId !== undefined && missing.startsWith("account:");
      if (isOrphan && !task.options.isFact) rejectTask(line, task, accountMissing());
      else resolveTask(line, task, undefined);
    }
    dropFinished(line);
    for (const id of group.anchor === undefined ? [...group.renewals] : absent)
      group.renewals = withoutId(group.renewals, id);
  }

  // ── what became of it ───────────────────────────────────────────────────────────────────────────────────

  function written(group: LiveGroup, attempt: Attempt, versions: readonly number[], timeMs: number): void {
    const { parts, writes } = attempt;
    for (let at = 0; at < writes.length; at += 1) {
      const { set, expected } = writes[at] as Attempt["writes"][number];
      if (set === undefined || (versions[at] ?? 0) > expected) continue;
      failed(group, attempt, versionFault());
      return;
    }
    if (attempt.changes) {
      for (let at = 0; at < parts.length; at += 1) {
        const { id, after } = parts[at] as Part;
        if (isLedger(after)) confirm(group, id, { version: versions[at] as number, record: after });
      }
      group.unanswered = NO_ATTEMPTS;
    }
    happened(group, attempt, timeMs);
    paceAfterWin(group.pace, group.line.waiting.length === 0, timeMs, surroundings);
  }

  function lost(group: LiveGroup, attempt: Attempt, current: readonly Document[], timeMs: number): void {
    group.pace.lostRaces += 1;
    group.counts = givenBack(group.counts, attempt.tallies);
    // A reply that was overtaken by a copy of its own request says "lost" although it won: only `seq` tells.
    if (attempt.changes) group.unanswered = [...group.unanswered, attempt];
    const ids = attempt.writes.map(({ id }) => id);
    const versions = new Map(attempt.writes.map(({ id, expected }) => [id, expected]));
    adopt(group, ids, new Map(current.map((document) => [document.id, document])), versions, timeMs);
  }

  function failed(group: LiveGroup, attempt: Attempt, error: KeystileError): void {
    if (attempt.changes && error.mayHaveHappened) group.unanswered = [...group.unanswered, attempt];
    else group.counts = givenBack(group.counts, attempt.tallies);
    const tried = new Set(attempt.results.map(({ task }) => task));
    backOff(group, error, (task) => tried.has(task));
  }

  /** After a fault, requests get an answer and facts are tried again later. */
  function backOff(group: LiveGroup, error: unknown, affects: (task: Task) => boolean): void {
    const { line } = group;
    for (const task of line.waiting) if (!task.options.isFact && affects(task)) giveUpTask(line, task, error);
    dropFinished(line);
    group.renewals = NO_IDS;
    paceAfterFailure(group.pace, runtime);
  }

  function adopt(
    group: LiveGroup,
    ids: readonly string[],
    found: ReadonlyMap<string, Document>,
    versions: ReadonlyMap<string, number>,
    timeMs: number,
  ): void {
    const { anchorId, line } = group;
    for (const id of ids) {
      if (id === anchorId) continue;
      try {
        adoptOne(group, id, found.get(id), versions.get(id) ?? 0);
      } catch (error) {
        // A document that cannot be read holds up those who need it, and nobody else.
        group.others = withoutItem(group.others, id);
        group.transient = withoutItem(group.transient, id);
        group.renewals = withoutId(group.renewals, id);
        // Nobody needs a day that is over: what cannot be read is left alone, and the key goes on without it.
        const unread = { version: found.get(id)?.version ?? 0, record: undefined };
        if (id.startsWith("usage:")) group.transient = withItem(group.transient, id, unread);
        for (const task of line.waiting)
          if (task.ids.all.includes(id)) postponeTask(line, task, error, runtime);
        dropFinished(line);
      }
    }
    if (!ids.includes(anchorId)) return;
    try {
      adoptOne(group, anchorId, found.get(anchorId), versions.get(anchorId) ?? 0);
    } catch (error) {
      backOff(group, error, () => true);
      return;
    }
    findProof(group, ids, timeMs);
  }

  function adoptOne(group: LiveGroup, id: string, document: Document | undefined, atLeast: number): void {
    const isTransient = id.startsWith("entry:") || id.startsWith("usage:");
    if (document === undefined) {
      group.absent = withId(group.absent, id);
      if (isTransient) group.transient = withItem(group.transient, id, { version: 0, record: undefined });
      else unconfirm(group, id);
      return;
    }
    if (document.version < atLeast) throw versionFault();
    if (document.version < (confirmedOf(group, id)?.version ?? 0)) return;
    const record = parseMember(document, group.anchorId);
    renameIfSpent(group, id, record);
    const confirmed = { version: document.version, record };
    if (isTransient) group.transient = withItem(group.transient, id, confirmed);
    else confirm(group, id, confirmed);
  }

  /** Looks in the anchor, just read, for the attempts of unknown outcome. */
  function findProof(group: LiveGroup, fresh: readonly string[], timeMs: number): void {
    if (group.unanswered.length === 0) return;
    const decided = decideUnanswered(group.unanswered, group.anchorId, group.anchor);
    if (decided === undefined) return;
    group.unanswered = NO_ATTEMPTS;
    const { proven, forgotten } = decided;
    // What may have been booked and then forgotten is not booked again: the charge of the collection stands.
    for (const { task } of forgotten.flatMap(({ results }) => results)) {
      if (task.options.isFact) resolveTask(group.line, task, undefined);
    }
    dropFinished(group.line);
    if (proven === undefined) return;
    // What it has made of the others, at a version that has passed: nothing can be decided on it, but what is held there
    // is not lost sight of.
    for (const { id, confirmed, after } of proven.parts) {
      if (!fresh.includes(id) && isLedger(after))
        confirm(group, id, { version: confirmed.version, record: after });
    }
    happened(group, proven, timeMs);
  }

  /** An attempt is known to be in the store: its tasks are answered, once. */
  function happened(group: LiveGroup, attempt: Attempt, timeMs: number): void {
    const { line } = group;
    group.pace.failures = 0;
    // A check stamps nothing, so it renews nothing.
    if (group.renewals.size > 0) {
      for (const { id, after } of attempt.parts)
        if (after !== undefined) group.renewals = withoutId(group.renewals, id);
    }
    const now = session.now(timeMs);
    const isLate = now >= attempt.moment.holdUntilMs;
    const isUnsound = isLate || wasDecidedByWrongTime(attempt, now, timeMs);
    for (const result of attempt.results) {
      const { task } = result;
      if (task.state === "answered") continue;
      if (result.threw) {
        rejectTask(line, task, result.error);
        continue;
      }
      const { undo } = task.options;
      const isUndone = task.state === "given up" || (isUnsound && undo !== undefined);
      if (isUndone) postUndo(group, task.subject, undo?.(result.outcome as never));
      // A task undone for the time's sake stays in line and is decided again.
      if (!isUndone || task.state === "given up") resolveTask(line, task, result.outcome);
    }
    dropFinished(line);
    group.transient = NO_ENTRIES;
    for (const { id, confirmed, after } of attempt.parts) {
      if (after !== undefined && confirmed.record !== undefined)
        surroundings.onWritten(id, confirmed.record, after);
    }
  }

  function postUndo(group: LiveGroup, subject: Subject, step: Step<void> | undefined): void {
    if (step !== undefined) void add(group, subject, step, { isFact: true });
  }

  /**
   * An identity whose entry was collected or forgotten is spent: what it held can only be corrected. Names are
   * never used twice, so that a late settlement cannot meet a new entry of the same name. On documents other than the
   * anchor, an entry that held nothing can be made anew.
   */
  function renameIfSpent(group: LiveGroup, id: string, record: AnyRecord | undefined): void {
    const { node } = group;
    if (!isLedger(record) || record.nodes[node] !== undefined) return;
    const known = confirmedOf(group, id)?.record;
    const entry = isLedger(known) ? known.nodes[node] : undefined;
    const wasThere =
      (entry !== undefined && (id === group.anchorId || entry.open > 0)) ||
      mayHaveNamed(group.unanswered, node, id, record);
    if (!wasThere && record.collected[node] === undefined) return;
    group.formerNodes = withId(group.formerNodes, node);
    group.node = surroundings.identity(true);
  }

  return {
    make,
    add,
    count(group, id, counted) {
      group.counts = counting(group.counts, id, counted);
    },
    pauseMs(group) {
      const { line, pace, unanswered, renewals } = group;
      // After a failure only facts wait for the back-off; a new request finds out at once.
      if (pace.failures > 0 && line.waiting.some(({ options }) => !options.isFact)) return 0;
      const isIdle = unanswered.length === 0 && renewals.size === 0;
      return Math.max(pauseLeftMs(pace, runtime), isIdle ? dueInMs(line, runtime) : 0);
    },
    choose,
    prepare,
    written,
    lost,
    failed,
    adopt,
    unreadable: (group, error) => backOff(group, error, () => true),
    renewIfDue(group) {
      const { anchorId, anchor, others } = group;
      const dueMs = session.now() + (holdMs * 2) / 3;
      if (isHeldUntil(group, anchor?.record, dueMs)) group.renewals = withId(group.renewals, anchorId);
      for (const [id, { record }] of others)
        if (isHeldUntil(group, record, dueMs)) group.renewals = withId(group.renewals, id);
      for (const name of group.formerNodes) {
        const isOpen = [anchor, ...others.values()].some((one) => holdsUnder(name, one?.record));
        if (!isOpen) group.formerNodes = withoutId(group.formerNodes, name);
      }
    },
    forget(group, id, isAtRest) {
      const { chosen, renewals, unanswered } = group;
      const isWanted = isAtRest
        ? isUnfinished(group)
        : id === group.anchorId || chosen.includes(id) || renewals.has(id);
      const isHeld = isHeldUntil(group, confirmedOf(group, id)?.record, Infinity);
      if (isWanted || isHeld || unanswered.length > 0) return false;
      unconfirm(group, id);
      group.counts = withoutItem(group.counts, id);
      return true;
    },
  };
}
