import { type Address, clientAddress, namedAddress } from "./address.js";
import { addressLimit } from "./address-limit.js";
import { assertAmount, copied, costOf } from "./cost.js";
import { type HeaderSource, headerValues, readCredential } from "./credential.js";
import { familiesOf, limitsOf, standingAfter, type Weighed, weigh } from "./decide.js";
import {
  type Allowed,
  countedModel,
  type Decision,
  decisions,
  endReservation,
  identityOf,
  type KeyIdentity,
  type Refused,
  voidingStep,
} from "./decision.js";
import type { Cost, Documents } from "./documents.js";
import { KeystileError } from "./errors.js";
import type { Events } from "./events.js";
import type { GroupCommit, KeyStep, KeySubject } from "./group-commit.js";
import type { Asked, Leases } from "./leases.js";
import type { Settings } from "./options.js";
import { evaluateArrival, type Facts } from "./policy.js";
import { type Refusal, refuse } from "./refusal.js";
import type { Runtime } from "./runtime.js";
import { digestsOf, hasValidChecksum, isSecret } from "./secret.js";
import type { SecretLookup } from "./secret-lookup.js";
import type { Ending } from "./settle.js";
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
  /** The estimated cost: an integer from 0 to 2^53 - 1 in the operator's unit, or one for each fund. Default 1. */
  readonly cost?: Cost;
  /** How many tokens it is estimated to take, for limits in tokens. Default 0: they are counted when it ends. */
  readonly tokens?: number;
}

/** The first phase passed: key, state, expiry and address, by the documents at hand. */
export interface Identified {
  readonly allowed: true;
  readonly key: KeyIdentity;
  /** A model or models without their aliases, as `admit` will judge them. */
  resolve(model: Facts["model"]): Facts["model"];
  /**
   * The second phase: all rules again, with model and money, confirmed by one atomic write.
   * @throws TypeError for a bad cost; KeystileError on a fault. Neither consumes anything.
   */
  admit(admission?: Admission): Promise<Decision>;
}

export interface Authorizer {
  identify(arrival: Arrival): Promise<Identified | Refused>;
  authorize(request: Arrival & Admission): Promise<Decision>;
  /** Settles requests that outlived `requestTimeoutMs`. */
  sweep(): void;
  /** Refuses new requests, waits for open ones, settles what is still open after `drainMs`. */
  drain(): Promise<void>;
}

/** What the path of a request is made of. */
export interface Parts {
  readonly runtime: Runtime;
  readonly session: StoreSession;
  readonly commit: GroupCommit;
  readonly events: Events;
  readonly secrets: SecretLookup;
  readonly leases: Leases;
}

type Presented = Facts & { readonly digests: readonly string[] };

/** A key that a request may be let in by, as far as can be said before its body is read. */
interface Found {
  readonly subject: KeySubject;
  readonly documents: Documents;
  readonly facts: Presented;
}

/**
 * The path of a request: credential, digest, secret document, key document, policy, limits, quota, decision.
 *
 * What is cached may only suggest. An allowance is confirmed by the write that holds its cost; a refusal by a read or
 * a check begun after the request arrived, so a key just issued, enabled or widened elsewhere is never refused.
 */
export function authorizer(
  settings: Settings,
  { runtime, session, commit, events, secrets, leases }: Parts,
): Authorizer {
  const { peppers, checksum, credentials, trustedProxies, clientAddressHeader, rules, modelFamily } =
    settings;
  const { drainMs, requestTimeoutMs } = settings;
  const prefixes = Object.values(settings.prefixes);
  const aliases = new Map(Object.entries(settings.modelAliases));
  const open = decisions({ runtime, events, aliases }, tellIfEmpty);
  /** Requests that wait for the store. */
  let waiting = 0;
  let closing: "no" | "draining" | "drained" = "no";
  let onEmpty: (() => void) | undefined;

  const countAddress = settings.addressLimit === undefined ? undefined : addressLimit(settings.addressLimit);

  /** Reads what a request presents, or says why it presents nothing. */
  function present({ headers, address: peer, method, url, scopes }: Arrival): Presented | Refused {
    assertOpen();
    if (countAddress !== undefined) {
      // By the process's own clock: the store's is not known before it was heard, and may be set.
      const timeMs = Math.floor(runtime.monotonicMs());
      const { waitMs, status } = countAddress(addressOf(peer, headers), timeMs);
      if (waitMs > 0) {
        const refusal = refuse("address_rate_limited", { retryAfterMs: waitMs });
        const resetAtMs = status.resetAtMs - timeMs + session.now();
        return refused(refusal, { limits: Number.isFinite(resetAtMs) ? [{ ...status, resetAtMs }] : [] });
      }
    }

    const credential = readCredential(headers, credentials, url);
    if ("refusal" in credential) return refused(credential.refusal);
    const { secret } = credential;
    if (!isSecret(secret, prefixes) || (checksum === "require" && !hasValidChecksum(secret))) {
      return refused(refuse("credential_malformed"));
    }
    return { method, url, scopes, address: addressOf(peer, headers), digests: digestsOf(secret, peppers) };
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
  async function locate(facts: Presented): Promise<Found | Refused> {
    const remembered = secrets.remembered(facts.digests);
    if (remembered !== undefined) {
      const located = await judgeFresh(remembered, facts);
      if (located !== undefined && !isUnknown(located)) return located;
      // The key is gone, or no longer lists the secret; a secret made elsewhere may belong to another one by now.
      secrets.forget(facts.digests);
    }
    const subject = await secrets.find(facts.digests);
    if (subject === undefined) return refused(refuse("key_unknown"));
    const located = await judgeFresh(subject, facts);
    if (located !== undefined) return located;
    // A purge takes the secret before the key, so it may have come between the two reads.
    if ((await secrets.find(facts.digests)) === undefined) return refused(refuse("key_unknown"));
    throw new KeystileError("document_invalid", "A secret's key document is missing from the store.");
  }

  /** By cached documents, which are not judged here: they may let a request go on, and refuse none. */
  function locateCached(facts: Presented): Found | undefined {
    const subject = session.isStale() ? undefined : secrets.remembered(facts.digests);
    const documents = subject && commit.cached(subject);
    return subject && documents && { subject, documents, facts };
  }

  function mayArrive({ documents, facts }: Found): boolean {
    return evaluateArrival(documents, facts, session.now(), rules).allowed;
  }

  async function judgeFresh(subject: KeySubject, facts: Presented): Promise<Found | Refused | undefined> {
    const documents = await commit.fetch(subject);
    if (documents === undefined) return undefined;
    const now = session.now();
    const outcome = evaluateArrival(documents, facts, now, rules);
    if (outcome.allowed) return { subject, documents, facts };
    const limits = limitsOf(documents.key, documents.account, [], now);
    return refusedKey({ ...outcome, limits }, subject, documents, facts.model);
  }

  async function admit(found: Found, admission: Admission): Promise<Decision> {
    const { subject, documents, facts: arrived } = found;
    const { given = 1, tokens = 0 } = { given: own(admission, "cost"), tokens: own(admission, "tokens") };
    assertOpen();
    const cost = costOf(given);
    assertAmount(tokens, "number of tokens");
    const model = withoutAliases(own(admission, "model"));
    // Written out, as below: a spread costs more than the rest of it.
    const { method, url, scopes, address, digests } = arrived;
    const facts = { method, url, scopes, address, digests, model, modelFamilies: families(model) };
    const asked = { subject, documents, facts, cost, tokens };
    const leased = leases.admit(asked);
    if (leased !== undefined) {
      const { standing, end } = leased;
      return allowed(open.allow({ subject, documents, model, cost, tokens, standing, end }));
    }
    waiting += 1;
    try {
      const sinceMs = runtime.monotonicMs();
      const weighing = commit.decide(subject, deciding(asked), undoing);
      leases.warm(asked);
      let weighed = await weighing;
      // What this process holds by a lease is no reason to refuse.
      if (mayBeLeased(weighed) && (await leases.giveBack(subject, sinceMs)))
        weighed = await commit.decide(subject, deciding(asked), undoing);
      if (weighed === undefined || isGone(weighed)) return await admitAnew(arrived, { model, cost, tokens });
      const { answer, documents: decidedOn } = weighed;
      const standing = standingAfter(weighed);
      if (!answer.allowed) {
        const { refusal } = answer;
        return refusedKey({ refusal, limits: standing.limits }, subject, decidedOn, model);
      }
      const { reservation } = answer;
      const end = (ending: Ending) => endReservation(commit, subject, reservation, ending);
      const decision = open.allow({ subject, documents: decidedOn, model, cost, tokens, standing, end });
      if (closing !== "drained") return allowed(decision);
      void decision.void();
      throw closedFault();
    } finally {
      waiting -= 1;
      tellIfEmpty();
    }
  }

  function deciding({ facts, cost, tokens }: Asked): KeyStep<Weighed> {
    return (records, { node, now, holdUntilMs }) => {
      const request = { facts, cost, tokens, places: undefined, rules, node, holdUntilMs };
      const outcome = weigh(records, request, now);
      return { records: outcome.documents, outcome };
    };
  }

  /** For a key that turned out to be gone, or not to list the secret: whose is it by the store? */
  async function admitAnew(arrived: Presented, admission: Admission): Promise<Decision> {
    const found = await locate(arrived);
    return isRefused(found) ? found : admit(found, admission);
  }

  function tellIfEmpty(): void {
    if (open.count() === 0 && waiting === 0) onEmpty?.();
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
    if (typeof model === "string") return [familyOf(model)];
    const named = familiesOf({ model }).map(familyOf);
    return named.length < 2 ? named : [...new Set(named)];
  }

  function allowed(decision: Allowed): Allowed {
    const { key, model, estimate } = decision;
    if (events.isHeard("request.allowed"))
      events.emit({ type: "request.allowed", keyId: key.id, model, estimate });
    return decision;
  }

  /** Where the limits stand is told to whoever proved to hold the key, and to nobody else. */
  function refusedKey(
    { refusal, limits }: Pick<Refused, "refusal" | "limits">,
    subject: KeySubject,
    documents: Documents,
    model: Facts["model"],
  ): Refused {
    const key = identityOf(subject.keyId, documents);
    commit.count(subject, { ...REFUSED, model: countedModel(model) });
    return refused(refusal, { limits: refusal.status === 401 ? [] : limits, key });
  }

  function refused(
    refusal: Refusal,
    known: { readonly limits?: Refused["limits"]; readonly key?: KeyIdentity } = {},
  ): Refused {
    const { limits = [], key } = known;
    if (events.isHeard("request.refused")) {
      const { reason, status } = refusal;
      events.emit({ type: "request.refused", ...(key && { keyId: key.id }), reason, status });
    }
    return key === undefined ? { allowed: false, refusal, limits } : { allowed: false, refusal, limits, key };
  }

  return {
    async identify(arrival) {
      const facts = present(arrival);
      if (isRefused(facts)) return facts;
      const known = locateCached(facts);
      const found = known !== undefined && mayArrive(known) ? known : await locate(facts);
      if (isRefused(found)) return found;
      return {
        allowed: true,
        key: identityOf(found.subject.keyId, found.documents),
        resolve: withoutAliases,
        admit: (admission = {}) => admit(found, admission),
      };
    },
    async authorize(request) {
      const cost = own(request, "cost");
      const asked = typeof cost === "object" ? { ...request, cost: copied(cost) as Cost } : request;
      const facts = present(request);
      if (isRefused(facts)) return facts;
      // What is confirmed in the end judges all of it, so what is cached need not be judged before.
      const found = locateCached(facts) ?? (await locate(facts));
      return isRefused(found) ? found : await admit(found, asked);
    },
    sweep() {
      open.settleOlderThan(requestTimeoutMs);
    },
    async drain() {
      closing = "draining";
      if (open.count() > 0 || waiting > 0) {
        const { promise, resolve } = withResolvers<void>();
        onEmpty = resolve;
        const cancel = runtime.setTimer(resolve, drainMs);
        await promise;
        cancel();
      }
      closing = "drained";
      open.settleOlderThan(0);
    },
  };
}

/** What somebody gave, and not what a polluted prototype adds to it. */
function own<T extends object, K extends keyof T>(given: T, name: K): T[K] | undefined {
  return Object.hasOwn(given, name) ? given[name] : undefined;
}

function isRefused(given: Presented | Found | Refused): given is Refused {
  return "refusal" in given;
}

function isUnknown(located: Found | Refused): boolean {
  return isRefused(located) && located.refusal.reason === "key_unknown";
}

/** Whether the key does not exist any more, or does not list the secret. */
function isGone({ answer }: Weighed): boolean {
  return !answer.allowed && answer.refusal.reason === "key_unknown";
}

/** Whether it was refused for want of what a lease may hold. */
function mayBeLeased(weighed: Weighed | undefined): boolean {
  if (weighed === undefined || weighed.answer.allowed) return false;
  const { status } = weighed.answer.refusal;
  return status === 402 || status === 429;
}

function closedFault(): KeystileError {
  return new KeystileError("closed", "This instance was closed; it accepts no more requests.");
}

/** A request that was answered with a fault, and was let in after all, gives back what it holds. */
function undoing({ answer }: Weighed): KeyStep<void> | undefined {
  return answer.allowed ? voidingStep(answer.reservation) : undefined;
}

const REFUSED = {
  outcome: "refused",
  requests: 1,
  cost: 0,
  inputTokens: 0,
  outputTokens: 0,
  paid: 0,
} as const;
