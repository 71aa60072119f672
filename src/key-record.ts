import { FORMAT, type KeyRecord, type StoredSecret } from "./documents.js";
import { emptyLedger } from "./ledger.js";

/** The record of a key that has never been used. */
export function newKeyRecord(
  { owner, prefix, account, policy }: Pick<KeyRecord, "owner" | "prefix" | "account" | "policy">,
  secret: Pick<StoredSecret, "digest" | "hint">,
  now: number,
): KeyRecord {
  return {
    format: FORMAT,
    ...(owner !== undefined && { owner }),
    prefix,
    ...(account !== undefined && { account }),
    createdAtMs: now,
    policyVersion: 1,
    policy,
    secrets: [{ ...secret, endsAtMs: null }],
    ...emptyLedger(now),
  };
}
