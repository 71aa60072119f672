import { describe, expect, test } from "vitest";
import { decide } from "../../src/decide.js";
import type { KeyRecord } from "../../src/documents.js";
import { type LimitsOutcome, limitStatus, takeRequest as take } from "../../src/limits.js";
import { sampleKey } from "../../src/testing/sample-key.js";

const T0 = 1_800_000_000_000;
const MINUTE = 60_000;

function keyWith(requests: number): KeyRecord {
  return sampleKey({ limits: [{ requests, windowMs: MINUTE, per: "model" }] }, T0);
}

function takeRequest(record: KeyRecord, families: readonly string[], now: number): LimitsOutcome {
  return take(record, { families, tokens: 0 }, now);
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

  test("refuses a request whose model cannot be told, as a list does", () => {
    const { verdict } = decide({ key: keyWith(1) }, { facts: {}, cost: 0 }, T0);
    expect(verdict).toMatchObject({ allowed: false, refusal: { reason: "model_undetermined" } });
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

  test("gives names of up to 64 characters a bucket of their own; longer ones share another", () => {
    const record = taken(taken(keyWith(1), ["x".repeat(64)]), ["y".repeat(65)]);
    expect(takeRequest(record, ["x".repeat(63)], T0).fits).toBe(true);
    expect(takeRequest(record, ["z".repeat(65)], T0).fits).toBe(false);
    // Whoever comes between does not make it forgotten.
    const later = taken(record, ["x".repeat(63)]);
    expect(takeRequest(later, ["z".repeat(65)], T0).fits).toBe(false);
  });

  test("tells once of a bucket that several families share", () => {
    const long = ["y".repeat(65), "z".repeat(65)];
    expect(limitStatus(taken(keyWith(2), long), long, T0)).toMatchObject([{ remaining: 1 }]);
  });

  test("has room for one more beside 63, whatever else the request asks for, and whatever other limits there are", () => {
    const limits = [
      { requests: 999, windowMs: MINUTE },
      { requests: 1, windowMs: MINUTE, per: "model" as const },
    ];
    let record = sampleKey({ limits }, T0);
    for (let n = 0; n < 63; n += 1) record = taken(record, [`model-${n}`]);
    const known = {
      ...record,
      policy: { ...record.policy, limits: [limits[0], { ...limits[1], burst: 2 }] },
    };
    expect(taken(known as KeyRecord, ["model-0", "model-63"]).levels).toHaveProperty([
      `requests/${MINUTE}/model/=model-63`,
    ]);
    expect(taken(record, ["model-63"]).levels).not.toHaveProperty([`requests/${MINUTE}/model/other`]);
  });

  test("tells of the bucket that a request would go into, also where an own one has drained", () => {
    const shared = `requests/${MINUTE}/model/other`;
    const own = `requests/${MINUTE}/model/=a`;
    const record = {
      ...keyWith(3),
      levels: { [own]: { level: 1, atMs: T0 - 1 }, [shared]: { level: 2 * MINUTE, atMs: T0 } },
    };
    expect(limitStatus(record, ["a"], T0)).toMatchObject([{ remaining: 1 }]);
    expect(Object.keys(taken(record, ["a"]).levels)).toEqual([shared]);
  });

  test("forgets a bucket by its own rate, whatever other limits there are", () => {
    const limits = [
      { requests: 1_000, windowMs: 1_000 },
      { requests: 1_000, windowMs: 1_000, per: "model" as const },
      { requests: 1, windowMs: MINUTE, per: "model" as const },
    ];
    const record = taken(sampleKey({ limits }, T0), ["a"]);
    const later = taken(record, ["b"], T0 + 2_000);
    expect(Object.keys(later.levels).filter((name) => name.endsWith("=a"))).toEqual([
      `requests/${MINUTE}/model/=a`,
    ]);
  });

  test("admits no more to a family that had to share a bucket before it got its own", () => {
    const junk = Array.from({ length: 64 }, (_, n) => `junk-${n}`);
    const shared = taken(keyWith(1), ["a", ...junk]);
    expect(takeRequest(shared, ["a"], T0).fits).toBe(false);
    let full = keyWith(1);
    for (const family of junk) full = taken(full, [family]);
    // The buckets of the others have drained by then, that of "a" has not.
    const late = taken(full, ["a"], T0 + MINUTE - 1);
    expect(takeRequest(late, ["a"], T0 + MINUTE).fits).toBe(false);
  });

  test("has 64 buckets for all limits of a key together", () => {
    const limits = [1, 2, 3].map((n) => ({ requests: 999, windowMs: n * MINUTE, per: "model" as const }));
    let record = sampleKey({ limits }, T0);
    for (let n = 0; n < 100; n += 1) record = taken(record, [`model-${n % 50}-${n}`]);
    expect(Object.keys(record.levels).filter((name) => name.includes("/model/=")).length).toBeLessThanOrEqual(
      64,
    );
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
