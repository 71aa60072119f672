import {
  type Amounts,
  COLLECTED_KEPT_MS,
  KEY_PURSE,
  type KeyRecord,
  MAX_COLLECTED,
  MAX_NODES,
  type NodeEntry,
} from "./documents.js";
import { KeystileError } from "./errors.js";

/** What a request got: the amounts that a document keeps back for it, under the process that serves it. */
export interface Reservation {
  /** null: nothing was held, because there was nothing to count. */
  readonly node: string | null;
  readonly held: Amounts;
}

/** A key's quota as its owner sees it. `remaining` is what one more request could get now; null is unlimited. */
export interface QuotaStatus {
  readonly limit: number | null;
  readonly used: number;
  readonly held: number;
  readonly remaining: number | null;
  readonly unlimited: boolean;
}

export type ReserveOutcome =
  | { readonly fits: true; readonly record: KeyRecord; readonly reservation: Reservation }
  /** `held`: it would fit if the requests in flight gave back all they hold. */
  | { readonly fits: false; readonly held: boolean };

/** Promises `cost` to a request of `node`: `used + held + cost` stays within the quota, or nothing happens. */
export function reserve(record: KeyRecord, cost: number, node: string, renewByMs: number): ReserveOutcome {
  const { quota } = record.policy;
  const left = (quota ?? Number.MAX_SAFE_INTEGER) - amount(record.used);
  // Subtraction keeps every step within the safe integers where the sum of three amounts would not.
  if (left - heldBy(record) < cost) return { fits: false, held: left >= cost };
  const entry = record.nodes[node] ?? newEntry(record);
  const held = cost > 0 ? { [KEY_PURSE]: cost } : {};
  const next: NodeEntry = {
    ...entry,
    open: entry.open + 1,
    renewByMs: Math.max(entry.renewByMs, renewByMs),
    held: add(entry.held, held, 1),
  };
  return { fits: true, record: withNode(record, node, next), reservation: { node, held } };
}

/**
 * Makes a reservation final with what was really used; 0 gives everything back.
 *
 * It applies to the live entry of the reservation's process, or corrects what became of it after the entry was
 * collected. When even the memory of the collection is gone (after an hour), what was booked then stands.
 * The caller applies it once per reservation. The amount may exceed the reservation: it is a fact, and the debt
 * blocks the next request.
 */
export function settle(record: KeyRecord, { node, held }: Reservation, actual: number): KeyRecord {
  const charged: Amounts = actual > 0 ? { [KEY_PURSE]: actual } : {};
  if (node === null) return book(record, charged, 1);

  const live = record.nodes[node];
  if (live !== undefined) {
    const next = { ...live, open: live.open - 1, held: add(live.held, held, -1) };
    return book(withNode(record, node, next), charged, 1);
  }

  const entry = record.collected[node];
  if (entry === undefined) return record;
  const corrected = { ...entry, collected: add(entry.collected, held, -1) };
  const reopened = { ...record, collected: { ...record.collected, [node]: corrected } };
  const uncharged = entry.mode === "charge" ? book(reopened, held, -1) : reopened;
  return book(uncharged, charged, 1);
}

/**
 * Collects the holds of processes that did not renew them in time: charged as used or given back, as the policy's
 * `onCrash` says. Entries remain as memory for an hour, so that a process that comes back finds out what became of
 * its attempts and can correct what was collected: the latest 64 collected ones and the latest 64 that held nothing.
 * Returns the same record when there is nothing to do.
 */
export function expireHolds(record: KeyRecord, now: number): KeyRecord {
  return forget(collect(record, now), now);
}

/**
 * Whether an entry that was to be renewed by `renewByMs` may have been there and be forgotten. If not, its absence
 * proves that it was never written.
 */
export function mayBeForgotten(record: KeyRecord, renewByMs: number): boolean {
  return renewByMs <= record.forgottenMs;
}

/** The quota's numbers. Debt shows as `remaining: 0` with `used` above `limit`. */
export function quotaStatus(record: KeyRecord): QuotaStatus {
  const limit = record.policy.quota;
  const used = amount(record.used);
  const held = heldBy(record);
  const remaining = limit === null ? null : Math.max(0, limit - used - held);
  return { limit, used, held, remaining, unlimited: limit === null };
}

/** Replaces the entry of one process. */
export function withNode(record: KeyRecord, node: string, entry: NodeEntry): KeyRecord {
  return { ...record, nodes: { ...record.nodes, [node]: entry } };
}

/** An entry that holds nothing. @throws KeystileError `document_full` */
export function newEntry(record: KeyRecord): NodeEntry {
  if (Object.keys(record.nodes).length >= MAX_NODES) {
    throw new KeystileError("document_full", `More than ${MAX_NODES} processes hold requests of one key.`);
  }
  return { seq: 0, open: 0, renewByMs: 0, held: {} };
}

function isHolding({ open, held }: NodeEntry): boolean {
  return open > 0 || Object.keys(held).length > 0;
}

function collect(record: KeyRecord, now: number): KeyRecord {
  const expired = Object.entries(record.nodes).filter(
    ([, entry]) => entry.renewByMs <= now && isHolding(entry),
  );
  if (expired.length === 0) return record;
  const mode = record.policy.onCrash;
  const names = new Set(expired.map(([node]) => node));
  const collected = expired.map(([node, { seq, held }]) => [
    node,
    { seq, collectedAtMs: now, mode, collected: held },
  ]);
  const booked =
    mode === "charge" ? expired.reduce((sum, [, { held }]) => book(sum, held, 1), record) : record;
  return {
    ...booked,
    nodes: without(record.nodes, names),
    collected: { ...record.collected, ...Object.fromEntries(collected) },
  };
}

function forget(record: KeyRecord, now: number): KeyRecord {
  const drained = Object.entries(record.nodes)
    .filter(([, entry]) => entry.renewByMs <= now && !isHolding(entry))
    .map(([node, { renewByMs }]): Memory => ({ node, atMs: renewByMs }));
  const collected = Object.entries(record.collected).map(
    ([node, { collectedAtMs }]): Memory => ({ node, atMs: collectedAtMs }),
  );
  const forgotten = [...tooOld(drained, now), ...tooOld(collected, now)];
  if (forgotten.length === 0) return record;
  const names = new Set(forgotten.map(({ node }) => node));
  return {
    ...record,
    nodes: without(record.nodes, names),
    collected: without(record.collected, names),
    forgottenMs: Math.max(record.forgottenMs, ...forgotten.map(({ atMs }) => atMs)),
  };
}

interface Memory {
  readonly node: string;
  readonly atMs: number;
}

/** Those older than an hour, and the oldest beyond 64. */
function tooOld(memories: readonly Memory[], now: number): readonly Memory[] {
  const surplus = memories.length - MAX_COLLECTED;
  return memories
    .toSorted((a, b) => a.atMs - b.atMs)
    .filter(({ atMs }, index) => index < surplus || atMs + COLLECTED_KEPT_MS <= now);
}

function without<T>(entries: Readonly<Record<string, T>>, names: ReadonlySet<string>): Record<string, T> {
  return Object.fromEntries(Object.entries(entries).filter(([node]) => !names.has(node)));
}

function heldBy(record: KeyRecord): number {
  let held = 0;
  for (const node of Object.values(record.nodes)) held += amount(node.held);
  return held;
}

function amount(amounts: Amounts): number {
  return amounts[KEY_PURSE] ?? 0;
}

function book(record: KeyRecord, amounts: Amounts, sign: 1 | -1): KeyRecord {
  if (Object.keys(amounts).length === 0) return record;
  return { ...record, used: add(record.used, amounts, sign) };
}

/** Adds amounts purse by purse. A sum stays a safe integer; an empty purse is left out. */
function add(to: Amounts, amounts: Amounts, sign: 1 | -1): Amounts {
  const sum: Record<string, number> = { ...to };
  for (const [purse, value] of Object.entries(amounts)) {
    const total = Math.min((sum[purse] ?? 0) + sign * value, Number.MAX_SAFE_INTEGER);
    if (total === 0) delete sum[purse];
    else sum[purse] = total;
  }
  return sum;
}
