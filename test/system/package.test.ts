import { spawnSync } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  filesIn,
  importsOf,
  install,
  isSupported,
  pack,
  ROOT,
  reach,
  SUBPATHS,
  systemNode,
} from "../package/packed.js";

/*
 * The package as its users get it: packed, unpacked and imported elsewhere. What passes in the sources can still break
 * here, by a missing file, by a chunk that drags a dependency along, or by types that only this repository resolves.
 */

/** All that each subpath may bring to run time from outside the package. */
const OUTSIDE: Readonly<Record<string, readonly string[]>> = {
  keystile: ["ipaddr.js", "node:crypto", "zod"],
  "keystile/memory": [],
  "keystile/redis": [],
  "keystile/sqlite": ["node:sqlite"], // asked for when a file is opened, and there only
  "keystile/postgres": [],
  "keystile/express": [],
  "keystile/fastify": [],
  "keystile/hono": [],
  "keystile/node": [],
  "keystile/testing": ["ipaddr.js", "node:crypto", "zod"],
};

/** Packages whose types a subpath is made of: of those who ship their own, or they would turn into `any`. */
const OUTSIDE_TYPES: Readonly<Record<string, readonly string[]>> = {
  "keystile/fastify": ["fastify"],
  "keystile/hono": ["hono"],
};

/** What a library must leave to its user: the environment, the network, the process. */
const AMBIENT =
  /\bprocess\b(?!\.getBuiltinModule\b)|(?<!\.|\bfunction |\basync )\bfetch\(|\b(?:WebSocket|XMLHttpRequest|localStorage|Deno|Bun)\b|\beval\(|\bnew Function\b/g;

const DEPENDENCIES = ["ipaddr.js", "zod"];

let tarball: string;
/** With its dependencies and nothing else: no framework, no types of Node. */
let alone: string;
let installed: string;

beforeAll(() => {
  tarball = pack();
  alone = install(tarball, "alone", DEPENDENCIES);
  installed = join(alone, "node_modules/keystile");
});

afterAll(() => rmSync(dirname(tarball), { recursive: true, force: true }));

describe("the tarball", () => {
  it("holds the built files, their maps and declarations, and the papers", () => {
    const allowed =
      /^(?:package\.json|README\.md|CHANGELOG\.md|LICENSE|THIRD_PARTY_LICENSES|dist\/[\w/-]+\.(?:js|js\.map|d\.ts))$/;
    const files = filesIn(installed);
    expect(files.filter((file) => !allowed.test(file))).toEqual([]);
    expect(files).toEqual(expect.arrayContaining(["LICENSE", "README.md", "dist/index.js"]));
    expect(files.filter((file) => /\.test\b|\/test\//.test(file))).toEqual([]);
  });

  it("holds no code that no subpath reaches", () => {
    const built = filesIn(installed).filter((file) => file.endsWith(".js"));
    const reached = new Set(SUBPATHS.flatMap(({ code }) => reach(installed, code).files));
    expect(built.filter((file) => !reached.has(file))).toEqual([]);
  });

  it("runs nothing when it is installed, and brings exactly two dependencies", () => {
    const { scripts, dependencies, optionalDependencies, bundleDependencies } = JSON.parse(
      readFileSync(join(installed, "package.json"), "utf8"),
    );
    const onInstall = [
      "preinstall",
      "install",
      "postinstall",
      "prepublish",
      "preprepare",
      "prepare",
      "postprepare",
    ];
    expect(onInstall.filter((name) => name in scripts)).toEqual([]);
    expect(Object.keys(dependencies)).toEqual(DEPENDENCIES);
    expect([optionalDependencies, bundleDependencies]).toEqual([undefined, undefined]);
  });
});

describe("a subpath", () => {
  it.each(SUBPATHS)("$name brings along only what is listed", ({ name, code, types }) => {
    expect(reach(installed, code).outside).toEqual(OUTSIDE[name]);
    expect(reach(installed, types).outside).toEqual(OUTSIDE_TYPES[name] ?? []);
  });

  it("loads no zod and no management of keys before somebody manages them", () => {
    const { files, outside } = reach(installed, "dist/index.js", { atOnce: true });
    expect(outside).toEqual(["ipaddr.js", "node:crypto"]);
    const later = reach(installed, "dist/index.js").files.filter((file) => !files.includes(file));
    const parts = later.map((file) => file.replace(/^dist\/|-\w{8}\.js$/g, ""));
    expect(parts).toEqual(expect.arrayContaining(["leases", "management", "standing"]));
  });

  it.each(SUBPATHS)("$name leaves the environment and the network alone", ({ code }) => {
    for (const file of reach(installed, code).files) {
      expect({ file, found: ambientIn(readFileSync(join(installed, file), "utf8")) }).toEqual({
        file,
        found: [],
      });
    }
  });

  it("has a size it may have, and a report of its types", () => {
    const budgets = JSON.parse(readFileSync(join(ROOT, ".size-limit.json"), "utf8")) as { path: string }[];
    expect([...new Set(budgets.map(({ path }) => `./${path}`))].toSorted()).toEqual(
      SUBPATHS.map(({ code }) => code).toSorted(),
    );
    const reports = SUBPATHS.map(({ name }) => `${name.split("/")[1] ?? "index"}.api.md`);
    const committed = filesIn(join(ROOT, "etc")).filter((file) => file.endsWith(".api.md"));
    expect(committed.toSorted()).toEqual(reports.toSorted());
  });

  it("is searched by a search that finds things", () => {
    const code =
      'import a from "a";\nexport {\n  b\n} from "b";\nimport "c";\nawait import("d");\nrequire("e");';
    expect(importsOf(code)).toEqual(["a", "b", "c", "d", "e"]);
    expect(ambientIn('fetch("x"); process.env.A; // process')).toHaveLength(2);
    expect(ambientIn('store.fetch("x"); async fetch(id) {')).toEqual([]);
  });
});

describe.each([
  { which: "the tools", node: { path: process.execPath, version: process.versions.node } },
  { which: "this machine", node: systemNode() },
])("on the Node of $which", ({ node }) => {
  it("is the same by import and by require, warns of nothing, works, and lets the process end", (context) => {
    if (node === undefined || !isSupported(node.version)) {
      const why =
        node === undefined ? "No Node on PATH but the tools' own." : `Node ${node.version} is too old.`;
      if (process.env["KEYSTILE_TEST_REQUIRE_ALL"] === "1") throw new Error(why);
      console.log(`Skipped: ${why}`);
      return context.skip(why);
    }
    const imported = run(node.path, "import.mjs", `const load = (name) => import(name);\n${USE}`);
    const required = run(node.path, "require.cjs", `const load = (name) => require(name);\n${USE}`);
    expect(imported).toMatchObject({ touched: [], isAllowed: true, isOneClass: true });
    expect(required).toEqual(imported);
    expect(Object.values(imported.names).every((names) => names.length > 0)).toBe(true);
  });
});

/** Loads everything under watch, then lets one request pass; `load` is `import` or `require`. */
const USE = `
const names = ${JSON.stringify(SUBPATHS.map(({ name }) => name))};
const touched = [];
const spied = ["fetch", "setTimeout", "setInterval", "queueMicrotask"].map((name) => {
  const original = globalThis[name];
  globalThis[name] = () => void touched.push(name);
  return () => { globalThis[name] = original; };
});
(async () => {
  const found = {};
  for (const name of names) found[name] = Object.keys(await load(name)).sort();
  for (const restore of spied) restore();

  const { createKeystile, KeystileError } = await load("keystile");
  const { memoryStore } = await load("keystile/memory");
  const gate = createKeystile({ store: memoryStore() });
  const { secret } = await gate.keys.issue();
  const decision = await gate.authorize({ headers: { authorization: "Bearer " + secret } });
  if (decision.allowed) await decision.void();
  await gate.close();
  const isOneClass = KeystileError === (await import("keystile")).KeystileError;
  console.log(JSON.stringify({ names: found, touched, isAllowed: decision.allowed, isOneClass }));
})();
`;

interface Printed {
  readonly names: Readonly<Record<string, readonly string[]>>;
  readonly touched: readonly string[];
  readonly isAllowed: boolean;
  readonly isOneClass: boolean;
}

function run(node: string, file: string, program: string): Printed {
  writeFileSync(join(alone, file), program);
  // An empty environment: nothing silences warnings there.
  const { stdout, stderr, status } = spawnSync(node, [file], {
    cwd: alone,
    env: {},
    encoding: "utf8",
    timeout: 60_000,
  });
  expect({ stderr, status }).toEqual({ stderr: "", status: 0 });
  return JSON.parse(stdout);
}

describe("a TypeScript user", () => {
  const NODE = { module: "nodenext" };
  const BUNDLER = { module: "esnext", moduleResolution: "bundler" };
  /** What a program of Hono or Fastify has as well; both ship their types. */
  const FRAMEWORKS = ["hono", "fastify", "@types/node"];
  let together: string;

  beforeAll(() => {
    together = install(tarball, "with-frameworks", [...DEPENDENCIES, ...FRAMEWORKS]);
  });

  it.each([
    { who: "of ES modules", file: "user.mts", options: NODE },
    { who: "of CommonJS", file: "user.cts", options: NODE },
    { who: "of a bundler", file: "user.ts", options: BUNDLER },
  ])("$who compiles, with every declaration checked", ({ file, options }) => {
    const plain = SUBPATHS.filter(({ name }) => !(name in OUTSIDE_TYPES)).map(({ name }) => name);
    expect(compile(alone, file, plain, { ...options, types: [], skipLibCheck: false })).toBe("");

    const all = SUBPATHS.map(({ name }) => name);
    expect(compile(together, file, all, { ...options, types: ["node"], skipLibCheck: false })).toBe("");
  });

  it("is told of a mistake", () => {
    writeFileSync(
      join(alone, "mistake.mts"),
      'import { createKeystile } from "keystile";\ncreateKeystile({});\n',
    );
    expect(tsc(alone, "mistake.mts", { ...NODE, types: [] })).toContain("Property 'store' is missing");
  });

  /** The errors of a program that uses every given subpath and notices when a type has become `any`. */
  function compile(where: string, file: string, names: readonly string[], options: object): string {
    const subpaths = names.map(
      (name, index) => `
import * as subpath${index} from "${name}";
export const precise${index}: [Vague<typeof subpath${index}>] extends [never] ? true : Vague<typeof subpath${index}> = true;`,
    );
    const program = `
import { createKeystile, type Decision, type Keystile } from "keystile";
import { memoryStore } from "keystile/memory";
${subpaths.join("")}

type IsAny<T> = 0 extends 1 & T ? true : false;
type Vague<M> = {
  [K in keyof M]: IsAny<M[K]> extends true ? K
    : M[K] extends (...args: infer A) => infer R ? (true extends IsAny<A[number]> | IsAny<R> ? K : never) : never;
}[keyof M];

const gate: Keystile = createKeystile({ store: memoryStore() });
export const decision: Promise<Decision> = gate.authorize({ headers: { authorization: "Bearer" }, cost: 1 });
// @ts-expect-error A decision is not a number.
export const wrong: number = gate.authorize({ headers: {} });
`;
    writeFileSync(join(where, file), program);
    return tsc(where, file, options);
  }
});

function tsc(where: string, file: string, options: object): string {
  const compilerOptions = {
    strict: true,
    noEmit: true,
    target: "es2022",
    lib: ["es2023", "dom"],
    ...options,
  };
  writeFileSync(join(where, "tsconfig.json"), JSON.stringify({ compilerOptions, files: [file] }));
  const compiler = join(ROOT, "node_modules/typescript/bin/tsc");
  return spawnSync(process.execPath, [compiler, "-p", where], { encoding: "utf8" }).stdout;
}

function ambientIn(text: string): readonly string[] {
  const code = text.replaceAll(/^\s*\/\/.*$|\s\/\/\s.*$|\/\*[\s\S]*?\*\//gm, "");
  return [...code.matchAll(AMBIENT)].map(([found]) => found);
}
