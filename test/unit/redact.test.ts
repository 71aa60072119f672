import { inspect } from "node:util";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { MAX_REDACTED_MEMBERS, redact } from "../../src/redact.js";
import { DEFAULT_PREFIXES } from "../../src/secret.js";

const PREFIXES = Object.values(DEFAULT_PREFIXES);
const STANDARD = "sk-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef1W1e6b";
const SUBSCRIPTION = "sk-sub-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef2Nap6F";
const MASKED = "sk-***1e6b";

const body = fc
  .array(fc.constantFrom(..."0123456789ABCXYZabcxyzsk"), { minLength: 32, maxLength: 80 })
  .map((all) => all.join(""));

function bytes(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

function text(of: Uint8Array | ArrayBuffer): string {
  return new TextDecoder().decode(of);
}

describe("text", () => {
  test.each([
    [`key ${STANDARD} leaked`, "key sk-***1e6b leaked"],
    [`{"a":"${SUBSCRIPTION}"}`, '{"a":"sk-sub-***ap6F"}'],
    [`${STANDARD},${STANDARD}`, "sk-***1e6b,sk-***1e6b"],
    [STANDARD + STANDARD, "sk-***6bsk-***1e6b"],
    [`${STANDARD}${SUBSCRIPTION}`, "sk-***6bsk-sub-***ap6F"],
    [`openai-insecure-api-key.${STANDARD}`, `openai-insecure-api-key.${MASKED}`],
    [`risk-${"a".repeat(32)}`, "risk-***aaaa"],
    [`sk-${"a".repeat(600)}.`, "sk-***aaaa."],
    [`sk-${"a".repeat(31)}`, `sk-${"a".repeat(31)}`],
    ["sk-sub- and sk- and nothing else", "sk-sub- and sk- and nothing else"],
    ["", ""],
  ])("%j", (value, expected) => {
    expect(redact(value)).toBe(expected);
  });

  test("no part of a secret survives in any surroundings, and a second pass changes nothing", () => {
    const prefix = fc.constantFrom(...PREFIXES);
    const around = fc.oneof(fc.string(), fc.constantFrom("sk-", "sk", "a", STANDARD));
    fc.assert(
      fc.property(around, prefix, body, around, (before, start, secret, after) => {
        const masked = redact(before + start + secret + after);
        const hintless = secret.slice(0, -4);
        for (let at = 0; at + 8 <= hintless.length; at++) {
          const part = hintless.slice(at, at + 8);
          if (!(before + after).includes(part)) expect(masked).not.toContain(part);
        }
        expect(masked).toContain(`${start}***`);
        expect(redact(masked)).toBe(masked);
      }),
    );
  });

  test("configured prefixes are masked besides the default ones; what is no prefix masks nothing", () => {
    const value = `acme_${"a".repeat(32)} ${STANDARD} x${"b".repeat(40)}`;
    expect(redact(value, ["acme_"])).toBe(`acme_***aaaa ${MASKED} x${"b".repeat(40)}`);
    expect(redact(value, ["x", "", ".*_", "("])).toBe(value.replace(STANDARD, MASKED));
  });

  test("takes time linear in the text, also for what almost looks like a secret", () => {
    const startedAt = performance.now();
    for (const piece of ["sk-", "sk-sub-", `sk-${"a".repeat(31)}`, "a", `sk-${"a".repeat(31)}.`, STANDARD]) {
      redact(piece.repeat(Math.ceil(1_000_000 / piece.length)));
    }
    expect(redact(`sk-${"a".repeat(20_000_000)}`)).toBe("sk-***aaaa");
    expect(performance.now() - startedAt).toBeLessThan(4_000);
  });
});

describe("values", () => {
  test("objects, arrays, Maps and Sets, keys included", () => {
    const symbol = Symbol("s");
    const value = {
      list: ["a", STANDARD, [STANDARD]],
      map: new Map<unknown, unknown>([[STANDARD, { [STANDARD]: 1 }]]),
      set: new Set([STANDARD, 1]),
      [symbol]: STANDARD,
      [STANDARD]: 2,
      number: 1,
    };
    const before = structuredClone(value);
    expect(redact(value)).toEqual({
      list: ["a", MASKED, [MASKED]],
      map: new Map([[MASKED, { [MASKED]: 1 }]]),
      set: new Set([MASKED, 1]),
      [symbol]: MASKED,
      [MASKED]: 2,
      number: 1,
    });
    expect(structuredClone(value)).toEqual(before);
    expect(value[symbol]).toBe(STANDARD);
  });

  test("what holds no secret is the same reference, also inside what is copied", () => {
    const clean = {
      a: [1, { b: "c" }],
      when: new Date(),
      headers: new Headers({ a: "b" }),
      bytes: bytes("x"),
    };
    expect(redact(clean)).toBe(clean);
    const copied = redact({ clean, secret: STANDARD });
    expect(copied.clean).toBe(clean);
    for (const value of [undefined, null, 1, 1n, true, Symbol.iterator, redact])
      expect(redact(value)).toBe(value);
  });

  test("frozen values and circles", () => {
    interface Ring {
      self?: Ring;
      other: { back?: Ring };
      secret: string;
    }
    const ring: Ring = { other: {}, secret: STANDARD };
    ring.self = ring;
    ring.other.back = ring;
    Object.freeze(ring);
    const copy = redact(ring);
    expect(copy).not.toBe(ring);
    expect(copy.self).toBe(copy);
    expect(copy.other.back).toBe(copy);
    expect(copy.secret).toBe(MASKED);
    const clean: { self?: unknown } = {};
    clean.self = clean;
    expect(redact(clean)).toBe(clean);
  });

  test("what is held twice is copied once", () => {
    const shared = { secret: STANDARD };
    const copy = redact({ a: shared, b: [shared] });
    expect(copy.a).toBe(copy.b[0]);
  });

  test("errors stay errors: message, stack, cause, members, errors inside", () => {
    class RequestError extends Error {
      override readonly name = "RequestError";
      readonly config = { headers: { authorization: `Bearer ${STANDARD}` } };
    }
    const cause = new TypeError(`inner ${STANDARD}`);
    const error = new RequestError(`bad key ${STANDARD}`, { cause });
    const several = new AggregateError([error], "all");
    const stack = error.stack;
    const copy = redact(error);
    expect(copy).toBeInstanceOf(RequestError);
    expect(copy.message).toBe(`bad key ${MASKED}`);
    expect(copy.stack).toBe(stack?.replaceAll(STANDARD, MASKED));
    expect(copy.cause).toBeInstanceOf(TypeError);
    expect(copy.config.headers.authorization).toBe(`Bearer ${MASKED}`);
    expect(Object.keys(copy)).toEqual(Object.keys(error));
    for (const shown of [copy, redact(several), redact({ error })]) {
      expect(inspect(shown, { depth: null, showHidden: true })).not.toContain("456789AB");
    }
    expect(error.message).toContain(STANDARD);
    expect(error.stack).toBe(stack);
    const clean = new Error("fine", { cause: new Error("too") });
    expect(redact(clean)).toBe(clean);
  });

  test("Headers, URLs and query strings", () => {
    const headers = new Headers([
      ["authorization", `Bearer ${STANDARD}`],
      ["set-cookie", `a=${STANDARD}`],
      ["set-cookie", "b=1"],
    ]);
    expect([...redact(headers)]).toEqual([
      ["authorization", `Bearer ${MASKED}`],
      ["set-cookie", `a=${MASKED}`],
      ["set-cookie", "b=1"],
    ]);
    expect(headers.get("authorization")).toBe(`Bearer ${STANDARD}`);
    const url = new URL(`https://user:${STANDARD}@host/${STANDARD}?key=${STANDARD}#${STANDARD}`);
    expect(redact(url).href).toBe(`https://user:${MASKED}@host/${MASKED}?key=${MASKED}#${MASKED}`);
    expect(`${redact(new URL(`sk-${"a".repeat(40)}:x`))}`).toBe("sk-***aaaa:x");
    expect(redact(new URLSearchParams({ key: STANDARD, b: "ä" })).get("key")).toBe(MASKED);
    expect(url.href).toContain(STANDARD);
  });

  test("bytes that hold text, whatever else they hold", () => {
    const before = new Uint8Array([0xff, 0x80, ...bytes(`é${STANDARD}`), 0]);
    const after = new Uint8Array([0xff, 0x80, ...bytes(`é${MASKED}`), 0]);
    expect(redact(before)).toEqual(after);
    expect(new Uint8Array(redact(before.buffer))).toEqual(after);
    const buffer = Buffer.from(`a ${STANDARD}`);
    const masked = redact(buffer);
    expect(Buffer.isBuffer(masked) && masked.toString()).toBe(`a ${MASKED}`);
    expect(buffer.toString()).toContain(STANDARD);
    const floats = new Float64Array(1);
    expect(redact({ floats, secret: STANDARD }).floats).toBe(floats);
  });

  test("getters are read once, and one that throws is left out", () => {
    let reads = 0;
    const value = {
      get secret() {
        reads++;
        return STANDARD;
      },
      get broken(): string {
        throw new Error("no");
      },
      plain: 1,
    };
    expect(redact(value)).toEqual({ secret: MASKED, plain: 1 });
    expect(reads).toBe(1);
  });

  test("members called __proto__ and constructor are members", () => {
    const value = JSON.parse(`{"__proto__":{"polluted":"${STANDARD}"},"constructor":{"prototype":1}}`);
    const copy = redact(value);
    expect(Object.getPrototypeOf(copy)).toBe(Object.prototype);
    expect(JSON.stringify(copy)).toBe(JSON.stringify(value).replace(STANDARD, MASKED));
    expect("polluted" in {}).toBe(false);
    const bare = Object.assign(Object.create(null), { secret: STANDARD });
    expect(Object.getPrototypeOf(redact(bare))).toBeNull();
  });

  test("depth has no bound; members beyond the bound are left out", () => {
    let deep: unknown = STANDARD;
    for (let depth = 0; depth < 50_000; depth++) deep = [deep];
    let masked = redact(deep);
    while (Array.isArray(masked)) [masked] = masked;
    expect(masked).toBe(MASKED);
    const full = Array<number>(MAX_REDACTED_MEMBERS).fill(1);
    expect(redact(full)).toBe(full);
    expect(redact([...full, STANDARD]).join()).toBe(full.join());
    expect(JSON.stringify(redact({ full, inner: { secret: STANDARD } }))).not.toContain(STANDARD);
    expect(JSON.stringify(redact({ inner: { secret: STANDARD }, full }))).not.toContain(STANDARD);
  });

  test("never throws, and leaves no secret in what it cannot read", () => {
    const { proxy, revoke } = Proxy.revocable({}, {});
    revoke();
    const throwing = new Proxy(
      {},
      {
        ownKeys: () => {
          throw new Error(STANDARD);
        },
      },
    );
    for (const value of [proxy, throwing, Object.create(Map.prototype), { proxy, secret: STANDARD }]) {
      expect(() => inspect(redact(value))).not.toThrow();
    }
    fc.assert(
      fc.property(
        fc.anything({ withMap: true, withSet: true, withTypedArray: true, withProxy: true } as object),
        (value) => {
          expect(redact(value)).toBe(value);
        },
      ),
    );
  });

  test("a secret anywhere is masked, and nothing that was given changes", () => {
    const leaf = fc.oneof(fc.constant(`x ${STANDARD}`), fc.string(), fc.integer(), fc.constant(null));
    const { tree } = fc.letrec((tie) => ({
      tree: fc.oneof(
        { maxDepth: 4 },
        leaf,
        fc.array(tie("tree"), { maxLength: 4 }),
        fc.dictionary(fc.oneof(fc.string(), fc.constant(STANDARD)), tie("tree"), { maxKeys: 4 }),
        fc.array(fc.tuple(tie("tree"), tie("tree")), { maxLength: 3 }).map((entries) => new Map(entries)),
        fc.array(tie("tree"), { maxLength: 3 }).map((members) => new Set(members)),
      ),
    }));
    fc.assert(
      fc.property(tree, (value) => {
        const shown = inspect(value, { depth: null });
        const masked = redact(value);
        expect(inspect(masked, { depth: null })).not.toContain("456789AB");
        expect(inspect(value, { depth: null })).toBe(shown);
        if (!shown.includes("456789AB")) expect(masked).toBe(value);
        expect(redact(masked)).toBe(masked);
      }),
    );
  });
});

describe("streams", () => {
  const streamOf = (chunks: readonly Uint8Array[]): ReadableStream<Uint8Array> =>
    new ReadableStream({
      start(controller) {
        for (const chunk of chunks) controller.enqueue(chunk);
        controller.close();
      },
    });

  test("secrets split over chunks are masked as in one piece", async () => {
    const piece = fc.oneof(
      fc.constantFrom(STANDARD, SUBSCRIPTION, "sk-", "sk-sub-", "sk", "-", "\n", "é"),
      body,
      fc.constant("a".repeat(100)),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(piece), fc.array(fc.nat({ max: 40 })), async (pieces, sizes) => {
        const whole = bytes(pieces.join(""));
        const chunks: Uint8Array[] = [];
        let at = 0;
        for (const size of [...sizes, whole.length]) {
          chunks.push(whole.subarray(at, at + size));
          at += size;
        }
        const masked = await new Response(redact(streamOf(chunks))).arrayBuffer();
        expect(text(masked)).toBe(text(redact(whole)));
      }),
    );
  });

  test("nothing is held back but what may be a secret, and of that little", async () => {
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
    const writer = writable.getWriter();
    const reader = redact(readable).getReader();
    const next = async (): Promise<string> => text((await reader.read()).value ?? new Uint8Array());
    writer.write(bytes("data: 1\n\nsk-aa")).catch(() => {});
    expect(await next()).toBe("data: 1\n\nsk-");
    writer.write(bytes(" b")).catch(() => {});
    expect(await next()).toBe("aa b");
    writer.write(bytes(STANDARD)).catch(() => {});
    expect(await next()).toBe("sk-***");
    const hint = next();
    for (let count = 0; count < 1_000; count++) await writer.write(bytes("x".repeat(1_000)));
    await writer.write(bytes("1234\n"));
    expect(await hint).toBe("1234\n");
  });

  test("chunks that are not bytes pass; a stream inside an object, or locked, is left alone", async () => {
    const other = new ReadableStream({
      start(controller) {
        controller.enqueue(7);
        controller.close();
      },
    });
    expect((await redact(other).getReader().read()).value).toBe(7);
    const inner = streamOf([]);
    expect(redact({ inner, secret: STANDARD }).inner).toBe(inner);
    expect(inner.locked).toBe(false);
    inner.getReader();
    expect(redact(inner)).toBe(inner);
  });

  test("giving up reading ends the source", async () => {
    const reason = await new Promise((resolve) => {
      const source = new ReadableStream<Uint8Array>({ cancel: resolve });
      redact(source)
        .cancel("enough")
        .catch(() => {});
    });
    expect(reason).toBe("enough");
  });
});
