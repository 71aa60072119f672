import * as crypto from "node:crypto";

/** What secrets begin with, by kind. Each prefix satisfies `isSecretPrefix`; no two are equal. */
export interface SecretPrefixes {
  readonly standard: string;
  readonly subscription: string;
}

export const DEFAULT_PREFIXES: SecretPrefixes = { standard: "sk-", subscription: "sk-sub-" };

/** One member of a ring of peppers. `id` is for the operator; only `secret` goes into a digest. */
export interface Pepper {
  readonly id: string;
  readonly secret: string;
}

/** How long a prefix, and the part after it, may be. */
export const MAX_PREFIX_LENGTH = 32;
export const MIN_BODY_LENGTH = 32;
export const MAX_BODY_LENGTH = 512;

const ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const RANDOM_LENGTH = 42;
const CHECKSUM_LENGTH = 6;
const HINT_LENGTH = 4;
const DIGEST_LENGTH = 64;

/** Bytes from here on are thrown away: 248 is the largest multiple of 62 in a byte, so none is favoured. */
const FIRST_REJECTED = 248;
const MAX_DRAWS = 8;
const BYTES_PER_DRAW = 64;

/** Fewer different characters than this happen once in 10^28 secrets, or every time if the source is stuck. */
const MIN_DISTINCT = 8;

/**
 * Makes a new secret: the prefix, 42 random characters, and a checksum of six over both.
 *
 * Every character is equally likely. A source of randomness that does not deliver (too few bytes, all 0xff,
 * all zero) is an error after at most eight draws; there is nothing to fall back to.
 *
 * @throws TypeError for a prefix that `isSecretPrefix` does not accept, and for a broken source.
 */
export function generateSecret(
  prefix: string,
  randomBytes: (count: number) => Uint8Array = crypto.randomBytes,
): string {
  if (!isSecretPrefix(prefix)) {
    throw new TypeError(`A prefix is 1 to 32 of A-Z a-z 0-9 _ - and ends in "-" or "_".`);
  }
  const text = prefix + randomCharacters(randomBytes);
  return text + checksum(text);
}

/** Whether a value may be a prefix: 1 to 32 of `[A-Za-z0-9_-]`, the last one `-` or `_`. Never throws. */
export function isSecretPrefix(value: unknown): value is string {
  return typeof value === "string" && /^[A-Za-z0-9_-]{0,31}[-_]$/.test(value);
}

/**
 * Whether a value has the form of a secret: one of the prefixes, then 32 to 512 of `[A-Za-z0-9]` and nothing
 * else. Says nothing about whether it was ever issued.
 *
 * The longest prefix that fits is the one that counts, so `sk-sub-` is one prefix and never `sk-` with more.
 * Never throws, whatever the value is; takes time linear in its length, and none if it is too long.
 */
export function isSecret(value: unknown, prefixes: readonly string[]): value is string {
  if (typeof value !== "string" || value.length > MAX_PREFIX_LENGTH + MAX_BODY_LENGTH) return false;
  const start = longestPrefix(value, prefixes);
  const bodyLength = value.length - start;
  if (start === 0 || bodyLength < MIN_BODY_LENGTH || bodyLength > MAX_BODY_LENGTH) return false;
  for (let at = start; at < value.length; at++) {
    if (!isAlphanumeric(value.charCodeAt(at))) return false;
  }
  return true;
}

/**
 * Whether the last six characters are the checksum of the others. Catches typing errors and random floods;
 * anyone can compute it, so it proves nothing. Keys made elsewhere have none. For values that passed `isSecret`.
 */
export function hasValidChecksum(secret: string): boolean {
  const text = secret.slice(0, -CHECKSUM_LENGTH);
  return text !== "" && secret.slice(-CHECKSUM_LENGTH) === checksum(text);
}

/**
 * What a secret is looked up by: 64 lower-case hex digits, HMAC-SHA-256 under the pepper, without one SHA-256.
 *
 * Only for values that passed `isSecret`: in other strings every lone surrogate would digest alike.
 */
export function digestSecret(secret: string, pepper?: string): string {
  if (pepper === undefined) return sha256(secret);
  return crypto.createHmac("sha256", pepper).update(secret).digest("hex");
}

/**
 * All digests a secret may be stored under, at least one. The first belongs to the first pepper, and is the
 * one to store; the others find what was stored under older peppers. An empty ring means no pepper.
 */
export function digestsOf(secret: string, peppers: readonly Pepper[]): readonly string[] {
  if (peppers.length === 0) return [digestSecret(secret)];
  return peppers.map((pepper) => digestSecret(secret, pepper.secret));
}

/** Whether two digests are equal, in constant time. False for anything that is not 64 characters. Never throws. */
export function sameDigest(a: string, b: string): boolean {
  if (typeof a !== "string" || typeof b !== "string") return false;
  if (a.length !== DIGEST_LENGTH || b.length !== DIGEST_LENGTH) return false;
  let difference = 0;
  for (let at = 0; at < DIGEST_LENGTH; at++) difference |= a.charCodeAt(at) ^ b.charCodeAt(at);
  return difference === 0;
}

/** The last four characters: enough for its holder to recognise a secret, and of no use to others. */
export function hintOf(secret: string): string {
  return secret.slice(-HINT_LENGTH);
}

function randomCharacters(randomBytes: (count: number) => Uint8Array): string {
  let characters = "";
  for (let draw = 0; draw < MAX_DRAWS; draw++) {
    for (const byte of randomBytes(BYTES_PER_DRAW)) {
      if (byte < FIRST_REJECTED) characters += ALPHABET.charAt(byte % ALPHABET.length);
      if (characters.length < RANDOM_LENGTH) continue;
      if (new Set(characters).size < MIN_DISTINCT) throw new TypeError("The source of bytes is stuck.");
      return characters;
    }
  }
  throw new TypeError("The source of random bytes does not deliver random bytes.");
}

/** CRC-32 (IEEE) in base 62, most significant digit first. ASCII only. */
function checksum(text: string): string {
  let crc = -1;
  for (let at = 0; at < text.length; at++) {
    crc ^= text.charCodeAt(at);
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  let rest = ~crc >>> 0;
  let digits = "";
  for (let digit = 0; digit < CHECKSUM_LENGTH; digit++) {
    digits = ALPHABET.charAt(rest % ALPHABET.length) + digits;
    rest = Math.floor(rest / ALPHABET.length);
  }
  return digits;
}

function longestPrefix(text: string, prefixes: readonly string[]): number {
  let longest = 0;
  for (const prefix of prefixes) {
    if (prefix.length > longest && text.startsWith(prefix)) longest = prefix.length;
  }
  return longest;
}

function isAlphanumeric(code: number): boolean {
  return (code >= 48 && code <= 57) || (code >= 65 && code <= 90) || (code >= 97 && code <= 122);
}

/** The one-shot `hash` costs a fifth of a hash object, but not every runtime has it. */
function sha256(text: string): string {
  if (typeof crypto.hash === "function") return crypto.hash("sha256", text, "hex");
  return crypto.createHash("sha256").update(text).digest("hex");
}
