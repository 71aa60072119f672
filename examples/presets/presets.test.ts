import { createKeystile, type IssueInput, type KeystileOptions } from "keystile";
import { memoryStore } from "keystile/memory";
import { manualClock } from "keystile/testing";
import { expect, test } from "vitest";
import { development, production, testing, thirdPartyKeys } from "./presets.ts";

const store = memoryStore();
const env = {
  KEYSTILE_PEPPERS: "2030-06:0123456789abcdefghijklmnopqrstuv, 2029-11:vutsrqponmlkjihgfedcba9876543210",
  KEYSTILE_TRUSTED_PROXIES: "10.0.0.0/8",
};

async function openWithKey(options: KeystileOptions, policy: IssueInput = {}) {
  const gate = createKeystile(options);
  return { gate, ...(await gate.keys.issue(policy)) };
}

function bearer(secret: string) {
  return { authorization: `Bearer ${secret}` };
}

test("development and production refuse each other's keys", async () => {
  const trial = await openWithKey(development());
  const live = await openWithKey(production(store, env));
  expect(trial.secret).toMatch(/^sk-dev-/);
  for (const [here, there] of [
    [trial, live],
    [live, trial],
  ] as const) {
    expect(await here.gate.authorize({ headers: bearer(here.secret) })).toMatchObject({ allowed: true });
    const refusal = { reason: "credential_malformed" };
    expect(await here.gate.authorize({ headers: bearer(there.secret) })).toMatchObject({ refusal });
  }
});

test("production believes its proxies and nobody else, and keeps digests that its peppers have signed", async () => {
  const policy = { allowedIps: ["198.51.100.7"] };
  const { gate, secret, key } = await openWithKey(production(store, env), policy);
  const headers = { ...bearer(secret), "x-forwarded-for": "198.51.100.7" };
  expect(gate.wire.codes).toBe("folded");
  expect(await gate.authorize({ headers, address: "10.1.2.3" })).toMatchObject({ allowed: true });
  const refusal = { reason: "address_not_allowed" };
  expect(await gate.authorize({ headers, address: "203.0.113.9" })).toMatchObject({ refusal });

  // With the pepper retired to the second place the key still works; without it nobody can tell whose it is.
  const [first, second] = env.KEYSTILE_PEPPERS.split(", ");
  for (const [peppers, expected] of [
    [`${second},${first}`, { key: { id: key.id } }],
    [`${second}`, { refusal: { reason: "key_unknown" } }],
  ] as const) {
    const restarted = createKeystile(production(store, { ...env, KEYSTILE_PEPPERS: peppers }));
    expect(await restarted.authorize({ headers, address: "10.1.2.3" })).toMatchObject(expected);
  }
});

test.each([
  ["no peppers", { KEYSTILE_PEPPERS: undefined }],
  ["an empty list of them", { KEYSTILE_PEPPERS: " " }],
  ["a pepper without an id", { KEYSTILE_PEPPERS: "0123456789abcdefghijklmnopqrstuv" }],
  ["proxies that were forgotten", { KEYSTILE_TRUSTED_PROXIES: undefined }],
  ["a number of proxies", { KEYSTILE_TRUSTED_PROXIES: "1" }],
])("production does not start with %s", (_, wrong) => {
  expect(() => createKeystile(production(store, { ...env, ...wrong }))).toThrow();
});

test("in tests time is the clock's, to the millisecond", async () => {
  const clock = manualClock();
  const limits = [{ requests: 1, windowMs: 60_000 }];
  const { gate, secret } = await openWithKey(testing(clock), { limits });
  const headers = bearer(secret);
  expect(await gate.authorize({ headers })).toMatchObject({ allowed: true });
  clock.advance(59_999);
  expect(await gate.authorize({ headers })).toMatchObject({ refusal: { retryAfterMs: 1 } });
  clock.advance(1);
  expect(await gate.authorize({ headers })).toMatchObject({ allowed: true });
  // Neither request was ended.
  expect(await gate.close()).toEqual({ unwritten: 0 });
});

test("keys like another product's are read wherever its clients put them, and variants of a model count as one", async () => {
  const limits = [{ requests: 3, windowMs: 60_000, per: "model" as const }];
  const { gate, secret } = await openWithKey(thirdPartyKeys(store), { limits });
  expect(secret).toMatch(/^key_live_/);
  for (const [headers, model] of [
    [{ "api-key": secret }, "some-model"],
    [{ "x-goog-api-key": secret }, "code:some-model"],
    [bearer(secret), "some-model:free"],
  ] as const) {
    expect(await gate.authorize({ headers, model })).toMatchObject({ allowed: true });
  }
  const refusal = { reason: "rate_limited" };
  expect(await gate.authorize({ headers: bearer(secret), model: "some-model" })).toMatchObject({ refusal });
  expect(await gate.authorize({ headers: bearer(secret), model: "other" })).toMatchObject({ allowed: true });
});
