export type { Admission, Arrival, Identified } from "./authorizer.js";
export type { CredentialSource, HeaderSource } from "./credential.js";
export type { Decided, DecideRequest, Denied, Granted, Verdict } from "./decide.js";
export { decide } from "./decide.js";
export type { Allowed, Decision, KeyIdentity, Refused } from "./decision.js";
export type { Documents, InFlightLimit, KeyRecord, Limit, Policy, RequestLimit } from "./documents.js";
export type { FaultCode } from "./errors.js";
export { isKeystileError, KeystileError } from "./errors.js";
export { filterModelList, stripCredentials, stripCredentialUrl } from "./forwarding.js";
export type { Answer, ErrorForm } from "./http.js";
export {
  newRequestId,
  rateLimitHeaders,
  renderFault,
  renderRefusal,
  requestIdHeaders,
} from "./http.js";
export type { KeyView } from "./key-view.js";
export type { IssuedKey, Keyring } from "./keyring.js";
export type { Keystile, Wire } from "./keystile.js";
export { createKeystile } from "./keystile.js";
export type { LimitStatus } from "./limits.js";
export type { KeystileOptions } from "./options.js";
export type { Facts, PolicyOutcome, Rule } from "./policy.js";
export { evaluatePolicy } from "./policy.js";
export type { IssueInput, PolicyInput } from "./policy-input.js";
export type { QuotaStatus } from "./quota.js";
export { redact } from "./redact.js";
export type { Reason, Refusal, RefusalCode, RefusalStatus, RefusalType } from "./refusal.js";
export type { RequestParts } from "./request-models.js";
export { requestedModels } from "./request-models.js";
export type { Runtime } from "./runtime.js";
export type { Pepper, SecretPrefixes } from "./secret.js";
export type { Ending, Reservation } from "./settle.js";
export { settle } from "./settle.js";
export type { Document, Json, ListQuery, Store, Write, WriteResult } from "./store.js";
