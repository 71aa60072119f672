import { joinBytes } from "./body.js";

/** What a text of JSON holds at its top. */
export interface JsonMembers {
  /** Takes the next bytes of the text, cut anywhere. Keeps a copy of what it needs. */
  push(bytes: Uint8Array): void;
  /**
   * The members that were complete so far, as `JSON.parse` reads them: of two with one name, the last. `isComplete`
   * tells whether the text so far is one whole object.
   */
  read(): { readonly members: Readonly<Record<string, unknown>>; readonly isComplete: boolean };
}

/** A longer member is skipped, as if it were not there: its name, or its value with the white space around it. */
export const MAX_MEMBER_BYTES: number = 64 * 1024;

/** Further members are skipped. */
export const MAX_MEMBERS = 256;

type State = "start" | "name" | "colon" | "value" | "end" | "broken";

/**
 * Reads the short members at the top of a JSON object of any size as its bytes pass. Usage is a small member of an
 * answer that may be a hundred megabytes of embeddings, which nobody wants in memory.
 *
 * A text that is not an object has no members. Of a text that is not JSON, members may be found up to where it breaks,
 * or even beyond; each of them is JSON in itself. Never throws; takes time linear in the bytes, at any depth.
 */
export function jsonMembers(): JsonMembers {
  const texts = new Map<string, string>();
  let state: State = "start";
  let isInString = false;
  let isEscaped = false;
  let depth = 0;
  let name: string | undefined;
  let pieces: Uint8Array[] = [];
  let size = 0;

  function push(bytes: Uint8Array): void {
    let from = 0;
    for (let at = 0; at < bytes.length && state !== "broken"; at++) {
      if (isEscaped) {
        isEscaped = false;
      } else if (isInString) {
        at = findStop(bytes, at, STRING_STOPS);
        isEscaped = bytes[at] === BACKSLASH;
        isInString = bytes[at] !== QUOTE;
        if (isInString || state !== "name") continue;
        name = parseName(takeText(bytes.subarray(from, at + 1)));
        state = "colon";
      } else if (state === "value") {
        at = findStop(bytes, at, depth > 0 ? NESTED_STOPS : VALUE_STOPS);
        const byte = bytes[at];
        if (byte === QUOTE) isInString = true;
        else if (byte === OPEN_BRACE || byte === OPEN_BRACKET) depth++;
        else if (depth > 0) depth -= byte === undefined ? 0 : 1;
        else if (byte !== undefined) {
          keep(takeText(bytes.subarray(from, at)));
          state = byte === COMMA ? "name" : "end";
        }
      } else {
        const byte = bytes[at] as number;
        if (BLANKS.includes(byte)) continue;
        state = stateAfter(state, byte);
        isInString = state === "name" && byte === QUOTE;
        from = state === "value" ? at + 1 : at;
      }
    }
    if (isInString || state === "value") hold(bytes.subarray(from));
  }

  function hold(piece: Uint8Array): void {
    size += piece.length;
    if (size > MAX_MEMBER_BYTES) pieces = [];
    else pieces.push(new Uint8Array(piece));
  }

  /** Ends a name or value with its last piece; `undefined` when it is too long. */
  function takeText(piece: Uint8Array): string | undefined {
    const text =
      size + piece.length > MAX_MEMBER_BYTES ? undefined : decoder.decode(joinBytes([...pieces, piece]));
    pieces = [];
    size = 0;
    return text;
  }

  function keep(text: string | undefined): void {
    if (name === undefined) return;
    if (text === undefined) texts.delete(name);
    else if (texts.has(name) || texts.size < MAX_MEMBERS) texts.set(name, text);
  }

  function read(): ReturnType<JsonMembers["read"]> {
    // `fromEntries` defines own members, whatever their names.
    return { members: Object.fromEntries([...texts].flatMap(parseMember)), isComplete: state === "end" };
  }

  return { push, read };
}

const QUOTE = 0x22;
const COMMA = 0x2c;
const COLON = 0x3a;
const OPEN_BRACKET = 0x5b;
const BACKSLASH = 0x5c;
const CLOSE_BRACKET = 0x5d;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;

const BLANKS: readonly number[] = [0x20, 0x0a, 0x0d, 0x09];

/** The bytes that matter in a string, in a value, and in what is nested in it. Most do not, so they are skipped fast. */
const STRING_STOPS = stopsAt(QUOTE, BACKSLASH);
const NESTED_STOPS = stopsAt(QUOTE, OPEN_BRACE, OPEN_BRACKET, CLOSE_BRACE, CLOSE_BRACKET);
const VALUE_STOPS = stopsAt(QUOTE, OPEN_BRACE, OPEN_BRACKET, CLOSE_BRACE, COMMA);

function stopsAt(...bytes: readonly number[]): Uint8Array {
  return Uint8Array.from({ length: 256 }, (_, byte) => (bytes.includes(byte) ? 1 : 0));
}

/** The place of the next byte that matters, or the end. */
function findStop(bytes: Uint8Array, from: number, stops: Uint8Array): number {
  let at = from;
  while (at < bytes.length && stops[bytes[at] as number] === 0) at++;
  return at;
}

/** A mark at the start of a value is no JSON, so it must not disappear. */
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** What comes after a byte between names and values; a name stays one until its string ends. */
function stateAfter(state: State, byte: number): State {
  if (state === "start" && byte === OPEN_BRACE) return "name";
  if (state === "name" && byte === QUOTE) return "name";
  if (state === "name" && byte === CLOSE_BRACE) return "end";
  if (state === "colon" && byte === COLON) return "value";
  return "broken";
}

function parseName(text: string | undefined): string | undefined {
  const name = text === undefined ? undefined : parseJson(text);
  return typeof name === "string" ? name : undefined;
}

function parseMember([name, text]: readonly [string, string]): readonly (readonly [string, unknown])[] {
  const value = parseJson(text);
  return value === undefined ? [] : [[name, value]];
}

/** The value of a JSON text; `undefined` for any other text. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
