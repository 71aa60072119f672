import { describe, expect, test } from "vitest";
import type { Allowed } from "../../src/decision.js";
import { createKeystile, type Keystile } from "../../src/keystile.js";
import type { KeystileOptions } from "../../src/options.js";
import type { IssueInput } from "../../src/policy-input.js";
import { faultyStore, manualTime } from "./faulty-store.js";

const REVALIDATE_MS = 1_000;

interface Asking {
  readonly cost?: number;
  readonly model?: string;
  readonly tokens?: number;
}

function bench(leases: KeystileOptions["leases"] = true) {
  const time = manualTime();
  const store = faultyStore(time.store.now);
  const another = (more: Partial<KeystileOptions> = {}) =>
    createKeystile({ store, runtime: time.runtime, leases, ...more });
  return { time, store, keystile: another(), another };
}

async function ask(gate: Keystile, secret: string, request: Asking = {}): Promise<string | Allowed> {
  const decision = await gate.authorize({ headers: { authorization: `Bearer ${secret}` }, ...request });
  return decision.allowed ? decision : decision.refusal.reason;
}

async function spend(gate: Keystile, secret: string, request: Asking = {}, actual?: number): Promise<void> {
  const decision = await ask(gate, secret, request);
  if (typeof decision === "string") throw new Error(decision);
  void decision.settle(actual);
}

/** A key that the gate has a lease for by now. */
async function hotKey(gate: Keystile, input: IssueInput, request: Asking = {}) {
  const issued = await gate.keys.issue(input);
  for (let n = 0; n < 4; n += 1) await spend(gate, issued.secret, request);
  return issued;
}

describe("a hot key", () => {
  test("is decided without the store, and booked to the unit", async () => {
    const { keystile, store } = bench();
    const { secret, key } = await hotKey(keystile, {
      quota: 100_000,
      limits: [{ requests: 10_000, windowMs: 60_000 }],
    });
    store.calls = [];
    for (let n = 0; n < 5; n += 1) await spend(keystile, secret, { cost: 3 }, 2);
    expect(store.calls.filter(({ kind }) => kind === "read")).toEqual([]);
    await keystile.flush();
    expect((await keystile.keys.get(key.id))?.quota).toMatchObject({ used: 4 + 5 * 2, held: 0 });
    expect((await keystile.describe(secret))?.limits).toMatchObject([{ remaining: 10_000 - 9 }]);
  });

  test("is asked about again after revalidateMs", async () => {
    const { keystile, another, time } = bench();
    const { secret, key } = await hotKey(keystile, { quota: 100_000 });
    await another().keys.revoke(key.id);
    expect(await ask(keystile, secret)).toMatchObject({ allowed: true });
    await time.advance(REVALIDATE_MS);
    expect(await ask(keystile, secret)).toBe("key_revoked");
  });

  test("that this process has revoked is refused at once", async () => {
    const { keystile } = bench();
    const { secret, key } = await hotKey(keystile, { quota: 100_000 });
    await keystile.keys.revoke(key.id);
    expect(await ask(keystile, secret)).toBe("key_revoked");
  });

  test("is judged by every rule, each time", async () => {
    const { keystile, time } = bench();
    const expiresAt = time.store.now() + 500;
    const { secret } = await hotKey(
      keystile,
      { quota: 100_000, allowedModels: ["a"], expiresAt },
      { model: "a" },
    );
    expect(await ask(keystile, secret, { model: "b" })).toBe("model_not_allowed");
    expect(await ask(keystile, secret, { model: "a" })).toMatchObject({ allowed: true });
    await time.advance(500);
    expect(await ask(keystile, secret, { model: "a" })).toBe("key_expired");
  });

  test("that is used up by one process gets its last unit, and not one more", async () => {
    const { keystile } = bench();
    const { secret, key } = await keystile.keys.issue({ quota: 50 });
    const answers = await Promise.all(Array.from({ length: 80 }, () => ask(keystile, secret)));
    for (const answer of answers) if (typeof answer !== "string") void answer.settle();
    expect(answers.filter((answer) => typeof answer !== "string")).toHaveLength(50);
    for (let n = 0; n < 5; n += 1) expect(await ask(keystile, secret)).toBe("key_quota_exhausted");
    await keystile.flush();
    expect((await keystile.keys.get(key.id))?.quota).toMatchObject({ used: 50, held: 0 });
  });

  test.each([10, 50])("leaves others all but %i percent", async (sharePercent) => {
    const { keystile, another } = bench({ sharePercent });
    const { secret } = await hotKey(keystile, { quota: 1_000 });
    const strict = another({ leases: false });
    expect(await ask(strict, secret, { cost: Math.floor(996 * (1 - sharePercent / 100)) })).toMatchObject({
      allowed: true,
    });
  });

  test("costs what its lease held, at most, when its process dies", async () => {
    const { keystile, another, time } = bench({ sharePercent: 10 });
    const { secret, key } = await hotKey(keystile, { quota: 1_000 });
    const other = another();
    await time.store.advance(61_000);
    await ask(other, secret);
    const used = (await other.keys.get(key.id))?.quota.used ?? 0;
    expect(used).toBeGreaterThanOrEqual(4);
    expect(used).toBeLessThanOrEqual(4 + 100);
  });

  test("counts requests in flight, and what they end with long after", async () => {
    const { keystile, store, time } = bench();
    const { secret, key } = await hotKey(keystile, { quota: 100_000 }, { cost: 30 });
    await time.advance(600);
    store.calls = [];
    const decision = await ask(keystile, secret, { cost: 30 });
    if (typeof decision === "string") throw new Error(decision);
    expect(store.calls).toEqual([]);
    await time.advance(30_000);
    expect((await keystile.keys.get(key.id))?.quota).toMatchObject({ used: 120, held: 30 });
    const ended = decision.settle(70);
    await time.advance(2_000);
    await ended;
    expect((await keystile.keys.get(key.id))?.quota).toMatchObject({ used: 190, held: 0 });
  });

  test("shows what is left as this process knows it", async () => {
    const { keystile } = bench();
    const { secret } = await hotKey(keystile, {
      quota: 1_000,
      limits: [{ requests: 500, windowMs: 3_600_000 }],
    });
    const decision = await ask(keystile, secret, { cost: 10 });
    expect(decision).toMatchObject({ quota: { remaining: 986 }, limits: [{ remaining: 495 }] });
  });
});

describe("no lease", () => {
  test.each<[string, IssueInput, KeystileOptions["leases"], Asking]>([
    ["is made unless asked for", { quota: 1_000 }, false, {}],
    ["where requests in flight are limited", { limits: [{ inFlight: 5 }] }, true, {}],
    ["where the rule does not want one", { quota: 1_000 }, { keys: () => false }, {}],
    ["where a share is too little", { quota: 30 }, true, { cost: 2 }],
  ])("%s", async (_, input, leases, request) => {
    const { keystile, store } = bench(leases);
    const { secret } = await hotKey(keystile, input, request);
    await keystile.flush();
    store.calls = [];
    await spend(keystile, secret, request);
    expect(store.calls.some(({ kind }) => kind === "write")).toBe(true);
  });

  test("serves a model whose bucket it holds no place in", async () => {
    const { keystile, store } = bench();
    const limits = [{ requests: 1_000, windowMs: 60_000, per: "model" as const }];
    const { secret } = await hotKey(keystile, { limits }, { model: "a" });
    store.calls = [];
    await spend(keystile, secret, { model: "b" });
    expect(store.calls.some(({ kind }) => kind === "write")).toBe(true);
  });
});

test("an account pays for leases in the order of its funds, and to the unit", async () => {
  const { keystile } = bench({ sharePercent: 50 });
  const account = await keystile.accounts.open({ payAsYouGo: { capPerCycle: null } });
  await keystile.accounts.credit(account.id, { id: "first", amount: 1_000 });
  const plan = { name: "small", allowance: 100 };
  const { secret } = await keystile.accounts.subscribe(account.id, {
    plan,
    cycle: { kind: "calendar", unit: "month" },
  });
  for (let n = 0; n < 60; n += 1) await spend(keystile, secret, { cost: 3 }, 2);
  await keystile.flush();
  const after = await keystile.accounts.get(account.id);
  const [allowance, balance] = [after?.subscription?.quota, after?.balance];
  expect(allowance).toMatchObject({ held: 0 });
  expect(balance).toMatchObject({ held: 0 });
  // The last of an allowance may be held by one request while another spends from the balance, as without leases.
  expect(allowance?.used).toBeGreaterThan(90);
  expect((allowance?.used ?? 0) + (balance?.used ?? 0)).toBe(120);
});

test("flush() gives back what is not spent, and close() leaves nothing", async () => {
  const { keystile, time } = bench();
  const { key } = await hotKey(keystile, { quota: 100_000 });
  await keystile.flush();
  expect((await keystile.keys.get(key.id))?.quota).toMatchObject({ used: 4, held: 0 });
  const closing = keystile.close();
  await time.advance(20_000);
  expect(await closing).toEqual({ unwritten: 0 });
});

test.each([
  [{ revalidateMs: 99 }, "options.leases.revalidateMs"],
  [{ revalidateMs: 10_001 }, "options.leases.revalidateMs"],
  [{ sharePercent: 0 }, "options.leases.sharePercent"],
  [{ sharePercent: 51 }, "options.leases.sharePercent"],
  [{ share: 10 }, "options.leases"],
  ["yes", "options.leases"],
])("leases: %j is refused", (leases, path) => {
  expect(() => bench(leases as never)).toThrow(path);
});

test("an interval that holds may not outlive is refused", () => {
  const { another } = bench();
  expect(() => another({ holdMs: 6_000, storeTimeoutMs: 1_000, leases: { revalidateMs: 3_000 } })).toThrow(
    "options.leases.revalidateMs",
  );
});
