import { type Address, compileStoredRanges, inRanges, parseAddress, type Ranges } from "./address.js";
import type { Documents, KeyRecord } from "./documents.js";
import { KeystileError } from "./errors.js";
import { judgeModels } from "./models.js";
import { isPerModel } from "./rates.js";
import { type Reason, type Refusal, refuse } from "./refusal.js";
import { sameDigest } from "./secret.js";

/** The normalised view of a request that policies judge. */
export interface Facts {
  /** As received. */
  readonly method?: string | undefined;
  /** Path and query, as received. */
  readonly url?: string | undefined;
  /** What the route requires. */
  readonly scopes?: readonly string[] | undefined;
  /** The client's address; undefined when unknown, which a key with an address list refuses. */
  readonly address?: string | Address | undefined;
  /**
   * The model or models asked for, all of which must be allowed. `null` says that the route has none;
   * undefined that it could not be told, which a key with a model list refuses.
   */
  readonly model?: string | readonly string[] | null | undefined;
  /** What limits per model count by, when it is not the models themselves. */
  readonly modelFamilies?: readonly string[] | undefined;
  /** Digests of the secret presented, one per pepper. Left out in tests of a policy alone. */
  readonly digests?: readonly string[];
}

/**
 * A rule of your own. It must be synchronous and pure: it may run several times for one request, and what it decides
 * must depend on its arguments alone. Whatever it returns but `true`, and throwing, refuses the request.
 */
export interface Rule {
  /** Shown to the operator as `refusal.rule`. */
  readonly name: string;
  /** True: judged only once the body was read. Else also before, when `facts.model` is undefined. */
  readonly needsModel?: boolean;
  allows(facts: Facts, key: KeyRecord, now: number): boolean;
}

export type PolicyOutcome =
  | { readonly allowed: true }
  | { readonly allowed: false; readonly refusal: Refusal };

/** How far ahead of the store a document's own memory of time may be before it counts as corrupt. */
const MAX_AHEAD_MS = 300_000;

const MAX_TIME_MS = 8_640_000_000_000_000;

/**
 * Judges the rules of a key that count nothing, in the order of the refusal table: secret, state, expiry, account,
 * address, scopes, own rules, model. Pure: the same arguments always give the same answer.
 *
 * @param now store time in milliseconds. Documents that have seen a later time are judged by that one.
 * @throws KeystileError `document_invalid` when one has seen a time more than 5 minutes ahead of `now`.
 */
export function evaluatePolicy(
  documents: Documents,
  facts: Facts,
  now: number,
  rules: readonly Rule[] = [],
): PolicyOutcome {
  const { key } = documents;
  return outcome(
    judgeArrival(documents, facts, latestTime(documents, now)) ??
      judgeRules(rules, key, facts, now) ??
      judgeModel(documents, facts.model),
  );
}

/** The part of `evaluatePolicy` that can be judged before the body is read: all but the model. */
export function evaluateArrival(
  documents: Documents,
  facts: Facts,
  now: number,
  rules: readonly Rule[] = [],
): PolicyOutcome {
  return outcome(
    judgeArrival(documents, facts, latestTime(documents, now)) ??
      judgeRules(rules.length === 0 ? rules : rules.filter(isEarly), documents.key, facts, now),
  );
}

function isEarly({ needsModel }: Rule): boolean {
  return needsModel !== true;
}

function judgeArrival({ key, account }: Documents, facts: Facts, latest: number): Reason | undefined {
  return (
    judgeSecret(key, facts.digests, latest) ??
    judgeState(key, latest) ??
    (account?.policy.state === "suspended" ? "account_suspended" : undefined) ??
    judgeAddress(key, facts.address) ??
    judgeScopes(key, facts.scopes)
  );
}

const ALLOWED: PolicyOutcome = Object.freeze({ allowed: true });

function outcome(refused: Reason | Refusal | undefined): PolicyOutcome {
  if (refused === undefined) return ALLOWED;
  return { allowed: false, refusal: typeof refused === "string" ? refuse(refused) : refused };
}

/** A clock that steps back revives nothing; one that is far behind what was seen is a fault. */
function latestTime({ key, account }: Documents, now: number): number {
  const latestMs = Math.max(key.latestMs, account?.latestMs ?? 0);
  if (latestMs - now > MAX_AHEAD_MS) {
    throw new KeystileError(
      "document_invalid",
      `A document has seen a time ${latestMs - now} ms ahead of the store's clock. Check the clock.`,
    );
  }
  return Math.max(latestMs, now);
}

function judgeSecret(
  { secrets }: KeyRecord,
  digests: readonly string[] | undefined,
  now: number,
): Reason | undefined {
  if (digests === undefined) return undefined;
  for (const { digest, endsAtMs } of secrets) {
    if (endsAtMs !== null && now >= endsAtMs) continue;
    for (const presented of digests) if (sameDigest(presented, digest)) return undefined;
  }
  return "key_unknown";
}

function judgeState({ policy }: KeyRecord, now: number): Reason | undefined {
  if (policy.state === "revoked") return "key_revoked";
  if (policy.state === "disabled") return "key_disabled";
  return isExpired(policy.expiresAtMs, now) ? "key_expired" : undefined;
}

/** Dead at the instant itself. What is neither null nor a time means expired, never "no expiry". */
export function isExpired(expiresAtMs: unknown, now: number): boolean {
  if (expiresAtMs === null) return false;
  return !isTime(expiresAtMs) || now >= expiresAtMs;
}

/** Whether a value is an instant that a `Date` can hold, in integer milliseconds. */
export function isTime(value: unknown): value is number {
  return Number.isSafeInteger(value) && Math.abs(value as number) <= MAX_TIME_MS;
}

function judgeAddress({ policy }: KeyRecord, address: Facts["address"]): Reason | undefined {
  const { allowedIps } = policy;
  if (allowedIps === undefined) return undefined;
  const parsed = typeof address === "string" ? parseAddress(address) : address;
  return parsed !== undefined && inRanges(rangesOf(allowedIps), parsed) ? undefined : "address_not_allowed";
}

function judgeScopes({ policy }: KeyRecord, required: Facts["scopes"]): Reason | undefined {
  if (required === undefined) return undefined;
  const { scopes = [] } = policy;
  return required.every((scope) => scopes.includes(scope)) ? undefined : "scope_missing";
}

function judgeRules(
  rules: readonly Rule[],
  record: KeyRecord,
  facts: Facts,
  now: number,
): Refusal | undefined {
  for (const rule of rules) {
    if (!isAllowedBy(rule, record, facts, now)) return refuse("rule_refused", { rule: rule.name });
  }
  return undefined;
}

/** Skipping a rule that fails would let through what it was made to stop. */
function isAllowedBy(rule: Rule, record: KeyRecord, facts: Facts, now: number): boolean {
  try {
    const answer: unknown = rule.allows(facts, record, now);
    // A rule that is asynchronous by mistake refuses, and must not end the process when it rejects.
    if (answer instanceof Promise) answer.catch(() => {});
    return answer === true;
  } catch {
    return false;
  }
}

/** A limit per model must know the model just as a list must: else one could be had twice by hiding it. */
function judgeModel({ key, account }: Documents, model: Facts["model"]): Reason | undefined {
  const isCounted = key.policy.limits.some(isPerModel) || account?.policy.limits.some(isPerModel);
  return judgeModels(model, key.policy, isCounted || undefined);
}

/** Parsing a list of ranges costs a hundred times what matching costs, so it is done once per list. */
const compiled = new WeakMap<readonly string[], Ranges>();

function rangesOf(entries: readonly string[]): Ranges {
  let ranges = compiled.get(entries);
  if (ranges === undefined) {
    ranges = compileStoredRanges(entries);
    compiled.set(entries, ranges);
  }
  return ranges;
}
