export type {
  AccountInput,
  CycleInput,
  OpenInput,
  PlanInput,
  SubscribeInput,
} from "./account-input.js";
export type { AccountView, PlanView, SubscriptionView } from "./account-view.js";
export type { Accounts, Applied, EntryInput, SubscriptionKeyInput } from "./accounts.js";
export type { Thresholds } from "./alerts.js";
export type { Admission, Arrival, Identified } from "./authorizer.js";
export type { CredentialSource, HeaderSource } from "./credential.js";
export type { Cycle, CycleSpan } from "./cycle.js";
export { cycleAt } from "./cycle.js";
export type { Decided, DecideRequest, Denied, Granted, Verdict } from "./decide.js";
export { decide } from "./decide.js";
export type { Allowed, Decision, KeyIdentity, Refused } from "./decision.js";
export type {
  AccountRecord,
  Cost,
  Documents,
  FundCosts,
  InFlightLimit,
  KeyRecord,
  Limit,
  Outcome,
  PayAsYouGo,
  Plan,
  Policy,
  RequestLimit,
  Subscription,
  TokenLimit,
} from "./documents.js";
export type { FaultCode } from "./errors.js";
export { isKeystileError, KeystileError } from "./errors.js";
export type { EventOf, Events, EventType, FailureCode, KeystileEvent } from "./events.js";
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
export type { Estimate, Priced, Prices, TokenPricesOptions, TokenRates } from "./prices.js";
export { fixedPrice, perFund, tokenPrices } from "./prices.js";
export type { QuotaStatus } from "./quota.js";
export { redact } from "./redact.js";
export type { Reason, Refusal, RefusalCode, RefusalStatus, RefusalType } from "./refusal.js";
export type { RequestParts } from "./request-models.js";
export { requestedModels } from "./request-models.js";
export type { Runtime } from "./runtime.js";
export type { Pepper, SecretPrefixes } from "./secret.js";
export type { Ending, Reservation } from "./settle.js";
export { settle } from "./settle.js";
export type { KeyStanding, Standings, SubscriptionStanding } from "./standing.js";
export type { Document, Json, ListQuery, Store, Write, WriteResult } from "./store.js";
export type { SubscriptionStatus } from "./subscription.js";
export type { ObservedUsage, Usage } from "./usage.js";
export type { UsageMeter, UsageMeterOptions } from "./usage-meter.js";
export { askForUsage, meterBody, usageMeter } from "./usage-meter.js";
export type { UsageReader } from "./usage-readers.js";
export { readUsage } from "./usage-readers.js";
export type {
  UnreadableUsage,
  UsageCounts,
  UsagePage,
  UsageQuery,
  UsageReports,
  UsageRow,
} from "./usage-reports.js";
export type { UsageDimension, UsageTotal } from "./usage-totals.js";
export { sumUsage, usageCsv } from "./usage-totals.js";
