import { z } from "zod";
import { KeystileError } from "./errors.js";
import type { Document } from "./store.js";

/** The newest document format this version writes and reads. A newer one is a fault, not a guess. */
export const FORMAT = 1;

/** How many processes may hold something of one key at a time. */
export const MAX_NODES = 256;

/** How long, and how many, collected holds are remembered so that their process can still correct them. */
export const COLLECTED_KEPT_MS = 3_600_000;
export const MAX_COLLECTED = 64;

/**
 * Amounts by purse. A purse is a fund in one billing cycle, written `fund@cycle`; the quota of a key is the
 * fund `key`, which never cycles.
 */
export type Amounts = Readonly<Record<string, number>>;

/** The purse of a key's own quota. */
export const KEY_PURSE = "key@0";

const count = z.int().min(0);
const timeMs = z.int();
const amounts = z.record(z.string(), z.int());

const requestLimit = z.looseObject({ requests: z.int().min(1), windowMs: z.int().min(1), burst: z.int().min(1).optional() });
const inFlightLimit = z.looseObject({ inFlight: z.int().min(1) });

const policy = z.looseObject({
  name: z.string().optional(),
  state: z.enum(["active", "disabled", "revoked"]),
  /** Checked when judged, not here: a value that is neither null nor a time means expired, not unreadable. */
  expiresAtMs: z.unknown(),
  allowedIps: z.array(z.string()).readonly().optional(),
  allowedModels: z.array(z.string()).readonly().optional(),
  deniedModels: z.array(z.string()).readonly().optional(),
  limits: z.array(z.union([requestLimit, inFlightLimit])).readonly(),
  /** The most that may ever be used; null is unlimited. */
  quota: count.nullable(),
  onCrash: z.enum(["charge", "release"]),
  metadata: z.record(z.string(), z.string()).optional(),
});

const liveNode = z.looseObject({
  /** The latest attempt of this process that was written: proof that it happened. */
  seq: count,
  /** Requests in flight. */
  open: count,
  /** From this instant on, others may collect the entry. */
  renewByMs: timeMs,
  /** The sum promised to the requests in flight. */
  held: amounts,
});

const collectedNode = z.looseObject({
  seq: count,
  collectedAtMs: timeMs,
  /** What happened to the held amounts: charged as used, or given back. */
  mode: z.enum(["charge", "release"]),
  /** What of them has not been corrected since. */
  collected: amounts,
});

const storedSecret = z.looseObject({
  digest: z.string(),
  hint: z.string(),
  /** null: the current secret. Otherwise the instant from which it is dead. */
  endsAtMs: timeMs.nullable(),
});

const keyRecord = z.looseObject({
  format: z.literal(FORMAT),
  prefix: z.string(),
  createdAtMs: timeMs,
  /** Raised by every change of `policy` or `secrets`; traffic leaves it alone. */
  policyVersion: z.int().min(1),
  policy,
  /** The current secret, its predecessor, and one already dead that a rotation or a purge still has to erase. */
  secrets: z.array(storedSecret).min(1).max(3).readonly(),
  used: amounts,
  /** Levels of the rate limits by bucket name; an absent bucket is at level 0. */
  levels: z.record(z.string(), z.looseObject({ level: count, atMs: timeMs })),
  nodes: z.record(z.string(), liveNode),
  collected: z.record(z.string(), collectedNode),
  /** The latest store time this document has seen. Guards expiry against a clock that steps back. */
  latestMs: timeMs,
});

const secretRecord = z.looseObject({ format: z.literal(FORMAT), keyId: z.string() });

type Frozen<T> = T extends readonly (infer E)[]
  ? readonly Frozen<E>[]
  : T extends object
    ? { readonly [K in keyof T]: Frozen<T[K]> }
    : T;

/** Everything about one key: policy, secrets' digests, counters, and what each process holds. Plain JSON. */
export type KeyRecord = Frozen<z.infer<typeof keyRecord>>;
export type Policy = KeyRecord["policy"];
export type Limit = Policy["limits"][number];
export type RequestLimit = Frozen<z.infer<typeof requestLimit>>;
export type InFlightLimit = Frozen<z.infer<typeof inFlightLimit>>;
export type StoredSecret = KeyRecord["secrets"][number];
export type NodeEntry = KeyRecord["nodes"][string];
export type SecretRecord = Frozen<z.infer<typeof secretRecord>>;

/** The documents one decision is about. An account joins them here once keys can share money. */
export interface Documents {
  readonly key: KeyRecord;
}

export function keyDocumentId(keyId: string): string {
  return `key:${keyId}`;
}

export function secretDocumentId(digest: string): string {
  return `secret:${digest}`;
}

/** Reads a key record out of a stored document. @throws KeystileError `document_invalid`, `format_newer` */
export function parseKeyRecord(document: Document): KeyRecord {
  return parse(keyRecord, document) as KeyRecord;
}

/** Reads a secret record out of a stored document. @throws KeystileError `document_invalid`, `format_newer` */
export function parseSecretRecord(document: Document): SecretRecord {
  return parse(secretRecord, document) as SecretRecord;
}

function parse(schema: z.ZodType, { id, body }: Document): unknown {
  const format = (body as { format?: unknown } | null)?.format;
  if (typeof format === "number" && format > FORMAT) {
    throw new KeystileError(
      "format_newer",
      `A ${kindOf(id)} document has format ${format}; this version of keystile reads up to ${FORMAT}. Upgrade it.`,
    );
  }
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new KeystileError(
    "document_invalid",
    `A ${kindOf(id)} document is corrupt at "${issue?.path.join(".")}": ${issue?.message}.`,
  );
}

/** Ids of secret documents contain digests, which belong in no message. */
function kindOf(id: string): string {
  return id.slice(0, id.indexOf(":"));
}
