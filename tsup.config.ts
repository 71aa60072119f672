import { defineConfig } from "tsup";

export default defineConfig({
  entry: [
    "src/index.ts",
    "src/stores/memory.ts",
    "src/stores/redis.ts",
    "src/stores/sqlite.ts",
    "src/stores/postgres.ts",
    "src/adapters/express.ts",
    "src/adapters/fastify.ts",
    "src/adapters/hono.ts",
    "src/adapters/node.ts",
    "src/testing/index.ts",
  ],
  format: ["esm"],
  platform: "node",
  target: "node20",
  splitting: true,
  sourcemap: true,
  clean: true,
  dts: false, // declarations come from `tsc -p tsconfig.build.json`
  // tsup would shorten `node:sqlite` to `sqlite`, which exists only with the prefix
  removeNodeProtocol: false,
});
