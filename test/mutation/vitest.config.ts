import { defineConfig } from "vitest/config";

/** For a few files of source the tests of the same names are enough, and faster. */
const FILES = process.env["KEYSTILE_MUTATION_TESTS"]?.split(",") ?? [
  ...["secret", "credential", "address", "rules", "decide", "evasions", "models", "model-limits", "limits"],
  ...["token-limits", "cycle", "quota", "funds", "settle", "expiry", "ledger", "http", "refusal"],
  ...["lease", "accounts", "funds-by-units", "address-limit"],
];

/**
 * What a broken line of a pure file has to fall to: the tables and properties that are about it, without what only
 * measures time or walks long histories. Deterministic, so that a mutant dies in every run or in none.
 */
export default defineConfig({
  test: {
    isolate: false,
    include: FILES.map((name) => `test/unit/${name}.test.ts`),
    testNamePattern: /^(?!.*(?:over random histories|linear time|characters that almost match))/s,
    setupFiles: ["test/mutation/one-seed.ts"],
    testTimeout: 60_000,
    benchmark: { include: [] },
  },
});
