import { defineConfig } from "tsup";
import manifest from "./package.json" with { type: "json" };

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
    // What is loaded late. Found by their imports alone they would come in another order now and then, as with plugins below.
    "src/management.ts",
    "src/standing.ts",
    "src/leases.ts",
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
  esbuildOptions(options) {
    // With plugins the order of imports differs now and then from build to build, and who builds a release again could not
    // tell whether it is the one that was published. All that is used of them is to know what stays outside.
    options.plugins = [];
    options.external = [...Object.keys(manifest.dependencies), ...Object.keys(manifest.peerDependencies)];
  },
});
