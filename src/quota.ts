import {
  type AccountRecord,
  type Amounts,
  BALANCE_PURSE,
  type Cost,
  type Documents,
  type FundCosts,
  KEY_PURSE,
  type Ledger,
} from "./documents.js";
import { amountOf, heldOf } from "./ledger.js";
import { shareOf } from "./limits.js";
import type { Reason } from "./refusal.js";
import { cycleEnd, cycleName } from "./subscription.js";

/**
 * A quota as its owner sees it. `remaining` is `limit - used - held`, at least 0; null is unlimited. What exceeds the
 * allowance of a subscription may still be paid from the balance.
 */
export interface QuotaStatus {
  readonly limit: number | null;
  readonly used: number;
  readonly held: number;
  readonly remaining: number | null;
  readonly unlimited: boolean;
  /** When it begins anew; undefined: never. */
  readonly resetAtMs?: number;
}

/** What a request is to hold: amounts of the key's document and of its account's, and the cycle it falls into. */
export interface Shares {
  readonly key: Amounts;
  readonly account: Amounts;
  /** The subscription's cycle, in which it is settled, too. */
  readonly cycle?: string | undefined;
}

export type QuotaOutcome =
  | { readonly fits: true; readonly shares: Shares }
  | {
      readonly fits: false;
      readonly reason: Extract<
        Reason,
        "key_quota_exhausted" | "subscription_exhausted" | "payg_cap_reached" | "balance_exhausted"
      >;
      /** It would fit if the requests in flight gave back all they hold. */
      readonly held: boolean;
      /** When the cycle begins in which it may fit. */
      readonly resetAtMs?: number;
    };

/** Where money comes from. Its first purse is its own; the others are caps that it counts in, too. */
interface Fund {
  readonly name: "subscription" | "payg" | "balance";
  readonly purses: readonly string[];
  /** Negative in debt. */
  readonly room: number;
}

const UNLIMITED = Number.MAX_SAFE_INTEGER;

/**
 * Divides the cost of a request among the funds its key may spend, or says why it does not fit: everywhere
 * `used + held + cost` stays within the limit, or nothing is held.
 *
 * A key is bounded by its own quota, and spends that of its account: the balance, or the allowance of the subscription's
 * current cycle and then, where pay-as-you-go is on, the balance up to the cap of the cycle. A number is split among
 * them; of prices by fund, the first fund that has room for its price pays all of it.
 */
export function allot(documents: Documents, cost: Cost): QuotaOutcome {
  const now = divide(documents, cost, "held");
  if (typeof now !== "string") return { fits: true, shares: now };
  const held = typeof divide(documents, cost, "free") !== "string";
  const isOfCycle = now === "subscription_exhausted" || now === "payg_cap_reached";
  return {
    fits: false,
    reason: now,
    held,
    ...(isOfCycle && documents.account && resetOf(documents.account)),
  };
}

/**
 * Divides what a request really cost: first among the funds that had promised something to it, as far as they had. What
 * exceeds the estimate goes to the next fund that has room, and what is left then becomes debt of the last one, which
 * blocks the requests after it.
 *
 * @param account after the promise was released.
 */
export function divideActual(
  { key, account }: Documents,
  { account: promised, cycle }: Pick<Shares, "account" | "cycle">,
  cost: Cost,
): { readonly key: Amounts; readonly account: Amounts } {
  if (account === undefined || key.account === undefined) {
    const amount = typeof cost === "number" ? cost : cost.balance;
    return { key: purse(KEY_PURSE, amount), account: {} };
  }
  const funds = fundsOf(key.account.pays, account, cycle, "held");
  const debtor = funds.findLast(({ name }) => name !== "payg" || isPayAsYouGo(account)) as Fund;
  const parts =
    typeof cost === "number" ? spread(funds, debtor, promised, cost) : whole(funds, debtor, promised, cost);
  return { key: purse(KEY_PURSE, total(parts)), account: amountsOf(parts) };
}

/** How much a lease may hold of a key's funds, so that all that is held of them is at most a share of what is left. */
export function roomInFunds(documents: Documents, sharePercent: number): number {
  const left = spendable(documents, "free");
  return shareOf(left, left - spendable(documents, "held"), sharePercent);
}

/** The most that a key may spend at once, at least 0. */
function spendable({ key, account }: Documents, holds: Holds): number {
  const own = Math.max(0, roomOf(key, KEY_PURSE, key.policy.quota ?? UNLIMITED, holds));
  if (account === undefined || key.account === undefined) return own;
  const funds = fundsOf(key.account.pays, account, cycleOf(account), holds);
  // A sum of rooms may leave the safe integers; what a key may spend does not.
  return funds.reduce((sum, { room }) => Math.min(own, sum + Math.max(0, room)), 0);
}

/** How a key's quota stands: of a key that pays from a subscription and has no quota of its own, the subscription's. */
export function quotaStatus({ key, account }: Documents): QuotaStatus {
  const { quota } = key.policy;
  if (quota !== null || account === undefined || key.account?.pays !== "subscription") {
    return purseStatus(key, KEY_PURSE, quota);
  }
  // Without a subscription there is nothing to be had.
  return subscriptionQuota(account) ?? purseStatus(key, KEY_PURSE, 0);
}

/** How the allowance of the current cycle stands; undefined without a subscription. */
export function subscriptionQuota(account: AccountRecord): QuotaStatus | undefined {
  const { subscription } = account;
  if (subscription === undefined) return undefined;
  const { allowance } = subscription.current;
  const status = purseStatus(account, `subscription@${cycleName(subscription)}`, allowance);
  return { ...status, ...resetOf(account) };
}

/** What was spent of the balance in the current cycle because the allowance was used up; undefined where that is off. */
export function payAsYouGoQuota(account: AccountRecord): QuotaStatus | undefined {
  const { subscription, policy } = account;
  if (subscription === undefined || policy.payAsYouGo === null) return undefined;
  const status = purseStatus(account, `payg@${cycleName(subscription)}`, policy.payAsYouGo.capPerCycle);
  return { ...status, ...resetOf(account) };
}

/** How the balance stands. Debt shows as `remaining: 0` with `used` above `limit`. */
export function balanceStatus(account: AccountRecord): QuotaStatus {
  return purseStatus(account, BALANCE_PURSE, account.credited);
}

/** The shares, or the reason why there are none. `free`: as if no request in flight held anything. */
function divide({ key, account }: Documents, cost: Cost, holds: Holds): Shares | RefusedFund {
  const own = roomOf(key, KEY_PURSE, key.policy.quota ?? UNLIMITED, holds);
  if (account === undefined || key.account === undefined) {
    const amount = typeof cost === "number" ? cost : cost.balance;
    return own < amount ? "key_quota_exhausted" : { key: purse(KEY_PURSE, amount), account: {} };
  }
  const cycle = cycleOf(account);
  const all = fundsOf(key.account.pays, account, cycle, holds);
  const funds = all.filter(({ name }) => name !== "payg" || isPayAsYouGo(account));
  const parts = typeof cost === "number" ? split(funds, cost) : choose(funds, cost);
  if (own < (parts === undefined ? leastOf(funds, cost) : total(parts))) return "key_quota_exhausted";
  if (parts === undefined) return reasonOf(funds, account, cost);
  return { key: purse(KEY_PURSE, total(parts)), account: amountsOf(parts), cycle };
}

type Holds = "held" | "free";
type RefusedFund = Extract<QuotaOutcome, { fits: false }>["reason"];
type Parts = readonly { readonly fund: Fund; readonly amount: number }[];

/** A number is taken from one fund after the other. Not even nothing is taken from one in debt. */
function split(funds: readonly Fund[], cost: number): Parts | undefined {
  const first = funds.find(({ room }) => room > 0) ?? (funds.at(-1) as Fund);
  if (first.room < 0) return undefined;
  let rest = cost;
  const parts = funds.map((fund) => {
    const amount = Math.min(rest, Math.max(0, fund.room));
    rest -= amount;
    return { fund, amount };
  });
  return rest > 0 ? undefined : parts;
}

function choose(funds: readonly Fund[], costs: FundCosts): Parts | undefined {
  const fund = funds.find((one) => one.room >= priceOf(one, costs));
  return fund && [{ fund, amount: priceOf(fund, costs) }];
}

function spread(funds: readonly Fund[], debtor: Fund, promised: Amounts, cost: number): Parts {
  let rest = cost;
  const kept = funds.map((fund) => {
    const amount = Math.min(rest, promised[fund.purses[0] as string] ?? 0);
    rest -= amount;
    return { fund, amount };
  });
  const filled = kept.map(({ fund, amount }) => {
    const more = Math.min(rest, Math.max(0, fund.room - amount));
    rest -= more;
    return { fund, amount: amount + more };
  });
  return filled.map(({ fund, amount }) => ({ fund, amount: fund === debtor ? amount + rest : amount }));
}

/** The fund that had promised to pay pays; with no promise, the first that has room. */
function whole(funds: readonly Fund[], debtor: Fund, promised: Amounts, costs: FundCosts): Parts {
  const fund =
    funds.find(({ purses }) => (promised[purses[0] as string] ?? 0) > 0) ??
    funds.slice(0, funds.indexOf(debtor) + 1).find((one) => one.room >= priceOf(one, costs)) ??
    debtor;
  return [{ fund, amount: priceOf(fund, costs) }];
}

function reasonOf(funds: readonly Fund[], account: AccountRecord, cost: Cost): RefusedFund {
  const [first, payg] = funds;
  if (first?.name !== "subscription") return "balance_exhausted";
  if (payg === undefined) return "subscription_exhausted";
  const rest = typeof cost === "number" ? cost - Math.max(0, first.room) : cost.balance;
  const cap = account.policy.payAsYouGo?.capPerCycle ?? UNLIMITED;
  return roomOf(account, payg.purses[0] as string, cap, "held") < rest
    ? "payg_cap_reached"
    : "balance_exhausted";
}

/** The funds of an account that a key may spend, in order; in a cycle gone by, those of that cycle. */
function fundsOf(
  pays: "balance" | "subscription",
  account: AccountRecord,
  cycle: string | undefined,
  holds: Holds,
): readonly Fund[] {
  const balance = roomOf(account, BALANCE_PURSE, account.credited, holds);
  if (pays === "balance" || cycle === undefined) {
    return [{ name: "balance", purses: [BALANCE_PURSE], room: balance }];
  }
  const own = `subscription@${cycle}`;
  const payg = `payg@${cycle}`;
  const cap = account.policy.payAsYouGo === null ? 0 : (account.policy.payAsYouGo.capPerCycle ?? UNLIMITED);
  const spent = roomOf(account, payg, cap, holds);
  return [
    { name: "subscription", purses: [own], room: roomOf(account, own, allowanceOf(account, cycle), holds) },
    { name: "payg", purses: [payg, BALANCE_PURSE], room: Math.min(spent, balance) },
  ];
}

function cycleOf({ subscription }: AccountRecord): string | undefined {
  return subscription && cycleName(subscription);
}

function isPayAsYouGo({ policy }: AccountRecord): boolean {
  return policy.payAsYouGo !== null && policy.payAsYouGo.capPerCycle !== 0;
}

function allowanceOf({ subscription, closed }: AccountRecord, cycle: string): number {
  if (subscription !== undefined && cycleName(subscription) === cycle) return subscription.current.allowance;
  return closed[cycle] ?? 0;
}

/** Subtraction keeps every step within the safe integers where the sum of three amounts would not. */
function roomOf(ledger: Ledger, name: string, limit: number, holds: Holds): number {
  const left = limit - amountOf(ledger.used, name);
  return holds === "held" ? left - heldOf(ledger, name) : left;
}

function priceOf({ name }: Fund, costs: FundCosts): number {
  return name === "subscription" ? costs.subscription : costs.balance;
}

function leastOf(funds: readonly Fund[], cost: Cost): number {
  return typeof cost === "number" ? cost : Math.min(...funds.map((fund) => priceOf(fund, cost)));
}

function total(parts: Parts): number {
  return parts.reduce((sum, { amount }) => sum + amount, 0);
}

function amountsOf(parts: Parts): Amounts {
  const amounts: Record<string, number> = {};
  for (const { fund, amount } of parts) {
    if (amount > 0) for (const name of fund.purses) amounts[name] = amount;
  }
  return amounts;
}

function purse(name: string, amount: number): Amounts {
  return amount > 0 ? { [name]: amount } : {};
}

function purseStatus(ledger: Ledger, name: string, limit: number | null): QuotaStatus {
  const used = amountOf(ledger.used, name);
  const held = heldOf(ledger, name);
  const remaining = limit === null ? null : Math.max(0, limit - used - held);
  return { limit, used, held, remaining, unlimited: limit === null };
}

/** When the next cycle begins, if there is one. */
function resetOf({ subscription }: AccountRecord): Pick<QuotaStatus, "resetAtMs"> {
  if (subscription === undefined || subscription.cycle.kind === "never") return {};
  const resetAtMs = subscription.current.endsAtMs;
  return cycleEnd(subscription) < resetAtMs || subscription.endsAtMs === resetAtMs ? {} : { resetAtMs };
}
