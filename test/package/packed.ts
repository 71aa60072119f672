/**
 * The package as `npm install` would lay it into a folder: from a real `npm pack`, with nothing of this repository
 * around it. Dependencies and guests are links to the installed ones, so that no registry is needed.
 */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import manifest from "../../package.json" with { type: "json" };

export const ROOT = join(import.meta.dirname, "../..");

/** Each subpath as a user writes it, and its files in the package. */
export const SUBPATHS = Object.entries(manifest.exports).flatMap(([path, target]) =>
  typeof target === "string"
    ? []
    : [{ name: path.replace(/^\./, "keystile"), code: target.default, types: target.types }],
);

/** Packs what was built; the file is in a new folder of its own. Scripts could build anew under other tests. */
export function pack(): string {
  const folder = mkdtempSync(join(tmpdir(), "keystile-package-"));
  npm(["pack", "--ignore-scripts", "--pack-destination", folder]);
  const [tarball] = readdirSync(folder);
  if (tarball === undefined) throw new Error("npm pack wrote nothing.");
  return join(folder, tarball);
}

/** A folder beside the tarball in which the package and the named others are installed. */
export function install(tarball: string, name: string, others: readonly string[]): string {
  const folder = join(dirname(tarball), name);
  const modules = join(folder, "node_modules");
  mkdirSync(join(modules, "keystile"), { recursive: true });
  execFileSync("tar", ["-xzf", tarball, "-C", join(modules, "keystile"), "--strip-components=1"]);
  for (const other of others) {
    mkdirSync(dirname(join(modules, other)), { recursive: true });
    symlinkSync(join(ROOT, "node_modules", other), join(modules, other), "junction");
  }
  return folder;
}

/** Every file under a folder, by its path from there with `/`. */
export function filesIn(folder: string): readonly string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
    .map((path) => path.replaceAll("\\", "/"));
}

/**
 * What a built file reaches: the files of the package that it imports, directly or not, and what they import from
 * outside. Works on declarations, too. `atOnce` leaves out what is imported only when it is needed.
 */
export function reach(
  folder: string,
  start: string,
  { atOnce = false }: { readonly atOnce?: boolean } = {},
): { files: readonly string[]; outside: readonly string[] } {
  const files = new Set<string>();
  const outside = new Set<string>();
  const follow = (file: string): void => {
    if (files.has(file)) return;
    files.add(file);
    for (const specifier of importsOf(readFileSync(join(folder, file), "utf8"), atOnce)) {
      if (!specifier.startsWith(".")) outside.add(specifier);
      else {
        const target = join(dirname(file), specifier);
        follow(file.endsWith(".d.ts") ? target.replace(/\.js$/, ".d.ts") : target);
      }
    }
  };
  follow(join(start));
  return { files: [...files].toSorted(), outside: [...outside].toSorted() };
}

const CALLED = /\b(?:import|require|getBuiltinModule)\s*(?:\?\.)?\(\s*["'`]([^"'`]+)["'`]/g;

const IMPORTS = [
  /^(?:import|export)\b[^;"']*?\bfrom\s*["']([^"']+)["']/gm,
  /^import\s*["']([^"']+)["']/gm,
  CALLED,
  /^declare module\s+["']([^"']+)["']/gm,
];

export function importsOf(text: string, atOnce = false): readonly string[] {
  const code = text.replaceAll(/\/\*[\s\S]*?\*\//g, "");
  const patterns = atOnce ? IMPORTS.filter((pattern) => pattern !== CALLED) : IMPORTS;
  return patterns.flatMap((pattern) => [...code.matchAll(pattern)].map(([, specifier = ""]) => specifier));
}

export interface InstalledNode {
  readonly path: string;
  readonly version: string;
}

/**
 * The Node that a user of this machine has: the first on PATH that is not a package. The tests themselves run on the
 * one in `node_modules`.
 */
export function systemNode(): InstalledNode | undefined {
  const folders = (process.env["PATH"] ?? "")
    .split(delimiter)
    .filter((path) => !path.includes("node_modules"));
  const name = process.platform === "win32" ? "node.exe" : "node";
  const path = folders.map((folder) => join(folder, name)).find((file) => existsSync(file));
  if (path === undefined) return undefined;
  return { path, version: execFileSync(path, ["-p", "process.versions.node"], { encoding: "utf8" }).trim() };
}

/** Whether the package says of itself that it runs on this Node. */
export function isSupported(version: string): boolean {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  const [, least = "", leastMinor = ""] = /^>=(\d+)\.(\d+)/.exec(manifest.engines.node) ?? [];
  return major > Number(least) || (major === Number(least) && minor >= Number(leastMinor));
}

function npm(args: readonly string[]): void {
  execFileSync("npm", args, { cwd: ROOT, stdio: "pipe", shell: process.platform === "win32" });
}
