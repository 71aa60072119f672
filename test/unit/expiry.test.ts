import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { KeyRecord, NodeEntry } from "../../src/documents.js";
import { expireHolds, mayBeForgotten } from "../../src/expiry.js";
import { quotaStatus } from "../../src/quota.js";
import { sampleKey } from "../../src/testing/sample-key.js";
import { drainedNodes, holding, purse, reserved, T0, withEntry } from "./holding.js";

const HOUR_MS = 3_600_000;

describe("expireHolds", () => {
  test.each([
    [T0 - 1, false],
    [T0, true],
  ])("at %i, renewed until T0: collected is %s", (now, collected) => {
    const record = holding({ me: 10 }, T0);
    const after = expireHolds(record, now);
    expect("me" in after.collected).toBe(collected);
    if (!collected) expect(after).toBe(record);
  });

  test.each([
    ["charge", 10],
    ["release", 0],
  ] as const)("mode %s books %i and gives the rest free", (mode, used) => {
    const record = holding({ me: 10, other: 2 }, T0, mode);
    const renewed = withEntry(record, "other", { renewByMs: T0 + 1 });
    const after = expireHolds(renewed, T0);
    expect(quotaStatus({ key: after })).toMatchObject({ used, held: 2 });
    expect(after.collected).toEqual({
      me: { seq: 1, collectedAtMs: T0, mode, collected: { "key@0": 10 } },
    });
    expect(Object.keys(after.nodes)).toEqual(["other"]);
  });

  test("is done once", () => {
    const after = expireHolds(holding({ me: 10 }, T0), T0);
    expect(expireHolds(after, T0)).toBe(after);
    expect(expireHolds(after, T0 + HOUR_MS - 1)).toBe(after);
  });

  test("a request in flight that holds no amount is collected, too", () => {
    const { record } = reserved(sampleKey(), 0, "me", T0);
    expect(expireHolds(record, T0).collected).toMatchObject({ me: { collected: {} } });
  });

  test("an entry that holds nothing stays as memory for an hour", () => {
    const drained = withEntry(holding({ me: 0 }, T0), "me", { open: 0, held: {} });
    expect(expireHolds(drained, T0 + HOUR_MS - 1)).toBe(drained);
    expect(expireHolds(drained, T0 + HOUR_MS).nodes).toEqual({});
  });

  test("a collected entry is remembered for an hour", () => {
    const after = expireHolds(holding({ me: 10 }, T0), T0 + 5);
    expect(expireHolds(after, T0 + 5 + HOUR_MS - 1)).toBe(after);
    const forgotten = expireHolds(after, T0 + 5 + HOUR_MS);
    expect(forgotten.collected).toEqual({});
    expect(quotaStatus({ key: forgotten })).toMatchObject({ used: 10 });
  });

  test("of more than 64 collected entries the oldest are forgotten", () => {
    let record = sampleKey();
    for (let index = 0; index < 65; index++) {
      record = expireHolds(reserved(record, 1, `node-${index}`, T0 + index).record, T0 + index);
    }
    expect(Object.keys(record.collected)).toHaveLength(64);
    expect(record.collected).not.toHaveProperty("node-0");
    expect(record.collected).toHaveProperty("node-64");
    expect(quotaStatus({ key: record })).toMatchObject({ used: 65, held: 0 });
  });

  test("no more than 64 are remembered when more expire at once", () => {
    const names = Array.from({ length: 100 }, (_, index) => [`node-${index}`, 1] as const);
    const after = expireHolds(holding(Object.fromEntries(names), T0), T0);
    expect(Object.keys(after.collected)).toHaveLength(64);
    expect(after.nodes).toEqual({});
    expect(quotaStatus({ key: after })).toMatchObject({ used: 100, held: 0 });
  });

  test("of more than 64 that hold nothing the longest unused are forgotten", () => {
    const record = { ...sampleKey(), nodes: drainedNodes(65) };
    const after = expireHolds(record, T0 + 100);
    expect(Object.keys(after.nodes)).toHaveLength(64);
    expect(after.nodes).not.toHaveProperty("node-0");
    // Those whose time has not come yet are not counted and not touched.
    expect(expireHolds(record, T0 + 63)).toBe(record);
  });
});

describe("mayBeForgotten", () => {
  test("is true of nothing while nothing was forgotten", () => {
    expect(mayBeForgotten(sampleKey({}, T0), T0 - HOUR_MS)).toBe(false);
    expect(mayBeForgotten(expireHolds(holding({ me: 10 }, T0), T0), T0)).toBe(false);
  });

  test.each([
    [T0 + 5, true],
    [T0 + 6, false],
  ])("after the memory of T0 + 5 went, of an entry renewed until %i: %s", (renewByMs, expected) => {
    const collected = expireHolds(holding({ me: 10 }, T0), T0 + 5);
    expect(mayBeForgotten(expireHolds(collected, T0 + 5 + HOUR_MS - 1), renewByMs)).toBe(false);
    expect(mayBeForgotten(expireHolds(collected, T0 + 5 + HOUR_MS), renewByMs)).toBe(expected);
  });

  test("stays true for an entry that was crowded out when there is room again", () => {
    const crowded = { ...sampleKey(), nodes: drainedNodes(65) };
    const renewByMs = crowded.nodes["node-0"]?.renewByMs ?? 0;
    const swept = expireHolds(crowded, T0 + 100);
    expect(swept.nodes).not.toHaveProperty("node-0");
    const busyAgain = reserved(swept, 1, "node-9", T0 + 60_000).record;
    expect(mayBeForgotten(busyAgain, renewByMs)).toBe(true);
  });

  test("is true of every entry that was there and is gone", () => {
    const entries = fc.array(fc.record({ renewByMs: fc.nat(2_000), open: fc.nat(1) }), {
      minLength: 1,
      maxLength: 256,
    });
    fc.assert(
      fc.property(entries, fc.array(fc.nat(HOUR_MS), { minLength: 1, maxLength: 5 }), (entries, pauses) => {
        const nodes = entries.map((entry, index): [string, NodeEntry] => [
          `node-${index}`,
          { seq: 1, held: purse(entry.open), ...entry, renewByMs: T0 + entry.renewByMs },
        ]);
        let record: KeyRecord = { ...sampleKey(), nodes: Object.fromEntries(nodes) };
        let now = T0;
        for (const pause of pauses) {
          now += pause;
          record = expireHolds(record, now);
          for (const [node, { renewByMs }] of nodes) {
            const isThere = node in record.nodes || node in record.collected;
            if (!isThere) expect(mayBeForgotten(record, renewByMs)).toBe(true);
          }
        }
      }),
      { numRuns: 60 },
    );
  });
});
