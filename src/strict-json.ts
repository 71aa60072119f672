import { type HeaderSource, headerValues } from "./credential.js";

/**
 * The value of a JSON body that every reader understands alike; `undefined` when that cannot be told.
 *
 * It must be declared once as `application/json` or `application/…+json` in UTF-8, not be compressed, be UTF-8
 * without a byte order mark, be valid JSON, and hold no object, at any depth, in which a member occurs twice; at the
 * top not in another case either. Never throws, at whatever depth of nesting; linear in the length of the body.
 */
export function parseJsonBody(headers: HeaderSource, body: Uint8Array): unknown {
  const contentType = plainContentType(headers);
  if (contentType === undefined || !isJson(contentType)) return undefined;
  const text = decodeUtf8(body);
  const value = text === undefined ? undefined : parseStrictJson(text);
  return hasTwins(value) ? undefined : value;
}

/** The value of a JSON text in which no member occurs twice, however it is escaped; `undefined` for any other. */
export function parseStrictJson(text: string): unknown {
  try {
    const value: unknown = JSON.parse(text);
    // Of two members with one name only the last is kept, so a text with such a pair holds more than its value.
    return writtenMembers(text) === keptMembers(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** The content type of a body that is declared once and is not compressed; `undefined` for any other. */
export function plainContentType(headers: HeaderSource): string | undefined {
  const types = headerValues(headers, "content-type");
  // Node passes on what `gzip, chunked` carries as it came; whoever it is forwarded to may not.
  const isPlain =
    says(headers, "content-encoding", "identity") && says(headers, "transfer-encoding", "chunked");
  return isPlain && types.length <= 1 ? types[0] : undefined;
}

/** Whether a header says this, once, or is not there. */
function says(headers: HeaderSource, name: string, word: string): boolean {
  const values = headerValues(headers, name);
  return values.length <= 1 && values.every((value) => value.toLowerCase() === word);
}

/** Whether a content type is JSON, in UTF-8 as far as it says. */
export function isJson(contentType: string): boolean {
  return /^application\/(?:[\w.-]+\+)?json[ \t]*(?:;[ \t]*charset="?utf-8"?[ \t]*)?$/i.test(contentType);
}

/**
 * Whether somebody may read a body as JSON, though not everyone reads it alike: it is declared as that, in whatever
 * encoding, or begins as an object does, behind byte order marks, NULs and white space.
 */
export function mayBeJson(headers: HeaderSource, body: Uint8Array): boolean {
  const first = body.find((byte) => !BEFORE_JSON.includes(byte));
  return first === OPEN_BRACE || headerValues(headers, "content-type").some((type) => /json/i.test(type));
}

const OPEN_BRACE = 0x7b;
const BEFORE_JSON: readonly number[] = [0x00, 0x09, 0x0a, 0x0d, 0x20, 0xef, 0xbb, 0xbf, 0xfe, 0xff];

/** The text of bytes that are UTF-8; `undefined` for others. A byte order mark stays, and is then no JSON. */
export function decodeUtf8(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

/** A name as the most careless parsers see it: any case, with the long s and the Kelvin sign, and cut at a NUL. */
export function foldName(name: string): string {
  return `${name.split("\0", 1)}`.toUpperCase().toLowerCase();
}

function hasTwins(value: unknown): boolean {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  const names = Object.keys(value);
  return new Set(names.map(foldName)).size < names.length;
}

/** The colons outside strings of a text that is known to be JSON: one for each member of each object. */
function writtenMembers(text: string): number {
  let count = 0;
  for (let at = 0; at < text.length; at++) {
    const character = text.charAt(at);
    if (character === '"') at = closingQuote(text, at);
    else if (character === ":") count++;
  }
  return count;
}

function closingQuote(text: string, opening: number): number {
  for (let at = opening + 1; ; at++) {
    at = text.indexOf('"', at);
    let backslashes = 0;
    while (text[at - 1 - backslashes] === "\\") backslashes++;
    if (backslashes % 2 === 0) return at;
  }
}

/** The members of all objects of a value. Not recursive: a body decides how deep it is nested. */
function keptMembers(value: unknown): number {
  let count = 0;
  const open = [value];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    if (typeof next !== "object" || next === null) continue;
    const inner: readonly unknown[] = Object.values(next);
    if (!Array.isArray(next)) count += inner.length;
    for (const child of inner) if (typeof child === "object") open.push(child);
  }
  return count;
}
