import type { Thresholds } from "./alerts.js";
import {
  type Confirmed,
  compose,
  isLedger,
  type Step,
  type Subject,
  sweepAll,
} from "./attempt.js";
import { type AnyRecord, parseRecord } from "./document-schemas.js";
import type { DayTally } from "./documents.js";
import { KeystileError } from "./errors.js";
import type { Runtime } from "./runtime.js";
import type { Document } from "./store.js";
import type { StoreSession } from "./store-session.js";
import { type Count, mergeDays, withCount } from "./tally.js";
import { backoffMs, overloaded, type StepOptions, type Task, taskLine } from "./task-line.js";
import { type Attempt, unansweredAttempts } from "./unanswered.js";

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
  waiting(): number;
  /** Whether something is to be written, or found out. */
  isUnfinished(): boolean;
  /** How long it is to be left alone. */
  pauseMs(): number;
  /** The documents that the next attempt is about, at most 16. */
  choose(): readonly string[];
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
  /** Drops what is known of a document on which nothing depends. False: something does. */
  forget(id: string): boolean;
  isEmpty(): boolean;
}

/** Documents of one attempt. Each may close a day, which makes it another one; a group has at most 32. */
const MAX_DOCUMENTS = 16;

/** Attempts of unknown outcome, while reads succeed and writes do not. */
const MAX_UNANSWERED = 64;

/** What was decided by a time that far from the store's is undone and decided again. */
const MAX_CLOCK_ERROR_MS = 1_000;

/** The winner of a contended group leaves it alone for up to so many round trips. */
const MAX_PAUSE_ROUND_TRIPS = 4;

export function liveGroup(anchorId: string, surroundings: Surroundings): LiveGroup {
  const { session, runtime, holdMs, storeTimeoutMs } = surroundings;
  let node = surroundings.identity(false);
  const documents = new Map<string, Confirmed>();
  const tallies = new Map<string, DayTally>();
  /** What a read of this turn has not found. Absence is not remembered beyond it. */
  let absent = new Set<string>();
  const line = taskLine(runtime, storeTimeoutMs);
  let chosen: readonly string[] = [];
  let chosenTasks: ReadonlySet<Task> = new Set();
  const unanswered = unansweredAttempts(anchorId);
  const renewals = new Set<string>();
  let lostRaces = 0;
  let failures = 0;
  let resumeAtMs = 0;

  // ── an attempt ──────────────────────────────────────────────────────────────────────────────────────────

  function choose(): readonly string[] {
    line.giveUpLate();
    absent = new Set();
    const ids = new Set([anchorId]);
    for (const wanted of [...line.due().map((task) => task.ids), ...[...renewals].map((id) => [id])]) {
      const fresh = wanted.filter((id) => !ids.has(id));
      if (ids.size + fresh.length <= MAX_DOCUMENTS) for (const id of fresh) ids.add(id);
    }
    chosen = [...ids];
    chosenTasks = new Set(line.waiting());
    return chosen;
  }

  function unknown(): readonly string[] {
    return unanswered.count() > 0 ? chosen : chosen.filter((id) => !documents.has(id));
  }

  function prepare(): Attempt | undefined {
    answerAbsent();
    if (!documents.has(anchorId) || !isUnfinished()) return undefined;

    const now = session.now();
    const ids = chosen.filter((id) => documents.has(id));
    const before = new Map(ids.map((id) => [id, documents.get(id) as Confirmed]));
    for (const [id, document] of documents) if (id.startsWith("usage:")) before.set(id, document);
    const swept = sweepAll(before, now);
    for (const [id, record] of swept.records) renameIfSpent(id, record);
    const moment = { node, now, holdUntilMs: now + holdMs };
    let seq = 0;
    const composed = compose<Task>({
      anchorId,
      documents: before,
      swept,
      tasks: line.due().filter((task) => task.ids.every((id) => before.has(id))),
      moment,
      nextSeq: () => (seq = surroundings.nextSeq()),
      renewals: new Set([...renewals].filter((id) => before.has(id))),
      // An attempt of unknown outcome is settled by raising the version past the one it expects, so there is
      // something to write even with nothing to say.
      mustWrite: unanswered.count() > 0,
      tallies,
      thresholds: surroundings.thresholds,
    });
    const taken = new Map([...composed.tallied].map((id) => [id, tallies.get(id) as DayTally]));
    for (const id of taken.keys()) tallies.delete(id);
    return { ...composed, ...moment, seq, preparedAtMs: runtime.monotonicMs(), before, tallies: taken };
  }

  /** There is nothing to be decided on a document that is not there. Who came after the read began is not told. */
  function answerAbsent(): void {
    for (const task of chosenTasks) {
      const missing = task.ids.find((id) => absent.has(id) && !id.startsWith("entry:"));
      if (missing === undefined) continue;
      const isOrphan = task.subject.keyId !== undefined && missing.startsWith("account:");
      if (isOrphan && !task.options.isFact) line.answer(task, () => task.reject(accountMissing()));
      else line.answer(task, () => task.resolve(undefined));
    }
    line.dropFinished();
    for (const id of absent) renewals.delete(id);
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
      for (const [index, { id, set }] of attempt.writes.entries()) {
        const record = attempt.records.get(id);
        if (set !== undefined && isLedger(record))
          documents.set(id, { version: versions[index] as number, record });
      }
      unanswered.clear();
    }
    // The winner of a contended group lets others pass; losers retry at once. Without this, one starves.
    const pauseMs = lostRaces > 0 ? runtime.random() * MAX_PAUSE_ROUND_TRIPS * session.roundTripMs() : 0;
    // Bounded, because the last round trip may have been that of a process that stood still.
    resumeAtMs = runtime.monotonicMs() + Math.min(pauseMs, storeTimeoutMs / 10);
    lostRaces = 0;
    happened(attempt);
  }

  function lost(attempt: Attempt, current: readonly Document[]): void {
    lostRaces += 1;
    keepTallies(attempt);
    // A reply that was overtaken by a copy of its own request says "lost" although it won: only `seq` tells.
    if (attempt.changes) unanswered.add(attempt);
    const ids = attempt.writes.map(({ id }) => id);
    const versions = new Map(attempt.writes.map(({ id, expected }) => [id, expected]));
    adopt(ids, new Map(current.map((document) => [document.id, document])), versions);
  }

  function failed(attempt: Attempt, error: KeystileError): void {
    if (attempt.changes && error.mayHaveHappened) unanswered.add(attempt);
    else keepTallies(attempt);
    const tried = new Set(attempt.results.map(({ task }) => task));
    backOff(error, (task) => tried.has(task));
  }

  function keepTallies(attempt: Attempt): void {
    for (const [id, tally] of attempt.tallies)
      tallies.set(id, mergeDays(tally, tallies.get(id) ?? NO_COUNTS));
  }

  /** After a fault, requests get an answer and facts are tried again later. */
  function backOff(error: unknown, affects: (task: Task) => boolean): void {
    for (const task of line.waiting()) if (!task.options.isFact && affects(task)) line.giveUp(task, error);
    line.dropFinished();
    renewals.clear();
    failures += 1;
    resumeAtMs = runtime.monotonicMs() + backoffMs(failures, runtime);
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
        documents.delete(id);
        for (const task of line.waiting()) if (task.ids.includes(id)) line.postpone(task, error);
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
    const known = documents.get(id);
    if (document === undefined) {
      documents.delete(id);
      absent.add(id);
      if (id.startsWith("entry:")) documents.set(id, { version: 0, record: undefined });
      return;
    }
    if (document.version < atLeast) throw versionFault();
    if (known !== undefined && document.version < known.version) return;
    const record = parseRecord(document);
    renameIfSpent(id, record);
    documents.set(id, { version: document.version, record });
  }

  /** Looks in the anchor, just read, for the attempts of unknown outcome. */
  function findProof(fresh: readonly string[]): void {
    const { proven, forgotten } = unanswered.decide(documents.get(anchorId));
    // What may have been booked and then forgotten is not booked again: the charge of the collection stands.
    for (const { task } of forgotten.flatMap(({ results }) => results)) {
      if (task.options.isFact) line.answer(task, () => task.resolve(undefined));
    }
    line.dropFinished();
    if (proven === undefined) return;
    // What it has made of the other documents is seen by who reads them.
    for (const id of proven.records.keys()) if (!fresh.includes(id)) documents.delete(id);
    happened(proven);
  }

  /** An attempt is known to be in the store: its tasks are answered, once. */
  function happened(attempt: Attempt): void {
    failures = 0;
    // A check stamps nothing, so it renews nothing.
    for (const id of attempt.records.keys()) renewals.delete(id);
    const isUnsound = wasDecidedByWrongTime(attempt) || session.now() >= attempt.holdUntilMs;
    for (const result of attempt.results) {
      const { task } = result;
      if (task.state === "answered") continue;
      if (result.threw) {
        line.answer(task, () => task.reject(result.error));
        continue;
      }
      const { undo } = task.options;
      const isUndone = task.state === "given up" || (isUnsound && undo !== undefined);
      if (isUndone) postUndo(task.subject, undo?.(result.outcome as never));
      // A task undone for the time's sake stays in line and is decided again.
      if (!isUndone || task.state === "given up") line.answer(task, () => task.resolve(result.outcome));
    }
    line.dropFinished();
    // What is only ever made once need not be remembered.
    for (const { id } of attempt.writes) if (!isLedger(documents.get(id)?.record)) documents.delete(id);
    for (const [id, after] of attempt.records) {
      const before = attempt.before.get(id)?.record;
      if (before !== undefined) surroundings.onWritten(id, before, after);
    }
  }

  /** Store time is known to within the time a call takes: once when the attempt was prepared, and once now. */
  function wasDecidedByWrongTime({ now, preparedAtMs }: Attempt): boolean {
    const elapsedMs = runtime.monotonicMs() - preparedAtMs;
    const passedMs = session.now() - now;
    return passedMs < elapsedMs - MAX_CLOCK_ERROR_MS || passedMs > 2 * elapsedMs + MAX_CLOCK_ERROR_MS;
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
      (entry !== undefined && (id === anchorId || entry.open > 0)) || unanswered.mayHaveNamed(node, id);
    if (wasThere || record.collected[node] !== undefined) node = surroundings.identity(true);
  }

  function isUnfinished(): boolean {
    return line.waiting().length > 0 || unanswered.count() > 0 || renewals.size > 0;
  }

  return {
    anchorId,
    confirmed: (id) => documents.get(id),
    add(subject, step, options) {
      if (!options.isFact && unanswered.count() >= MAX_UNANSWERED) return Promise.reject(overloaded());
      return line.add(subject, step, options);
    },
    count(id, counted) {
      tallies.set(id, withCount(tallies.get(id) ?? NO_COUNTS, counted));
    },
    waiting: () => line.waiting().length,
    isUnfinished,
    pauseMs() {
      // After a failure only facts wait for the back-off; a new request finds out at once.
      if (failures > 0 && line.waiting().some(({ options }) => !options.isFact)) return 0;
      const isIdle = unanswered.count() === 0 && renewals.size === 0;
      return Math.max(resumeAtMs - runtime.monotonicMs(), isIdle ? line.dueInMs() : 0);
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
      for (const [id, { record }] of documents) {
        const entry = isLedger(record) ? record.nodes[node] : undefined;
        if (entry === undefined || entry.open === 0) continue;
        if (entry.renewByMs - session.now() < (holdMs * 2) / 3) renewals.add(id);
      }
    },
    writeCounts() {
      for (const id of tallies.keys()) if (documents.has(id)) renewals.add(id);
    },
    forget(id) {
      const record = documents.get(id)?.record;
      const isHeld = isLedger(record) && (record.nodes[node]?.open ?? 0) > 0;
      if (isHeld || isUnfinished()) return false;
      documents.delete(id);
      tallies.delete(id);
      return true;
    },
    isEmpty: () => documents.size === 0,
  };
}

const NO_COUNTS: DayTally = { day: 0, models: {} };

export function accountMissing(): KeystileError {
  return new KeystileError("document_invalid", "A key's account document is missing from the store.");
}

export function versionFault(): KeystileError {
  return new KeystileError(
    "document_invalid",
    "A document has a version below one already seen. Was the store restored from a backup? Then restart.",
    { mayHaveHappened: true },
  );
}
