import { idsOf, isKey, type Records, recordsOf, type Step, type Subject } from "./attempt.js";
import { parseKeyRecord, parseRecord } from "./document-schemas.js";
import { type Documents, keyDocumentId } from "./documents.js";
import { accountMissing, type KeystileError, versionFault } from "./errors.js";
import { type LiveGroup, liveGroup, type Surroundings } from "./live-group.js";
import type { WriteResult } from "./store.js";
import { withResolvers } from "./store-session.js";
import type { Count } from "./tally.js";
import type { StepOptions } from "./task-line.js";
import type { Attempt } from "./unanswered.js";

/** A step over a key and its account, both of which are there. */
export type KeyStep<T> = Step<T, Documents>;

/** A subject that names a key. */
export type KeySubject = Subject & { readonly keyId: string };

/**
 * Between the kernel and the store. Per lane of the process one write is in flight; operations that arrive
 * meanwhile share the next one. A lost race brings the current documents, and all operations not yet written
 * run again on them.
 *
 * What is waited for resolves only when a write (or, where nothing changed, a check in the same batch) has
 * confirmed the documents it was decided on: allowances and refusals alike. `undefined` means that one of them is not
 * there.
 */
export interface GroupCommit {
  /** The records of a key and its account as last confirmed here, if they are cached. They may only suggest. */
  cached(subject: KeySubject): Documents | undefined;
  /** The subject's records from a read begun after this call. */
  fetch(subject: KeySubject): Promise<Documents | undefined>;
  fetch(subject: Subject): Promise<Records>;
  /** A key's account, which never changes, by what is cached or read. undefined: there is no such key. */
  subjectOf(keyId: string): Promise<KeySubject | undefined>;
  /**
   * Decides a request. When a fault was thrown and its write turns out to have happened after all, `undo` of the
   * outcome is booked. @throws KeystileError when it cannot be decided
   */
  decide<T>(
    subject: KeySubject,
    step: KeyStep<T>,
    undo: (outcome: T) => KeyStep<void> | undefined,
  ): Promise<T | undefined>;
  /** Books what is a fact. Retried until it is stored; resolves then, also when the document is gone. */
  post(subject: KeySubject, step: KeyStep<void>): Promise<void>;
  /** Changes records, or throws what the step throws. @throws KeystileError, also when the outcome is unknown */
  edit<T, R extends Records>(subject: Subject, step: Step<T, R>): Promise<T | undefined>;
  /** Counts what writes nothing, best effort: with the next write of its key. */
  count(subject: KeySubject, counted: Count): void;
  /** Renews the holds of requests in flight that are due. */
  renew(): void;
  /**
   * Resolves when nothing waits to be written or to be found out, or the time is over, with the number of operations that
   * are not known to be stored.
   */
  flush(timeoutMs: number): Promise<number>;
}

export interface GroupCommitOptions extends Omit<Surroundings, "nextSeq" | "identity"> {
  /** The name of this process in documents; never used by another one. */
  readonly processId: string;
  /** Documents kept in memory beyond those in use. */
  readonly cacheSize: number;
}

interface Lane {
  readonly ready: Set<LiveGroup>;
  running: boolean;
}

const LANES = 4;

/** Documents in one statement. */
const BATCH = 256;

/** How many documents are looked at to make room for one. */
const EVICTION_TRIES = 16;

export function groupCommit({ processId, cacheSize, ...options }: GroupCommitOptions): GroupCommit {
  const { session, runtime } = options;
  const groups = new Map<string, LiveGroup>();
  /** The group of every document that may be cached, the least recently used one first. */
  const recent = new Map<string, LiveGroup>();
  const lanes = Array.from({ length: LANES }, (): Lane => ({ ready: new Set(), running: false }));
  const unfinished = new Set<LiveGroup>();
  const inFlight = new Set<LiveGroup>();
  const resuming = new Set<LiveGroup>();
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

  function enqueue<T>(subject: Subject, step: Step<T>, stepOptions: StepOptions<T>): Promise<T | undefined> {
    const group = use(subject);
    const outcome = group.add(subject, step, stepOptions);
    schedule(group);
    return outcome;
  }

  // ── lanes ───────────────────────────────────────────────────────────────────────────────────────────────

  function schedule(group: LiveGroup): void {
    unfinished.add(group);
    if (inFlight.has(group)) return;
    const pauseMs = group.pauseMs();
    if (pauseMs > 0) {
      resumeAfter(group, pauseMs);
      return;
    }
    const lane = lanes[laneOf(group.anchorId)] as Lane;
    lane.ready.add(group);
    if (lane.running) return;
    lane.running = true;
    queueMicrotask(() => void run(lane));
  }

  function resumeAfter(group: LiveGroup, pauseMs: number): void {
    if (resuming.has(group)) return;
    resuming.add(group);
    runtime.setTimer(
      () => {
        resuming.delete(group);
        if (unfinished.has(group)) schedule(group);
      },
      pauseMs,
      // Who waits for something must not see the process end.
      group.waiting() === 0,
    );
  }

  async function run(lane: Lane): Promise<void> {
    while (lane.ready.size > 0) {
      const batch = takeBatch(lane);
      await commit(batch);
      for (const group of batch.keys()) {
        inFlight.delete(group);
        if (group.isUnfinished()) schedule(group);
        else unfinished.delete(group);
      }
      if (unfinished.size === 0) for (const quiet of onQuiet.splice(0)) quiet();
    }
    lane.running = false;
  }

  /** As many groups as fit into one statement, with the documents that each of them chose. */
  function takeBatch(lane: Lane): ReadonlyMap<LiveGroup, readonly string[]> {
    const batch = new Map<LiveGroup, readonly string[]>();
    let size = 0;
    for (const group of lane.ready) {
      if (size >= BATCH) break;
      const ids = group.choose();
      size += ids.length;
      batch.set(group, ids);
      lane.ready.delete(group);
      inFlight.add(group);
    }
    return batch;
  }

  /** One write for the whole batch. A group that is lost or unreadable holds up no other. */
  async function commit(batch: ReadonlyMap<LiveGroup, readonly string[]>): Promise<void> {
    const isStale = session.isStale();
    const toRead = new Map(
      [...batch].map(([group, ids]) => [group, isStale ? ids : group.unknown()] as const),
    );
    const unreadable = await refresh(new Map([...toRead].filter(([, ids]) => ids.length > 0)));
    const prepared = [...batch.keys()]
      .filter((group) => !unreadable.has(group))
      .map((group) => ({ group, attempt: prepare(group) }))
      .filter((pair): pair is { group: LiveGroup; attempt: Attempt } => pair.attempt !== undefined);
    if (prepared.length === 0) return;

    let results: readonly WriteResult[];
    try {
      results = await session.write(prepared.map(({ attempt }) => attempt.writes));
    } catch (error) {
      for (const { group, attempt } of prepared) group.failed(attempt, error as KeystileError);
      return;
    }
    for (const [index, { group, attempt }] of prepared.entries()) {
      const result = results[index];
      if (result?.written) group.written(attempt, result.versions);
      else group.lost(attempt, result?.current ?? []);
    }
  }

  function prepare(group: LiveGroup): Attempt | undefined {
    try {
      return group.prepare();
    } catch (error) {
      group.unreadable(error);
      return undefined;
    }
  }

  /** Brings documents up to date with one read; returns the groups of which nothing reliable is known. */
  async function refresh(toRead: ReadonlyMap<LiveGroup, readonly string[]>): Promise<ReadonlySet<LiveGroup>> {
    if (toRead.size === 0) return new Set();
    const versions = new Map([...toRead].map(([group, ids]) => [group, versionsOf(group, ids)]));
    try {
      const found = await session.read([...toRead.values()].flat());
      for (const [group, ids] of toRead) group.adopt(ids, found, versions.get(group) ?? new Map());
      return new Set();
    } catch (error) {
      for (const group of toRead.keys()) group.unreadable(error);
      return new Set(toRead.keys());
    }
  }

  // ── the cache ───────────────────────────────────────────────────────────────────────────────────────────

  /** The group of a subject, whose documents are now the most recently used ones. */
  function use(subject: Subject): LiveGroup {
    const ids = idsOf(subject);
    const anchorId = ids[0] as string;
    const lasting = ids.filter((id) => !id.startsWith("entry:"));
    const fresh = lasting.filter((id) => !recent.has(id));
    // Room is made before new ones come in: nothing depends on them yet, and a second group of the same anchor would
    // be another process in one.
    if (fresh.length > 0 && recent.size + fresh.length > cacheSize)
      evict(recent.size + fresh.length - cacheSize);
    const group = groups.get(anchorId) ?? liveGroup(anchorId, surroundings);
    groups.set(anchorId, group);
    for (const id of lasting) {
      recent.delete(id);
      recent.set(id, group);
    }
    return group;
  }

  /** Drops the least recently used documents on which nothing depends. */
  function evict(surplus: number): void {
    const oldest = recent.entries();
    let left = surplus;
    for (let tries = 0; tries < EVICTION_TRIES && left > 0; tries += 1) {
      const next = oldest.next();
      if (next.done) return;
      const [id, group] = next.value;
      recent.delete(id);
      if (!unfinished.has(group) && !inFlight.has(group) && group.forget(id)) {
        left -= 1;
        // By then there may be another one of the same anchor.
        if (group.isEmpty() && groups.get(group.anchorId) === group) groups.delete(group.anchorId);
      } else {
        recent.set(id, group);
      }
    }
  }

  function cached(subject: Subject): Records | undefined {
    const ids = idsOf(subject);
    const group = groups.get(ids[0] as string);
    if (group === undefined || ids.some((id) => group.confirmed(id)?.record === undefined)) return undefined;
    return recordsOf(subject, (id) => group.confirmed(id)?.record);
  }

  async function readRecords(subject: Subject): Promise<Records> {
    const group = use(subject);
    const ids = idsOf(subject);
    const versions = versionsOf(group, ids);
    const documents = await Promise.all(ids.map((id) => session.fetch(id)));
    const found = new Map(
      documents.flatMap((document) => (document ? [[document.id, document] as const] : [])),
    );
    // With a write under way the lane owns the group; what was read is right all the same.
    if (!inFlight.has(group)) group.adopt(ids, found, versions);
    return recordsOf(subject, (id) => {
      const document = found.get(id);
      if (document === undefined) return undefined;
      if (document.version < (versions.get(id) ?? 0)) throw versionFault();
      const confirmed = group.confirmed(id);
      if (confirmed?.version === document.version) return confirmed.record;
      return parseRecord(document);
    });
  }

  async function fetchDocuments(subject: KeySubject): Promise<Documents | undefined> {
    const { key, account } = await readRecords(subject);
    if (key === undefined) return undefined;
    if (subject.accountId !== undefined && account === undefined) throw accountMissing();
    return { key, ...(account && { account }) };
  }

  return {
    cached: cached as GroupCommit["cached"],
    fetch: ((subject: Subject) =>
      subject.keyId === undefined
        ? readRecords(subject)
        : fetchDocuments(subject as KeySubject)) as GroupCommit["fetch"],

    async subjectOf(keyId) {
      const id = keyDocumentId(keyId);
      const known = recent.get(id)?.confirmed(id)?.record;
      const document = known === undefined ? await session.fetch(id) : undefined;
      const key = known ?? (document && parseKeyRecord(document));
      if (!isKey(key)) return undefined;
      return { keyId, ...(key.account && { accountId: key.account.id }) };
    },

    decide: (subject, step, undo) => enqueue(subject, step as Step<never>, { undo, isFact: false } as never),
    post: async (subject, step) => void (await enqueue(subject, step as Step<void>, { isFact: true })),
    edit: (subject, step) => enqueue(subject, step as Step<never>, { isFact: false }),

    count(subject, counted) {
      use(subject).count(keyDocumentId(subject.keyId), counted);
    },

    renew() {
      for (const group of groups.values()) {
        group.renewIfDue();
        if (group.isUnfinished()) schedule(group);
      }
    },

    async flush(timeoutMs) {
      for (const group of groups.values()) {
        group.writeCounts();
        if (group.isUnfinished()) schedule(group);
      }
      if (unfinished.size > 0) {
        const { promise, resolve } = withResolvers<void>();
        onQuiet.push(resolve);
        const cancel = runtime.setTimer(resolve, timeoutMs);
        await promise;
        cancel();
        onQuiet = onQuiet.filter((quiet) => quiet !== resolve);
      }
      return [...unfinished].reduce((sum, group) => sum + group.unsettled(), 0);
    },
  };
}

function versionsOf(group: LiveGroup, ids: readonly string[]): ReadonlyMap<string, number> {
  return new Map(ids.map((id) => [id, group.confirmed(id)?.version ?? 0]));
}

/** A group belongs to one lane of a process. */
function laneOf(anchorId: string): number {
  let hash = 0;
  for (let at = 0; at < anchorId.length; at += 1) hash = (hash * 31 + anchorId.charCodeAt(at)) | 0;
  return (hash >>> 0) % LANES;
}
