/**
 * Prints what the package is made of, as CycloneDX: itself and what it brings along at run time. `npm run --silent sbom`.
 *
 * npm writes it, of a folder that holds no more than that. Of this one `npm sbom --omit dev` of npm 11 lists nothing, or
 * with the tools of development all of them.
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ROOT } from "./packed.ts";

const { name, version, license, description, homepage, repository, dependencies } = read("package.json");
const lock = read("package-lock.json");
const root = { name, version, license, dependencies };
const packages: Record<string, unknown> = { "": root };
for (const dependency of Object.keys(dependencies)) {
  const path = `node_modules/${dependency}`;
  if (lock.packages[path].dependencies !== undefined) throw new Error(`${dependency} brings others along.`);
  packages[path] = lock.packages[path];
}

const around = mkdtempSync(join(tmpdir(), "keystile-sbom-"));
try {
  const folder = join(around, name); // npm takes the name from the folder
  mkdirSync(folder);
  write(folder, "package.json", { ...root, description, homepage, repository });
  write(folder, "package-lock.json", { name, version, lockfileVersion: 3, requires: true, packages });
  const args = ["sbom", "--sbom-format", "cyclonedx", "--sbom-type", "library", "--package-lock-only"];
  process.stdout.write(execFileSync("npm", args, { cwd: folder }));
} finally {
  rmSync(around, { recursive: true });
}

function read(file: string): ReturnType<typeof JSON.parse> {
  return JSON.parse(readFileSync(join(ROOT, file), "utf8"));
}

function write(folder: string, file: string, content: unknown): void {
  writeFileSync(join(folder, file), JSON.stringify(content));
}
