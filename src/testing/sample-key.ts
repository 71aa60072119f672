import type { KeyRecord } from "../documents.js";
import { newKeyRecord } from "../key-record.js";
import { type IssueInput, parseIssueInput } from "../policy-input.js";
import { DEFAULT_PREFIXES } from "../secret.js";

/**
 * The record that `keys.issue(input)` would store at `now`, without a secret anybody knows: for testing policies
 * with `evaluatePolicy` and `decide`, without a store or a server. The `account` it names is not looked up.
 *
 * @param now store time in integer milliseconds. Default 0.
 * @throws KeystileError `invalid_options` for a policy that `issue` would not take either.
 */
export function sampleKey(input: IssueInput = {}, now = 0): KeyRecord {
  const { owner, kind, accountId, policy } = parseIssueInput(input, { onCrash: "charge" }, now);
  const secret = { digest: "0".repeat(64), hint: "0000" };
  const pays = kind === "subscription" ? ("subscription" as const) : ("balance" as const);
  const account = accountId === undefined ? undefined : { id: accountId, pays };
  return newKeyRecord({ owner, prefix: DEFAULT_PREFIXES[kind], account, policy }, secret, now);
}
