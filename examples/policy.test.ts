import { decide, evaluatePolicy } from "keystile";
import { sampleKey } from "keystile/testing";
import { expect, test } from "vitest";

// A key's rules are pure functions of its record, the request and the time, so they are tested without a store or
// a server. Keep the policy you hand to `keys.issue()` in one place, and say here what it is meant to do.
const now = Date.UTC(2030, 0, 1);
const partnerPolicy = {
  expiresAt: Date.UTC(2030, 11, 31),
  allowedIps: ["192.0.2.0/24"],
  allowedModels: ["gpt-4o*"],
  limits: [{ requests: 2, windowMs: 60_000 }],
  quota: 1_000,
};
const key = sampleKey(partnerPolicy, now);
const facts = { address: "192.0.2.10", model: "gpt-4o-mini" };

test("lets the partner's requests pass, and holds what they will cost", () => {
  const { verdict } = decide({ key }, { facts, cost: 400 }, now);
  expect(verdict).toMatchObject({ allowed: true, quota: { held: 400, remaining: 600 } });
});

test("401 from the instant on at which the key expires", () => {
  const end = partnerPolicy.expiresAt;
  expect(evaluatePolicy({ key }, facts, end - 1)).toEqual({ allowed: true });
  expect(evaluatePolicy({ key }, facts, end)).toMatchObject({
    refusal: { status: 401, reason: "key_expired" },
  });
});

test.each([
  ["another address", { ...facts, address: "198.51.100.1" }, "address_not_allowed"],
  ["another model", { ...facts, model: "gpt-5" }, "model_not_allowed"],
  ["a body that names no model", { ...facts, model: undefined }, "model_undetermined"],
])("403 for %s", (_, facts, reason) => {
  expect(evaluatePolicy({ key }, facts, now)).toMatchObject({ refusal: { status: 403, reason } });
});

test("402 when the quota is used up, and nothing is taken for it", () => {
  const spent = { ...key, used: { "key@0": 900 } };
  const { verdict, documents } = decide({ key: spent }, { facts, cost: 101 }, now);
  expect(verdict).toMatchObject({ refusal: { status: 402, reason: "key_quota_exhausted" } });
  expect(documents.key).toBe(spent);
});

test("429 for the third request in a minute, with the time to wait", () => {
  const first = decide({ key }, { facts, cost: 1 }, now);
  const second = decide(first.documents, { facts, cost: 1 }, now);
  const third = decide(second.documents, { facts, cost: 1 }, now);
  expect(third.verdict).toMatchObject({
    refusal: { status: 429, reason: "rate_limited", retryAfterMs: 30_000 },
  });
  expect(decide(second.documents, { facts, cost: 1 }, now + 30_000).verdict.allowed).toBe(true);
});
