import type { Ending, OracleOptions } from "../account.js";
import type { AccountBody, DayBody, KeyBody, Pays } from "./documents.js";

/** What a request costs: one amount, or one for each fund. */
export type Price = number | { readonly subscription: number; readonly balance: number };

/** One request as its caller saw it. */
export interface MoneyRequest {
  readonly name: string;
  readonly keyId: string;
  readonly accountId: string;
  readonly pays: Pays;
  readonly process: string;
  readonly cost: Price;
  readonly arrivedStep: number;
  readonly arrivedMs: number;
  answer: "pending" | "allowed" | "refused" | "fault";
  answeredStep: number;
  answeredMs: number;
  /** The cycles in which it may have been admitted. */
  cycles: ReadonlySet<string>;
  /** What it is known to have ended with. */
  ended: Price | undefined;
  acknowledged: boolean;
  /** Its hold may have been collected: its process was silent for longer than it had promised. */
  lost: boolean;
}

/** A change of an account or a key by its operator, from the call until the caller knew. */
export interface MoneyEdit {
  readonly process: string;
  readonly accountId: string;
  readonly what: string;
  readonly calledStep: number;
  readonly calledMs: number;
  readonly took: (account: AccountBody, entries: ReadonlyMap<string, number>) => boolean;
}

export interface Stored<T> {
  readonly step: number;
  readonly atMs: number;
  readonly body: T;
}

export interface KeyTrack {
  readonly id: string;
  readonly pays: Pays;
  readonly states: Stored<KeyBody>[];
  /** Days that are over. */
  readonly days: Map<number, DayBody>;
  /** Of what was called for and what was acknowledged: at most, at least. */
  called: number;
  acknowledged: number;
}

/** What is known of one account, and of the keys that spend its money. */
export interface AccountTrack {
  readonly id: string;
  readonly states: Stored<AccountBody>[];
  readonly keys: Map<string, KeyTrack>;
  /** Credits and debits in the store. */
  readonly entries: Map<string, number>;
  readonly requests: MoneyRequest[];
  /** Admitted or undone, in the order of the answers. */
  readonly held: MoneyRequest[];
  /** By purse: what was booked in it, and was dropped with its cycle or reset since. */
  readonly gone: Map<string, number>;
  /** A purse that was dropped with its cycle by the latest write. */
  dropped: string | undefined;
  /** By cycle: what was called for at most, and acknowledged at least. */
  readonly cycles: Map<string, { called: number; acknowledged: number }>;
  /** Costs above their estimates: facts that no limit can prevent. */
  debt: number;
  hasCollected: boolean;
  /** Something was forgotten or reset that might still have been corrected: sums are only bounds from then on. */
  isBlurred: boolean;
  isReleased: boolean;
}

/** What was claimed in a document, to be told once. */
export interface Claim {
  readonly writer: string;
  readonly what: string;
  told: number;
}

export interface MoneyOracleOptions extends OracleOptions {
  /** Nothing in this run keeps a living process from renewing its holds. */
  readonly isRenewed: boolean;
}

/** Everything the oracle remembers, shared by its parts. */
export interface Books extends MoneyOracleOptions {
  readonly accounts: Map<string, AccountTrack>;
  readonly keys: Map<string, KeyTrack>;
  readonly endings: Map<string, Ending>;
  /** Which process made an identity. */
  readonly ownerOf: Map<string, string>;
  readonly claims: Claim[];
  /** Edits of an account called in a process that may still be written: not resolved, or of unknown outcome. */
  editsOf(process: string, accountId: string): Set<MoneyEdit>;
  /** The step at which the latest edit of an account in a process was resolved. */
  readonly lastEditStep: Map<string, number>;
  accountOf(id: string): AccountTrack;
  count(name: string): void;
}

export function openBooks(options: MoneyOracleOptions): Books {
  const accounts = new Map<string, AccountTrack>();
  const edits = new Map<string, Set<MoneyEdit>>();
  return {
    ...options,
    accounts,
    keys: new Map(),
    endings: new Map(),
    ownerOf: new Map(),
    claims: [],
    lastEditStep: new Map(),
    editsOf: (process, accountId) => getOrMake(edits, `${process} ${accountId}`, () => new Set()),
    accountOf: (id) => getOrMake(accounts, id, () => newAccount(id)),
    count(name) {
      options.statistics[name] = (options.statistics[name] ?? 0) + 1;
    },
  };
}

export function latest<T>(states: readonly Stored<T>[]): T | undefined {
  return states.at(-1)?.body;
}

/** The state at a step, or at a time before it, and all that followed. */
export function statesSince<T>(
  states: readonly Stored<T>[],
  sinceStep: number,
  sinceMs = Number.POSITIVE_INFINITY,
): readonly T[] {
  const isLater = ({ step, atMs }: Stored<T>): boolean => step > sinceStep || atMs > sinceMs;
  let from = states.length - 1;
  while (from > 0 && isLater(states[from] as Stored<T>)) from -= 1;
  return states.slice(Math.max(0, from)).map(({ body }) => body);
}

/** The least and the most that a price may come to for a key. */
export function boundsOf(cost: Price, pays: Pays): readonly [number, number] {
  if (typeof cost === "number") return [cost, cost];
  if (pays === "balance") return [cost.balance, cost.balance];
  const { subscription, balance } = cost;
  return [Math.min(subscription, balance), Math.max(subscription, balance)];
}

export function cycleTotals(track: AccountTrack, cycle: string): { called: number; acknowledged: number } {
  return getOrMake(track.cycles, cycle, () => ({ called: 0, acknowledged: 0 }));
}

export function newKeyTrack(id: string, pays: Pays): KeyTrack {
  return { id, pays, states: [], days: new Map(), called: 0, acknowledged: 0 };
}

function newAccount(id: string): AccountTrack {
  return {
    id,
    states: [],
    keys: new Map(),
    entries: new Map(),
    requests: [],
    held: [],
    gone: new Map(),
    dropped: undefined,
    cycles: new Map(),
    debt: 0,
    hasCollected: false,
    isBlurred: false,
    isReleased: false,
  };
}

function getOrMake<V>(map: Map<string, V>, name: string, make: () => V): V {
  let value = map.get(name);
  if (value === undefined) {
    value = make();
    map.set(name, value);
  }
  return value;
}
