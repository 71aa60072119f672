import { type KeyRecord, keyDocumentId, keyWrite, parseKeyRecord } from "./documents.js";
import { KeystileError } from "./errors.js";
import { expireHolds, mayBeForgotten, newEntry, withNode } from "./quota.js";
import type { Runtime } from "./runtime.js";
import type { Document, Write, WriteResult } from "./store.js";
import { type StoreSession, withResolvers } from "./store-session.js";

/** Where and when an operation runs. Arguments of the kernel, so that the kernel stays pure. */
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

/**
 * Between the kernel and the store. Per lane of the process one write is in flight; operations that arrive meanwhile
 * share the next one. A lost race brings the current documents, and all operations not yet written run again on them.
 *
 * What is waited for resolves only when a write (or, where nothing changed, a check in the same batch) has confirmed
 * the document it was decided on: allowances and refusals alike. `undefined` means that the document does not exist.
 */
export interface GroupCommit {
  /** The key's record as last confirmed here, if it is cached. It may only suggest. */
  cached(keyId: string): KeyRecord | undefined;
  /** The key's record from a read begun after this call. */
  fetch(keyId: string): Promise<KeyRecord | undefined>;
  /**
   * Decides a request. When its answer came too late (a fault was thrown) and its write turns out to have happened
   * after all, `undo` of the outcome is posted.
   * @throws KeystileError when it cannot be decided within `storeTimeoutMs`.
   */
  decide<T>(
    keyId: string,
    step: Step<T>,
    undo: (outcome: T) => Step<void> | undefined,
  ): Promise<T | undefined>;
  /** Books what is a fact. Retried until it is stored; resolves then, also when the document is gone. */
  post(keyId: string, step: Step<void>): Promise<void>;
  /** Changes a record, or throws what the step throws. @throws KeystileError, also when the outcome is unknown */
  edit<T>(keyId: string, step: Step<T>): Promise<T | undefined>;
  /** Renews the holds of requests in flight that have less than two thirds of their time left. */
  renew(): void;
  /** Resolves when nothing waits to be written or the time is over, with the number of operations that still wait. */
  flush(timeoutMs: number): Promise<number>;
}

export interface GroupCommitOptions {
  readonly session: StoreSession;
  readonly runtime: Runtime;
  /** The name of this process in documents; never used by another one. */
  readonly processId: string;
  readonly holdMs: number;
  readonly storeTimeoutMs: number;
  /** Documents kept in memory beyond those in use. */
  readonly cacheSize: number;
}

interface Task {
  readonly step: Step<unknown>;
  readonly undo: ((outcome: never) => Step<void> | undefined) | undefined;
  /** Facts are never given up. */
  readonly isFact: boolean;
  readonly deadlineMs: number;
  readonly resolve: (outcome: unknown) => void;
  readonly reject: (error: unknown) => void;
  state: "waiting" | "answered" | "given up";
}

/** One try to write a document, with everything needed to recognise later whether it happened. */
interface Attempt {
  readonly node: string;
  readonly seq: number;
  readonly expected: number;
  readonly now: number;
  readonly holdUntilMs: number;
  readonly record: KeyRecord;
  readonly results: readonly { readonly task: Task; readonly outcome?: unknown; readonly error?: unknown }[];
  /** False: nothing changed, so the write only checks and leaves no trace. */
  readonly writes: boolean;
}

/** One document as this process sees it. */
interface Cell {
  readonly keyId: string;
  readonly id: string;
  readonly lane: Lane;
  node: string;
  /** Only ever what a read or an acknowledged write has shown. undefined: not read yet. */
  confirmed: { readonly version: number; readonly record: KeyRecord } | undefined;
  waiting: Task[];
  /** Attempts of unknown outcome. All of them expect the confirmed version, so at most one can have happened. */
  unanswered: Attempt[];
  inFlight: boolean;
  renewDue: boolean;
  lostRaces: number;
  failures: number;
  /** Not to be written before. */
  resumeAtMs: number;
  resumeIsTimed: boolean;
}

interface Lane {
  readonly ready: Set<Cell>;
  running: boolean;
}

const LANES = 4;

/** Documents in one statement. */
const BATCH = 256;

/** Operations that may wait in one process. Beyond, requests are answered 503. */
export const MAX_WAITING = 65_536;

/** A write whose reply shows a clock that far from the one it decided by decides nothing. */
const MAX_CLOCK_ERROR_MS = 1_000;

const MAX_BACKOFF_MS = 5_000;

export function groupCommit(options: GroupCommitOptions): GroupCommit {
  const { session, runtime, processId, holdMs, storeTimeoutMs, cacheSize } = options;
  const cells = new Map<string, Cell>();
  const unfinished = new Set<Cell>();
  const lanes = Array.from({ length: LANES }, (): Lane => ({ ready: new Set(), running: false }));
  let waitingCount = 0;
  let lastSeq = 0;
  let generation = 0;
  let onQuiet: (() => void)[] = [];

  // ── operations ────────────────────────────────────────────────────────────────────────────────────────────────

  function enqueue<T>(
    keyId: string,
    step: Step<T>,
    { undo, isFact }: { undo?: (outcome: T) => Step<void> | undefined; isFact: boolean },
  ): Promise<T | undefined> {
    if (!isFact && waitingCount >= MAX_WAITING) {
      return Promise.reject(
        new KeystileError("overloaded", `More than ${MAX_WAITING} operations wait for the store.`),
      );
    }
    const { promise, resolve, reject } = withResolvers<T | undefined>();
    const cell = cellOf(keyId);
    waitingCount += 1;
    cell.waiting.push({
      step,
      undo,
      isFact,
      deadlineMs: isFact ? Number.POSITIVE_INFINITY : runtime.monotonicMs() + storeTimeoutMs,
      resolve: resolve as (outcome: unknown) => void,
      reject,
      state: "waiting",
    });
    schedule(cell);
    return promise;
  }

  function answer(task: Task, reply: () => void): void {
    if (task.state === "waiting") {
      waitingCount -= 1;
      reply();
    }
    task.state = "answered";
  }

  /** The caller learns that it is not known; the task may still turn out to have been written. */
  function giveUp(task: Task, error: unknown): void {
    if (task.state !== "waiting") return;
    waitingCount -= 1;
    task.state = "given up";
    task.reject(error);
  }

  function post(cell: Cell, step: Step<void>): void {
    void enqueue(cell.keyId, step, { isFact: true });
  }

  // ── lanes: who is written next ────────────────────────────────────────────────────────────────────────────────

  function schedule(cell: Cell): void {
    unfinished.add(cell);
    if (cell.inFlight) return;
    const pauseMs = cell.resumeAtMs - runtime.monotonicMs();
    if (pauseMs > 0 && !isUrgent(cell)) {
      resumeLater(cell, pauseMs);
      return;
    }
    cell.lane.ready.add(cell);
    if (cell.lane.running) return;
    cell.lane.running = true;
    queueMicrotask(() => void run(cell.lane));
  }

  function resumeLater(cell: Cell, pauseMs: number): void {
    if (cell.resumeIsTimed) return;
    cell.resumeIsTimed = true;
    runtime.setTimer(() => {
      cell.resumeIsTimed = false;
      if (unfinished.has(cell)) schedule(cell);
    }, pauseMs);
  }

  /** After a failure only facts wait for the back-off; a new request finds out at once. */
  function isUrgent(cell: Cell): boolean {
    return cell.failures > 0 && cell.waiting.some((task) => !task.isFact);
  }

  async function run(lane: Lane): Promise<void> {
    while (lane.ready.size > 0) {
      const batch: Cell[] = [];
      for (const cell of lane.ready) {
        if (batch.length === BATCH) break;
        lane.ready.delete(cell);
        cell.inFlight = true;
        batch.push(cell);
      }
      await commit(batch);
      for (const cell of batch) {
        cell.inFlight = false;
        if (cell.waiting.length > 0 || cell.unanswered.length > 0 || cell.renewDue) schedule(cell);
        else unfinished.delete(cell);
      }
      if (unfinished.size === 0) for (const quiet of onQuiet.splice(0)) quiet();
    }
    lane.running = false;
  }

  async function commit(batch: readonly Cell[]): Promise<void> {
    const readFirst = session.isStale() ? batch : batch.filter(mustReadFirst);
    const unreadable = readFirst.length > 0 ? await refresh(readFirst) : new Set<Cell>();

    const prepared: { readonly cell: Cell; readonly attempt: Attempt; readonly write: Write }[] = [];
    for (const cell of batch) {
      try {
        const attempt = unreadable.has(cell) ? undefined : prepare(cell);
        if (attempt !== undefined) prepared.push({ cell, attempt, write: asWrite(cell, attempt) });
      } catch (error) {
        backOff(cell, error);
      }
    }
    if (prepared.length === 0) return;

    let results: readonly WriteResult[];
    try {
      results = await session.write(prepared.map(({ write }) => [write]));
    } catch (error) {
      for (const { cell, attempt } of prepared) failed(cell, attempt, error as KeystileError);
      return;
    }
    prepared.forEach(({ cell, attempt }, index) => {
      const result = results[index];
      if (result?.written) written(cell, attempt, result.versions[0]);
      else lost(cell, attempt, result?.current[0]);
    });
  }

  function mustReadFirst(cell: Cell): boolean {
    return cell.confirmed === undefined || cell.unanswered.length > 0;
  }

  /** Brings cells up to date with one read; returns those of which nothing reliable is known. */
  async function refresh(stale: readonly Cell[]): Promise<ReadonlySet<Cell>> {
    const known = new Map(stale.map((cell) => [cell, cell.confirmed?.version ?? 0]));
    const unreadable = new Set<Cell>();
    let documents: ReadonlyMap<string, Document> | undefined;
    let fault: unknown;
    try {
      documents = await session.read(stale.map(({ id }) => id));
    } catch (error) {
      fault = error;
    }
    for (const cell of stale) {
      try {
        if (documents === undefined) throw fault;
        adopt(cell, documents.get(cell.id), known.get(cell) ?? 0);
      } catch (error) {
        unreadable.add(cell);
        backOff(cell, error);
      }
    }
    return unreadable;
  }

  // ── one document: prepare, and what may become of it ──────────────────────────────────────────────────────────

  /** Runs everything that waits on the confirmed record. undefined: there is nothing to write or to confirm. */
  function prepare(cell: Cell): Attempt | undefined {
    const { confirmed } = cell;
    if (confirmed === undefined) {
      answerAll(cell, undefined);
      return undefined;
    }
    giveUpLate(cell);
    if (cell.waiting.length === 0 && cell.unanswered.length === 0 && !cell.renewDue) return undefined;

    const now = session.now();
    const holdUntilMs = now + holdMs;
    const swept = expireHolds(confirmed.record, now);
    renameIfSpent(cell, swept);

    let record = swept;
    const results = cell.waiting.map((task) => {
      try {
        const result = task.step(record, { node: cell.node, now, holdUntilMs });
        record = result.record;
        return { task, outcome: result.outcome };
      } catch (error) {
        return { task, error };
      }
    });
    // An attempt of unknown outcome is settled by raising the version past the one it expects, even with nothing to say.
    const writes = record !== swept || cell.unanswered.length > 0 || cell.renewDue;
    if (!writes) {
      return {
        node: cell.node,
        seq: 0,
        expected: confirmed.version,
        now,
        holdUntilMs,
        record,
        results,
        writes,
      };
    }
    lastSeq += 1;
    const entry = record.nodes[cell.node] ?? newEntry(record);
    const renewByMs = Math.max(entry.renewByMs, holdUntilMs);
    const stamped = withNode(record, cell.node, { ...entry, seq: lastSeq, renewByMs });
    return {
      node: cell.node,
      seq: lastSeq,
      expected: confirmed.version,
      now,
      holdUntilMs,
      record: stamped,
      results,
      writes,
    };
  }

  function written(cell: Cell, attempt: Attempt, version: number | undefined): void {
    if (attempt.writes) {
      if (!Number.isSafeInteger(version) || (version as number) <= attempt.expected) {
        failed(cell, attempt, versionFault());
        return;
      }
      cell.confirmed = { version: version as number, record: attempt.record };
      cell.unanswered = [];
    }
    if (cell.lostRaces > 0) {
      // The winner of a contended document lets others pass; losers retry at once. Without this, one starves.
      cell.resumeAtMs = runtime.monotonicMs() + runtime.random() * 4 * session.roundTripMs();
      cell.lostRaces = 0;
    }
    happened(cell, attempt);
  }

  function lost(cell: Cell, attempt: Attempt, current: Document | undefined): void {
    cell.lostRaces += 1;
    // A reply that was overtaken by a copy of its own request says "lost" although it won: only `seq` tells.
    if (attempt.writes) cell.unanswered.push(attempt);
    try {
      adopt(cell, current, attempt.expected);
    } catch (error) {
      backOff(cell, error);
    }
  }

  function failed(cell: Cell, attempt: Attempt, error: KeystileError): void {
    if (attempt.writes && error.mayHaveHappened) cell.unanswered.push(attempt);
    cell.renewDue = false;
    const tried = new Set(attempt.results.map(({ task }) => task));
    backOff(cell, error, (task) => tried.has(task));
  }

  /** Takes over what a read or a lost race has shown. @throws KeystileError when it cannot be true */
  function adopt(cell: Cell, document: Document | undefined, atLeast: number): void {
    if (document === undefined) {
      // Gone for good: a version never repeats, so no attempt of ours can still happen.
      cell.confirmed = undefined;
      cell.unanswered = [];
      answerAll(cell, undefined);
      return;
    }
    if (document.version < atLeast) throw versionFault();
    if (document.version < (cell.confirmed?.version ?? 0)) return;
    const record = parseKeyRecord(document);
    renameIfSpent(cell, record);
    cell.confirmed = { version: document.version, record };

    const { unanswered } = cell;
    if (unanswered.every(({ expected }) => expected >= document.version)) return;
    cell.unanswered = [];
    const proven = unanswered.find(({ node, seq }) => proofIn(record, node) === seq);
    if (proven !== undefined) happened(cell, proven);
    else for (const attempt of unanswered) closeUnknowable(cell, attempt, record);
  }

  function proofIn(record: KeyRecord, node: string): number | undefined {
    return (record.nodes[node] ?? record.collected[node])?.seq;
  }

  /** An attempt is known to be in the store: its operations are answered, once. */
  function happened(cell: Cell, attempt: Attempt): void {
    cell.failures = 0;
    cell.renewDue = false;
    const now = session.now();
    const clockWasWrong = Math.abs(now - attempt.now) > MAX_CLOCK_ERROR_MS;
    for (const { task, outcome, error } of attempt.results) {
      if (task.state === "answered") continue;
      if (error !== undefined) {
        answer(task, () => task.reject(error));
        continue;
      }
      const undone = task.state === "given up" || (clockWasWrong && task.undo !== undefined);
      const undo = undone ? task.undo?.(outcome as never) : undefined;
      if (undo !== undefined) post(cell, undo);
      if (undone && task.state === "waiting") continue; // It stays in line and is decided again, by the right time.
      answer(task, () => task.resolve(outcome));
    }
    cell.waiting = cell.waiting.filter(isWaiting);
  }

  /** What may have been booked and then forgotten is not booked again: the charge of the collection stands. */
  function closeUnknowable(cell: Cell, attempt: Attempt, record: KeyRecord): void {
    if (proofIn(record, attempt.node) !== undefined) return;
    if (!mayBeForgotten(record, attempt.holdUntilMs, session.now())) return;
    for (const { task } of attempt.results) if (task.isFact) answer(task, () => task.resolve(undefined));
    cell.waiting = cell.waiting.filter(isWaiting);
  }

  function answerAll(cell: Cell, outcome: undefined): void {
    for (const task of cell.waiting) answer(task, () => task.resolve(outcome));
    cell.waiting = [];
    cell.renewDue = false;
  }

  function giveUpLate(cell: Cell): void {
    const time = runtime.monotonicMs();
    for (const task of cell.waiting) {
      if (task.deadlineMs <= time) giveUp(task, tooLate(storeTimeoutMs));
    }
    cell.waiting = cell.waiting.filter(isWaiting);
  }

  /** After a fault: whoever waits for an answer gets it, facts are tried again later. */
  function backOff(cell: Cell, error: unknown, affects: (task: Task) => boolean = () => true): void {
    for (const task of cell.waiting) if (!task.isFact && affects(task)) giveUp(task, error);
    cell.waiting = cell.waiting.filter(isWaiting);
    cell.failures += 1;
    const backoffMs = Math.min(MAX_BACKOFF_MS, 50 * 2 ** Math.min(cell.failures, 10));
    cell.resumeAtMs = runtime.monotonicMs() + backoffMs * (0.5 + runtime.random() / 2);
  }

  /**
   * An identity whose entry was collected or forgotten is spent: what it held can only be corrected. Names are never
   * used twice, so that a late settlement cannot meet a new entry of the same name.
   */
  function renameIfSpent(cell: Cell, record: KeyRecord): void {
    const { node, confirmed, unanswered } = cell;
    if (record.nodes[node] !== undefined) return;
    const wasThere =
      confirmed?.record.nodes[node] !== undefined || unanswered.some((attempt) => attempt.node === node);
    if (!wasThere && record.collected[node] === undefined) return;
    generation += 1;
    cell.node = `${processId}.${generation}`;
  }

  // ── cells: the cache ──────────────────────────────────────────────────────────────────────────────────────────

  function cellOf(keyId: string): Cell {
    const known = cells.get(keyId);
    if (known !== undefined) {
      cells.delete(keyId);
      cells.set(keyId, known);
      return known;
    }
    const cell: Cell = {
      keyId,
      id: keyDocumentId(keyId),
      lane: lanes[laneOf(keyId)] as Lane,
      node: `${processId}.${generation}`,
      confirmed: undefined,
      waiting: [],
      unanswered: [],
      inFlight: false,
      renewDue: false,
      lostRaces: 0,
      failures: 0,
      resumeAtMs: 0,
      resumeIsTimed: false,
    };
    cells.set(keyId, cell);
    if (cells.size > cacheSize) evict();
    return cell;
  }

  /** Drops the least recently used documents that nothing depends on. */
  function evict(): void {
    let looked = 0;
    for (const [keyId, cell] of cells) {
      looked += 1;
      if (cells.size <= cacheSize || looked > 16) return;
      cells.delete(keyId);
      if (isInUse(cell)) cells.set(keyId, cell);
    }
  }

  function isInUse(cell: Cell): boolean {
    return cell.inFlight || unfinished.has(cell) || openRequests(cell) > 0;
  }

  function openRequests({ confirmed, node }: Cell): number {
    return confirmed?.record.nodes[node]?.open ?? 0;
  }

  // ── the surface ───────────────────────────────────────────────────────────────────────────────────────────────

  return {
    cached: (keyId) => cells.get(keyId)?.confirmed?.record,

    async fetch(keyId) {
      const cell = cellOf(keyId);
      const known = cell.confirmed?.version ?? 0;
      const document = await session.fetch(cell.id);
      // With a write under way the lane owns the cell; what was read is right all the same.
      if (!cell.inFlight) adopt(cell, document, known);
      else if (document !== undefined && document.version < known) throw versionFault();
      if (document === undefined) return undefined;
      return cell.confirmed?.version === document.version ? cell.confirmed.record : parseKeyRecord(document);
    },

    decide: (keyId, step, undo) => enqueue(keyId, step, { undo, isFact: false }),

    post: async (keyId, step) => void (await enqueue(keyId, step, { isFact: true })),

    edit: (keyId, step) => enqueue(keyId, step, { isFact: false }),

    renew() {
      for (const cell of cells.values()) {
        const entry = cell.confirmed?.record.nodes[cell.node];
        if (entry === undefined || entry.open === 0) continue;
        if (entry.renewByMs - session.now() > (holdMs * 2) / 3) continue;
        cell.renewDue = true;
        schedule(cell);
      }
    },

    async flush(timeoutMs) {
      if (unfinished.size > 0) {
        const quiet = withResolvers<void>();
        onQuiet.push(quiet.resolve);
        const cancel = runtime.setTimer(quiet.resolve, timeoutMs);
        await quiet.promise;
        cancel();
        onQuiet = onQuiet.filter((other) => other !== quiet.resolve);
      }
      let unwritten = 0;
      for (const cell of unfinished) unwritten += cell.waiting.length;
      return unwritten;
    },
  };
}

function asWrite(cell: Cell, { expected, writes, record }: Attempt): Write {
  if (!writes) return { id: cell.id, expected };
  return keyWrite(cell.keyId, expected, record);
}

function isWaiting({ state }: Task): boolean {
  return state === "waiting";
}

/** A document belongs to one lane of a process. */
function laneOf(keyId: string): number {
  let hash = 0;
  for (let i = 0; i < keyId.length; i += 1) hash = (hash * 31 + keyId.charCodeAt(i)) | 0;
  return (hash >>> 0) % LANES;
}

function versionFault(): KeystileError {
  return new KeystileError(
    "document_invalid",
    "A key document has a version below one already seen. Was the store restored from a backup? Then restart.",
    { mayHaveHappened: true },
  );
}

function tooLate(storeTimeoutMs: number): KeystileError {
  return new KeystileError(
    "store_unavailable",
    `The request could not be decided within ${storeTimeoutMs} ms.`,
  );
}
