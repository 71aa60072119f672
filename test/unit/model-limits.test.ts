import { describe, expect, test } from "vitest";
import { decide } from "../../src/decide.js";
import type { KeyRecord } from "../../src/documents.js";
import { limitStatus, takeRequest } from "../../src/limits.js";
import { sampleKey } from "../../src/testing/sample-key.js";

const T0 = 1_800_000_000_000;
const MINUTE = 60_000;

function keyWith(requests: number): KeyRecord {
  return sampleKey({ limits: [{ requests, windowMs: MINUTE, per: "model" }] }, T0);
}

function taken(record: KeyRecord, families: readonly string[], now = T0): KeyRecord {
  const outcome = takeRequest(record, families, now);
  if (!outcome.fits) throw new Error(`refused: ${outcome.reason}`);
  return { ...record, levels: outcome.levels };
}

describe("a limit per model", () => {
  test("counts each family by itself", () => {
    const record = taken(keyWith(1), ["a"]);
    expect(takeRequest(record, ["a"], T0).fits).toBe(false);
    expect(takeRequest(record, ["b"], T0).fits).toBe(true);
  });

  test("is taken once by a request for several models of one family, and once for each of several families", () => {
    const record = taken(keyWith(2), ["a", "b"]);
    const left = (family: string) => limitStatus(record, [family], T0)[0]?.remaining;
    expect([left("a"), left("b"), left("c")]).toEqual([1, 1, 2]);
  });

  test("takes nothing when one of several families is full", () => {
    const record = taken(keyWith(1), ["a"]);
    const { documents, verdict } = decide({ key: record }, { facts: { model: ["b", "a"] }, cost: 0 }, T0);
    expect(verdict).toMatchObject({
      allowed: false,
      refusal: { reason: "rate_limited", retryAfterMs: MINUTE },
    });
    expect(documents.key).toBe(record);
  });

  test("does not concern a route without a model", () => {
    const { verdict } = decide({ key: taken(keyWith(1), ["a"]) }, { facts: { model: null }, cost: 0 }, T0);
    expect(verdict).toMatchObject({ allowed: true, limits: [] });
  });

  test("counts a model that could not be told as one of its own", () => {
    const first = decide({ key: keyWith(1) }, { facts: {}, cost: 0 }, T0);
    expect(first.verdict.allowed).toBe(true);
    expect(decide(first.documents, { facts: {}, cost: 0 }, T0).verdict.allowed).toBe(false);
  });

  test("has 64 buckets; further models share one", () => {
    let record = keyWith(1);
    for (let n = 0; n < 64; n += 1) record = taken(record, [`model-${n}`]);
    expect(Object.keys(record.levels)).toHaveLength(64);
    const full = taken(record, ["model-64"]);
    expect(Object.keys(full.levels)).toHaveLength(65);
    expect(takeRequest(full, ["model-65"], T0).fits).toBe(false);
    expect(takeRequest(full, ["model-0"], T0)).toMatchObject({ fits: false });
  });

  test("gives names of up to 128 characters a bucket of their own", () => {
    const record = taken(taken(keyWith(1), ["x".repeat(128)]), ["y".repeat(129)]);
    expect(takeRequest(record, ["x".repeat(127)], T0).fits).toBe(true);
    expect(takeRequest(record, ["z".repeat(129)], T0).fits).toBe(false);
  });

  test("forgets a bucket when it is empty, to the millisecond, and keeps it until then", () => {
    const record = taken(keyWith(1), ["a"]);
    expect(Object.keys(taken(record, ["b"], T0 + MINUTE - 1).levels)).toHaveLength(2);
    expect(Object.keys(taken(record, ["b"], T0 + MINUTE).levels)).toHaveLength(1);
  });

  test("stands beside a limit of the key with the same window", () => {
    const key = sampleKey(
      {
        limits: [
          { requests: 1, windowMs: MINUTE, per: "model" },
          { requests: 2, windowMs: MINUTE },
        ],
      },
      T0,
    );
    const record = taken(taken(key, ["a"]), ["b"]);
    expect(takeRequest(record, ["c"], T0).fits).toBe(false);
  });

  test("is not confused by names such as __proto__", () => {
    const record = taken(keyWith(1), ["__proto__"]);
    expect(takeRequest(record, ["__proto__"], T0).fits).toBe(false);
    expect(takeRequest(record, ["constructor"], T0).fits).toBe(true);
  });
});
