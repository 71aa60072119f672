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
import { isKeystileError } from "./errors.js";
import { fitted, MAX_BYTES_OF_DECISIONS, MAX_DOCUMENT_BYTES } from "./fitting.js";
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
  /** Made once where many requests have the same subject. */
  readonly ids?: SubjectIds | undefined;
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

/** One document of an attempt. */
export interface Part {
  readonly id: string;
  /** What the attempt is decided on. */
  readonly confirmed: Confirmed;
  /** Its record as it is by now. */
  readonly swept: AnyRecord | undefined;
  /** Of a key, the day that is over by now. */
  readonly closed: DayTally | undefined;
  /** Its record as the attempt leaves it. undefined: it is only checked. */
  after: AnyRecord | undefined;
}

/** What steps over several documents come to, ready to be written as one group. */
export interface Composed<K> {
  /** False: nothing changed, so the group only checks and leaves no trace. */
  readonly changes: boolean;
  /** The number of this attempt; 0 where nothing changed. */
  readonly seq: number;
  /** The anchor first. */
  readonly parts: readonly Part[];
  /** Of all parts in their order, then those of days that are over. */
  readonly writes: readonly Write[];
  readonly results: readonly Result<K>[];
  /** Keys whose counters of refused and free requests are in it. */
  readonly tallied: readonly string[];
}

export type Result<K> =
  | { readonly task: K; readonly threw: false; readonly outcome: unknown }
  | { readonly task: K; readonly threw: true; readonly error: unknown };

/** What is known of a task here. */
interface Composable {
  readonly ids: SubjectIds;
  readonly step: Step<unknown>;
  /** Only decisions about requests can be undone, and they alone fill a document. */
  readonly options: { readonly undo?: unknown };
}

export interface Composition<K> {
  /** The document that is written with every change, and so proves that it happened. */
  readonly anchorId: string;
  /** The anchor, and all documents that the tasks name. What becomes of them is noted there. */
  readonly parts: readonly Part[];
  /** Closed days that are there already. */
  readonly days: ReadonlyMap<string, Confirmed>;
  readonly tasks: readonly (K & Composable)[];
  readonly moment: Moment;
  /** Other names under which this process holds something of the documents. */
  readonly formerNodes: ReadonlySet<string>;
  readonly nextSeq: () => number;
  /** Documents to be written even if nothing changed, because holds are to be renewed. */
  readonly renewals: ReadonlySet<string>;
  /** Whether the anchor has to be written even if nothing changed. */
  readonly mustWrite: boolean;
  /** Counters of requests that wrote nothing, by key document. They ride with the next write. */
  readonly tallies: ReadonlyMap<string, DayTally>;
  readonly thresholds: Thresholds;
}

/**
 * Runs every task on the records as the tasks before it left them, and composes the group that makes them true.
 *
 * Where a document gets too long, decisions about requests make way: what ends requests, or changes a key, is written
 * without them, and has room that they may not take. Else whoever holds a key could keep it from being revoked.
 */
export function compose<K>(input: Composition<K>): Composed<K> {
  let { tasks } = input;
  const refused: Result<K>[] = [];
  for (;;) {
    let longest = "";
    try {
      const composed = composeTasks(input, tasks, (id) => {
        longest = id;
      });
      return refused.length === 0 ? composed : { ...composed, results: [...composed.results, ...refused] };
    } catch (error) {
      const isInTheWay = (task: Composable) => isDecisionOn(longest, task);
      const full = tasks.filter(isInTheWay);
      if (full.length === 0 || !isKeystileError(error) || error.code !== "document_full") throw error;
      refused.push(...full.map((task) => ({ task, threw: true, error }) as const));
      tasks = tasks.filter((task) => !isInTheWay(task));
      for (const part of input.parts) part.after = undefined;
    }
  }
}

function isDecisionOn(id: string, { ids, options }: Composable): boolean {
  return options.undo !== undefined && ids.all.includes(id);
}

/** @param onFit called with the id of each document before it is made to fit */
function composeTasks<K>(
  input: Composition<K>,
  tasks: Composition<K>["tasks"],
  onFit: (id: string) => void,
): Composed<K> {
  const { anchorId, parts, moment } = input;
  const results = tasks.map((task): Result<K> => run(task, parts, moment));
  for (const id of input.renewals) touch(parts, id);
  if (!input.mustWrite && parts.every(({ after }) => after === undefined)) {
    const writes = parts.map(({ id, confirmed }) => ({ id, expected: confirmed.version }));
    return { changes: false, seq: 0, parts, writes, results, tallied: [] };
  }

  touch(parts, anchorId);
  const seq = input.nextSeq();
  const tallied: string[] = [];
  const writes: Write[] = [];
  const closings: Write[] = [];
  for (const part of parts) {
    const { id, closed } = part;
    const { version, record: before } = part.confirmed;
    let { after } = part;
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
      if (closed !== undefined) closings.push(...closing(id, after, closed, input.days));
    }
    if (isLedger(after)) {
      const proof = stamp(renewed(after, input.formerNodes, moment), moment, seq, id === anchorId);
      onFit(id);
      after = fitted(
        before === undefined ? proof : claimAlerts(before as KeyRecord, proof as KeyRecord, input.thresholds),
        () => (tasks.some((task) => isDecisionOn(id, task)) ? MAX_BYTES_OF_DECISIONS : MAX_DOCUMENT_BYTES),
      );
    }
    part.after = after;
    writes.push(recordWrite(id, version, after as { readonly owner?: string }));
  }
  for (const write of closings) writes.push(write);
  return { changes: true, seq, parts, writes, results, tallied };
}

/** A document of an attempt. */
export function partOf(parts: readonly Part[], id: string): Part | undefined {
  for (const part of parts) if (part.id === id) return part;
  return undefined;
}

/** The ids of a subject's documents. */
export function idsOf(subject: Subject): SubjectIds {
  if (subject.ids !== undefined) return subject.ids;
  const { keyId, accountId, entryId } = subject;
  const account = accountId === undefined ? undefined : accountDocumentId(accountId);
  const key = keyId === undefined ? undefined : keyDocumentId(keyId);
  const entry =
    accountId === undefined || entryId === undefined ? undefined : entryDocumentId(accountId, entryId);
  return { account, key, entry, all: [account, key, entry].filter((id) => id !== undefined) };
}

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

function run<K>(task: Composition<K>["tasks"][number], parts: readonly Part[], moment: Moment): Result<K> {
  try {
    const { ids, step } = task;
    const account = ids.account === undefined ? undefined : partOf(parts, ids.account);
    const key = ids.key === undefined ? undefined : partOf(parts, ids.key);
    const entry = ids.entry === undefined ? undefined : partOf(parts, ids.entry);
    const before = { key: latest(key), account: latest(account), entry: latest(entry) } as Records;
    const { records: after, outcome } = step(before, moment);
    note(account, before.account, after.account);
    note(key, before.key, after.key);
    note(entry, before.entry, after.entry);
    return { task, threw: false, outcome };
  } catch (error) {
    return { task, threw: true, error };
  }
}

function latest(part: Part | undefined): AnyRecord | undefined {
  return part?.after ?? part?.swept;
}

function note(part: Part | undefined, before: AnyRecord | undefined, after: AnyRecord | undefined): void {
  if (part !== undefined && after !== undefined && after !== before) part.after = after;
}

/** Has a document written even if no step has changed it. */
function touch(parts: readonly Part[], id: string): void {
  const part = partOf(parts, id);
  if (part !== undefined) part.after ??= part.swept;
}

/**
 * Brings documents up to `now`: first the anchor, because the limits of an account's keys depend on its plan. Of what is
 * not known there is nothing.
 */
export function sweepAll(
  ids: readonly string[],
  confirmedOf: (id: string) => Confirmed | undefined,
  now: number,
): readonly Part[] {
  const parts: Part[] = [];
  for (const id of ids) {
    const confirmed = confirmedOf(id);
    if (confirmed !== undefined) parts.push(sweepOne(id, confirmed, parts, now));
  }
  return parts;
}

function sweepOne(id: string, confirmed: Confirmed, parts: readonly Part[], now: number): Part {
  const { record } = confirmed;
  if (isKey(record)) {
    const { key, closed } = turnDay(record, now);
    const account = record.account && partOf(parts, accountDocumentId(record.account.id))?.swept;
    const percent = ratePercentOf(record, account as AccountRecord | undefined);
    return { id, confirmed, swept: sweepKey(key, now, percent), closed, after: undefined };
  }
  const swept = isLedger(record) ? sweepAccount(record as AccountRecord, now) : record;
  return { id, confirmed, swept, closed: undefined, after: undefined };
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

/**
 * Moves a day that is over out of its key. It cannot be there yet; if it is, after all, they are one. One that is there and
 * cannot be read stays as it is: reports tell of it, and access and money do not depend on it.
 */
function closing(
  id: string,
  { owner, account }: KeyRecord,
  day: DayTally,
  days: Composition<unknown>["days"],
): readonly Write[] {
  const keyId = id.slice(id.indexOf(":") + 1);
  const usageId = usageDocumentId(keyId, day.day);
  const there = days.get(usageId);
  if (there !== undefined && there.version > 0 && there.record === undefined) return [];
  const merged = there?.record === undefined ? day : mergeDays(there.record as UsageRecord, day);
  const record: UsageRecord & { readonly owner?: string } = {
    format: FORMAT,
    keyId,
    ...(account !== undefined && { accountId: account.id }),
    ...(owner !== undefined && { owner }),
    day: merged.day,
    models: merged.models,
  };
  return [recordWrite(usageId, there?.version ?? 0, record)];
}
