import { rmSync } from "node:fs";
import { build } from "esbuild";
import manifest from "./package.json" with { type: "json" };

const outdir = "dist";
rmSync(outdir, { recursive: true, force: true });

/*
 * One file for each subpath, and chunks for what they share. No plugins: with them the order of imports differs now and
 * then from build to build, and who builds a release again could not tell whether it is the one that was published.
 */
await build({
  entryPoints: [
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
  outdir,
  bundle: true,
  splitting: true,
  format: "esm",
  platform: "node",
  target: "node20",
  charset: "utf8",
  sourcemap: true,
  logLevel: "warning",
  // What else is imported, such as the parser of event streams, becomes part of the package.
  external: [...Object.keys(manifest.dependencies), ...Object.keys(manifest.peerDependencies)],
});
