import { countOf } from "./copies.js";
import {
  COLLECTED_KEPT_MS,
  type CollectedEntry,
  type Ledger,
  type Limit,
  MAX_COLLECTED,
  type NodeEntry,
} from "./documents.js";
import { book } from "./ledger.js";
import { fillBuckets } from "./limits.js";

/** A ledger whose terms say what becomes of the holds of a process that died. */
type Expiring = Ledger & {
  readonly policy: { readonly onCrash: CollectedEntry["mode"]; readonly limits: readonly Limit[] };
};

/**
 * Collects the holds of processes that did not renew them in time: charged as used or given back, as `onCrash` says.
 * Entries remain as memory for an hour, so that a process that comes back finds out what became of its attempts and can
 * correct what was collected: the latest 64 collected ones and the latest 64 that held nothing.
 * Returns the same record when there is nothing to do.
 */
export function expireHolds<L extends Expiring>(ledger: L, now: number, ratePercent = 100): L {
  const { nodes, collected } = ledger;
  if (!hasDue(nodes, now) && countOf(collected) === 0) return ledger;
  return forget(collect(ledger, now, ratePercent), now);
}

function hasDue(nodes: Ledger["nodes"], now: number): boolean {
  for (const node in nodes) {
    if (Object.hasOwn(nodes, node) && (nodes[node] as NodeEntry).renewByMs <= now) return true;
  }
  return false;
}

/**
 * Whether an entry that was to be renewed by `renewByMs` may have been there and be forgotten. If not, its absence
 * proves that it was never written.
 */
export function mayBeForgotten(ledger: Ledger, renewByMs: number): boolean {
  return renewByMs <= ledger.forgottenMs;
}

function isHolding({ open, held }: NodeEntry): boolean {
  return open > 0 || countOf(held) > 0;
}

function collect<L extends Expiring>(ledger: L, now: number, ratePercent: number): L {
  const expired = Object.entries(ledger.nodes).filter(
    ([, entry]) => entry.renewByMs <= now && isHolding(entry),
  );
  if (expired.length === 0) return ledger;
  const mode = ledger.policy.onCrash;
  const names = new Set(expired.map(([node]) => node));
  const collected = expired.map(([node, { seq, held }]) => [
    node,
    { seq, collectedAtMs: now, mode, collected: held },
  ]);
  const booked =
    mode === "charge"
      ? expired.reduce((sum, [, { held }]) => fillBuckets(book(sum, held), held, now, ratePercent), ledger)
      : ledger;
  return {
    ...booked,
    nodes: without(ledger.nodes, names),
    collected: { ...ledger.collected, ...Object.fromEntries(collected) },
  };
}

function forget<L extends Ledger>(ledger: L, now: number): L {
  const drained = Object.entries(ledger.nodes)
    .filter(([, entry]) => entry.renewByMs <= now && !isHolding(entry))
    .map(([node, { renewByMs }]): Memory => ({ node, atMs: renewByMs }));
  const collected = Object.entries(ledger.collected).map(
    ([node, { collectedAtMs }]): Memory => ({ node, atMs: collectedAtMs }),
  );
  const forgotten = [...tooOld(drained, now), ...tooOld(collected, now)];
  if (forgotten.length === 0) return ledger;
  const names = new Set(forgotten.map(({ node }) => node));
  return {
    ...ledger,
    nodes: without(ledger.nodes, names),
    collected: without(ledger.collected, names),
    forgottenMs: Math.max(ledger.forgottenMs, ...forgotten.map(({ atMs }) => atMs)),
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
