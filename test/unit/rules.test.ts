import { describe, expect, test } from "vitest";
import { parseAddress } from "../../src/address.js";
import type { KeyRecord } from "../../src/documents.js";
import { evaluateArrival, evaluatePolicy, type Rule } from "../../src/policy.js";
import { manualClock } from "../../src/testing/manual-clock.js";
import { sampleAccount } from "../../src/testing/sample-account.js";
import { sampleKey } from "../../src/testing/sample-key.js";
import { newGate } from "../setup/new-gate.js";
import { newStore } from "../setup/new-store.js";

const NOW = 1_000;

function rule(allows: (...args: never[]) => unknown, needsModel = false): Rule {
  return { name: "own", needsModel, allows: allows as Rule["allows"] };
}

describe("scopes", () => {
  test.each([
    [undefined, undefined, true],
    [undefined, [], true],
    [undefined, ["chat"], false],
    [["chat"], ["chat"], true],
    [["chat"], ["chat", "files"], false],
    [["chat", "files"], ["files", "chat"], true],
    [["chat"], ["Chat"], false],
  ])("a key with %j on a route that requires %j: %s", (scopes, required, allowed) => {
    const record = sampleKey(scopes === undefined ? {} : { scopes });
    const outcome = evaluatePolicy({ key: record }, { scopes: required }, NOW);
    expect(outcome).toMatchObject(
      allowed ? { allowed } : { allowed, refusal: { reason: "scope_missing", status: 403 } },
    );
  });
});

describe("rules of one's own", () => {
  test.each([
    ["true", () => true, true],
    ["false", () => false, false],
    ["nothing", () => undefined, false],
    ["something truthy", () => 1, false],
    ["a promise", async () => true, false],
    [
      "an error",
      () => {
        throw new Error("broken");
      },
      false,
    ],
  ])("that give %s: allowed %s", (_, allows, allowed) => {
    const outcome = evaluatePolicy({ key: sampleKey() }, {}, NOW, [rule(allows)]);
    expect(outcome).toMatchObject(
      allowed ? { allowed } : { allowed, refusal: { reason: "rule_refused", rule: "own", status: 403 } },
    );
  });

  test("come after scopes and before models", () => {
    const key = sampleKey({ allowedModels: ["a"] });
    const refusing = [rule(() => false)];
    expect(evaluatePolicy({ key }, { scopes: ["x"], model: "b" }, NOW, refusing)).toMatchObject({
      refusal: { reason: "scope_missing" },
    });
    expect(evaluatePolicy({ key }, { model: "b" }, NOW, refusing)).toMatchObject({
      refusal: { reason: "rule_refused" },
    });
  });

  test("that need the model wait for it; the others are judged before the body, too", () => {
    const onModel = rule(({ model }: { model?: string }) => model === "a", true);
    expect(evaluateArrival({ key: sampleKey() }, {}, NOW, [onModel])).toEqual({ allowed: true });
    expect(evaluatePolicy({ key: sampleKey() }, { model: "b" }, NOW, [onModel])).toMatchObject({
      allowed: false,
    });
    expect(evaluateArrival({ key: sampleKey() }, {}, NOW, [rule(() => false)])).toMatchObject({
      allowed: false,
    });
  });

  test("see method, url, address, model, and the key", async () => {
    const seen: unknown[] = [];
    const watching: Rule = {
      name: "watching",
      needsModel: true,
      allows: (facts, key) => seen.push({ ...facts, owner: key.owner }) > 0,
    };
    const gate = newGate({ store: newStore(), rules: [watching] });
    const { secret } = await gate.keys.issue({ owner: "ann", scopes: ["chat"] });
    const request = { method: "POST", url: "/v1/x?y", address: "192.0.2.1", scopes: ["chat"], model: "a" };
    const decision = await gate.authorize({ headers: { "x-api-key": secret }, ...request });
    expect(decision.allowed).toBe(true);
    expect(seen[0]).toMatchObject({
      ...request,
      owner: "ann",
      address: { text: "192.0.2.1" },
    });
    if (decision.allowed) await decision.void();
    await gate.close();
  });
});

test("a key written after its expiry stays dead when the store's clock steps back", async () => {
  const clock = manualClock(1_800_000_000_000);
  const store = newStore({ clock: clock.now });
  // Each process is new, so that it knows no time but the store's.
  const process = () => newGate({ store });
  const { secret, key } = await process().keys.issue({ expiresAt: clock.now() + 1_000 });
  clock.advance(1_000);
  await process().keys.update(key.id, { name: "seen" });
  clock.advance(-1_000);
  expect(await process().authorize({ headers: { "x-api-key": secret } })).toMatchObject({
    refusal: { reason: "key_expired" },
  });
});

test("modelFamily lets variants of a model share a bucket", async () => {
  const gate = newGate({ store: newStore(), modelFamily: (model) => model.replace(/:.*$/, "") });
  const { secret } = await gate.keys.issue({ limits: [{ requests: 1, windowMs: 60_000, per: "model" }] });
  const ask = (model: string) => gate.authorize({ headers: { "x-api-key": secret }, model });
  const decisions = [await ask("claude:free"), await ask("claude"), await ask("gpt")];
  expect(decisions.map(({ allowed }) => allowed)).toEqual([true, false, true]);
  for (const decision of decisions) if (decision.allowed) await decision.void();
  await gate.close();
});

test("aliases are resolved before anything is matched, and the decision tells the real model", async () => {
  const modelAliases = { "gpt-latest": "gpt-5", __proto__: "x" };
  const gate = newGate({ store: newStore(), modelAliases });
  const { secret } = await gate.keys.issue({ allowedModels: ["gpt-5"] });
  const ask = async (model: string | readonly string[]) => {
    const decision = await gate.authorize({ headers: { "x-api-key": secret }, model });
    if (decision.allowed) await decision.void();
    return decision;
  };
  expect(await ask("gpt-latest")).toMatchObject({ allowed: true, model: "gpt-5" });
  expect(await ask(["gpt-5", "gpt-latest"])).toMatchObject({ allowed: true, model: ["gpt-5", "gpt-5"] });
  expect(await ask("toString")).toMatchObject({ refusal: { reason: "model_not_allowed" } });
  const decision = await ask("gpt-5");
  expect(decision.allowed && decision.canUseModel("gpt-latest")).toBe(true);
  await gate.close();
});

test("a rule that is asynchronous by mistake refuses, and its rejection ends no process", async () => {
  const unhandled: unknown[] = [];
  const note = (reason: unknown): void => void unhandled.push(reason);
  process.on("unhandledRejection", note);
  try {
    const rejecting = rule(() => Promise.reject(new Error("broken")));
    expect(evaluatePolicy({ key: sampleKey() }, {}, NOW, [rejecting])).toMatchObject({
      refusal: { reason: "rule_refused" },
    });
    await new Promise((resolve) => setImmediate(resolve));
    expect(unhandled).toEqual([]);
  } finally {
    process.off("unhandledRejection", note);
  }
});

test("an account that is suspended refuses after the key's state and before its address", () => {
  const open = sampleAccount();
  const account = { ...open, policy: { ...open.policy, state: "suspended" as const } };
  const refused = (key: KeyRecord): unknown => evaluateArrival({ key, account }, { address: undefined }, NOW);
  expect(refused(sampleKey())).toMatchObject({ refusal: { reason: "account_suspended" } });
  expect(refused(sampleKey({ allowedIps: ["10.0.0.1"] }))).toMatchObject({
    refusal: { reason: "account_suspended" },
  });
  const key = sampleKey();
  expect(refused({ ...key, policy: { ...key.policy, state: "disabled" } })).toMatchObject({
    refusal: { reason: "key_disabled" },
  });
  expect(evaluateArrival({ key: sampleKey(), account: sampleAccount() }, {}, NOW)).toEqual({ allowed: true });
});

test("a key without scopes has none of any name", () => {
  for (const scope of ["", "Stryker was here", "undefined", "__proto__"]) {
    expect(evaluateArrival({ key: sampleKey() }, { scopes: [scope] }, NOW)).toMatchObject({
      refusal: { reason: "scope_missing" },
    });
  }
});

test("a document far ahead of the store's clock is a fault that says by how much", () => {
  const ahead = { ...sampleKey(), latestMs: NOW + 300_001 };
  expect(() => evaluateArrival({ key: ahead }, {}, NOW)).toThrow(/300001 ms ahead of the store's clock/);
  expect(evaluateArrival({ key: { ...ahead, latestMs: NOW + 300_000 } }, {}, NOW)).toEqual({ allowed: true });
});

test("an address may have been read already", () => {
  const key = sampleKey({ allowedIps: ["10.0.0.0/8"] });
  const judged = (text: string): unknown => evaluateArrival({ key }, { address: parseAddress(text) }, NOW);
  expect(judged("10.0.0.1")).toEqual({ allowed: true });
  expect(judged("192.0.2.1")).toMatchObject({ refusal: { reason: "address_not_allowed" } });
});
