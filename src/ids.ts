import { hashOfId } from "./id-hash.js";
import { digestSecret } from "./secret.js";

/** Random bytes, for ids. */
type RandomBytes = (length: number) => Uint8Array;

/**
 * A new key id, `<place>.<random>`: keys of one owner share a place, and a key shares that of its account, so that a
 * sharded store can keep them together.
 */
export function newKeyId(
  { owner, accountId }: { readonly owner: string | undefined; readonly accountId: string | undefined },
  randomBytes: RandomBytes,
): string {
  const random = hex(randomBytes(12));
  if (accountId !== undefined) return `${accountId.slice(0, 3)}.${random}`;
  return `${owner === undefined ? random.slice(0, 3) : placeOf(owner)}.${random}`;
}

/** A new account's id: that of its name, else a random one in the place of its owner. */
export function newAccountId(
  { owner, name }: { readonly owner: string | undefined; readonly name: string | undefined },
  randomBytes: RandomBytes,
): string {
  if (name !== undefined) return namedAccountId(owner, name);
  const random = hex(randomBytes(12));
  return `${placeOf(owner ?? random)}.${random}`;
}

/** The id of the account that an owner has under a name, `<place>.<name>-<who>`: no two owners share one. */
export function namedAccountId(owner: string | undefined, name: string): string {
  if (owner === undefined) return `${placeOf(name)}.${name}`;
  return `${placeOf(owner)}.${name}-${digestSecret(owner).slice(0, 24)}`;
}

export function isKeyId(value: unknown): value is string {
  return typeof value === "string" && value.length === 28 && /^[0-9a-f]{3}\.[0-9a-f]{24}$/.test(value);
}

export function isAccountId(value: unknown): value is string {
  return typeof value === "string" && value.length <= 93 && /^[0-9a-f]{3}\.[\w-]{1,89}$/.test(value);
}

/** One of 4,096 places. */
function placeOf(owner: string): string {
  return (hashOfId(owner) % 4096).toString(16).padStart(3, "0");
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
