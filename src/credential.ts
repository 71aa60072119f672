import { withoutBlanks } from "./blanks.js";
import { type Refusal, refuse } from "./refusal.js";

/** A place a credential may be read from: `Authorization: Bearer`, or the header of that name. */
export type CredentialSource =
  | "bearer"
  | "x-api-key"
  | "api-key"
  | "x-goog-api-key"
  /** An item `openai-insecure-api-key.<secret>` of `Sec-WebSocket-Protocol`: what browsers send. */
  | "websocket-protocol"
  /** `?key=<secret>`. It ends up in logs and histories: the last resort. */
  | "query";

export const DEFAULT_SOURCES: readonly CredentialSource[] = ["bearer", "x-api-key"];

/**
 * The headers of a request: those of `fetch`, Node's `rawHeaders`, or a record with names in any case.
 *
 * Node's `headers` silently drops a second `Authorization`; hand in `rawHeaders` or `headersDistinct`.
 */
export type HeaderSource =
  | { get(name: string): string | null }
  | readonly string[]
  | Readonly<Record<string, string | readonly string[] | undefined>>;

/** What a request presented. The secret is not judged yet: neither its form nor whether it exists. */
export type Credential = { readonly secret: string } | { readonly refusal: Refusal };

/** The longest header value that is looked at: far above the longest `Bearer` with the longest secret. */
export const MAX_CREDENTIAL_LENGTH = 1_024;

const MAX_SPACES = 8;

export const PROTOCOL_PREFIX = "openai-insecure-api-key.";

/**
 * Reads the credential of a request.
 *
 * The first source whose header is there, be it empty or nonsense, decides alone; the others are not
 * consulted. Its header must occur once (else `credential_ambiguous`, also for a comma, with which runtimes
 * join repeated fields), be 1 to 1,024 printable ASCII characters, and hold exactly one word, after
 * `Bearer` in any case and 1 to 8 spaces where the source is `bearer` (else `credential_malformed`).
 * Nothing is trimmed or decoded.
 *
 * Never throws: what cannot be read as headers has no credential (`credential_missing`).
 */
export function readCredential(
  headers: HeaderSource,
  sources: readonly CredentialSource[] = DEFAULT_SOURCES,
  url?: string,
): Credential {
  try {
    for (const source of sources) {
      const values = valuesOf(source, headers, url);
      if (values.length > 0) return readValues(values, source);
    }
  } catch {
    // A getter or proxy of the caller threw: there is nothing to read, and a request is not to end in a crash.
  }
  return { refusal: refuse("credential_missing") };
}

function valuesOf(source: CredentialSource, headers: HeaderSource, url = ""): readonly unknown[] {
  switch (source) {
    case "bearer":
      return fieldValues(headers, "authorization");
    case "websocket-protocol":
      return protocolSecrets(fieldValues(headers, "sec-websocket-protocol"));
    case "query":
      return url.includes("?") ? new URLSearchParams(url.slice(url.indexOf("?"))).getAll("key") : [];
    default:
      return fieldValues(headers, source);
  }
}

/** The header is a list by definition, so here a comma separates. One too long to be read is judged as it is. */
function protocolSecrets(fields: readonly unknown[]): readonly unknown[] {
  const tooLong = fields.filter((field) => typeof field !== "string" || field.length > MAX_CREDENTIAL_LENGTH);
  if (tooLong.length > 0) return tooLong;
  return fields
    .flatMap((field) => (field as string).split(","))
    .map(withoutBlanks)
    .filter((item) => item.startsWith(PROTOCOL_PREFIX))
    .map((item) => item.slice(PROTOCOL_PREFIX.length));
}

/** All values of another header, such as `x-forwarded-for`. Never throws: what cannot be read is not there. */
export function headerValues(headers: HeaderSource, name: string): readonly string[] {
  try {
    return fieldValues(headers, name).filter((value) => typeof value === "string");
  } catch {
    return [];
  }
}

function readValues(values: readonly unknown[], source: CredentialSource): Credential {
  const [value] = values;
  if (values.length > 1) return { refusal: refuse("credential_ambiguous") };
  if (typeof value !== "string" || value.length > MAX_CREDENTIAL_LENGTH) return malformed();
  if (value.includes(",")) return { refusal: refuse("credential_ambiguous") };
  const start = source === "bearer" ? afterBearer(value) : 0;
  if (start === undefined || !isOneWord(value, start)) return malformed();
  return { secret: value.slice(start) };
}

function malformed(): Credential {
  return { refusal: refuse("credential_malformed") };
}

/** Where the word after `Bearer` begins. */
function afterBearer(value: string): number | undefined {
  if (value.slice(0, 6).toLowerCase() !== "bearer") return undefined;
  let at = 6;
  while (value[at] === " ") at++;
  const spaces = at - 6;
  return spaces >= 1 && spaces <= MAX_SPACES ? at : undefined;
}

/** Whether the rest of a value is one or more printable ASCII characters without a space. */
function isOneWord(value: string, start: number): boolean {
  for (let at = start; at < value.length; at++) {
    const code = value.charCodeAt(at);
    if (code < 0x21 || code > 0x7e) return false;
  }
  return value.length > start;
}

/** All values of a header, unchecked: whatever the caller handed in, an empty list means it is not there. */
function fieldValues(headers: unknown, name: string): readonly unknown[] {
  if (typeof headers !== "object" || headers === null) return [];
  if (Array.isArray(headers)) {
    const values: unknown[] = [];
    for (let at = 1; at < headers.length; at += 2)
      if (isName(headers[at - 1], name) && at in headers) values.push(headers[at]);
    return values;
  }
  if ("get" in headers && typeof headers.get === "function") {
    return present(headers.get(name));
  }
  const record = headers as Readonly<Record<string, unknown>>;
  let values = NONE;
  for (const key in record) {
    if (!isName(key, name) || !Object.hasOwn(record, key)) continue;
    const more = present(record[key]);
    values = values.length === 0 ? more : [...values, ...more];
  }
  return values;
}

const NONE: readonly unknown[] = [];

function isName(key: unknown, name: string): boolean {
  return typeof key === "string" && key.length === name.length && key.toLowerCase() === name;
}

function present(value: unknown): readonly unknown[] {
  if (value === undefined || value === null) return NONE;
  return Array.isArray(value) ? value : [value];
}
