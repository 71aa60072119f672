import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type JsonMembers, jsonMembers, MAX_MEMBER_BYTES, MAX_MEMBERS } from "../../src/json-members.js";

type Read = ReturnType<JsonMembers["read"]>;

function readWhole(text: string): Read {
  return readPieces([new TextEncoder().encode(text)]);
}

function readByteByByte(text: string): Read {
  return readPieces([...new TextEncoder().encode(text)].map((byte) => Uint8Array.of(byte)));
}

function readPieces(pieces: readonly Uint8Array[]): Read {
  const scanner = jsonMembers();
  for (const piece of pieces) scanner.push(piece);
  return scanner.read();
}

/** Cuts at the places given, which may repeat. */
function cut(bytes: Uint8Array, places: readonly number[]): readonly Uint8Array[] {
  const ends = [...places.map((place) => place % (bytes.length + 1)), bytes.length].toSorted((a, b) => a - b);
  return ends.map((end, at) => bytes.subarray(ends[at - 1] ?? 0, end));
}

describe("members of a whole object", () => {
  test.each([
    ["{}", {}],
    [' \t\r\n{ "a" : 1 , "b" : [ 1 , { "c" : "}" } ] } \n', { a: 1, b: [1, { c: "}" }] }],
    ['{"a":"\\"","b":"\\\\","c":"\\\\\\"}"}', { a: '"', b: "\\", c: '\\"}' }],
    ['{"us\\u0061ge":{"a":1},"\\"":2,"":3}', { usage: { a: 1 }, '"': 2, "": 3 }],
    ['{"a":"[{","b":"]}","c":[[],{}],"d":{}}', { a: "[{", b: "]}", c: [[], {}], d: {} }],
    ['{"a":null,"b":true,"c":false,"d":-1.5e3}', { a: null, b: true, c: false, d: -1500 }],
    ['{"é😀":"é😀"}', { "é😀": "é😀" }],
    ['{"a":1,"a":2,"b":0,"a":3}', { a: 3, b: 0 }],
  ])("%s", (text, members) => {
    expect(readWhole(text)).toEqual({ members, isComplete: true });
    expect(readByteByByte(text)).toEqual({ members, isComplete: true });
  });

  test("a member may have any name, and none reaches a prototype", () => {
    const { members } = readWhole('{"__proto__":{"usage":1},"constructor":2}');
    expect(Object.getOwnPropertyNames(members)).toEqual(["__proto__", "constructor"]);
    expect(Object.getPrototypeOf(members)).toBe(Object.prototype);
    expect(members["usage"]).toBeUndefined();
  });

  test("any document, however it is written and cut, has the members it was written from", () => {
    const name = fc.oneof(fc.string({ unit: "grapheme" }), fc.constantFrom("__proto__", '"', "\\", "}", "é"));
    const document = fc.oneof(fc.dictionary(name, nestedValue(), { noNullPrototype: true }), nestedValue());
    fc.assert(
      fc.property(document, fc.nat(3), fc.array(fc.nat()), fc.boolean(), (value, indent, places, escaped) => {
        const plain = JSON.stringify(value, null, indent);
        const json = escaped ? plain.replace(/[^\0-~]/g, (unit) => `\\u${hex(unit)}`) : plain;
        const isObject = typeof value === "object" && value !== null && !Array.isArray(value);
        const { members, isComplete } = readPieces(cut(new TextEncoder().encode(json), places));
        expect(isComplete).toBe(isObject);
        expect(entriesOf(members)).toEqual(isObject ? entriesOf(value) : []);
      }),
      { numRuns: 500 },
    );
  });
});

/** Without names of one character: `JSON.parse` of Node 24 misreads some of them when they are escaped. */
function nestedValue(): fc.Arbitrary<unknown> {
  const name = fc.string({ unit: "grapheme", minLength: 2 });
  return fc.letrec((tie) => ({
    value: fc.oneof(
      { maxDepth: 4, withCrossShrink: true },
      fc.oneof(
        fc.string({ unit: "grapheme" }),
        fc.double({ noNaN: true }),
        fc.constantFrom(null, true, "\\", "]"),
      ),
      fc.array(tie("value"), { maxLength: 4 }),
      fc.dictionary(name, tie("value"), { maxKeys: 4 }),
    ),
  })).value;
}

function hex(unit: string): string {
  return unit.charCodeAt(0).toString(16).padStart(4, "0");
}

/** `toEqual` on objects overlooks a member called `__proto__`. */
function entriesOf(value: object): readonly (readonly [string, string])[] {
  return Object.entries(value)
    .map(([name, member]) => [name, JSON.stringify(member)] as const)
    .toSorted(([a], [b]) => (a < b ? -1 : 1));
}

describe("texts that are no whole object", () => {
  test.each([
    ["", {}],
    ["[]", {}],
    ['[{"usage":1}]', {}],
    ['"usage"', {}],
    ["1", {}],
    ["null", {}],
    ["{", {}],
    ['{"a"', {}],
    ['{"a":1', {}],
    ['{"a":1,', { a: 1 }],
    ['{"a":"1', {}],
    ['{"a":1,"b":{"usage":2}', { a: 1 }],
    ['{"a":1}x', { a: 1 }],
    ['{"a":1}{"a":2}', { a: 1 }],
    ['{"a":1,b:2,"c":3}', { a: 1 }],
    ['{"a" 1}', {}],
    ['{a:1,"b":2}', {}],
  ])("%s", (text, members) => {
    expect(readWhole(text)).toEqual({ members, isComplete: false });
    expect(readByteByByte(text)).toEqual({ members, isComplete: false });
  });

  test.each([
    ['{"a":nul,"b":2}', { b: 2 }],
    ['{"a":,"b":2}', { b: 2 }],
    ['{"a":[}],"b":2}', { b: 2 }],
    ['{"a":1]2,"b":2}', { b: 2 }],
    ['{"a\n":1,"b":2}', { b: 2 }],
    ['{"a":\ufeff1,"b":2}', { b: 2 }],
  ])("a member that is no JSON is left out: %j", (text, members) => {
    expect(readWhole(text).members).toEqual(members);
  });

  test("a text that was cut anywhere has the members that were complete", () => {
    const text = '{"id":"x","usage":{"a":[1,2]},"model":"y"} ';
    const bytes = new TextEncoder().encode(text);
    const ends = [text.indexOf(',"usage"'), text.indexOf(',"model"'), text.indexOf("} ")];
    for (let length = 0; length < bytes.length; length++) {
      const { members, isComplete } = readPieces([bytes.subarray(0, length)]);
      const complete = ["id", "usage", "model"].filter((_, at) => length > (ends[at] as number));
      expect(Object.keys(members)).toEqual(complete);
      expect(isComplete).toBe(complete.length === 3);
    }
  });

  test("any bytes, cut anywhere, are read alike and throw nothing", () => {
    const bytes = fc.array(fc.oneof(fc.constantFrom(...'{}[]":,\\a1 '), fc.string({ maxLength: 2 })));
    fc.assert(
      fc.property(bytes, fc.array(fc.nat()), (parts, places) => {
        const text = new TextEncoder().encode(`{"a":${parts.join("")}`);
        expect(readPieces(cut(text, places))).toEqual(readPieces([text]));
      }),
      { numRuns: 1_000 },
    );
  });
});

describe("bounds", () => {
  const AT_BOUND = "x".repeat(MAX_MEMBER_BYTES - 2);

  test.each([
    ["a value at the bound", `{"a":"${AT_BOUND}","b":1}`, ["a", "b"]],
    ["a value beyond it", `{"a":"${AT_BOUND}x","b":1}`, ["b"]],
    ["a name at the bound", `{"${AT_BOUND}":1,"b":1}`, [AT_BOUND, "b"]],
    ["a name beyond it", `{"${AT_BOUND}x":1,"b":1}`, ["b"]],
    ["a member that is too long the last time", `{"a":1,"a":"${AT_BOUND}x","b":1}`, ["b"]],
    ["a member that is too long the first time", `{"a":"${AT_BOUND}x","a":1,"b":1}`, ["a", "b"]],
  ])("%s", (_, text, names) => {
    for (const { members, isComplete } of [readWhole(text), readByteByByte(text)]) {
      expect(Object.keys(members)).toEqual(names);
      expect(isComplete).toBe(true);
    }
  });

  test("members beyond the bound are not kept, but those that are there stay current", () => {
    const members = Array.from({ length: MAX_MEMBERS + 1 }, (_, at) => `"m${at}":${at}`);
    const { members: read, isComplete } = readWhole(`{${[...members, '"m0":"last"'].join()}}`);
    expect(Object.keys(read).length).toBe(MAX_MEMBERS);
    expect([read["m0"], read["m255"], read["m256"]]).toEqual(["last", 255, undefined]);
    expect(isComplete).toBe(true);
  });

  test("a member of 64 MiB is skipped without being kept", () => {
    const scanner = jsonMembers();
    const piece = new Uint8Array(64 * 1024).fill(0x78);
    scanner.push(new TextEncoder().encode('{"usage":1,"data":"'));
    const before = process.memoryUsage().arrayBuffers;
    for (let count = 0; count < 1_024; count++) scanner.push(piece);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(1024 * 1024);
    scanner.push(new TextEncoder().encode('","model":"x"}'));
    expect(scanner.read()).toEqual({ members: { usage: 1, model: "x" }, isComplete: true });
  });

  test("nesting has no bound that hurts", () => {
    const depth = 1_000_000;
    const text = `{"deep":${"[".repeat(depth)}${"]".repeat(depth)},"short":${"[".repeat(30_000)},"b":1}`;
    expect(readWhole(text)).toEqual({ members: {}, isComplete: false });
    const closed = `{"deep":${"[".repeat(depth)}${"]".repeat(depth)},"b":1}`;
    expect(readWhole(closed)).toEqual({ members: { b: 1 }, isComplete: true });
  });

  test("what is kept does not change with the caller's bytes", () => {
    const bytes = new TextEncoder().encode('{"a":"kept');
    const scanner = jsonMembers();
    scanner.push(bytes);
    bytes.fill(0x20);
    scanner.push(new TextEncoder().encode('"}'));
    expect(scanner.read().members).toEqual({ a: "kept" });
  });
});
