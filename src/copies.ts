import { type AccountRecord, isKey, type KeyRecord, type Ledger } from "./documents.js";

/*
 * Records are never changed, so every decision copies some. What one spread made, another one copies at twenty times the
 * price of the same copy written out: each result has a hidden class of its own, which no cache of the engine knows.
 */

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/** A copy of a key's or an account's record, to be changed before anybody else sees it. */
export function copyOf<L extends Ledger>(record: L): Mutable<L> {
  const copy = isKey(record) ? copyKey(record) : copyAccount(record as Ledger as AccountRecord);
  return copy as Ledger as Mutable<L>;
}

/** A record as it was read, of which members that no record has here are put aside. */
export function inShape<L extends KeyRecord | AccountRecord>(record: L): L {
  const copy = copyOf(record);
  const later = Object.entries(record).filter(([name]) => name === "later" || !Object.hasOwn(copy, name));
  copy.later = later.length === 0 ? undefined : Object.fromEntries(later);
  return copy;
}

/** A copy of entries by name, with one more or another one. */
export function withEntry<T>(
  entries: Readonly<Record<string, T>>,
  name: string,
  entry: T,
): Record<string, T> {
  const copy = copyEntries(entries);
  copy[name] = entry;
  return copy;
}

/** Both together; what has a name in both is the second one's. */
export function withEntries<T>(
  entries: Readonly<Record<string, T>>,
  more: Readonly<Record<string, T>>,
): Readonly<Record<string, T>> {
  if (countOf(more) === 0) return entries;
  const copy = copyEntries(entries);
  for (const name in more) if (Object.hasOwn(more, name)) copy[name] = more[name] as T;
  return copy;
}

/** How many entries there are. `Object.keys` makes a list of them each time. */
export function countOf(entries: object): number {
  let count = 0;
  for (const name in entries) if (Object.hasOwn(entries, name)) count += 1;
  return count;
}

/** Members that are there and undefined say nothing. */
export function defined<T extends object>(members: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined)) as never;
}

function copyEntries<T>(entries: Readonly<Record<string, T>>): Record<string, T> {
  const copy: Record<string, T> = {};
  for (const name in entries) if (Object.hasOwn(entries, name)) copy[name] = entries[name] as T;
  return copy;
}

function copyKey(record: KeyRecord): Mutable<KeyRecord> {
  return {
    format: record.format,
    owner: record.owner,
    prefix: record.prefix,
    account: record.account,
    createdAtMs: record.createdAtMs,
    policyVersion: record.policyVersion,
    policy: record.policy,
    secrets: record.secrets,
    used: record.used,
    levels: record.levels,
    nodes: record.nodes,
    collected: record.collected,
    forgottenMs: record.forgottenMs,
    latestMs: record.latestMs,
    alerts: record.alerts,
    tally: record.tally,
    later: record.later,
  };
}

function copyAccount(record: AccountRecord): Mutable<AccountRecord> {
  return {
    format: record.format,
    owner: record.owner,
    createdAtMs: record.createdAtMs,
    policyVersion: record.policyVersion,
    policy: record.policy,
    used: record.used,
    levels: record.levels,
    nodes: record.nodes,
    collected: record.collected,
    forgottenMs: record.forgottenMs,
    latestMs: record.latestMs,
    alerts: record.alerts,
    credited: record.credited,
    subscription: record.subscription,
    closed: record.closed,
    later: record.later,
  };
}
