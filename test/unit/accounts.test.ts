import { describe, expect, test } from "vitest";
import type { CycleInput, SubscribeInput } from "../../src/account-input.js";
import type { AccountView } from "../../src/account-view.js";
import type { Cost } from "../../src/documents.js";
import type { KeystileEvent } from "../../src/events.js";
import type { Keystile } from "../../src/keystile.js";
import { sumUsage } from "../../src/usage-totals.js";
import { instancesOf, newGate, settled } from "../setup/new-gate.js";
import { idle } from "../setup/new-store.js";
import { faultyStore, manualTime } from "./faulty-store.js";

const START = "2025-01-15T12:00:00.000Z";
const DAY_MS = 86_400_000;
const MONTHLY = { name: "basic", allowance: 100 };

describe("an account", () => {
  test("is opened, found, listed and changed, and its terms are checked", async () => {
    const { gate } = bench();
    const opened = await gate.accounts.open({
      owner: "ann",
      name: "main",
      label: "Ann's",
      metadata: { crm: "7" },
    });
    expect(opened).toMatchObject({
      owner: "ann",
      label: "Ann's",
      state: "active",
      createdAt: START,
      balance: { limit: 0, used: 0, held: 0, remaining: 0, unlimited: false },
      payAsYouGo: null,
      metadata: { crm: "7" },
      policyVersion: 1,
    });
    expect(opened.id).toMatch(/^[0-9a-f]{3}\.main-[0-9a-f]{24}$/);
    expect(await gate.accounts.find({ owner: "ann", name: "main" })).toEqual(opened);
    expect(await gate.accounts.find({ owner: "bob", name: "main" })).toBeUndefined();
    // Of many owners some share a place, and none an account.
    const others = Array.from({ length: 400 }, (_, n) =>
      gate.accounts.open({ owner: `user-${n}`, name: "main" }),
    );
    expect(new Set((await Promise.all(others)).map(({ id }) => id)).size).toBe(400);
    expect((await gate.accounts.open({ name: "main" })).id).toMatch(/^[0-9a-f]{3}\.main$/);
    expect(await gate.accounts.get(opened.id)).toEqual(opened);
    expect((await gate.accounts.list({ owner: "ann" })).accounts).toEqual([opened]);
    expect((await gate.accounts.list({ owner: "bob" })).accounts).toEqual([]);
    await expect(gate.accounts.open({ owner: "ann", name: "main" })).rejects.toMatchObject({
      code: "account_exists",
    });
    expect(await gate.accounts.get("000.none")).toBeUndefined();
    await expect(gate.accounts.credit("000.none", { id: "1", amount: 1 })).rejects.toMatchObject({
      code: "account_not_found",
    });
    const changed = await gate.accounts.update(
      opened.id,
      { payAsYouGo: { capPerCycle: 5 } },
      { ifPolicyVersion: 1 },
    );
    expect(changed).toMatchObject({ policyVersion: 2, payAsYouGo: { capPerCycle: 5 }, label: "Ann's" });
    await expect(gate.accounts.update(opened.id, {}, { ifPolicyVersion: 1 })).rejects.toMatchObject({
      code: "policy_conflict",
    });
  });

  test.each<[string, (gate: Keystile, id: string) => Promise<unknown>, RegExp]>([
    ["a name with a dot", (gate) => gate.accounts.open({ name: "a.b" }), /account\.name: expected 1 to 64/],
    ["an unknown term", (gate, id) => gate.accounts.update(id, { payasyougo: null } as never), /payAsYouGo/],
    [
      "a negative cap",
      (gate, id) => gate.accounts.update(id, { payAsYouGo: { capPerCycle: -1 } }),
      /capPerCycle/,
    ],
    [
      "a cap beyond integers",
      (gate, id) => gate.accounts.update(id, { payAsYouGo: { capPerCycle: 2 ** 53 } }),
      /capPerCycle/,
    ],
    ["a credit of nothing", (gate, id) => gate.accounts.credit(id, { id: "x", amount: 0 }), /entry\.amount/],
    [
      "a credit of a fraction",
      (gate, id) => gate.accounts.credit(id, { id: "x", amount: 0.5 }),
      /entry\.amount/,
    ],
    [
      "a credit of NaN",
      (gate, id) => gate.accounts.debit(id, { id: "x", amount: Number.NaN }),
      /entry\.amount/,
    ],
    [
      "an entry id with a space",
      (gate, id) => gate.accounts.credit(id, { id: "a b", amount: 1 }),
      /entry\.id/,
    ],
    [
      "a zone nobody knows",
      (gate, id) => subscribe(gate, id, { kind: "calendar", unit: "day", zone: "Mars/Base" }),
      /IANA/,
    ],
    [
      "an offset for a zone",
      (gate, id) => subscribe(gate, id, { kind: "calendar", unit: "day", zone: "+08:00" }),
      /IANA/,
    ],
    [
      "every 0 months",
      (gate, id) => subscribe(gate, id, { kind: "anniversary", every: 0 }),
      /subscription\.cycle/,
    ],
    [
      "a local anchor",
      (gate, id) => subscribe(gate, id, { kind: "anniversary", anchor: "2025-01-01T00:00" }),
      /cycle/,
    ],
    [
      "a term in the past",
      (gate, id) => gate.accounts.subscribe(id, { plan: MONTHLY, endsAt: START }),
      /endsAt/,
    ],
    [
      "a multiplier of 0",
      (gate, id) => gate.accounts.changePlan(id, { ...MONTHLY, rateMultiplier: 0 }),
      /rateMultiplier/,
    ],
    [
      "an unsafe allowance",
      (gate, id) => gate.accounts.changePlan(id, { name: "x", allowance: 2 ** 53 }),
      /allowance/,
    ],
    ["a key on no account", (gate) => gate.keys.issue({ account: "000.none" }), /key\.account/],
  ])("refuses %s and says what would be right", async (_, attempt, message) => {
    const { gate } = bench();
    const { id } = await gate.accounts.open();
    const error = await attempt(gate, id).then(
      () => undefined,
      (thrown: unknown) => thrown as { code: string; message: string },
    );
    expect(error?.code).toBe("invalid_options");
    expect(error?.message).toMatch(message);
  });

  test("credits and debits apply once for each id, whoever asks and however often", async () => {
    const { gate, another } = bench();
    const { id } = await gate.accounts.open();
    const other = another();
    const results = await Promise.all([
      gate.accounts.credit(id, { id: "pay-1", amount: 70 }),
      other.accounts.credit(id, { id: "pay-1", amount: 70 }),
      gate.accounts.credit(id, { id: "pay-1", amount: 70 }),
      other.accounts.credit(id, { id: "pay-2", amount: 30 }),
    ]);
    expect(results.map(({ applied }) => applied).toSorted()).toEqual([false, false, true, true]);
    expect((await gate.accounts.debit(id, { id: "back-1", amount: 150 })).account.balance).toMatchObject({
      limit: -50,
      remaining: 0,
    });
    expect(await other.accounts.debit(id, { id: "back-1", amount: 150 })).toMatchObject({ applied: false });
    for (const again of [gate.accounts.credit, gate.accounts.debit]) {
      await expect(again(id, { id: "pay-1", amount: 71 })).rejects.toMatchObject({ code: "entry_conflict" });
    }
    // The same id for the opposite is no repetition.
    await expect(gate.accounts.debit(id, { id: "pay-1", amount: 70 })).rejects.toMatchObject({
      code: "entry_conflict",
    });
    await gate.accounts.credit(id, { id: "most", amount: Number.MAX_SAFE_INTEGER });
    await expect(gate.accounts.credit(id, { id: "more", amount: 51 })).rejects.toMatchObject({
      code: "account_state",
    });
    expect((await gate.accounts.get(id))?.balance.limit).toBe(Number.MAX_SAFE_INTEGER - 50);
  });

  test("a debit tells that the balance is low, as use does", async () => {
    const { gate, heard } = bench({ alerts: { balanceLeft: [10] } });
    const { id } = await gate.accounts.open();
    await gate.accounts.credit(id, { id: "1", amount: 100 });
    const events = heard(gate);
    await gate.accounts.debit(id, { id: "2", amount: 95 });
    expect(events).toEqual([
      { type: "balance.low", accountId: id, id: "low-10-of-5", threshold: 10, left: 5 },
    ]);
  });

  test("a credit whose reply was lost is not applied again", async () => {
    const { gate, store } = bench();
    const { id } = await gate.accounts.open();
    let isLost = true;
    store.onCall = ({ kind }) => {
      if (kind !== "write" || !isLost) return undefined;
      isLost = false;
      return "fails after";
    };
    await expect(gate.accounts.credit(id, { id: "pay-1", amount: 70 })).rejects.toMatchObject({
      code: "store_unavailable",
      mayHaveHappened: true,
    });
    expect(await gate.accounts.credit(id, { id: "pay-1", amount: 70 })).toMatchObject({
      applied: false,
      account: { balance: { limit: 70 } },
    });
  });

  test("many keys spend one balance, each bounded by its own quota", async () => {
    const { gate } = bench();
    const { id } = await gate.accounts.open({ owner: "ann" });
    await gate.accounts.credit(id, { id: "1", amount: 100 });
    const [rich, poor] = [await keyOf(gate, id), await keyOf(gate, id, 30)];
    expect(rich.owner).toBe("ann");
    expect(rich.keyId.slice(0, 3)).toBe(id.slice(0, 3));
    expect(await spend(gate, poor.secret, 30)).toBe("30");
    expect(await spend(gate, poor.secret, 1)).toBe("key_quota_exhausted");
    expect(await spend(gate, rich.secret, 71)).toBe("balance_exhausted");
    expect(await spend(gate, rich.secret, 70)).toBe("70");
    expect(await spend(gate, rich.secret, 1)).toBe("balance_exhausted");
    expect((await gate.accounts.get(id))?.balance).toMatchObject({
      limit: 100,
      used: 100,
      held: 0,
      remaining: 0,
    });
    await gate.accounts.credit(id, { id: "2", amount: 5 });
    expect(await spend(gate, rich.secret, 5)).toBe("5");
  });

  test("fifty requests of twenty keys at once never spend more than there is", async () => {
    const { gate, another } = bench();
    const { id } = await gate.accounts.open();
    await gate.accounts.credit(id, { id: "1", amount: 100 });
    const keys = await Promise.all(Array.from({ length: 20 }, () => keyOf(gate, id)));
    const other = another();
    const decisions = await Promise.all(
      keys.flatMap(({ secret }) =>
        [gate, gate, other, other, other].map((one) => one.authorize({ ...bearer(secret), cost: 3 })),
      ),
    );
    expect(decisions.filter(({ allowed }) => allowed)).toHaveLength(33);
    const refusals = decisions.flatMap((decision) => (decision.allowed ? [] : [decision.refusal]));
    expect(new Set(refusals.map(({ reason }) => reason))).toEqual(new Set(["balance_exhausted"]));
    expect(refusals.every(({ held }) => held)).toBe(true);
    await Promise.all(decisions.map((decision) => decision.allowed && decision.settle()));
    expect((await gate.accounts.get(id))?.balance).toMatchObject({ used: 99, held: 0, remaining: 1 });
  });

  test("suspended, none of its keys may do anything, and before the body is read", async () => {
    const { gate } = bench();
    const { id } = await gate.accounts.open();
    await gate.accounts.credit(id, { id: "1", amount: 100 });
    const { secret } = await keyOf(gate, id);
    expect(await spend(gate, secret, 1)).toBe("1");
    await gate.accounts.suspend(id);
    expect(await gate.identify(bearer(secret))).toMatchObject({
      allowed: false,
      refusal: { reason: "account_suspended", status: 403, code: "account_suspended" },
    });
    await gate.accounts.resume(id);
    expect(await spend(gate, secret, 1)).toBe("1");
  });

  test("a key with a request in flight is not purged: its end is the account's", async () => {
    const { gate } = bench();
    const { id } = await gate.accounts.open();
    await gate.accounts.credit(id, { id: "1", amount: 1_000 });
    const { secret, keyId } = await keyOf(gate, id);
    const open = await gate.authorize({ ...bearer(secret), cost: 900 });
    await gate.keys.revoke(keyId);
    await expect(gate.keys.purge(keyId)).rejects.toMatchObject({ code: "key_state" });
    if (open.allowed) await open.settle(10);
    await gate.keys.purge(keyId);
    expect((await gate.accounts.get(id))?.balance).toMatchObject({ used: 10, held: 0, remaining: 990 });
  });

  test("what is no usage is a TypeError, and the account stays sound", async () => {
    const { gate, another } = bench();
    const { id } = await gate.accounts.open({ limits: [{ tokens: 1_000, windowMs: 60_000 }] });
    await gate.accounts.credit(id, { id: "1", amount: 100 });
    const { secret } = await keyOf(gate, id);
    const open = await gate.authorize(bearer(secret));
    if (!open.allowed) throw new Error(open.refusal.reason);
    const wrong = [
      {},
      { inputTokens: 10 },
      { inputTokens: 1.5, outputTokens: 0 },
      { inputTokens: -1, outputTokens: 0 },
      { inputTokens: "1", outputTokens: 0 },
      { inputTokens: Number.MAX_SAFE_INTEGER, outputTokens: 1 },
      null,
    ];
    for (const usage of wrong) {
      expect(() => open.settle(1, usage as never)).toThrow(TypeError);
      expect(() => open.observe(1, usage as never)).toThrow(TypeError);
    }
    await open.settle(1);
    expect(await spend(another(), secret, 1)).toBe("1");
  });

  test.each(["a corrupt key", "no account"])("%s spins nothing and holds up nobody else", async (damage) => {
    const { gate, store, tick } = bench();
    const { id } = await gate.accounts.open();
    await gate.accounts.credit(id, { id: "1", amount: 100 });
    const [broken, sound] = [await keyOf(gate, id), await keyOf(gate, id)];
    const open = await gate.authorize(bearer(broken.secret));
    const target = damage === "no account" ? `account:${id}` : `key:${broken.keyId}`;
    const { documents } = await store.read([target]);
    const set = damage === "no account" ? null : { format: 1 };
    await store.write([[{ id: target, expected: documents[0]?.version as number, set }]]);
    store.calls = [];
    await tick(60_000);
    // A few tries to renew what it holds, not one after the other.
    expect(store.calls.length).toBeLessThan(100);
    if (damage === "a corrupt key") expect(await spend(gate, sound.secret, 1)).toBe("1");
    else
      await expect(gate.authorize(bearer(sound.secret))).rejects.toMatchObject({ code: "document_invalid" });
    if (open.allowed) void open.settle();
  });

  test("a document that is gone is a fault, not a free ride", async () => {
    const { gate, another, store } = bench();
    const { id } = await gate.accounts.open();
    const { secret } = await keyOf(gate, id);
    const { documents } = await store.read([`account:${id}`]);
    await store.write([[{ id: `account:${id}`, expected: documents[0]?.version as number, set: null }]]);
    await expect(another().authorize(bearer(secret))).rejects.toMatchObject({ code: "document_invalid" });
    await expect(gate.authorize(bearer(secret))).rejects.toMatchObject({ code: "document_invalid" });
  });
});

describe("limits of an account", () => {
  test("are shared by its keys, and told with theirs", async () => {
    const { gate } = bench();
    const limits = [{ requests: 3, windowMs: 60_000 }];
    const { id } = await gate.accounts.open({ limits });
    await gate.accounts.credit(id, { id: "1", amount: 100 });
    const [one, two] = [await keyOf(gate, id), await keyOf(gate, id)];
    for (const { secret } of [one, two, one]) expect(await spend(gate, secret, 1)).toBe("1");
    const refused = await gate.authorize(bearer(two.secret));
    expect(refused).toMatchObject({ refusal: { reason: "rate_limited", retryAfterMs: 20_000 } });
    expect(refused.limits).toMatchObject([{ unit: "requests", limit: 3, remaining: 0 }]);
  });

  test("in flight count the requests of all keys", async () => {
    const { gate } = bench();
    const { id } = await gate.accounts.open({ limits: [{ inFlight: 2 }] });
    await gate.accounts.credit(id, { id: "1", amount: 100 });
    const [one, two] = [await keyOf(gate, id), await keyOf(gate, id)];
    const open = [await gate.authorize(bearer(one.secret)), await gate.authorize(bearer(two.secret))];
    expect(await gate.authorize(bearer(one.secret))).toMatchObject({
      refusal: { reason: "concurrency_limited" },
    });
    for (const decision of open) if (decision.allowed) await decision.void();
    expect(await spend(gate, one.secret, 1)).toBe("1");
  });

  test("in tokens hold the estimate and count what it took", async () => {
    const { gate } = bench();
    const { id } = await gate.accounts.open({ limits: [{ tokens: 1_000, windowMs: 60_000 }] });
    await gate.accounts.credit(id, { id: "1", amount: 100 });
    const { secret } = await keyOf(gate, id);
    const first = await gate.authorize({ ...bearer(secret), tokens: 600 });
    expect(await gate.authorize({ ...bearer(secret), tokens: 401 })).toMatchObject({
      refusal: { reason: "rate_limited", retryAfterMs: 1_000 },
    });
    const usage = {
      inputTokens: 100,
      cachedInputTokens: 0,
      cacheWriteTokens: 0,
      outputTokens: 50,
      reasoningTokens: 0,
    };
    if (first.allowed) await first.settle(1, usage);
    const second = await gate.authorize({ ...bearer(secret), tokens: 850 });
    expect(second).toMatchObject({ allowed: true, limits: [{ unit: "tokens", limit: 1_000, remaining: 0 }] });
    expect(await gate.authorize({ ...bearer(secret), tokens: 1 })).toMatchObject({
      refusal: { status: 429 },
    });
  });
});

describe("a subscription", () => {
  test("begins with its key, runs dry, and is renewed by the next cycle", async () => {
    const { gate, move } = bench();
    const { id } = await gate.accounts.open({ owner: "ann" });
    const { secret, key, account } = await gate.accounts.subscribe(id, {
      plan: MONTHLY,
      key: { name: "ann's" },
    });
    expect(secret).toMatch(/^sk-sub-/);
    expect(key).toMatchObject({
      accountId: id,
      owner: "ann",
      name: "ann's",
      quota: { limit: 100, remaining: 100 },
    });
    expect(account.subscription).toEqual({
      status: "active",
      plan: { name: "basic", allowance: 100, rateMultiplier: 1 },
      cycle: { kind: "anniversary", unit: "month", every: 1, zone: "UTC", anchorMs: Date.parse(START) },
      currentCycle: { index: 0, startsAt: START, endsAt: "2025-02-15T12:00:00.000Z" },
      quota: {
        limit: 100,
        used: 0,
        held: 0,
        remaining: 100,
        unlimited: false,
        resetAtMs: Date.UTC(2025, 1, 15, 12),
      },
      startedAt: START,
      endsAt: null,
      unpaidFrom: null,
    });
    expect(await spend(gate, secret, 100)).toBe("100");
    const dry = await gate.authorize(bearer(secret));
    expect(dry).toMatchObject({
      refusal: { reason: "subscription_exhausted", resetAtMs: Date.UTC(2025, 1, 15, 12) },
    });
    await move("2025-02-15T11:59:59.999Z");
    expect(await spend(gate, secret, 1)).toBe("subscription_exhausted");
    await move("2025-02-15T12:00:00.000Z");
    expect(await spend(gate, secret, 100)).toBe("100");
    await move("2025-06-20T00:00:00.000Z");
    const view = (await gate.accounts.get(id)) as AccountView;
    expect(view.subscription?.currentCycle).toMatchObject({ index: 5, startsAt: "2025-06-15T12:00:00.000Z" });
    expect(view.subscription?.quota).toMatchObject({ used: 0, remaining: 100 });
    expect((await gate.keys.get(key.id))?.quota).toMatchObject({ limit: 100, used: 0 });
  });

  test("a request admitted in one cycle is settled in it, however late", async () => {
    const { gate, move } = bench();
    const { id } = await gate.accounts.open({ payAsYouGo: { capPerCycle: null } });
    await gate.accounts.credit(id, { id: "1", amount: 1_000 });
    const { secret } = await gate.accounts.subscribe(id, { plan: MONTHLY });
    const late = await gate.authorize({ ...bearer(secret), cost: 60 });
    await move("2025-02-15T12:00:00.000Z");
    expect(await spend(gate, secret, 100)).toBe("100");
    // 60 were promised in January, where 40 more are left; the rest was the balance's.
    if (late.allowed) await late.settle(110);
    const view = (await gate.accounts.get(id)) as AccountView;
    expect(view.subscription?.quota).toMatchObject({ used: 100, remaining: 0 });
    expect(view.subscription?.payAsYouGo).toMatchObject({ used: 0 });
    expect(view.balance).toMatchObject({ used: 10, held: 0 });
  });

  test("spills over into the balance until the cap, which begins anew with the cycle", async () => {
    const { gate, move } = bench();
    const { id } = await gate.accounts.open({ payAsYouGo: { capPerCycle: 50 } });
    await gate.accounts.credit(id, { id: "1", amount: 70 });
    const { secret } = await gate.accounts.subscribe(id, { plan: MONTHLY });
    expect(await spend(gate, secret, 150)).toBe("150");
    expect(await spend(gate, secret, 1)).toBe("payg_cap_reached");
    await move("2025-02-16T00:00:00.000Z");
    expect(await spend(gate, secret, 121)).toBe("balance_exhausted");
    expect(await spend(gate, secret, 120)).toBe("120");
  });

  test("tells in its usage what the balance paid, for an invoice: 150 are 100 and 50", async () => {
    const { gate, move } = bench();
    const { id } = await gate.accounts.open({ owner: "ann", payAsYouGo: { capPerCycle: null } });
    await gate.accounts.credit(id, { id: "1", amount: 1_000 });
    const { secret, key } = await gate.accounts.subscribe(id, { plan: MONTHLY });
    const standard = await keyOf(gate, id);
    const query = { owner: "ann", from: "2025-01-15", to: "2025-02-28" };
    const first = { day: "2025-01-15", keyId: key.id, accountId: id, cost: 150, paid: 50 };
    expect(await spend(gate, secret, 150)).toBe("150");
    expect((await gate.usage.query(query)).rows).toEqual([expect.objectContaining(first)]);
    await move("2025-02-15T12:00:00.000Z");
    for (const cost of [60, 70]) expect(await spend(gate, secret, cost)).toBe(String(cost));
    expect(await spend(gate, standard.secret, 25)).toBe("25");
    const { rows } = await gate.usage.query(query);
    expect(rows[0]).toMatchObject(first);
    const second = { day: "2025-02-15", keyId: key.id, accountId: id, cost: 130, paid: 30 };
    expect(rows.slice(1)).toContainEqual(expect.objectContaining(second));
    const { balance } = (await gate.accounts.get(id)) as AccountView;
    expect(balance.used).toBe(105);
    expect(sumUsage(rows, ["accountId"])).toMatchObject([{ accountId: id, cost: 305, paid: balance.used }]);
  });

  test("ends, and what could be spent beyond it does not revive it", async () => {
    const { gate, move } = bench();
    const { id } = await gate.accounts.open({ payAsYouGo: { capPerCycle: null } });
    await gate.accounts.credit(id, { id: "1", amount: 70 });
    const endsAt = "2025-02-01T00:00:00.000Z";
    const { secret, account } = await gate.accounts.subscribe(id, { plan: MONTHLY, endsAt });
    // The end of the term cuts the last cycle.
    expect(account.subscription).toMatchObject({ endsAt, currentCycle: { endsAt }, status: "cancelled" });
    await move("2025-01-31T23:59:59.999Z");
    expect(await spend(gate, secret, 1)).toBe("1");
    await move(endsAt);
    expect(await gate.authorize(bearer(secret))).toMatchObject({
      refusal: { reason: "subscription_ended", status: 402, code: "subscription_expired" },
    });
    expect((await gate.accounts.get(id))?.subscription?.status).toBe("ended");
    const again = await gate.accounts.subscribe(id, { plan: { name: "new", allowance: 5 }, key: null });
    expect(again).not.toHaveProperty("secret");
    expect(await spend(gate, secret, 5)).toBe("5");
    expect((await gate.accounts.get(id))?.subscription?.quota).toMatchObject({ limit: 5, used: 5 });
  });

  test("cancelled at the end of its period it works until then, cancelled now it does not", async () => {
    const { gate, move } = bench();
    const [later, now] = [await subscribed(gate), await subscribed(gate)];
    expect((await gate.accounts.cancelSubscription(later.id)).subscription).toMatchObject({
      status: "cancelled",
      endsAt: "2025-02-15T12:00:00.000Z",
    });
    expect((await gate.accounts.cancelSubscription(now.id, { at: "now" })).subscription?.status).toBe(
      "ended",
    );
    expect(await spend(gate, later.secret, 1)).toBe("1");
    expect(await spend(gate, now.secret, 1)).toBe("subscription_ended");
    await move("2025-02-15T12:00:00.000Z");
    expect(await spend(gate, later.secret, 1)).toBe("subscription_ended");
    await expect(gate.accounts.changePlan(later.id, MONTHLY)).rejects.toMatchObject({
      code: "account_state",
    });
  });

  test("suspended for payment: refused after the grace, until it is paid", async () => {
    const { gate, move } = bench();
    const { id, secret } = await subscribed(gate);
    const view = await gate.accounts.suspendSubscription(id, { graceMs: DAY_MS });
    expect(view.subscription).toMatchObject({ status: "active", unpaidFrom: "2025-01-16T12:00:00.000Z" });
    await move("2025-01-16T11:59:59.999Z");
    expect(await spend(gate, secret, 1)).toBe("1");
    await move("2025-01-16T12:00:00.000Z");
    expect(await gate.authorize(bearer(secret))).toMatchObject({
      refusal: { reason: "subscription_unpaid", status: 402, code: "payment_failed" },
    });
    // To suspend it again gives no further grace.
    expect((await gate.accounts.suspendSubscription(id, { graceMs: DAY_MS })).subscription?.status).toBe(
      "unpaid",
    );
    await gate.accounts.resumeSubscription(id);
    expect(await spend(gate, secret, 1)).toBe("1");
  });

  test("an upgrade is at once, in proportion to what is left of the cycle, and keeps what was used", async () => {
    const { gate, move } = bench();
    const { id } = await gate.accounts.open();
    const cycle = { kind: "anniversary", unit: "day", every: 30 } as const;
    const { secret } = await gate.accounts.subscribe(id, { plan: { name: "s", allowance: 1_000 }, cycle });
    expect(await spend(gate, secret, 900)).toBe("900");
    await move("2025-01-30T12:00:00.000Z");
    const half = await gate.accounts.changePlan(id, { name: "l", allowance: 3_000 });
    expect(half.subscription?.quota).toMatchObject({ limit: 2_000, used: 900, remaining: 1_100 });
    await move("2025-02-14T12:00:00.000Z");
    expect((await gate.accounts.get(id))?.subscription?.quota).toMatchObject({ limit: 3_000, used: 0 });
    // Rounded down, to the millisecond: a third of a unit is no unit.
    await move("2025-02-24T12:00:00.001Z");
    const third = await gate.accounts.changePlan(id, { name: "l", allowance: 3_001 });
    expect(third.subscription?.quota.limit).toBe(3_000);
  });

  test("a downgrade waits for the next cycle, and can be called off", async () => {
    const { gate, move } = bench();
    const { id } = await subscribed(gate);
    const waiting = await gate.accounts.changePlan(id, { name: "less", allowance: 10 });
    expect(waiting.subscription).toMatchObject({
      plan: { name: "basic" },
      nextPlan: { name: "less", allowance: 10 },
      quota: { limit: 100 },
    });
    expect((await gate.accounts.changePlan(id, MONTHLY)).subscription).not.toHaveProperty("nextPlan");
    await gate.accounts.changePlan(id, { name: "less", allowance: 10 });
    await move("2025-02-15T12:00:00.000Z");
    expect((await gate.accounts.get(id))?.subscription).toMatchObject({
      plan: { name: "less" },
      quota: { limit: 10 },
    });
  });

  test("a cycle that never turns changes plans at once, and can be counted from zero", async () => {
    const { gate, move } = bench();
    const { id } = await gate.accounts.open();
    const { secret } = await gate.accounts.subscribe(id, { plan: MONTHLY, cycle: { kind: "never" } });
    expect(await spend(gate, secret, 100)).toBe("100");
    await move("2035-01-01T00:00:00.000Z");
    const refused = await gate.authorize(bearer(secret));
    expect(refused.allowed ? undefined : refused.refusal.reason).toBe("subscription_exhausted");
    expect((await gate.accounts.get(id))?.subscription?.currentCycle.endsAt).toBeNull();
    expect(
      (await gate.accounts.changePlan(id, { name: "m", allowance: 150 })).subscription?.quota.limit,
    ).toBe(150);
    expect((await gate.accounts.changePlan(id, { name: "s", allowance: 20 })).subscription?.quota.limit).toBe(
      20,
    );
    expect((await gate.accounts.resetCycle(id)).subscription?.quota).toMatchObject({
      used: 0,
      remaining: 20,
    });
  });

  test("counted from zero, what is held stays held and the cycle ends when it would have", async () => {
    const { gate } = bench();
    const { id, secret } = await subscribed(gate);
    expect(await spend(gate, secret, 50)).toBe("50");
    const open = await gate.authorize({ ...bearer(secret), cost: 30 });
    const before = (await gate.accounts.get(id)) as AccountView;
    const after = await gate.accounts.resetCycle(id);
    expect(after.subscription?.quota).toMatchObject({ used: 0, held: 30, remaining: 70 });
    expect(after.subscription?.currentCycle).toEqual(before.subscription?.currentCycle);
    if (open.allowed) await open.settle();
    expect((await gate.accounts.get(id))?.subscription?.quota).toMatchObject({ used: 30, held: 0 });
  });

  test("multiplies the limits of its keys", async () => {
    const { gate } = bench();
    const { id } = await gate.accounts.open();
    const limits = [{ requests: 3, windowMs: 60_000 }];
    const plan = { ...MONTHLY, rateMultiplier: 1.5 };
    const { secret } = await gate.accounts.subscribe(id, { plan, key: { limits } });
    for (let request = 1; request <= 4; request++) expect(await spend(gate, secret, 1)).toBe("1");
    expect(await spend(gate, secret, 1)).toBe("rate_limited");
  });

  test("there is one at a time", async () => {
    const { gate } = bench();
    const { id } = await subscribed(gate);
    await expect(gate.accounts.subscribe(id, { plan: MONTHLY })).rejects.toMatchObject({
      code: "account_state",
    });
    expect((await gate.keys.list()).keys.filter(({ state }) => state === "active")).toHaveLength(1);
  });

  test.each<[string, CycleInput, readonly [at: string, index: number, startsAt: string, endsAt: string][]]>([
    [
      "calendar months in Shanghai",
      { kind: "calendar", unit: "month", zone: "Asia/Shanghai" },
      [["2025-01-31T15:59:59.999Z", 660, START, "2025-01-31T16:00:00.000Z"]],
    ],
    [
      "an anchor on the 31st",
      { kind: "anniversary", anchor: "2024-01-31T10:00:00Z" },
      [
        ["2025-02-28T09:59:59.999Z", 12, "2025-01-31T10:00:00.000Z", "2025-02-28T10:00:00.000Z"],
        ["2025-02-28T10:00:00.000Z", 13, "2025-02-28T10:00:00.000Z", "2025-03-31T10:00:00.000Z"],
      ],
    ],
    [
      "weeks",
      { kind: "calendar", unit: "week" },
      [["2025-01-20T00:00:00.000Z", 2873, "2025-01-20T00:00:00.000Z", "2025-01-27T00:00:00.000Z"]],
    ],
  ])("its cycles are %s", async (_, cycle, spans) => {
    const { gate, move } = bench();
    const { id } = await gate.accounts.open();
    await gate.accounts.subscribe(id, { plan: MONTHLY, cycle });
    for (const [at, index, startsAt, endsAt] of spans) {
      await move(at);
      expect((await gate.accounts.get(id))?.subscription?.currentCycle).toEqual({ index, startsAt, endsAt });
    }
  });
});

describe("alerts", () => {
  test("are told once for each threshold and cycle, by whichever process reached it", async () => {
    const { gate, another, move } = bench();
    const other = another();
    const { id, secret } = await subscribed(gate);
    const told: KeystileEvent[] = [];
    for (const each of [gate, other]) each.on("quota.low", (event) => void told.push(event));
    const all = (): readonly object[] => told;
    for (let spent = 0; spent < 79; spent += 1) await spend(spent % 2 === 0 ? gate : other, secret, 1);
    expect(all()).toEqual([]);
    await Promise.all([spend(gate, secret, 1), spend(other, secret, 1)]);
    const low = { type: "quota.low", accountId: id, fund: "subscription", limit: 100 };
    expect(all()).toEqual([expect.objectContaining({ ...low, thresholdPercent: 20 })]);
    // A jump tells the lowest only.
    await spend(other, secret, 19);
    expect(all().slice(1)).toEqual([{ ...low, thresholdPercent: 0, left: 0 }]);
    await move("2025-02-15T12:00:00.000Z");
    await spend(gate, secret, 95);
    expect(all().slice(2)).toEqual([{ ...low, thresholdPercent: 10, left: 5 }]);
    expect((await gate.accounts.get(id))?.alerts).toMatchObject({ "subscription@1.1": 10 });
  });

  test("of a balance can top it up, and are told again after that", async () => {
    const { gate, heard } = bench({ alerts: { balanceLeft: [10] } });
    const { id } = await gate.accounts.open();
    await gate.accounts.credit(id, { id: "0", amount: 20 });
    const { secret } = await keyOf(gate, id);
    const events = heard(gate);
    let topUps = 0;
    gate.on("balance.low", async ({ accountId, id }) => {
      const { applied } = await gate.accounts.credit(accountId, { id, amount: 20 });
      if (applied) topUps += 1;
    });
    for (let request = 0; request < 45; request += 1) {
      expect(await spend(gate, secret, 1)).toBe("1");
      await idle();
    }
    expect(topUps).toBe(2);
    expect(events.filter(({ type }) => type === "balance.low")).toHaveLength(2);
  });

  test("listeners that throw or reject change nothing", async () => {
    const { gate } = bench();
    const { secret } = await gate.keys.issue({ quota: 1 });
    gate.on("*", () => {
      throw new Error("a mistake");
    });
    gate.on("quota.low", () => Promise.reject(new Error("another")));
    const heard: string[] = [];
    const stop = gate.on("*", ({ type }) => void heard.push(type));
    expect(await spend(gate, secret, 1)).toBe("1");
    expect(await spend(gate, secret, 1)).toBe("key_quota_exhausted");
    expect(heard).toEqual(["request.allowed", "quota.low", "request.refused"]);
    stop();
    await gate.keys.issue();
    expect(heard).toHaveLength(3);
  });
});

function bench(options: { readonly alerts?: { readonly balanceLeft?: readonly number[] } } = {}) {
  const time = manualTime();
  const store = faultyStore(time.store.now);
  const gates: Keystile[] = [];
  const another = (): Keystile => {
    const gate = newGate({ store, runtime: time.runtime, ...options });
    gates.push(gate);
    return gate;
  };
  const gate = another();
  /** Moves the store's clock, which every process hears with the next reply. */
  async function move(at: string): Promise<void> {
    time.store.set(Date.parse(at));
    for (const each of gates.flatMap(instancesOf)) await each.accounts.get("000.nobody");
  }
  function heard(one: Keystile): readonly KeystileEvent[] {
    const events: KeystileEvent[] = [];
    one.on("*", (event) => void events.push(event));
    return events;
  }
  return { gate, store, another, move, heard, tick: time.advance };
}

function bearer(secret: string) {
  return { headers: { authorization: `Bearer ${secret}` } };
}

async function keyOf(gate: Keystile, account: string, quota: number | null = null) {
  const { secret, key } = await gate.keys.issue({ account, quota });
  return { secret, keyId: key.id, owner: key.owner };
}

async function subscribed(gate: Keystile): Promise<{ readonly id: string; readonly secret: string }> {
  const { id } = await gate.accounts.open();
  const { secret } = await gate.accounts.subscribe(id, { plan: MONTHLY });
  return { id, secret };
}

function subscribe(
  gate: Keystile,
  id: string,
  cycle: NonNullable<SubscribeInput["cycle"]>,
): Promise<unknown> {
  return gate.accounts.subscribe(id, { plan: MONTHLY, cycle });
}

/** What it cost, or why not. */
async function spend(gate: Keystile, secret: string, cost: Cost): Promise<string> {
  const decision = await gate.authorize({ ...bearer(secret), cost });
  if (!decision.allowed) return decision.refusal.reason;
  await settled(gate, decision.settle());
  return String(cost);
}
