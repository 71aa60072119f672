import { isKeystileError, KeystileError } from "./errors.js";
import { enter, leave, newRoster, valuesOf } from "./roster.js";
import type { Runtime } from "./runtime.js";
import type { Document, ListQuery, Store, Write, WriteResult } from "./store.js";

/** The store as one process sees it: with a time-out, a clock, and reads that share a call. */
export interface StoreSession {
  /**
   * Store time now: what replies have told, plus monotonic time since. Integer milliseconds.
   * @param timeMs what the process's own clock says, where the caller has asked it already
   */
  now(timeMs?: number): number;
  /** The same, from a call of its own where `now` is stale. */
  freshTime(): Promise<number>;
  /** Whether store time was last heard, within a second, more than 10 s ago, or never. */
  isStale(): boolean;
  /** How long the last write took, in milliseconds. */
  roundTripMs(): number;
  /** One document, from a call begun after this one: callers that ask meanwhile share it. */
  fetch(id: string): Promise<Document | undefined>;
  read(ids: readonly string[]): Promise<ReadonlyMap<string, Document>>;
  write(groups: readonly (readonly Write[])[]): Promise<readonly WriteResult[]>;
  list(query: ListQuery): ReturnType<Store["list"]>;
  /** Leaves no timer behind, unless a call is under way. */
  rest(): void;
}

/** Store time older than this is refreshed before it decides anything. */
const STALE_AFTER_MS = 10_000;

/** A call that took longer does not refresh it. */
const MAX_UNCERTAINTY_MS = 1_000;

/** Ids in one shared read, and how many may wait for one. */
const READ_BATCH = 500;
const MAX_ASKED = 16_384;

/**
 * Wraps a store for one process. Every call ends within `storeTimeoutMs`; whatever goes wrong comes out as a
 * `KeystileError` that says whether a write may have happened. What arrives after the time-out is not heard: the
 * next read or write finds out.
 */
export function storeSession(store: Store, runtime: Runtime, storeTimeoutMs: number): StoreSession {
  let storeMs = 0;
  let heardAtMs = Number.NEGATIVE_INFINITY;
  let certainAtMs = Number.NEGATIVE_INFINITY;
  let roundTripMs = 0;
  /** What has no reply yet. One timer watches all, because one for each costs more than the rest of it. */
  const open = newRoster<OpenCall>();
  let cancelWatch: (() => void) | undefined;

  function inTime<T>(invoke: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const entry = enter(open, { untilMs: runtime.monotonicMs() + storeTimeoutMs, fail });
      function fail(error: unknown): void {
        leave(open, entry);
        reject(asFault(error));
      }
      watch(storeTimeoutMs);
      try {
        invoke().then((reply) => {
          leave(open, entry);
          resolve(reply);
        }, fail);
      } catch (error) {
        fail(error);
      }
    });
  }

  function watch(ms: number): void {
    cancelWatch ??= runtime.setTimer(giveUpLate, ms, true);
  }

  function giveUpLate(): void {
    cancelWatch = undefined;
    const time = runtime.monotonicMs();
    for (const { untilMs, fail } of valuesOf(open)) {
      if (untilMs <= time) fail(timedOut(storeTimeoutMs));
    }
    if (open.first !== undefined) watch(open.first.value.untilMs - time);
  }

  function rest(): void {
    if (open.size > 0) return;
    cancelWatch?.();
    cancelWatch = undefined;
  }

  async function call<T extends { readonly now: number }>(
    invoke: () => Promise<T>,
    isSound: (reply: T) => boolean,
  ): Promise<T> {
    const sentAtMs = runtime.monotonicMs();
    const reply = await inTime(invoke);
    if (typeof reply !== "object" || reply === null || !isSound(reply)) {
      throw new KeystileError("store_unavailable", "The store's reply is not what its contract says.");
    }
    hear(reply.now, sentAtMs);
    return reply;
  }

  /**
   * A reply proves that store time now is at least what it says, and at most that plus the time the call took. Within
   * that, what was known runs on: a slow call says little, and must not undo what quicker ones said.
   */
  function hear(now: number, sentAtMs: number): void {
    if (!Number.isSafeInteger(now)) {
      throw new KeystileError(
        "store_unavailable",
        `The store's clock says ${now}, not integer milliseconds.`,
      );
    }
    const atMs = runtime.monotonicMs();
    const tookMs = atMs - sentAtMs;
    const runOn = Number.isFinite(heardAtMs) ? storeMs + (atMs - heardAtMs) : now;
    storeMs = Math.min(Math.max(runOn, now), now + tookMs);
    heardAtMs = atMs;
    if (tookMs <= MAX_UNCERTAINTY_MS) certainAtMs = atMs;
  }

  async function read(ids: readonly string[]): Promise<ReadonlyMap<string, Document>> {
    const { documents } = await call(
      () => store.read(ids),
      (reply) => Array.isArray(reply.documents) && reply.documents.every(isDocument),
    );
    return new Map(documents.map((document) => [document.id, document]));
  }

  async function write(groups: readonly (readonly Write[])[]): Promise<readonly WriteResult[]> {
    const sentAtMs = runtime.monotonicMs();
    const { results } = await call(
      () => store.write(groups),
      (reply) =>
        Array.isArray(reply.results) &&
        reply.results.length === groups.length &&
        reply.results.every(isResult),
    );
    roundTripMs = runtime.monotonicMs() - sentAtMs;
    return results;
  }

  function now(timeMs = runtime.monotonicMs()): number {
    return Math.floor(storeMs + timeMs - heardAtMs);
  }

  function isStale(): boolean {
    return runtime.monotonicMs() - certainAtMs > STALE_AFTER_MS;
  }

  return {
    now,
    async freshTime() {
      if (isStale()) await read([]);
      return now();
    },
    isStale,
    roundTripMs: () => roundTripMs,
    fetch: sharedReads(read, runtime, storeTimeoutMs),
    read,
    write,
    list: (query) => inTime(() => store.list(query)),
    rest,
  };
}

/** A call to the store under way. */
interface OpenCall {
  readonly untilMs: number;
  readonly fail: (error: unknown) => void;
}

function isDocument(document: Document | undefined): boolean {
  return typeof document?.id === "string" && Number.isSafeInteger(document.version);
}

function isResult(result: WriteResult | undefined): boolean {
  if (result?.written === true) return Array.isArray(result.versions);
  return result?.written === false && Array.isArray(result.current) && result.current.every(isDocument);
}

interface Awaited extends PromiseWithResolvers<Document | undefined> {
  readonly deadlineMs: number;
}

/**
 * Gathers the ids asked for while a read is under way into the next one. Who floods a slow store with keys that nobody
 * issued makes neither an endless queue nor others wait without end: what does not get its turn in time is a fault.
 */
function sharedReads(
  read: StoreSession["read"],
  runtime: Runtime,
  storeTimeoutMs: number,
): StoreSession["fetch"] {
  let asked = new Map<string, Awaited>();
  let reading = false;

  function fetch(id: string): Promise<Document | undefined> {
    let answer = asked.get(id);
    if (answer === undefined) {
      if (asked.size >= MAX_ASKED) return Promise.reject(overloaded());
      const { promise, resolve, reject } = withResolvers<Document | undefined>();
      answer = { promise, resolve, reject, deadlineMs: runtime.monotonicMs() + storeTimeoutMs };
      asked.set(id, answer);
    }
    if (!reading) {
      reading = true;
      queueMicrotask(() => void drain());
    }
    return answer.promise;
  }

  /** Those that came first are first. */
  function giveUpLate(): void {
    const timeMs = runtime.monotonicMs();
    for (const [id, { deadlineMs, reject }] of asked) {
      if (deadlineMs > timeMs) return;
      asked.delete(id);
      reject(timedOut(storeTimeoutMs));
    }
  }

  async function drain(): Promise<void> {
    while (asked.size > 0) {
      giveUpLate();
      const all = [...asked];
      if (all.length === 0) break;
      const batch = all.slice(0, READ_BATCH);
      asked = new Map(all.slice(READ_BATCH));
      try {
        const documents = await read(batch.map(([id]) => id));
        for (const [id, answer] of batch) answer.resolve(documents.get(id));
      } catch (error) {
        // Whoever waits behind a call that failed would wait for the next one to fail.
        for (const [, answer] of [...batch, ...asked]) answer.reject(error);
        asked = new Map();
      }
    }
    reading = false;
  }

  return fetch;
}

interface PromiseWithResolvers<T> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
  readonly reject: (error: unknown) => void;
}

/** `Promise.withResolvers` is missing on Node 20. */
export function withResolvers<T>(): PromiseWithResolvers<T> {
  let resolve!: (value: T) => void;
  let reject!: (error: unknown) => void;
  const promise = new Promise<T>((onResolve, onReject) => {
    resolve = onResolve;
    reject = onReject;
  });
  return { promise, resolve, reject };
}

function overloaded(): KeystileError {
  return new KeystileError("overloaded", "More documents wait to be read than are kept in memory.");
}

function timedOut(storeTimeoutMs: number): KeystileError {
  return new KeystileError("store_unavailable", `The store did not answer within ${storeTimeoutMs} ms.`);
}

function asFault(error: unknown): KeystileError {
  if (isKeystileError(error)) return error;
  return new KeystileError("store_unavailable", "The store failed.", { cause: error });
}
