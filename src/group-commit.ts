import { idsOf, type Records, recordsOf, type Step, type Subject } from "./attempt.js";
import { batchWriter, versionsOf } from "./batch-writer.js";
import { parseKeyRecord, parseMember } from "./document-schemas.js";
import { type Documents, isKey, keyDocumentId } from "./documents.js";
import { accountMissing, versionFault } from "./errors.js";
import {
  confirmedOf,
  countUnsettled,
  countWaiting,
  isEmpty,
  isOnlyFacts,
  isUnfinished,
  type LiveGroup,
  type Surroundings,
  writeCounts,
} from "./live-group.js";
import { liveGroups } from "./live-groups.js";
import { withResolvers } from "./store-session.js";
import type { Count } from "./tally.js";
import type { StepOptions } from "./task-line.js";

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
  /** From now on facts that are still tried to be stored keep no process alive. */
  letGo(): void;
}

export interface GroupCommitOptions extends Omit<Surroundings, "nextSeq" | "identity"> {
  /** The name of this process in documents, never used by another one. Asked for once, with the first document. */
  readonly nameProcess: () => string;
  /** Documents kept in memory beyond those in use. */
  readonly cacheSize: number;
}

/** What one write at a time is made of. */
interface Lane {
  ready: Member[];
  running: boolean;
}

/** A group in its lane: it never changes, so that a document belongs to one lane of a process. */
interface Member {
  readonly group: LiveGroup;
  readonly lane: Lane;
  /** `in flight`: the lane decides, writes or confirms it. */
  phase: "at rest" | "ready" | "in flight";
  /** Something of it is to be written, or to be found out. */
  isUnfinished: boolean;
  /** The timer that will look after it. */
  resuming: { readonly atMs: number; readonly cancel: () => void } | undefined;
}

/** A document that may be cached. */
interface Cached {
  member: Member;
  /** Since it was looked at: then it stays. A flag, because to keep them in order costs each request more. */
  wasUsed: boolean;
}

const LANES = 4;

const FACT = { isFact: true } as const;

/** For how many microtasks facts, for which nobody waits, let requests catch up. */
const FACTS_WAIT_TURNS = 4;

/** Documents in one statement. */
const BATCH = 256;

/** How many documents are looked at to make room for one. */
const EVICTION_TRIES = 16;

export function groupCommit({ nameProcess, cacheSize, ...options }: GroupCommitOptions): GroupCommit {
  const { session, runtime } = options;
  const members = new Map<string, Member>();
  /** Every document that may be cached, the one looked at longest ago first. */
  const recent = new Map<string, Cached>();
  const lanes = Array.from({ length: LANES }, (): Lane => ({ ready: [], running: false }));
  /** Groups of which something is to be written, or to be found out. */
  let unfinished = 0;
  let onQuiet: (() => void)[] = [];
  let lastSeq = 0;
  let processId: string | undefined;
  let generation = 0;
  let isLetGo = false;

  const surroundings: Surroundings = {
    ...options,
    nextSeq: () => ++lastSeq,
    identity(spent) {
      if (spent) generation += 1;
      processId ??= nameProcess();
      return `${processId}.${generation}`;
    },
  };

  const groups = liveGroups(surroundings);
  const writeBatch = batchWriter(options, groups);

  function enqueue<T>(subject: Subject, step: Step<T>, stepOptions: StepOptions<T>): Promise<T | undefined> {
    const member = use(subject);
    const outcome = groups.add(member.group, subject, step, stepOptions);
    schedule(member);
    return outcome;
  }

  // ── lanes ───────────────────────────────────────────────────────────────────────────────────────────────

  function schedule(member: Member): void {
    if (!member.isUnfinished) unfinished += 1;
    member.isUnfinished = true;
    if (member.phase !== "at rest") return;
    const pauseMs = groups.pauseMs(member.group);
    if (pauseMs > 0) {
      resumeAfter(member, pauseMs);
      return;
    }
    const { lane } = member;
    member.phase = "ready";
    lane.ready.push(member);
    if (lane.running) return;
    lane.running = true;
    queueMicrotask(() => void run(lane));
  }

  function resumeAfter(member: Member, pauseMs: number): void {
    const atMs = runtime.monotonicMs() + pauseMs;
    if (member.resuming !== undefined && member.resuming.atMs <= atMs) return;
    // Who has to wait for less than what was there before must not wait for that.
    member.resuming?.cancel();
    const cancel = runtime.setTimer(
      () => {
        member.resuming = undefined;
        if (member.isUnfinished) schedule(member);
      },
      pauseMs,
      // Who waits for something must not see the process end.
      countWaiting(member.group, isLetGo) === 0,
    );
    member.resuming = { atMs, cancel };
  }

  async function run(lane: Lane): Promise<void> {
    // Whoever has ended a request often asks for the next one right after, which rides with that.
    for (let turn = 0; turn < FACTS_WAIT_TURNS && lane.ready.every(isPatient); turn += 1) await undefined;
    while (lane.ready.length > 0) {
      const batch = takeBatch(lane);
      await writeBatch(batch);
      for (const member of batch) {
        member.phase = "at rest";
        if (isUnfinished(member.group)) schedule(member);
        else finish(member);
      }
      if (unfinished === 0) for (const quiet of onQuiet.splice(0)) quiet();
    }
    lane.running = false;
  }

  function isPatient({ group }: Member): boolean {
    return isOnlyFacts(group);
  }

  function finish(member: Member): void {
    if (member.isUnfinished) unfinished -= 1;
    member.isUnfinished = false;
  }

  /** As many groups as fit into one statement, with the documents that each of them chose. */
  function takeBatch(lane: Lane): readonly Member[] {
    const timeMs = runtime.monotonicMs();
    const { ready } = lane;
    let taken = 0;
    for (let size = 0; taken < ready.length && size < BATCH; taken += 1) {
      const member = ready[taken] as Member;
      const ids = groups.choose(member.group, timeMs);
      // What waited for long may have been dropped, and comes back now.
      for (const id of ids) if (!recent.has(id) && !id.startsWith("entry:")) keep(id, member);
      size += ids.length;
      member.phase = "in flight";
    }
    lane.ready = ready.slice(taken);
    return taken === ready.length ? ready : ready.slice(0, taken);
  }

  // ── the cache ───────────────────────────────────────────────────────────────────────────────────────────

  /** The group of a subject, whose documents are in use now. */
  function use(subject: Subject): Member {
    const { account, key, all } = idsOf(subject);
    const anchorId = all[0] as string;
    // Room is made before new ones come in: nothing depends on them yet, and a second group of the same anchor would
    // be another process in one. An entry is only ever made once, so it has no place.
    const surplus = recent.size + all.length - cacheSize;
    if (surplus > 0) evict(surplus - all.filter((id) => id.startsWith("entry:") || recent.has(id)).length);
    const member = members.get(anchorId) ?? join(anchorId);
    if (account !== undefined) touch(account, member);
    if (key !== undefined) touch(key, member);
    return member;
  }

  function touch(id: string, member: Member): void {
    const known = recent.get(id);
    if (known === undefined) {
      keep(id, member);
      return;
    }
    known.member = member;
    known.wasUsed = true;
  }

  function keep(id: string, member: Member): void {
    recent.set(id, { member, wasUsed: false });
  }

  function join(anchorId: string): Member {
    const group = groups.make(anchorId);
    const lane = lanes[laneOf(anchorId)] as Lane;
    const member: Member = { group, lane, phase: "at rest", isUnfinished: false, resuming: undefined };
    members.set(anchorId, member);
    return member;
  }

  /** Drops documents that were not used for long and on which nothing depends. */
  function evict(surplus: number): void {
    const oldest = recent.entries();
    let left = surplus;
    for (let tries = 0; tries < EVICTION_TRIES && left > 0; tries += 1) {
      const next = oldest.next();
      if (next.done) return;
      const [id, { member, wasUsed }] = next.value;
      const { group } = member;
      recent.delete(id);
      // Where all are used between two looks, some have to go all the same.
      if (wasUsed && tries < EVICTION_TRIES / 2) {
        keep(id, member);
        continue;
      }
      const isAtRest = !member.isUnfinished && member.phase === "at rest";
      if (groups.forget(group, id, isAtRest)) {
        left -= 1;
        // Who has still to read its anchor is empty, too. By then there may be another one of the same anchor.
        const isOver = isAtRest && isEmpty(group);
        if (isOver && members.get(group.anchorId) === member) members.delete(group.anchorId);
      } else {
        keep(id, member);
      }
    }
  }

  function cached(subject: Subject): Records | undefined {
    const ids = idsOf(subject);
    const group = members.get(ids.all[0] as string)?.group;
    if (group === undefined) return undefined;
    for (const id of ids.all) if (confirmedOf(group, id)?.record === undefined) return undefined;
    return recordsOf(ids, (id) => confirmedOf(group, id)?.record);
  }

  async function readRecords(subject: Subject): Promise<Records> {
    const member = use(subject);
    const { group } = member;
    const ids = idsOf(subject);
    const versions = versionsOf(group, ids.all);
    const documents = await Promise.all(ids.all.map((id) => session.fetch(id)));
    const found = new Map(
      documents.flatMap((document) => (document ? [[document.id, document] as const] : [])),
    );
    // With a write under way the lane owns the group; what was read is right all the same.
    if (member.phase !== "in flight") groups.adopt(group, ids.all, found, versions, runtime.monotonicMs());
    return recordsOf(ids, (id) => {
      const document = found.get(id);
      if (document === undefined) return undefined;
      if (document.version < (versions.get(id) ?? 0)) throw versionFault();
      const confirmed = confirmedOf(group, id);
      if (confirmed?.version === document.version) return confirmed.record;
      return parseMember(document, group.anchorId);
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
      const owner = recent.get(id)?.member.group;
      const known = owner && confirmedOf(owner, id)?.record;
      const document = known === undefined ? await session.fetch(id) : undefined;
      const key = known ?? (document && parseKeyRecord(document));
      if (!isKey(key)) return undefined;
      return { keyId, ...(key.account && { accountId: key.account.id }) };
    },

    decide: (subject, step, undo) => enqueue(subject, step as Step<never>, { undo, isFact: false } as never),
    post: (subject, step) => enqueue(subject, step as Step<void>, FACT),
    edit: (subject, step) => enqueue(subject, step as Step<never>, { isFact: false }),

    count(subject, counted) {
      groups.count(use(subject).group, keyDocumentId(subject.keyId), counted);
    },

    renew() {
      for (const member of members.values()) {
        groups.renewIfDue(member.group);
        if (isUnfinished(member.group)) schedule(member);
      }
    },

    async flush(timeoutMs) {
      for (const member of members.values()) {
        writeCounts(member.group);
        if (isUnfinished(member.group)) schedule(member);
      }
      if (unfinished > 0) {
        const { promise, resolve } = withResolvers<void>();
        onQuiet.push(resolve);
        const cancel = runtime.setTimer(resolve, timeoutMs);
        await promise;
        cancel();
        onQuiet = onQuiet.filter((quiet) => quiet !== resolve);
      }
      let unsettled = 0;
      for (const { group, isUnfinished } of members.values())
        if (isUnfinished) unsettled += countUnsettled(group);
      return unsettled;
    },

    letGo() {
      isLetGo = true;
    },
  };
}

/** A group belongs to one lane of a process. */
function laneOf(anchorId: string): number {
  let hash = 0;
  for (let at = 0; at < anchorId.length; at += 1) hash = (hash * 31 + anchorId.charCodeAt(at)) | 0;
  return (hash >>> 0) % LANES;
}
