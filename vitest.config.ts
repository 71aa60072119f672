import { defineConfig } from "vitest/config";

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
    ],
  },
});
