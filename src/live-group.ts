import type { Thresholds } from "./alerts.js";
import { type Confirmed, compose, partOf, type Step, type Subject, sweepAll } from "./attempt.js";
import { chooseDocuments } from "./choice.js";
import { type AnyRecord, parseMember } from "./document-schemas.js";
import { isLedger, type Ledger, type NodeEntry } from "./documents.js";
import { accountMissing, type KeystileError, versionFault } from "./errors.js";
import { pacing } from "./pacing.js";
import { pendingCounts } from "./pending-counts.js";
import type { Runtime } from "./runtime.js";
import type { Document } from "./store.js";
import type { StoreSession } from "./store-session.js";
import type { Count } from "./tally.js";
import { overloaded, type StepOptions, type Task, taskLine } from "./task-line.js";
import { type Attempt, unansweredAttempts, wasDecidedByWrongTime } from "./unanswered.js";

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
 * Documents that are decided together, as this process sees them: an account with its keys, or a key alone.
 *
 * One of them, the anchor (the account, else the key), is written with every change. So whatever is asked about an
 * attempt, whether it happened or can still happen, is asked of the anchor alone.
 */
export interface LiveGroup {
  readonly anchorId: string;
  /** Only ever what a read or an acknowledged write has shown. */
  confirmed(id: string): Confirmed | undefined;
  /** Puts a step in line. Resolves when a write or a check has confirmed it; undefined: a document it names is not there. */
  add<T>(subject: Subject, step: Step<T>, options: StepOptions<T>): Promise<T | undefined>;
  /** Counts a request that writes nothing, with the next write of its key. */
  count(keyDocumentId: string, counted: Count): void;
  waiting(onlyForAnswer?: boolean): number;
  /** How many of them are not known to be stored: those that wait, and those given up that may have been written. */
  unsettled(): number;
  /** Whether something is to be written, or found out. */
  isUnfinished(): boolean;
  /** How long it is to be left alone. */
  pauseMs(): number;
  /** The documents that the next attempt is about, the anchor first, at most 16. `timeMs`: by the process's own clock. */
  choose(timeMs: number): readonly string[];
  /** Those of them that have to be read first. */
  unknown(): readonly string[];
  /** Runs what was chosen on the confirmed records. undefined: there is nothing to write or to confirm. */
  prepare(): Attempt | undefined;
  written(attempt: Attempt, versions: readonly number[]): void;
  lost(attempt: Attempt, current: readonly Document[]): void;
  failed(attempt: Attempt, error: KeystileError): void;
  /** Takes over what a read has shown of these documents. `versions` are those that were confirmed when it began. */
  adopt(
    ids: readonly string[],
    found: ReadonlyMap<string, Document>,
    versions: ReadonlyMap<string, number>,
  ): void;
  /** It could not be read. */
  unreadable(error: unknown): void;
  /** Marks the holds for renewal when less than two thirds of their time are left. */
  renewIfDue(): void;
  /** Has what was only counted written, too. */
  writeCounts(): void;
  /** Drops what is known of a document on which nothing depends. False: something does. Of a busy group that is less. */
  forget(id: string, isAtRest: boolean): boolean;
  isEmpty(): boolean;
}

/** Attempts of unknown outcome, while reads succeed and writes do not. */
const MAX_UNANSWERED = 64;

export function liveGroup(anchorId: string, surroundings: Surroundings): LiveGroup {
  const { session, runtime, holdMs, storeTimeoutMs } = surroundings;
  let node = surroundings.identity(false);
  /** Names given before, under which something may still be held. */
  const formerNodes = new Set<string>();
  const documents = new Map<string, Confirmed>();
  /** Documents that are only ever made once: known while an attempt needs them. */
  const transient = new Map<string, Confirmed>();
  const counts = pendingCounts();
  /** What a read of this turn has not found. Absence is not remembered beyond it. */
  const absent = new Set<string>();
  const line = taskLine(runtime, storeTimeoutMs);
  let chosen: readonly string[] = [];
  let chosenTurn = 0;
  const unanswered = unansweredAttempts(anchorId);
  const renewals = new Set<string>();
  const pace = pacing(runtime, session, storeTimeoutMs);

  // ── an attempt ──────────────────────────────────────────────────────────────────────────────────────────

  function choose(timeMs: number): readonly string[] {
    line.giveUpLate(timeMs);
    // To clear an empty set costs as much as to make one.
    if (absent.size > 0) absent.clear();
    chosen = chooseDocuments(anchorId, renewals, line.waiting(), timeMs);
    chosenTurn = line.lastTurn();
    return chosen;
  }

  function unknown(): readonly string[] {
    return unanswered.count() > 0 ? chosen : chosen.filter((id) => known(id) === undefined);
  }

  function prepare(): Attempt | undefined {
    answerAbsent();
    if (!documents.has(anchorId) || !isUnfinished()) return undefined;

    const now = session.now();
    const preparedAtMs = runtime.monotonicMs();
    const parts = sweepAll(chosen, known, now);
    for (const { id, swept } of parts) renameIfSpent(id, swept);
    const moment = { node, now, holdUntilMs: now + holdMs };
    const isReady = ({ ids, resumeAtMs }: Task): boolean =>
      resumeAtMs <= preparedAtMs && ids.all.every((id) => partOf(parts, id) !== undefined);
    const composed = compose<Task>({
      anchorId,
      parts,
      // Of what else is made once there is only what a day that is over leaves behind.
      days: transient,
      tasks: line.waiting().filter(isReady),
      moment,
      formerNodes,
      nextSeq: surroundings.nextSeq,
      renewals,
      // An attempt of unknown outcome is settled by raising the version past the one it expects, so there is
      // something to write even with nothing to say.
      mustWrite: unanswered.count() > 0,
      tallies: counts.all(),
      thresholds: surroundings.thresholds,
    });
    const tallies = counts.take(composed.tallied);
    // Member by member: spreading it here was the dearest line of a write.
    const { changes, seq, writes, results } = composed;
    return { changes, seq, parts, writes, results, tallies, moment, preparedAtMs };
  }

  /** There is nothing to be decided on a document that is not there. Who came after the read began is not told. */
  function answerAbsent(): void {
    if (absent.size === 0) return;
    for (const task of line.waiting()) {
      if (task.turn > chosenTurn) break;
      const missing = task.ids.all.find((id) => absent.has(id) && !id.startsWith("entry:"));
      if (missing === undefined) continue;
      const isOrphan = task.subject.keyId !== undefined && missing.startsWith("account:");
      if (isOrphan && !task.options.isFact) line.reject(task, accountMissing());
      else line.resolve(task, undefined);
    }
    line.dropFinished();
    for (const id of documents.has(anchorId) ? absent : renewals) renewals.delete(id);
  }

  // ── what became of it ───────────────────────────────────────────────────────────────────────────────────

  function written(attempt: Attempt, versions: readonly number[]): void {
    const isSound = attempt.writes.every(
      ({ set, expected }, index) => set === undefined || (versions[index] ?? 0) > expected,
    );
    if (!isSound) {
      failed(attempt, versionFault());
      return;
    }
    if (attempt.changes) {
      for (const [index, { id, after }] of attempt.parts.entries()) {
        if (isLedger(after)) documents.set(id, { version: versions[index] as number, record: after });
      }
      unanswered.clear();
    }
    happened(attempt);
    pace.won(line.waiting().length === 0);
  }

  function lost(attempt: Attempt, current: readonly Document[]): void {
    pace.lost();
    counts.giveBack(attempt.tallies);
    // A reply that was overtaken by a copy of its own request says "lost" although it won: only `seq` tells.
    if (attempt.changes) unanswered.add(attempt);
    const ids = attempt.writes.map(({ id }) => id);
    const versions = new Map(attempt.writes.map(({ id, expected }) => [id, expected]));
    adopt(ids, new Map(current.map((document) => [document.id, document])), versions);
  }

  function failed(attempt: Attempt, error: KeystileError): void {
    if (attempt.changes && error.mayHaveHappened) unanswered.add(attempt);
    else counts.giveBack(attempt.tallies);
    const tried = new Set(attempt.results.map(({ task }) => task));
    backOff(error, (task) => tried.has(task));
  }

  /** After a fault, requests get an answer and facts are tried again later. */
  function backOff(error: unknown, affects: (task: Task) => boolean): void {
    for (const task of line.waiting()) if (!task.options.isFact && affects(task)) line.giveUp(task, error);
    line.dropFinished();
    renewals.clear();
    pace.failed();
  }

  function adopt(
    ids: readonly string[],
    found: ReadonlyMap<string, Document>,
    versions: ReadonlyMap<string, number>,
  ): void {
    for (const id of ids.filter((one) => one !== anchorId)) {
      try {
        adoptOne(id, found.get(id), versions.get(id) ?? 0);
      } catch (error) {
        // A document that cannot be read holds up those who need it, and nobody else.
        for (const known of [documents, transient, renewals]) known.delete(id);
        // Nobody needs a day that is over: what cannot be read is left alone, and the key goes on without it.
        const unread = { version: found.get(id)?.version ?? 0, record: undefined };
        if (id.startsWith("usage:")) transient.set(id, unread);
        for (const task of line.waiting()) if (task.ids.all.includes(id)) line.postpone(task, error);
        line.dropFinished();
      }
    }
    if (!ids.includes(anchorId)) return;
    try {
      adoptOne(anchorId, found.get(anchorId), versions.get(anchorId) ?? 0);
    } catch (error) {
      backOff(error, () => true);
      return;
    }
    findProof(ids);
  }

  function adoptOne(id: string, document: Document | undefined, atLeast: number): void {
    const isTransient = id.startsWith("entry:") || id.startsWith("usage:");
    const place = isTransient ? transient : documents;
    if (document === undefined) {
      place.delete(id);
      absent.add(id);
      if (isTransient) place.set(id, { version: 0, record: undefined });
      return;
    }
    if (document.version < atLeast) throw versionFault();
    if (document.version < (place.get(id)?.version ?? 0)) return;
    const record = parseMember(document, anchorId);
    renameIfSpent(id, record);
    place.set(id, { version: document.version, record });
  }

  function known(id: string): Confirmed | undefined {
    return documents.get(id) ?? transient.get(id);
  }

  /** Looks in the anchor, just read, for the attempts of unknown outcome. */
  function findProof(fresh: readonly string[]): void {
    const { proven, forgotten } = unanswered.decide(documents.get(anchorId));
    // What may have been booked and then forgotten is not booked again: the charge of the collection stands.
    for (const { task } of forgotten.flatMap(({ results }) => results)) {
      if (task.options.isFact) line.resolve(task, undefined);
    }
    line.dropFinished();
    if (proven === undefined) return;
    // What it has made of the others, at a version that has passed: nothing can be decided on it, but what is held there
    // is not lost sight of.
    for (const { id, confirmed, after } of proven.parts) {
      if (!fresh.includes(id) && isLedger(after))
        documents.set(id, { version: confirmed.version, record: after });
    }
    happened(proven);
  }

  /** An attempt is known to be in the store: its tasks are answered, once. */
  function happened(attempt: Attempt): void {
    pace.recovered();
    // A check stamps nothing, so it renews nothing.
    for (const { id, after } of attempt.parts) if (after !== undefined) renewals.delete(id);
    const now = session.now();
    const isLate = now >= attempt.moment.holdUntilMs;
    const isUnsound = isLate || wasDecidedByWrongTime(attempt, now, runtime.monotonicMs());
    for (const result of attempt.results) {
      const { task } = result;
      if (task.state === "answered") continue;
      if (result.threw) {
        line.reject(task, result.error);
        continue;
      }
      const { undo } = task.options;
      const isUndone = task.state === "given up" || (isUnsound && undo !== undefined);
      if (isUndone) postUndo(task.subject, undo?.(result.outcome as never));
      // A task undone for the time's sake stays in line and is decided again.
      if (!isUndone || task.state === "given up") line.resolve(task, result.outcome);
    }
    line.dropFinished();
    if (transient.size > 0) transient.clear();
    for (const { id, confirmed, after } of attempt.parts) {
      if (after !== undefined && confirmed.record !== undefined)
        surroundings.onWritten(id, confirmed.record, after);
    }
  }

  function postUndo(subject: Subject, step: Step<void> | undefined): void {
    if (step !== undefined) void line.add(subject, step, { isFact: true });
  }

  /**
   * An identity whose entry was collected or forgotten is spent: what it held can only be corrected. Names are
   * never used twice, so that a late settlement cannot meet a new entry of the same name. On documents other than the
   * anchor, an entry that held nothing can be made anew.
   */
  function renameIfSpent(id: string, record: AnyRecord | undefined): void {
    if (!isLedger(record) || record.nodes[node] !== undefined) return;
    const known = documents.get(id)?.record;
    const entry = isLedger(known) ? known.nodes[node] : undefined;
    const wasThere =
      (entry !== undefined && (id === anchorId || entry.open > 0)) ||
      unanswered.mayHaveNamed(node, id, record);
    if (!wasThere && record.collected[node] === undefined) return;
    formerNodes.add(node);
    node = surroundings.identity(true);
  }

  /** What requests of this process hold of a record, under whichever name. */
  function openEntries(record: AnyRecord | undefined): readonly NodeEntry[] {
    const names = [node, ...formerNodes].filter((name) => holdsUnder(name, record));
    return names.map((name) => (record as Ledger).nodes[name] as NodeEntry);
  }

  function isUnfinished(): boolean {
    return line.waiting().length > 0 || unanswered.count() > 0 || renewals.size > 0;
  }

  return {
    anchorId,
    confirmed: known,
    add(subject, step, options) {
      if (!options.isFact && unanswered.count() >= MAX_UNANSWERED) return Promise.reject(overloaded());
      return line.add(subject, step, options);
    },
    count(id, counted) {
      counts.add(id, counted);
    },
    waiting: (only) => line.waiting().filter(({ options }) => !(only && options.isFact)).length,
    unsettled: () => line.waiting().length + unanswered.givenUp(),
    isUnfinished,
    pauseMs() {
      // After a failure only facts wait for the back-off; a new request finds out at once.
      if (pace.hasFailed() && line.waiting().some(({ options }) => !options.isFact)) return 0;
      const isIdle = unanswered.count() === 0 && renewals.size === 0;
      return Math.max(pace.waitMs(), isIdle ? line.dueInMs() : 0);
    },
    choose,
    unknown,
    prepare,
    written,
    lost,
    failed,
    adopt,
    unreadable: (error) => backOff(error, () => true),
    renewIfDue() {
      const now = session.now();
      for (const [id, { record }] of documents) {
        const isDue = openEntries(record).some(({ renewByMs }) => renewByMs - now < (holdMs * 2) / 3);
        if (isDue) renewals.add(id);
      }
      const isOpen = (name: string) => [...documents.values()].some(({ record }) => holdsUnder(name, record));
      for (const name of formerNodes) if (!isOpen(name)) formerNodes.delete(name);
    },
    writeCounts() {
      for (const id of counts.all().keys()) if (documents.has(id)) renewals.add(id);
    },
    forget(id, isAtRest) {
      const isWanted = isAtRest ? isUnfinished() : id === anchorId || chosen.includes(id) || renewals.has(id);
      const isHeld = openEntries(documents.get(id)?.record).length > 0;
      if (isWanted || isHeld || unanswered.count() > 0) return false;
      documents.delete(id);
      counts.drop(id);
      return true;
    },
    isEmpty: () => documents.size === 0,
  };
}

function holdsUnder(name: string, record: AnyRecord | undefined): boolean {
  return isLedger(record) && (record.nodes[name]?.open ?? 0) > 0;
}
