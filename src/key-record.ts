import { FORMAT, type KeyRecord, type Policy, type StoredSecret } from "./documents.js";

/** The record of a key that has never been used. */
export function newKeyRecord(
  {
    owner,
    prefix,
    policy,
  }: { readonly owner: string | undefined; readonly prefix: string; readonly policy: Policy },
  secret: Pick<StoredSecret, "digest" | "hint">,
  now: number,
): KeyRecord {
  return {
    format: FORMAT,
    ...(owner !== undefined && { owner }),
    prefix,
    createdAtMs: now,
    policyVersion: 1,
    policy,
    secrets: [{ ...secret, endsAtMs: null }],
    used: {},
    levels: {},
    nodes: {},
    collected: {},
    forgottenMs: 0,
    latestMs: now,
  };
}
