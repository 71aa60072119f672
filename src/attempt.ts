import { claimAlerts, type Thresholds } from "./alerts.js";
import { copyOf, withEntry } from "./copies.js";
import type { AnyRecord } from "./document-schemas.js";
import {
  type AccountRecord,
  accountDocumentId,
  type DayTally,
  type EntryRecord,
  entryDocumentId,
  FORMAT,
  isKey,
  isLedger,
  type KeyRecord,
  keyDocumentId,
  type Ledger,
  recordWrite,
  type UsageRecord,
  usageDocumentId,
} from "./documents.js";
import { fitted } from "./fitting.js";
import { newEntry, withNode } from "./ledger.js";
import { sweepAccount, sweepKey } from "./settle.js";
import type { Write } from "./store.js";
import { ratePercentOf } from "./subscription.js";
import { dayOf, mergeDays, turnDay, withTally } from "./tally.js";

/** The documents a step is about. A key that belongs to an account is always named with it. */
export interface Subject {
  readonly keyId?: string | undefined;
  readonly accountId?: string | undefined;
  readonly entryId?: string | undefined;
}

/** The ids of a subject's documents; of those that it does not name, undefined. */
export interface SubjectIds {
  readonly account: string | undefined;
  readonly key: string | undefined;
  readonly entry: string | undefined;
  /** The anchor first. */
  readonly all: readonly string[];
}

/** What those documents hold. An entry may be absent; a key and an account that were named are there. */
export interface Records {
  readonly key?: KeyRecord | undefined;
  readonly account?: AccountRecord | undefined;
  readonly entry?: EntryRecord | undefined;
}

/** Where and when a step runs. Arguments of the kernel, so that the kernel stays pure. */
export interface Moment {
  /** The identity under which this process holds something of the documents. */
  readonly node: string;
  /** Store time. */
  readonly now: number;
  readonly holdUntilMs: number;
}

/** A pure step over the records of a subject. It may run several times; only the run that was written counts. */
export type Step<T, R extends Records = Records> = (
  records: R,
  moment: Moment,
) => { readonly records: Records; readonly outcome: T };

/** A document as a read or an acknowledged write has shown it; version 0: it does not exist. */
export interface Confirmed {
  readonly version: number;
  readonly record: AnyRecord | undefined;
}

/** A confirmed document, with its record as it is by now. */
export interface Swept {
  readonly confirmed: Confirmed;
  readonly record: AnyRecord | undefined;
  /** Of a key, the day that is over by now. */
  readonly closed: DayTally | undefined;
}

/** What steps over several documents come to, ready to be written as one group. */
export interface Composed<K> {
  /** False: nothing changed, so the group only checks and leaves no trace. */
  readonly changes: boolean;
  /** The anchor first. */
  readonly writes: readonly Write[];
  /** As they are written. */
  readonly records: ReadonlyMap<string, AnyRecord>;
  readonly results: readonly Result<K>[];
  /** Keys whose counters of refused and free requests are in it. */
  readonly tallied: readonly string[];
}

export type Result<K> =
  | { readonly task: K; readonly threw: false; readonly outcome: unknown }
  | { readonly task: K; readonly threw: true; readonly error: unknown };

export interface Composition<K> {
  /** The document that is written with every change, and so proves that it happened. */
  readonly anchorId: string;
  /** The anchor, and all documents that the tasks name. */
  readonly documents: ReadonlyMap<string, Swept>;
  /** Closed days that are there already. */
  readonly days: ReadonlyMap<string, Confirmed>;
  readonly tasks: readonly (K & { readonly ids: SubjectIds; readonly step: Step<unknown> })[];
  readonly moment: Moment;
  /** Other names under which this process holds something of the documents. */
  readonly formerNodes: ReadonlySet<string>;
  /** The number of this attempt. */
  readonly nextSeq: () => number;
  /** Documents to be written even if nothing changed, because holds are to be renewed. */
  readonly renewals: ReadonlySet<string>;
  /** Whether the anchor has to be written even if nothing changed. */
  readonly mustWrite: boolean;
  /** Counters of requests that wrote nothing, by key document. They ride with the next write. */
  readonly tallies: ReadonlyMap<string, DayTally>;
  readonly thresholds: Thresholds;
}

/** Runs every task on the records as the tasks before it left them, and composes the group that makes them true. */
export function compose<K>(input: Composition<K>): Composed<K> {
  const { anchorId, documents, tasks, moment, renewals } = input;
  const changed = new Map<string, AnyRecord>();
  const results = tasks.map((task): Result<K> => run(task, documents, changed, moment));
  for (const id of renewals) touch(changed, id, documents);
  if (changed.size === 0 && !input.mustWrite) {
    const writes = Array.from(documents, ([id, { confirmed }]) => ({ id, expected: confirmed.version }));
    return { changes: false, writes, records: NO_RECORDS, results, tallied: [] };
  }

  touch(changed, anchorId, documents);
  const seq = input.nextSeq();
  const records = new Map<string, AnyRecord>();
  const tallied: string[] = [];
  const writes: Write[] = [];
  const closings: Write[] = [];
  for (const [id, { confirmed, closed }] of documents) {
    const { version, record: before } = confirmed;
    let after = changed.get(id);
    if (after === undefined) {
      writes.push({ id, expected: version });
      continue;
    }
    if (isKey(after)) {
      const tally = input.tallies.get(id);
      if (tally !== undefined) {
        const today = after.tally ?? { day: dayOf(after, moment.now), models: {} };
        after = withTally(after, mergeDays(today, tally));
        tallied.push(id);
      }
      if (closed !== undefined) closings.push(closing(id, after, closed, input.days));
    }
    if (isLedger(after)) {
      const proof = stamp(renewed(after, input.formerNodes, moment), moment, seq, id === anchorId);
      after = fitted(
        before === undefined ? proof : claimAlerts(before as KeyRecord, proof as KeyRecord, input.thresholds),
      );
    }
    records.set(id, after);
    writes.push(recordWrite(id, version, after as { readonly owner?: string }));
  }
  return { changes: true, writes: [...writes, ...closings], records, results, tallied };
}

const NO_RECORDS: ReadonlyMap<string, AnyRecord> = new Map();

/** The ids of a subject's documents. */
export function idsOf(subject: Subject): SubjectIds {
  let ids = named.get(subject);
  if (ids === undefined) {
    const { keyId, accountId, entryId } = subject;
    const account = accountId === undefined ? undefined : accountDocumentId(accountId);
    const key = keyId === undefined ? undefined : keyDocumentId(keyId);
    const entry =
      accountId === undefined || entryId === undefined ? undefined : entryDocumentId(accountId, entryId);
    ids = { account, key, entry, all: [account, key, entry].filter((id) => id !== undefined) };
    named.set(subject, ids);
  }
  return ids;
}

/** A key has one subject for all of its requests: their ids are made once. */
const named = new WeakMap<Subject, SubjectIds>();

/** The records of a subject. */
export function recordsOf(
  { account, key, entry }: SubjectIds,
  get: (id: string) => AnyRecord | undefined,
): Records {
  return {
    key: key === undefined ? undefined : (get(key) as KeyRecord),
    account: account === undefined ? undefined : (get(account) as AccountRecord),
    entry: entry === undefined ? undefined : (get(entry) as EntryRecord | undefined),
  };
}

function run<K>(
  task: Composition<K>["tasks"][number],
  documents: Composition<K>["documents"],
  changed: Map<string, AnyRecord>,
  moment: Moment,
): Result<K> {
  function note(id: string | undefined, before: AnyRecord | undefined, after: AnyRecord | undefined): void {
    if (id !== undefined && after !== undefined && after !== before) changed.set(id, after);
  }
  try {
    const { ids, step } = task;
    const before = recordsOf(ids, (id) => changed.get(id) ?? documents.get(id)?.record);
    const { records: after, outcome } = step(before, moment);
    note(ids.account, before.account, after.account);
    note(ids.key, before.key, after.key);
    note(ids.entry, before.entry, after.entry);
    return { task, threw: false, outcome };
  } catch (error) {
    return { task, threw: true, error };
  }
}

/** Has a document written even if no step has changed it. */
function touch(changed: Map<string, AnyRecord>, id: string, documents: ReadonlyMap<string, Swept>): void {
  const record = documents.get(id)?.record;
  if (record !== undefined && !changed.has(id)) changed.set(id, record);
}

/**
 * Brings documents up to `now`: first the anchor, because the limits of an account's keys depend on its plan. Of what is
 * not known there is nothing.
 */
export function sweepAll(
  ids: readonly string[],
  confirmedOf: (id: string) => Confirmed | undefined,
  now: number,
): ReadonlyMap<string, Swept> {
  const swept = new Map<string, Swept>();
  for (const id of ids) {
    const confirmed = confirmedOf(id);
    if (confirmed !== undefined) swept.set(id, sweepOne(confirmed, swept, now));
  }
  return swept;
}

function sweepOne(confirmed: Confirmed, swept: ReadonlyMap<string, Swept>, now: number): Swept {
  const { record } = confirmed;
  if (!isLedger(record)) return { confirmed, record, closed: undefined };
  if (!isKey(record)) return { confirmed, record: sweepAccount(record, now), closed: undefined };
  const { key, closed } = turnDay(record, now);
  const account = record.account && swept.get(accountDocumentId(record.account.id))?.record;
  const percent = ratePercentOf(record, account as AccountRecord | undefined);
  return { confirmed, record: sweepKey(key, now, percent), closed };
}

/** Marks a record with the attempt that writes it. Only the anchor has to prove it; the others just renew their holds. */
function stamp<L extends Ledger>(
  ledger: L,
  { node, now, holdUntilMs }: Moment,
  seq: number,
  isAnchor: boolean,
): L {
  const copy = copyOf(ledger);
  copy.latestMs = Math.max(ledger.latestMs, now);
  const entry = ledger.nodes[node] ?? (isAnchor ? newEntry(ledger) : undefined);
  if (entry === undefined) return copy;
  const { open, renewByMs, held } = entry;
  const proof = { seq, open, renewByMs: Math.max(renewByMs, holdUntilMs), held };
  copy.nodes = withEntry(ledger.nodes, node, proof);
  return copy;
}

/** What a process holds under names that it no longer gives lives on while its requests do. */
function renewed<L extends Ledger>(ledger: L, names: ReadonlySet<string>, { holdUntilMs }: Moment): L {
  let sum = ledger;
  for (const name of names) {
    const entry = sum.nodes[name];
    if (entry === undefined || entry.open === 0) continue;
    sum = withNode(sum, name, { ...entry, renewByMs: Math.max(entry.renewByMs, holdUntilMs) });
  }
  return sum;
}

/** Moves a day that is over out of its key. It cannot be there yet; if it is, after all, they are one. */
function closing(
  id: string,
  { owner, account }: KeyRecord,
  day: DayTally,
  days: Composition<unknown>["days"],
): Write {
  const keyId = id.slice(id.indexOf(":") + 1);
  const usageId = usageDocumentId(keyId, day.day);
  const there = days.get(usageId);
  const merged = there?.record === undefined ? day : mergeDays(there.record as UsageRecord, day);
  const record: UsageRecord & { readonly owner?: string } = {
    format: FORMAT,
    keyId,
    ...(account !== undefined && { accountId: account.id }),
    ...(owner !== undefined && { owner }),
    day: merged.day,
    models: merged.models,
  };
  return recordWrite(usageId, there?.version ?? 0, record);
}
