import { readdirSync, readFileSync } from "node:fs";
import type { ProvidedContext } from "vitest";
import { configDefaults, defineConfig } from "vitest/config";

/** What goes through a store and is true of every one: the files that ask for the turnstile and the store of their project. */
const BEHAVIOUR = readdirSync("test/unit")
  .map((name) => `test/unit/${name}`)
  .filter((file) => /from "\.\.\/setup\/new-gate\.js"/.test(readFileSync(file, "utf8")));

/** By one instance in memory they are run as what they are: as unit tests. */
const OVER: readonly Partial<ProvidedContext>[] = [
  { instances: "several" },
  { leased: true },
  { leased: true, instances: "several" },
  ...(["sqlite", "postgres", "redis"] as const).flatMap((storeKind) => [
    { storeKind },
    { storeKind, instances: "several" as const },
  ]),
];

/** What measures how processes share a key, and so wants the machine for itself: it comes after all others. */
const ALONE = ["test/system/changes.test.ts"];

const SERVED = {
  globalSetup: ["test/setup/postgres-server.ts"],
  testTimeout: 300_000,
  hookTimeout: 60_000,
};

export default defineConfig({
  test: {
    reporters: ["default", "./test/setup/leak-reporter.ts", "./test/setup/plain-line-reporter.ts"],
    // By default one core is left alone; of two that is every second one.
    maxWorkers: "100%",
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
          exclude: [...configDefaults.exclude, ...ALONE],
          ...SERVED,
        },
      },
      {
        test: { name: "alone", include: ALONE, maxWorkers: 1, sequence: { groupOrder: 1 }, ...SERVED },
      },
      ...OVER.map(({ storeKind, instances, leased }) => ({
        test: {
          name: [storeKind ?? "memory", instances, leased && "leased"].filter(Boolean).join("-"),
          include: BEHAVIOUR,
          provide: {
            ...(storeKind && { storeKind }),
            ...(instances && { instances }),
            ...(leased && { leased }),
          },
          globalSetup: storeKind === "postgres" ? ["test/setup/postgres-server.ts"] : [],
          testTimeout: 60_000,
          hookTimeout: 60_000,
        },
      })),
    ],
  },
});
