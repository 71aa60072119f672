import { defineConfig } from "vitest/config";

/** What goes through a store and is true of every one. These files run over all of them. */
const BEHAVIOUR = [
  "accounts",
  "authorizer",
  "brought-secrets",
  "keyring",
  "resilience",
  "rules",
  "standing",
  "usage-reports",
].map((name) => `test/unit/${name}.test.ts`);

export default defineConfig({
  test: {
    reporters: ["default", "./test/setup/leak-reporter.ts", "./test/setup/plain-line-reporter.ts"],
    benchmark: { include: [] },
    projects: [
      {
        test: { name: "unit", isolate: false, include: ["test/unit/**/*.test.ts"] },
      },
      {
        test: {
          name: "types",
          include: [],
          typecheck: { enabled: true, only: true, include: ["test/types/**/*.test-d.ts"] },
        },
      },
      {
        // Real files, sockets and processes, and long random histories.
        test: {
          name: "system",
          include: ["test/system/**/*.test.ts", "examples/**/*.test.ts"],
          globalSetup: ["test/setup/postgres-server.ts"],
          testTimeout: 300_000,
          hookTimeout: 60_000,
        },
      },
      ...(["sqlite", "postgres", "redis"] as const).map((storeKind) => ({
        test: {
          name: storeKind,
          include: BEHAVIOUR,
          provide: { storeKind },
          globalSetup: ["test/setup/postgres-server.ts"],
          testTimeout: 60_000,
          hookTimeout: 60_000,
        },
      })),
    ],
  },
});
