import type { Document } from "../../../src/store.js";
import type { Amounts, CollectedEntry, LiveEntry } from "../body.js";

/** What keys and accounts have in common, as the design says it is stored. */
export interface LedgerBody {
  readonly used: Amounts;
  readonly nodes: { readonly [identity: string]: LiveEntry };
  readonly collected: { readonly [identity: string]: CollectedEntry };
  readonly alerts?: Amounts;
  readonly latestMs: number;
  readonly policyVersion: number;
}

export interface KeyBody extends LedgerBody {
  readonly account?: { readonly id: string; readonly pays: Pays };
  readonly policy: { readonly quota: number | null; readonly onCrash: "charge" | "release" };
  readonly tally?: DayBody;
}

export type Pays = "balance" | "subscription";

/** Requests and costs of one day: by model, by outcome. */
export interface DayBody {
  readonly day: number;
  readonly models: { readonly [model: string]: { readonly [outcome: string]: readonly number[] } };
}

export interface AccountBody extends LedgerBody {
  readonly policy: {
    readonly state: "active" | "suspended";
    readonly payAsYouGo: { readonly capPerCycle: number | null } | null;
    readonly limits: readonly object[];
  };
  readonly credited: number;
  readonly subscription?: SubscriptionBody;
}

export interface SubscriptionBody {
  readonly serial: number;
  readonly plan: { readonly allowance: number };
  readonly nextPlan?: { readonly allowance: number };
  readonly current: {
    readonly index: number;
    readonly startsAtMs: number;
    readonly endsAtMs: number;
    readonly allowance: number;
  };
  readonly endsAtMs: number | null;
  readonly unpaidFromMs: number | null;
}

export function cycleOf({ subscription }: AccountBody): string {
  return subscription === undefined ? "" : `${subscription.serial}.${subscription.current.index}`;
}

/** Everything that all processes hold, by purse. */
export function heldIn({ nodes }: LedgerBody): Amounts {
  return sumOf(Object.values(nodes).map(({ held }) => held));
}

/** What was charged because a process died, and is not corrected. */
export function chargedIn({ collected }: LedgerBody): Amounts {
  return sumOf(
    Object.values(collected)
      .filter(({ mode }) => mode === "charge")
      .map((entry) => entry.collected),
  );
}

/** What was booked for requests that ended: all that is used, but for what the dead are charged. */
export function bookedIn(body: LedgerBody): Amounts {
  const charged = chargedIn(body);
  const names = new Set([...Object.keys(body.used), ...Object.keys(charged)]);
  return Object.fromEntries([...names].map((name) => [name, (body.used[name] ?? 0) - (charged[name] ?? 0)]));
}

/** The sum over the purses of a fund: `fund@cycle` for every cycle. */
export function inFund(amounts: Amounts, fund: string): number {
  let sum = 0;
  for (const name in amounts) if (name.startsWith(`${fund}@`)) sum += amounts[name] as number;
  return sum;
}

/** What a subscription's cycle has paid, by itself and out of the balance. */
export function inCycle(amounts: Amounts, cycle: string): number {
  return (amounts[`subscription@${cycle}`] ?? 0) + (amounts[`payg@${cycle}`] ?? 0);
}

/** What the account says was paid for keys of one kind. */
export function paidFor(amounts: Amounts, pays: Pays): number {
  const extra = inFund(amounts, "payg");
  return pays === "balance" ? inFund(amounts, "balance") - extra : inFund(amounts, "subscription") + extra;
}

/** The counters of a day: requests, and what they cost. */
export function countsOf({ models }: DayBody, outcomes: readonly string[]): readonly [number, number] {
  let requests = 0;
  let cost = 0;
  for (const model of Object.values(models)) {
    for (const outcome of outcomes) {
      requests += model[outcome]?.[0] ?? 0;
      cost += model[outcome]?.[1] ?? 0;
    }
  }
  return [requests, cost];
}

/** What is wrong with a stored ledger, if something is. */
export function unsoundness(body: LedgerBody): string | undefined {
  if (!areCounts(body.used)) return `used ${JSON.stringify(body.used)}`;
  for (const [identity, entry] of Object.entries(body.nodes)) {
    const { seq, open, held } = entry;
    if (!isCount(seq) || !isCount(open) || !areCounts(held)) return `${identity} ${JSON.stringify(entry)}`;
    if (open === 0 && Object.keys(held).length > 0) return `${identity} holds something for nobody`;
  }
  for (const [identity, entry] of Object.entries(body.collected)) {
    if (!areCounts(entry.collected)) return `collected ${identity} ${JSON.stringify(entry)}`;
  }
  return undefined;
}

export function idOf({ id }: Document): { readonly kind: string; readonly name: string } {
  const colon = id.indexOf(":");
  return { kind: id.slice(0, colon), name: id.slice(colon + 1) };
}

function sumOf(list: readonly Amounts[]): Amounts {
  const sum: Record<string, number> = {};
  for (const amounts of list) {
    for (const name in amounts) sum[name] = (sum[name] ?? 0) + (amounts[name] as number);
  }
  return sum;
}

function areCounts(amounts: Amounts): boolean {
  return Object.values(amounts).every(isCount);
}

function isCount(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
