import { defineConfig } from "tsup";

export default defineConfig({
  // By name: a list is looked up as patterns, in parallel, and the order in which its files are found, which is not always the
  // same, becomes the order of imports in what is built. Who builds a release again could not tell whether it is the published one.
  entry: {
    index: "src/index.ts",
    "stores/memory": "src/stores/memory.ts",
    "stores/redis": "src/stores/redis.ts",
    "stores/sqlite": "src/stores/sqlite.ts",
    "stores/postgres": "src/stores/postgres.ts",
    "adapters/express": "src/adapters/express.ts",
    "adapters/fastify": "src/adapters/fastify.ts",
    "adapters/hono": "src/adapters/hono.ts",
    "adapters/node": "src/adapters/node.ts",
    "testing/index": "src/testing/index.ts",
  },
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
