import { expect, test } from "vitest";
import { REFUSALS, type Reason, refuse } from "../../src/refusal.js";

/** In the order of precedence; what clients and their SDKs decide by. */
const TABLE: readonly (readonly [Reason, number, string, string])[] = [
  ["address_rate_limited", 429, "rate_limit_error", "rate_limit_exceeded"],
  ["credential_missing", 401, "authentication_error", "missing_api_key"],
  ["credential_ambiguous", 401, "authentication_error", "invalid_api_key"],
  ["credential_malformed", 401, "authentication_error", "invalid_api_key"],
  ["key_unknown", 401, "authentication_error", "invalid_api_key"],
  ["key_revoked", 401, "authentication_error", "invalid_api_key"],
  ["key_disabled", 401, "authentication_error", "invalid_api_key"],
  ["key_expired", 401, "authentication_error", "expired_api_key"],
  ["account_suspended", 403, "permission_error", "account_suspended"],
  ["address_not_allowed", 403, "permission_error", "ip_not_allowed"],
  ["scope_missing", 403, "permission_error", "access_denied"],
  ["rule_refused", 403, "permission_error", "access_denied"],
  ["model_not_allowed", 403, "permission_error", "model_access_denied"],
  ["model_undetermined", 403, "permission_error", "model_access_denied"],
  ["rate_limited", 429, "rate_limit_error", "rate_limit_exceeded"],
  ["concurrency_limited", 429, "rate_limit_error", "rate_limit_exceeded"],
  ["subscription_ended", 402, "billing_error", "subscription_expired"],
  ["subscription_unpaid", 402, "billing_error", "payment_failed"],
  ["key_quota_exhausted", 402, "billing_error", "quota_exceeded"],
  ["subscription_exhausted", 402, "billing_error", "quota_exceeded"],
  ["payg_cap_reached", 402, "billing_error", "quota_exceeded"],
  ["balance_exhausted", 402, "billing_error", "insufficient_balance"],
];

test("the table is complete and in order", () => {
  expect(Object.keys(REFUSALS)).toEqual(TABLE.map(([reason]) => reason));
});

test.each(TABLE)("%s is %i %s %s, with a sentence for whoever reads it", (reason, status, type, code) => {
  const { message, ...rest } = refuse(reason);
  expect(rest).toEqual({ reason, status, type, code });
  expect(message).toMatch(/^[A-Z][ -~]{15,}\.$/);
});

test("what a stranger may not tell apart reads the same", () => {
  const message = (reason: Reason): string => refuse(reason).message;
  expect(new Set((["key_unknown", "key_revoked", "key_disabled"] as const).map(message)).size).toBe(1);
  expect(message("scope_missing")).toBe(message("rule_refused"));
  expect(new Set(TABLE.map(([reason]) => message(reason))).size).toBe(TABLE.length - 3);
});

test("details are added, and nothing else", () => {
  const details = { retryAfterMs: 5, held: true, resetAtMs: 7, rule: "own" };
  expect(refuse("rate_limited", details)).toEqual({ ...refuse("rate_limited"), ...details });
});
