import { describe, expect, test } from "vitest";
import type { Allowed, Decision, Refused } from "../../src/decision.js";
import type { IssuedKey } from "../../src/keyring.js";
import { createKeystile, type Keystile } from "../../src/keystile.js";
import type { KeystileOptions } from "../../src/options.js";
import type { IssueInput } from "../../src/policy-input.js";
import { digestSecret } from "../../src/secret.js";
import { newGate } from "../setup/new-gate.js";
import { idle } from "../setup/new-store.js";
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
const unknownSecret = `sk-${"abcDEF0123".repeat(5)}`;
const faults: readonly Fault[] = ["fails before", "fails after", "hangs before", "hangs after"];

describe("who is asking", () => {
  test.each<[string, object, string, string]>([
    ["nothing", {}, "credential_missing", "missing_api_key"],
    ["Basic", { authorization: "Basic abc" }, "credential_malformed", "invalid_api_key"],
    ["an empty field", { authorization: "" }, "credential_malformed", "invalid_api_key"],
    ["no key of ours", { authorization: "Bearer eyJhbGciOi" }, "credential_malformed", "invalid_api_key"],
    ["too short", { "x-api-key": `sk-${"a".repeat(31)}` }, "credential_malformed", "invalid_api_key"],
    ["too long", { "x-api-key": `sk-${"a".repeat(513)}` }, "credential_malformed", "invalid_api_key"],
    [
      "two in one field",
      { "x-api-key": `${unknownSecret}, sk-x` },
      "credential_ambiguous",
      "invalid_api_key",
    ],
    [
      "two fields",
      { "x-api-key": [unknownSecret, unknownSecret] },
      "credential_ambiguous",
      "invalid_api_key",
    ],
  ])("%s: 401, without asking the store", async (_, headers, reason, code) => {
    const { keystile, store } = bench();
    const decision = await keystile.authorize({ headers: headers as Record<string, string> });
    expect(decision).toEqual({
      allowed: false,
      limits: [],
      refusal: expect.objectContaining({ reason, code, status: 401, type: "authentication_error" }),
    });
    expect(store.calls).toEqual([]);
  });

  test("a key nobody issued: 401, and nothing of it is kept", async () => {
    const { keystile, store } = bench();
    for (let attempt = 1; attempt <= 2; attempt++) {
      const decision = await keystile.authorize(presenting(unknownSecret));
      expect(decision).toMatchObject({ refusal: { reason: "key_unknown", code: "invalid_api_key" } });
      // Asked again each time: a key that is issued in the next moment must work.
      expect(store.calls).toHaveLength(attempt);
    }
    expect(await store.documents()).toEqual([]);
  });

  test("a flood of unknown keys is looked up in few reads, and one of them may exist by then", async () => {
    const { keystile, store } = bench();
    const { secret } = await keystile.keys.issue();
    store.calls = [];
    const secrets = Array.from({ length: 300 }, (_, at) => `sk-${String(at).padStart(40, "x")}`);
    const decisions = await Promise.all(
      [...secrets, secret].map((each) => keystile.authorize(presenting(each))),
    );
    expect(decisions.filter(({ allowed }) => allowed)).toHaveLength(1);
    expect(store.calls.filter(({ kind }) => kind === "read").length).toBeLessThanOrEqual(3);
  });

  test("a bearer decides alone, also when it is bad", async () => {
    const { keystile } = bench();
    const { secret } = await keystile.keys.issue();
    const both = { authorization: `Bearer ${unknownSecret}`, "x-api-key": secret };
    expect(reasonOf(await keystile.authorize({ headers: both }))).toBe("key_unknown");
    expect((await keystile.authorize({ headers: { "x-api-key": secret } })).allowed).toBe(true);
  });

  test.each<[string, (secret: string) => unknown]>([
    ["fetch headers", (secret) => new Headers({ Authorization: `bearer  ${secret}` })],
    ["a frozen record", (secret) => Object.freeze({ Authorization: `Bearer ${secret}` })],
    ["rawHeaders", (secret) => Object.freeze(["Host", "x", "X-API-Key", secret])],
    ["headersDistinct", (secret) => ({ "x-api-key": Object.freeze([secret]) })],
    ["a record without prototype", (secret) => Object.assign(Object.create(null), { "x-api-key": secret })],
  ])("reads %s", async (_, headersOf) => {
    const { keystile } = bench();
    const { secret } = await keystile.keys.issue();
    expect((await keystile.authorize({ headers: headersOf(secret) as Headers })).allowed).toBe(true);
  });

  test.each<[string, unknown]>([
    ["null", null],
    ["undefined", undefined],
    ["text", "authorization: x"],
    ["a number", 7],
    [
      "a trap",
      Object.defineProperty({}, "authorization", {
        enumerable: true,
        get() {
          throw new Error("trap");
        },
      }),
    ],
  ])("headers that are %s hold no credential", async (_, headers) => {
    expect(reasonOf(await bench().keystile.authorize({ headers: headers as Headers }))).toBe(
      "credential_missing",
    );
  });

  test("a second Authorization is refused, in whatever form it comes", async () => {
    const { keystile } = bench();
    const { secret } = await keystile.keys.issue();
    const value = `Bearer ${secret}`;
    const fetched = new Headers({ authorization: value });
    fetched.append("authorization", value);
    for (const headers of [
      fetched,
      ["authorization", value, "Authorization", value],
      { authorization: [value, value] },
    ]) {
      expect(reasonOf(await keystile.authorize({ headers }))).toBe("credential_ambiguous");
    }
  });

  test("tells who was identified, also in a refusal once the key was found", async () => {
    const { keystile } = bench();
    const input = { owner: "acme", name: "build", metadata: { plan: "pro" }, quota: 1 };
    const { secret, key } = await keystile.keys.issue(input);
    const identity = { id: key.id, owner: "acme", name: "build", metadata: { plan: "pro" } };
    expect(await keystile.identify(presenting(secret))).toMatchObject({ allowed: true, key: identity });
    expect((await keystile.authorize(presenting(secret))).key).toEqual(identity);
    expect((await keystile.authorize(presenting(secret))).key).toEqual(identity);
    await keystile.keys.revoke(key.id);
    expect((await keystile.authorize(presenting(secret))).key).toEqual(identity);
  });
});

describe("options about secrets", () => {
  test("checksum: require refuses a typing error before the store is asked, off does not", async () => {
    const { keystile, store, another } = bench({ checksum: "require" });
    const { secret } = await keystile.keys.issue();
    const last = secret.at(-1) === "0" ? "1" : "0";
    const mistyped = secret.slice(0, -1) + last;
    store.calls = [];
    expect(reasonOf(await keystile.authorize(presenting(mistyped)))).toBe("credential_malformed");
    expect(store.calls).toEqual([]);
    expect(reasonOf(await another({ checksum: "off" }).authorize(presenting(mistyped)))).toBe("key_unknown");
    expect((await keystile.authorize(presenting(secret))).allowed).toBe(true);
  });

  test("keys made elsewhere work unless a checksum is required", async () => {
    const { keystile, store, another } = bench();
    const { key, secret } = await keystile.keys.issue();
    await damage(store, key.id, (body) => ({
      ...body,
      secrets: [{ digest: digestSecret(unknownSecret), hint: "0123", endsAtMs: null }],
    }));
    await store.write([
      [{ id: `secret:${digestSecret(unknownSecret)}`, expected: 0, set: { format: 1, keyId: key.id } }],
    ]);
    expect((await keystile.authorize(presenting(unknownSecret))).allowed).toBe(true);
    expect(reasonOf(await keystile.authorize(presenting(secret)))).toBe("key_unknown");
    const strict = another({ checksum: "require" });
    expect(reasonOf(await strict.authorize(presenting(unknownSecret)))).toBe("credential_malformed");
  });

  test("a ring of peppers verifies what an older member signed, and nothing else does", async () => {
    const { keystile, another } = bench({ peppers: [pepperA] });
    const { secret } = await keystile.keys.issue();
    const outcome = async (peppers: KeystileOptions["peppers"]) =>
      reasonOf(await another({ peppers: peppers ?? [] }).authorize(presenting(secret)));
    expect(await outcome([pepperA])).toBe("allowed");
    expect(await outcome([pepperB, pepperA])).toBe("allowed");
    expect(await outcome([{ ...pepperA, id: "renamed" }])).toBe("allowed");
    expect(await outcome([pepperB])).toBe("key_unknown");
    expect(await outcome([])).toBe("key_unknown");
  });

  test("rotating under a new first pepper makes the old one dispensable", async () => {
    const { keystile, another } = bench({ peppers: [pepperA] });
    const { key } = await keystile.keys.issue();
    const { secret } = await another({ peppers: [pepperB, pepperA] }).keys.rotate(key.id);
    expect((await another({ peppers: [pepperB] }).authorize(presenting(secret))).allowed).toBe(true);
    expect(reasonOf(await keystile.authorize(presenting(secret)))).toBe("key_unknown");
  });

  test("other prefixes replace the usual ones", async () => {
    const { keystile } = bench({ prefixes: { standard: "acme_" } });
    const { secret } = await keystile.keys.issue();
    expect(secret).toMatch(/^acme_/);
    expect((await keystile.authorize(presenting(secret))).allowed).toBe(true);
    expect(reasonOf(await keystile.authorize(presenting(secret.replace("acme_", "sk-"))))).toBe(
      "credential_malformed",
    );
  });
});

describe("the client's address", () => {
  const list = { allowedIps: ["192.0.2.7"] };
  const forwarded = (secret: string, hops: string) => [
    "authorization",
    `Bearer ${secret}`,
    "X-Forwarded-For",
    hops,
  ];

  test.each([
    ["the peer itself", [], "192.0.2.7", undefined, "allowed"],
    ["another peer", [], "192.0.2.8", undefined, "address_not_allowed"],
    ["no peer", [], undefined, undefined, "address_not_allowed"],
    ["a header without a trusted proxy", [], "10.0.0.1", "192.0.2.7", "address_not_allowed"],
    ["a header of a peer that is no proxy", ["10.0.0.1"], "10.0.0.2", "192.0.2.7", "address_not_allowed"],
    ["a header of a proxy", ["10.0.0.1"], "10.0.0.1", "192.0.2.7", "allowed"],
    [
      "what a client claims further left",
      ["10.0.0.1"],
      "10.0.0.1",
      "192.0.2.7, 198.51.100.1",
      "address_not_allowed",
    ],
    ["a chain of proxies", ["10.0.0.0/8"], "10.0.0.1", "192.0.2.7, 10.9.9.9", "allowed"],
    ["an unreadable hop", ["10.0.0.0/8"], "10.0.0.1", "192.0.2.7, unknown", "address_not_allowed"],
  ])("%s", async (_, trustedProxies, address, hops, expected) => {
    const { keystile } = bench({ trustedProxies });
    const { secret } = await keystile.keys.issue(list);
    const headers = hops === undefined ? presenting(secret).headers : forwarded(secret, hops);
    expect(reasonOf(await keystile.authorize({ headers, address }))).toBe(expected);
  });
});

describe("two phases", () => {
  test.each<[string, IssueInput, string]>([
    ["expired", { expiresAt: Date.UTC(2025, 0, 15, 12, 0, 1) }, "key_expired"],
    ["elsewhere", { allowedIps: ["192.0.2.7"] }, "address_not_allowed"],
  ])("a key that is %s is refused by the first, before a body is read", async (_, input, reason) => {
    const { keystile, store, time } = bench();
    const { secret } = await keystile.keys.issue({ ...input, quota: 0, allowedModels: ["none"] });
    await time.advance(1_000);
    store.calls = [];
    expect(reasonOf(await keystile.identify(presenting(secret)))).toBe(reason);
    expect(store.calls.filter(({ kind }) => kind === "write")).toEqual([]);
  });

  test("a key that is known here to be disabled is refused by the first, by a fresh read", async () => {
    const { keystile, store, another } = bench({}, createKeystile);
    const { secret, key } = await keystile.keys.issue();
    await settleAll([await keystile.authorize(presenting(secret))]);
    await keystile.keys.disable(key.id);
    store.calls = [];
    expect(reasonOf(await keystile.identify(presenting(secret)))).toBe("key_disabled");
    expect(store.calls).toEqual([{ kind: "read", ids: [`key:${key.id}`] }]);
    await another().keys.enable(key.id);
    expect(reasonOf(await keystile.identify(presenting(secret)))).toBe("allowed");
  });

  test.each<[string, (b: Bench, issued: IssuedKey) => Promise<unknown>, string]>([
    ["revoked", ({ another }, { key }) => another().keys.revoke(key.id), "key_revoked"],
    ["disabled", ({ another }, { key }) => another().keys.disable(key.id), "key_disabled"],
    ["rotated away", ({ another }, { key }) => another().keys.rotate(key.id), "key_unknown"],
    [
      "purged",
      async ({ another }, { key }) => {
        const { keys } = another();
        await keys.revoke(key.id);
        await keys.purge(key.id);
      },
      "key_unknown",
    ],
    [
      "bound to an address",
      ({ another }, { key }) => another().keys.update(key.id, { allowedIps: ["192.0.2.7"] }),
      "address_not_allowed",
    ],
    ["used up", ({ another }, { key }) => another().keys.update(key.id, { quota: 0 }), "key_quota_exhausted"],
    ["expired", ({ time }) => time.advance(1_000), "key_expired"],
  ])("all is judged again in the second: %s in between", async (_, change, reason) => {
    const b = bench();
    const issued = await b.keystile.keys.issue({ expiresAt: b.time.store.now() + 1_000 });
    const arrival = await b.keystile.identify(presenting(issued.secret));
    await change(b, issued);
    if (!arrival.allowed) throw new Error("refused too early");
    expect(reasonOf(await arrival.admit())).toBe(reason);
  });

  test("one arrival can be admitted more than once, each with its own hold", async () => {
    const { keystile } = bench();
    const { secret, key } = await keystile.keys.issue({ quota: 10 });
    const arrival = await keystile.identify(presenting(secret));
    if (!arrival.allowed) throw new Error("refused");
    await arrival.admit({ cost: 3 });
    await arrival.admit({ cost: 4 });
    expect(await quotaOf(keystile, key.id)).toMatchObject({ held: 7 });
  });
});

describe("what another instance changed", () => {
  test.each<[string, IssueInput, object, (keys: Keystile["keys"], id: string) => Promise<unknown>]>([
    ["topped up", { quota: 0 }, {}, (keys, id) => keys.update(id, { quota: 5 })],
    ["enabled", {}, {}, (keys, id) => keys.enable(id)],
    [
      "widened for an address",
      { allowedIps: ["192.0.2.7"] },
      {},
      (keys, id) => keys.update(id, { allowedIps: null }),
    ],
    [
      "widened for a model",
      { allowedModels: ["a"] },
      { model: "b" },
      (keys, id) => keys.update(id, { allowedModels: null }),
    ],
    [
      "sped up",
      { limits: [{ requests: 1, windowMs: 1_000 }] },
      {},
      (keys, id) => keys.update(id, { limits: [] }),
    ],
  ])("a key just %s is not refused for a stale copy", async (name, input, request, change) => {
    const { keystile, another } = bench();
    const other = another();
    const { secret, key } = await keystile.keys.issue(input);
    if (name === "enabled") await keystile.keys.disable(key.id);
    if (name === "sped up") await keystile.authorize(presenting(secret));
    expect((await keystile.authorize({ ...presenting(secret), ...request })).allowed).toBe(false);
    await change(other.keys, key.id);
    expect((await keystile.authorize({ ...presenting(secret), ...request })).allowed).toBe(true);
  });

  test.each([0, 1])("a key just revoked is refused at once, at a cost of %i", async (cost) => {
    const { keystile, another } = bench();
    const { secret, key } = await keystile.keys.issue();
    expect((await keystile.authorize({ ...presenting(secret), cost })).allowed).toBe(true);
    await another().keys.revoke(key.id);
    expect(reasonOf(await keystile.authorize({ ...presenting(secret), cost }))).toBe("key_revoked");
  });

  test.each(["warm", "cold"])(
    "a key just purged is unknown to an instance that is %s, not a fault",
    async (cache) => {
      const { keystile, another } = bench();
      const { secret, key } = await keystile.keys.issue();
      if (cache === "warm") await keystile.authorize(presenting(secret));
      const { keys } = another();
      await keys.revoke(key.id);
      await keys.purge(key.id);
      expect(reasonOf(await keystile.authorize(presenting(secret)))).toBe("key_unknown");
    },
  );

  test("a key that is purged between the two reads of a request is unknown to it, not a fault", async () => {
    const { keystile, another, store } = bench();
    const { keys } = another();
    const { secret, key } = await keys.issue();
    await keys.revoke(key.id);
    let reads = 0;
    store.onCall = () => (++reads === 2 ? keys.purge(key.id) : undefined);
    expect(reasonOf(await keystile.authorize(presenting(secret)))).toBe("key_unknown");
  });

  test("a secret just issued works everywhere", async () => {
    const { keystile, another } = bench();
    const other = another();
    const { secret } = await keystile.keys.issue();
    expect((await other.authorize(presenting(secret))).allowed).toBe(true);
  });
});

describe("what it costs the store", () => {
  test("three calls for a key not seen before, one for a key that was", async () => {
    const { keystile, store, another } = bench({}, createKeystile);
    const { secret, key } = await another().keys.issue({ quota: 100, limits: [{ inFlight: 50 }] });
    store.calls = [];
    await keystile.authorize(presenting(secret));
    expect(store.calls).toEqual([
      { kind: "read", ids: [`secret:${digestSecret(secret)}`] },
      { kind: "read", ids: [`key:${key.id}`] },
      { kind: "write", ids: [`key:${key.id}`] },
    ]);
    store.calls = [];
    await keystile.authorize(presenting(secret));
    expect(store.calls).toEqual([{ kind: "write", ids: [`key:${key.id}`] }]);
  });

  test.each<[string, IssueInput, number, boolean]>([
    ["refused by the quota", { quota: 0 }, 1, false],
    ["of cost 0 without limits", {}, 0, true],
  ])("one check for a warm request %s, which writes nothing", async (_, input, cost, allowed) => {
    const { keystile, store } = bench({}, createKeystile);
    const { secret } = await keystile.keys.issue(input);
    await keystile.authorize({ ...presenting(secret), cost });
    const documents = await store.documents();
    store.calls = [];
    expect((await keystile.authorize({ ...presenting(secret), cost })).allowed).toBe(allowed);
    expect(store.calls).toHaveLength(1);
    expect(await store.documents()).toEqual(documents);
  });

  test("requests at a time share their writes, and still never more pass than fit", async () => {
    const { keystile, store } = bench({}, createKeystile);
    const { secret, key } = await keystile.keys.issue({ quota: 40 });
    await settleAll([await keystile.authorize(presenting(secret))]);
    store.calls = [];
    const decisions = await atOnce(100, () => keystile.authorize(presenting(secret)));
    expect(decisions.filter(({ allowed }) => allowed)).toHaveLength(39);
    expect(store.calls.length).toBeLessThanOrEqual(2);
    store.calls = [];
    await settleAll(decisions);
    expect(store.calls.length).toBeLessThanOrEqual(2);
    expect(await quotaOf(keystile, key.id)).toMatchObject({ used: 40, held: 0 });
  });

  test("requests of many keys share a write per lane", async () => {
    const { keystile, store } = bench({}, createKeystile);
    const secrets = await atOnce(60, async () => (await keystile.keys.issue()).secret);
    await Promise.all(secrets.map((secret) => keystile.authorize(presenting(secret))));
    store.calls = [];
    await Promise.all(secrets.map((secret) => keystile.authorize(presenting(secret))));
    expect(store.calls.length).toBeLessThanOrEqual(8);
  });

  test("of several instances at once, no more pass than fit", async () => {
    const { keystile, another, time } = bench();
    const instances = [keystile, another(), another()];
    const { secret, key } = await keystile.keys.issue({ quota: 25 });
    const asked = atOnce(60, (at) => (instances[at % 3] as Keystile).authorize(presenting(secret)));
    await time.advance(1_000);
    const decisions = await asked;
    expect(decisions.filter(({ allowed }) => allowed)).toHaveLength(25);
    expect(await quotaOf(keystile, key.id)).toMatchObject({ used: 0, held: 25, remaining: 0 });
  });

  test.each<[string, IssueInput, object]>([
    ["key_quota_exhausted", { quota: 4 }, { cost: 5 }],
    ["model_not_allowed", { allowedModels: ["a"] }, { model: "b" }],
    ["model_undetermined", { allowedModels: ["a"] }, {}],
    ["address_not_allowed", { allowedIps: ["192.0.2.7"] }, { address: "192.0.2.8" }],
    ["key_expired", { expiresAt: Date.UTC(2025, 0, 15, 12, 0, 1) }, {}],
  ])("a refusal, %s, changes no document", async (reason, input, request) => {
    const { keystile, store, time } = bench();
    const { secret } = await keystile.keys.issue({ limits: [{ requests: 1, windowMs: 60_000 }], ...input });
    await time.advance(1_000);
    const documents = await store.documents();
    for (let attempt = 0; attempt < 3; attempt++) {
      expect(reasonOf(await keystile.authorize({ ...presenting(secret), ...request }))).toBe(reason);
    }
    expect(await store.documents()).toEqual(documents);
  });
});

describe("a cost that is none", () => {
  test.each([1.5, -1, Number.NaN, 2 ** 53, "1", null])(
    "%j is a TypeError and consumes nothing",
    async (cost) => {
      const { keystile, store } = bench();
      const { secret } = await keystile.keys.issue({ quota: 10 });
      const documents = await store.documents();
      const request = { ...presenting(secret), cost: cost as number };
      await expect(keystile.authorize(request)).rejects.toThrow(TypeError);
      expect(await store.documents()).toEqual(documents);
    },
  );

  test("leaves an open request open", async () => {
    const { keystile } = bench();
    const { decision, key } = await admitted(keystile, { quota: 10 }, { cost: 4 });
    await expect(async () => decision.settle(-1)).rejects.toThrow(TypeError);
    expect(() => decision.observe(0.5)).toThrow(TypeError);
    expect(await quotaOf(keystile, key.id)).toMatchObject({ used: 0, held: 4 });
    await decision.settle(3);
    expect(await quotaOf(keystile, key.id)).toMatchObject({ used: 3, held: 0 });
  });
});

describe("the end of a request", () => {
  test.each<[string, (decision: Allowed) => Promise<unknown>, number]>([
    ["settled at the estimate", (decision) => decision.settle(), 4],
    ["settled lower", (decision) => decision.settle(1), 1],
    ["settled at 0", (decision) => decision.settle(0), 0],
    ["settled above the estimate", (decision) => decision.settle(9), 9],
    ["voided", (decision) => decision.void(), 0],
    ["settled twice", async (decision) => [await decision.settle(1), await decision.settle(9)], 1],
    ["settled twice at once", (decision) => Promise.all([decision.settle(2), decision.settle(9)]), 2],
    ["voided twice", async (decision) => [await decision.void(), await decision.void()], 0],
    ["settled after it was voided", async (decision) => [await decision.void(), await decision.settle(9)], 0],
    ["voided after it was settled", async (decision) => [await decision.settle(3), await decision.void()], 3],
    ["observed, then settled", (decision) => observing(decision, 1, 3).settle(), 3],
    ["observed, then settled at a cost", (decision) => observing(decision, 3).settle(2), 2],
    ["observed as 0, then settled", (decision) => observing(decision, 0).settle(), 0],
    ["observed, then voided", (decision) => observing(decision, 3).void(), 0],
  ])("%s", async (_, end, used) => {
    const { keystile } = bench();
    const { decision, key } = await admitted(keystile, { quota: 10 }, { cost: 4 });
    await end(decision);
    expect(await quotaOf(keystile, key.id)).toMatchObject({ used, held: 0 });
  });

  test("above the quota is debt: the next request is refused, elsewhere too", async () => {
    const { keystile, another } = bench();
    const { decision, secret } = await admitted(keystile, { quota: 10 }, { cost: 4 });
    await decision.settle(12);
    for (const instance of [keystile, another()]) {
      const next = await instance.authorize({ ...presenting(secret), cost: 0 });
      expect(next).toMatchObject({ refusal: { reason: "key_quota_exhausted", status: 402, held: false } });
    }
  });

  test("something that was free may turn out to have cost something", async () => {
    const { keystile, store } = bench();
    const { decision, key } = await admitted(keystile, {}, { cost: 0 });
    store.calls = [];
    await decision.void();
    expect(store.calls).toEqual([]);
    const second = await admitted(keystile, {}, { cost: 0 });
    await second.decision.settle(7);
    expect(await quotaOf(keystile, second.key.id)).toMatchObject({ used: 7, held: 0 });
    expect(await quotaOf(keystile, key.id)).toMatchObject({ used: 0 });
  });

  test("resolves when it is stored, and until then the estimate stays held", async () => {
    const { keystile, store, another } = bench();
    const { decision, key } = await admitted(keystile, { quota: 10 }, { cost: 4 });
    const gate = gated(store);
    let isStored = false;
    const ending = decision.settle(1).then(() => {
      isStored = true;
    });
    await idle();
    expect(isStored).toBe(false);
    expect(await quotaOf(another(), key.id)).toMatchObject({ used: 0, held: 4 });
    gate.open();
    await ending;
    expect(await quotaOf(another(), key.id)).toMatchObject({ used: 1, held: 0 });
  });

  test("frees the places of requests in flight", async () => {
    const { keystile } = bench();
    const { decision, secret } = await admitted(keystile, { limits: [{ inFlight: 1 }] }, {});
    expect(await keystile.authorize(presenting(secret))).toMatchObject({
      refusal: { reason: "concurrency_limited", status: 429, retryAfterMs: 1_000 },
    });
    await decision.void();
    expect((await keystile.authorize(presenting(secret))).allowed).toBe(true);
  });

  test("a decision says what was judged and where everything stands", async () => {
    const { keystile } = bench();
    const limits = [{ requests: 2, windowMs: 1_000 }];
    const { decision } = await admitted(
      keystile,
      { quota: 10, limits, allowedModels: ["a", "b"], deniedModels: ["b"] },
      { cost: 4, model: "a" },
    );
    expect(decision).toMatchObject({
      model: "a",
      estimate: 4,
      limits: [{ unit: "requests", limit: 2, remaining: 1 }],
      quota: { limit: 10, used: 0, held: 4, remaining: 6 },
    });
    expect(["a", "b", "c"].map((model) => decision.canUseModel(model))).toEqual([true, false, false]);
  });

  test("a request that ends neither way is settled at what was observed, to the millisecond", async () => {
    const { keystile, time } = bench({ requestTimeoutMs: 2_000, holdMs: 6_000 });
    const first = await admitted(keystile, { quota: 10 }, { cost: 4 });
    const second = await admitted(keystile, { quota: 10 }, { cost: 4 });
    first.decision.observe(3);
    await time.advance(1_999);
    expect(await quotaOf(keystile, first.key.id)).toMatchObject({ used: 0, held: 4 });
    await time.advance(1);
    await idle();
    expect(await quotaOf(keystile, first.key.id)).toMatchObject({ used: 3, held: 0 });
    expect(await quotaOf(keystile, second.key.id)).toMatchObject({ used: 4, held: 0 });
    await first.decision.settle(1);
    expect(await quotaOf(keystile, first.key.id)).toMatchObject({ used: 3 });
  });
});

describe("a process and its holds", () => {
  test("a request longer than the holds live is renewed in the background", async () => {
    const { keystile, another, time } = bench({ holdMs: 6_000, storeTimeoutMs: 1_000 });
    const { decision, key } = await admitted(keystile, { quota: 10, onCrash: "release" }, { cost: 4 });
    await time.advance(60_000);
    expect(await quotaOf(another(), key.id)).toMatchObject({ used: 0, held: 4 });
    await decision.settle(3);
    expect(await quotaOf(another(), key.id)).toMatchObject({ used: 3, held: 0 });
  });

  test.each([
    ["charge", 4, 6],
    ["release", 0, 10],
  ] as const)("what a dead process held: %s", async (onCrash, used, left) => {
    const { keystile, store, another, time } = bench({ holdMs: 6_000, storeTimeoutMs: 1_000 });
    const { key, secret } = await admitted(keystile, { quota: 10, onCrash }, { cost: 4 });
    // From here on the first process reaches the store no more.
    const dead = store.onCall;
    let isDead = true;
    store.onCall = (call) => (isDead ? "fails before" : dead(call));
    await time.advance(6_000);
    isDead = false;
    const other = another();
    expect(await quotaOf(other, key.id)).toMatchObject({ used, held: 0 });
    expect((await other.authorize({ ...presenting(secret), cost: left })).allowed).toBe(true);
    expect((await other.authorize({ ...presenting(secret), cost: 1 })).allowed).toBe(false);
  });

  test.each([
    ["charge", 1],
    ["release", 1],
    ["charge", 9],
  ] as const)(
    "a process that comes back corrects what was booked for it (%s, %i)",
    async (onCrash, actual) => {
      const { keystile, store, another, time } = bench({ holdMs: 6_000, storeTimeoutMs: 1_000 });
      const { decision, key, secret } = await admitted(keystile, { quota: 10, onCrash }, { cost: 4 });
      store.onCall = () => "fails before";
      await time.advance(7_000);
      store.onCall = () => undefined;
      const other = another();
      await settleAll([await other.authorize({ ...presenting(secret), cost: 2 })]);
      const ending = decision.settle(actual);
      await time.advance(10_000);
      await ending;
      expect(await quotaOf(other, key.id)).toMatchObject({ used: actual + 2, held: 0 });
    },
  );
});

describe("an outage", () => {
  test.each(faults)("a read that %s is a fault, and nothing is said about the key", async (fault) => {
    const { keystile, another, store, time } = bench();
    const { secret } = await another().keys.issue();
    store.onCall = ({ kind }) => (kind === "read" ? fault : undefined);
    const outcome = settledOf(keystile.authorize(presenting(secret)));
    await time.advance(5_000);
    expect(await outcome).toMatchObject({ error: { code: "store_unavailable" } });
    store.onCall = () => undefined;
    expect((await keystile.authorize(presenting(secret))).allowed).toBe(true);
  });

  test.each(faults)("a write that %s is a fault, and costs nothing in the end", async (fault) => {
    const { keystile, store, time } = bench();
    const { secret, key } = await keystile.keys.issue({ quota: 10, limits: [{ inFlight: 1 }] });
    await settleAll([await keystile.authorize(presenting(secret))]);
    store.onCall = ({ kind }) => (kind === "write" ? fault : undefined);
    const outcome = settledOf(keystile.authorize({ ...presenting(secret), cost: 4 }));
    await time.advance(5_000);
    expect(await outcome).toMatchObject({ error: { code: "store_unavailable" } });
    const early = keystile.flush(1_000);
    await time.advance(1_000);
    // What happened and is only not acknowledged is found by reading, and given back by then.
    expect(await early).toBe(fault === "fails after" ? 0 : 1);
    store.onCall = () => undefined;
    const flushed = keystile.flush();
    await time.advance(5_000);
    expect(await flushed).toBe(0);
    expect(await quotaOf(keystile, key.id)).toMatchObject({ used: 1, held: 0 });
    expect((await keystile.authorize({ ...presenting(secret), cost: 9 })).allowed).toBe(true);
  });

  test.each(faults)("a settlement whose write %s is booked once, when the store is back", async (fault) => {
    const { keystile, store, time } = bench();
    const { decision, key } = await admitted(keystile, { quota: 10 }, { cost: 4 });
    store.onCall = ({ kind }) => (kind === "write" ? fault : undefined);
    const ending = decision.settle(3);
    await time.advance(12_000);
    store.onCall = () => undefined;
    await time.advance(12_000);
    await ending;
    expect(await quotaOf(keystile, key.id)).toMatchObject({ used: 3, held: 0 });
  });

  test("a store that takes 1.5 s answers late, but it answers", async () => {
    const { keystile, store, time } = bench();
    const { secret, key } = await keystile.keys.issue({ quota: 10 });
    await settleAll([await keystile.authorize(presenting(secret))]);
    store.onCall = () => new Promise<void>((resolve) => time.runtime.setTimer(resolve, 1_500));
    const outcome = settledOf(keystile.authorize(presenting(secret)));
    await time.advance(10_000);
    expect(await outcome).toMatchObject({ value: { allowed: true } });
    store.onCall = () => undefined;
    expect(await quotaOf(keystile, key.id)).toMatchObject({ used: 1, held: 1 });
  });

  test("a decision made by a wrong clock is made again by the right one, and held once", async () => {
    const { keystile, store, time } = bench();
    const { secret, key } = await keystile.keys.issue({ expiresAt: time.store.now() + 5_000, quota: 10 });
    await settleAll([await keystile.authorize(presenting(secret))]);
    time.store.advance(4_000);
    expect((await keystile.authorize(presenting(secret))).allowed).toBe(true);
    await keystile.flush();
    expect(await quotaOf(keystile, key.id)).toMatchObject({ used: 1, held: 1 });
    time.store.advance(4_000);
    expect(reasonOf(await keystile.authorize(presenting(secret)))).toBe("key_expired");
    await keystile.flush();
    expect(await quotaOf(keystile, key.id)).toMatchObject({ used: 1, held: 1 });
    expect(store.calls.length).toBeGreaterThan(0);
  });

  test.each<[string, (body: Record<string, unknown>) => unknown, string]>([
    ["that does not parse", () => "junk", "document_invalid"],
    ["without a policy", ({ policy: _, ...body }) => body, "document_invalid"],
    [
      "with a negative quota",
      (body) => ({ ...body, policy: { ...(body["policy"] as object), quota: -1 } }),
      "document_invalid",
    ],
    ["of a later format", (body) => ({ ...body, format: 2 }), "format_newer"],
    ["from the future", (body) => ({ ...body, latestMs: Date.UTC(2030, 0, 1) }), "document_invalid"],
  ])("a key document %s is a fault, warm and cold", async (_, change, code) => {
    const { keystile, store, another } = bench();
    const { secret, key } = await keystile.keys.issue();
    await keystile.authorize(presenting(secret));
    await damage(store, key.id, change);
    for (const instance of [keystile, another()]) {
      await expect(instance.authorize(presenting(secret))).rejects.toMatchObject({ code });
    }
  });

  test("a key document that went missing is a fault, and not an unknown key", async () => {
    const { keystile, store, another } = bench();
    const { secret, key } = await keystile.keys.issue();
    await keystile.authorize(presenting(secret));
    await damage(store, key.id, () => null);
    for (const instance of [keystile, another()]) {
      await expect(instance.authorize(presenting(secret))).rejects.toMatchObject({
        code: "document_invalid",
      });
    }
  });
});

describe("close", () => {
  test("refuses what comes later with a fault, in both phases", async () => {
    const { keystile } = bench();
    const { secret } = await keystile.keys.issue();
    const arrival = await keystile.identify(presenting(secret));
    if (!arrival.allowed) throw new Error("refused");
    expect(await keystile.close()).toEqual({ unwritten: 0 });
    await expect(keystile.identify(presenting(secret))).rejects.toMatchObject({ code: "closed" });
    await expect(keystile.authorize(presenting(secret))).rejects.toMatchObject({ code: "closed" });
    await expect(keystile.authorize({ headers: {} })).rejects.toMatchObject({ code: "closed" });
    await expect(arrival.admit()).rejects.toMatchObject({ code: "closed" });
  });

  test("waits for open requests, and for what they book", async () => {
    const { keystile, another } = bench();
    const { decision, key } = await admitted(keystile, { quota: 10 }, { cost: 4 });
    let isClosed = false;
    const closing = keystile.close().then((result) => {
      isClosed = true;
      return result;
    });
    await idle();
    expect(isClosed).toBe(false);
    void decision.settle(3);
    expect(await closing).toEqual({ unwritten: 0 });
    expect(await quotaOf(another(), key.id)).toMatchObject({ used: 3, held: 0 });
  });

  test("settles the rest after drainMs, at what was observed or estimated", async () => {
    const { keystile, another, time } = bench({ drainMs: 2_000 });
    const first = await admitted(keystile, { quota: 10 }, { cost: 4 });
    const second = await admitted(keystile, { quota: 10 }, { cost: 4 });
    second.decision.observe(1);
    const closing = keystile.close();
    await time.advance(1_999);
    expect(await quotaOf(another(), first.key.id)).toMatchObject({ held: 4 });
    await time.advance(1);
    expect(await closing).toEqual({ unwritten: 0 });
    expect(await quotaOf(another(), first.key.id)).toMatchObject({ used: 4, held: 0 });
    expect(await quotaOf(another(), second.key.id)).toMatchObject({ used: 1, held: 0 });
  });

  test("leaves no hold of a request that was being decided when it was called", async () => {
    const { keystile, store, another, time } = bench({ drainMs: 2_000 });
    const { secret, key } = await keystile.keys.issue({ quota: 10 });
    await settleAll([await keystile.authorize(presenting(secret))]);
    const gate = gated(store);
    const outcome = settledOf(keystile.authorize({ ...presenting(secret), cost: 4 }));
    await idle();
    const closing = keystile.close();
    await idle();
    gate.open();
    await time.advance(10_000);
    expect(await closing).toEqual({ unwritten: 0 });
    await outcome;
    expect(await quotaOf(another(), key.id)).toMatchObject({ held: 0 });
  });

  test("counts what could not be written", async () => {
    const { keystile, store, time } = bench({ drainMs: 1_000 });
    const first = await admitted(keystile, { quota: 10 }, { cost: 4 });
    await admitted(keystile, { quota: 10 }, { cost: 4 });
    store.onCall = () => "fails before";
    void first.decision.settle(1);
    const closing = keystile.close();
    await time.advance(20_000);
    expect(await closing).toEqual({ unwritten: 2 });
  });

  test("is harmless the second time, and leaves no timer and no closed store behind", async () => {
    const { keystile, store, time } = bench();
    const { secret } = await keystile.keys.issue();
    await settleAll([await keystile.authorize(presenting(secret))]);
    expect(await keystile.close()).toEqual({ unwritten: 0 });
    expect(await keystile.close()).toEqual({ unwritten: 0 });
    expect(time.pending).toBe(0);
    expect(await store.documents()).toHaveLength(2);
  });
});

/** What is true of one instance alone, such as what it costs, asks for `createKeystile`. */
function bench(options: Partial<KeystileOptions> = {}, newOne: typeof createKeystile = newGate): Bench {
  const time = manualTime();
  const store = faultyStore(time.store.now);
  const another = (more: Partial<KeystileOptions> = {}) =>
    newOne({ store, runtime: time.runtime, ...options, ...more });
  return { time, store, keystile: another(), another };
}

function presenting(secret: string): { readonly headers: { readonly authorization: string } } {
  return { headers: { authorization: `Bearer ${secret}` } };
}

/** A new key and an admitted request of it. */
async function admitted(
  keystile: Keystile,
  input: IssueInput,
  request: { readonly cost?: number; readonly model?: string },
): Promise<IssuedKey & { readonly decision: Allowed }> {
  const issued = await keystile.keys.issue(input);
  const decision = await keystile.authorize({ ...presenting(issued.secret), ...request });
  if (!decision.allowed) throw new Error(`refused: ${decision.refusal.reason}`);
  return { ...issued, decision };
}

function observing(decision: Allowed, ...costs: readonly number[]): Allowed {
  for (const cost of costs) decision.observe(cost);
  return decision;
}

function reasonOf(decision: { readonly allowed: true } | Refused): string {
  return decision.allowed ? "allowed" : decision.refusal.reason;
}

async function quotaOf(keystile: Keystile, keyId: string) {
  return (await keystile.keys.get(keyId))?.quota;
}

function atOnce<T>(count: number, call: (at: number) => Promise<T>): Promise<T[]> {
  return Promise.all(Array.from({ length: count }, (_, at) => call(at)));
}

async function settleAll(decisions: readonly Decision[]): Promise<void> {
  await Promise.all(decisions.map((decision) => (decision.allowed ? decision.settle() : undefined)));
}

/** What became of a promise, without its rejection going unnoticed meanwhile. */
function settledOf<T>(promise: Promise<T>): Promise<{ readonly value: T } | { readonly error: unknown }> {
  return promise.then(
    (value) => ({ value }),
    (error: unknown) => ({ error }),
  );
}

/** Holds writes up until it is opened. */
function gated(store: FaultyStore): { open(): void } {
  let open = (): void => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  store.onCall = ({ kind }) => (kind === "write" ? opened : undefined);
  return { open };
}
