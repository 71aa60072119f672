/**
 * The packed package on every runtime it says it runs on: the same cases on each, in a folder with the package, its
 * two dependencies and the frameworks, and nothing of this repository. What a runtime cannot do is listed here with the
 * reason, is printed, and has to be true: a case that is expected to fail and passes is a failure, too.
 *
 * `npm run check:runtimes` after a build. The runtimes are npm packages of their own manifest, for Linux on x64.
 */
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, existsSync, readFileSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { install, pack } from "../package/packed.ts";
import manifest from "./package.json" with { type: "json" };

interface RuntimeUnderTest {
  readonly name: string;
  readonly binary: string;
  readonly version: readonly string[];
  readonly run: readonly string[];
  /** Beginnings of the names of cases that cannot pass there, and why. */
  readonly gaps?: Readonly<Record<string, string>>;
}

interface Outcome {
  readonly name: string;
  readonly error?: string;
}

interface Result {
  readonly runtime: RuntimeUnderTest;
  readonly outcomes: readonly Outcome[];
  readonly problem: string | undefined;
  readonly seconds: string;
}

const HERE = import.meta.dirname;
const GUESTS = ["zod", "ipaddr.js", "express", "fastify", "hono", "@hono/node-server"];
const TIMEOUT_MS = 60_000;
const NO_WORKER = { "worker:": "only where the platform calls" };

const RUNTIMES: readonly RuntimeUnderTest[] = [
  { ...node("node20"), gaps: { ...NO_WORKER, "sqlite:": "node:sqlite came with Node 22" } },
  node("node22"),
  node("node24"),
  node("node26"),
  {
    name: "Bun",
    binary: "bun/bin/bun",
    version: ["--version"],
    run: ["--no-install", "suite/main.mjs"],
    gaps: NO_WORKER,
  },
  {
    name: "Deno",
    binary: "deno/deno",
    version: ["--version"],
    run: ["run", "--allow-all", "--no-remote", "--no-check", "--node-modules-dir=manual", "suite/main.mjs"],
    gaps: NO_WORKER,
  },
  {
    name: "workerd",
    binary: "workerd/bin/workerd",
    version: ["--version"],
    run: ["test", "suite/workerd.capnp"],
    gaps: {
      "servers:": "a Worker is called by the platform; Express, Fastify and node:http want a server",
      "require:": "a Worker is one bundle",
      "sqlite:": "no node:sqlite",
      "the process": "a Worker has none",
    },
  },
];

if (process.platform !== "linux" || process.arch !== "x64") {
  throw new Error("The runtimes of test/runtimes/package.json are built for Linux on x64.");
}
await main();

async function main(): Promise<void> {
  bringRuntimes();
  const tarball = pack();
  try {
    const folder = install(tarball, "runtimes", GUESTS);
    cpSync(join(HERE, "suite"), join(folder, "suite"), { recursive: true });
    bundleWorker(folder);
    const results: Result[] = [];
    for (const runtime of RUNTIMES) results.push(await run(runtime, folder));
    const everything = [...new Set(results.flatMap(({ outcomes }) => outcomes.map(({ name }) => name)))];
    const isSound = results.map((result) => tell(result, everything)).every(Boolean);
    if (!isSound) process.exitCode = 1;
  } finally {
    rmSync(dirname(tarball), { recursive: true, force: true });
  }
}

/** Installs what the manifest names, unless it is there already. */
function bringRuntimes(): void {
  const { packages } = JSON.parse(readFileSync(join(HERE, "package-lock.json"), "utf8"));
  const isThere = Object.keys(manifest.dependencies).every((name) => {
    const file = join(HERE, "node_modules", name, "package.json");
    const wanted = packages[`node_modules/${name}`].version;
    // Some versions of Node's own packages begin with a v.
    return existsSync(file) && JSON.parse(readFileSync(file, "utf8")).version.replace(/^v/, "") === wanted;
  });
  if (isThere) return;
  const startMs = performance.now();
  execFileSync("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"], { cwd: HERE, stdio: "inherit" });
  console.log(`The runtimes were installed in ${secondsSince(startMs)} s.`);
}

/** As the tools of Workers do it: one file, with the conditions of the platform and what it has of Node left out. */
function bundleWorker(folder: string): void {
  const out = "--outfile=suite/worker.bundle.js";
  const conditions = "--conditions=workerd,worker,browser";
  const args = ["suite/worker.mjs", "--bundle", "--format=esm", conditions, "--external:node:*", out];
  execFileSync(binaryOf("esbuild/bin/esbuild"), [...args, "--log-level=warning"], {
    cwd: folder,
    stdio: "inherit",
  });
}

/** One process, which prints an outcome a line and has to end by itself. */
async function run(runtime: RuntimeUnderTest, folder: string): Promise<Result> {
  const startMs = performance.now();
  const child = spawn(binaryOf(runtime.binary), runtime.run, { cwd: folder, env: {}, stdio: "pipe" });
  let printed = "";
  child.stdout.on("data", (chunk) => {
    printed += chunk;
  });
  let complained = "";
  child.stderr.on("data", (chunk) => {
    complained += chunk;
  });
  const timer = setTimeout(() => child.kill("SIGKILL"), TIMEOUT_MS);
  const [code, signal] = await once(child, "close");
  clearTimeout(timer);
  const outcomes = printed
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line): Outcome => JSON.parse(line));
  const end = signal === null ? `ended with ${code}` : `did not end within ${TIMEOUT_MS / 1000} s`;
  const problem = code === 0 ? undefined : `It ${end}: ${complained.slice(-2_000)}`;
  return { runtime, outcomes, problem, seconds: secondsSince(startMs) };
}

/** Prints how a runtime did; whether it did as it should. */
function tell({ runtime, outcomes, problem, seconds }: Result, everything: readonly string[]): boolean {
  const passed = outcomes.filter(({ error }) => error === undefined).length;
  const version = execFileSync(binaryOf(runtime.binary), runtime.version, { encoding: "utf8" });
  console.log(
    `${runtime.name}: ${passed} of ${everything.length} cases in ${seconds} s (${version.split("\n")[0]})`,
  );
  for (const [start, why] of Object.entries(runtime.gaps ?? {})) console.log(`  without "${start}": ${why}`);

  const isGap = (name: string): boolean =>
    Object.keys(runtime.gaps ?? {}).some((start) => name.startsWith(start));
  const complaints = everything.flatMap((name) => {
    const outcome = outcomes.find((candidate) => candidate.name === name);
    const isPassed = outcome !== undefined && outcome.error === undefined;
    if (isGap(name)) return isPassed ? [`${name}: passes, but is listed as a gap`] : [];
    return isPassed ? [] : [`${name}: ${outcome?.error ?? "was not run"}`];
  });
  if (problem !== undefined) complaints.unshift(problem);
  for (const complaint of complaints) console.error(`  WRONG: ${complaint}`);
  return complaints.length === 0;
}

function node(name: string): RuntimeUnderTest {
  return {
    name: `Node ${name.slice(4)}`,
    binary: `${name}/bin/node`,
    version: ["--version"],
    run: ["suite/main.mjs"],
    gaps: NO_WORKER,
  };
}

function binaryOf(path: string): string {
  return join(HERE, "node_modules", path);
}

function secondsSince(startMs: number): string {
  return ((performance.now() - startMs) / 1000).toFixed(1);
}
