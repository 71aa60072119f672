import {
  FORMAT,
  type KeyRecord,
  keyDocumentId,
  keyWrite,
  type Limit,
  type Policy,
  parseKeyRecord,
  type StoredSecret,
  secretDocumentId,
} from "./documents.js";
import { KeystileError } from "./errors.js";
import type { GroupCommit } from "./group-commit.js";
import { invalid } from "./invalid-options.js";
import { newKeyRecord } from "./key-record.js";
import type { Settings } from "./options.js";
import { isExpired, isTime } from "./policy.js";
import {
  type IssueInput,
  type PolicyInput,
  parseIssueInput,
  parseListQuery,
  parsePolicyPatch,
  parseRotateOptions,
  parseUpdateCondition,
} from "./policy-input.js";
import { expireHolds, type QuotaStatus, quotaStatus } from "./quota.js";
import type { Runtime } from "./runtime.js";
import { digestsOf, generateSecret, hasValidChecksum, hintOf, isSecret } from "./secret.js";
import type { Document, Write } from "./store.js";
import type { StoreSession } from "./store-session.js";

/** A key as its operator sees it. Everything but the secret, which nobody can see again. */
export interface KeyView {
  readonly id: string;
  readonly owner?: string;
  readonly name?: string;
  readonly state: "active" | "disabled" | "expired" | "revoked";
  /** The last four characters of the current secret. */
  readonly hint: string;
  readonly createdAt: string;
  /** ISO 8601, or null for never. Of a stored value that is no time, which means expired, the year 1970. */
  readonly expiresAt: string | null;
  readonly allowedIps?: readonly string[];
  readonly allowedModels?: readonly string[];
  readonly deniedModels?: readonly string[];
  readonly scopes?: readonly string[];
  readonly limits: readonly Limit[];
  readonly quota: QuotaStatus;
  readonly onCrash: Policy["onCrash"];
  readonly metadata: Readonly<Record<string, string>>;
  /** Raised by every change made here, never by traffic. */
  readonly policyVersion: number;
}

/** The only value that ever holds a secret. */
export interface IssuedKey {
  readonly secret: string;
  readonly key: KeyView;
}

/**
 * Issues and manages keys. Every method throws `KeystileError`: `invalid_options` for wrong input, `key_not_found`,
 * `key_state` for what a key's state forbids, `policy_conflict`, and `store_unavailable` when it is not known whether
 * the change happened (`mayHaveHappened` says so). When a change has resolved, every process acts on it.
 */
export interface Keyring {
  /** Makes a key, with a new secret or one made elsewhere. The secret is in the result and nowhere else. */
  issue(input?: IssueInput): Promise<IssuedKey>;
  get(keyId: string): Promise<KeyView | undefined>;
  /** Keys in order of their id, 1 to 1,000 a page (default 100); hand `next` in as `after` for the next page. */
  list(query?: { readonly owner?: string; readonly after?: string; readonly limit?: number }): Promise<{
    readonly keys: readonly KeyView[];
    readonly next?: string;
    /** Ids of keys on this page whose document is corrupt or of a newer format. */
    readonly unreadable?: readonly string[];
  }>;
  /** Changes the named members of the policy; `null` takes a list away. `ifPolicyVersion` refuses a lost update. */
  update(
    keyId: string,
    patch: PolicyInput,
    condition?: { readonly ifPolicyVersion?: number },
  ): Promise<KeyView>;
  /** Refuses the key until it is enabled. */
  disable(keyId: string): Promise<KeyView>;
  enable(keyId: string): Promise<KeyView>;
  /** Ends the key for good. Requests that arrive after this resolved are refused, by every process. */
  revoke(keyId: string): Promise<KeyView>;
  /**
   * Gives the key a new secret: same id, policy and counters. The old secret lives for `graceMs` (0 to 365 days,
   * default 0), the one before it no longer. If this fails, call it again.
   */
  rotate(keyId: string, options?: { readonly graceMs?: number }): Promise<IssuedKey>;
  /** Erases a revoked key's record and secrets. Calling it again is harmless. */
  purge(keyId: string): Promise<void>;
}

/** An end that has passed by everybody's clock: this process's may be ahead by the time a call to the store takes. */
const DEAD = 0;

/** How often an erasure is tried against others who write the same document. */
const MAX_ERASURES = 100;

export function keyring(
  settings: Settings,
  runtime: Runtime,
  session: StoreSession,
  commit: GroupCommit,
): Keyring {
  async function issue(input: IssueInput = {}): Promise<IssuedKey> {
    const now = await storeTime();
    const {
      owner,
      kind,
      secret: brought,
      policy,
    } = parseIssueInput(input, { onCrash: settings.onCrash }, now);
    const keyId = newKeyId(owner);
    const prefix = brought === undefined ? settings.prefixes[kind] : await prefixOf(brought);
    const secret = brought ?? generateSecret(prefix, runtime.randomBytes);
    const shown = { digest: digestOf(secret), hint: hintOf(secret) };
    const record = newKeyRecord({ owner, prefix, policy }, shown, now);
    // The key first: a secret without a key would be a fault, a key without a secret is nobody's.
    await create(keyWrite(keyId, 0, record));
    if (await create(secretWrite(secret, keyId))) return { secret, key: viewOf(keyId, record, now) };
    await erase(keyDocumentId(keyId));
    throw secretInUse();
  }

  /** The prefix of a secret made elsewhere. @throws KeystileError when it cannot be taken over */
  async function prefixOf(secret: string): Promise<string> {
    const prefixes = Object.values(settings.prefixes).sort((a, b) => b.length - a.length);
    if (!isSecret(secret, prefixes)) {
      throw invalid("key.secret", "expected a configured prefix, then 32 to 512 of A-Z a-z 0-9");
    }
    if (settings.checksum === "require" && !hasValidChecksum(secret)) {
      throw invalid("key.secret", 'it has no valid checksum, and options.checksum is "require"');
    }
    const digests = digestsOf(secret, settings.peppers);
    const found = await Promise.all(digests.map((digest) => session.fetch(secretDocumentId(digest))));
    if (found.some((document) => document !== undefined)) throw secretInUse();
    return prefixes.find((prefix) => secret.startsWith(prefix)) as string;
  }

  async function rotate(keyId: string, options: { readonly graceMs?: number } = {}): Promise<IssuedKey> {
    const { graceMs } = parseRotateOptions(options);
    const before = await existing(keyId);
    // The record always lists every secret document there is, so the dead one goes before it is forgotten.
    for (const { digest } of before.secrets.slice(2)) await erase(secretDocumentId(digest));
    // A rotation that failed half-way left a current secret that nobody was given, and without a document.
    const [current] = before.secrets;
    const isOrphan =
      current !== undefined && (await session.fetch(secretDocumentId(current.digest))) === undefined;
    const secret = generateSecret(before.prefix, runtime.randomBytes);
    const fresh = { digest: digestOf(secret), hint: hintOf(secret), endsAtMs: null };
    const key = await change(keyId, (record, now) => {
      assertNotRevoked(record);
      assertVersion(record, before.policyVersion);
      return {
        ...record,
        secrets: rotated(record.secrets, fresh, graceMs > 0 ? now + graceMs : DEAD, isOrphan),
      };
    });
    await create(secretWrite(secret, keyId));
    return { secret, key };
  }

  async function update(
    keyId: string,
    patch: PolicyInput,
    condition: { readonly ifPolicyVersion?: number } = {},
  ): Promise<KeyView> {
    const { ifPolicyVersion } = parseUpdateCondition(condition);
    const patched = parsePolicyPatch(patch, await storeTime());
    return change(keyId, (record) => {
      assertNotRevoked(record);
      if (ifPolicyVersion !== undefined) assertVersion(record, ifPolicyVersion);
      return { ...record, policy: patched(record.policy) };
    });
  }

  function setState(keyId: string, state: Policy["state"]): Promise<KeyView> {
    return change(keyId, (record) => {
      if (record.policy.state === state) return record;
      assertNotRevoked(record);
      return { ...record, policy: { ...record.policy, state } };
    });
  }

  async function purge(keyId: string): Promise<void> {
    const record = isKeyId(keyId) ? await commit.fetch(keyId) : undefined;
    if (record === undefined) return;
    if (record.policy.state !== "revoked") {
      throw new KeystileError("key_state", `Key "${keyId}" is not revoked. Revoke it before it is purged.`);
    }
    for (const { digest } of record.secrets) await erase(secretDocumentId(digest));
    await erase(keyDocumentId(keyId));
  }

  /** One change of a record, in the same group commit as its traffic. */
  async function change(
    keyId: string,
    edit: (record: KeyRecord, now: number) => KeyRecord,
  ): Promise<KeyView> {
    if (!isKeyId(keyId)) throw notFound(keyId);
    const view = await commit.edit(keyId, (record, { now }) => {
      const edited = edit(record, now);
      const changed = edited === record ? record : { ...edited, policyVersion: record.policyVersion + 1 };
      return { record: changed, outcome: viewOf(keyId, changed, now) };
    });
    if (view === undefined) throw notFound(keyId);
    return view;
  }

  async function existing(keyId: string): Promise<KeyRecord> {
    const record = isKeyId(keyId) ? await commit.fetch(keyId) : undefined;
    if (record === undefined) throw notFound(keyId);
    return record;
  }

  /** Whether it is there now. A copy of the request that came first counts: a random id, or our key id, is only ours. */
  async function create(write: Write): Promise<boolean> {
    const [result] = await session.write([[write]]);
    if (result?.written) return true;
    const { keyId } = (result?.current[0]?.body ?? {}) as { keyId?: unknown };
    return keyId === (write.set as { keyId?: unknown }).keyId;
  }

  async function erase(id: string): Promise<void> {
    let current = (await session.read([id])).get(id);
    for (let tries = 0; current !== undefined; tries += 1) {
      if (tries === MAX_ERASURES) {
        throw new KeystileError(
          "store_unavailable",
          "A document could not be erased: others keep writing it.",
        );
      }
      const [result] = await session.write([[{ id, expected: current.version, set: null }]]);
      if (result === undefined || result.written) return;
      current = result.current[0];
    }
  }

  async function storeTime(): Promise<number> {
    if (session.isStale()) await session.read([]);
    return session.now();
  }

  function digestOf(secret: string): string {
    return digestsOf(secret, settings.peppers)[0] as string;
  }

  function secretWrite(secret: string, keyId: string): Write {
    return { id: secretDocumentId(digestOf(secret)), expected: 0, set: { format: FORMAT, keyId } };
  }

  /** `<place>.<random>`: keys of one owner share a place, so that a sharded store can keep them together. */
  function newKeyId(owner: string | undefined): string {
    const random = hex(runtime.randomBytes(12));
    return `${owner === undefined ? random.slice(0, 3) : placeOf(owner)}.${random}`;
  }

  return {
    issue,
    async get(keyId) {
      const record = isKeyId(keyId) ? await commit.fetch(keyId) : undefined;
      return record === undefined ? undefined : viewOf(keyId, record, session.now());
    },
    async list(query = {}) {
      const { owner, after, limit } = parseListQuery(query);
      const now = await storeTime();
      const page = {
        kind: "key",
        limit,
        ...(owner !== undefined && { owner }),
        ...(after !== undefined && { after }),
      };
      const { documents, next } = await session.list(page);
      const keys: KeyView[] = [];
      const unreadable: string[] = [];
      for (const document of documents) {
        try {
          keys.push(viewOf(keyIdOf(document), parseKeyRecord(document), now));
        } catch {
          unreadable.push(keyIdOf(document));
        }
      }
      return { keys, ...(next !== undefined && { next }), ...(unreadable.length > 0 && { unreadable }) };
    },
    update,
    disable: (keyId) => setState(keyId, "disabled"),
    enable: (keyId) => setState(keyId, "active"),
    revoke: (keyId) => setState(keyId, "revoked"),
    rotate,
    purge,
  };
}

function viewOf(id: string, stored: KeyRecord, now: number): KeyView {
  const record = expireHolds(stored, now);
  const { owner, policy, secrets, createdAtMs, policyVersion } = record;
  const {
    name,
    state,
    expiresAtMs,
    allowedIps,
    allowedModels,
    deniedModels,
    scopes,
    limits,
    onCrash,
    metadata = {},
  } = policy;
  return {
    id,
    ...(owner !== undefined && { owner }),
    ...(name !== undefined && { name }),
    state: state === "active" && isExpired(expiresAtMs, Math.max(now, record.latestMs)) ? "expired" : state,
    hint: secrets[0]?.hint ?? "",
    createdAt: new Date(createdAtMs).toISOString(),
    expiresAt: expiresAtMs === null ? null : new Date(isTime(expiresAtMs) ? expiresAtMs : 0).toISOString(),
    ...(allowedIps && { allowedIps }),
    ...(allowedModels && { allowedModels }),
    ...(deniedModels && { deniedModels }),
    ...(scopes && { scopes }),
    limits,
    quota: quotaStatus(record),
    onCrash,
    metadata,
    policyVersion,
  };
}

/** The fresh secret, the one it replaces with its end, and one dead that is still to be erased. */
function rotated(
  secrets: readonly StoredSecret[],
  fresh: StoredSecret,
  endsAtMs: number,
  isOrphan: boolean,
): readonly StoredSecret[] {
  const [replaced, dead] = isOrphan ? [secrets[1], secrets[0]] : secrets;
  return [
    fresh,
    // Never later than it was promised to end already.
    ...(replaced ? [{ ...replaced, endsAtMs: Math.min(replaced.endsAtMs ?? endsAtMs, endsAtMs) }] : []),
    ...(dead ? [{ ...dead, endsAtMs: DEAD }] : []),
  ];
}

function keyIdOf({ id }: Document): string {
  return id.slice("key:".length);
}

/** One of 4,096 places (FNV-1a over the owner's UTF-16 units). */
function placeOf(owner: string): string {
  let hash = 0x811c9dc5;
  for (let at = 0; at < owner.length; at += 1) hash = Math.imul(hash ^ owner.charCodeAt(at), 0x01000193);
  return ((hash >>> 0) % 4096).toString(16).padStart(3, "0");
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function assertNotRevoked({ policy }: KeyRecord): void {
  if (policy.state === "revoked") throw new KeystileError("key_state", "A revoked key cannot be changed.");
}

function assertVersion({ policyVersion }: KeyRecord, expected: number): void {
  if (policyVersion === expected) return;
  throw new KeystileError(
    "policy_conflict",
    `The key was changed meanwhile: expected policyVersion ${expected}, found ${policyVersion}. Read it and try again.`,
  );
}

function secretInUse(): KeystileError {
  return new KeystileError(
    "key_state",
    "That secret belongs to a key already, or did before it was rotated.",
  );
}

/** An id is named only if it is one: what was handed in by mistake may be a secret. */
function notFound(keyId: string): KeystileError {
  return new KeystileError(
    "key_not_found",
    isKeyId(keyId) ? `There is no key "${keyId}".` : "That is no key id.",
  );
}

function isKeyId(value: unknown): value is string {
  return typeof value === "string" && value.length === 28 && /^[0-9a-f]{3}\.[0-9a-f]{24}$/.test(value);
}
