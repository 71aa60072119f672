import { claimAlerts, type Thresholds } from "./alerts.js";
import type { AnyRecord } from "./document-schemas.js";
import {
  type AccountRecord,
  accountDocumentId,
  type DayTally,
  type EntryRecord,
  entryDocumentId,
  FORMAT,
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
import { dayOf, mergeDays, turnDay } from "./tally.js";

/** The documents a step is about. A key that belongs to an account is always named with it. */
export interface Subject {
  readonly keyId?: string | undefined;
  readonly accountId?: string | undefined;
  readonly entryId?: string | undefined;
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

/** What steps over several documents come to, ready to be written as one group. */
export interface Composed<K> {
  /** False: nothing changed, so the group only checks and leaves no trace. */
  readonly changes: boolean;
  /** The anchor first. */
  readonly writes: readonly Write[];
  readonly records: ReadonlyMap<string, AnyRecord>;
  readonly results: readonly Result<K>[];
  /** Keys whose counters of refused and free requests are in it. */
  readonly tallied: ReadonlySet<string>;
}

export type Result<K> =
  | { readonly task: K; readonly threw: false; readonly outcome: unknown }
  | { readonly task: K; readonly threw: true; readonly error: unknown };

export interface Composition<K> {
  /** The document that is written with every change, and so proves that it happened. */
  readonly anchorId: string;
  /** All documents that the tasks name, and the anchor. */
  readonly documents: ReadonlyMap<string, Confirmed>;
  /** The same, brought up to now. */
  readonly swept: Swept;
  readonly tasks: readonly (K & { readonly subject: Subject; readonly step: Step<unknown> })[];
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
  const { anchorId, documents, swept, tasks, moment, formerNodes, renewals, tallies, thresholds } = input;
  const records = new Map(swept.records);
  const results = tasks.map((task): Result<K> => run(task, records, moment));

  const touched = [...records.keys()].filter(
    (id) => records.get(id) !== swept.records.get(id) || renewals.has(id),
  );
  const changes = touched.length > 0 || input.mustWrite;
  if (!changes) {
    const writes = anchorFirst(anchorId, documents).map(([id, { version }]) => ({ id, expected: version }));
    return { changes, writes, records: new Map(), results, tallied: new Set() };
  }

  const seq = input.nextSeq();
  const changed = new Set([anchorId, ...touched]);
  const written = new Map<string, AnyRecord>();
  const tallied = new Set<string>();
  const closings: Write[] = [];
  const writes = anchorFirst(anchorId, documents).map(([id, { version, record: before }]): Write => {
    const record = records.get(id);
    if (!changed.has(id) || record === undefined) return { id, expected: version };
    let after = record;
    if (isKey(after)) {
      const tally = tallies.get(id);
      if (tally !== undefined) {
        after = {
          ...after,
          tally: mergeDays(after.tally ?? { day: dayOf(after, moment.now), models: {} }, tally),
        };
        tallied.add(id);
      }
      const closed = swept.closed.get(id);
      if (closed !== undefined) closings.push(closing(id, after, closed, documents));
    }
    if (isLedger(after)) {
      const stamped = stamp(renewed(after, formerNodes, moment), { ...moment, seq }, id === anchorId);
      const claimed =
        before === undefined ? stamped : claimAlerts(before as KeyRecord, stamped as KeyRecord, thresholds);
      after = fitted(claimed);
    }
    written.set(id, after);
    return recordWrite(id, version, after as { readonly owner?: string });
  });
  return { changes, writes: [...writes, ...closings], records: written, results, tallied };
}

/** The ids of a subject's documents, the anchor first. */
export function idsOf({ keyId, accountId, entryId }: Subject): readonly string[] {
  return [
    ...(accountId === undefined ? [] : [accountDocumentId(accountId)]),
    ...(keyId === undefined ? [] : [keyDocumentId(keyId)]),
    ...(accountId === undefined || entryId === undefined ? [] : [entryDocumentId(accountId, entryId)]),
  ];
}

/** The records of a subject. */
export function recordsOf(subject: Subject, get: (id: string) => AnyRecord | undefined): Records {
  const { keyId, accountId, entryId } = subject;
  return {
    ...(keyId !== undefined && { key: get(keyDocumentId(keyId)) as KeyRecord }),
    ...(accountId !== undefined && { account: get(accountDocumentId(accountId)) as AccountRecord }),
    ...(accountId !== undefined &&
      entryId !== undefined && {
        entry: get(entryDocumentId(accountId, entryId)) as EntryRecord | undefined,
      }),
  };
}

export function isLedger(record: AnyRecord | undefined): record is KeyRecord | AccountRecord {
  return record !== undefined && "nodes" in record;
}

export function isKey(record: AnyRecord | undefined): record is KeyRecord {
  return record !== undefined && "secrets" in record;
}

function run<K>(
  task: Composition<K>["tasks"][number],
  records: Map<string, AnyRecord>,
  moment: Moment,
): Result<K> {
  try {
    const { subject, step } = task;
    const result = step(
      recordsOf(subject, (id) => records.get(id)),
      moment,
    );
    const [accountId, keyId, entryId] = partIds(subject);
    if (accountId !== undefined && result.records.account) records.set(accountId, result.records.account);
    if (keyId !== undefined && result.records.key) records.set(keyId, result.records.key);
    if (entryId !== undefined && result.records.entry) records.set(entryId, result.records.entry);
    return { task, threw: false, outcome: result.outcome };
  } catch (error) {
    return { task, threw: true, error };
  }
}

function partIds({ keyId, accountId, entryId }: Subject): readonly (string | undefined)[] {
  return [
    accountId && accountDocumentId(accountId),
    keyId && keyDocumentId(keyId),
    accountId && entryId && entryDocumentId(accountId, entryId),
  ];
}

/** Records as they are by now, and the days of keys that are over. */
export interface Swept {
  readonly records: ReadonlyMap<string, AnyRecord>;
  readonly closed: ReadonlyMap<string, DayTally>;
}

/** Brings all documents up to `now`. */
export function sweepAll(documents: ReadonlyMap<string, Confirmed>, now: number): Swept {
  const records = new Map<string, AnyRecord>();
  const closed = new Map<string, DayTally>();
  for (const [id, { record }] of documents) {
    if (record !== undefined && isLedger(record) && !isKey(record))
      records.set(id, sweepAccount(record, now));
  }
  for (const [id, { record }] of documents) {
    if (record === undefined || records.has(id)) continue;
    if (!isKey(record)) {
      records.set(id, record);
      continue;
    }
    const turned = turnDay(record, now);
    const account =
      record.account && (records.get(accountDocumentId(record.account.id)) as AccountRecord | undefined);
    records.set(id, sweepKey(turned.key, now, ratePercentOf(record, account)));
    if (turned.closed !== undefined) closed.set(id, turned.closed);
  }
  return { records, closed };
}

/** Marks a record with the attempt that writes it. Only the anchor has to prove it; the others just renew their holds. */
function stamp<L extends Ledger>(
  ledger: L,
  { node, seq, now, holdUntilMs }: Moment & { readonly seq: number },
  isAnchor: boolean,
): L {
  const dated = { ...ledger, latestMs: Math.max(ledger.latestMs, now) };
  const entry = ledger.nodes[node] ?? (isAnchor ? newEntry(ledger) : undefined);
  if (entry === undefined) return dated;
  return withNode(dated, node, { ...entry, seq, renewByMs: Math.max(entry.renewByMs, holdUntilMs) });
}

/** What a process holds under names that it no longer gives lives on while its requests do. */
function renewed<L extends Ledger>(ledger: L, names: ReadonlySet<string>, { holdUntilMs }: Moment): L {
  return [...names].reduce((sum, name) => {
    const entry = sum.nodes[name];
    if (entry === undefined || entry.open === 0) return sum;
    return withNode(sum, name, { ...entry, renewByMs: Math.max(entry.renewByMs, holdUntilMs) });
  }, ledger);
}

/** Moves a day that is over out of its key. It cannot be there yet; if it is, after all, they are one. */
function closing(
  id: string,
  { owner, account }: KeyRecord,
  day: DayTally,
  documents: Composition<unknown>["documents"],
): Write {
  const keyId = id.slice(id.indexOf(":") + 1);
  const usageId = usageDocumentId(keyId, day.day);
  const there = documents.get(usageId);
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

function anchorFirst(
  anchorId: string,
  documents: Composition<unknown>["documents"],
): readonly (readonly [string, Confirmed])[] {
  // Days that are over are written by what closes them.
  const all = [...documents].filter(([id]) => !id.startsWith("usage:"));
  return all.toSorted(([a], [b]) => Number(b === anchorId) - Number(a === anchorId));
}
