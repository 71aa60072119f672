import type { Documents, Limit, Policy } from "./documents.js";
import { isExpired, isTime } from "./policy.js";
import { type QuotaStatus, quotaStatus } from "./quota.js";
import { sweep } from "./settle.js";

/** A key as its operator sees it. Everything but the secret, which nobody can see again. */
export interface KeyView {
  readonly id: string;
  readonly owner?: string;
  /** The account whose money it spends. */
  readonly accountId?: string;
  readonly name?: string;
  readonly state: "active" | "disabled" | "expired" | "revoked";
  /** The last four characters of the current secret. */
  readonly hint: string;
  readonly createdAt: string;
  /** ISO 8601, or null for never. Of a stored value that is no time, which means expired, the year 1970. */
  readonly expiresAt: string | null;
  readonly allowedIps?: readonly string[];
  readonly allowedModels?: readonly string[];
  readonly deniedModels?: readonly string[];
  readonly scopes?: readonly string[];
  readonly limits: readonly Limit[];
  /** Its own quota; without one, that of the subscription it pays from. */
  readonly quota: QuotaStatus;
  readonly onCrash: Policy["onCrash"];
  readonly metadata: Readonly<Record<string, string>>;
  /** Raised by every change made here, never by traffic. */
  readonly policyVersion: number;
}

/** The view of a key, by its account's current cycle if it has one. */
export function keyView(id: string, stored: Documents, now: number): KeyView {
  const documents = sweep(stored, now);
  const record = documents.key;
  const { owner, account, policy, secrets, createdAtMs, policyVersion } = record;
  const {
    name,
    state,
    expiresAtMs,
    allowedIps,
    allowedModels,
    deniedModels,
    scopes,
    limits,
    onCrash,
    metadata = {},
  } = policy;
  return {
    id,
    ...(owner !== undefined && { owner }),
    ...(account !== undefined && { accountId: account.id }),
    ...(name !== undefined && { name }),
    state: state === "active" && isExpired(expiresAtMs, Math.max(now, record.latestMs)) ? "expired" : state,
    hint: secrets[0]?.hint ?? "",
    createdAt: new Date(createdAtMs).toISOString(),
    expiresAt: expiresAtMs === null ? null : new Date(isTime(expiresAtMs) ? expiresAtMs : 0).toISOString(),
    ...(allowedIps && { allowedIps }),
    ...(allowedModels && { allowedModels }),
    ...(deniedModels && { deniedModels }),
    ...(scopes && { scopes }),
    limits,
    quota: quotaStatus(documents),
    onCrash,
    metadata,
    policyVersion,
  };
}
