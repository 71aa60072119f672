import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { memoryStore } from "../../src/stores/memory.js";
import { storeConformance } from "../../src/testing/index.js";

const contract = readFileSync(new URL("../../src/store.ts", import.meta.url), "utf8");
const clauses = [...contract.matchAll(/^ \* - (S\d+) /gm)].map((match) => match[1] ?? "");
const cases = storeConformance({ open: () => memoryStore() });

test("the clauses of the store contract are numbered without a gap", () => {
  expect(clauses.length).toBeGreaterThan(0);
  expect(clauses).toEqual(clauses.map((_, n) => `S${n + 1}`));
});

test("every clause of the store contract has a case, and every case a clause", () => {
  expect(new Set(cases.map(({ clause }) => clause))).toEqual(new Set(clauses));
});

test("every case has a name of its own", () => {
  expect(new Set(cases.map(({ name }) => name)).size).toBe(cases.length);
});
