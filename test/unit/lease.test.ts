import { describe, expect, test } from "vitest";
import { cut, sliceOf } from "../../src/lease.js";
import { hold } from "../../src/ledger.js";
import { roomInLimits, takeRequest } from "../../src/limits.js";
import { sampleKey } from "../../src/testing/sample-key.js";

const NOW = 1_000_000;
const wanted = { requests: 100, cost: 1_000, tokens: 0 };

describe("a slice", () => {
  test.each([
    ["what is wanted, where there is plenty", { quota: 1_000_000 }, wanted],
    ["a share of what is left of the quota", { quota: 2_000 }, { ...wanted, cost: 200 }],
    ["nothing, where a share is worth less than two requests", { quota: 199 }, undefined],
    ["the least that is worth two requests", { quota: 200 }, { ...wanted, cost: 20 }],
    [
      "a share of the places in a limit",
      { limits: [{ requests: 200, windowMs: 1_000 }] },
      { ...wanted, requests: 20 },
    ],
    [
      "of the tightest of several limits",
      {
        limits: [
          { requests: 200, windowMs: 1_000 },
          { requests: 50, windowMs: 60_000 },
        ],
      },
      { ...wanted, requests: 5 },
    ],
    ["nothing, where requests in flight are limited", { limits: [{ inFlight: 1_000 }] }, undefined],
  ])("is %s", (_, policy, expected) => {
    const key = sampleKey({ quota: null, limits: [], ...policy });
    expect(sliceOf({ key }, { wanted, families: [], sharePercent: 10 }, NOW)).toEqual(expected);
  });

  test("counts what is held already, by whoever it is, in the share", () => {
    const key = sampleKey({ quota: 10_000, limits: [] });
    const held = hold(key, { node: "another", amounts: { "key@0": 700 } }, NOW + 1_000);
    const slice = (record: typeof key) =>
      sliceOf({ key: record }, { wanted, families: [], sharePercent: 10 }, NOW)?.cost;
    expect([slice(key), slice(held)]).toEqual([1_000, 300]);
  });

  test("counts what is in a bucket, and in those of all families", () => {
    const limits = [
      { requests: 100, windowMs: 1_000 },
      { requests: 80, windowMs: 1_000, per: "model" as const },
    ];
    const key = sampleKey({ limits });
    const level = (count: number) => ({ level: count * 1_000, atMs: NOW });
    const levels = { "requests/1000": level(30), "requests/1000/model/=b": level(20) };
    const room = (families: readonly string[], change = {}) =>
      roomInLimits({ ...key, levels, ...change }, families, 50, NOW);
    expect(room([])).toEqual({ requests: 35, tokens: Number.MAX_SAFE_INTEGER });
    expect(room(["a", "b"])).toMatchObject({ requests: 30 });
    expect(room(["a", "b"], { levels: {} })).toMatchObject({ requests: 40 });
  });

  test("takes no place in a limit before its requests come, but holds it", () => {
    const key = sampleKey({ limits: [{ requests: 10, windowMs: 1_000 }] });
    const ask = (places: number) => takeRequest(key, { families: [], tokens: 0, places }, NOW);
    const levels = { "requests/1000": { level: 0, atMs: NOW } };
    expect(ask(10)).toEqual({ fits: true, levels, held: { "requests/1000": 10 } });
    expect(ask(11)).toMatchObject({ fits: false });
  });

  test("of tokens is a share of their limit", () => {
    const key = sampleKey({ quota: null, limits: [{ tokens: 1_000, windowMs: 60_000 }] });
    const terms = { wanted: { requests: 10, cost: 10, tokens: 500 }, families: [], sharePercent: 10 };
    expect(sliceOf({ key }, terms, NOW)).toEqual({ requests: 10, cost: 10, tokens: 100 });
  });
});

test("a cut takes of the funds in the order in which they pay, and of each bucket its own unit", () => {
  const reservation = {
    node: "me",
    cycle: "1.4",
    key: { "key@0": 150, "requests/1000": 9, "tokens/60000": 70 },
    account: { "subscription@1.4": 100, "payg@1.4": 50, "balance@0": 50, "requests/1000": 9 },
  };
  expect(cut(reservation, { requests: 2, cost: 120, tokens: 30 })).toEqual({
    part: {
      node: "me",
      cycle: "1.4",
      isWhole: false,
      key: { "key@0": 120, "requests/1000": 2, "tokens/60000": 30 },
      account: { "subscription@1.4": 100, "payg@1.4": 20, "balance@0": 20, "requests/1000": 2 },
    },
    rest: {
      node: "me",
      cycle: "1.4",
      key: { "key@0": 30, "requests/1000": 7, "tokens/60000": 40 },
      account: { "payg@1.4": 30, "balance@0": 30, "requests/1000": 7 },
    },
  });
});
