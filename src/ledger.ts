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
    ...entry,
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
    const entry = { ...live, open: isWhole ? live.open - 1 : live.open, held: add(live.held, amounts, -1) };
    return { ledger: withNode(ledger, node, entry), found: "live" };
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
  return { ...ledger, used };
}

/** What is held of one purse, by all processes. */
export function heldOf(ledger: Ledger, purse: string): number {
  let held = 0;
  for (const node of Object.values(ledger.nodes)) held += amountOf(node.held, purse);
  return held;
}

/** What is in one purse, whatever else plain objects may have inherited. */
export function amountOf(amounts: Amounts, purse: string): number {
  return Object.hasOwn(amounts, purse) ? (amounts[purse] as number) : 0;
}

/** Replaces the entry of one process. */
export function withNode<L extends Ledger>(ledger: L, node: string, entry: NodeEntry): L {
  return { ...ledger, nodes: { ...ledger.nodes, [node]: entry } };
}

/**
 * An entry that holds nothing. Beyond the places for processes that hold something there are some for those that only
 * change or correct something. @throws KeystileError `document_full`
 */
export function newEntry(ledger: Ledger, most: number = MAX_NODES + MAX_VISITORS): NodeEntry {
  if (Object.keys(ledger.nodes).length >= most) {
    throw new KeystileError(
      "document_full",
      `More than ${MAX_NODES} processes hold requests of one key or account.`,
    );
  }
  return { seq: 0, open: 0, renewByMs: 0, held: {} };
}

/** The amounts of money; the others are of token buckets. */
export function pursesOf(amounts: Amounts): Amounts {
  return Object.fromEntries(Object.entries(amounts).filter(([purse]) => purse.includes("@")));
}

/** Adds amounts purse by purse. A sum stays a safe integer; an empty purse is left out. */
export function add(to: Amounts, amounts: Amounts, sign: 1 | -1): Amounts {
  const sum: Record<string, number> = { ...to };
  for (const [purse, value] of Object.entries(amounts)) {
    const total = Math.min((sum[purse] ?? 0) + sign * value, Number.MAX_SAFE_INTEGER);
    if (total === 0) delete sum[purse];
    else sum[purse] = total;
  }
  return sum;
}

/** A counter that was reset meanwhile has nothing left to give back. */
function takenBack(used: Amounts, amounts: Amounts): Amounts {
  const left = add(used, pursesOf(amounts), -1);
  return Object.fromEntries(Object.entries(left).filter(([, value]) => value > 0));
}
