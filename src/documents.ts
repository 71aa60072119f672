import type { Cycle } from "./cycle.js";
import type { Json, Write } from "./store.js";

/** The newest document format this version writes and reads. A newer one is a fault, not a guess. */
export const FORMAT = 1;

/** How many processes may hold something of one document at a time. */
export const MAX_NODES = 128;

/** How many more may have written something without holding anything. */
export const MAX_VISITORS = 64;

/** How long, and how many, expired entries are remembered so that their process can still correct them. */
export const COLLECTED_KEPT_MS = 3_600_000;
export const MAX_COLLECTED = 64;

/** Models counted by name on one day; the others count as `other`. */
export const MAX_TALLIED_MODELS = 64;

/** Longer names of models are on no list: the work of matching is bounded by their length times that of the patterns. */
export const MAX_MODEL_LENGTH = 512;

export const DAY_MS = 86_400_000;

/**
 * Amounts by purse. A purse is a fund or a cap in one billing cycle, written `fund@cycle`: a key's own quota is
 * `key@0` and an account's balance `balance@0`, which never cycle. Of holds, the names of token buckets are purses, too.
 */
export type Amounts = Readonly<Record<string, number>>;

/** The purse of a key's own quota. */
export const KEY_PURSE = "key@0";

/** The purse of an account's balance. */
export const BALANCE_PURSE = "balance@0";

/** Prices by fund, for funds with different units: the first fund that can pay its price pays alone. */
export interface FundCosts {
  readonly subscription: number;
  readonly balance: number;
}

/** What a request costs: an integer from 0 to 2^53 - 1 in the operator's unit, or one for each fund. */
export type Cost = number | FundCosts;

/** Requests per window, as a leaky bucket that holds `burst` (unless set, `requests`). */
export interface RequestLimit {
  readonly requests: number;
  readonly windowMs: number;
  readonly burst?: number | undefined;
  /** `model`: one bucket for each family of models, instead of one for all. */
  readonly per?: "model" | undefined;
}

/**
 * Tokens (or whatever is counted) per window, as a leaky bucket. Requests in flight hold what they are estimated to
 * take, and their end puts in what they took.
 */
export interface TokenLimit {
  readonly tokens: number;
  readonly windowMs: number;
  readonly burst?: number | undefined;
  readonly per?: "model" | undefined;
}

/** Requests at a time, over all processes. */
export interface InFlightLimit {
  readonly inFlight: number;
}

export type Limit = RequestLimit | TokenLimit | InFlightLimit;

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

/** The part that keys and accounts have in common: what was used, what is held by whom, and how full the limits are. */
export interface Ledger {
  readonly used: Amounts;
  /** By bucket name; an absent bucket is empty. */
  readonly levels: Readonly<Record<string, Level>>;
  readonly nodes: Readonly<Record<string, NodeEntry>>;
  readonly collected: Readonly<Record<string, CollectedEntry>>;
  /** Entries with a time up to this one may have been here and be forgotten. */
  readonly forgottenMs: number;
  /** The latest store time this document has seen. Guards expiry against a clock that steps back. */
  readonly latestMs: number;
  /** The lowest threshold told of each purse: each is told once. */
  readonly alerts?: Amounts | undefined;
  /** Members that a later version wrote, which survive a write. No member of what is stored. */
  readonly later?: Readonly<Record<string, unknown>> | undefined;
}

/** What became of requests: booked, given back, ended by time with their process, or never admitted. */
export type Outcome = "settled" | "voided" | "expired" | "refused";

/** Requests, their cost from all funds, input tokens, output tokens, and what of the cost the account's balance paid. */
export type Tally = readonly [
  requests: number,
  cost: number,
  inputTokens: number,
  outputTokens: number,
  paid: number,
];

/** One day of a key, by model and outcome. */
export interface DayTally {
  /** Days since 1970-01-01, UTC. */
  readonly day: number;
  readonly models: Readonly<Record<string, Readonly<Partial<Record<Outcome, Tally | undefined>>>>>;
}

/** Everything about one key: policy, secrets' digests, counters, and what each process holds. Plain JSON. */
export interface KeyRecord extends Ledger {
  readonly format: number;
  readonly owner?: string | undefined;
  readonly prefix: string;
  /** The account whose money it spends, and of which fund. Never changes. */
  readonly account?: { readonly id: string; readonly pays: "balance" | "subscription" } | undefined;
  readonly createdAtMs: number;
  /** Raised by every change of `policy` or `secrets`; traffic leaves it alone. */
  readonly policyVersion: number;
  readonly policy: Policy;
  /** The current secret, its predecessor, and one already dead that a rotation or a purge still has to erase. */
  readonly secrets: readonly StoredSecret[];
  /** Today's counters. Those of other days have documents of their own. */
  readonly tally?: DayTally | undefined;
}

/** What may be spent from the balance once the subscription's allowance is used up; null is as much as there is. */
export interface PayAsYouGo {
  readonly capPerCycle: number | null;
}

/** The terms of an account. Changed by its operator only. */
export interface Terms {
  readonly name?: string | undefined;
  readonly state: "active" | "suspended";
  /** Limits that all keys of the account share. */
  readonly limits: readonly Limit[];
  /** null: a subscription that is used up spends nothing else. */
  readonly payAsYouGo: PayAsYouGo | null;
  readonly onCrash: "charge" | "release";
  readonly metadata?: Readonly<Record<string, string>> | undefined;
}

/** What a subscriber gets. */
export interface Plan {
  readonly name: string;
  /** How much may be used in each cycle. */
  readonly allowance: number;
  /** By how much the limits of its keys are multiplied, in percent. */
  readonly ratePercent: number;
}

/** The cycle an account is in, and what it allows. */
export interface CurrentCycle {
  readonly index: number;
  readonly startsAtMs: number;
  readonly endsAtMs: number;
  /** The plan's allowance, or more in the cycle in which it was raised. */
  readonly allowance: number;
}

export interface Subscription {
  /** Tells the subscriptions of one account apart. */
  readonly serial: number;
  readonly plan: Plan;
  /** The plan from the next cycle on. */
  readonly nextPlan?: Plan | undefined;
  readonly cycle: Cycle;
  readonly current: CurrentCycle;
  readonly startedAtMs: number;
  /** From this instant on it has ended; null: not foreseen. */
  readonly endsAtMs: number | null;
  /** From this instant on it is suspended for payment; null: it is paid. */
  readonly unpaidFromMs: number | null;
}

/** Everything about money that several keys share. Plain JSON. */
export interface AccountRecord extends Ledger {
  readonly format: number;
  readonly owner?: string | undefined;
  readonly createdAtMs: number;
  /** Raised by every change of terms or subscription; traffic and credits leave it alone. */
  readonly policyVersion: number;
  readonly policy: Terms;
  /** All that was ever credited, less what was debited. What is left of it is the balance. */
  readonly credited: number;
  readonly subscription?: Subscription | undefined;
  /** What closed cycles allowed in which something is still held, by `serial.index`. */
  readonly closed: Amounts;
}

/** A credit or a debit that was applied. It exists once, so that it is applied once. */
export interface EntryRecord {
  readonly format: number;
  readonly amount: number;
  readonly atMs: number;
}

/** A closed day of a key. */
export interface UsageRecord extends DayTally {
  readonly format: number;
  readonly keyId: string;
  readonly accountId?: string | undefined;
}

/** Leads from a secret's digest to its key, and to the key's account. Never changes. */
export interface SecretRecord {
  readonly format: number;
  readonly keyId: string;
  readonly accountId?: string | undefined;
}

/** The documents one decision is about: a key's, and that of the account it belongs to. */
export interface Documents {
  readonly key: KeyRecord;
  readonly account?: AccountRecord | undefined;
}

/** Tells records apart by what they themselves have, whatever else plain objects may have inherited. */
export function isLedger(record: object | undefined): record is KeyRecord | AccountRecord {
  return record !== undefined && Object.hasOwn(record, "nodes");
}

/** As `isLedger`, of a key. */
export function isKey(record: object | undefined): record is KeyRecord {
  return record !== undefined && Object.hasOwn(record, "secrets");
}

export function keyDocumentId(keyId: string): string {
  return `key:${keyId}`;
}

export function accountDocumentId(accountId: string): string {
  return `account:${accountId}`;
}

export function entryDocumentId(accountId: string, entryId: string): string {
  return `entry:${accountId}.${entryId}`;
}

export function secretDocumentId(digest: string): string {
  return `secret:${digest}`;
}

export function usageDocumentId(keyId: string, day: number): string {
  return `usage:${keyId}.${dateOf(day)}`;
}

/** A day as `2026-11-23`. */
export function dateOf(day: number): string {
  return new Date(day * DAY_MS).toISOString().slice(0, 10);
}

/** The write that makes a document this record. */
export function recordWrite(
  id: string,
  expected: number,
  record: { readonly owner?: string | undefined; readonly later?: Ledger["later"] },
): Write {
  const { owner, later } = record;
  const set = (later === undefined ? record : { ...record, later: undefined, ...later }) as Json;
  return owner === undefined ? { id, expected, set } : { id, expected, set, owner };
}
