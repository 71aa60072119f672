import { parseAccountRecord, parseKeyRecord } from "./document-schemas.js";
import {
  type AccountRecord,
  accountDocumentId,
  type Documents,
  FORMAT,
  type KeyRecord,
  keyDocumentId,
  type Policy,
  recordWrite,
  type StoredSecret,
  secretDocumentId,
} from "./documents.js";
import { KeystileError } from "./errors.js";
import type { Events, KeyEvent } from "./events.js";
import type { GroupCommit } from "./group-commit.js";
import { isAccountId, isKeyId, newKeyId } from "./ids.js";
import { invalid } from "./invalid-options.js";
import { newKeyRecord } from "./key-record.js";
import { type KeyView, keyView } from "./key-view.js";
import type { Settings } from "./options.js";
import {
  accountNeeded,
  type IssueInput,
  type PolicyInput,
  parseIssueInput,
  parseListQuery,
  parsePolicyPatch,
  parseRotateOptions,
  parseUpdateCondition,
} from "./policy-input.js";
import type { Runtime } from "./runtime.js";
import { digestsOf, generateSecret, hasValidChecksum, hintOf, isSecret } from "./secret.js";
import { sweep } from "./settle.js";
import type { Document, Write } from "./store.js";
import type { StoreSession } from "./store-session.js";

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
  /**
   * Erases a revoked key's record and secrets. Calling it again is harmless.
   * @throws KeystileError `key_state` for a key that is not revoked, or has requests in flight that its account pays for
   */
  purge(keyId: string): Promise<void>;
}

const STATE_EVENTS = {
  active: "key.enabled",
  disabled: "key.disabled",
  revoked: "key.revoked",
} as const;

/** An end that has passed by everybody's clock: this process's may be ahead by the time a call to the store takes. */
const DEAD = 0;

/** How often an erasure is tried against others who write the same document. */
const MAX_ERASURES = 100;

export function keyring(
  settings: Settings,
  runtime: Runtime,
  session: StoreSession,
  commit: GroupCommit,
  events: Events,
): Keyring {
  async function issue(input: IssueInput = {}): Promise<IssuedKey> {
    const now = await session.freshTime();
    const parsed = parseIssueInput(input, { onCrash: settings.onCrash }, now);
    const { kind, secret: brought, accountId, policy } = parsed;
    const account = accountId === undefined ? undefined : await accountOf(accountId);
    const owner = parsed.owner ?? account?.owner;
    const prefix = brought === undefined ? settings.prefixes[kind] : await prefixOf(brought);
    const secret = brought ?? generateSecret(prefix, runtime.randomBytes);
    const pays = prefix === settings.prefixes.subscription ? ("subscription" as const) : ("balance" as const);
    // A secret made elsewhere brings its kind: that of its prefix.
    if (pays === "subscription" && accountId === undefined) throw accountNeeded();
    if (pays === "balance" && kind === "subscription") {
      throw invalid("key.secret", "expected the prefix of subscription keys, as kind says");
    }
    const keyId = newKeyId({ owner, accountId }, runtime.randomBytes);
    const shown = { digest: digestOf(secret), hint: hintOf(secret) };
    const paid = accountId === undefined ? undefined : { id: accountId, pays };
    const record = newKeyRecord({ owner, prefix, account: paid, policy }, shown, now);
    // The key first: a secret without a key would be a fault, a key without a secret is nobody's.
    await create(recordWrite(keyDocumentId(keyId), 0, record));
    if (!(await create(secretWrite(secret, keyId, record)))) {
      await erase(keyDocumentId(keyId));
      throw secretInUse();
    }
    tell("key.issued", keyId);
    return { secret, key: keyView(keyId, { key: record, ...(account && { account }) }, now) };
  }

  async function accountOf(accountId: string): Promise<AccountRecord> {
    const { account } = isAccountId(accountId) ? await commit.fetch({ accountId }) : {};
    if (account !== undefined) return account;
    throw invalid("key.account", "expected the id of an account that was opened; there is none of that id");
  }

  function tell(type: KeyEvent["type"], keyId: string): void {
    events.emit({ type, keyId });
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
    await create(secretWrite(secret, keyId, before)).catch((error: unknown) => {
      // By now the old secret has its end, whatever became of the new one.
      throw new KeystileError("store_unavailable", "The rotation stopped half-way. Rotate the key again.", {
        cause: error,
        mayHaveHappened: true,
      });
    });
    if ((await session.fetch(keyDocumentId(keyId))) === undefined) {
      // Purged between the two writes: what is left would lead nowhere, which is a fault for whoever presents it.
      await erase(secretDocumentId(fresh.digest));
      throw notFound(keyId);
    }
    tell("key.rotated", keyId);
    return { secret, key };
  }

  async function update(
    keyId: string,
    patch: PolicyInput,
    condition: { readonly ifPolicyVersion?: number } = {},
  ): Promise<KeyView> {
    const { ifPolicyVersion } = parseUpdateCondition(condition);
    const patched = parsePolicyPatch(patch, await session.freshTime());
    return change(keyId, (record) => {
      assertNotRevoked(record);
      if (ifPolicyVersion !== undefined) assertVersion(record, ifPolicyVersion);
      return { ...record, policy: patched(record.policy) };
    });
  }

  async function setState(keyId: string, state: Policy["state"]): Promise<KeyView> {
    const view = await change(keyId, (record) => {
      if (record.policy.state === state) return record;
      assertNotRevoked(record);
      return { ...record, policy: { ...record.policy, state } };
    });
    tell(STATE_EVENTS[state], keyId);
    return view;
  }

  async function purge(keyId: string): Promise<void> {
    const found = await documentsOf(keyId);
    if (found === undefined) return;
    if (found.key.policy.state !== "revoked") {
      throw new KeystileError("key_state", `Key "${keyId}" is not revoked. Revoke it before it is purged.`);
    }
    // Their end has to be booked on the account.
    const isOpen = Object.values(sweep(found, await session.freshTime()).key.nodes).some(
      ({ open }) => open > 0,
    );
    if (found.account !== undefined && isOpen) {
      throw new KeystileError(
        "key_state",
        `Key "${keyId}" has requests in flight. Purge it when they have ended.`,
      );
    }
    for (const { digest } of found.key.secrets) await erase(secretDocumentId(digest));
    await erase(keyDocumentId(keyId));
  }

  /** One change of a record, in the same group commit as its traffic. */
  async function change(
    keyId: string,
    edit: (record: KeyRecord, now: number) => KeyRecord,
  ): Promise<KeyView> {
    const subject = isKeyId(keyId) ? await commit.subjectOf(keyId) : undefined;
    if (subject === undefined) throw notFound(keyId);
    const view = await commit.edit(subject, ({ key, account }: Documents, { now }) => {
      const edited = edit(key, now);
      const changed = edited === key ? key : { ...edited, policyVersion: key.policyVersion + 1 };
      const documents = { key: changed, ...(account && { account }) };
      return { records: documents, outcome: keyView(keyId, documents, now) };
    });
    if (view === undefined) throw notFound(keyId);
    return view;
  }

  async function existing(keyId: string): Promise<KeyRecord> {
    const found = await documentsOf(keyId);
    if (found === undefined) throw notFound(keyId);
    return found.key;
  }

  /** The key and its account by the store, as they are now. */
  async function documentsOf(keyId: string): Promise<Documents | undefined> {
    const subject = isKeyId(keyId) ? await commit.subjectOf(keyId) : undefined;
    return subject && commit.fetch(subject);
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

  /** The accounts of a page of keys, whose cycles their quotas show. */
  async function accountsOf(keys: readonly Document[]): Promise<ReadonlyMap<string, Document>> {
    const named = keys.map(({ body }) => (body as { account?: { id?: unknown } } | null)?.account?.id);
    const ids = new Set(named.filter((id) => typeof id === "string").map(accountDocumentId));
    return ids.size === 0 ? new Map() : session.read([...ids]);
  }

  function digestOf(secret: string): string {
    return digestsOf(secret, settings.peppers)[0] as string;
  }

  function secretWrite(secret: string, keyId: string, { account }: Pick<KeyRecord, "account">): Write {
    const set = { format: FORMAT, keyId, ...(account && { accountId: account.id }) };
    return { id: secretDocumentId(digestOf(secret)), expected: 0, set };
  }

  return {
    issue,
    async get(keyId) {
      const documents = await documentsOf(keyId);
      return documents && keyView(keyId, documents, session.now());
    },
    async list(query = {}) {
      const { owner, after, limit } = parseListQuery(query);
      const now = await session.freshTime();
      const page = {
        kind: "key",
        limit,
        ...(owner !== undefined && { owner }),
        ...(after !== undefined && { after }),
      };
      const { documents, next } = await session.list(page);
      const accounts = await accountsOf(documents);
      const keys: KeyView[] = [];
      const unreadable: string[] = [];
      for (const document of documents) {
        const keyId = keyIdOf(document);
        try {
          const key = parseKeyRecord(document);
          const account =
            key.account && parseAccountRecord(accounts.get(accountDocumentId(key.account.id)) as Document);
          keys.push(keyView(keyId, { key, ...(account && { account }) }, now));
        } catch {
          unreadable.push(keyId);
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
