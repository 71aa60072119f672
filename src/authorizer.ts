import { type Address, clientAddress, namedAddress } from "./address.js";
import { addressLimit } from "./address-limit.js";
import { type HeaderSource, headerValues, readCredential } from "./credential.js";
import { assertCost, decide, familiesOf, type Granted, type Verdict } from "./decide.js";
import { type KeyRecord, type Policy, parseSecretRecord, secretDocumentId } from "./documents.js";
import { KeystileError } from "./errors.js";
import type { GroupCommit } from "./group-commit.js";
import { type LimitStatus, limitStatus } from "./limits.js";
import type { Step } from "./live-document.js";
import { isModelAllowed } from "./models.js";
import type { Settings } from "./options.js";
import { evaluateArrival, type Facts } from "./policy.js";
import { type QuotaStatus, settle } from "./quota.js";
import { type Refusal, refuse } from "./refusal.js";
import type { Runtime } from "./runtime.js";
import { digestsOf, hasValidChecksum, isSecret } from "./secret.js";
import { type StoreSession, withResolvers } from "./store-session.js";

/** What is known of a request before its body is read. */
export interface Arrival {
  /** `fetch` headers, or Node's `rawHeaders` or `headersDistinct` (its `headers` hides duplicates). */
  readonly headers: HeaderSource;
  /** As received; for rules of your own. */
  readonly method?: string | undefined;
  /** Path and query, as received; for rules of your own, and for credentials in a query. */
  readonly url?: string | undefined;
  /** Scopes that the route requires. */
  readonly scopes?: readonly string[] | undefined;
  /** The socket's peer. Never an address out of a header: those are read here, if `trustedProxies` says so. */
  readonly address?: string | undefined;
}

/** What is known once the body was read. */
export interface Admission {
  /** The model or models asked for; `null`: this route has none; undefined: could not be told. */
  readonly model?: Facts["model"];
  /** The estimated cost: an integer from 0 to 2^53 - 1 in the operator's unit. Default 1. */
  readonly cost?: number;
}

/** Whose request it is. */
export interface KeyIdentity {
  readonly id: string;
  readonly owner?: string;
  readonly name?: string;
  readonly metadata: Readonly<Record<string, string>>;
}

/** The first phase passed: key, state, expiry and address, by the documents at hand. */
export interface Identified {
  readonly allowed: true;
  readonly key: KeyIdentity;
  /**
   * The second phase: all rules again, with model and money, confirmed by one atomic write.
   * @throws TypeError for a bad cost; KeystileError on a fault. Neither consumes anything.
   */
  admit(admission?: Admission): Promise<Decision>;
}

/** The request may pass, and its cost is held. End it with `settle` or `void`: the first call decides. */
export interface Allowed {
  readonly allowed: true;
  readonly key: KeyIdentity;
  /** What was judged; forward nothing else. */
  readonly model: Facts["model"];
  readonly estimate: number;
  readonly limits: readonly LimitStatus[];
  readonly quota: QuotaStatus;
  /** Whether the key's lists allow a model, for filtering a list of models or choosing a fallback. */
  canUseModel(model: string): boolean;
  /** Notes what it has cost so far: what is booked if nobody says more. @throws TypeError for a bad cost */
  observe(cost: number): void;
  /**
   * Books the actual cost: `cost`, else what was observed, else the estimate. Resolves when it is stored; until then
   * the estimate stays held, so a crash loses nothing. Need not be awaited. @throws TypeError for a bad cost
   */
  settle(cost?: number): Promise<void>;
  /** Gives everything back, for a request that came to nothing. Resolves when it is stored. */
  void(): Promise<void>;
}

/** The request may not pass. Nothing was consumed. */
export interface Refused {
  readonly allowed: false;
  readonly refusal: Refusal;
  readonly limits: readonly LimitStatus[];
  /** Known from the moment the key was found; for logs, not for the client. */
  readonly key?: KeyIdentity;
}

export type Decision = Allowed | Refused;

export interface Authorizer {
  identify(arrival: Arrival): Promise<Identified | Refused>;
  authorize(request: Arrival & Admission): Promise<Decision>;
  /** Settles requests that outlived `requestTimeoutMs`. */
  sweep(): void;
  /** Refuses new requests, waits for open ones, settles what is still open after `drainMs`. */
  drain(): Promise<void>;
}

type Presented = Facts & { readonly digests: readonly string[] };
type Located = { readonly keyId: string; readonly record: KeyRecord };
/** The kernel's answer, with the record as it stands after it. */
type Weighed = { readonly verdict: Verdict; readonly record: KeyRecord };
type Granting = { readonly verdict: Granted; readonly record: KeyRecord };

/**
 * The path of a request: credential, digest, secret document, key document, policy, limits, quota, decision.
 *
 * What is cached may only suggest. An allowance is confirmed by the write that holds its cost; a refusal by a read or
 * a check begun after the request arrived, so a key just issued, enabled or widened elsewhere is never refused.
 */
export function authorizer(
  settings: Settings,
  runtime: Runtime,
  session: StoreSession,
  commit: GroupCommit,
): Authorizer {
  const { peppers, checksum, credentials, trustedProxies, clientAddressHeader, rules, modelFamily } =
    settings;
  const { cacheSize, drainMs, requestTimeoutMs } = settings;
  const prefixes = Object.values(settings.prefixes);
  const aliases = new Map(Object.entries(settings.modelAliases));
  const keyIds = new Map<string, string>();
  const open = new Map<Allowed, number>();
  let deciding = 0;
  let closing: "no" | "draining" | "drained" = "no";
  let onEmpty: (() => void) | undefined;

  const countAddress = settings.addressLimit === undefined ? undefined : addressLimit(settings.addressLimit);

  async function identify({ headers, address: peer, ...request }: Arrival): Promise<Identified | Refused> {
    assertOpen();
    const address = addressOf(peer, headers);
    const counted = countAddress?.(address, session.now());
    if (counted !== undefined && counted.waitMs > 0) {
      const refusal = refuse("address_rate_limited", { retryAfterMs: counted.waitMs });
      return { ...refused(refusal), limits: [counted.status] };
    }

    const credential = readCredential(headers, credentials, request.url);
    if ("refusal" in credential) return refused(credential.refusal);
    const { secret } = credential;
    if (!isSecret(secret, prefixes) || (checksum === "require" && !hasValidChecksum(secret))) {
      return refused(refuse("credential_malformed"));
    }
    const { method, url, scopes } = request;
    return locate({ method, url, scopes, address, digests: digestsOf(secret, peppers) });
  }

  function addressOf(peer: string | undefined, headers: HeaderSource): Address | undefined {
    if (trustedProxies === undefined) return clientAddress(peer, undefined, undefined);
    if (clientAddressHeader === undefined) {
      return clientAddress(peer, headerValues(headers, "x-forwarded-for"), trustedProxies);
    }
    return namedAddress(peer, headerValues(headers, clientAddressHeader), trustedProxies);
  }

  function assertOpen(): void {
    if (closing !== "no") throw closedFault();
  }

  /** Finds the key and judges it, by cached documents if they allow, else by fresh ones. */
  async function locate(facts: Presented): Promise<Identified | Refused> {
    const remembered = facts.digests.map((digest) => keyIds.get(digest)).find((id) => id !== undefined);
    if (remembered !== undefined) {
      const located = byCache(remembered, facts) ?? (await byStore(remembered, facts));
      if (located !== undefined && !isUnknown(located)) return located;
      // The key is gone, or no longer lists the secret; a secret made elsewhere may belong to another one by now.
      for (const digest of facts.digests) keyIds.delete(digest);
    }
    const keyId = await findKeyId(facts.digests);
    if (keyId === undefined) return refused(refuse("key_unknown"));
    const located = await byStore(keyId, facts);
    if (located !== undefined) return located;
    throw new KeystileError("document_invalid", "A secret's key document is missing from the store.");
  }

  function byCache(keyId: string, facts: Presented): Identified | undefined {
    const record = session.isStale() ? undefined : commit.cached(keyId);
    if (record === undefined || !evaluateArrival(record, facts, session.now(), rules).allowed)
      return undefined;
    return identified({ keyId, record }, facts);
  }

  async function byStore(keyId: string, facts: Presented): Promise<Identified | Refused | undefined> {
    const record = await commit.fetch(keyId);
    if (record === undefined) return undefined;
    const now = session.now();
    const outcome = evaluateArrival(record, facts, now, rules);
    if (outcome.allowed) return identified({ keyId, record }, facts);
    return refusedKey({ ...outcome, limits: limitStatus(record, [], now) }, { keyId, record });
  }

  /** Where a secret leads seldom changes, so it is remembered, to be confirmed; absence never is. */
  async function findKeyId(digests: readonly string[]): Promise<string | undefined> {
    const found = await Promise.all(digests.map((digest) => session.fetch(secretDocumentId(digest))));
    for (const [index, document] of found.entries()) {
      if (document === undefined) continue;
      const { keyId } = parseSecretRecord(document);
      remember(keyIds, digests[index] as string, keyId, cacheSize);
      return keyId;
    }
    return undefined;
  }

  function identified({ keyId, record }: Located, arrived: Presented): Identified {
    async function admit({ model: asked, cost = 1 }: Admission = {}): Promise<Decision> {
      assertOpen();
      assertCost(cost);
      const model = withoutAliases(asked);
      const facts = { ...arrived, model, modelFamilies: families(model) };
      deciding += 1;
      try {
        const granting = await commit.decide(keyId, weigh(facts, cost), undoing);
        if (granting === undefined) return await admitAnew(arrived, { model, cost });
        const { verdict, record: decidedOn } = granting;
        if (!verdict.allowed) {
          const refusal = refusedKey(verdict, { keyId, record: decidedOn });
          return isUnknown(refusal) ? await admitAnew(arrived, { model, cost }) : refusal;
        }
        const decision = allowed({ verdict, record: decidedOn }, keyId, model, cost);
        if (closing !== "drained") return decision;
        void decision.void();
        throw closedFault();
      } finally {
        deciding -= 1;
        tellIfEmpty();
      }
    }
    return { allowed: true, key: identityOf(keyId, record), admit };
  }

  function weigh(facts: Facts, cost: number): Step<Weighed> {
    return (record, { node, now, holdUntilMs }) => {
      const { documents, verdict } = decide({ key: record }, { facts, cost, rules, node, holdUntilMs }, now);
      return { record: documents.key, outcome: { verdict, record: documents.key } };
    };
  }

  /** For a key that turned out to be gone, or not to list the secret: whose is it by the store? */
  async function admitAnew(arrived: Presented, admission: Admission): Promise<Decision> {
    const located = await locate(arrived);
    return located.allowed ? located.admit(admission) : located;
  }

  function tellIfEmpty(): void {
    if (open.size === 0 && deciding === 0) onEmpty?.();
  }

  function withoutAliases(model: Facts["model"]): Facts["model"] {
    if (typeof model === "string") return aliases.get(model) ?? model;
    return Array.isArray(model) ? model.map((name) => aliases.get(name) ?? name) : model;
  }

  function familyOf(model: string): string {
    try {
      const family: unknown = modelFamily?.(model);
      return typeof family === "string" ? family : model;
    } catch {
      return model;
    }
  }

  function families(model: Facts["model"]): readonly string[] {
    return [...new Set(familiesOf({ model }).map(familyOf))];
  }

  function allowed(
    { verdict, record }: Granting,
    keyId: string,
    model: Facts["model"],
    estimate: number,
  ): Allowed {
    const { reservation, limits, quota } = verdict;
    let observed: number | undefined;
    let ended: Promise<void> | undefined;

    function end(actual: number): Promise<void> {
      assertCost(actual);
      if (ended === undefined) {
        open.delete(decision);
        tellIfEmpty();
        const nothingToBook = reservation.node === null && actual === 0;
        ended = nothingToBook ? Promise.resolve() : commit.post(keyId, ending(reservation, actual));
      }
      return ended;
    }

    const decision: Allowed = {
      allowed: true,
      key: identityOf(keyId, record),
      model,
      estimate,
      limits,
      quota,
      canUseModel: (name) =>
        isModelAllowed(aliases.get(name) ?? name, record.policy.allowedModels, record.policy.deniedModels),
      observe(cost) {
        assertCost(cost);
        observed = cost;
      },
      settle: (cost) => end(cost ?? observed ?? estimate),
      void: () => end(0),
    };
    open.set(decision, runtime.monotonicMs());
    return decision;
  }

  return {
    identify,
    async authorize(request) {
      const arrival = await identify(request);
      return arrival.allowed ? arrival.admit(request) : arrival;
    },
    sweep() {
      const tooOld = runtime.monotonicMs() - requestTimeoutMs;
      for (const [decision, sinceMs] of open) if (sinceMs <= tooOld) void decision.settle();
    },
    async drain() {
      closing = "draining";
      if (open.size > 0 || deciding > 0) {
        const { promise, resolve } = withResolvers<void>();
        onEmpty = resolve;
        const cancel = runtime.setTimer(resolve, drainMs);
        await promise;
        cancel();
      }
      closing = "drained";
      for (const decision of [...open.keys()]) void decision.settle();
    },
  };
}

function isUnknown(located: Identified | Refused): boolean {
  return !located.allowed && located.refusal.reason === "key_unknown";
}

function closedFault(): KeystileError {
  return new KeystileError("closed", "This instance was closed; it accepts no more requests.");
}

function undoing({ verdict }: Weighed): Step<void> | undefined {
  if (!verdict.allowed || verdict.reservation.node === null) return undefined;
  return ending(verdict.reservation, 0);
}

function ending(reservation: Granted["reservation"], actual: number): Step<void> {
  return (record) => ({ record: settle(record, reservation, actual), outcome: undefined });
}

function refused(refusal: Refusal): Refused {
  return { allowed: false, refusal, limits: [] };
}

/** Where the limits stand is told to whoever proved to hold the key, and to nobody else. */
function refusedKey({ refusal, limits }: Refused, { keyId, record }: Located): Refused {
  const key = identityOf(keyId, record);
  return { allowed: false, refusal, limits: refusal.status === 401 ? [] : limits, key };
}

function identityOf(id: string, { owner, policy }: KeyRecord): KeyIdentity {
  const { name, metadata = {} }: Policy = policy;
  return { id, ...(owner !== undefined && { owner }), ...(name !== undefined && { name }), metadata };
}

/** A bounded cache: the oldest goes first. */
function remember(cache: Map<string, string>, name: string, value: string, size: number): void {
  cache.set(name, value);
  if (cache.size > size) cache.delete(cache.keys().next().value as string);
}
