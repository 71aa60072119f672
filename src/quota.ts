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
  const expired = Object.entries(record.nodes).filter(([, entry]) => entry.renewByMs <= now);
  const holding = expired.filter(([, entry]) => isHolding(entry));
  const forgotten = [
    ...oldest(
      expired.filter(([, entry]) => !isHolding(entry)),
      ([, entry]) => entry.renewByMs,
      0,
      now,
    ),
    ...oldest(Object.entries(record.collected), ([, entry]) => entry.collectedAtMs, holding.length, now),
  ].map(([node]) => node);
  if (holding.length === 0 && forgotten.length === 0) return record;

  const mode = record.policy.onCrash;
  const nodes = { ...record.nodes };
  const collected = { ...record.collected };
  let booked = record;
  for (const [node, { seq, held }] of holding) {
    delete nodes[node];
    collected[node] = { seq, collectedAtMs: now, mode, collected: held };
    if (mode === "charge") booked = book(booked, held, 1);
  }
  for (const node of forgotten) {
    delete nodes[node];
    delete collected[node];
  }
  return { ...booked, nodes, collected };
}

/**
 * Whether an entry that was to be renewed by `renewByMs` may have been there and be forgotten by now. Before that,
 * its absence proves that it was never written.
 */
export function mayBeForgotten(record: KeyRecord, renewByMs: number, now: number): boolean {
  if (renewByMs > now) return false;
  const drained = Object.values(record.nodes).filter((entry) => !isHolding(entry));
  const isFull = Object.keys(record.collected).length >= MAX_COLLECTED || drained.length >= MAX_COLLECTED;
  return isFull || renewByMs + COLLECTED_KEPT_MS <= now;
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

/** The entries to forget: those older than an hour, and the oldest beyond 64 with `arriving` more to come. */
function oldest<E>(
  entries: readonly E[],
  atMs: (entry: E) => number,
  arriving: number,
  now: number,
): readonly E[] {
  const byAge = entries.toSorted((a, b) => atMs(a) - atMs(b));
  const surplus = Math.max(0, entries.length + arriving - MAX_COLLECTED);
  return byAge.filter((entry, index) => index < surplus || atMs(entry) + COLLECTED_KEPT_MS <= now);
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
