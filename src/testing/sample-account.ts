import {
  type OpenInput,
  parseOpenInput,
  parseSubscribeInput,
  type SubscribeInput,
} from "../account-input.js";
import { newAccountRecord, newSubscription } from "../account-record.js";
import type { AccountRecord } from "../documents.js";

/**
 * The record that `accounts.open(input)` would store at `now`, with what was credited to it and the subscription that
 * `accounts.subscribe` would begin: for testing plans and prices with `decide` and `settle`, without a store or a server.
 *
 * @param now store time in integer milliseconds. Default 0.
 * @throws KeystileError `invalid_options` for what `open` or `subscribe` would not take either.
 */
export function sampleAccount(
  input: OpenInput & { readonly credited?: number; readonly subscription?: SubscribeInput } = {},
  now = 0,
): AccountRecord {
  const { credited = 0, subscription, ...opened } = input;
  const { owner, policy } = parseOpenInput(opened, { onCrash: "charge" });
  const account = { ...newAccountRecord({ owner, policy }, now), credited };
  if (subscription === undefined) return account;
  const parsed = parseSubscribeInput(subscription, now);
  return { ...account, subscription: newSubscription(parsed, undefined, now) };
}
