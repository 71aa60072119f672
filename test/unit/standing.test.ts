import { describe, expect, test } from "vitest";
import type { IssuedKey } from "../../src/keyring.js";
import type { Keystile } from "../../src/keystile.js";
import type { KeystileOptions } from "../../src/options.js";
import { digestSecret, generateSecret } from "../../src/secret.js";
import type { Json } from "../../src/store.js";
import { newGate } from "../setup/new-gate.js";
import {
  damage,
  type Fault,
  type FaultyStore,
  faultyStore,
  type ManualTime,
  manualTime,
} from "./faulty-store.js";

interface Bench {
  readonly time: ManualTime;
  readonly store: FaultyStore;
  readonly keystile: Keystile;
  /** Another instance on the same store: another process. */
  another(options?: Partial<KeystileOptions>): Keystile;
}

const pepperA = { id: "a", secret: "0123456789abcdefghijklmnopqrstuv" };
const pepperB = { id: "b", secret: "zyxwvutsrqponmlkjihgfedcba987654" };
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const noon = Date.UTC(2025, 0, 15, 12);

describe("a key", () => {
  test("is told what it may do, what it used and what is left", async () => {
    const { keystile } = bench();
    const { secret } = await keystile.keys.issue({
      name: "build",
      quota: 10,
      expiresAt: noon + HOUR_MS,
      allowedModels: ["gpt-*"],
      deniedModels: ["gpt-3*"],
      scopes: ["chat"],
      limits: [
        { requests: 5, windowMs: 60_000 },
        { requests: 1, windowMs: 60_000, per: "model" },
        { tokens: 100, windowMs: 60_000 },
        { inFlight: 2 },
      ],
    });
    await spend(keystile, secret, 3);
    await keystile.authorize({ ...presenting(secret), cost: 4, model: "gpt-4o" });
    expect(await keystile.describe(secret)).toEqual({
      state: "active",
      name: "build",
      expiresAt: "2025-01-15T13:00:00.000Z",
      allowedModels: ["gpt-*"],
      deniedModels: ["gpt-3*"],
      scopes: ["chat"],
      limits: [
        { unit: "requests", limit: 5, remaining: 3, resetAtMs: noon + 24_000 },
        { unit: "tokens", limit: 100, remaining: 100, resetAtMs: noon },
        { unit: "inFlight", limit: 2, remaining: 1, resetAtMs: noon + 1_000 },
      ].map((limit) => expect.objectContaining(limit)),
      quota: { limit: 10, used: 3, held: 4, remaining: 3, unlimited: false },
    });
  });

  test("of which nothing is said has nothing but its state", async () => {
    const { keystile } = bench();
    const { secret } = await keystile.keys.issue();
    await spend(keystile, secret, 3);
    expect(await keystile.describe(secret)).toEqual({
      state: "active",
      expiresAt: null,
      limits: [],
      quota: { limit: null, used: 3, held: 0, remaining: null, unlimited: true },
    });
  });

  test("is described when it is used up", async () => {
    const { keystile } = bench();
    const { secret } = await keystile.keys.issue({ quota: 2 });
    await spend(keystile, secret, 2);
    expect((await keystile.authorize(presenting(secret))).allowed).toBe(false);
    expect(await keystile.describe(secret)).toMatchObject({
      state: "active",
      quota: { limit: 2, used: 2, remaining: 0 },
    });
  });

  test("is described when it has expired, from the millisecond itself", async () => {
    const { keystile, time } = bench();
    const { secret } = await keystile.keys.issue({ expiresAt: noon + 1_000 });
    await time.advance(999);
    expect(await keystile.describe(secret)).toMatchObject({ state: "active" });
    await time.advance(1);
    expect(await keystile.describe(secret)).toMatchObject({
      state: "expired",
      expiresAt: "2025-01-15T12:00:01.000Z",
    });
  });

  test("with a stored expiry that is no time has expired", async () => {
    const { keystile, store } = bench();
    const { secret, key } = await keystile.keys.issue();
    await damage(store, key.id, ({ policy, ...body }) => ({
      ...body,
      policy: { ...(policy as object), expiresAtMs: "never" },
    }));
    expect(await keystile.describe(secret)).toMatchObject({
      state: "expired",
      expiresAt: "1970-01-01T00:00:00.000Z",
    });
  });

  test("is described wherever the holder is, although it works at some addresses alone", async () => {
    const { keystile } = bench();
    const { secret } = await keystile.keys.issue({ allowedIps: ["10.0.0.1"] });
    expect(await keystile.describe(secret)).toMatchObject({ state: "active" });
  });

  test("is not described once it is disabled or revoked, by whichever process, at once", async () => {
    const { keystile, another } = bench();
    const other = another();
    const { secret, key } = await keystile.keys.issue();
    await spend(keystile, secret, 1);
    expect(await keystile.describe(secret)).toBeDefined();
    await other.keys.disable(key.id);
    expect(await keystile.describe(secret)).toBeUndefined();
    await other.keys.enable(key.id);
    expect(await keystile.describe(secret)).toBeDefined();
    await other.keys.revoke(key.id);
    expect(await keystile.describe(secret)).toBeUndefined();
    await other.keys.purge(key.id);
    expect(await keystile.describe(secret)).toBeUndefined();
  });

  test("that has expired and is revoked is not described", async () => {
    const { keystile, time } = bench();
    const { secret, key } = await keystile.keys.issue({ expiresAt: noon + 1_000 });
    await time.advance(1_000);
    await keystile.keys.revoke(key.id);
    expect(await keystile.describe(secret)).toBeUndefined();
  });

  test("that is being rotated is described to the holders of both secrets, each with its own end", async () => {
    const { keystile, time } = bench();
    const before = await keystile.keys.issue({ quota: 9, expiresAt: noon + DAY_MS });
    const after = await keystile.keys.rotate(before.key.id, { graceMs: 5_000 });
    await spend(keystile, after.secret, 2);
    const standing = await keystile.describe(after.secret);
    expect(standing).toMatchObject({ expiresAt: "2025-01-16T12:00:00.000Z", quota: { used: 2 } });
    expect(await keystile.describe(before.secret)).toEqual({
      ...standing,
      expiresAt: "2025-01-15T12:00:05.000Z",
    });
    await time.advance(4_999);
    expect(await keystile.describe(before.secret)).toBeDefined();
    await time.advance(1);
    expect(await keystile.describe(before.secret)).toBeUndefined();
    expect(await keystile.describe(after.secret)).toBeDefined();
  });

  test("whose expiry comes before the end of the grace says so", async () => {
    const { keystile } = bench();
    const { secret, key } = await keystile.keys.issue({ expiresAt: noon + 1_000 });
    await keystile.keys.rotate(key.id, { graceMs: 5_000 });
    expect(await keystile.describe(secret)).toMatchObject({ expiresAt: "2025-01-15T12:00:01.000Z" });
  });
});

describe("a secret", () => {
  test.each<[string, unknown]>([
    ["nothing", undefined],
    ["null", null],
    ["a number", 7],
    ["an object", { secret: "sk-" }],
    ["empty", ""],
    ["too short", `sk-${"a".repeat(31)}`],
    ["too long", `sk-${"a".repeat(513)}`],
    ["of another prefix", `pk-${"abcDEF0123".repeat(5)}`],
    ["with a space", `sk-${"abcDEF0123".repeat(5)} `],
  ])("that is %s is nobody's, without asking the store", async (_, secret) => {
    const { keystile, store } = bench();
    expect(await keystile.describe(secret as string)).toBeUndefined();
    expect(store.calls).toEqual([]);
  });

  test("that is unknown is asked for again each time, and nothing of it is kept", async () => {
    const { keystile, store, another } = bench();
    const secret = generateSecret("sk-");
    expect(await keystile.describe(secret)).toBeUndefined();
    expect(await keystile.describe(secret)).toBeUndefined();
    expect(store.calls).toHaveLength(2);
    expect(await store.documents()).toEqual([]);
    await another().keys.issue({ secret, name: "brought" });
    expect(await keystile.describe(secret)).toMatchObject({ name: "brought" });
  });

  test("needs its checksum where that is required", async () => {
    const { keystile, store } = bench({ checksum: "require" });
    const { secret } = await keystile.keys.issue();
    store.calls = [];
    expect(
      await keystile.describe(`${secret.slice(0, -1)}${secret.endsWith("0") ? "1" : "0"}`),
    ).toBeUndefined();
    expect(store.calls).toEqual([]);
    expect(await keystile.describe(secret)).toBeDefined();
  });

  test("is found under each pepper of the ring, and under no other", async () => {
    const { another } = bench();
    const { secret } = await another({ peppers: [pepperA] }).keys.issue();
    expect(await another({ peppers: [pepperB, pepperA] }).describe(secret)).toBeDefined();
    expect(await another({ peppers: [pepperB] }).describe(secret)).toBeUndefined();
    expect(await another().describe(secret)).toBeUndefined();
  });

  test("begins with a configured prefix", async () => {
    const { another } = bench();
    const theirs = another({ prefixes: { standard: "acme-" } });
    const { secret } = await theirs.keys.issue();
    expect(await theirs.describe(secret)).toBeDefined();
    expect(await another().describe(secret)).toBeUndefined();
  });
});

describe("an account", () => {
  test("shows its balance to a key that spends it, within that key's own quota", async () => {
    const { keystile } = bench();
    const account = await keystile.accounts.open({ limits: [{ inFlight: 3 }] });
    await keystile.accounts.credit(account.id, { id: "c1", amount: 100 });
    const { secret } = await keystile.keys.issue({ account: account.id, quota: 50 });
    await spend(keystile, secret, 30);
    expect(await keystile.describe(secret)).toEqual({
      state: "active",
      expiresAt: null,
      limits: [expect.objectContaining({ unit: "inFlight", limit: 3, remaining: 3 })],
      quota: { limit: 50, used: 30, held: 0, remaining: 20, unlimited: false },
      accountState: "active",
      balance: { limit: 100, used: 30, held: 0, remaining: 70, unlimited: false },
    });
  });

  test("that is suspended is described as that", async () => {
    const { keystile } = bench();
    const account = await keystile.accounts.open();
    const { secret } = await keystile.keys.issue({ account: account.id });
    await keystile.accounts.suspend(account.id);
    expect(await keystile.describe(secret)).toMatchObject({ state: "active", accountState: "suspended" });
  });

  test("shows its subscription to a key that pays from it, in the cycle that has begun by now", async () => {
    const { keystile, time, store } = bench();
    const { secret } = await subscribed(keystile);
    await spend(keystile, secret, 40);
    const quota = { limit: 100, used: 40, held: 0, remaining: 60, unlimited: false };
    const reset = { resetAtMs: Date.UTC(2025, 1, 15, 12) };
    const standing = {
      state: "active",
      expiresAt: null,
      limits: [],
      accountState: "active",
      quota: { ...quota, ...reset },
      subscription: {
        status: "active",
        plan: "pro",
        quota: { ...quota, ...reset },
        cycleEndsAt: "2025-02-15T12:00:00.000Z",
        endsAt: null,
      },
    };
    expect(await keystile.describe(secret)).toEqual(standing);
    await passDays(time, 31);
    store.calls = [];
    expect(await keystile.describe(secret)).toMatchObject({
      quota: { used: 0, remaining: 100, resetAtMs: Date.UTC(2025, 2, 15, 12) },
      subscription: { cycleEndsAt: "2025-03-15T12:00:00.000Z" },
    });
    expect(store.calls.map(({ kind }) => kind)).toEqual(["read", "read"]);
  });

  test("shows what is paid as you go, and the balance it comes from, where that is on", async () => {
    const { keystile } = bench();
    const { secret } = await subscribed(keystile, { payAsYouGo: { capPerCycle: 50 } }, 70);
    await spend(keystile, secret, 120);
    expect(await keystile.describe(secret)).toMatchObject({
      subscription: { quota: { remaining: 0 }, payAsYouGo: { limit: 50, used: 20, remaining: 30 } },
      balance: { limit: 70, used: 20, remaining: 50 },
    });
  });

  test("does not show its subscription to a key that spends the balance", async () => {
    const { keystile } = bench();
    const { accountId } = await subscribed(keystile);
    const { secret } = await keystile.keys.issue({ account: accountId });
    const standing = await keystile.describe(secret);
    expect(standing).toMatchObject({ balance: { remaining: 0 } });
    expect(standing).not.toHaveProperty("subscription");
  });

  test.each<[string, (keystile: Keystile, accountId: string) => Promise<unknown>, object]>([
    ["unpaid", ({ accounts }, id) => accounts.suspendSubscription(id), { status: "unpaid", endsAt: null }],
    [
      "cancelled",
      ({ accounts }, id) => accounts.cancelSubscription(id),
      { status: "cancelled", endsAt: "2025-02-15T12:00:00.000Z" },
    ],
    [
      "ended",
      ({ accounts }, id) => accounts.cancelSubscription(id, { at: "now" }),
      { status: "ended", endsAt: "2025-01-15T12:00:00.000Z" },
    ],
  ])("with a subscription that is %s says so", async (_, change, expected) => {
    const { keystile } = bench();
    const { secret, accountId } = await subscribed(keystile);
    await change(keystile, accountId);
    expect(await keystile.describe(secret)).toMatchObject({ state: "active", subscription: expected });
  });

  test("without the subscription that its key would pay from says so", async () => {
    const { keystile } = bench();
    const account = await keystile.accounts.open();
    const { secret } = await keystile.keys.issue({ account: account.id, kind: "subscription" });
    expect(await keystile.describe(secret)).toMatchObject({ subscription: null });
  });
});

describe("a description", () => {
  test("tells nothing that is the operator's, or another key's", async () => {
    const { keystile, store } = bench();
    const account = await keystile.accounts.open({
      owner: "owner-text",
      name: "account-name",
      label: "account-label",
      metadata: { account: "metadata-text" },
      payAsYouGo: { capPerCycle: null },
    });
    const issued = await keystile.accounts.subscribe(account.id, {
      plan: { name: "pro", allowance: 100 },
      key: { metadata: { key: "metadata-text" }, allowedIps: ["10.20.30.40"] },
    });
    const sibling = await keystile.keys.issue({ account: account.id, name: "sibling" });
    const rotated = await keystile.keys.rotate(issued.key.id, { graceMs: HOUR_MS });
    const request = { ...presenting(rotated.secret), address: "10.20.30.40" };
    expect((await keystile.authorize(request)).allowed).toBe(true);
    const nodes = await nodesOf(store);
    expect(nodes).not.toEqual([]);
    const secrets = [issued.secret, rotated.secret, sibling.secret];
    const hidden = [
      ...["owner-text", "account-name", "account-label", "metadata-text", "10.20.30.40", "sibling"],
      ...[issued.key.id, sibling.key.id, ...secrets, ...secrets.map((secret) => digestSecret(secret))],
      ...nodes,
    ];
    for (const secret of secrets.slice(0, 2)) {
      const shown = JSON.stringify(await keystile.describe(secret));
      expect(shown).toContain("pro");
      for (const text of hidden) expect(shown).not.toContain(text);
    }
  });

  test("changes nothing that is stored, even where holds have expired meanwhile", async () => {
    const { keystile, another, store, time } = bench();
    const { secret } = await keystile.keys.issue({ quota: 10, limits: [{ requests: 1, windowMs: 60_000 }] });
    await keystile.authorize({ ...presenting(secret), cost: 4 });
    // The process dies with its timers; what it held is charged by whoever writes next.
    time.store.advance(HOUR_MS);
    const fresh = another();
    const before = JSON.stringify(await store.documents());
    store.calls = [];
    for (let times = 0; times < 5; times += 1) {
      expect(await fresh.describe(secret)).toMatchObject({
        limits: [{ remaining: 1 }],
        quota: { used: 4, held: 0, remaining: 6 },
      });
    }
    expect(store.calls.some(({ kind }) => kind === "write")).toBe(false);
    expect(JSON.stringify(await store.documents())).toBe(before);
    expect((await fresh.authorize(presenting(secret))).allowed).toBe(true);
  });

  test("is still given after close()", async () => {
    const { keystile } = bench();
    const { secret } = await keystile.keys.issue();
    await keystile.close();
    expect(await keystile.describe(secret)).toBeDefined();
  });

  test.each<Fault>(["fails before", "fails after", "hangs before", "hangs after"])(
    "is a fault when the store %s",
    async (fault) => {
      const { keystile, store, time } = bench();
      const { secret } = await keystile.keys.issue();
      for (const failing of [1, 2]) {
        let reads = 0;
        store.onCall = () => (++reads === failing ? fault : undefined);
        const described = keystile.describe(secret).catch((error: unknown) => error);
        await time.advance(5_000);
        expect(await described).toMatchObject({ code: "store_unavailable" });
      }
    },
  );

  test("is a fault when a document is corrupt, newer or missing", async () => {
    const { keystile, store } = bench();
    const corrupt = await keystile.keys.issue();
    await damage(store, corrupt.key.id, () => ({ format: 1 }));
    await expect(keystile.describe(corrupt.secret)).rejects.toMatchObject({ code: "document_invalid" });
    const newer = await keystile.keys.issue();
    await damage(store, newer.key.id, (body) => ({ ...body, format: 2 }));
    await expect(keystile.describe(newer.secret)).rejects.toMatchObject({ code: "format_newer" });
    const missing = await keystile.keys.issue();
    await erase(store, `key:${missing.key.id}`);
    await expect(keystile.describe(missing.secret)).rejects.toMatchObject({ code: "document_invalid" });
    const orphan = await subscribed(keystile);
    await erase(store, `account:${orphan.accountId}`);
    await expect(keystile.describe(orphan.secret)).rejects.toMatchObject({ code: "document_invalid" });
  });

  test("is none for a key that is purged while it is read", async () => {
    const { keystile, another, store } = bench();
    const { secret, key } = await keystile.keys.issue();
    await keystile.keys.revoke(key.id);
    let reads = 0;
    store.onCall = () => (++reads === 2 ? another().keys.purge(key.id) : undefined);
    expect(await keystile.describe(secret)).toBeUndefined();
  });

  test("is a fault when the clock is far behind what the key has seen", async () => {
    const { another, time } = bench();
    const { secret } = await another().keys.issue();
    time.store.advance(-HOUR_MS);
    await expect(another().describe(secret)).rejects.toMatchObject({ code: "document_invalid" });
  });
});

function bench(options: Partial<KeystileOptions> = {}): Bench {
  const time = manualTime();
  const store = faultyStore(time.store.now);
  const another = (more: Partial<KeystileOptions> = {}) =>
    newGate({ store, runtime: time.runtime, ...options, ...more });
  return { time, store, keystile: another(), another };
}

function presenting(secret: string): { readonly headers: { readonly authorization: string } } {
  return { headers: { authorization: `Bearer ${secret}` } };
}

async function spend(keystile: Keystile, secret: string, cost: number): Promise<void> {
  const request = { ...presenting(secret), scopes: [], cost, model: "gpt-4" };
  const decision = await keystile.authorize(request);
  if (!decision.allowed) throw new Error(`refused: ${decision.refusal.reason}`);
  await decision.settle(cost);
}

/** An account with a plan of 100 a month, and its key. */
async function subscribed(
  keystile: Keystile,
  terms: Parameters<Keystile["accounts"]["open"]>[0] = {},
  credit = 0,
): Promise<IssuedKey & { readonly accountId: string }> {
  const { id } = await keystile.accounts.open(terms);
  if (credit > 0) await keystile.accounts.credit(id, { id: "c1", amount: credit });
  const plan = { name: "pro", allowance: 100 };
  const { secret, key } = await keystile.accounts.subscribe(id, { plan });
  return { secret, key, accountId: id };
}

/** Lets days pass without running the ticks of all of them. */
async function passDays(time: ManualTime, days: number): Promise<void> {
  time.store.advance(days * DAY_MS - 11_000);
  // Long enough that every process asks the store for its time first.
  await time.advance(11_000);
}

async function erase(store: FaultyStore, id: string): Promise<void> {
  const { documents } = await store.read([id]);
  await store.write(documents.map(({ id, version }) => [{ id, expected: version, set: null }]));
}

/** The names of processes in documents. */
async function nodesOf(store: FaultyStore): Promise<readonly string[]> {
  const documents = await store.documents();
  return documents.flatMap(({ body }) => Object.keys((body as { nodes?: Record<string, Json> }).nodes ?? {}));
}
