import { describe, expect, test, vi } from "vitest";
import { parseAccountRecord, parseKeyRecord } from "../../src/document-schemas.js";
import {
  type AccountRecord,
  BALANCE_PURSE,
  KEY_PURSE,
  type KeyRecord,
  MAX_COLLECTED,
  MAX_NODES,
} from "../../src/documents.js";
import { fitted } from "../../src/fitting.js";
import type { Keystile } from "../../src/keystile.js";
import { hold } from "../../src/ledger.js";
import { takeRequest } from "../../src/limits.js";
import type { Store } from "../../src/store.js";
import { sampleAccount } from "../../src/testing/sample-account.js";
import { sampleKey } from "../../src/testing/sample-key.js";
import { newGate } from "../setup/new-gate.js";
import { idle, newStore } from "../setup/new-store.js";
import { faultyStore, manualTime } from "./faulty-store.js";

function presenting(secret: string): { headers: Record<string, string> } {
  return { headers: { "x-api-key": secret } };
}

test("a hold is renewed while requests that cost nothing keep the key busy", async () => {
  const time = manualTime();
  const store = faultyStore(time.store.now);
  const gate = newGate({ store, runtime: time.runtime, holdMs: 1_000, storeTimeoutMs: 500 });
  const { secret, key } = await gate.keys.issue({ quota: 100 });
  expect((await gate.authorize({ ...presenting(secret), cost: 10 })).allowed).toBe(true);
  // A call takes a while, so that a check is always under way when a renewal falls due.
  store.onCall = () => new Promise<void>((resolve) => void time.runtime.setTimer(resolve, 40));
  const free: Promise<unknown>[] = [];
  for (let n = 0; n < 500; n += 1) {
    free.push(gate.authorize({ ...presenting(secret), cost: 0 }));
    await time.advance(10);
  }
  // Who keeps a document busy leaves a gap for others now and then.
  await time.advance(300);
  await Promise.all(free);
  store.onCall = () => undefined;
  expect((await gate.keys.get(key.id))?.quota).toMatchObject({ used: 0, held: 10 });
});

describe("a store whose reply is not what its contract says", () => {
  const wrong: readonly (readonly [string, unknown])[] = [
    ["nothing", undefined],
    ["null", null],
    ["no results", { now: 1 }],
    ["too few results", { results: [], now: 1 }],
    ["an empty result", { results: [undefined], now: 1 }],
    ["a loss without documents", { results: [{ written: false }], now: 1 }],
    ["a win without versions", { results: [{ written: true }], now: 1 }],
    ["no time", { results: [{ written: true, versions: [9] }] }],
  ];

  test.each(wrong)("is out of order, and nothing hangs: %s", async (_, reply) => {
    const inner = newStore();
    let isWrong = false;
    const store: Store = {
      ...inner,
      write: async (groups) => {
        const real = await inner.write(groups);
        return isWrong ? (reply as typeof real) : real;
      },
    };
    const gate = newGate({ store });
    const { secret, key } = await gate.keys.issue({ quota: 10 });
    isWrong = true;
    await expect(gate.authorize(presenting(secret))).rejects.toMatchObject({ code: "store_unavailable" });
    isWrong = false;
    const decision = await gate.authorize(presenting(secret));
    expect(decision.allowed).toBe(true);
    if (decision.allowed) await decision.settle();
    await gate.flush();
    // What was written under the wrong reply was given back.
    expect((await gate.keys.get(key.id))?.quota).toMatchObject({ used: 1, held: 0 });
    await gate.close();
  });

  test.each([
    ["nothing", undefined],
    ["no documents", { now: 1 }],
    ["something else", { documents: [{}], now: 1 }],
  ])("also when it reads: %s", async (_, reply) => {
    const inner = newStore();
    const gate = newGate({ store: { ...inner, read: async () => reply as never } });
    const request = presenting(`sk-${"x".repeat(40)}`);
    await expect(gate.authorize(request)).rejects.toMatchObject({ code: "store_unavailable" });
  });
});

test("look-ups that wait behind one that failed fail with it", async () => {
  const time = manualTime();
  const store = faultyStore(time.store.now);
  store.onCall = () => "hangs before";
  const gate = newGate({ store, runtime: time.runtime, storeTimeoutMs: 200 });
  const asked = Array.from({ length: 3_000 }, (_, n) =>
    gate.authorize(presenting(`sk-${String(n).padStart(40, "x")}`)).catch(({ code }) => code),
  );
  await time.advance(201);
  expect(new Set(await Promise.all(asked))).toEqual(new Set(["store_unavailable"]));
});

describe("a secret made elsewhere that comes back", () => {
  const secret = `sk-${"elsewhere".repeat(4)}`;

  test("after its key was purged, in a process that knew that one", async () => {
    const store = newStore();
    const [gate, other] = [newGate({ store }), newGate({ store })];
    const first = await other.keys.issue({ secret });
    expect((await settled(gate.authorize(presenting(secret)))).key?.id).toBe(first.key.id);
    await other.keys.revoke(first.key.id);
    await other.keys.purge(first.key.id);
    const second = await other.keys.issue({ secret });
    expect((await settled(gate.authorize(presenting(secret)))).key?.id).toBe(second.key.id);
  });

  test("after its key has rotated it away", async () => {
    const store = newStore();
    const [gate, other] = [newGate({ store }), newGate({ store })];
    const first = await other.keys.issue({ secret });
    await settled(gate.authorize(presenting(secret)));
    for (let n = 0; n < 3; n += 1) await other.keys.rotate(first.key.id);
    const second = await other.keys.issue({ secret });
    expect((await settled(gate.authorize(presenting(secret)))).key?.id).toBe(second.key.id);
  });

  async function settled(asked: ReturnType<Keystile["authorize"]>) {
    const decision = await asked;
    if (decision.allowed) await decision.settle();
    return decision;
  }
});

test("a corrupt key is listed as unreadable, and the others as they are", async () => {
  const store = newStore();
  const gate = newGate({ store });
  const { key } = await gate.keys.issue();
  await store.write([[{ id: "key:000.bad", expected: 0, set: null }]]);
  await store.write([[{ id: "key:000.broken", expected: 0, set: { format: 1 } }]]);
  expect(await gate.keys.list()).toMatchObject({ keys: [{ id: key.id }], unreadable: ["000.broken"] });
});

test("close may be called twice at once", async () => {
  const time = manualTime();
  const gate = newGate({ store: newStore({ clock: time.store.now }), runtime: time.runtime });
  const { secret } = await gate.keys.issue({ quota: 1 });
  const decision = await gate.authorize(presenting(secret));
  const ends = [gate.close(), gate.close()];
  await idle();
  if (decision.allowed) await decision.settle();
  expect(await Promise.all(ends)).toEqual([{ unwritten: 0 }, { unwritten: 0 }]);
});

test("a rule that is asynchronous by mistake refuses, and its rejection ends nothing", async () => {
  const unhandled = vi.fn();
  process.on("unhandledRejection", unhandled);
  const rule = { name: "late", allows: (() => Promise.reject(new Error("late"))) as never };
  const gate = newGate({ store: newStore(), rules: [rule] });
  const { secret } = await gate.keys.issue();
  expect(await gate.authorize(presenting(secret))).toMatchObject({ refusal: { rule: "late" } });
  await new Promise((resolve) => setImmediate(resolve));
  process.off("unhandledRejection", unhandled);
  expect(unhandled).not.toHaveBeenCalled();
});

test.each([[5], [{}], [[null]], [["a", 5]], [true]])(
  "a model that is no text makes nothing throw: %j",
  async (model) => {
    const modelFamily = (name: string): string => name.split(":")[0] as string;
    const gate = newGate({ store: newStore(), modelFamily });
    const limits = [{ requests: 9, windowMs: 60_000, per: "model" as const }];
    const { secret } = await gate.keys.issue({ limits });
    const decision = await gate.authorize({ ...presenting(secret), model: model as never });
    expect(decision).toMatchObject({ allowed: false, refusal: { reason: "model_undetermined" } });
  },
);

test("a modelFamily that throws or returns no text leaves each model a family of its own", async () => {
  const modelFamily = (name: string): string => {
    if (name === "a") throw new Error("broken");
    return 5 as never;
  };
  const gate = newGate({ store: newStore(), modelFamily });
  const { secret } = await gate.keys.issue({ limits: [{ requests: 1, windowMs: 60_000, per: "model" }] });
  const ask = async (model: string) => (await gate.authorize({ ...presenting(secret), model })).allowed;
  expect([await ask("a"), await ask("a"), await ask("b"), await ask("b")]).toEqual([
    true,
    false,
    true,
    false,
  ]);
});

describe("the header of a trusted proxy that names the client", () => {
  const settings = { trustedProxies: ["10.0.0.0/8"], clientAddressHeader: "CF-Connecting-IP" };

  test.each([
    ["10.0.0.1", { "cf-connecting-ip": "192.0.2.7" }, true],
    ["10.0.0.1", { "cf-connecting-ip": "192.0.2.8" }, false],
    ["10.0.0.1", { "cf-connecting-ip": ["192.0.2.7", "192.0.2.7"] }, false],
    ["10.0.0.1", { "cf-connecting-ip": "192.0.2.8, 192.0.2.7" }, false],
    ["10.0.0.1", { "x-forwarded-for": "192.0.2.7" }, false],
    ["10.0.0.1", {}, false],
    ["192.0.2.9", { "cf-connecting-ip": "192.0.2.7" }, false],
    ["192.0.2.7", { "cf-connecting-ip": "192.0.2.9" }, true],
  ])("from %s with %j: allowed %s", async (address, headers, allowed) => {
    const gate = newGate({ store: newStore(), ...settings });
    const { secret } = await gate.keys.issue({ allowedIps: ["192.0.2.7"] });
    const decision = await gate.authorize({ headers: { ...headers, "x-api-key": secret }, address });
    expect(decision.allowed).toBe(allowed);
    if (decision.allowed) await decision.void();
  });
});

test("every member of a policy is in the view of its key", async () => {
  const policy = {
    name: "n",
    allowedIps: ["192.0.2.1"],
    allowedModels: ["a"],
    deniedModels: ["b"],
    scopes: ["c"],
    limits: [{ inFlight: 1 }],
    onCrash: "release",
    metadata: { a: "b" },
  } as const;
  const { key } = await newGate({ store: newStore() }).keys.issue({ ...policy, quota: 7 });
  expect(key).toMatchObject({ ...policy, quota: { limit: 7 } });
});

describe("a document stays within 64 KiB", () => {
  const NOW = 1_800_000_000_000;
  const amount = Number.MAX_SAFE_INTEGER;
  const wide = Array.from({ length: 256 }, (_, n) => `model-${n}-`.padEnd(100, "x"));
  const families = Array.from({ length: 64 }, (_, n) => `${n}`.padEnd(64, "\u{4e00}"));
  const named = <T>(count: number, entry: T) =>
    Object.fromEntries(Array.from({ length: count }, (_, n) => [`abcdefghijklmnopqr.${n}`, entry]));
  const tallied = [amount, amount, amount, amount, amount] as const;
  const outcomes = { settled: tallied, voided: tallied, expired: tallied, refused: tallied };

  /** What every process that there may be holds, and what was collected of as many as are remembered. */
  function crowded(purses: readonly string[]): Pick<KeyRecord, "nodes" | "collected" | "used"> {
    const held = Object.fromEntries(purses.map((purse) => [purse, amount]));
    const node = { seq: amount, open: 9_999, renewByMs: amount, held };
    const spent = { seq: amount, collectedAtMs: amount, mode: "release", collected: held } as const;
    const used = Object.fromEntries(
      purses.filter((purse) => purse.includes("@")).map((purse) => [purse, amount]),
    );
    return { nodes: named(MAX_NODES, node), collected: named(MAX_COLLECTED, spent), used };
  }

  /** The levels of 64 families, and of those that share a bucket. */
  function levelsOf(record: KeyRecord | AccountRecord): KeyRecord["levels"] {
    let ledger = record;
    for (const family of [...families, "one more", "x".repeat(65)]) {
      const outcome = takeRequest(ledger, { families: [family], tokens: 1 }, NOW);
      if (!outcome.fits) throw new Error(outcome.reason);
      ledger = { ...hold(ledger, { node: "me", amounts: outcome.held }, NOW), levels: outcome.levels };
    }
    return ledger.levels;
  }

  function bytesOf(record: KeyRecord | AccountRecord): number {
    return new TextEncoder().encode(JSON.stringify(record)).byteLength;
  }

  /** What is promised stays; what is remembered and counted may go. With tokens held per model by all, nothing more fits. */
  function expectFitted(fullest: KeyRecord | AccountRecord, unit: "requests" | "tokens"): void {
    expect(bytesOf(fullest)).toBeGreaterThan(65_536);
    if (unit === "tokens") {
      expect(() => fitted(fullest)).toThrow(expect.objectContaining({ code: "document_full" }));
      return;
    }
    const shorter = fitted(fullest);
    expect(bytesOf(shorter)).toBeLessThanOrEqual(65_536);
    const { nodes, used, levels, policy } = fullest;
    expect(shorter).toMatchObject({ nodes, used, levels, policy });
    if ("tally" in shorter) {
      expect(Object.keys(shorter.tally?.models ?? {})).toEqual(["other"]);
    } else {
      expect(shorter.collected).toEqual({});
      expect(shorter.forgottenMs).toBe(amount);
    }
  }

  test("because a policy beyond 24 KiB and terms beyond 8 KiB are refused", async () => {
    const { keys, accounts } = newGate({ store: newStore() });
    await expect(keys.issue({ allowedModels: wide })).rejects.toMatchObject({ code: "invalid_options" });
    const members = Array.from({ length: 32 }, (_, n) => [`${n}`.padEnd(64, "x"), "\u{4e00}".repeat(512)]);
    const metadata = Object.fromEntries(members);
    await expect(keys.issue({ metadata })).rejects.toMatchObject({ code: "invalid_options" });
    await expect(accounts.open({ metadata })).rejects.toMatchObject({ code: "invalid_options" });
  });

  test.each([["requests"], ["tokens"]] as const)("a key's, with a limit of %s per model", (unit) => {
    const limit = unit === "requests" ? { requests: 1_000 } : { tokens: 1_000 };
    const policy = {
      allowedModels: wide.map((name) => name.slice(0, 84)),
      limits: [{ ...limit, windowMs: 60_000, per: "model" as const }],
    };
    const key = sampleKey({ ...policy, owner: "x".repeat(256), account: `000.${"x".repeat(64)}` }, 1);
    const levels = levelsOf(key);
    const buckets = unit === "tokens" ? Object.keys(levels) : [];
    const counters = [...families, "", "other"].map((family) => [family, outcomes]);
    const fullest: KeyRecord = {
      ...key,
      ...crowded([KEY_PURSE, ...buckets]),
      levels,
      secrets: Array.from({ length: 3 }, () => ({ digest: "f".repeat(64), hint: "ffff", endsAtMs: amount })),
      alerts: { [KEY_PURSE]: 99 },
      tally: { day: 99_999, models: Object.fromEntries(counters) },
    };
    expect(parseKeyRecord({ id: "key:1", version: 1, body: fullest as never })).toEqual(fullest);
    expectFitted(fullest, unit);
  });

  test.each([["requests"], ["tokens"]] as const)("an account's, with a limit of %s per model", (unit) => {
    const limit = unit === "requests" ? { requests: 1_000 } : { tokens: 1_000 };
    const plan = { name: "x".repeat(64), allowance: amount };
    const account = sampleAccount(
      {
        owner: "x".repeat(256),
        metadata: Object.fromEntries(wide.slice(0, 13).map((name) => [name.slice(0, 64), "x".repeat(512)])),
        limits: [{ ...limit, windowMs: 60_000, per: "model" as const }],
        payAsYouGo: { capPerCycle: amount },
        subscription: { plan },
      },
      NOW,
    );
    const levels = levelsOf(account);
    const purses = ["1.99998", "1.99999"].flatMap((cycle) => [`subscription@${cycle}`, `payg@${cycle}`]);
    const fullest: AccountRecord = {
      ...account,
      ...crowded([BALANCE_PURSE, ...purses, ...(unit === "tokens" ? Object.keys(levels) : [])]),
      levels,
      credited: amount,
      alerts: Object.fromEntries([BALANCE_PURSE, ...purses].map((purse) => [purse, amount])),
      closed: { "1.99998": amount, "1.99999": amount },
    };
    expect(parseAccountRecord({ id: "account:1", version: 1, body: fullest as never })).toEqual(fullest);
    expectFitted(fullest, unit);
  });

  test("a closed day's", () => {
    const counters = [...families, "", "other"].map((family) => [family, outcomes]);
    const ids = { keyId: "x".repeat(28), accountId: `000.${"x".repeat(64)}` };
    const day = { format: 1, ...ids, day: 99_999, models: Object.fromEntries(counters) };
    expect(new TextEncoder().encode(JSON.stringify(day)).byteLength).toBeLessThan(65_536);
  });

  test("which is only measured where there is much, and counters go before memory", () => {
    const few = sampleKey({}, 1);
    expect(fitted(few)).toBe(few);
    const counters = families.map((family) => [`${family}`, outcomes]);
    const tally = { day: 1, models: Object.fromEntries(counters) };
    const policy = { allowedModels: wide.map((name) => name.slice(0, 84)) };
    const { nodes, collected } = crowded([KEY_PURSE]);
    const crowd = { ...sampleKey(policy, 1), nodes, collected, tally };
    const shorter = fitted(crowd);
    expect(shorter).toMatchObject({ nodes, collected });
    expect(Object.keys(shorter.tally?.models ?? {})).toEqual(["other"]);
  });
});
