/**
 * Measures everything side by side: `npm run bench`, or `npm run bench -- core http --rounds 7 --seconds 2` for some
 * parts only. What was measured replaces these parts in `results.json`, and the page and the chart are made anew from it
 * (`npm run bench:render` does that alone).
 */
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import * as core from "./core.ts";
import { measureCost } from "./cost.ts";
import * as flood from "./flood.ts";
import * as http from "./http.ts";
import { render } from "./render.ts";
import { keepResults, measuring } from "./results.ts";
import { measureRounds, type Pace, type Series } from "./rounds.ts";
import { measureScale } from "./scale.ts";
import { places } from "./servers.ts";
import * as stores from "./stores.ts";

/** The parts, and how many rounds of how many seconds they take unless told otherwise. */
const PARTS: Readonly<Record<string, Pace & { run(pace: Pace): Promise<Series[]> }>> = {
  core: { rounds: 7, seconds: 1, run: (pace) => measureRounds(core.entries(), pace) },
  http: { rounds: 5, seconds: 1.5, run: (pace) => measureRounds(http.entries(), pace) },
  flood: { rounds: 5, seconds: 1, run: (pace) => measureRounds(flood.entries(), pace) },
  postgres: { rounds: 5, seconds: 1, run: (pace) => overStore("postgres", pace) },
  redis: { rounds: 5, seconds: 1, run: (pace) => overStore("redis", pace) },
  sqlite: { rounds: 5, seconds: 1, run: (pace) => overStore("sqlite", pace) },
  scale: { rounds: 3, seconds: 0.7, run: (pace) => measureScale(pace) },
  cost: { rounds: 20, seconds: 0, run: async () => measureCost() },
};

const GROUPS: Readonly<Record<string, readonly string[]>> = { stores: ["postgres", "redis", "sqlite"] };

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { rounds: { type: "string" }, seconds: { type: "string" } },
});
const asked = positionals.flatMap((name) => GROUPS[name] ?? [name]);
const unknown = asked.find((name) => !Object.hasOwn(PARTS, name));
if (unknown !== undefined) {
  throw new TypeError(
    `There is no part ${unknown}; there are ${[...Object.keys(PARTS), ...Object.keys(GROUPS)].join(", ")}.`,
  );
}

installPeers();
for (const [name, { run, ...usual }] of Object.entries(PARTS)) {
  if (asked.length > 0 && !asked.includes(name)) continue;
  const pace = {
    rounds: Number(values.rounds ?? usual.rounds),
    seconds: Number(values.seconds ?? usual.seconds),
  };
  const measured = measuring(pace);
  try {
    keepResults({ [name]: measured(await run(pace)) });
  } catch (error) {
    // What was measured before stands, and so do the parts that are still to come.
    console.error(`${name}:`, error);
    process.exitCode = 1;
  }
}
render();

/** The other packages, by the bench's own manifest: they are no dependencies of anything else here. */
function installPeers(): void {
  const folder = join(import.meta.dirname, "peers");
  if (existsSync(join(folder, "node_modules"))) return;
  const line = ["install", "--prefix", folder, "--ignore-scripts", "--no-audit", "--no-fund"];
  execFileSync("npm", line, { stdio: ["ignore", "inherit", "inherit"] });
}

async function overStore(kind: keyof typeof places, pace: Pace): Promise<Series[]> {
  const place = await places[kind]();
  try {
    return await measureRounds(stores.entries(kind, place.address), pace);
  } finally {
    await place.stop();
  }
}
