import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { memoryStore } from "../../src/stores/memory.js";
import { storeConformance, storeDurability } from "../../src/testing/index.js";

const contract = readFileSync(new URL("../../src/store.ts", import.meta.url), "utf8");
const clauses = [...contract.matchAll(/^ \* - (S\d+) /gm)].map((match) => match[1] ?? "");
const cases = storeConformance({ open: () => memoryStore() });
const durability = storeDurability({ open: () => memoryStore() });

test("the clauses of the store contract are numbered without a gap", () => {
  expect(clauses.length).toBeGreaterThan(0);
  expect(clauses).toEqual(clauses.map((_, n) => `S${n + 1}`));
});

test("every clause of the store contract has a case, and every case a clause", () => {
  expect(new Set(cases.map(({ clause }) => clause))).toEqual(new Set(clauses));
});

test("what durability adds is about clauses of the contract, too", () => {
  expect(clauses).toEqual(expect.arrayContaining(durability.map(({ clause }) => clause)));
});

test("the guide for authors explains every clause", () => {
  const guide = readFileSync(new URL("../../docs/stores.md", import.meta.url), "utf8");
  const explained = [...guide.matchAll(/\*(S\d+)\*:/g)].map((match) => match[1] ?? "");
  expect(new Set(explained)).toEqual(new Set(clauses));
  expect(explained).toHaveLength(clauses.length);
});

test("every case has a name of its own", () => {
  const all = [...cases, ...durability];
  expect(new Set(all.map(({ name }) => name)).size).toBe(all.length);
});
