import { readFileSync } from "node:fs";
import { join } from "node:path";
import { inspect } from "node:util";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Allowed, createKeystile, isKeystileError, type Keystile } from "../../src/index.js";
import { memoryStore } from "../../src/stores/memory.js";
import { ENTRIES, type Entry, MODULES, methodEntries, methodsOf } from "./fuzz-entries.js";

/*
 * Every public function with anything at all, and with what is almost right: it returns, or throws what is documented,
 * a TypeError or a KeystileError, and soon. What the package exports is asked of the package, so nothing is forgotten.
 */

const SEED = Number(process.env["KEYSTILE_SEED"] ?? 1);
const RUNS = Number(process.env["KEYSTILE_FUZZ_RUNS"] ?? 100);

/** What a value of the caller's own throws when it is looked at: nobody else's fault. */
const TRAP = new Error("a trap of the caller");
function trap(): never {
  throw TRAP;
}

const hostile = fc.constantFrom<() => unknown>(
  () => new Proxy({}, { get: trap, has: trap, ownKeys: trap, getPrototypeOf: trap }),
  () => new Proxy(() => {}, { get: trap, apply: trap }),
  () => ({
    get a() {
      return trap();
    },
  }),
  () => ({ toString: trap, valueOf: trap }),
  () => ({ [Symbol.toPrimitive]: trap }),
  () => Object.assign([], { length: 10_000 }),
  () => {
    const circle: { self?: unknown } = {};
    circle.self = [circle];
    return circle;
  },
  // Not of lists: to make text of those takes stack, whoever does it.
  () => JSON.parse(`${'{"a":'.repeat(5_000)}1${"}".repeat(5_000)}`),
  () => JSON.parse('{"__proto__":{"allowed":true},"constructor":{"prototype":{}}}'),
  () => "x".repeat(50_000),
  () => ` ${"\t".repeat(100_000)}`,
  () => new Uint8Array(5_000),
  () => Object.create({ inherited: true }),
  () => new Date(Number.NaN),
  () => Symbol("x"),
  () => async () => trap(),
  () => trap,
  () => Promise.resolve(1),
  () => new Headers({ a: "b" }),
  () => new URL("http://x/"),
  () => Number.MAX_SAFE_INTEGER,
  () => 2 ** 53,
  () => -1,
  () => 0.5,
  () => "9007199254740993",
);

/** Made only when it is used, because whoever looks at a trap is caught. */
type Made<T> = () => T;

const anything: fc.Arbitrary<Made<unknown>> = fc.oneof(
  { weight: 2, arbitrary: hostile },
  {
    weight: 3,
    arbitrary: fc
      .anything({
        ...{ withBigInt: true, withBoxedValues: true, withDate: true, withMap: true, withSet: true },
        ...{ withNullPrototype: true, withObjectString: true, withSparseArray: true, withTypedArray: true },
      })
      .map((value) => () => value),
  },
  fc
    .constantFrom<unknown>(undefined, null, Number.NaN, Number.POSITIVE_INFINITY, -0, "", [], {}, true)
    .map((value) => () => value),
);

function anyList(maxLength: number): fc.Arbitrary<Made<readonly unknown[]>> {
  return fc.array(anything, { maxLength }).map((made) => () => made.map((make) => make()));
}

/** The sample with something else at one place, or without it. */
function nearly(sample: readonly unknown[]): fc.Arbitrary<Made<readonly unknown[]>> {
  const places = placesOf(sample);
  if (places.length === 0) return anyList(3);
  return fc.tuple(fc.constantFrom(...places), anything, fc.boolean()).map(
    ([place, make, isGone]) =>
      () =>
        replaced(sample, place, make(), isGone) as readonly unknown[],
  );
}

function placesOf(value: unknown): readonly (readonly string[])[] {
  if (typeof value !== "object" || value === null || !isPlain(value)) return [];
  return Object.entries(value).flatMap(([name, inner]) => [
    [name],
    ...placesOf(inner).map((rest) => [name, ...rest]),
  ]);
}

function isPlain(value: object): boolean {
  return Array.isArray(value) || Object.getPrototypeOf(value) === Object.prototype;
}

function replaced(value: unknown, [name, ...rest]: readonly string[], by: unknown, isGone: boolean): unknown {
  if (name === undefined) return by;
  const copy = (Array.isArray(value) ? [...value] : { ...(value as object) }) as Record<string, unknown>;
  if (rest.length === 0 && isGone && !Array.isArray(value)) delete copy[name];
  else copy[name] = replaced(copy[name], rest, by, isGone);
  return copy;
}

async function expectOutcome(
  { call, neverThrows, alsoThrows }: Entry,
  args: readonly unknown[],
): Promise<void> {
  const begun = performance.now();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("It has not returned in 5 s.")), 5_000);
  });
  try {
    const outcome = (call as (...args: readonly unknown[]) => unknown)(...args);
    if (outcome instanceof Promise) await Promise.race([outcome, late]);
  } catch (error) {
    if (error === TRAP) return;
    const isDocumented =
      error instanceof TypeError ||
      isKeystileError(error) ||
      (alsoThrows !== undefined && error instanceof alsoThrows);
    if (neverThrows === true || !isDocumented) throw error;
  } finally {
    clearTimeout(timer);
  }
  expect(performance.now() - begun).toBeLessThan(2_000);
}

async function fuzz(entry: Entry): Promise<void> {
  const args = fc.oneof({ weight: 1, arbitrary: anyList(4) }, { weight: 2, arbitrary: nearly(entry.sample) });
  await fc.assert(
    fc.asyncProperty(args, async (make) => {
      const given = make();
      await expectOutcome(entry, given).catch((error: unknown) => {
        throw new Error(`KEYSTILE_SEED=${SEED}, given ${shown(given)}: ${error}`, { cause: error });
      });
    }),
    { seed: SEED, numRuns: RUNS, endOnFailure: true, includeErrorInReport: true },
  );
}

function shown(value: unknown): string {
  try {
    return inspect(value, { depth: 4, maxStringLength: 100, maxArrayLength: 10 }).slice(0, 1_000);
  } catch {
    return "what cannot be shown";
  }
}

const unhandled: unknown[] = [];
const noteUnhandled = (reason: unknown): void => void unhandled.push(reason);
let gate: Keystile;

beforeAll(() => {
  process.on("unhandledRejection", noteUnhandled);
  gate = createKeystile({ store: memoryStore(), drainMs: 0 });
});

afterAll(async () => {
  await gate.close();
  await new Promise((resolve) => setTimeout(resolve, 10));
  process.off("unhandledRejection", noteUnhandled);
  // A trap of the caller that nobody was handed is one that nobody could catch.
  expect(unhandled.filter((reason) => reason !== TRAP)).toEqual([]);
});

describe(`every exported function, seed ${SEED}`, () => {
  const exported = Object.entries(MODULES).flatMap(([subpath, members]) =>
    Object.entries(members).flatMap(([name, value]) =>
      typeof value === "function" ? [`${subpath} ${name}`] : [],
    ),
  );

  test("is known here", () => {
    const { exports } = JSON.parse(readFileSync(join(import.meta.dirname, "../../package.json"), "utf8"));
    const subpaths = Object.keys(exports).filter((subpath) => subpath !== "./package.json");
    expect(Object.keys(MODULES).toSorted()).toEqual(subpaths.toSorted());
    expect(Object.keys(ENTRIES).toSorted()).toEqual(exported.toSorted());
  });

  test.each(exported)("%s", (name) => fuzz(ENTRIES[name] as Entry));
});

describe(`every method of a turnstile, seed ${SEED}`, () => {
  let methods: Readonly<Record<string, Entry>>;

  beforeAll(async () => {
    methods = await methodEntries(gate);
  });

  test("is known here", async () => {
    const { secret } = await gate.keys.issue();
    const decision = (await gate.authorize({ headers: { "x-api-key": secret } })) as Allowed;
    expect(methodsOf(gate, decision).toSorted()).toEqual(Object.keys(methods).toSorted());
    await decision.void();
  });

  test("returns, or throws what is documented", async () => {
    for (const [name, entry] of Object.entries(methods)) {
      await fuzz(entry).catch((error: Error) => {
        throw new Error(`${name}: ${error.message}`, { cause: error });
      });
    }
  });
});
