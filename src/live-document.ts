import { type KeyRecord, keyDocumentId, keyWrite, parseKeyRecord } from "./documents.js";
import { KeystileError } from "./errors.js";
import { expireHolds, mayBeForgotten, newEntry, withNode } from "./quota.js";
import type { Runtime } from "./runtime.js";
import type { Document, Write } from "./store.js";
import { type StoreSession, withResolvers } from "./store-session.js";

/** Where and when a step runs. Arguments of the kernel, so that the kernel stays pure. */
export interface Moment {
  /** The identity under which this process holds something of the document. */
  readonly node: string;
  /** Store time. */
  readonly now: number;
  readonly holdUntilMs: number;
}

/** A pure step over a key's record. It may run several times; only the run that was written counts. */
export type Step<T> = (
  record: KeyRecord,
  moment: Moment,
) => { readonly record: KeyRecord; readonly outcome: T };

export interface StepOptions<T> {
  /** A fact is tried until it is stored. Anything else is given up after `storeTimeoutMs`. */
  readonly isFact: boolean;
  /** What to book when the outcome came too late for whoever waited, and turns out to have been written. */
  readonly undo?: (outcome: T) => Step<void> | undefined;
}

/** What the documents of one process share. */
export interface Surroundings {
  readonly session: StoreSession;
  readonly runtime: Runtime;
  readonly holdMs: number;
  readonly storeTimeoutMs: number;
  /** A number never given before by this process. */
  nextSeq(): number;
  /** The identity for documents not seen before; `spent: true` makes a new one. */
  identity(spent: boolean): string;
}

/** One try to write a document, with everything needed to recognise later whether it happened. */
export interface Attempt {
  readonly write: Write;
  /** False: nothing changed, so the write only checks and leaves no trace. */
  readonly changes: boolean;
  readonly node: string;
  readonly seq: number;
  readonly now: number;
  /** By the process's own clock. */
  readonly preparedAtMs: number;
  readonly holdUntilMs: number;
  readonly record: KeyRecord;
  readonly results: readonly Result[];
}

type Result =
  | { readonly task: Task; readonly threw: false; readonly outcome: unknown }
  | { readonly task: Task; readonly threw: true; readonly error: unknown };

interface Task {
  readonly step: Step<unknown>;
  readonly options: StepOptions<never>;
  readonly deadlineMs: number;
  readonly resolve: (outcome: unknown) => void;
  readonly reject: (error: unknown) => void;
  state: "waiting" | "answered" | "given up";
}

/** One key's document as this process sees it: what is confirmed, what waits, and what was tried. */
export interface LiveDocument {
  readonly keyId: string;
  readonly id: string;
  /** Only ever what a read or an acknowledged write has shown. undefined: nothing yet, or it is gone. */
  confirmed(): { readonly version: number; readonly record: KeyRecord } | undefined;
  /** Puts a step in line. Resolves when a write or a check has confirmed it; undefined: there is no document. */
  add<T>(step: Step<T>, options: StepOptions<T>): Promise<T | undefined>;
  waiting(): number;
  /** Whether something is to be written, or found out. */
  isUnfinished(): boolean;
  /** How long it is to be left alone. */
  pauseMs(): number;
  mustBeReadFirst(): boolean;
  /** Requests of this process in flight, as far as they can still be renewed. */
  open(): number;
  /** Marks the holds for renewal when less than two thirds of their time are left. */
  renewIfDue(): void;
  /** Runs everything that waits on the confirmed record. undefined: there is nothing to write or to confirm. */
  prepare(): Attempt | undefined;
  written(attempt: Attempt, version: number | undefined): void;
  lost(attempt: Attempt, current: Document | undefined): void;
  failed(attempt: Attempt, error: KeystileError): void;
  /** Takes over what a read begun at `atLeast` has shown. @throws KeystileError when it cannot be true */
  adopt(document: Document | undefined, atLeast: number): void;
  /** It could not be read, or not be understood. */
  unreadable(error: unknown): void;
}

/** Operations of one key that may wait in one process. Beyond, requests are answered 503. */
export const MAX_WAITING = 16_384;

/** Attempts of unknown outcome, while reads succeed and writes do not. */
const MAX_UNANSWERED = 64;

/** What was decided by a time that far from the store's is undone and decided again. */
const MAX_CLOCK_ERROR_MS = 1_000;

const MIN_BACKOFF_MS = 50;
const MAX_BACKOFF_MS = 5_000;

/** The winner of a contended document leaves it alone for up to so many round trips. */
const MAX_PAUSE_ROUND_TRIPS = 4;

export function liveDocument(keyId: string, surroundings: Surroundings): LiveDocument {
  const { session, runtime, holdMs, storeTimeoutMs } = surroundings;
  const id = keyDocumentId(keyId);
  let node = surroundings.identity(false);
  let confirmed: { readonly version: number; readonly record: KeyRecord } | undefined;
  let waiting: Task[] = [];
  /** Attempts of unknown outcome. All of them expect the confirmed version, so at most one can have happened. */
  let unanswered: Attempt[] = [];
  let renewDue = false;
  let lostRaces = 0;
  let failures = 0;
  let resumeAtMs = 0;

  // ── what waits ──────────────────────────────────────────────────────────────────────────────────────────

  function add<T>(step: Step<T>, options: StepOptions<T>): Promise<T | undefined> {
    if (!options.isFact && (waiting.length >= MAX_WAITING || unanswered.length >= MAX_UNANSWERED)) {
      const message = "More operations of one key wait for the store than are kept in memory.";
      return Promise.reject(new KeystileError("overloaded", message));
    }
    const { promise, resolve, reject } = withResolvers<T | undefined>();
    waiting.push({
      step,
      options: options as StepOptions<never>,
      deadlineMs: options.isFact ? Number.POSITIVE_INFINITY : runtime.monotonicMs() + storeTimeoutMs,
      resolve: resolve as (outcome: unknown) => void,
      reject,
      state: "waiting",
    });
    return promise;
  }

  function answer(task: Task, reply: () => void): void {
    if (task.state === "waiting") reply();
    task.state = "answered";
  }

  /** Whoever waits learns that it is not known. It may still turn out to have been written. */
  function giveUp(task: Task, error: unknown): void {
    if (task.state !== "waiting") return;
    task.state = "given up";
    task.reject(error);
  }

  function dropFinished(): void {
    waiting = waiting.filter(({ state }) => state === "waiting");
  }

  function answerAll(): void {
    for (const task of waiting) answer(task, () => task.resolve(undefined));
    waiting = [];
    renewDue = false;
  }

  // ── an attempt ──────────────────────────────────────────────────────────────────────────────────────────

  function prepare(): Attempt | undefined {
    giveUpLate();
    if (confirmed === undefined) {
      answerAll();
      return undefined;
    }
    if (!isUnfinished()) return undefined;

    const now = session.now();
    const holdUntilMs = now + holdMs;
    const swept = expireHolds(confirmed.record, now);
    renameIfSpent(swept);

    let record = swept;
    const results = waiting.map((task): Result => {
      try {
        const result = task.step(record, { node, now, holdUntilMs });
        record = result.record;
        return { task, threw: false, outcome: result.outcome };
      } catch (error) {
        return { task, threw: true, error };
      }
    });
    // An attempt of unknown outcome is settled by raising the version past the one it expects, so there is
    // something to write even with nothing to say.
    const changes = record !== swept || unanswered.length > 0 || renewDue;
    const base = { changes, node, now, preparedAtMs: runtime.monotonicMs(), holdUntilMs, results };
    if (!changes) return { ...base, write: { id, expected: confirmed.version }, seq: 0, record };
    const seq = surroundings.nextSeq();
    const stamped = stamp(record, seq, now, holdUntilMs);
    return { ...base, write: keyWrite(keyId, confirmed.version, stamped), seq, record: stamped };
  }

  function stamp(record: KeyRecord, seq: number, now: number, holdUntilMs: number): KeyRecord {
    const entry = record.nodes[node] ?? newEntry(record);
    const renewByMs = Math.max(entry.renewByMs, holdUntilMs);
    const latestMs = Math.max(record.latestMs, now);
    return { ...withNode(record, node, { ...entry, seq, renewByMs }), latestMs };
  }

  function giveUpLate(): void {
    const time = runtime.monotonicMs();
    for (const task of waiting) if (task.deadlineMs <= time) giveUp(task, tooLate(storeTimeoutMs));
    dropFinished();
  }

  // ── what became of it ───────────────────────────────────────────────────────────────────────────────────

  function written(attempt: Attempt, version: number | undefined): void {
    if (attempt.changes) {
      if (version === undefined || version <= attempt.write.expected) {
        failed(attempt, versionFault());
        return;
      }
      confirmed = { version, record: attempt.record };
      unanswered = [];
    }
    // The winner of a contended document lets others pass; losers retry at once. Without this, one starves.
    const pauseMs = lostRaces > 0 ? runtime.random() * MAX_PAUSE_ROUND_TRIPS * session.roundTripMs() : 0;
    // Bounded, because the last round trip may have been that of a process that stood still.
    resumeAtMs = runtime.monotonicMs() + Math.min(pauseMs, storeTimeoutMs / 10);
    lostRaces = 0;
    happened(attempt);
  }

  function lost(attempt: Attempt, current: Document | undefined): void {
    lostRaces += 1;
    // A reply that was overtaken by a copy of its own request says "lost" although it won: only `seq` tells.
    if (attempt.changes) unanswered.push(attempt);
    try {
      adopt(current, attempt.write.expected);
    } catch (error) {
      unreadable(error);
    }
  }

  function failed(attempt: Attempt, error: KeystileError): void {
    if (attempt.changes && error.mayHaveHappened) unanswered.push(attempt);
    const tried = new Set(attempt.results.map(({ task }) => task));
    backOff(error, (task) => tried.has(task));
  }

  function unreadable(error: unknown): void {
    backOff(error, () => true);
  }

  /** After a fault, requests get an answer and facts are tried again later. */
  function backOff(error: unknown, affects: (task: Task) => boolean): void {
    for (const task of waiting) if (!task.options.isFact && affects(task)) giveUp(task, error);
    dropFinished();
    renewDue = false;
    failures += 1;
    const backoffMs = Math.min(MAX_BACKOFF_MS, MIN_BACKOFF_MS * 2 ** Math.min(failures, 10));
    resumeAtMs = runtime.monotonicMs() + backoffMs * (0.5 + runtime.random() / 2);
  }

  function adopt(document: Document | undefined, atLeast: number): void {
    if (document === undefined) {
      // Gone for good: a version never repeats, so no attempt of ours can still happen.
      confirmed = undefined;
      unanswered = [];
      answerAll();
      return;
    }
    if (document.version < atLeast) throw versionFault();
    if (confirmed !== undefined && document.version < confirmed.version) return;
    const record = parseKeyRecord(document);
    renameIfSpent(record);
    confirmed = { version: document.version, record };

    // Until the version has passed the one an attempt expects, its absence proves nothing: it may still arrive.
    if (unanswered.every(({ write }) => write.expected >= document.version)) return;
    const decided = unanswered;
    unanswered = [];
    const proven = decided.find((attempt) => proofIn(record, attempt.node) === attempt.seq);
    if (proven !== undefined) happened(proven);
    else for (const attempt of decided) closeIfForgotten(attempt, record);
  }

  /** An attempt is known to be in the store: its tasks are answered, once. */
  function happened(attempt: Attempt): void {
    failures = 0;
    // A check stamps nothing, so it renews nothing.
    if (attempt.changes) renewDue = false;
    const isUnsound = wasDecidedByWrongTime(attempt) || session.now() >= attempt.holdUntilMs;
    for (const result of attempt.results) {
      const { task } = result;
      if (task.state === "answered") continue;
      if (result.threw) {
        answer(task, () => task.reject(result.error));
        continue;
      }
      const { undo } = task.options;
      const isUndone = task.state === "given up" || (isUnsound && undo !== undefined);
      if (isUndone) postUndo(undo?.(result.outcome as never));
      // A task undone for the time's sake stays in line and is decided again.
      if (!isUndone || task.state === "given up") answer(task, () => task.resolve(result.outcome));
    }
    dropFinished();
  }

  /** Store time is known to within the time a call takes: once when the attempt was prepared, and once now. */
  function wasDecidedByWrongTime({ now, preparedAtMs }: Attempt): boolean {
    const elapsedMs = runtime.monotonicMs() - preparedAtMs;
    const passedMs = session.now() - now;
    return passedMs < elapsedMs - MAX_CLOCK_ERROR_MS || passedMs > 2 * elapsedMs + MAX_CLOCK_ERROR_MS;
  }

  function postUndo(step: Step<void> | undefined): void {
    if (step !== undefined) void add(step, { isFact: true });
  }

  /** What may have been booked and then forgotten is not booked again: the charge of the collection stands. */
  function closeIfForgotten(attempt: Attempt, record: KeyRecord): void {
    if (proofIn(record, attempt.node) !== undefined) return;
    if (!mayBeForgotten(record, attempt.holdUntilMs)) return;
    for (const { task } of attempt.results) {
      if (task.options.isFact) answer(task, () => task.resolve(undefined));
    }
    dropFinished();
  }

  /**
   * An identity whose entry was collected or forgotten is spent: what it held can only be corrected. Names are
   * never used twice, so that a late settlement cannot meet a new entry of the same name.
   */
  function renameIfSpent(record: KeyRecord): void {
    if (record.nodes[node] !== undefined) return;
    const wasThere =
      confirmed?.record.nodes[node] !== undefined || unanswered.some((attempt) => attempt.node === node);
    if (wasThere || record.collected[node] !== undefined) node = surroundings.identity(true);
  }

  function isUnfinished(): boolean {
    return waiting.length > 0 || unanswered.length > 0 || renewDue;
  }

  return {
    keyId,
    id,
    confirmed: () => confirmed,
    add,
    waiting: () => waiting.length,
    isUnfinished,
    pauseMs() {
      // After a failure only facts wait for the back-off; a new request finds out at once.
      const isUrgent = failures > 0 && waiting.some(({ options }) => !options.isFact);
      return isUrgent ? 0 : resumeAtMs - runtime.monotonicMs();
    },
    mustBeReadFirst: () => confirmed === undefined || unanswered.length > 0,
    open: () => confirmed?.record.nodes[node]?.open ?? 0,
    renewIfDue() {
      const entry = confirmed?.record.nodes[node];
      if (entry !== undefined && entry.open > 0) {
        renewDue ||= entry.renewByMs - session.now() < (holdMs * 2) / 3;
      }
    },
    prepare,
    written,
    lost,
    failed,
    adopt,
    unreadable,
  };
}

/** The latest attempt of a process that this record contains. */
function proofIn(record: KeyRecord, node: string): number | undefined {
  return (record.nodes[node] ?? record.collected[node])?.seq;
}

export function versionFault(): KeystileError {
  return new KeystileError(
    "document_invalid",
    "A key document has a version below one already seen. Was the store restored from a backup? Then restart.",
    { mayHaveHappened: true },
  );
}

function tooLate(storeTimeoutMs: number): KeystileError {
  return new KeystileError("store_unavailable", `It could not be decided within ${storeTimeoutMs} ms.`);
}
