import type { KeyRecord, NodeEntry } from "../../src/documents.js";
import { hold, newEntry, withNode } from "../../src/ledger.js";
import { allot } from "../../src/quota.js";
import type { Reservation } from "../../src/settle.js";
import { sampleKey } from "../../src/testing/sample-key.js";

export const T0: number = Date.UTC(2025, 0, 15, 12);

/** An amount in the purse of a key's own quota. */
export function purse(amount: number): Record<string, number> {
  return amount === 0 ? {} : { "key@0": amount };
}

/** An unlimited key of which each process holds one request of that cost. */
export function holding(
  costs: Readonly<Record<string, number>>,
  renewByMs: number = T0 + 60_000,
  onCrash?: "charge" | "release",
): KeyRecord {
  const nodes = Object.entries(costs).map(([node, cost]): [string, NodeEntry] => [
    node,
    { seq: 1, open: 1, renewByMs, held: purse(cost) },
  ]);
  return { ...sampleKey(onCrash === undefined ? {} : { onCrash }), nodes: Object.fromEntries(nodes) };
}

export function drainedNodes(count: number): Record<string, NodeEntry> {
  const entry = (index: number): NodeEntry => ({ seq: 1, open: 0, renewByMs: T0 + index, held: {} });
  return Object.fromEntries(Array.from({ length: count }, (_, index) => [`node-${index}`, entry(index)]));
}

export function withEntry(record: KeyRecord, node: string, change: Partial<NodeEntry>): KeyRecord {
  return withNode(record, node, { ...(record.nodes[node] ?? newEntry(record)), ...change });
}

/** A name for a process: a new one once something was collected or forgotten, because none is used twice. */
export function nameOf({ forgottenMs, collected }: KeyRecord, node: number | string): string {
  const times = Object.values(collected).map(({ collectedAtMs }) => collectedAtMs);
  return `${node}.${Math.max(forgottenMs, ...times)}`;
}

/** A key after one request that must fit, and what that request was promised. */
export function reserved(
  record: KeyRecord,
  cost: number,
  node: string,
  renewByMs: number,
): { readonly record: KeyRecord; readonly reservation: Reservation } {
  const outcome = allot({ key: record }, cost);
  if (!outcome.fits) throw new Error("does not fit");
  const { shares } = outcome;
  return {
    record: hold(record, { node, amounts: shares.key }, renewByMs),
    reservation: { ...shares, node },
  };
}
