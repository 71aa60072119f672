import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { joinBytes } from "../../src/body.js";
import { eventStream, MAX_EVENT_BYTES } from "../../src/event-stream.js";

interface Passed {
  readonly events: readonly string[];
  readonly text: string;
}

/** Passes pieces through a stream that drops the events whose data holds `drop`. */
function passPieces(pieces: readonly Uint8Array[], mayDrop: boolean): Passed {
  const events: string[] = [];
  const stream = eventStream(
    (data) => {
      events.push(data);
      return !data.includes("drop");
    },
    { mayDrop },
  );
  const passed = [...pieces.map((piece) => new Uint8Array(stream.push(piece))), stream.end()];
  return { events, text: textOf(joinBytes(passed)) };
}

function pass(text: string, mayDrop = true): Passed {
  return passPieces([bytesOf(text)], mayDrop);
}

function bytesOf(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

function textOf(bytes: Uint8Array): string {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
}

/** Every way to cut in two, and all bytes alone. */
function allCuts(bytes: Uint8Array): readonly (readonly Uint8Array[])[] {
  const inTwo = [...bytes.keys()].map((at) => [bytes.subarray(0, at), bytes.subarray(at)]);
  return [...inTwo, [...bytes].map((byte) => Uint8Array.of(byte))];
}

const LINE_ENDS = ["\n", "\r\n", "\r"] as const;

describe("events are read, and what may not be dropped stays as it is", () => {
  test.each([
    ["", []],
    ["data: a\n\ndata:b\n\n", ["a", "b"]],
    ["event: x\nid: 1\ndata: a\n\nevent: ping\ndata: {}\n\n", ["a", "{}"]],
    [": comment\n\ndata: a\n: comment\n\n: comment\n\n", ["a"]],
    ["data: a\ndata: b\n\n", ["a\nb"]],
    ["\n\n\ndata: a\n\n\n\ndata: b\n\n", ["a", "b"]],
    ["event: x\n\nretry: 10\n\ndata\n\n", [""]],
    ["\ufeffdata: a\n\n\ufeffdata: b\n\n", ["a"]],
    ["data: é😀\n\ndata: 漢字\n\n", ["é😀", "漢字"]],
    ["data: a\n\ndata: b\n", ["a", "b"]],
    ["data: a\n\ndata: b", ["a", "b"]],
    ["data: a\n\ndat", ["a"]],
    ["nonsense\n\n{}\n\ndata: a\n\n", ["a"]],
  ])("%j", (text, events) => {
    for (const end of LINE_ENDS) {
      const written = text.replaceAll("\n", end);
      for (const pieces of [[bytesOf(written)], ...allCuts(bytesOf(written))]) {
        for (const mayDrop of [false, true]) {
          expect(passPieces(pieces, mayDrop)).toEqual({ events, text: written });
        }
      }
    }
  });

  test("where nothing may be dropped, the very bytes pass at once", () => {
    const stream = eventStream(() => false, { mayDrop: false });
    for (const text of ["data: dr", "op\n\n: comment\r", "\n\r\ndata: b"]) {
      const bytes = bytesOf(text);
      expect(stream.push(bytes)).toBe(bytes);
    }
    expect(stream.end()).toEqual(new Uint8Array());
  });

  test("an event is read with its last line, and does not wait for what comes next", () => {
    const events: string[] = [];
    const stream = eventStream((data) => events.push(data) > 0, { mayDrop: true });
    for (const [at, end] of LINE_ENDS.entries()) {
      expect(textOf(stream.push(bytesOf(`data: ${at}${end}`)))).toBe("");
      const blank = end === "\r\n" ? "\r" : end;
      expect(textOf(stream.push(bytesOf(blank)))).toBe(`data: ${at}${end}${blank}`);
      expect(events.length).toBe(at + 1);
      if (end === "\r\n") expect(textOf(stream.push(bytesOf("\n")))).toBe("\n");
    }
  });
});

describe("dropping", () => {
  test.each([
    ["data: a\n\ndata: drop\n\ndata: b\n\n", "data: a\n\ndata: b\n\n"],
    ["data: drop\n\n", ""],
    ["data: drop\n\ndata: drop\n\ndata: a\n\ndata: drop\n\n", "data: a\n\n"],
    [": ping\n\ndata: drop\n\n: ping\n\ndata: [DONE]\n\n", ": ping\n\n: ping\n\ndata: [DONE]\n\n"],
    ["data: a\n\n: of it\nevent: x\ndata: drop\nid: 7\n\ndata: b\n\n", "data: a\n\ndata: b\n\n"],
    ["data: dr\ndata: op\n\n: drop\n\nevent: drop\ndata: a\n\n", undefined],
    ["\ufeffdata: drop\n\ndata: é\n\n", "data: é\n\n"],
    ["data: a\n\ndata: drop\n", undefined],
    ["data: a\n\ndata: drop", undefined],
  ])("of %j", (text, kept = text) => {
    for (const end of LINE_ENDS) {
      const written = text.replaceAll("\n", end);
      const { events } = pass(written);
      for (const pieces of [[bytesOf(written)], ...allCuts(bytesOf(written))]) {
        expect(passPieces(pieces, true)).toEqual({ events, text: kept.replaceAll("\n", end) });
        expect(passPieces(pieces, false)).toEqual({ events, text: written });
      }
    }
  });

  test("mixed ends of lines: the LF of a CRLF goes with its CR", () => {
    const text = "data: drop\r\n\r\ndata: a\r\r\ndata: drop\n\r\ndata: b\n\rdata: drop\r\r\n\ndata: c\r\n\n";
    const kept = "data: a\r\r\ndata: b\n\r\ndata: c\r\n\n";
    for (const pieces of allCuts(bytesOf(text))) {
      expect(passPieces(pieces, true).text).toBe(kept);
    }
  });

  test("any stream, however it is cut, loses the blocks of the dropped events and nothing else", () => {
    const line = fc.constantFrom("data: a", "data: drop", ": c", "event: é", "data", "x");
    const blocks = fc.array(fc.array(line, { maxLength: 3 }), { maxLength: 5 });
    fc.assert(
      fc.property(blocks, fc.constantFrom(...LINE_ENDS), fc.array(fc.nat()), (written, end, places) => {
        const texts = written.map((lines) => [...lines, ""].map((text) => text + end).join(""));
        const bytes = bytesOf(texts.join(""));
        const ends = [...places.map((place) => place % (bytes.length + 1)), bytes.length];
        const sorted = ends.toSorted((a, b) => a - b);
        const pieces = sorted.map((place, at) => bytes.subarray(sorted[at - 1] ?? 0, place));
        const kept = texts.filter((_, at) => !written[at]?.includes("data: drop"));
        expect(passPieces(pieces, true).text).toBe(kept.join(""));
        expect(passPieces(pieces, false).text).toBe(texts.join(""));
      }),
      { numRuns: 1_000 },
    );
  });

  test("what is held does not change with the caller's bytes", () => {
    const stream = eventStream(() => true, { mayDrop: true });
    const bytes = bytesOf("data: kept");
    stream.push(bytes);
    bytes.fill(0x20);
    expect(textOf(stream.end())).toBe("data: kept");
  });
});

describe("an event that is too long", () => {
  /** A block of as many bytes as are said, with its empty line. */
  function block(length: number): string {
    return `data: ${"x".repeat(length - 8)}\n\n`;
  }

  test("is read up to the bound only, however it is cut", () => {
    for (const [length, events] of [
      [MAX_EVENT_BYTES, 3],
      [MAX_EVENT_BYTES + 1, 2],
    ] as const) {
      const text = `data: a\n\n${block(length)}data: b\n\n`;
      const bytes = bytesOf(text);
      for (const size of [bytes.length, 1_000_003, 4_096]) {
        const pieces = Array.from({ length: Math.ceil(bytes.length / size) }, (_, at) =>
          bytes.subarray(at * size, (at + 1) * size),
        );
        const passed = passPieces(pieces, true);
        expect(passed.events.length).toBe(events);
        expect(passed.events.at(-1)).toBe("b");
        expect(passed.text === text).toBe(true);
      }
    }
  });

  test("is not dropped, nor read at its end, but the next one is", () => {
    const long = `data: ${"x".repeat(MAX_EVENT_BYTES)}`;
    expect(pass(`${long}\ndata: drop\n\ndata: drop\n\n`)).toEqual({
      events: ["drop"],
      text: `${long}\ndata: drop\n\n`,
    });
    expect(pass(`${long}\ndata: drop`).events).toEqual([]);
  });

  test.each([false, true])("of 64 MiB is not kept (may be dropped: %s)", (mayDrop) => {
    const events: string[] = [];
    const stream = eventStream((data) => events.push(data) > 0, { mayDrop });
    const piece = new Uint8Array(64 * 1024).fill(0x78);
    stream.push(bytesOf("data: "));
    let passed = 0;
    for (let count = 0; count < 256; count++) passed += stream.push(piece).length;
    const before = process.memoryUsage();
    for (let count = 0; count < 768; count++) passed += stream.push(piece).length;
    const after = process.memoryUsage();
    expect(after.arrayBuffers - before.arrayBuffers).toBeLessThan(1024 * 1024);
    expect(passed).toBe(1_024 * piece.length + (mayDrop ? "data: ".length : 0));
    expect(stream.end()).toEqual(new Uint8Array());
    stream.push(bytesOf("\n\ndata: b\n\n"));
    expect(events).toEqual(["b"]);
  });
});
