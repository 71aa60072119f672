import type { Price } from "./books.js";
import type { Pays } from "./documents.js";

/**
 * The law of money, written down a second time and as plainly as it goes: one account, no processes, no storage, nothing
 * at the same time. What the package answers and books when requests come one by one has to be the same to the unit.
 */
export interface ReferenceAccount {
  credited: number;
  isSuspended: boolean;
  payAsYouGo: { readonly capPerCycle: number | null } | null;
  subscription: ReferenceSubscription | undefined;
  /** By purse, `fund@cycle`. */
  readonly used: Map<string, number>;
  readonly held: Map<string, number>;
  /** By cycle: how much it allowed. */
  readonly allowances: Map<string, number>;
}

export interface ReferenceSubscription {
  readonly serial: number;
  /** The first instant of cycle 0; null: it never renews. */
  readonly anchorMs: number | null;
  index: number;
  plan: number;
  nextPlan: number | undefined;
  endsAtMs: number | null;
  unpaidFromMs: number | null;
}

export interface ReferenceKey {
  readonly pays: Pays;
  quota: number | null;
  used: number;
  held: number;
}

/** What one request holds: of the account by purse, of the key in all, and the cycle of it. */
export interface ReferenceHold {
  readonly purses: ReadonlyMap<string, number>;
  readonly total: number;
  readonly cycle: string;
}

export type ReferenceAnswer = ReferenceHold | { readonly reason: string; readonly held?: boolean };

const DAY_MS = 86_400_000;
const NO_END = 8_640_000_000_000_000;
const ALL = Number.POSITIVE_INFINITY;

interface Fund {
  readonly purses: readonly string[];
  readonly room: number;
  readonly price: number;
}

export function newReference(): ReferenceAccount {
  return {
    credited: 0,
    isSuspended: false,
    payAsYouGo: null,
    subscription: undefined,
    used: new Map(),
    held: new Map(),
    allowances: new Map(),
  };
}

export function cycleOf({ subscription }: ReferenceAccount): string {
  return subscription === undefined ? "" : `${subscription.serial}.${subscription.index}`;
}

/** When the current cycle is over, whether or not the subscription ends before. */
export function cycleEndMs({ anchorMs, index }: ReferenceSubscription): number {
  return anchorMs === null ? NO_END : anchorMs + (index + 1) * DAY_MS;
}

/** Into the cycle that it is now, with what the plan allows, and nothing of it used. */
export function turn(account: ReferenceAccount, now: number): void {
  const { subscription } = account;
  if (subscription === undefined || subscription.anchorMs === null || hasEnded(subscription, now)) return;
  const index = Math.floor((now - subscription.anchorMs) / DAY_MS);
  if (index <= subscription.index) return;
  subscription.index = index;
  subscription.plan = subscription.nextPlan ?? subscription.plan;
  subscription.nextPlan = undefined;
  account.allowances.set(cycleOf(account), subscription.plan);
}

export function hasEnded({ endsAtMs }: ReferenceSubscription, now: number): boolean {
  return endsAtMs !== null && now >= endsAtMs;
}

/** What a request is answered: the refusals in the order of their table, else what it holds. */
export function admit(
  account: ReferenceAccount,
  key: ReferenceKey,
  cost: Price,
  now: number,
): ReferenceAnswer {
  turn(account, now);
  if (account.isSuspended) return { reason: "account_suspended" };
  if (key.pays === "subscription") {
    const { subscription } = account;
    if (subscription === undefined || hasEnded(subscription, now)) return { reason: "subscription_ended" };
    if (subscription.unpaidFromMs !== null && now >= subscription.unpaidFromMs)
      return { reason: "subscription_unpaid" };
  }
  const answer = reserve(account, key, cost, account.held, key.held);
  if (!("reason" in answer)) {
    addAll(account.held, answer.purses, 1);
    key.held += answer.total;
    return answer;
  }
  const idle = reserve(account, key, cost, new Map(), 0);
  return { ...answer, held: !("reason" in idle) };
}

/** Ends a request: gives back its hold, and books the actual cost in the cycle in which it was admitted. */
export function settle(account: ReferenceAccount, key: ReferenceKey, hold: ReferenceHold, cost: Price): void {
  addAll(account.held, hold.purses, -1);
  key.held -= hold.total;
  const funds = fundsOf(account, key.pays, hold.cycle, cost, account.held);
  const parts = typeof cost === "number" ? spill(account, funds, hold, cost) : whole(account, funds, hold);
  for (const { purses, amount } of parts) {
    key.used += amount;
    for (const purse of purses) account.used.set(purse, (account.used.get(purse) ?? 0) + amount);
  }
}

function reserve(
  account: ReferenceAccount,
  key: ReferenceKey,
  cost: Price,
  held: ReadonlyMap<string, number>,
  keyHeld: number,
): ReferenceAnswer {
  const cycle = key.pays === "subscription" ? cycleOf(account) : "";
  const all = fundsOf(account, key.pays, cycle, cost, held);
  const funds = all.slice(0, debtorOf(account, all) + 1);
  const purses = new Map<string, number>();
  let total = 0;
  let missing = 0;
  if (typeof cost === "number") {
    missing = cost;
    for (const fund of funds) {
      const amount = Math.min(missing, Math.max(0, fund.room));
      missing -= amount;
      total += amount;
      for (const purse of fund.purses) if (amount > 0) purses.set(purse, amount);
    }
    // Debt of the last fund blocks even what is free, unless something is left of one before it.
    const isLeft = funds.some(({ room }) => room > 0);
    if (!isLeft && (funds.at(-1)?.room ?? 0) < 0) missing = Math.max(missing, 1);
  } else {
    const fund = funds.find(({ room, price }) => room >= price);
    if (fund === undefined) missing = 1;
    else total = fund.price;
    for (const purse of fund?.purses ?? []) if (total > 0) purses.set(purse, total);
  }
  const wanted = missing === 0 ? total : typeof cost === "number" ? cost : leastOf(funds);
  if ((key.quota ?? ALL) - key.used - keyHeld < wanted) return { reason: "key_quota_exhausted" };
  if (missing === 0) return { purses, total, cycle };
  return { reason: reasonOf(account, key.pays, funds, cost) };
}

function leastOf(funds: readonly Fund[]): number {
  return Math.min(...funds.map(({ price }) => price));
}

function reasonOf(account: ReferenceAccount, pays: Pays, funds: readonly Fund[], cost: Price): string {
  if (pays === "balance") return "balance_exhausted";
  if (!isPayAsYouGo(account)) return "subscription_exhausted";
  const [first] = funds;
  const rest = typeof cost === "number" ? cost - Math.max(0, first?.room ?? 0) : cost.balance;
  return capRoom(account, cycleOf(account), account.held) < rest ? "payg_cap_reached" : "balance_exhausted";
}

/** First what was promised, then what there is room for, then debt of the last fund that is on. */
function spill(
  account: ReferenceAccount,
  funds: readonly Fund[],
  hold: ReferenceHold,
  cost: number,
): readonly { readonly purses: readonly string[]; readonly amount: number }[] {
  let rest = cost;
  const amounts = funds.map(({ purses }) => {
    const amount = Math.min(rest, hold.purses.get(purses[0] ?? "") ?? 0);
    rest -= amount;
    return amount;
  });
  for (const [index, { room }] of funds.entries()) {
    const more = Math.min(rest, Math.max(0, room - (amounts[index] ?? 0)));
    amounts[index] = (amounts[index] ?? 0) + more;
    rest -= more;
  }
  const debtor = debtorOf(account, funds);
  return funds.map(({ purses }, index) => ({
    purses,
    amount: (amounts[index] ?? 0) + (index === debtor ? rest : 0),
  }));
}

function whole(
  account: ReferenceAccount,
  funds: readonly Fund[],
  hold: ReferenceHold,
): readonly { readonly purses: readonly string[]; readonly amount: number }[] {
  const fund =
    funds.find(({ purses }) => (hold.purses.get(purses[0] ?? "") ?? 0) > 0) ??
    funds.find(({ room, price }) => room >= price) ??
    funds[debtorOf(account, funds)];
  return fund === undefined ? [] : [{ purses: fund.purses, amount: fund.price }];
}

function debtorOf(account: ReferenceAccount, funds: readonly Fund[]): number {
  return funds.length === 1 || !isPayAsYouGo(account) ? 0 : 1;
}

function fundsOf(
  account: ReferenceAccount,
  pays: Pays,
  cycle: string,
  cost: Price,
  held: ReadonlyMap<string, number>,
): readonly Fund[] {
  const [first, second] = typeof cost === "number" ? [cost, cost] : [cost.subscription, cost.balance];
  const left = (purse: string, limit: number): number =>
    limit - (account.used.get(purse) ?? 0) - (held.get(purse) ?? 0);
  const balance = left("balance@0", account.credited);
  if (pays === "balance") return [{ purses: ["balance@0"], room: balance, price: second }];
  const own = `subscription@${cycle}`;
  return [
    { purses: [own], room: left(own, account.allowances.get(cycle) ?? 0), price: first },
    {
      purses: [`payg@${cycle}`, "balance@0"],
      room: isPayAsYouGo(account) ? Math.min(capRoom(account, cycle, held), balance) : -1,
      price: second,
    },
  ];
}

function capRoom(account: ReferenceAccount, cycle: string, held: ReadonlyMap<string, number>): number {
  const purse = `payg@${cycle}`;
  const cap = account.payAsYouGo?.capPerCycle ?? ALL;
  return cap - (account.used.get(purse) ?? 0) - (held.get(purse) ?? 0);
}

function isPayAsYouGo({ payAsYouGo }: ReferenceAccount): boolean {
  return payAsYouGo !== null && payAsYouGo.capPerCycle !== 0;
}

function addAll(to: Map<string, number>, amounts: ReadonlyMap<string, number>, sign: 1 | -1): void {
  for (const [purse, amount] of amounts) to.set(purse, (to.get(purse) ?? 0) + sign * amount);
}
