import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import manifest from "../../package.json" with { type: "json" };
import { REFUSALS } from "../../src/refusal.js";

const ROOT = join(import.meta.dirname, "../..");
const README = readFileSync(join(ROOT, "README.md"), "utf8");

it("prints, in its first screen, what its first program prints", () => {
  const [program, output] = [codeBlock("js"), codeBlock("text")];
  // Inside the repository, so that the package finds itself by name.
  const folder = join(ROOT, "temp/readme");
  mkdirSync(folder, { recursive: true });
  const file = join(folder, "quickstart.mjs");
  writeFileSync(file, program);
  try {
    expect(execFileSync(process.execPath, [file], { encoding: "utf8" })).toBe(output);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

/** What a fragment uses without saying where it is from. A block that has one of its own shadows it. */
const PRELUDE = `
import type { Keystile } from "keystile";
declare global {
  const gate: Keystile;
}
`;

it("shows TypeScript that compiles against the built package", () => {
  const blocks = [...README.matchAll(/```ts\n([\s\S]*?)```/g)].map(([, code = ""]) => code);
  expect(blocks.length).toBeGreaterThan(1);
  const folder = join(ROOT, "temp/readme-types");
  mkdirSync(folder, { recursive: true });
  try {
    writeFileSync(join(folder, "prelude.d.ts"), PRELUDE);
    for (const [at, code] of blocks.entries()) writeFileSync(join(folder, `block-${at}.ts`), code);
    // Beside them one that is wrong, so that a compiler that looks at nothing is noticed.
    writeFileSync(join(folder, "mistake.ts"), "await gate.keys.issue({ quotas: 1 });");
    const options = { module: "nodenext", moduleDetection: "force", target: "es2022", types: ["node"] };
    const compilerOptions = { ...options, strict: true, noEmit: true, skipLibCheck: true };
    writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions, include: ["*.ts"] }));
    const compiler = join(ROOT, "node_modules/typescript/bin/tsc");
    const { stdout } = spawnSync(process.execPath, [compiler, "-p", "."], { cwd: folder, encoding: "utf8" });
    const errors = stdout.split("\n").filter((line) => /^\S+\(|error TS/.test(line));
    expect(errors).toEqual([expect.stringMatching(/^mistake\.ts\(.*'quotas'/)]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

it("names every subpath the package exports, and no other", () => {
  const exported = Object.keys(manifest.exports)
    .filter((path) => path !== "./package.json")
    .map((path) => path.replace(/^\./, "keystile"));
  const named = [...README.matchAll(/^\| `(keystile[^`]*)` \|/gm)].map(([, path]) => path);
  expect(named.toSorted()).toEqual(exported.toSorted());
});

it("lists refusals that exist, in the order in which they are checked", () => {
  const listed = [...README.matchAll(/^\| (40[123]|429) \| `(\w+)` \|/gm)].map(
    ([, status, code]) => `${status} ${code}`,
  );
  const inOrder = Object.values(REFUSALS).map(([status, , code]) => `${status} ${code}`);
  const places = listed.map((answer) => inOrder.lastIndexOf(answer));
  expect(places).not.toContain(-1);
  expect(places).toEqual(places.toSorted((a, b) => a - b));
  expect(listed.length).toBeGreaterThan(5);
});

it("tells a newcomer exactly the two commands that CI runs", () => {
  const commands = [...README.matchAll(/```sh\n(npm install && npm [^\n]+)\n```/g)].map(([, line]) => line);
  expect(commands).toEqual(["npm install && npm start", "npm install && npm test"]);
  expect(readFileSync(join(ROOT, ".ci/run"), "utf8")).toMatch(/^npm install .*\n(?:.*\n)*npm test$/m);
});

function codeBlock(language: string): string {
  const block = README.match(new RegExp(`\`\`\`${language}\\n([\\s\\S]*?)\`\`\``))?.[1];
  if (block === undefined) throw new Error(`The README has no ${language} block.`);
  return block;
}
