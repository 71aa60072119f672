import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import manifest from "../../package.json" with { type: "json" };
import { filesIn, install, pack, ROOT, SUBPATHS } from "../package/packed.js";

/* What the package may do where it runs, what it is made of, and that everyone who builds it gets the same bytes. */

/** What the built files contain of others: the packages of THIRD_PARTY_LICENSES. */
const BUNDLED = ["eventsource-parser"];

let tarball: string;
let folder: string;

beforeAll(() => {
  tarball = pack();
  folder = install(tarball, "alone", Object.keys(manifest.dependencies));
});

afterAll(() => rmSync(dirname(tarball), { recursive: true, force: true }));

describe("a process that may read the package, and nothing else", () => {
  const FORBIDDEN = ["fs.write", "child", "worker", "wasi", "addons"];

  it("imports every subpath, issues a key, admits, refuses, settles and guards", () => {
    expect(run(USE)).toEqual({
      permitted: [],
      touched: [],
      statuses: [200, 401, 402],
      used: 2,
    });
  });

  it("would notice", () => {
    const { touched } = run(`${WATCH}\nvoid process.env.HOME; fetch("x").catch(() => {});
      try { new Function("return 1")(); } catch { touched.push("no code out of text"); }
      try { (await import("node:fs")).writeFileSync("x", ""); } catch { touched.push("no writing"); }
      ${PRINT}`);
    expect(touched).toEqual(["env", "fetch", "no code out of text", "no writing"]);
  });

  /** Nothing may be written, started or made out of text, and no network be used where Node can forbid that. */
  function run(program: string): {
    readonly permitted: readonly string[];
    readonly touched: readonly string[];
    readonly statuses?: readonly number[];
    readonly used?: number;
  } {
    writeFileSync(join(folder, "confined.mjs"), program);
    const confined = ["--permission", "--disallow-code-generation-from-strings", "--disable-proto=throw"];
    const readable = [folder, join(ROOT, "node_modules")].map((path) => `--allow-fs-read=${path}`);
    const args = [...confined, ...readable, "--no-warnings", "confined.mjs"];
    const { stdout, stderr, status } = spawnSync(process.execPath, args, {
      cwd: folder,
      env: {},
      encoding: "utf8",
    });
    expect({ stderr, status }).toEqual({ stderr: "", status: 0 });
    return JSON.parse(stdout);
  }

  const WATCH = `
const touched = [];
const env = process.env;
Object.defineProperty(process, "env", {
  get() {
    // Node's own loader looks there for every module.
    const [, , caller = ""] = new Error().stack.split("\\n");
    if (!caller.includes("node:internal")) touched.push("env");
    return env;
  },
});
for (const name of ["fetch", "WebSocket", "XMLHttpRequest", "EventSource"]) {
  globalThis[name] = async () => void touched.push(name);
}`;
  const PRINT = `
const permitted = ${JSON.stringify(FORBIDDEN)}.filter((scope) => process.permission.has(scope));
console.log(JSON.stringify({ permitted, touched, statuses: globalThis.statuses, used: globalThis.used }));`;
  const USE = `${WATCH}
for (const name of ${JSON.stringify(SUBPATHS.map(({ name }) => name))}) {
  if (name !== "keystile/fastify" && name !== "keystile/hono" && name !== "keystile/express") await import(name);
}
const { createKeystile } = await import("keystile");
const { memoryStore } = await import("keystile/memory");
const gate = createKeystile({ store: memoryStore(), trustedProxies: ["10.0.0.0/8"] });
const { secret, key } = await gate.keys.issue({ quota: 3, allowedIps: ["2001:db8::/32"] });
const ask = (secret, cost) =>
  gate.authorize({ headers: { authorization: "Bearer " + secret }, address: "2001:db8::1", cost });
const allowed = await ask(secret, 3);
await allowed.settle(2);
const refused = [await ask("sk-nobody", 1), await ask(secret, 2)];
globalThis.statuses = [allowed.allowed ? 200 : 0, ...refused.map(({ refusal }) => refusal.status)];
globalThis.used = (await gate.keys.get(key.id)).quota.used;
await gate.close();
${PRINT}`;
});

describe("the tarball", () => {
  /** What is built from; `.git`, tests and whatever lies around are not. */
  const INGREDIENTS = ["src", "package.json", "package-lock.json", "tsup.config.ts", "tsconfig.json"].concat([
    "tsconfig.build.json",
    "README.md",
    "LICENSE",
    "THIRD_PARTY_LICENSES",
  ]);

  it("is the same, byte for byte, wherever and whenever it is built", () => {
    const one = build("one", { TZ: "UTC", LANG: "C", SOURCE_DATE_EPOCH: "" }, 1_000_000_000);
    const other = build("a/much/deeper/place", { TZ: "Asia/Tokyo", LANG: "tr_TR.UTF-8" }, 1_700_000_000);
    expect(other.files).toEqual(one.files);
    expect(other.digest).toBe(one.digest);
  });

  function build(
    place: string,
    env: NodeJS.ProcessEnv,
    madeAt: number,
  ): { readonly digest: string; readonly files: Readonly<Record<string, string>> } {
    const around = mkdtempSync(join(tmpdir(), "keystile-build-"));
    try {
      const where = join(around, place);
      mkdirSync(where, { recursive: true });
      for (const name of INGREDIENTS) cpSync(join(ROOT, name), join(where, name), { recursive: true });
      for (const file of filesIn(where)) utimesSync(join(where, file), madeAt, madeAt);
      linkTools(join(where, "node_modules"));
      const npm = { cwd: where, env: { ...process.env, ...env }, stdio: "pipe" } as const;
      execFileSync("npm", ["run", "--silent", "build"], npm);
      execFileSync("npm", ["pack", "--silent", "--ignore-scripts", "--pack-destination", around], npm);
      const packed = readdirSync(around).find((name) => name.endsWith(".tgz")) ?? "";
      const built = filesIn(join(where, "dist")).map((file) => [file, digestOf(join(where, "dist", file))]);
      return { digest: digestOf(join(around, packed)), files: Object.fromEntries(built) };
    } finally {
      rmSync(around, { recursive: true, force: true });
    }
  }
});

it("the bill of materials lists the package and the two that it brings along, with their digests", () => {
  const sbom = JSON.parse(execFileSync("npm", ["run", "--silent", "sbom"], { cwd: ROOT, encoding: "utf8" }));
  const { packages } = JSON.parse(readFileSync(join(ROOT, "package-lock.json"), "utf8"));
  expect(sbom).toMatchObject({ bomFormat: "CycloneDX", metadata: { component: { name: manifest.name } } });
  expect(sbom.metadata.component.purl).toBe(`pkg:npm/${manifest.name}@${manifest.version}`);
  expect(sbom.components.map(({ purl }: { purl: string }) => purl)).toEqual(
    Object.keys(manifest.dependencies).map(
      (name) => `pkg:npm/${name}@${packages[`node_modules/${name}`].version}`,
    ),
  );
  for (const { name, hashes, licenses } of sbom.components) {
    const { integrity } = packages[`node_modules/${name}`];
    const [{ alg, content }] = hashes;
    expect([alg, Buffer.from(content, "hex").toString("base64")]).toEqual(["SHA-512", integrity.slice(7)]);
    expect(licenses).toEqual([{ license: { id: "MIT" } }]);
  }
});

/** The tools, without copying them all; but what is bundled has to be inside, as it is after `npm ci`. */
function linkTools(modules: string): void {
  mkdirSync(modules);
  for (const name of readdirSync(join(ROOT, "node_modules"))) {
    const [from, to] = [join(ROOT, "node_modules", name), join(modules, name)];
    if (BUNDLED.includes(name)) cpSync(from, to, { recursive: true });
    else symlinkSync(from, to, "junction");
  }
}

function digestOf(file: string): string {
  return createHash("sha256").update(readFileSync(file)).digest("hex");
}
