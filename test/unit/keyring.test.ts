import { inspect } from "node:util";
import { describe, expect, test } from "vitest";
import type { IssuedKey } from "../../src/keyring.js";
import type { Keystile } from "../../src/keystile.js";
import type { KeystileOptions } from "../../src/options.js";
import { digestSecret, generateSecret } from "../../src/secret.js";
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
  readonly keys: Keystile["keys"];
  /** What the runtime gave out, latest last: enough to make an unreturned secret again. */
  readonly drawn: readonly Uint8Array[];
}

describe("issue", () => {
  test("shows what was asked for, and a secret that works", async () => {
    const { keys, keystile, time } = bench();
    const { secret, key } = await keys.issue({
      owner: "acme",
      name: "build server",
      expiresAt: time.store.now() + 60_000,
      allowedIps: ["10.0.0.1"],
      allowedModels: ["gpt-*"],
      deniedModels: ["gpt-3*"],
      limits: [{ inFlight: 2 }],
      quota: 9,
      onCrash: "release",
      metadata: { plan: "pro" },
    });
    expect(key).toEqual({
      id: expect.stringMatching(/^[0-9a-f]{3}\.[0-9a-f]{24}$/),
      owner: "acme",
      name: "build server",
      state: "active",
      hint: secret.slice(-4),
      createdAt: "2025-01-15T12:00:00.000Z",
      expiresAt: "2025-01-15T12:01:00.000Z",
      allowedIps: ["10.0.0.1"],
      allowedModels: ["gpt-*"],
      deniedModels: ["gpt-3*"],
      limits: [{ inFlight: 2 }],
      quota: { limit: 9, used: 0, held: 0, remaining: 9, unlimited: false },
      onCrash: "release",
      metadata: { plan: "pro" },
      policyVersion: 1,
    });
    expect(await keys.get(key.id)).toEqual(key);
    const request = { ...presenting(secret), address: "10.0.0.1", model: "gpt-4o" };
    expect(await keystile.authorize(request)).toMatchObject({ allowed: true, key: { id: key.id } });
  });

  test.each([
    ["standard", /^sk-[A-Za-z0-9]{48}$/],
    ["subscription", /^sk-sub-[A-Za-z0-9]{48}$/],
  ] as const)("kind %s", async (kind, form) => {
    const { keys, accounts } = bench().keystile;
    const account = (await accounts.open()).id;
    expect((await keys.issue({ kind, account })).secret).toMatch(form);
  });

  test("a key of a subscription is refused without its account: nothing would bound it", async () => {
    const issuing = bench().keys.issue({ kind: "subscription" });
    await expect(issuing).rejects.toMatchObject({ code: "invalid_options" });
    await expect(issuing).rejects.toThrow("key.account: expected the id of the account");
  });

  test("never gives the same id or secret twice, and puts an owner's keys in one place", async () => {
    const { keys } = bench();
    const issued = await Promise.all(Array.from({ length: 50 }, () => keys.issue({ owner: "acme" })));
    expect(new Set(issued.map(({ secret }) => secret)).size).toBe(50);
    expect(new Set(issued.map(({ key }) => key.id)).size).toBe(50);
    expect(new Set(issued.map(({ key }) => key.id.split(".")[0])).size).toBe(1);
  });

  test("takes the instance's onCrash unless the key says otherwise", async () => {
    const { keys } = bench({ onCrash: "release" });
    expect((await keys.issue()).key.onCrash).toBe("release");
    expect((await keys.issue({ onCrash: "charge" })).key.onCrash).toBe("charge");
  });

  test("writes nothing for a wrong policy", async () => {
    const { keys, store } = bench();
    await expect(keys.issue({ quota: -1 })).rejects.toMatchObject({ code: "invalid_options" });
    expect(await store.documents()).toEqual([]);
  });
});

describe("a secret is shown once", () => {
  test("and is in nothing else that the keyring returns, stores or throws", async () => {
    const { keys, keystile, store } = bench({
      peppers: [{ id: "a", secret: "0123456789abcdefghijklmnopqrstuv" }],
    });
    const issued = await keys.issue({ owner: "acme", name: "a", quota: 100 });
    const { id } = issued.key;
    const decision = await keystile.authorize(presenting(issued.secret));
    const rotated = await keys.rotate(id, { graceMs: 1_000 });
    const again = await keys.rotate(id);
    const secrets = [issued.secret, rotated.secret, again.secret];

    const seen: unknown[] = [keystile, decision, issued.key, rotated.key, again.key];
    seen.push(
      await keystile.identify(presenting(again.secret)),
      await keystile.authorize(presenting(issued.secret)),
    );
    seen.push(await keys.get(id), await keys.list(), await keys.list({ owner: "acme" }));
    seen.push(await keys.update(id, { name: "b" }), await keys.disable(id), await keys.enable(id));
    seen.push(await store.documents());
    store.onCall = () => "fails before";
    for (const call of [
      () => keys.issue(),
      () => keys.rotate(id),
      () => keys.revoke(id),
      () => keys.purge(id),
    ]) {
      seen.push(await call().catch((error: unknown) => error));
    }
    seen.push(await keystile.authorize(presenting(again.secret)).catch((error: unknown) => error));
    store.onCall = () => undefined;
    seen.push(await keys.revoke(id), await store.documents(), store.calls);
    seen.push(await keys.rotate(id).catch((error: unknown) => error));
    seen.push(await keys.rotate(again.secret).catch((error: unknown) => error));

    for (const value of seen.slice(0, -1)) expect(leaksOf(value, secrets)).toEqual([]);
    // Whoever hands a secret in where an id belongs must not find it in a log.
    expect(leaksOf(seen.at(-1), secrets)).toEqual([]);
  });

  test("which this suite would notice", () => {
    const secret = generateSecret("sk-");
    const body = secret.slice(3);
    for (const value of [
      { a: [{ b: secret }] },
      new Error("x", { cause: new Error(`digest of ${body.slice(10, 22)}`) }),
      new Map([["a", body.slice(-12)]]),
      Object.defineProperty({}, "hidden", { value: body }),
      { [Symbol("a")]: body },
    ]) {
      expect(leaksOf(value, [secret])).not.toEqual([]);
    }
    expect(leaksOf({ hint: secret.slice(-4), digest: digestSecret(secret) }, [secret])).toEqual([]);
  });
});

describe("get", () => {
  test.each(["", "x", "abc.0123", "__proto__", "key:x"])("%j is nobody's id", async (id) => {
    expect(await bench().keys.get(id)).toBeUndefined();
  });

  test("sees at once what another instance changed", async () => {
    const { keys, store, time } = bench();
    const { key } = await keys.issue();
    await newGate({ store, runtime: time.runtime }).keys.update(key.id, { name: "elsewhere" });
    expect(await keys.get(key.id)).toMatchObject({ name: "elsewhere", policyVersion: 2 });
  });

  test("shows what is held and used", async () => {
    const { keys, keystile } = bench();
    const { key, secret } = await keys.issue({ quota: 10 });
    const decision = await keystile.authorize({ ...presenting(secret), cost: 4 });
    expect((await keys.get(key.id))?.quota).toMatchObject({ used: 0, held: 4, remaining: 6 });
    if (decision.allowed) await decision.settle(3);
    expect((await keys.get(key.id))?.quota).toMatchObject({ used: 3, held: 0, remaining: 7 });
  });

  test("shows a key as expired from the instant on", async () => {
    const { keys, time } = bench();
    const { key } = await keys.issue({ expiresAt: time.store.now() + 1_000 });
    await time.advance(999);
    expect(await keys.get(key.id)).toMatchObject({ state: "active" });
    await time.advance(1);
    expect(await keys.get(key.id)).toMatchObject({ state: "expired", expiresAt: "2025-01-15T12:00:01.000Z" });
    expect(await keys.disable(key.id)).toMatchObject({ state: "disabled" });
    expect(await keys.enable(key.id)).toMatchObject({ state: "expired" });
    expect(await keys.update(key.id, { expiresAt: null })).toMatchObject({
      state: "active",
      expiresAt: null,
    });
  });

  test.each([["junk"], [8_640_000_000_000_001], [Number.MAX_SAFE_INTEGER], [true]])(
    "shows a key whose stored expiry is %j as expired, alone and in a list",
    async (expiresAtMs) => {
      const { keys, store } = bench();
      const { key } = await keys.issue();
      await damage(store, key.id, (body) => ({
        ...body,
        policy: { ...(body["policy"] as object), expiresAtMs },
      }));
      expect(await keys.get(key.id)).toMatchObject({ state: "expired" });
      expect((await keys.list()).keys).toMatchObject([{ state: "expired" }]);
    },
  );
});

describe("what the keyring and a decision return", () => {
  test("is no way into what is decided by or stored", async () => {
    const { keys, keystile } = bench();
    const { key, secret } = await keys.issue({
      limits: [{ requests: 1, windowMs: 1_000 }],
      allowedModels: ["a"],
      metadata: { plan: "free" },
    });
    const before = await keys.get(key.id);
    const decision = await keystile.authorize({ ...presenting(secret), model: "a", cost: 0 });
    for (const view of [key, before, decision.key]) {
      for (const change of [
        () => Object.assign(view?.metadata ?? {}, { plan: 7 }),
        () => Object.assign(view as object, { limits: [] }),
        () => ((view as { limits?: unknown[] }).limits ?? []).splice(0),
        () => ((view as { allowedModels?: string[] }).allowedModels ?? []).push("b"),
      ]) {
        try {
          change();
        } catch (error) {
          // Frozen is as good as copied.
          expect(error).toBeInstanceOf(TypeError);
        }
      }
    }
    expect(await keystile.authorize({ ...presenting(secret), model: "b" })).toMatchObject({
      refusal: { reason: "model_not_allowed" },
    });
    expect(await keystile.authorize({ ...presenting(secret), model: "a" })).toMatchObject({
      refusal: { reason: "rate_limited" },
      key: { metadata: { plan: "free" } },
    });
    expect(await keys.get(key.id)).toMatchObject({
      limits: [{ requests: 1, windowMs: 1_000 }],
      allowedModels: ["a"],
      metadata: { plan: "free" },
    });
  });
});

describe("list", () => {
  test.each([1, 2, 7, 100])("in pages of %i: every key of an owner once, and no other's", async (limit) => {
    const { keys } = bench();
    const issued = await Promise.all(
      Array.from({ length: 14 }, (_, at) => keys.issue({ owner: at % 2 === 0 ? "acme" : "other" })),
    );
    const ids = (owner?: string) =>
      issued
        .filter(({ key }) => owner === undefined || key.owner === owner)
        .map(({ key }) => key.id)
        .sort();
    expect(await allPages(keys, { limit })).toEqual(ids());
    expect(await allPages(keys, { limit, owner: "acme" })).toEqual(ids("acme"));
    expect(await allPages(keys, { limit, owner: "nobody" })).toEqual([]);
  });

  test("the last page has no next", async () => {
    const { keys } = bench();
    await Promise.all([keys.issue(), keys.issue()]);
    expect(await keys.list({ limit: 2 })).not.toHaveProperty("next");
    expect(await keys.list({ limit: 1 })).toHaveProperty("next");
  });

  test("a key issued between two pages makes none of the others skipped or repeated", async () => {
    const { keys } = bench();
    const first = await Promise.all(Array.from({ length: 6 }, () => keys.issue()));
    const page = await keys.list({ limit: 3 });
    await Promise.all(Array.from({ length: 6 }, () => keys.issue()));
    const rest = await allPages(keys, { limit: 3, ...(page.next !== undefined && { after: page.next }) });
    const seen = [...page.keys.map(({ id }) => id), ...rest];
    expect(new Set(seen).size).toBe(seen.length);
    for (const { key } of first) expect(seen).toContain(key.id);
  });

  test.each([0, 1_001, 1.5, "5", null])("a page of %j is refused", async (limit) => {
    await expect(bench().keys.list({ limit: limit as number })).rejects.toMatchObject({
      code: "invalid_options",
    });
  });
});

describe("update", () => {
  test("null takes a list away, and the next request is judged by what is left", async () => {
    const { keys, keystile } = bench();
    const { key, secret } = await keys.issue({ allowedModels: ["a"], allowedIps: ["10.0.0.1"], quota: 0 });
    expect((await keystile.authorize(presenting(secret))).allowed).toBe(false);
    const view = await keys.update(key.id, { allowedModels: null, allowedIps: null, quota: null });
    expect(view).not.toHaveProperty("allowedModels");
    expect(view).not.toHaveProperty("allowedIps");
    expect((await keystile.authorize({ ...presenting(secret), model: "b" })).allowed).toBe(true);
  });

  test("is refused against another version, and changes nothing then", async () => {
    const { keys } = bench();
    const { key } = await keys.issue({ name: "a" });
    const updated = await keys.update(key.id, { name: "b" }, { ifPolicyVersion: 1 });
    expect(updated).toMatchObject({ name: "b", policyVersion: 2 });
    await expect(keys.update(key.id, { name: "c" }, { ifPolicyVersion: 1 })).rejects.toMatchObject({
      code: "policy_conflict",
    });
    expect(await keys.get(key.id)).toMatchObject({ name: "b", policyVersion: 2 });
  });

  test("of two at once against one version, one is refused", async () => {
    const { keys } = bench();
    const { key } = await keys.issue();
    const outcomes = await Promise.allSettled(
      ["a", "b"].map((name) => keys.update(key.id, { name }, { ifPolicyVersion: 1 })),
    );
    expect(outcomes.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
  });

  test("traffic is no change of the policy", async () => {
    const { keys, keystile } = bench();
    const { key, secret } = await keys.issue({ quota: 10 });
    const decision = await keystile.authorize(presenting(secret));
    if (decision.allowed) await decision.settle();
    expect(await keys.update(key.id, { name: "a" }, { ifPolicyVersion: 1 })).toMatchObject({
      policyVersion: 2,
      quota: { used: 1 },
    });
  });
});

describe("state", () => {
  test("disable can be undone, and doing it twice changes nothing", async () => {
    const { keys, keystile, store } = bench();
    const { key, secret } = await keys.issue();
    const disabled = await keys.disable(key.id);
    expect(disabled).toMatchObject({ state: "disabled", policyVersion: 2 });
    const documents = await store.documents();
    expect(await keys.disable(key.id)).toEqual(disabled);
    expect(await store.documents()).toEqual(documents);
    expect(await keystile.authorize(presenting(secret))).toMatchObject({
      refusal: { reason: "key_disabled" },
    });
    expect(await keys.enable(key.id)).toMatchObject({ state: "active", policyVersion: 3 });
    expect(await keys.enable(key.id)).toMatchObject({ policyVersion: 3 });
    expect((await keystile.authorize(presenting(secret))).allowed).toBe(true);
  });

  test("revoke is final", async () => {
    const { keys, keystile, store } = bench();
    const { key, secret } = await keys.issue();
    const revoked = await keys.revoke(key.id);
    expect(revoked.state).toBe("revoked");
    const documents = await store.documents();
    expect(await keys.revoke(key.id)).toEqual(revoked);
    for (const call of [
      () => keys.enable(key.id),
      () => keys.disable(key.id),
      () => keys.update(key.id, { name: "a" }),
      () => keys.rotate(key.id),
    ]) {
      await expect(call()).rejects.toMatchObject({ code: "key_state" });
    }
    expect(await store.documents()).toEqual(documents);
    expect(await keystile.authorize(presenting(secret))).toMatchObject({
      refusal: { reason: "key_revoked" },
    });
    expect(await keys.get(key.id)).toEqual(revoked);
  });

  test("a disabled key can be revoked", async () => {
    const { keys } = bench();
    const { key } = await keys.issue();
    await keys.disable(key.id);
    expect(await keys.revoke(key.id)).toMatchObject({ state: "revoked" });
  });

  test.each(["update", "disable", "enable", "revoke", "rotate"] as const)(
    "%s of a key that is not there",
    async (method) => {
      const { keys } = bench();
      const call = method === "update" ? keys.update("none", {}) : keys[method]("none");
      await expect(call).rejects.toMatchObject({ code: "key_not_found" });
    },
  );
});

describe("rotate", () => {
  test("keeps the id, the policy and the counters", async () => {
    const { keys, keystile } = bench();
    const limits = [{ requests: 2, windowMs: 1_000 }];
    const { key, secret } = await keys.issue({ quota: 10, limits, name: "a" });
    const decision = await keystile.authorize({ ...presenting(secret), cost: 4 });
    const rotated = await keys.rotate(key.id);
    expect(rotated.key).toEqual({
      ...key,
      hint: rotated.secret.slice(-4),
      policyVersion: 2,
      quota: { limit: 10, used: 0, held: 4, remaining: 6, unlimited: false },
    });
    expect(rotated.secret).not.toBe(secret);
    if (decision.allowed) await decision.settle(3);
    const next = await keystile.authorize(presenting(rotated.secret));
    expect(next).toMatchObject({ allowed: true, limits: [{ remaining: 0 }], quota: { used: 3, held: 1 } });
  });

  test("without a grace the old secret is dead when it resolves", async () => {
    const { keys, keystile } = bench();
    const { key, secret } = await keys.issue();
    expect((await keystile.authorize(presenting(secret))).allowed).toBe(true);
    const rotated = await keys.rotate(key.id);
    expect(await outcomeOf(keystile, secret)).toBe("key_unknown");
    expect(await outcomeOf(keystile, rotated.secret)).toBe("allowed");
  });

  test.each([1, 1_000, 86_400_000])(
    "with a grace of %i ms it lives to the exact millisecond",
    async (graceMs) => {
      const { keys, keystile, time } = bench();
      const { key, secret } = await keys.issue();
      const rotated = await keys.rotate(key.id, { graceMs });
      await time.advance(graceMs - 1);
      expect(await outcomeOf(keystile, secret)).toBe("allowed");
      await time.advance(1);
      expect(await outcomeOf(keystile, secret)).toBe("key_unknown");
      expect(await outcomeOf(keystile, rotated.secret)).toBe("allowed");
    },
  );

  test("only the latest previous secret survives", async () => {
    const { keys, keystile } = bench();
    const first = await keys.issue();
    const second = await keys.rotate(first.key.id, { graceMs: 60_000 });
    const third = await keys.rotate(first.key.id, { graceMs: 60_000 });
    expect(await outcomeOf(keystile, first.secret)).toBe("key_unknown");
    expect(await outcomeOf(keystile, second.secret)).toBe("allowed");
    expect(await outcomeOf(keystile, third.secret)).toBe("allowed");
  });

  test("a second rotation sets the grace anew for the secret it replaces", async () => {
    const { keys, keystile } = bench();
    const first = await keys.issue();
    const second = await keys.rotate(first.key.id, { graceMs: 60_000 });
    await keys.rotate(first.key.id);
    expect(await outcomeOf(keystile, first.secret)).toBe("key_unknown");
    expect(await outcomeOf(keystile, second.secret)).toBe("key_unknown");
  });

  test("keeps a disabled key disabled", async () => {
    const { keys, keystile } = bench();
    const { key } = await keys.issue();
    await keys.disable(key.id);
    const { secret } = await keys.rotate(key.id);
    expect(await outcomeOf(keystile, secret)).toBe("key_disabled");
  });

  test("however often it is done, no secret is left that the record does not list", async () => {
    const { keys, store } = bench();
    const { key } = await keys.issue();
    for (let count = 0; count < 5; count++) {
      await keys.rotate(key.id, { graceMs: 1_000 });
      const listed = await listedSecrets(store, key.id);
      const kept = (await store.documents()).filter(({ id }) => id.startsWith("secret:")).map(({ id }) => id);
      expect(kept.length).toBeLessThanOrEqual(3);
      expect(listed).toEqual(expect.arrayContaining(kept));
    }
  });

  test("of two at once, whatever was returned last works and one secret is current", async () => {
    const { keys, keystile } = bench();
    const { key } = await keys.issue();
    const outcomes = await Promise.allSettled([keys.rotate(key.id), keys.rotate(key.id)]);
    const secrets = outcomes.flatMap((outcome) =>
      outcome.status === "fulfilled" ? [outcome.value.secret] : [],
    );
    expect(secrets.length).toBeGreaterThan(0);
    for (const outcome of outcomes) {
      if (outcome.status === "rejected") expect(outcome.reason).toMatchObject({ code: "policy_conflict" });
    }
    const answers = await Promise.all(secrets.map((secret) => outcomeOf(keystile, secret)));
    expect(answers.filter((answer) => answer === "allowed")).toHaveLength(1);
  });

  test.each([-1, 31_536_000_001, 0.5, "1000", null, Number.NaN])(
    "a grace of %j is refused",
    async (graceMs) => {
      const { keys, keystile } = bench();
      const { key, secret } = await keys.issue();
      await expect(keys.rotate(key.id, { graceMs: graceMs as number })).rejects.toMatchObject({
        code: "invalid_options",
      });
      expect(await outcomeOf(keystile, secret)).toBe("allowed");
    },
  );

  test("a grace of 365 days is the longest", async () => {
    const { keys } = bench();
    const { key } = await keys.issue();
    await expect(keys.rotate(key.id, { graceMs: 31_536_000_000 })).resolves.toHaveProperty("secret");
  });
});

describe("unknown members of what is handed in", () => {
  test.each<[string, (keys: Keystile["keys"], id: string) => Promise<unknown>]>([
    ["issue", (keys) => keys.issue({ quotas: 1 } as never)],
    ["update", (keys, id) => keys.update(id, { quotas: 1 } as never)],
    ["the condition of update", (keys, id) => keys.update(id, {}, { ifPolicyversion: 7 } as never)],
    ["rotate", (keys, id) => keys.rotate(id, { grace: 60_000 } as never)],
    ["list", (keys) => keys.list({ ownr: "acme" } as never)],
  ])("are refused by %s", async (_, call) => {
    const { keys, store } = bench();
    const { key } = await keys.issue({ quota: 5 });
    const before = await store.documents();
    await expect(call(keys, key.id)).rejects.toMatchObject({ code: "invalid_options" });
    expect(await store.documents()).toEqual(before);
  });
});

describe("purge", () => {
  test("erases the record and every secret", async () => {
    const { keys, keystile, store } = bench();
    const other = await keys.issue();
    const first = await keys.issue();
    const second = await keys.rotate(first.key.id, { graceMs: 60_000 });
    const third = await keys.rotate(first.key.id, { graceMs: 60_000 });
    await keys.revoke(first.key.id);
    await keys.purge(first.key.id);
    expect((await store.documents()).map(({ id }) => id)).toEqual([
      `key:${other.key.id}`,
      `secret:${digestSecret(other.secret)}`,
    ]);
    for (const { secret } of [first, second, third]) {
      expect(await outcomeOf(keystile, secret)).toBe("key_unknown");
    }
    expect(await keys.get(first.key.id)).toBeUndefined();
    expect((await keys.list()).keys).toHaveLength(1);
    await expect(keys.purge(first.key.id)).resolves.toBeUndefined();
  });

  test.each(["active", "disabled"])("is refused for a key that is %s", async (state) => {
    const { keys, store } = bench();
    const { key } = await keys.issue();
    if (state === "disabled") await keys.disable(key.id);
    const documents = await store.documents();
    await expect(keys.purge(key.id)).rejects.toMatchObject({ code: "key_state" });
    expect(await store.documents()).toEqual(documents);
  });

  test("of an unknown key is harmless", async () => {
    await expect(bench().keys.purge("none")).resolves.toBeUndefined();
  });

  test("while a request is in flight: its settlement has nowhere to go, and resolves", async () => {
    const { keys, keystile, store } = bench();
    const { key, secret } = await keys.issue();
    const decision = await keystile.authorize(presenting(secret));
    await keys.revoke(key.id);
    await keys.purge(key.id);
    if (decision.allowed) await decision.settle();
    expect(await store.documents()).toEqual([]);
  });
});

describe("interrupted", () => {
  const faults: readonly Fault[] = ["fails before", "fails after", "hangs before", "hangs after"];
  const at = (writes: readonly number[]) =>
    writes.flatMap((nth) => faults.map((fault) => [nth, fault] as const));

  test.each(at([1, 2]))(
    "issue, when write %i %s: nothing unreturned works, and calling again does",
    async (nth, fault) => {
      const b = bench();
      await interrupted(b, nth, fault, () => b.keys.issue({ owner: "acme" }));
      const lost = lostSecret(b);
      // A second write that had its effect made a key whose secret nobody ever saw; it is listed, to be revoked.
      const isComplete = nth === 2 && fault.endsWith("after");
      expect(await outcomeOf(b.keystile, lost)).toBe(isComplete ? "allowed" : "key_unknown");
      expect((await b.keys.list()).keys).toHaveLength(nth === 1 && fault.endsWith("before") ? 0 : 1);
      const again = await b.keys.issue({ owner: "acme" });
      expect(await outcomeOf(b.keystile, again.secret)).toBe("allowed");
    },
  );

  test.each(at([1, 2]))(
    "rotate, when write %i %s: calling again works, and the old secret keeps its grace",
    async (nth, fault) => {
      const b = bench();
      const { key, secret } = await b.keys.issue();
      await interrupted(b, nth, fault, () => b.keys.rotate(key.id, { graceMs: 60_000 }));
      const lost = lostSecret(b);
      expect(await outcomeOf(b.keystile, secret)).toBe("allowed");
      const isComplete = nth === 2 && fault.endsWith("after");
      expect(await outcomeOf(b.keystile, lost)).toBe(isComplete ? "allowed" : "key_unknown");

      const again = await b.keys.rotate(key.id, { graceMs: 60_000 });
      expect(again.key.id).toBe(key.id);
      expect(await outcomeOf(b.keystile, again.secret)).toBe("allowed");
      if (!isComplete) {
        // Its holders were promised the grace, and nobody ever got what would have replaced it.
        expect(await outcomeOf(b.keystile, secret)).toBe("allowed");
        expect(await outcomeOf(b.keystile, lost)).toBe("key_unknown");
      }
    },
  );

  test.each(faults)(
    "rotate five times over, when the last write %s: no stray secret is left",
    async (fault) => {
      const b = bench();
      const { key } = await b.keys.issue();
      for (let count = 0; count < 5; count++) {
        await interrupted(
          b,
          (calls) => calls.at(-1)?.ids[0]?.startsWith("secret:") === true,
          fault,
          () => b.keys.rotate(key.id),
        );
      }
      const listed = await listedSecrets(b.store, key.id);
      const kept = (await b.store.documents()).filter(({ id }) => id.startsWith("secret:"));
      for (const { id } of kept) expect(listed).toContain(id);
      await b.keys.revoke(key.id);
      await b.keys.purge(key.id);
      expect(await b.store.documents()).toEqual([]);
    },
  );

  test.each(at([1, 2, 3]))(
    "purge, when write %i %s: the key stays refused, and calling again erases it",
    async (nth, fault) => {
      const b = bench();
      const { key, secret } = await b.keys.issue();
      const rotated = await b.keys.rotate(key.id, { graceMs: 60_000 });
      await b.keys.revoke(key.id);
      await interrupted(b, nth, fault, () => b.keys.purge(key.id));
      for (const each of [secret, rotated.secret]) {
        expect(["key_revoked", "key_unknown"]).toContain(await outcomeOf(b.keystile, each));
      }
      await b.keys.purge(key.id);
      expect(await b.store.documents()).toEqual([]);
    },
  );

  test.each(faults)("revoke, when its write %s: it says whether it may have happened", async (fault) => {
    const b = bench();
    const { key } = await b.keys.issue();
    const error = await interrupted(b, 1, fault, () => b.keys.revoke(key.id));
    expect(error).toMatchObject({ code: "store_unavailable", mayHaveHappened: true });
    expect(await b.keys.revoke(key.id)).toMatchObject({ state: "revoked", policyVersion: 2 });
  });
});

function bench(options: Partial<KeystileOptions> = {}): Bench {
  const time = manualTime();
  const store = faultyStore(time.store.now);
  const drawn: Uint8Array[] = [];
  const runtime = {
    ...time.runtime,
    randomBytes(size: number) {
      const bytes = time.runtime.randomBytes(size);
      drawn.push(bytes);
      return bytes;
    },
  };
  const keystile = newGate({ store, runtime, ...options });
  return { time, store, keystile, keys: keystile.keys, drawn };
}

function presenting(secret: string) {
  return { headers: { authorization: `Bearer ${secret}` } };
}

async function outcomeOf(keystile: Keystile, secret: string): Promise<string> {
  const decision = await keystile.authorize({ ...presenting(secret), cost: 0 });
  return decision.allowed ? "allowed" : decision.refusal.reason;
}

/** Runs a call during which one write goes wrong, which must be a fault, and returns that. */
async function interrupted(
  { store, time }: Bench,
  when: number | ((calls: FaultyStore["calls"]) => boolean),
  fault: Fault,
  call: () => Promise<unknown>,
): Promise<unknown> {
  let writes = 0;
  store.onCall = ({ kind }) => {
    if (kind !== "write") return undefined;
    writes += 1;
    return (typeof when === "number" ? writes === when : when(store.calls)) ? fault : undefined;
  };
  const outcome = call().then(
    (value: unknown) => ({ value }),
    (error: unknown) => ({ error }),
  );
  if (fault.startsWith("hangs")) await time.advance(5_000);
  const settled = await outcome;
  store.onCall = () => undefined;
  await time.advance(10_000);
  if (!("error" in settled)) throw new Error("the call did not fail");
  expect(settled.error).toMatchObject({ code: "store_unavailable" });
  return settled.error;
}

/** The secret that the latest issue or rotation made. */
function lostSecret({ drawn }: Bench): string {
  const bytes = drawn.findLast(({ length }) => length === 64);
  return generateSecret("sk-", () => bytes ?? new Uint8Array());
}

async function listedSecrets(store: FaultyStore, keyId: string): Promise<readonly string[]> {
  const { documents } = await store.read([`key:${keyId}`]);
  const body = documents[0]?.body as { secrets?: readonly { digest: string }[] } | undefined;
  return (body?.secrets ?? []).map(({ digest }) => `secret:${digest}`);
}

async function allPages(
  keys: Keystile["keys"],
  query: { readonly limit: number; readonly owner?: string; readonly after?: string },
): Promise<readonly IssuedKey["key"]["id"][]> {
  const { keys: page, next } = await keys.list(query);
  const ids = page.map(({ id }) => id);
  expect(ids.length).toBeLessThanOrEqual(query.limit);
  return next === undefined ? ids : [...ids, ...(await allPages(keys, { ...query, after: next }))];
}

/** Stretches of 12 characters of a secret's body that can be found in a value, by whatever way there is. */
function leaksOf(value: unknown, secrets: readonly string[]): readonly string[] {
  const text = [
    ...textsOf(value, new Set()),
    inspect(value, { depth: Number.POSITIVE_INFINITY, showHidden: true, getters: true }),
    String(JSON.stringify(value)),
  ].join("\n");
  return secrets.flatMap((secret) => {
    const body = secret.slice(secret.lastIndexOf("-") + 1);
    const stretches = Array.from({ length: body.length - 11 }, (_, at) => body.slice(at, at + 12));
    return stretches.filter((stretch) => text.includes(stretch));
  });
}

/** Every string reachable from a value: members of any kind, prototypes' getters, entries of maps and sets. */
function textsOf(value: unknown, seen: Set<unknown>): readonly string[] {
  if (typeof value === "string") return [value];
  if ((typeof value !== "object" && typeof value !== "function") || value === null || seen.has(value))
    return [];
  seen.add(value);
  const members = Reflect.ownKeys(value).flatMap((name) => [
    String(name),
    Reflect.get(value, name) as unknown,
  ]);
  const entries = value instanceof Map || value instanceof Set ? [...value].flat() : [];
  return [...members, ...entries].flatMap((inner) => textsOf(inner, seen));
}
