import { type KeyRecord, parseKeyRecord } from "./documents.js";
import type { KeystileError } from "./errors.js";
import {
  type Attempt,
  type LiveDocument,
  liveDocument,
  type Step,
  type StepOptions,
  type Surroundings,
  versionFault,
} from "./live-document.js";
import type { Document, WriteResult } from "./store.js";
import { withResolvers } from "./store-session.js";

/**
 * Between the kernel and the store. Per lane of the process one write is in flight; operations that arrive
 * meanwhile share the next one. A lost race brings the current documents, and all operations not yet written
 * run again on them.
 *
 * What is waited for resolves only when a write (or, where nothing changed, a check in the same batch) has
 * confirmed the document it was decided on: allowances and refusals alike. `undefined` means that there is no
 * such document.
 */
export interface GroupCommit {
  /** The key's record as last confirmed here, if it is cached. It may only suggest. */
  cached(keyId: string): KeyRecord | undefined;
  /** The key's record from a read begun after this call. */
  fetch(keyId: string): Promise<KeyRecord | undefined>;
  /**
   * Decides a request. When a fault was thrown and its write turns out to have happened after all, `undo` of the
   * outcome is booked. @throws KeystileError when it cannot be decided
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
  /** Renews the holds of requests in flight that are due. */
  renew(): void;
  /** Resolves when nothing waits to be written or the time is over, with the number of operations that wait. */
  flush(timeoutMs: number): Promise<number>;
}

export interface GroupCommitOptions extends Omit<Surroundings, "nextSeq" | "identity"> {
  /** The name of this process in documents; never used by another one. */
  readonly processId: string;
  /** Documents kept in memory beyond those in use. */
  readonly cacheSize: number;
}

interface Lane {
  readonly ready: Set<LiveDocument>;
  running: boolean;
}

const LANES = 4;

/** Documents in one statement. */
const BATCH = 256;

/** How many documents are looked at to make room for one. */
const EVICTION_TRIES = 16;

export function groupCommit({ processId, cacheSize, ...options }: GroupCommitOptions): GroupCommit {
  const { session, runtime } = options;
  const documents = new Map<string, LiveDocument>();
  const lanes = Array.from({ length: LANES }, (): Lane => ({ ready: new Set(), running: false }));
  const unfinished = new Set<LiveDocument>();
  const inFlight = new Set<LiveDocument>();
  const resuming = new Set<LiveDocument>();
  let onQuiet: (() => void)[] = [];
  let lastSeq = 0;
  let generation = 0;

  const surroundings: Surroundings = {
    ...options,
    nextSeq: () => ++lastSeq,
    identity(spent) {
      if (spent) generation += 1;
      return `${processId}.${generation}`;
    },
  };

  function enqueue<T>(keyId: string, step: Step<T>, stepOptions: StepOptions<T>): Promise<T | undefined> {
    const document = use(keyId);
    const outcome = document.add(step, stepOptions);
    schedule(document);
    return outcome;
  }

  // ── lanes ───────────────────────────────────────────────────────────────────────────────────────────────

  function schedule(document: LiveDocument): void {
    unfinished.add(document);
    if (inFlight.has(document)) return;
    const pauseMs = document.pauseMs();
    if (pauseMs > 0) {
      resumeAfter(document, pauseMs);
      return;
    }
    const lane = lanes[laneOf(document.keyId)] as Lane;
    lane.ready.add(document);
    if (lane.running) return;
    lane.running = true;
    queueMicrotask(() => void run(lane));
  }

  function resumeAfter(document: LiveDocument, pauseMs: number): void {
    if (resuming.has(document)) return;
    resuming.add(document);
    runtime.setTimer(
      () => {
        resuming.delete(document);
        if (unfinished.has(document)) schedule(document);
      },
      pauseMs,
      true,
    );
  }

  async function run(lane: Lane): Promise<void> {
    while (lane.ready.size > 0) {
      const batch = [...lane.ready].slice(0, BATCH);
      for (const document of batch) {
        lane.ready.delete(document);
        inFlight.add(document);
      }
      await commit(batch);
      for (const document of batch) {
        inFlight.delete(document);
        if (document.isUnfinished()) schedule(document);
        else unfinished.delete(document);
      }
      if (unfinished.size === 0) for (const quiet of onQuiet.splice(0)) quiet();
    }
    lane.running = false;
  }

  /** One write for the whole batch. A document that is lost or unreadable holds up no other. */
  async function commit(batch: readonly LiveDocument[]): Promise<void> {
    const toRead = session.isStale() ? batch : batch.filter((document) => document.mustBeReadFirst());
    const unreadable = toRead.length > 0 ? await refresh(toRead) : new Set<LiveDocument>();
    const prepared = batch
      .filter((document) => !unreadable.has(document))
      .map((document) => ({ document, attempt: prepare(document) }))
      .filter((pair): pair is { document: LiveDocument; attempt: Attempt } => pair.attempt !== undefined);
    if (prepared.length === 0) return;

    let results: readonly WriteResult[];
    try {
      results = await session.write(prepared.map(({ attempt }) => [attempt.write]));
    } catch (error) {
      for (const { document, attempt } of prepared) document.failed(attempt, error as KeystileError);
      return;
    }
    for (const [index, { document, attempt }] of prepared.entries()) {
      const result = results[index];
      if (result?.written) document.written(attempt, result.versions[0]);
      else document.lost(attempt, result?.current[0]);
    }
  }

  function prepare(document: LiveDocument): Attempt | undefined {
    try {
      return document.prepare();
    } catch (error) {
      document.unreadable(error);
      return undefined;
    }
  }

  /** Brings documents up to date with one read; returns those of which nothing reliable is known. */
  async function refresh(toRead: readonly LiveDocument[]): Promise<ReadonlySet<LiveDocument>> {
    const unreadable = new Set<LiveDocument>();
    const fail = (document: LiveDocument, error: unknown): void => {
      unreadable.add(document);
      document.unreadable(error);
    };
    const versions = toRead.map(versionOf);
    let found: ReadonlyMap<string, Document>;
    try {
      found = await session.read(toRead.map(({ id }) => id));
    } catch (error) {
      for (const document of toRead) fail(document, error);
      return unreadable;
    }
    for (const [index, document] of toRead.entries()) {
      try {
        document.adopt(found.get(document.id), versions[index] ?? 0);
      } catch (error) {
        fail(document, error);
      }
    }
    return unreadable;
  }

  // ── the cache ───────────────────────────────────────────────────────────────────────────────────────────

  /** The live document of a key, now the most recently used one. */
  function use(keyId: string): LiveDocument {
    const known = documents.get(keyId);
    // Room is made before a new one comes in: nothing depends on it yet, and a second one of the same key would
    // be another process in one.
    if (known === undefined && documents.size >= cacheSize) evict();
    const document = known ?? liveDocument(keyId, surroundings);
    documents.delete(keyId);
    documents.set(keyId, document);
    return document;
  }

  /** Drops the least recently used documents on which nothing depends. */
  function evict(): void {
    const oldest = documents.values();
    for (let tries = 0; tries < EVICTION_TRIES && documents.size >= cacheSize; tries += 1) {
      const document = oldest.next().value as LiveDocument;
      documents.delete(document.keyId);
      if (unfinished.has(document) || document.open() > 0) documents.set(document.keyId, document);
    }
  }

  return {
    cached: (keyId) => documents.get(keyId)?.confirmed()?.record,

    async fetch(keyId) {
      const document = use(keyId);
      const atLeast = versionOf(document);
      const found = await session.fetch(document.id);
      // With a write under way the lane owns the document; what was read is right all the same.
      if (!inFlight.has(document)) document.adopt(found, atLeast);
      if (found === undefined) return undefined;
      if (found.version < atLeast) throw versionFault();
      const confirmed = document.confirmed();
      return confirmed?.version === found.version ? confirmed.record : parseKeyRecord(found);
    },

    decide: (keyId, step, undo) => enqueue(keyId, step, { undo, isFact: false }),
    post: async (keyId, step) => void (await enqueue(keyId, step, { isFact: true })),
    edit: (keyId, step) => enqueue(keyId, step, { isFact: false }),

    renew() {
      for (const document of documents.values()) {
        document.renewIfDue();
        if (document.isUnfinished()) schedule(document);
      }
    },

    async flush(timeoutMs) {
      if (unfinished.size > 0) {
        const { promise, resolve } = withResolvers<void>();
        onQuiet.push(resolve);
        const cancel = runtime.setTimer(resolve, timeoutMs);
        await promise;
        cancel();
        onQuiet = onQuiet.filter((quiet) => quiet !== resolve);
      }
      return [...unfinished].reduce((sum, document) => sum + document.waiting(), 0);
    },
  };
}

function versionOf(document: LiveDocument): number {
  return document.confirmed()?.version ?? 0;
}

/** A document belongs to one lane of a process. */
function laneOf(keyId: string): number {
  let hash = 0;
  for (let at = 0; at < keyId.length; at += 1) hash = (hash * 31 + keyId.charCodeAt(at)) | 0;
  return (hash >>> 0) % LANES;
}
