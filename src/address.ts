import ipaddr from "ipaddr.js";
import { withoutBlanks } from "./blanks.js";
import { KeystileError } from "./errors.js";

type Words = readonly [number, number, number, number];

type Range =
  | { readonly family: 4; readonly network: number; readonly mask: number }
  | { readonly family: 6; readonly network: Words; readonly mask: Words };

/**
 * An address, read once. `text` is canonical: all spellings of one address have the same. `bits` are words of
 * 32 bits, signed, because that is what the bitwise operators give and compare.
 */
export type Address =
  | { readonly family: 4; readonly text: string; readonly bits: number }
  | { readonly family: 6; readonly text: string; readonly bits: Words };

/** Compiled addresses and ranges. Made by `compileRanges`; not to be kept in a store. */
export interface Ranges {
  readonly v4: readonly Extract<Range, { family: 4 }>[];
  readonly v6: readonly Extract<Range, { family: 6 }>[];
}

/** How many entries a list holds when it is written, and how many proxies are followed. */
export const MAX_RANGES = 256;
export const MAX_HOPS = 32;

/** The longest strict spelling: eight groups of four hex digits. */
const MAX_LENGTH = 39;

const DOT = 0x2e;
const ZERO = 0x30;
const NINE = 0x39;

/**
 * Reads an address in strict form: four decimal parts without leading zeros, or IPv6 as in RFC 4291 without
 * a zone, where a dotted quad stands only after `::ffff:`. `::ffff:0:0/96`, in any spelling, is IPv4.
 *
 * Everything else, of any type, is `undefined`: no octal, hex or short forms, no ports, nothing trimmed.
 * Never throws.
 */
export function parseAddress(text: unknown): Address | undefined {
  if (typeof text !== "string" || text.length > MAX_LENGTH) return undefined;
  if (!text.includes(":")) return ipv4(text);
  if (text.includes(".")) return /^::ffff:/i.test(text) ? ipv4(text.slice(7)) : undefined;
  return isStrictIpv6(text) ? ipv6(text) : undefined;
}

/**
 * Compiles a list of addresses and ranges that is about to be written.
 *
 * Refuses whatever other software reads in more than one way, and what admits more than it seems to: loose
 * spellings, host bits outside the prefix, `/0`, an IPv4-mapped range that reaches beyond IPv4, an empty list
 * (it could mean any or none). An IPv4-mapped range from /96 on becomes an IPv4 range.
 *
 * @throws KeystileError `invalid_options`, naming the path and the entry, and what it would have meant.
 */
export function compileRanges(entries: readonly string[], path = "ranges"): Ranges {
  if (!Array.isArray(entries) || entries.length === 0 || entries.length > MAX_RANGES) {
    const received = Array.isArray(entries) ? `${entries.length}` : typeof entries;
    throw new KeystileError(
      "invalid_options",
      `${path}: expected a list of 1 to ${MAX_RANGES} addresses or ranges, received ${received}.`,
    );
  }
  const read = Array.from(entries as readonly unknown[], (entry, at) => {
    const range = readRange(entry);
    if (typeof range !== "string") return range;
    const shown = typeof entry === "string" ? JSON.stringify(entry.slice(0, 80)) : typeof entry;
    throw new KeystileError("invalid_options", `${path}[${at}]: ${shown} ${range}.`);
  });
  return compile(read);
}

/**
 * Compiles a list that comes out of a store. Whatever `compileRanges` would refuse matches nothing, so damage
 * can only narrow a list, and an empty list matches no address. Never throws.
 */
export function compileStoredRanges(entries: readonly string[]): Ranges {
  return compile(entries.map(readRange).filter((range) => typeof range !== "string"));
}

/** Whether an address is in one of the ranges. An unknown one is in none; families never match each other. */
export function inRanges(ranges: Ranges, address: Address | undefined): boolean {
  if (address === undefined) return false;
  if (address.family === 4) {
    const { bits } = address;
    return ranges.v4.some(({ network, mask }) => (bits & mask) === network);
  }
  const [a, b, c, d] = address.bits;
  return ranges.v6.some(
    ({ network, mask }) =>
      (a & mask[0]) === network[0] &&
      (b & mask[1]) === network[1] &&
      (c & mask[2]) === network[2] &&
      (d & mask[3]) === network[3],
  );
}

/**
 * The client's address as a single-value header of trusted proxies tells it; of any other peer, the peer's own. From a
 * trusted proxy that does not tell exactly one readable address, it is unknown. Never throws.
 */
export function namedAddress(
  peer: unknown,
  values: readonly string[],
  trusted: Ranges | undefined,
): Address | undefined {
  const address = parseAddress(peer);
  if (trusted === undefined || !inRanges(trusted, address)) return address;
  return values.length === 1 ? parseAddress(values[0]) : undefined;
}

/**
 * The address a request comes from: the peer of the socket or, if that is a trusted proxy, the first address
 * not trusted in the `X-Forwarded-For` fields (all of them, in order), from right to left.
 *
 * A hop that is not a strict address ends the search, and more than 32 hops do: the address is unknown
 * (`undefined`). If all hops are trusted, the leftmost one is the client. Fields sent by anyone but a trusted
 * proxy are not looked at.
 */
export function clientAddress(
  peer: unknown,
  forwarded: readonly string[] | undefined,
  trusted: Ranges | undefined,
): Address | undefined {
  let address = parseAddress(peer);
  if (trusted === undefined || !inRanges(trusted, address)) return address;
  if (forwarded === undefined || forwarded.length === 0) return address;
  const hops = forwarded.join(",").split(",");
  for (let passed = 0; inRanges(trusted, address); passed++) {
    const hop = hops.pop();
    if (hop === undefined) return address;
    if (passed === MAX_HOPS) return undefined;
    address = parseAddress(withoutBlanks(hop));
  }
  return address;
}

/** Read by hand: it is on the path of every request, and the strict reading is its value already. */
function ipv4(text: string): Address | undefined {
  let bits = 0;
  let parts = 0;
  let part = 0;
  let digits = 0;
  for (let at = 0; at <= text.length; at++) {
    const code = at < text.length ? text.charCodeAt(at) : DOT;
    if (code === DOT) {
      if (digits === 0) return undefined;
      bits = bits * 256 + part;
      parts++;
      part = 0;
      digits = 0;
      continue;
    }
    const isLeadingZero = digits > 0 && part === 0;
    if (code < ZERO || code > NINE || isLeadingZero) return undefined;
    part = part * 10 + (code - ZERO);
    if (part > 255) return undefined;
    digits++;
  }
  return parts === 4 ? { family: 4, text, bits: bits | 0 } : undefined;
}

/** ipaddr.js takes groups of any length and more; this decides which of its readings are meant. */
function isStrictIpv6(text: string): boolean {
  const sides = text.split("::");
  const groups = sides.flatMap((side) => (side === "" ? [] : side.split(":")));
  const countFits = sides.length === 1 ? groups.length === 8 : sides.length === 2 && groups.length < 8;
  return countFits && groups.every((group) => /^[0-9a-f]{1,4}$/i.test(group));
}

function ipv6(text: string): Address {
  const parsed = ipaddr.IPv6.parse(text);
  if (parsed.isIPv4MappedAddress()) return ipv4(parsed.toIPv4Address().toString()) as Address;
  const word = (at: number): number => ((parsed.parts[at] ?? 0) << 16) | (parsed.parts[at + 1] ?? 0);
  return { family: 6, text: parsed.toRFC5952String(), bits: [word(0), word(2), word(4), word(6)] };
}

/** A range, or what is wrong with the entry. */
function readRange(entry: unknown): Range | string {
  if (typeof entry !== "string") return "is not text";
  const slash = entry.indexOf("/");
  const base = slash === -1 ? entry : entry.slice(0, slash);
  const address = parseAddress(base);
  if (address === undefined) return `is not an address or range in strict form${looseReading(base)}`;
  const full = base.includes(":") ? 128 : 32;
  const length = slash === -1 ? full : prefixLength(entry.slice(slash + 1));
  if (length === undefined || length > full) return `needs a prefix length from 1 to ${full} after the slash`;
  const mappedBits = address.family === 4 ? full - 32 : 0;
  if (length < mappedBits) {
    const meant = `${ipaddr.IPv6.networkAddressFromCIDR(entry)}/${length}`;
    return `would mean the IPv6 range ${meant}; write an IPv4 range without "::ffff:"`;
  }
  const prefix = length - mappedBits;
  if (prefix === 0) return `would mean every IPv${address.family} address; leave the list out to admit any`;
  const range = rangeAt(address, prefix);
  // An address with bits outside the prefix is not in the range that begins with it.
  return inRanges(compile([range]), address)
    ? range
    : `has bits outside its prefix; it would mean ${networkText(address, prefix)}`;
}

function prefixLength(text: string): number | undefined {
  return /^(?:0|[1-9][0-9]{0,2})$/.test(text) ? Number(text) : undefined;
}

function rangeAt(address: Address, prefix: number): Range {
  if (address.family === 4) return { family: 4, network: address.bits, mask: maskOf(prefix) };
  const mask: Words = [maskOf(prefix), maskOf(prefix - 32), maskOf(prefix - 64), maskOf(prefix - 96)];
  return { family: 6, network: address.bits, mask };
}

/** The mask of one word. A shift by 32 would be one by 0, hence the first case. */
function maskOf(prefix: number): number {
  return prefix <= 0 ? 0 : -1 << Math.max(32 - prefix, 0);
}

function compile(ranges: readonly Range[]): Ranges {
  return {
    v4: ranges.filter((range) => range.family === 4),
    v6: ranges.filter((range) => range.family === 6),
  };
}

function networkText({ family, text }: Address, prefix: number): string {
  const reader = family === 4 ? ipaddr.IPv4 : ipaddr.IPv6;
  return `${reader.networkAddressFromCIDR(`${text}/${prefix}`)}/${prefix}`;
}

/** What lenient software takes an entry for, so that its author sees why it is refused. */
function looseReading(text: string): string {
  const isLoose = text.length <= 64 && ipaddr.isValid(text);
  return isLoose ? ` (read loosely it would be ${ipaddr.parse(text)})` : "";
}
