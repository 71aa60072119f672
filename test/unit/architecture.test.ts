import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { describe, expect, it } from "vitest";

const SOURCE = join(import.meta.dirname, "../../src");

/** The files by layer, a file importing from its own layer or a lower one; `index` is a layer above all. */
const LAYERS = layersOf(readFileSync(join(import.meta.dirname, "../../docs/architecture.md"), "utf8"));

/** What an edge may import at run time. Types may come from anywhere: they leave nothing behind. */
const EDGES: Readonly<Record<string, (target: string) => boolean>> = {
  stores: (target) => layerOf(target) === 0 || PARTS_OF_STORES.test(target),
  adapters: (target) =>
    layerOf(target) === 0 ||
    ["http", "forwarding", "body", "strict-json", "guard", "exchange"].includes(target),
  testing: (target) => layerOf(target) < 2 || target.startsWith("testing/"),
};

/** The files among the stores that are none: no store imports another. */
const PARTS_OF_STORES = /^stores\/(?:sql|json-text|(?:sqlite|postgres|redis)-[a-z]+)$/;

/** The only files that may import something from outside, and what. */
const PACKAGES: Readonly<Record<string, readonly string[]>> = {
  address: ["ipaddr.js"],
  "policy-input": ["zod"],
  "input-shapes": ["zod"],
  "account-input": ["zod"],
  "input-parsing": ["zod"],
  "usage-reports": ["zod"],
  "event-stream": ["eventsource-parser"],
  secret: ["node:crypto"],
};

describe("the import table", () => {
  it("is read from docs/architecture.md as it is meant", () => {
    expect(LAYERS.map((files) => files.length > 0)).toEqual([true, true, true, true]);
    expect([layerOf("errors"), layerOf("http"), layerOf("guard"), layerOf("index")]).toEqual([0, 1, 2, 3]);
    expect(
      layersOf("| 0 words | errors store | x |\n| 3 edges | stores/* | x |\n| surface | index | x |"),
    ).toEqual([["errors", "store"], ["index"]]);
  });

  it.each(sourceFiles())("%s imports only what its layer may", (file) => {
    for (const { target, typeOnly } of importsOf(file)) {
      expect({ file, target, allowed: isAllowed(file, target, typeOnly) }).toEqual({
        file,
        target,
        allowed: true,
      });
    }
  });

  it("names every file of the layers, and no other", () => {
    const core = sourceFiles().filter((file) => !file.includes("/"));
    expect(core.toSorted()).toEqual(LAYERS.flat().toSorted());
  });

  it("knows no file beyond 400 lines", () => {
    const long = sourceFiles().filter((file) => text(file).split("\n").length > 400);
    expect(long).toEqual([]);
  });

  it("finds an import that is not allowed", () => {
    expect(isAllowed("errors", "decide", false)).toBe(false);
    expect(isAllowed("stores/memory", "decide", false)).toBe(false);
    expect(isAllowed("stores/memory", "adapters/hono", true)).toBe(false);
    expect(isAllowed("policy", "zod", false)).toBe(false);
    expect(isAllowed("keystile", "index", false)).toBe(false);
  });
});

function isAllowed(file: string, target: string, typeOnly: boolean): boolean {
  if (PACKAGES[file]?.includes(target)) return true;
  const edge = file.split("/")[0] as string;
  const targetEdge = target.split("/")[0] as string;
  const rule = EDGES[edge];
  if (target in EDGES || (targetEdge in EDGES && targetEdge !== edge)) return false;
  if (rule !== undefined) {
    if (typeOnly && targetEdge !== edge) return true;
    return rule(target);
  }
  if (target === "index") return false;
  return layerOf(target) <= layerOf(file) && (layerOf(target) < 4 || typeOnly);
}

/** The rows of the table but for the edges, whose rules are above. */
function layersOf(document: string): readonly (readonly string[])[] {
  const rows = document.matchAll(/^\| (?:\d [^|]+|surface) \| ([^|]+) \|/gm);
  return [...rows].map(([, files = ""]) => files.split(" ")).filter(([first]) => !first?.endsWith("/*"));
}

function layerOf(file: string): number {
  const layer = LAYERS.findIndex((files) => files.includes(file));
  return layer === -1 ? LAYERS.length : layer;
}

function importsOf(file: string): readonly { readonly target: string; readonly typeOnly: boolean }[] {
  const found = text(file).matchAll(/^(?:import|export)\s+(type\s)?[^;]*?from\s+"([^"]+)";/gm);
  return [...found].map(([, type, specifier = ""]) => {
    const local = specifier.startsWith(".");
    const target = local
      ? relative(SOURCE, join(SOURCE, dirname(`${file}.ts`), specifier)).replace(/\.js$/, "")
      : specifier;
    return { target, typeOnly: type !== undefined };
  });
}

function sourceFiles(): readonly string[] {
  return readdirSync(SOURCE, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts"))
    .map((name) => name.replaceAll("\\", "/").replace(/\.ts$/, ""));
}

function text(file: string): string {
  return readFileSync(join(SOURCE, `${file}.ts`), "utf8");
}
