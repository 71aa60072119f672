import fc from "fast-check";
import { expect, test } from "vitest";
import type {
  AccountRecord,
  Amounts,
  Cost,
  Documents,
  NodeEntry,
  Subscription,
} from "../../src/documents.js";
import {
  allot,
  balanceStatus,
  divideActual,
  payAsYouGoQuota,
  quotaStatus,
  roomInFunds,
  subscriptionQuota,
} from "../../src/quota.js";
import { sampleAccount } from "../../src/testing/sample-account.js";
import { sampleKey } from "../../src/testing/sample-key.js";
import { T0 } from "./holding.js";

/*
 * The rules of money a second time, as somebody with a heap of coins for each purse would follow them: one coin after the
 * other goes to the first purse that has room for it. Small amounts, so that every edge is met again and again.
 */

const MANY = 5_000;

/** A limit (null: none), what was used of it, and what is held. */
interface Heap {
  readonly limit: number | null;
  readonly used: number;
  readonly held: number;
}

/** Everything that an answer may depend on. */
interface State {
  readonly pays: "nothing" | "balance" | "subscription";
  readonly key: Heap;
  readonly balance: Heap & { readonly limit: number };
  readonly subscription: Heap & { readonly limit: number };
  readonly payAsYouGo: "off" | Heap;
  readonly cycle: "month" | "never" | "ends with it" | "ends before";
}

const amount = fc.nat(6);
const limit = fc.nat(8);
const amounts = { used: amount, held: amount };
const state: fc.Arbitrary<State> = fc.record({
  pays: fc.constantFrom("nothing", "balance", "subscription", "subscription", "subscription"),
  key: fc.record({ limit: fc.option(fc.nat(20)), ...amounts }),
  balance: fc.record({ limit, ...amounts }),
  subscription: fc.record({ limit, ...amounts }),
  payAsYouGo: fc.oneof(fc.constant("off" as const), fc.record({ limit: fc.option(limit), ...amounts })),
  cycle: fc.constantFrom("month", "never", "ends with it", "ends before"),
});
const cost: fc.Arbitrary<Cost> = fc.oneof(fc.nat(16), fc.record({ subscription: amount, balance: amount }));

test("an estimate", () => {
  fc.assert(
    fc.property(state, cost, (given, cost) => {
      const documents = documentsOf(given);
      const outcome = allot(documents, cost);
      const expected = admitted(given, cost);
      if (typeof expected !== "string") {
        const cycle = given.pays === "nothing" ? {} : { cycle: CYCLE };
        expect(outcome).toEqual({ fits: true, shares: { ...expected, ...cycle } });
        return;
      }
      const held = typeof admitted(withoutHolds(given), cost) !== "string";
      const isOfCycle = expected === "subscription_exhausted" || expected === "payg_cap_reached";
      expect(outcome).toEqual({ fits: false, reason: expected, held, ...(isOfCycle && resetOf(given)) });
    }),
    { numRuns: MANY },
  );
});

test("what a request really cost", () => {
  const promise = fc.record({ subscription: amount, balance: amount });
  fc.assert(
    fc.property(state, cost, promise, fc.boolean(), (given, cost, promise, isClosed) => {
      const { key, account } = documentsOf(given, isClosed);
      const promised = promisedOf(given, promise);
      const cycle = given.pays === "nothing" ? undefined : CYCLE;
      const charged = divideActual({ key, account }, { account: promised, cycle }, cost);
      expect(charged).toEqual(chargedFor(given, promised, cost));
    }),
    { numRuns: MANY },
  );
});

test("what a lease may hold", () => {
  fc.assert(
    fc.property(state, fc.nat(100), (given, percent) => {
      fc.pre(given.key.limit !== null);
      const left = mostAtOnce(withoutHolds(given));
      const held = left - mostAtOnce(given);
      const room = roomInFunds(documentsOf(given), percent);
      expect(room).toBe(Math.max(0, Math.floor((left * percent) / 100) - held));
    }),
    { numRuns: MANY },
  );
});

test("how it stands", () => {
  fc.assert(
    fc.property(state, (given) => {
      const { key, account } = documentsOf(given);
      const own = statusOf(given.key);
      const isShared = given.pays === "subscription" && given.key.limit === null;
      const shared = { ...statusOf(given.subscription), ...resetOf(given) };
      expect(quotaStatus({ key, account })).toEqual(isShared ? shared : own);
      if (account === undefined) return;
      expect(balanceStatus(account)).toEqual(statusOf(given.balance));
      expect(subscriptionQuota(account)).toEqual(shared);
      const isOff = given.payAsYouGo === "off";
      const payg = isOff ? undefined : { ...statusOf(given.payAsYouGo as Heap), ...resetOf(given) };
      expect(payAsYouGoQuota(account)).toEqual(payg);
    }),
    { numRuns: MANY },
  );
});

test("without a subscription there is none to be told of", () => {
  const account = sampleAccount({ payAsYouGo: { capPerCycle: 5 }, credited: 9 }, T0);
  expect([subscriptionQuota(account), payAsYouGoQuota(account)]).toEqual([undefined, undefined]);
  const key = { ...sampleKey({}, T0), account: { id: "000.test", pays: "subscription" as const } };
  expect(quotaStatus({ key, account })).toMatchObject({ limit: 0, remaining: 0 });
});

// ── the same by coins ─────────────────────────────────────────────────────────────────────────────────────────────

type Purse = "key@0" | "balance@0" | "subscription" | "payg";

const CYCLE = "1.0";
const NAMES: Readonly<Record<Purse, string>> = {
  "key@0": "key@0",
  "balance@0": "balance@0",
  subscription: `subscription@${CYCLE}`,
  payg: `payg@${CYCLE}`,
};

/** The purses that a coin goes into, fund by fund. Of a key without an account there is but its own. */
function fundsOf({ pays, payAsYouGo }: State): readonly (readonly Purse[])[] {
  if (pays === "nothing") return [];
  if (pays === "balance") return [["balance@0"]];
  return isOn(payAsYouGo) ? [["subscription"], ["payg", "balance@0"]] : [["subscription"]];
}

function isOn(payAsYouGo: State["payAsYouGo"]): payAsYouGo is Heap {
  return payAsYouGo !== "off" && payAsYouGo.limit !== 0;
}

function heapOf(given: State, purse: Purse): Heap {
  if (purse === "key@0") return given.key;
  if (purse === "balance@0") return given.balance;
  if (purse === "subscription") return given.subscription;
  return given.payAsYouGo === "off" ? { limit: 0, used: 0, held: 0 } : given.payAsYouGo;
}

function roomOf(given: State, purse: Purse): number {
  const { limit, used, held } = heapOf(given, purse);
  return (limit ?? Infinity) - used - held;
}

function roomIn(given: State, fund: readonly Purse[]): number {
  return Math.min(...fund.map((purse) => roomOf(given, purse)));
}

/** The state with so many coins more in some purses. */
function withCoins(given: State, fund: readonly Purse[], coins: number): State {
  let after = given;
  for (const purse of fund) {
    const heap = heapOf(after, purse);
    const more = { ...heap, used: heap.used + coins };
    if (purse === "balance@0") after = { ...after, balance: more as State["balance"] };
    else if (purse === "subscription") after = { ...after, subscription: more as State["subscription"] };
    else after = { ...after, payAsYouGo: more };
  }
  return after;
}

type Shares = { readonly key: Amounts; readonly account: Amounts };

function admitted(given: State, cost: Cost): Shares | string {
  const funds = fundsOf(given);
  const own = roomOf(given, "key@0");
  if (given.pays === "nothing") {
    const coins = typeof cost === "number" ? cost : cost.balance;
    return own < coins ? "key_quota_exhausted" : { key: amountsOf({ "key@0": coins }), account: {} };
  }
  if (typeof cost === "object") {
    const priceOf = (fund: readonly Purse[]) =>
      fund[0] === "subscription" ? cost.subscription : cost.balance;
    const paying = funds.find((fund) => roomIn(given, fund) >= priceOf(fund));
    if (paying === undefined) {
      const least = Math.min(...funds.map(priceOf));
      return own < least ? "key_quota_exhausted" : reasonOf(given, cost);
    }
    const price = priceOf(paying);
    return own < price ? "key_quota_exhausted" : sharesOf([[paying, price]]);
  }
  if (own < cost) return "key_quota_exhausted";
  let state = given;
  const coins: [readonly Purse[], number][] = [];
  for (let coin = 0; coin < cost; coin += 1) {
    const fund = funds.find((one) => roomIn(state, one) >= 1);
    if (fund === undefined) return reasonOf(given, cost);
    coins.push([fund, 1]);
    state = withCoins(state, fund, 1);
  }
  // Who asks for nothing has to find something all the same, or at least no debt where the last of it would go.
  const isInDebt = funds.every((fund) => roomIn(given, fund) <= 0) && roomIn(given, funds.at(-1) ?? []) < 0;
  return isInDebt ? reasonOf(given, cost) : sharesOf(coins);
}

function reasonOf(given: State, cost: Cost): string {
  if (given.pays === "balance") return "balance_exhausted";
  if (!isOn(given.payAsYouGo)) return "subscription_exhausted";
  const { payAsYouGo, subscription } = given;
  const left = Math.max(0, subscription.limit - subscription.used - subscription.held);
  const rest = typeof cost === "number" ? cost - left : cost.balance;
  // Without a cap, debt is of the balance.
  return (payAsYouGo.limit ?? Infinity) - payAsYouGo.used - payAsYouGo.held < rest
    ? "payg_cap_reached"
    : "balance_exhausted";
}

function chargedFor(given: State, promised: Amounts, cost: Cost): Shares {
  const funds = fundsOf(given);
  const debtor = funds.at(-1);
  if (debtor === undefined)
    return {
      key: amountsOf({ "key@0": typeof cost === "number" ? cost : cost.balance }),
      account: {},
    };
  // Who turned pay-as-you-go off keeps the promises that were made before.
  const all = given.pays === "subscription" ? ([["subscription"], ["payg", "balance@0"]] as const) : funds;
  const promiseOf = (fund: readonly Purse[]) => promised[NAMES[fund[0] as Purse]] ?? 0;
  if (typeof cost === "object") {
    const priceOf = (fund: readonly Purse[]) =>
      fund[0] === "subscription" ? cost.subscription : cost.balance;
    const paying =
      all.find((fund) => promiseOf(fund) > 0) ??
      funds.find((fund) => roomIn(given, fund) >= priceOf(fund)) ??
      debtor;
    return sharesOf([[paying, priceOf(paying)]]);
  }
  const coins: [readonly Purse[], number][] = [];
  const paidBy = (fund: readonly Purse[]) => coins.filter(([one]) => one[0] === fund[0]).length;
  for (let coin = 0; coin < cost; coin += 1) {
    const fund =
      all.find((one) => paidBy(one) < promiseOf(one)) ??
      all.find((one) => roomIn(given, one) > paidBy(one)) ??
      debtor;
    coins.push([fund, 1]);
  }
  return sharesOf(coins);
}

/** How many coins a key could spend at once. */
function mostAtOnce(given: State): number {
  const own = Math.max(0, roomOf(given, "key@0"));
  if (given.pays === "nothing") return own;
  let state = given;
  let coins = 0;
  for (; coins < own; coins += 1) {
    const fund = fundsOf(given).find((one) => roomIn(state, one) >= 1);
    if (fund === undefined) break;
    state = withCoins(state, fund, 1);
  }
  return coins;
}

function sharesOf(coins: readonly (readonly [readonly Purse[], number])[]): Shares {
  const account: Record<string, number> = {};
  let key = 0;
  for (const [fund, count] of coins) {
    key += count;
    for (const purse of fund) account[NAMES[purse]] = (account[NAMES[purse]] ?? 0) + count;
  }
  return { key: amountsOf({ "key@0": key }), account: amountsOf(account) };
}

function amountsOf(amounts: Amounts): Amounts {
  return Object.fromEntries(Object.entries(amounts).filter(([, amount]) => amount > 0));
}

function statusOf({ limit, used, held }: Heap): object {
  const remaining = limit === null ? null : Math.max(0, limit - used - held);
  return { limit, used, held, remaining, unlimited: limit === null };
}

// ── documents ─────────────────────────────────────────────────────────────────────────────────────────────────────

const ENDS_AT_MS = Date.UTC(2025, 1, 15, 12);

function resetOf({ cycle }: State): { readonly resetAtMs?: number } {
  return cycle === "month" ? { resetAtMs: ENDS_AT_MS } : {};
}

function withoutHolds(given: State): State {
  const { key, balance, subscription, payAsYouGo } = given;
  return {
    ...given,
    key: { ...key, held: 0 },
    balance: { ...balance, held: 0 },
    subscription: { ...subscription, held: 0 },
    payAsYouGo: payAsYouGo === "off" ? "off" : { ...payAsYouGo, held: 0 },
  };
}

/** What was promised out of the funds there were then: of pay-as-you-go also where it is off by now. */
function promisedOf(
  { pays }: State,
  promise: { readonly subscription: number; readonly balance: number },
): Amounts {
  if (pays === "nothing") return {};
  if (pays === "balance") return amountsOf({ "balance@0": promise.balance });
  return amountsOf({
    [NAMES.subscription]: promise.subscription,
    [NAMES.payg]: promise.balance,
    "balance@0": promise.balance,
  });
}

/** @param isClosed the subscription is in a later cycle by now, and the one that is asked about is closed */
function documentsOf(given: State, isClosed = false): Documents {
  const { pays, key, balance, subscription, payAsYouGo, cycle } = given;
  const record = {
    ...sampleKey({}, T0),
    used: amountsOf({ "key@0": key.used }),
    nodes: heldBy({ "key@0": key.held }),
  };
  const owned = { ...record, policy: { ...record.policy, quota: key.limit } };
  if (pays === "nothing") return { key: owned };
  const amounts = (name: "used" | "held"): Amounts => ({
    "balance@0": balance[name],
    [NAMES.subscription]: subscription[name],
    [NAMES.payg]: payAsYouGo === "off" ? 0 : payAsYouGo[name],
  });
  const account = sampleAccount(
    {
      credited: balance.limit,
      payAsYouGo: payAsYouGo === "off" ? null : { capPerCycle: payAsYouGo.limit },
      subscription: { plan: { name: "test", allowance: 7 } },
    },
    T0,
  );
  const terms = withTerms(account.subscription as Subscription, { ...given, isClosed });
  return {
    key: { ...owned, account: { id: "000.test", pays } },
    account: {
      ...account,
      subscription: terms,
      closed: isClosed ? { [CYCLE]: subscription.limit } : {},
      used: amountsOf(amounts("used")),
      nodes: heldBy(amounts("held")),
    } as AccountRecord,
  };

  function withTerms(terms: Subscription, { isClosed }: { readonly isClosed: boolean }): Subscription {
    const index = isClosed ? 1 : 0;
    const current = {
      ...terms.current,
      index,
      endsAtMs: ENDS_AT_MS,
      allowance: isClosed ? 99 : subscription.limit,
    };
    const endsAtMs = cycle === "ends with it" ? ENDS_AT_MS : cycle === "ends before" ? ENDS_AT_MS - 1 : null;
    return {
      ...terms,
      current,
      endsAtMs,
      ...(cycle === "never" && { cycle: { kind: "never" } }),
    } as Subscription;
  }
}

/** By two processes, of which one holds all but one coin. */
function heldBy(amounts: Amounts): Readonly<Record<string, NodeEntry>> {
  const entry = (held: Amounts): NodeEntry => ({
    seq: 1,
    open: 1,
    renewByMs: T0 + 60_000,
    held: amountsOf(held),
  });
  const ones = Object.entries(amounts).map(([name, amount]) => [name, Math.min(1, amount)] as const);
  const rest = Object.entries(amounts).map(([name, amount]) => [name, Math.max(0, amount - 1)] as const);
  return { me: entry(Object.fromEntries(rest)), other: entry(Object.fromEntries(ones)) };
}
