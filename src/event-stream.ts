import { createParser } from "eventsource-parser";
import { joinBytes } from "./body.js";

/** Events that are read while their bytes pass. */
export interface EventStream {
  /** Takes the next bytes of the stream, cut anywhere; returns those to pass on, which are none while all are held. */
  push(bytes: Uint8Array): Uint8Array;
  /** The stream ended, or was cut. Returns what was held. */
  end(): Uint8Array;
}

/** A longer event passes on without being read, so this is the most that is ever kept of a stream. */
export const MAX_EVENT_BYTES: number = 8 * 1024 * 1024;

/**
 * Reads the events of a stream as its bytes pass. `readEvent` gets the data of each and tells whether it passes on;
 * one that does not goes with the whole of its block, comments too. Every other byte stays as it is.
 *
 * Where no event may be dropped, `push` returns the very bytes it got, and what `readEvent` tells is ignored.
 * Otherwise the bytes of an event are held until it is complete. The last event of a stream that was cut is read as
 * far as it goes, and passes on. Takes time linear in the bytes; throws only what `readEvent` throws.
 *
 * Blocks are divided here, since only bytes can be passed on; what is in them is for the parser to say.
 */
export function eventStream(
  readEvent: (data: string) => boolean,
  { mayDrop }: { readonly mayDrop: boolean },
): EventStream {
  let passes = true;
  const parser = createParser({
    onEvent({ data }) {
      passes = readEvent(data);
    },
  });
  const decoder = new TextDecoder();
  const placeOf = blockDivider();
  const begun = byteBuffer();
  let isTooLong = false;

  function push(bytes: Uint8Array): Uint8Array {
    const passed: Uint8Array[] = [];
    let passFrom = 0;
    let blockFrom = 0;
    let isInLine = false;
    for (let at = 0; at < bytes.length; at++) {
      const byte = bytes[at] as number;
      const isEndOfLine = byte === LF || byte === CR;
      if (isInLine && !isEndOfLine) continue;
      isInLine = !isEndOfLine;
      const place = placeOf(byte);
      if (place === "inside") continue;
      if (place === "end") {
        const beginning = begun.take();
        endBlock(beginning, bytes.subarray(blockFrom, at + 1));
        if (passes) passed.push(beginning);
      }
      if (!passes) {
        passed.push(bytes.subarray(passFrom, blockFrom));
        passFrom = at + 1;
      }
      blockFrom = at + 1;
    }
    const rest = bytes.subarray(blockFrom);
    passed.push(bytes.subarray(passFrom, blockFrom));
    isTooLong ||= begun.size() + rest.length > MAX_EVENT_BYTES;
    if (isTooLong) passed.push(begun.take(), rest);
    else begun.add(rest);
    return mayDrop ? joinBytes(passed.filter(({ length }) => length > 0)) : bytes;
  }

  function endBlock(beginning: Uint8Array, ending: Uint8Array): void {
    passes = true;
    const isReadable = !isTooLong && beginning.length + ending.length <= MAX_EVENT_BYTES;
    isTooLong = false;
    if (!isReadable) return;
    const block = beginning.length === 0 ? ending : joinBytes([beginning, ending]);
    const text = decoder.decode(block, { stream: true });
    // The parser would wait for the other half of a CRLF.
    parser.feed(text.endsWith("\r") ? `${text}\n` : text);
  }

  function end(): Uint8Array {
    const rest = begun.take();
    parser.feed(`${decoder.decode(rest)}\n\n`);
    return mayDrop ? rest : NONE;
  }

  return { push, end };
}

const LF = 0x0a;
const CR = 0x0d;
const NONE = new Uint8Array();

/**
 * Tells of each byte in turn where in a block it is; of a line, asking for the first byte and the end is enough. A block
 * ends with an empty line; where that ends in CRLF, with the CR, so that no event waits for what comes next. The LF is
 * then a `tail`, which goes the way of the block.
 */
function blockDivider(): (byte: number) => "inside" | "end" | "tail" {
  let place: "inside" | "end" | "tail" = "inside";
  let isLineEmpty = true;
  let isAfterCr = false;
  return (byte) => {
    if (byte === LF && isAfterCr) {
      place = place === "end" ? "tail" : "inside";
      isAfterCr = false;
      return place;
    }
    const isEndOfLine = byte === LF || byte === CR;
    place = isEndOfLine && isLineEmpty ? "end" : "inside";
    isLineEmpty = isEndOfLine;
    isAfterCr = byte === CR;
    return place;
  };
}

interface ByteBuffer {
  size(): number;
  add(bytes: Uint8Array): void;
  /** Returns what was added, and is empty. */
  take(): Uint8Array;
}

/** One array that doubles when it is full: a list of pieces could cost a hundred times their bytes. */
function byteBuffer(): ByteBuffer {
  let bytes = NONE;
  let size = 0;
  return {
    size: () => size,
    add(piece) {
      if (size + piece.length > bytes.length) {
        const larger = new Uint8Array(Math.max(size + piece.length, 2 * bytes.length));
        larger.set(bytes.subarray(0, size));
        bytes = larger;
      }
      bytes.set(piece, size);
      size += piece.length;
    },
    take() {
      const taken = size === 0 ? NONE : bytes.subarray(0, size);
      bytes = NONE;
      size = 0;
      return taken;
    },
  };
}
