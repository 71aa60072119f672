import { z } from "zod";
import { KeystileError } from "./errors.js";
import type { Document, Json, Write } from "./store.js";

/** The newest document format this version writes and reads. A newer one is a fault, not a guess. */
export const FORMAT = 1;

/** How many processes may hold something of one key at a time. */
export const MAX_NODES = 128;

/** How long, and how many, expired entries are remembered so that their process can still correct them. */
export const COLLECTED_KEPT_MS = 3_600_000;
export const MAX_COLLECTED = 64;

/**
 * Amounts by purse. A purse is a fund in one billing cycle, written `fund@cycle`; the quota of a key is the
 * fund `key`, which never cycles.
 */
export type Amounts = Readonly<Record<string, number>>;

/** The purse of a key's own quota. */
export const KEY_PURSE = "key@0";

/** Requests per window, as a leaky bucket that holds `burst` (unless set, `requests`). */
export interface RequestLimit {
  readonly requests: number;
  readonly windowMs: number;
  readonly burst?: number | undefined;
  /** `model`: one bucket for each family of models, instead of one for the key. */
  readonly per?: "model" | undefined;
}

/** Requests at a time, over all processes. */
export interface InFlightLimit {
  readonly inFlight: number;
}

export type Limit = RequestLimit | InFlightLimit;

/** What a key may do. Changed by its operator only. */
export interface Policy {
  readonly name?: string | undefined;
  readonly state: "active" | "disabled" | "revoked";
  /** null: never. Judged when used: what is neither null nor a time means expired, not unreadable. */
  readonly expiresAtMs: unknown;
  readonly allowedIps?: readonly string[] | undefined;
  readonly allowedModels?: readonly string[] | undefined;
  readonly deniedModels?: readonly string[] | undefined;
  /** What the key may be used for, beyond what needs no scope. */
  readonly scopes?: readonly string[] | undefined;
  readonly limits: readonly Limit[];
  /** The most that may ever be used; null is unlimited. */
  readonly quota: number | null;
  /** What becomes of what a process held that died. */
  readonly onCrash: "charge" | "release";
  readonly metadata?: Readonly<Record<string, string>> | undefined;
}

export interface StoredSecret {
  readonly digest: string;
  readonly hint: string;
  /** null: the current secret. Otherwise the instant from which it is dead. */
  readonly endsAtMs: number | null;
}

/** What one process holds. */
export interface NodeEntry {
  /** The latest attempt of this process that was written: proof that it happened. */
  readonly seq: number;
  /** Requests in flight. */
  readonly open: number;
  /** From this instant on, others may collect what it holds. */
  readonly renewByMs: number;
  /** The sum promised to the requests in flight. */
  readonly held: Amounts;
}

/** What a process held when it did not renew in time. */
export interface CollectedEntry {
  readonly seq: number;
  readonly collectedAtMs: number;
  /** What happened to the held amounts: charged as used, or given back. */
  readonly mode: "charge" | "release";
  /** What of them has not been corrected since. */
  readonly collected: Amounts;
}

/** How full a rate limit's bucket was, and when. */
export interface Level {
  readonly level: number;
  readonly atMs: number;
}

/** Everything about one key: policy, secrets' digests, counters, and what each process holds. Plain JSON. */
export interface KeyRecord {
  readonly format: number;
  readonly owner?: string | undefined;
  readonly prefix: string;
  readonly createdAtMs: number;
  /** Raised by every change of `policy` or `secrets`; traffic leaves it alone. */
  readonly policyVersion: number;
  readonly policy: Policy;
  /** The current secret, its predecessor, and one already dead that a rotation or a purge still has to erase. */
  readonly secrets: readonly StoredSecret[];
  readonly used: Amounts;
  /** By bucket name; an absent bucket is empty. */
  readonly levels: Readonly<Record<string, Level>>;
  readonly nodes: Readonly<Record<string, NodeEntry>>;
  readonly collected: Readonly<Record<string, CollectedEntry>>;
  /** Entries with a time up to this one may have been here and be forgotten. */
  readonly forgottenMs: number;
  /** The latest store time this document has seen. Guards expiry against a clock that steps back. */
  readonly latestMs: number;
}

/** Leads from a secret's digest to its key. Never changes. */
export interface SecretRecord {
  readonly format: number;
  readonly keyId: string;
}

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

/** The write that makes a key's document this record. */
export function keyWrite(keyId: string, expected: number, record: KeyRecord): Write {
  const { owner } = record;
  const write = { id: keyDocumentId(keyId), expected, set: record as unknown as Json };
  return owner === undefined ? write : { ...write, owner };
}

// The schemas are loose: members of a later version survive a write.
const format = z.literal(FORMAT);
const count = z.int().min(0);
const amounts = z.record(z.string(), z.int());
const onCrash = z.enum(["charge", "release"]);

// Frozen, because views and decisions show parts of a policy to callers.
const names = z.array(z.string()).readonly();
const policy = z
  .looseObject({
    name: z.string().optional(),
    state: z.enum(["active", "disabled", "revoked"]),
    expiresAtMs: z.unknown(),
    allowedIps: names.optional(),
    allowedModels: names.optional(),
    deniedModels: names.optional(),
    scopes: names.optional(),
    limits: z
      .array(
        z.union([
          z
            .looseObject({
              requests: z.int().min(1),
              windowMs: z.int().min(1),
              burst: z.int().min(1).optional(),
            })
            .readonly(),
          z.looseObject({ inFlight: z.int().min(1) }).readonly(),
        ]),
      )
      .readonly(),
    quota: count.nullable(),
    onCrash,
    metadata: z.record(z.string(), z.string()).readonly().optional(),
  })
  .readonly();

const keyRecord: z.ZodType<KeyRecord> = z.looseObject({
  format,
  owner: z.string().optional(),
  prefix: z.string(),
  createdAtMs: z.int(),
  policyVersion: z.int().min(1),
  policy,
  secrets: z
    .array(z.looseObject({ digest: z.string(), hint: z.string(), endsAtMs: z.int().nullable() }))
    .min(1)
    .max(3),
  used: amounts,
  levels: z.record(z.string(), z.looseObject({ level: count, atMs: z.int() })),
  nodes: z.record(z.string(), z.looseObject({ seq: count, open: count, renewByMs: z.int(), held: amounts })),
  collected: z.record(
    z.string(),
    z.looseObject({ seq: count, collectedAtMs: z.int(), mode: onCrash, collected: amounts }),
  ),
  forgottenMs: z.int(),
  latestMs: z.int(),
});

const secretRecord: z.ZodType<SecretRecord> = z.looseObject({ format, keyId: z.string() });

/** Reads a key record out of a stored document. @throws KeystileError `document_invalid`, `format_newer` */
export function parseKeyRecord(document: Document): KeyRecord {
  return parse(keyRecord, document);
}

/** Reads a secret record out of a stored document. @throws KeystileError `document_invalid`, `format_newer` */
export function parseSecretRecord(document: Document): SecretRecord {
  return parse(secretRecord, document);
}

function parse<T>(schema: z.ZodType<T>, { id, body }: Document): T {
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
