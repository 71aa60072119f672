import { joinBytes } from "./body.js";
import type { NodeResponse } from "./exchange.js";
import type { Passed } from "./guard.js";
import type { UsageMeter } from "./usage-meter.js";

/** As Node has them: each takes its arguments in several forms. */
type Method = (this: unknown, ...parts: unknown[]) => unknown;

/**
 * Lets a meter read what is written to a response of Node, whoever writes it. Status and header fields are taken as the
 * handler gives them, so that a response which is compressed on its way is still read. Calls go on as they came, with
 * their callbacks and results; only if a chunk may be stripped, with the bytes that are left. Returns what ends the meter.
 */
export function meterResponse(response: NodeResponse, meterOf: NonNullable<Passed["meter"]>): () => void {
  const methods = response as unknown as Record<"writeHead" | "write" | "end", Method>;
  const { writeHead, write, end } = methods;
  let meter: UsageMeter | undefined;
  let isHeadKnown = false;
  let isBodyBegun = false;

  function readHead(status: number, given: unknown): void {
    meter = meterOf(status, (name) => givenField(given, name) ?? response.getHeader(name));
    isHeadKnown = true;
  }

  function beginBody(): void {
    if (!isHeadKnown) readHead(response.statusCode, undefined);
    isBodyBegun = true;
  }

  /** Returns the bytes that were held back. */
  function endMeter(): Uint8Array {
    const held = meter?.end();
    meter = undefined;
    return held ?? NONE;
  }

  /** What cannot be read passes the meter by, after all that came before it. */
  function writeHeld(target: unknown): void {
    const held = endMeter();
    if (held.length > 0) write.call(target, held);
  }

  methods.writeHead = function (...parts) {
    if (!isBodyBegun && !response.headersSent) readHead(Number(parts[0]), parts.find(isObject));
    return writeHead.apply(this, parts);
  };

  methods.write = function (...parts) {
    beginBody();
    if (meter === undefined || !isChunk(parts[0])) return write.apply(this, parts);
    const bytes = bytesOf(parts);
    const passed = bytes && meter.push(bytes);
    if (passed === undefined) writeHeld(this);
    if (passed === bytes) return write.apply(this, parts);
    return write.call(this, passed, undefined, parts.find(isFunction));
  };

  methods.end = function (...parts) {
    beginBody();
    if (meter === undefined) return end.apply(this, parts);
    const bytes = isChunk(parts[0]) ? bytesOf(parts) : NONE;
    const passed = bytes && meter.push(bytes);
    if (passed === undefined) writeHeld(this);
    // Ended first: a response of HTTP/2 writes to itself what it ends with.
    const held = endMeter();
    if (passed === bytes && held.length === 0) return end.apply(this, parts);
    return end.call(this, joinBytes([passed ?? NONE, held]), undefined, parts.find(isFunction));
  };

  return () => void endMeter();
}

const NONE = new Uint8Array();
const encoder = new TextEncoder();

/** A field of the headers that `writeHead` got: an object, or a list of names and values in turn. */
function givenField(given: unknown, name: string): unknown {
  if (!Array.isArray(given)) {
    return Object.entries(given ?? {}).find(([field]) => field.toLowerCase() === name)?.[1];
  }
  const at = given.findIndex((field, place) => place % 2 === 0 && String(field).toLowerCase() === name);
  return at === -1 ? undefined : given[at + 1];
}

/** What a call writes; undefined for text in a rare encoding, which is not read. */
function bytesOf([chunk, encoding]: readonly unknown[]): Uint8Array | undefined {
  if (chunk instanceof Uint8Array) return chunk;
  if (typeof chunk !== "string") return undefined;
  const name = typeof encoding === "string" ? encoding.toLowerCase() : "utf8";
  if (name === "utf8" || name === "utf-8") return encoder.encode(chunk);
  // Node writes the low byte of every character for each of them.
  const isByteForByte = name === "latin1" || name === "binary" || name === "ascii";
  return isByteForByte ? Uint8Array.from(chunk.split(""), (unit) => unit.charCodeAt(0)) : undefined;
}

function isChunk(part: unknown): boolean {
  return typeof part === "string" || part instanceof Uint8Array;
}

function isFunction(part: unknown): boolean {
  return typeof part === "function";
}

function isObject(part: unknown): boolean {
  return typeof part === "object" && part !== null;
}
