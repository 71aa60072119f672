import { isIP } from "node:net";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  clientAddress,
  compileRanges,
  compileStoredRanges,
  inRanges,
  namedAddress,
  parseAddress,
  type Ranges,
} from "../../src/address.js";
import { isKeystileError } from "../../src/errors.js";

describe("parseAddress", () => {
  test.each([
    ["0.0.0.0", "0.0.0.0"],
    ["255.255.255.255", "255.255.255.255"],
    ["10.0.0.1", "10.0.0.1"],
    ["::", "::"],
    ["::1", "::1"],
    ["2001:DB8::0001", "2001:db8::1"],
    ["2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"],
    ["2001:0db8:0000:0000:0000:0000:0000:0001", "2001:db8::1"],
    ["1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"],
    ["::2:3:4:5:6:7:8", "0:2:3:4:5:6:7:8"],
    ["::ffff:1.2.3.4", "1.2.3.4"],
    ["::FFFF:1.2.3.4", "1.2.3.4"],
    ["::ffff:102:304", "1.2.3.4"],
    ["::ffff:0102:0304", "1.2.3.4"],
    ["0:0:0:0:0:ffff:102:304", "1.2.3.4"],
    ["0000:0000:0000:0000:0000:FFFF:0102:0304", "1.2.3.4"],
    ["::ffff:0:0", "0.0.0.0"],
    ["::ffff:255.255.255.255", "255.255.255.255"],
    ["::102:304", "::102:304"],
    ["::ffff:0:102:304", "::ffff:0:102:304"],
    ["64:ff9b::102:304", "64:ff9b::102:304"],
  ])("%s is %s", (text, canonical) => {
    expect(parseAddress(text)?.text).toBe(canonical);
    expect(parseAddress(canonical)).toEqual(parseAddress(text));
  });

  test.each([
    "",
    " ",
    "1",
    "10.1",
    "1.2.3",
    "1.2.3.4.5",
    "1.2.3.",
    ".1.2.3",
    "1..2.3",
    "1.2.3.4.",
    "2130706433",
    "010.0.0.1",
    "012.0.0.1",
    "10.0.0.01",
    "10.0.0.00",
    "00.0.0.0",
    "256.0.0.1",
    "1.2.3.256",
    "1.2.3.1000",
    "0x7f.1",
    "0x7f000001",
    "0x7f.0.0.1",
    "1.2.3.4a",
    "-1.2.3.4",
    "+1.2.3.4",
    "1e1.0.0.1",
    "1.2.3.４",
    " 10.0.0.1",
    "10.0.0.1 ",
    "10.0.0.1\n",
    "10.0.0.1\t",
    "10.0.0.1\0",
    "10.0.0.1:80",
    "10.0.0.1/32",
    ":",
    ":::",
    "1:",
    ":1",
    "::1:",
    ":1::",
    "1::2::3",
    ":::1",
    "1:::2",
    "g::",
    "::12345",
    "::00001",
    "::-1",
    "1:2:3:4:5:6:7",
    "1:2:3:4:5:6:7:8:9",
    "1:2:3:4::5:6:7:8",
    "::1:2:3:4:5:6:7:8",
    "1:2:3:4:5:6:7:8::",
    "fe80::1%eth0",
    "::1%",
    "::ffff:10.0.0.1%eth0",
    "[::1]",
    "[2001:db8::1]:80",
    "::1/128",
    "::10.0.0.1",
    "64:ff9b::10.0.0.1",
    "0:0:0:0:0:ffff:10.0.0.1",
    "::ffff:0:10.0.0.1",
    "::1:ffff:10.0.0.1",
    "::ffff:010.0.0.1",
    "::ffff:0x0a.0.0.1",
    "::ffff:10.1",
    "::ffff:1.2.3.4.5",
    "::ffff:::1.2.3.4",
    "::ffff:::ffff:1.2.3.4",
    "::ffff:256.0.0.1",
    "::ffff:1.2.3.4:5",
    "unknown",
    "localhost",
    "1.2.3.4:",
  ])("%j is not an address", (text) => {
    expect(parseAddress(text)).toBeUndefined();
  });

  test("nothing but text is an address, and nothing throws", () => {
    const throwing = new Proxy({}, { get: () => expect.unreachable() });
    for (const value of [
      undefined,
      null,
      1,
      2130706433n,
      ["10.0.0.1"],
      { toString: () => "10.0.0.1" },
      throwing,
    ]) {
      expect(parseAddress(value)).toBeUndefined();
    }
    expect(parseAddress(":".repeat(10_000_000))).toBeUndefined();
    fc.assert(fc.property(fc.anything(), (value) => void parseAddress(value)));
  });
});

const v4 = fc.bigInt({ min: 0n, max: 0xffffffffn });
const v6 = fc.oneof(
  fc.bigInt({ min: 0n, max: (1n << 128n) - 1n }),
  // Few groups that are not zero, so that `::` has something to do.
  fc
    .array(fc.constantFrom(0n, 0n, 0n, 1n, 0xdb8n, 0xffffn), { minLength: 8, maxLength: 8 })
    .map((groups) => groups.reduce<bigint>((bits, group) => (bits << 16n) | group, 0n)),
);
const MAPPED = 0xffffn << 32n;

function dotted(bits: bigint): string {
  return [24n, 16n, 8n, 0n].map((shift) => (bits >> shift) & 255n).join(".");
}

function groupsOf(bits: bigint): string[] {
  return Array.from({ length: 8 }, (_, at) => ((bits >> BigInt(112 - 16 * at)) & 0xffffn).toString(16));
}

/** Every run of zero groups may be the one that `::` stands for. */
function compressions(groups: readonly string[]): string[] {
  const spans = groups.flatMap((_, start) =>
    groups.slice(start).map((_group, more) => [start, start + more + 1] as const),
  );
  return spans
    .filter(([start, end]) => groups.slice(start, end).every((group) => group === "0"))
    .map(([start, end]) => `${groups.slice(0, start).join(":")}::${groups.slice(end).join(":")}`);
}

function spellings(bits: bigint): string[] {
  const groups = groupsOf(bits);
  const padded = groups.map((group) => group.padStart(4, "0")).join(":");
  const all = [groups.join(":"), padded, ...compressions(groups)];
  if (bits >> 32n === 0xffffn) all.push(dotted(bits & 0xffffffffn), `::ffff:${dotted(bits & 0xffffffffn)}`);
  return all.flatMap((text) => [text, text.toUpperCase()]);
}

/** All 128 bits of an address, IPv4 as mapped: the reference the compiled words are compared with. */
function bitsOf(text: string): bigint {
  const address = parseAddress(text);
  if (address === undefined) return expect.unreachable(text);
  const words: readonly number[] = address.family === 4 ? [0, 0, 0xffff, address.bits] : address.bits;
  return words.reduce<bigint>((bits, word) => (bits << 32n) | BigInt(word >>> 0), 0n);
}

describe("spellings", () => {
  test("all of one IPv6 address are the same address, with the bits they were made from", () => {
    fc.assert(
      fc.property(v6, (bits) => {
        for (const text of spellings(bits)) {
          expect(bitsOf(text)).toBe(bits);
          expect(parseAddress(text)).toEqual(parseAddress(groupsOf(bits).join(":")));
        }
      }),
    );
  });

  test("all of one IPv4 address are the same address, mapped or not", () => {
    fc.assert(
      fc.property(v4, (bits) => {
        for (const text of spellings(MAPPED | bits)) {
          expect(parseAddress(text)).toEqual({ family: 4, text: dotted(bits), bits: Number(bits) | 0 });
        }
      }),
    );
  });

  test("what is accepted, Node accepts; what Node accepts beyond it is a zone or an embedded dotted quad", () => {
    const character = fc.constantFrom(..."0123456789abcdefF:.%/ x");
    const noise = fc.array(character, { maxLength: 20 }).map((all) => all.join(""));
    const damaged = fc
      .tuple(
        fc.oneof(
          v4.map(dotted),
          v6.map((bits) => spellings(bits)[2] ?? "::"),
        ),
        noise,
        fc.nat(),
        fc.nat(3),
      )
      .map(([text, extra, at, count]) => {
        const start = at % (text.length + 1);
        return text.slice(0, start) + extra.slice(0, 1) + text.slice(start + count);
      });
    fc.assert(
      fc.property(fc.oneof(noise, damaged), (text) => {
        const isEmbedded = text.includes(":") && text.includes(".") && !/^::ffff:/i.test(text);
        const expected = isIP(text) !== 0 && !text.includes("%") && !isEmbedded;
        expect(parseAddress(text) !== undefined).toBe(expected);
      }),
      { numRuns: 5_000 },
    );
  });
});

function isIn(entries: readonly string[], address: string): boolean {
  return inRanges(compileRanges(entries), parseAddress(address));
}

describe("compileRanges and inRanges", () => {
  test.each([
    ["192.168.1.0/24", "192.168.1.0", true],
    ["192.168.1.0/24", "192.168.1.255", true],
    ["192.168.1.0/24", "192.168.0.255", false],
    ["192.168.1.0/24", "192.168.2.0", false],
    ["10.0.0.1", "10.0.0.1", true],
    ["10.0.0.1", "10.0.0.2", false],
    ["10.0.0.1/32", "10.0.0.0", false],
    ["10.0.0.0/31", "10.0.0.1", true],
    ["10.0.0.0/31", "10.0.0.2", false],
    ["128.0.0.0/1", "128.0.0.0", true],
    ["128.0.0.0/1", "255.255.255.255", true],
    ["128.0.0.0/1", "127.255.255.255", false],
    ["0.0.0.0/1", "127.255.255.255", true],
    ["0.0.0.0/1", "128.0.0.0", false],
    ["2001:db8::/32", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", true],
    ["2001:db8::/32", "2001:db9::", false],
    ["2001:db8::/33", "2001:db8:8000::", false],
    ["2001:db8::/127", "2001:db8::1", true],
    ["2001:db8::/127", "2001:db8::2", false],
    ["8000::/1", "ffff::", true],
    ["8000::/1", "7fff::", false],
    ["::1", "::1", true],
    ["::1", "::2", false],
    ["::ffff:10.0.0.1", "10.0.0.1", true],
    ["10.0.0.1", "::ffff:a00:1", true],
    ["::ffff:10.0.0.0/104", "10.255.0.1", true],
    ["::ffff:10.0.0.0/104", "11.0.0.0", false],
    ["::ffff:a00:0/104", "10.255.0.1", true],
    ["::ffff:10.0.0.1/128", "10.0.0.1", true],
    ["::ffff:128.0.0.0/97", "192.0.0.1", true],
    // Families never match each other, whatever the bits.
    ["::/1", "10.0.0.1", false],
    ["::/8", "::ffff:10.0.0.1", false],
    ["::a00:1", "10.0.0.1", false],
    ["10.0.0.1", "::a00:1", false],
    ["0.0.0.0/1", "::", false],
  ])("%s, %s: %j", (entry, address, expected) => {
    expect(isIn([entry], address)).toBe(expected);
    expect(isIn(["203.0.113.9", entry, "2001:db8:1::/48"], address)).toBe(expected);
  });

  test("an unknown address is in no range", () => {
    expect(inRanges(compileRanges(["0.0.0.0/1"]), undefined)).toBe(false);
  });

  test.each<[unknown, string]>([
    ["192.168.1.7/24", "it would mean 192.168.1.0/24"],
    ["10.0.0.1/1", "it would mean 0.0.0.0/1"],
    ["2001:db8::1/32", "it would mean 2001:db8::/32"],
    ["2001:db8::1/127", "it would mean 2001:db8::/127"],
    ["::ffff:10.0.0.1/104", "it would mean 10.0.0.0/8"],
    ["0.0.0.0/0", "every IPv4 address"],
    ["10.0.0.0/0", "every IPv4 address"],
    ["::/0", "every IPv6 address"],
    ["::ffff:0:0/96", "every IPv4 address"],
    ["::ffff:10.0.0.0/8", "the IPv6 range ::/8"],
    ["::ffff:10.0.0.1/32", "the IPv6 range ::/32"],
    ["::ffff:10.0.0.0/95", "the IPv6 range ::fffe:0:0/95"],
    ["::ffff:10.0.0.0/0", "the IPv6 range ::/0"],
    ["010.0.0.1", "read loosely it would be 8.0.0.1"],
    ["010.0.0.0/8", "read loosely it would be 8.0.0.0"],
    ["10/8", "read loosely it would be 0.0.0.10"],
    ["10.1", "read loosely it would be 10.0.0.1"],
    ["::10.0.0.1", "read loosely it would be ::ffff:a00:1"],
    ["fe80::1%eth0", "read loosely it would be fe80::1"],
    ["10.0.0.0/33", "prefix length from 1 to 32"],
    ["::/129", "prefix length from 1 to 128"],
    ["10.0.0.0/08", "prefix length"],
    ["10.0.0.0/", "prefix length"],
    ["10.0.0.0/-1", "prefix length"],
    ["10.0.0.0/+8", "prefix length"],
    ["10.0.0.0/8 ", "prefix length"],
    ["10.0.0.0/8/8", "prefix length"],
    ["10.0.0.0/1e1", "prefix length"],
    ["10.0.0.0/255.0.0.0", "prefix length"],
    ["10.0.0.0-10.0.0.9", "strict form"],
    ["10.0.0.*", "strict form"],
    [" 10.0.0.1", "strict form"],
    ["example.com", "strict form"],
    ["/8", "strict form"],
    ["", "strict form"],
    ["x".repeat(100_000), "strict form"],
    [7, "not text"],
    [undefined, "not text"],
  ])("refuses %j", (entry, problem) => {
    const error = thrownBy(() => compileRanges(["10.0.0.1", entry as string], "allowedIps"));
    expect(isKeystileError(error) && error.code).toBe("invalid_options");
    expect(error.message).toContain("allowedIps[1]: ");
    expect(error.message).toContain(problem);
    expect(error.message.length).toBeLessThan(300);
    // Out of a store, the same entry matches nothing and leaves its neighbours alone.
    const stored = compileStoredRanges([entry as string, "10.0.0.1"]);
    expect(stored).toEqual(compileRanges(["10.0.0.1"]));
  });

  test("from 1 to 256 entries", () => {
    const many = Array.from({ length: 257 }, (_, at) => `10.0.${at >> 8}.${at & 255}`);
    expect(isIn(many.slice(0, 256), "10.0.0.255")).toBe(true);
    expect(thrownBy(() => compileRanges(many)).message).toContain("received 257");
    expect(thrownBy(() => compileRanges([])).message).toContain("received 0");
    expect(thrownBy(() => compileRanges("10.0.0.1" as unknown as string[])).message).toContain(
      "received string",
    );
    expect(thrownBy(() => compileRanges(Array(1))).message).toContain("not text");
  });

  test("a stored list that is empty, or whose entries are all damaged, matches nothing", () => {
    for (const entries of [[], ["0.0.0.0/0"], ["nonsense"], ["::/0", ""]]) {
      for (const address of ["0.0.0.0", "10.0.0.1", "::", "2001:db8::1"]) {
        expect(inRanges(compileStoredRanges(entries), parseAddress(address))).toBe(false);
      }
    }
  });

  test("agrees with a comparison of all bits at once, near the edges of the range and elsewhere", () => {
    const range4 = fc.record({ width: fc.constant(32n), bits: v4, prefix: fc.bigInt(1n, 32n), other: v4 });
    const range6 = fc.record({ width: fc.constant(128n), bits: v6, prefix: fc.bigInt(1n, 128n), other: v6 });
    fc.assert(
      fc.property(fc.oneof(range4, range6), ({ width, bits, prefix, other }) => {
        const host = width - prefix;
        const network = (bits >> host) << host;
        const text = (value: bigint): string => (width === 32n ? dotted(value) : groupsOf(value).join(":"));
        // The few IPv6 networks that are spelled like mapped ones have tests of their own.
        fc.pre(width === 32n || network >> 32n !== 0xffffn);
        const ranges = compileRanges([`${text(network)}/${prefix}`]);
        const last = network | ((1n << host) - 1n);
        for (const value of [bits, other, network, last, network - 1n, last + 1n]) {
          if (value < 0n || value >> width !== 0n) continue;
          const isMapped = width === 128n && value >> 32n === 0xffffn;
          const expected = !isMapped && value >> host === network >> host;
          expect(inRanges(ranges, parseAddress(text(value)))).toBe(expected);
        }
      }),
      { numRuns: 2_000 },
    );
  });

  test("all spellings of one address get one answer", () => {
    const ranges = compileRanges(["128.0.0.0/1", "8000::/1", "::/17"]);
    fc.assert(
      fc.property(
        fc.oneof(
          v6,
          v4.map((bits) => MAPPED | bits),
        ),
        (bits) => {
          const answers = spellings(bits).map((text) => inRanges(ranges, parseAddress(text)));
          expect(new Set(answers).size).toBe(1);
        },
      ),
    );
  });
});

describe("clientAddress", () => {
  const PROXIES = compileRanges(["10.0.0.0/8", "2001:db8::/32"]);
  const trustedHops = (count: number): string[] => Array.from({ length: count }, (_, at) => `10.0.1.${at}`);

  test.each<[string, unknown, string[] | undefined, Ranges | undefined, string | undefined]>([
    ["no trusted proxies", "10.0.0.1", ["6.6.6.6"], undefined, "10.0.0.1"],
    ["a peer that is not trusted", "203.0.113.1", ["6.6.6.6"], PROXIES, "203.0.113.1"],
    ["a peer that is not trusted, unreadable hop", "203.0.113.1", ["nonsense"], PROXIES, "203.0.113.1"],
    ["a trusted peer", "10.0.0.1", ["203.0.113.9"], PROXIES, "203.0.113.9"],
    ["a trusted peer, mapped", "::ffff:10.0.0.1", ["203.0.113.9"], PROXIES, "203.0.113.9"],
    ["a trusted peer, IPv6", "2001:db8::1", ["2001:db9::1"], PROXIES, "2001:db9::1"],
    ["a forged hop on the left", "10.0.0.1", ["6.6.6.6, 203.0.113.9"], PROXIES, "203.0.113.9"],
    ["a forged field on the left", "10.0.0.1", ["6.6.6.6", "203.0.113.9"], PROXIES, "203.0.113.9"],
    [
      "trusted hops between",
      "10.0.0.1",
      ["6.6.6.6,203.0.113.9", "10.1.1.1, 10.2.2.2"],
      PROXIES,
      "203.0.113.9",
    ],
    ["nonsense left of the client", "10.0.0.1", ["nonsense, 203.0.113.9"], PROXIES, "203.0.113.9"],
    ["blanks and tabs", "10.0.0.1", [" \t203.0.113.9\t "], PROXIES, "203.0.113.9"],
    ["other white space", "10.0.0.1", ["\u00a0203.0.113.9"], PROXIES, undefined],
    ["an unreadable hop", "10.0.0.1", ["6.6.6.6, unknown"], PROXIES, undefined],
    [
      "an unreadable hop behind a trusted one",
      "10.0.0.1",
      ["6.6.6.6, unknown, 10.1.1.1"],
      PROXIES,
      undefined,
    ],
    ["a hop with a port", "10.0.0.1", ["203.0.113.9:5555"], PROXIES, undefined],
    ["a loose spelling of a trusted hop", "10.0.0.1", ["6.6.6.6, 10.1"], PROXIES, undefined],
    ["an octal spelling of a trusted hop", "10.0.0.1", ["6.6.6.6, 012.1.1.1"], PROXIES, undefined],
    ["an embedded spelling of a trusted hop", "10.0.0.1", ["6.6.6.6, ::10.1.1.1"], PROXIES, undefined],
    ["an empty hop", "10.0.0.1", ["6.6.6.6,"], PROXIES, undefined],
    ["an empty field", "10.0.0.1", [""], PROXIES, undefined],
    ["no field", "10.0.0.1", [], PROXIES, "10.0.0.1"],
    ["fields undefined", "10.0.0.1", undefined, PROXIES, "10.0.0.1"],
    ["all hops trusted", "10.0.0.1", ["10.1.1.1, 10.2.2.2"], PROXIES, "10.1.1.1"],
    ["31 trusted hops", "10.0.0.1", ["203.0.113.9", ...trustedHops(31)], PROXIES, "203.0.113.9"],
    ["32 trusted hops and nothing else", "10.0.0.1", trustedHops(32), PROXIES, "10.0.1.0"],
    ["32 trusted hops", "10.0.0.1", ["203.0.113.9", ...trustedHops(32)], PROXIES, undefined],
    ["33 hops that are not trusted", "10.0.0.1", Array(33).fill("203.0.113.9"), PROXIES, "203.0.113.9"],
    ["an unknown peer", undefined, ["203.0.113.9"], PROXIES, undefined],
    ["a peer with a zone", "fe80::1%eth0", ["203.0.113.9"], PROXIES, undefined],
    ["a peer that is a path", "/run/app.sock", ["203.0.113.9"], PROXIES, undefined],
  ])("%s", (_, peer, forwarded, trusted, expected) => {
    expect(clientAddress(peer, forwarded, trusted)?.text).toBe(expected);
  });

  test("what an untrusted peer sends never matters, nor what stands left of an untrusted hop", () => {
    const fields = fc.array(fc.oneof(fc.string(), v4.map(dotted)), { maxLength: 5 });
    fc.assert(
      fc.property(fields, (forged) => {
        expect(clientAddress("203.0.113.1", forged, PROXIES)?.text).toBe("203.0.113.1");
        const behind = clientAddress("10.0.0.1", [...forged, "203.0.113.9, 10.1.1.1"], PROXIES);
        expect(behind?.text).toBe("203.0.113.9");
      }),
    );
  });
});

function thrownBy(run: () => unknown): Error {
  try {
    run();
  } catch (error) {
    if (error instanceof Error) return error;
  }
  return expect.unreachable("nothing was thrown");
}

describe("namedAddress", () => {
  const trusted = compileRanges(["10.0.0.0/8"]);

  test.each([
    ["no proxy is trusted", "10.0.0.1", ["192.0.2.1"], undefined, "10.0.0.1"],
    ["the peer is not trusted", "192.0.2.9", ["192.0.2.1"], trusted, "192.0.2.9"],
    ["a trusted peer tells one", "10.0.0.1", ["192.0.2.1"], trusted, "192.0.2.1"],
    ["it tells none", "10.0.0.1", [], trusted, undefined],
    ["it tells two", "10.0.0.1", ["192.0.2.1", "192.0.2.2"], trusted, undefined],
    ["it tells nonsense", "10.0.0.1", ["192.0.2.01"], trusted, undefined],
    ["the peer is not known", undefined, ["192.0.2.1"], trusted, undefined],
  ])("%s", (_, peer, values, proxies, expected) => {
    expect(namedAddress(peer, values, proxies)?.text).toBe(expected);
  });
});

test("a dotted quad stands after ::ffff: at the beginning and nowhere else", () => {
  for (const text of ["1::ffff:1.2.3.4", "x::ffff:1.2.3.4", "0::ffff:1.2.3.4", "12::ffff:10.0.0.1"]) {
    expect(parseAddress(text)).toBeUndefined();
  }
});

test("what is refused is named by its place and shown, and what it would loosely mean is told where it is short", () => {
  const messageOf = (entries: readonly unknown[], path?: string): unknown => {
    try {
      return compileRanges(entries as string[], path);
    } catch (error) {
      return isKeystileError(error) && error.code === "invalid_options" && error.message;
    }
  };
  expect(messageOf([])).toBe("ranges: expected a list of 1 to 256 addresses or ranges, received 0.");
  expect(messageOf(["::1", "010.0.0.1"], "p")).toBe(
    'p[1]: "010.0.0.1" is not an address or range in strict form (read loosely it would be 8.0.0.1).',
  );
  expect(messageOf(["x"])).toBe('ranges[0]: "x" is not an address or range in strict form.');
  expect(messageOf([7])).toBe("ranges[0]: number is not text.");
  const padded = (length: number): string =>
    `0${"10".padStart(length - "0.0.0.1".length, "0")}.0.0.1`.slice(0, length);
  expect(messageOf([padded(64)])).toContain("read loosely");
  expect(messageOf([padded(65)])).not.toContain("read loosely");
});

test("a stored list with damage in it matches what is sound, and is made of nothing else", () => {
  const ranges = compileStoredRanges(["nonsense", "10.0.0.0/8", 7 as never, "2001:db8::/32", "10.0.0.1/8"]);
  expect([ranges.v4.length, ranges.v6.length]).toEqual([1, 1]);
});

test("a hop of nothing but blanks is no address", () => {
  const trusted = compileRanges(["10.0.0.0/8"]);
  for (const hop of ["", " ", "\t \t"]) expect(clientAddress("10.0.0.1", [hop], trusted)).toBeUndefined();
  expect(clientAddress("10.0.0.1", [" \t192.0.2.1\t "], trusted)?.text).toBe("192.0.2.1");
});
