import { createHash, createHmac } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test, vi } from "vitest";
import {
  DEFAULT_PREFIXES,
  digestSecret,
  digestsOf,
  generateSecret,
  hasValidChecksum,
  hintOf,
  isSecret,
  isSecretPrefix,
  sameDigest,
} from "../../src/secret.js";

const PREFIXES = Object.values(DEFAULT_PREFIXES);
const STANDARD = "sk-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef1W1e6b";
const SUBSCRIPTION = "sk-sub-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef2Nap6F";

const body = fc
  .array(fc.constantFrom(..."09AZaz5Mm"), { minLength: 32, maxLength: 512 })
  .map((all) => all.join(""));

/** Bytes 0, 1, 2 … 255, 0, …: not random, but not stuck either. */
function counting(): (count: number) => Uint8Array {
  let next = 0;
  return (count) => Uint8Array.from({ length: count }, () => next++);
}

describe("generateSecret", () => {
  test.each(PREFIXES)("%s: 42 random characters and a valid checksum", (prefix) => {
    const secret = generateSecret(prefix);
    expect(secret).toMatch(/^[A-Za-z0-9_-]+$/);
    expect(secret).toHaveLength(prefix.length + 48);
    expect(isSecret(secret, PREFIXES)).toBe(true);
    expect(hasValidChecksum(secret)).toBe(true);
    expect(generateSecret(prefix)).not.toBe(secret);
  });

  test("the same bytes give the same secret, in the order of the alphabet", () => {
    expect(generateSecret("sk-", counting())).toBe(
      `sk-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef${generateSecret("sk-", counting()).slice(-6)}`,
    );
    expect(generateSecret("sk-", counting())).toBe(STANDARD);
    expect(generateSecret("sk-sub-", counting())).toBe(SUBSCRIPTION);
  });

  test("bytes from 248 on are rejected, so that no character is favoured", () => {
    let start = 240;
    const source = (count: number): Uint8Array => {
      const bytes = Uint8Array.from({ length: count }, (_, at) => (start + at) % 256);
      start += count;
      return bytes;
    };
    // 240 … 247 are the characters 54 … 61; 248 … 255 give nothing; then 0, 1, 2 …
    expect(generateSecret("sk-", source)).toMatch(/^sk-stuvwxyz0123456789ABC/);
  });

  test("every byte below 248 is used equally often per character", () => {
    const uses = new Map<string, number>();
    for (let byte = 0; byte < 256; byte++) {
      // 41 different characters, then the byte in question, then fillers in case it is rejected
      const bytes = Uint8Array.from([...Array(41).keys(), byte, ...Array(22).fill(255)]);
      let draws = 0;
      try {
        const secret = generateSecret("sk-", () => (draws++ === 0 ? bytes : new Uint8Array(64).fill(255)));
        const character = secret.charAt(3 + 41);
        uses.set(character, (uses.get(character) ?? 0) + 1);
      } catch {
        expect(byte).toBeGreaterThanOrEqual(248);
      }
    }
    expect(uses.size).toBe(62);
    expect(new Set(uses.values())).toEqual(new Set([4]));
  });

  test.each([
    ["all 0xff", (count: number) => new Uint8Array(count).fill(255)],
    ["all zero", (count: number) => new Uint8Array(count)],
    ["two values", (count: number) => Uint8Array.from({ length: count }, (_, at) => at % 2)],
    ["nothing", () => new Uint8Array(0)],
    ["a byte at a time", () => Uint8Array.of(7)],
  ])("a broken source (%s) is an error after at most eight draws", (_, source) => {
    let draws = 0;
    const counted = (count: number): Uint8Array => {
      draws++;
      return source(count);
    };
    expect(() => generateSecret("sk-", counted)).toThrow(TypeError);
    expect(draws).toBeLessThanOrEqual(8);
  });

  test.each(["", "sk", "sk-é-", "sk -", "sk-\n", `${"a".repeat(32)}-`, "sk."])(
    "refuses the prefix %j",
    (prefix) => {
      expect(() => generateSecret(prefix)).toThrow(TypeError);
    },
  );
});

test.each([
  ["-", true],
  ["_", true],
  ["sk-", true],
  ["sk_live_", true],
  [`${"a".repeat(31)}-`, true],
  [`${"a".repeat(32)}-`, false],
  ["", false],
  ["sk", false],
  ["sk-\n", false],
  ["s\u212a-", false],
  [null, false],
  [["sk-"], false],
])("isSecretPrefix(%j) is %j", (value, expected) => {
  expect(isSecretPrefix(value)).toBe(expected);
});

describe("isSecret", () => {
  const x = (count: number): string => "x".repeat(count);

  test.each([
    ["the shortest", `sk-${x(32)}`, true],
    ["too short", `sk-${x(31)}`, false],
    ["the longest", `sk-${x(512)}`, true],
    ["too long", `sk-${x(513)}`, false],
    ["the shortest subscription", `sk-sub-${x(32)}`, true],
    ["too short subscription, long enough for sk-", `sk-sub-${x(31)}`, false],
    ["the longest subscription", `sk-sub-${x(512)}`, true],
    ["too long subscription", `sk-sub-${x(513)}`, false],
    ["a body that begins like the other prefix", `sk-sub${x(32)}`, true],
    ["an unknown kind", `sk-ant-${x(32)}`, false],
    ["a hyphen in the body", `sk-${x(31)}-${x(10)}`, false],
    ["an underscore in the body", `sk-${x(31)}_${x(10)}`, false],
    ["upper-case prefix", `SK-${x(32)}`, false],
    ["no prefix", x(40), false],
    ["leading space", ` sk-${x(32)}`, false],
    ["trailing newline", `sk-${x(32)}\n`, false],
    ["a second line", `sk-${x(32)}\nX-Evil: 1`, false],
    ["NUL", `sk-${x(32)}\0`, false],
    ["Kelvin signs", `sk-${"\u212a".repeat(32)}`, false],
    ["full-width digits", `sk-${"\uff11".repeat(32)}`, false],
    ["a lone surrogate", `sk-${x(32)}\ud800`, false],
    ["percent-encoded", `sk-${x(32)}%41`, false],
    ["empty", "", false],
    ["only the prefix", "sk-", false],
  ])("%s", (_, value, expected) => {
    expect(isSecret(value, PREFIXES)).toBe(expected);
    expect(isSecret(value, [...PREFIXES].reverse())).toBe(expected);
  });

  test("characters just outside each range of the alphabet are refused", () => {
    for (const outside of "/:@[`{") expect(isSecret(`sk-${x(32)}${outside}`, PREFIXES)).toBe(false);
    for (const inside of "09AZaz") expect(isSecret(`sk-${x(32)}${inside}`, PREFIXES)).toBe(true);
  });

  test("never throws, and is true for no value but a string", () => {
    const throwing = new Proxy({}, { get: () => expect.unreachable() });
    for (const value of [
      undefined,
      null,
      0,
      Symbol("s"),
      [STANDARD],
      { toString: () => STANDARD },
      throwing,
    ]) {
      expect(isSecret(value, PREFIXES)).toBe(false);
    }
    fc.assert(fc.property(fc.anything(), (value) => typeof isSecret(value, PREFIXES) === "boolean"));
  });

  test("a text of a hundred million characters is refused by its length alone", () => {
    expect(isSecret(`sk-${x(100_000_000)}`, PREFIXES)).toBe(false);
  });

  test("other prefixes: the longest that fits counts", () => {
    const prefixes = ["acme_", "acme_live_", "-"];
    expect(isSecret(`acme_live_${x(32)}`, prefixes)).toBe(true);
    expect(isSecret(`acme_live_${x(31)}`, prefixes)).toBe(false);
    expect(isSecret(`-${x(32)}`, prefixes)).toBe(true);
    expect(isSecret(STANDARD, prefixes)).toBe(false);
    expect(isSecret(STANDARD, [])).toBe(false);
    expect(isSecret(`${"a".repeat(31)}-${x(512)}`, [`${"a".repeat(31)}-`])).toBe(true);
  });

  test("agrees with the regular expression it stands for", () => {
    const reference = /^(?:sk-|sk-sub-)[A-Za-z0-9]{32,512}$/;
    const start = fc.constantFrom("sk-", "sk-sub-", "sk_", "sk-sub", "");
    const end = fc.oneof(fc.constant(""), fc.string({ maxLength: 2, unit: "binary" }));
    fc.assert(
      fc.property(start, body, end, (...parts) => {
        const value = parts.join("");
        expect(isSecret(value, PREFIXES)).toBe(reference.test(value));
      }),
    );
  });
});

describe("hasValidChecksum", () => {
  test.each([STANDARD, SUBSCRIPTION])("%s", (secret) => {
    expect(hasValidChecksum(secret)).toBe(true);
  });

  test("the prefix is part of it", () => {
    expect(hasValidChecksum(STANDARD.replace("sk-", "sk-sub-"))).toBe(false);
    expect(hasValidChecksum(STANDARD.replace("sk-", "sk_"))).toBe(false);
  });

  test("one wrong character anywhere breaks it, and so do two that changed places", () => {
    const character = fc.constantFrom(..."0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz");
    const at = fc.integer({ min: 3, max: STANDARD.length - 2 });
    fc.assert(
      fc.property(at, character, (position, other) => {
        const [before, own, next] = [STANDARD.slice(0, position), STANDARD[position], STANDARD[position + 1]];
        if (other !== own)
          expect(hasValidChecksum(before + other + STANDARD.slice(position + 1))).toBe(false);
        if (own !== next)
          expect(hasValidChecksum(`${before}${next}${own}${STANDARD.slice(position + 2)}`)).toBe(false);
      }),
    );
  });

  test.each(["", "0", "000000", "0000000"])("%j has none", (text) => {
    expect(hasValidChecksum(text)).toBe(false);
  });
});

describe("digests", () => {
  const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");
  const hmac = (key: string, text: string): string => createHmac("sha256", key).update(text).digest("hex");

  test("SHA-256 without a pepper, HMAC-SHA-256 with one", () => {
    expect(digestSecret("abc")).toBe("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    expect(digestSecret("what do ya want for nothing?", "Jefe")).toBe(
      "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    );
    fc.assert(
      fc.property(body, fc.string(), (secret, pepper) => {
        expect(digestSecret(secret)).toBe(sha256(secret));
        expect(digestSecret(secret, pepper)).toBe(hmac(pepper, secret));
      }),
    );
  });

  test("a ring gives one digest per pepper, the signing one first; an empty ring is plain SHA-256", () => {
    const ring = [
      { id: "b", secret: "second pepper" },
      { id: "a", secret: "first pepper" },
    ];
    expect(digestsOf(STANDARD, ring)).toEqual([
      hmac("second pepper", STANDARD),
      hmac("first pepper", STANDARD),
    ]);
    expect(digestsOf(STANDARD, [])).toEqual([sha256(STANDARD)]);
  });
});

describe("sameDigest", () => {
  const digest = digestSecret(STANDARD);

  test.each([
    ["itself", digest, true],
    ["an equal text built apart", `${digest.slice(0, 7)}${digest.slice(7)}`, true],
    ["upper case", digest.toUpperCase(), false],
    ["one short", digest.slice(1), false],
    ["one long", `${digest}0`, false],
    ["empty", "", false],
  ])("%s", (_, other, expected) => {
    expect(sameDigest(digest, other)).toBe(expected);
    expect(sameDigest(other, digest)).toBe(expected);
  });

  test("two empty texts, or two short ones, are not the same digest", () => {
    expect(sameDigest("", "")).toBe(false);
    expect(sameDigest("ab", "ab")).toBe(false);
  });

  test("a difference in any one place is seen", () => {
    for (let at = 0; at < 64; at++) {
      const other = `${digest.slice(0, at)}${digest[at] === "0" ? "1" : "0"}${digest.slice(at + 1)}`;
      expect(sameDigest(digest, other)).toBe(false);
    }
  });

  test("never throws", () => {
    fc.assert(
      fc.property(fc.anything(), fc.anything(), (a, b) => {
        expect(typeof sameDigest(a as string, b as string)).toBe("boolean");
      }),
    );
    const array = Array(64).fill("0");
    expect(sameDigest(array as unknown as string, array as unknown as string)).toBe(false);
  });
});

test("the hint is the last four characters", () => {
  expect(hintOf(STANDARD)).toBe("1e6b");
});

test("a prefix that is none, and a source that is broken, are told apart", () => {
  expect(() => generateSecret("sk")).toThrow(/A prefix is 1 to 32 of .+ and ends in "-" or "_"/);
  expect(() => generateSecret("sk-", (count) => new Uint8Array(count))).toThrow(
    "The source of bytes is stuck.",
  );
  const spent = (): Uint8Array => new Uint8Array();
  expect(() => generateSecret("sk-", spent)).toThrow(
    "The source of random bytes does not deliver random bytes.",
  );
});

test("eight different characters are just enough, seven are not", () => {
  const cycling = (distinct: number) => (count: number) =>
    Uint8Array.from({ length: count }, (_, at) => at % distinct);
  expect(generateSecret("sk-", cycling(8))).toMatch(/^sk-0123456701234567/);
  expect(() => generateSecret("sk-", cycling(7))).toThrow(TypeError);
});

test("digests that are no text are equal to nothing, not even where they are as long", () => {
  const list = Array.from("a".repeat(64));
  const digest = "a".repeat(64);
  const alike = { length: 64, charCodeAt: () => 97 };
  for (const value of [list, alike, 64, null, undefined]) {
    expect(sameDigest(value as never, digest)).toBe(false);
    expect(sameDigest(digest, value as never)).toBe(false);
    expect(sameDigest(value as never, value as never)).toBe(false);
  }
});

test("digests are the same where the runtime has no one-shot hash", async () => {
  vi.resetModules();
  vi.doMock("node:crypto", async (original) => ({ ...(await original<object>()), hash: undefined }));
  try {
    const without = await import("../../src/secret.js");
    expect(without.digestSecret(STANDARD)).toBe(digestSecret(STANDARD));
    expect(digestSecret(STANDARD)).toBe(createHash("sha256").update(STANDARD).digest("hex"));
  } finally {
    vi.doUnmock("node:crypto");
    vi.resetModules();
  }
});
