import type { Document } from "../../src/store.js";
import type { SubjectLimit } from "./subject.js";

/** A key's document as the oracle reads it: by the design, not by the package's own schema. */
export interface Body {
  readonly policyVersion: number;
  readonly policy: {
    readonly state: "active" | "disabled" | "revoked";
    readonly expiresAtMs: number | null;
    readonly limits: readonly SubjectLimit[];
    readonly quota: number | null;
    readonly onCrash: "charge" | "release";
  };
  readonly secrets: readonly { readonly digest: string; readonly endsAtMs: number | null }[];
  readonly used: Amounts;
  readonly levels: { readonly [bucket: string]: { readonly level: number; readonly atMs: number } };
  readonly nodes: { readonly [identity: string]: LiveEntry };
  readonly collected: { readonly [identity: string]: CollectedEntry };
  readonly latestMs: number;
}

export type Amounts = { readonly [purse: string]: number };

export interface LiveEntry {
  readonly seq: number;
  readonly open: number;
  readonly renewByMs: number;
  readonly held: Amounts;
}

export interface CollectedEntry {
  readonly seq: number;
  readonly collectedAtMs: number;
  readonly mode: "charge" | "release";
  readonly collected: Amounts;
}

/** The bounds that the design states. */
const MOST_ENTRIES = 256;
export const MOST_COLLECTED = 64;
const MOST_BYTES = 65_536;

/** Money; the other names are buckets of limits. */
export function amount(amounts: Amounts): number {
  let sum = 0;
  for (const purse in amounts) if (!purse.includes("/")) sum += amounts[purse] as number;
  return sum;
}

export function heldBy(body: Body): number {
  let sum = 0;
  for (const identity in body.nodes) sum += amount((body.nodes[identity] as LiveEntry).held);
  return sum;
}

/** Only leases hold places in limits on requests. */
export function holdsPlaces({ nodes }: Pick<Body, "nodes">): boolean {
  return Object.values(nodes).some(({ held }) =>
    Object.keys(held).some((name) => name.startsWith("requests/")),
  );
}

/** Reads a stored key document, or says what is wrong with it. */
export function readBody(document: Document): Body | string {
  const body = document.body as unknown as Body;
  const live = Object.entries(body.nodes);
  const collected = Object.entries(body.collected);
  if (live.length > MOST_ENTRIES) return `${live.length} entries`;
  if (collected.length > MOST_COLLECTED) return `${collected.length} collected entries`;
  if (live.length + collected.length > 20 && JSON.stringify(body).length > MOST_BYTES)
    return "more than 64 KiB";
  if (!areCounts(body.used)) return `used ${JSON.stringify(body.used)}`;
  for (const [identity, { seq, open, held, renewByMs }] of live) {
    if (!isCount(seq) || !isCount(open) || !Number.isSafeInteger(renewByMs) || !areCounts(held)) {
      return `entry ${identity} ${JSON.stringify(body.nodes[identity])}`;
    }
    if (open === 0 && amount(held) > 0) return `entry ${identity} holds ${amount(held)} for nobody`;
  }
  for (const [identity, { seq, collected: left, mode }] of collected) {
    if (!isCount(seq) || !areCounts(left) || (mode !== "charge" && mode !== "release")) {
      return `collected ${identity} ${JSON.stringify(body.collected[identity])}`;
    }
  }
  for (const [bucket, { level, atMs }] of Object.entries(body.levels)) {
    if (!isCount(level) || !Number.isSafeInteger(atMs)) return `bucket ${bucket}`;
  }
  return body;
}

function areCounts(amounts: Amounts): boolean {
  return Object.values(amounts).every(isCount);
}

function isCount(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
