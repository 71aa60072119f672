/** Why a request was refused, for the operator. The order is the order of precedence. */
export type Reason =
  | "address_rate_limited"
  | "credential_missing"
  | "credential_ambiguous"
  | "credential_malformed"
  | "key_unknown"
  | "key_revoked"
  | "key_disabled"
  | "key_expired"
  | "account_suspended"
  | "address_not_allowed"
  | "scope_missing"
  | "rule_refused"
  | "model_not_allowed"
  | "model_undetermined"
  | "rate_limited"
  | "concurrency_limited"
  | "subscription_ended"
  | "subscription_unpaid"
  | "key_quota_exhausted"
  | "subscription_exhausted"
  | "payg_cap_reached"
  | "balance_exhausted";

/** What a code stands for. */
const CODES = {
  rate_limit_exceeded: [429, "rate_limit_error"],
  missing_api_key: [401, "authentication_error"],
  invalid_api_key: [401, "authentication_error"],
  expired_api_key: [401, "authentication_error"],
  account_suspended: [403, "permission_error"],
  ip_not_allowed: [403, "permission_error"],
  access_denied: [403, "permission_error"],
  model_access_denied: [403, "permission_error"],
  subscription_expired: [402, "billing_error"],
  payment_failed: [402, "billing_error"],
  quota_exceeded: [402, "billing_error"],
  insufficient_balance: [402, "billing_error"],
} as const;

/** `error.code` on the wire. Coarser than a reason, so that it tells a stranger nothing about a key. */
export type RefusalCode = keyof typeof CODES;

/** HTTP status of a refusal: 401 who are you, 402 funds, 403 not allowed, 429 slow down. */
export type RefusalStatus = 401 | 402 | 403 | 429;

/** `error.type` on the wire, in the words of the Anthropic SDKs. */
export type RefusalType = "authentication_error" | "permission_error" | "rate_limit_error" | "billing_error";

/** A negative answer. Plain data; nothing in it came from the request. */
export interface Refusal {
  readonly reason: Reason;
  readonly status: RefusalStatus;
  readonly type: RefusalType;
  readonly code: RefusalCode;
  readonly message: string;
  /** When the same request may fit. Only where waiting helps. */
  readonly retryAfterMs?: number;
  /** True when it was refused only because requests in flight hold the rest. */
  readonly held?: boolean;
  /** When the billing cycle begins in which the same request may fit. */
  readonly resetAtMs?: number;
  /** The name of the own rule that refused. For the operator. */
  readonly rule?: string;
}

type Row = readonly [status: RefusalStatus, type: RefusalType, code: RefusalCode, message: string];

const row = (code: RefusalCode, message: string): Row => [...CODES[code], code, message];
const invalidKey = row("invalid_api_key", "The API key is not valid.");
const noAccess = row("access_denied", "This API key may not make this request.");

/** The one table from reason to answer. Its order is the order of the checks. */
export const REFUSALS: Readonly<Record<Reason, Row>> = {
  address_rate_limited: row("rate_limit_exceeded", "Too many requests from this address. Slow down."),
  credential_missing: row(
    "missing_api_key",
    "No API key was sent. Send it as 'Authorization: Bearer <key>' or 'x-api-key: <key>'.",
  ),
  credential_ambiguous: row(
    "invalid_api_key",
    "More than one value was sent in one credential header. Send exactly one API key.",
  ),
  credential_malformed: row(
    "invalid_api_key",
    "The credential is malformed. Send 'Authorization: Bearer <key>' or 'x-api-key: <key>'.",
  ),
  key_unknown: invalidKey,
  key_revoked: invalidKey,
  key_disabled: invalidKey,
  key_expired: row("expired_api_key", "The API key has expired."),
  account_suspended: row("account_suspended", "The account is suspended."),
  address_not_allowed: row("ip_not_allowed", "This API key may not be used from this address."),
  scope_missing: noAccess,
  rule_refused: noAccess,
  model_not_allowed: row("model_access_denied", "This API key may not use the requested model."),
  model_undetermined: row(
    "model_access_denied",
    "This API key is limited to certain models, and the request does not say plainly which one it asks for.",
  ),
  rate_limited: row("rate_limit_exceeded", "The rate limit of this API key is reached. Slow down."),
  concurrency_limited: row(
    "rate_limit_exceeded",
    "Too many requests of this API key are in flight. Wait for one to end.",
  ),
  subscription_ended: row("subscription_expired", "The subscription has ended."),
  subscription_unpaid: row("payment_failed", "The subscription is suspended for payment."),
  key_quota_exhausted: row(
    "quota_exceeded",
    "What is left of this API key's quota does not cover the request.",
  ),
  subscription_exhausted: row(
    "quota_exceeded",
    "What is left of the subscription's allowance does not cover the request.",
  ),
  payg_cap_reached: row(
    "quota_exceeded",
    "What is left of the pay-as-you-go cap of this cycle does not cover the request.",
  ),
  balance_exhausted: row(
    "insufficient_balance",
    "What is left of the account's balance does not cover the request.",
  ),
};

/** Makes the refusal for a reason. */
export function refuse(
  reason: Reason,
  details?: Pick<Refusal, "retryAfterMs" | "held" | "resetAtMs" | "rule">,
): Refusal {
  const [status, type, code, message] = REFUSALS[reason];
  const refusal = { reason, status, type, code, message };
  return details === undefined ? refusal : { ...refusal, ...details };
}
