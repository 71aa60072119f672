import { decodeUtf8 } from "./strict-json.js";

/** One part of a multipart form. */
export interface Part {
  readonly name: string;
  /** Whether it carries a file name, which makes it a file to whoever reads the form. */
  readonly isFile: boolean;
  readonly contentType: string | undefined;
  readonly content: Uint8Array;
}

export const MAX_PARTS = 1_000;
export const MAX_PART_HEAD_BYTES = 4_096;

const CR = 13;
const LF = 10;

/**
 * The parts of a `multipart/form-data` body that every reader divides alike; `undefined` when that cannot be told.
 *
 * Stricter than the standard: lines end in CR LF, nothing stands before the first delimiter or after the last, the
 * headers of a part take 4,096 bytes at most and occur once each, names are quoted and without `\` or `%`, nothing
 * is transfer-encoded, and there are at most 1,000 parts. That is how clients write. Linear; keeps no copies.
 *
 * The platform's own reader, `Response.formData()`, is of no use here: it is asynchronous, and what it tolerates is
 * what another reader may understand differently.
 */
export function parseMultipart(contentType: string, body: Uint8Array): readonly Part[] | undefined {
  const boundary = boundaryOf(contentType);
  if (boundary === undefined) return undefined;
  const delimiter = new TextEncoder().encode(`--${boundary}`);
  const starts = delimitersIn(body, delimiter);
  const last = starts?.at(-1);
  if (starts === undefined || last === undefined || !isClosing(body.subarray(last + delimiter.length))) {
    return undefined;
  }
  const parts: Part[] = [];
  for (const [at, end] of starts.slice(1).entries()) {
    const part = parsePart(body.subarray((starts[at] as number) + delimiter.length, end - 2));
    if (part === undefined) return undefined;
    parts.push(part);
  }
  return parts;
}

function boundaryOf(contentType: string): string | undefined {
  const form =
    /^multipart\/form-data[ \t]*;[ \t]*boundary=(?:"([\w'()+./:?-]{1,70})"|([\w'+.-]{1,70}))[ \t]*$/i;
  const match = form.exec(contentType);
  return match?.[1] ?? match?.[2];
}

/**
 * Where the delimiters begin: the first with the body, the others after CR LF. `undefined` if one follows any other
 * kind of line end, which readers disagree about. No delimiter has a line end, so no byte is compared twice.
 */
function delimitersIn(body: Uint8Array, delimiter: Uint8Array): readonly number[] | undefined {
  if (!holdsAt(body, delimiter, 0)) return undefined;
  const starts = [0];
  for (let at = 0; at < body.length; at++) {
    if (body[at] !== LF && body[at] !== CR) continue;
    if (!holdsAt(body, delimiter, at + 1)) continue;
    if (body[at] === CR || body[at - 1] !== CR || starts.length > MAX_PARTS) return undefined;
    starts.push(at + 1);
  }
  return starts;
}

function holdsAt(bytes: Uint8Array, wanted: Uint8Array, start: number): boolean {
  return wanted.every((byte, at) => bytes[start + at] === byte);
}

/** Whether a delimiter is the last: `--` follows it, at most one line end, and nothing else. */
function isClosing(rest: Uint8Array): boolean {
  return rest.length <= 4 && /^--(?:\r\n)?$/.test(decodeUtf8(rest) ?? "");
}

/** Reads what stands between two delimiters, from the line end of the first up to that before the second. */
function parsePart(part: Uint8Array): Part | undefined {
  const headEnd = endOfHead(part);
  const head = headEnd === undefined ? undefined : parseHead(part.subarray(2, headEnd));
  if (headEnd === undefined || head === undefined) return undefined;
  const [, name, file] =
    /^form-data;[ ]?name="([^"\\%]*)"((?:;[ ]?filename="[^"\\]*")?(?:;[ ]?filename\*=[^;"\s]*)?)$/i.exec(
      head.get("content-disposition") ?? "",
    ) ?? [];
  const transferEncoding = head.get("content-transfer-encoding") ?? "binary";
  if (name === undefined || !/^(?:7bit|8bit|binary)$/i.test(transferEncoding)) return undefined;
  const content = part.subarray(headEnd + 4);
  return { name, isFile: file !== "", contentType: head.get("content-type"), content };
}

/** Where the empty line begins that ends the headers, if there is one and the part begins with a line end. */
function endOfHead(part: Uint8Array): number | undefined {
  const blank = Uint8Array.of(CR, LF, CR, LF);
  if (!holdsAt(part, blank.subarray(2), 0)) return undefined;
  for (let at = part.indexOf(CR, 2); at !== -1 && at <= MAX_PART_HEAD_BYTES; at = part.indexOf(CR, at + 1)) {
    if (holdsAt(part, blank, at)) return at;
  }
  return undefined;
}

/** The headers by name in lower case, if each is one plain line and none occurs twice. */
function parseHead(bytes: Uint8Array): ReadonlyMap<string, string> | undefined {
  const headers = new Map<string, string>();
  for (const line of decodeUtf8(bytes)?.split("\r\n") ?? [""]) {
    const [, name, value] = /^([\w-]+): ?([^\p{Cc}]*)$/u.exec(line) ?? [];
    if (name === undefined || value === undefined || headers.has(name.toLowerCase())) return undefined;
    headers.set(name.toLowerCase(), value);
  }
  return headers;
}
