import { describe, expect, test } from "vitest";
import { KEY_PURSE, type KeyRecord } from "../../src/documents.js";
import { expireHolds } from "../../src/expiry.js";
import { add, book, type Hold, heldOf, hold, newEntry, release } from "../../src/ledger.js";
import { sampleKey } from "../../src/testing/sample-key.js";
import { holding, purse, T0 } from "./holding.js";

const MAX = Number.MAX_SAFE_INTEGER;

describe("hold", () => {
  test("holds under the process that serves the request, and nothing else changes", () => {
    const record = { ...holding({ other: 5 }), used: purse(3) };
    const after = hold(record, { node: "me", amounts: purse(7) }, T0 + 50);
    expect(after).toEqual({
      ...record,
      nodes: { ...record.nodes, me: { seq: 0, open: 1, renewByMs: T0 + 50, held: { "key@0": 7 } } },
    });
  });

  test("adds up per process, and never shortens the life of what is held already", () => {
    const first = hold(sampleKey(), { node: "me", amounts: purse(7) }, T0 + 50);
    const record = hold(first, { node: "me", amounts: { "key@0": 4, "tokens/1000": 9 } }, T0 + 20);
    expect(record.nodes["me"]).toEqual({
      seq: 0,
      open: 2,
      renewByMs: T0 + 50,
      held: { "key@0": 11, "tokens/1000": 9 },
    });
  });

  test("a cost of 0 holds no amount, but counts as a request in flight", () => {
    const record = hold(sampleKey(), { node: "me", amounts: {} }, T0);
    expect(record.nodes["me"]).toMatchObject({ open: 1, held: {} });
    const { ledger } = release(record, { node: "me", amounts: {} });
    expect(ledger.nodes["me"]).toMatchObject({ open: 0, held: {} });
  });

  test("takes 128 processes, and the 129th is a fault that does not touch those there are", () => {
    const names = Array.from({ length: 127 }, (_, index) => [`node-${index}`, 1] as const);
    const full = hold(holding(Object.fromEntries(names)), one("the last"), T0);
    expect(Object.keys(full.nodes)).toHaveLength(128);
    expect(heldOf(hold(full, one("node-7"), T0), KEY_PURSE)).toBe(129);
    expect(() => hold(full, one("one more"), T0)).toThrow(expect.objectContaining({ code: "document_full" }));
    expect(() => newEntry(full, 128)).toThrow(expect.objectContaining({ code: "document_full" }));
  });

  test("leaves 64 more places to processes that hold nothing, so that an operator gets through", () => {
    const names = Array.from({ length: 191 }, (_, index) => [`node-${index}`, 1] as const);
    const crowd = holding(Object.fromEntries(names));
    expect(() => hold(crowd, one("one more"), T0)).toThrow(
      expect.objectContaining({ code: "document_full" }),
    );
    expect(newEntry(crowd)).toEqual({ seq: 0, open: 0, renewByMs: 0, held: {} });
    const full = { ...crowd, nodes: { ...crowd.nodes, visitor: newEntry(crowd) } };
    expect(() => newEntry(full)).toThrow(expect.objectContaining({ code: "document_full" }));
  });
});

describe("release", () => {
  const held = { node: "me", amounts: { "key@0": 7, "tokens/1000": 9 } };

  test("takes a request out of the live entry, and nothing else changes", () => {
    const before = hold(holding({ other: 5 }), one("me"), T0);
    const { ledger, found } = release(hold(before, held, T0), held);
    expect(found).toBe("live");
    expect(ledger).toEqual(before);
  });

  test.each([
    ["charged", { onCrash: "charge" as const }, 3],
    ["released", { onCrash: "release" as const }, 0],
  ])("after a collection that %s it corrects the memory", (expected, policy, used) => {
    const both = hold(hold(sampleKey(policy), held, T0), { node: "me", amounts: purse(3) }, T0);
    const { ledger, found } = release(expireHolds(both, T0), held);
    expect(found).toBe(expected);
    expect(ledger.used).toEqual(purse(used));
    expect(ledger.collected["me"]?.collected).toEqual(purse(3));
    expect(ledger.nodes).toEqual({});
  });

  test("of what is forgotten changes nothing", () => {
    const record = { ...sampleKey(), used: purse(7) };
    const { ledger, found } = release(record, held);
    expect(found).toBe("forgotten");
    expect(ledger).toBe(record);
  });

  test("takes no more back than there is, for a counter that was reset meanwhile", () => {
    const collected = expireHolds(hold(sampleKey(), held, T0), T0);
    const reset: KeyRecord = { ...collected, used: { "key@0": 2, "other@1": 4 } };
    expect(release(reset, held).ledger.used).toEqual({ "other@1": 4 });
  });
});

describe("book", () => {
  test("counts money, and no tokens", () => {
    const booked = book({ ...sampleKey(), used: purse(3) }, { "key@0": 4, "payg@1.0": 5, "tokens/1000": 6 });
    expect(booked.used).toEqual({ "key@0": 7, "payg@1.0": 5 });
  });

  test.each([
    [MAX - 1, 1, MAX],
    [MAX, 1, MAX],
    [MAX, MAX, MAX],
  ])("%i and %i are %i: the sum stays a safe integer", (used, more, sum) => {
    expect(book({ ...sampleKey(), used: purse(used) }, purse(more)).used).toEqual(purse(sum));
  });
});

test("amounts are added purse by purse, and an empty purse is left out", () => {
  expect(add({ a: 1, b: 2 }, { b: 3, c: 4 }, 1)).toEqual({ a: 1, b: 5, c: 4 });
  expect(add({ a: 1, b: 2 }, { b: 2 }, -1)).toEqual({ a: 1 });
  expect(add({}, { a: 2 }, -1)).toEqual({ a: -2 });
});

function one(node: string): Hold {
  return { node, amounts: purse(1) };
}
