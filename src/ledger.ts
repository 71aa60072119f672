import { copyOf, countOf, withEntry } from "./copies.js";
import { type Amounts, type Ledger, MAX_NODES, MAX_VISITORS, type NodeEntry } from "./documents.js";
import { KeystileError } from "./errors.js";

/** What a request was promised by one document, under the process that serves it. */
export interface Hold {
  readonly node: string;
  readonly amounts: Amounts;
  /** Whether giving it back ends the request. Of a part of a lease it does not. Default true. */
  readonly isWhole?: boolean | undefined;
}

/**
 * What had become of a hold when it was released: it was there; it had been collected, and charged or released then; or
 * even the memory of that was gone.
 */
export type Found = "live" | "charged" | "released" | "forgotten";

/** A ledger of which nothing was ever used. */
export function emptyLedger(now: number): Ledger {
  return { used: {}, levels: {}, nodes: {}, collected: {}, forgottenMs: 0, latestMs: now };
}

/** Promises amounts to one more request of a process. @throws KeystileError `document_full` */
export function hold<L extends Ledger>(ledger: L, { node, amounts }: Hold, renewByMs: number): L {
  const entry = ledger.nodes[node] ?? newEntry(ledger, MAX_NODES);
  return withNode(ledger, node, {
    seq: entry.seq,
    open: entry.open + 1,
    renewByMs: Math.max(entry.renewByMs, renewByMs),
    held: add(entry.held, amounts, 1),
  });
}

/**
 * Gives back what a request was promised: out of the live entry of its process, or out of what became of it after the
 * entry was collected. When even the memory of the collection is gone (after an hour), what was booked then stands.
 * The caller does it once per hold.
 */
export function release<L extends Ledger>(
  ledger: L,
  { node, amounts, isWhole = true }: Hold,
): { readonly ledger: L; readonly found: Found } {
  const live = ledger.nodes[node];
  if (live !== undefined) {
    const { seq, open, renewByMs, held } = live;
    const rest = { seq, open: isWhole ? open - 1 : open, renewByMs, held: add(held, amounts, -1) };
    return { ledger: withNode(ledger, node, rest), found: "live" };
  }
  const entry = ledger.collected[node];
  if (entry === undefined) return { ledger, found: "forgotten" };
  const corrected = { ...entry, collected: add(entry.collected, amounts, -1) };
  const reopened = { ...ledger, collected: { ...ledger.collected, [node]: corrected } };
  if (entry.mode === "release") return { ledger: reopened, found: "released" };
  return { ledger: { ...reopened, used: takenBack(ledger.used, amounts) }, found: "charged" };
}

/** Books amounts as used. */
export function book<L extends Ledger>(ledger: L, amounts: Amounts): L {
  const used = add(ledger.used, pursesOf(amounts), 1);
  if (used === ledger.used) return ledger;
  const copy = copyOf(ledger);
  copy.used = used;
  return copy;
}

/** What is held of one purse, by all processes. */
export function heldOf(ledger: Ledger, purse: string): number {
  let held = 0;
  const { nodes } = ledger;
  for (const node in nodes) {
    if (Object.hasOwn(nodes, node)) held += amountOf((nodes[node] as NodeEntry).held, purse);
  }
  return held;
}

/** What is in one purse, whatever else plain objects may have inherited. */
export function amountOf(amounts: Amounts, purse: string): number {
  return Object.hasOwn(amounts, purse) ? (amounts[purse] as number) : 0;
}

/** Replaces the entry of one process. */
export function withNode<L extends Ledger>(ledger: L, node: string, entry: NodeEntry): L {
  const copy = copyOf(ledger);
  copy.nodes = withEntry(ledger.nodes, node, entry);
  return copy;
}

/**
 * An entry that holds nothing. Beyond the places for processes that hold something there are some for those that only
 * change or correct something. @throws KeystileError `document_full`
 */
export function newEntry(ledger: Ledger, most: number = MAX_NODES + MAX_VISITORS): NodeEntry {
  if (countOf(ledger.nodes) >= most) {
    throw new KeystileError(
      "document_full",
      `More than ${MAX_NODES} processes hold requests of one key or account.`,
    );
  }
  return { seq: 0, open: 0, renewByMs: 0, held: {} };
}

/** Whether an amount is of money; the others are of buckets, in whose names a model may have brought an "@". */
export function isPurse(name: string): boolean {
  return !name.includes("/");
}

/** The amounts of money. */
export function pursesOf(amounts: Amounts): Amounts {
  for (const name in amounts) if (!isPurse(name)) return pick(amounts, isPurse);
  return amounts;
}

/** The amounts of some names. */
export function pick(amounts: Amounts, keeps: (name: string) => boolean): Amounts {
  const picked: Record<string, number> = {};
  for (const name of Object.keys(amounts)) if (keeps(name)) picked[name] = amounts[name] as number;
  return picked;
}

/**
 * Adds amounts purse by purse. A sum stays a safe integer; an empty purse is left out. Returns the same amounts where
 * there is nothing to add.
 */
export function add(to: Amounts, amounts: Amounts, sign: 1 | -1): Amounts {
  if (countOf(amounts) === 0) return to;
  // Never deleted from: objects that lost a member are slow from then on.
  const sum: Record<string, number> = {};
  for (const name in to) {
    if (!Object.hasOwn(to, name)) continue;
    const total = plus(to[name] as number, sign * amountOf(amounts, name));
    if (total !== 0) sum[name] = total;
  }
  for (const name in amounts) {
    if (!Object.hasOwn(amounts, name) || Object.hasOwn(to, name)) continue;
    const value = amounts[name] as number;
    if (value !== 0) sum[name] = plus(0, sign * value);
  }
  return sum;
}

function plus(a: number, b: number): number {
  return Math.min(a + b, Number.MAX_SAFE_INTEGER);
}

/** A counter that was reset meanwhile has nothing left to give back. */
function takenBack(used: Amounts, amounts: Amounts): Amounts {
  const left = add(used, pursesOf(amounts), -1);
  return pick(left, (name) => (left[name] as number) > 0);
}
