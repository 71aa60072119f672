/** What the package costs before it has done anything: the time of its first import, and its size. */
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import type { Series } from "./rounds.ts";

const ROOT = join(import.meta.dirname, "..");
const STARTS = 20;

export function measureCost(): Series[] {
  const bare: number[] = [];
  const whole: number[] = [];
  const importOnly: number[] = [];
  for (let n = 0; n <= STARTS; n++) {
    const [bareMs] = start("console.log(0)");
    const [wholeMs, importMs] = start(
      `const t = performance.now(); await import(${JSON.stringify(url())}); console.log(performance.now() - t)`,
    );
    if (n === 0) continue; // The files were not yet in the memory of the system.
    bare.push(bareMs);
    whole.push(wholeMs);
    importOnly.push(importMs);
  }
  return [
    figuresOf("import", "bare node", { ms: bare }),
    figuresOf("import", "keystile", { ms: whole, importMs: importOnly }),
    figuresOf("size", "keystile", { bytes: [brotliBytes()] }),
  ];
}

function url(): string {
  return pathToFileURL(join(ROOT, "dist/index.js")).href;
}

/** How long a process takes from its start to its end, and what it prints. */
function start(program: string): [totalMs: number, printed: number] {
  const startedAtMs = performance.now();
  const printed = execFileSync(process.execPath, ["--input-type=module", "-e", program], {
    encoding: "utf8",
  });
  return [performance.now() - startedAtMs, Number(printed)];
}

/** As `check:size` weighs what is loaded to decide a request: bundled, minified, compressed, without zod and ipaddr.js. */
function brotliBytes(): number {
  const program = join(ROOT, "node_modules/size-limit/bin.js");
  const line = [program, "--json"];
  const printed = execFileSync(process.execPath, line, { cwd: ROOT, encoding: "utf8" });
  const sizes = JSON.parse(printed) as readonly { readonly name: string; readonly size: number }[];
  return sizes.find(({ name }) => name === "keystile")?.size ?? Number.NaN;
}

function figuresOf(scenario: string, contender: string, figures: Series["figures"]): Series {
  return { scenario, contender, perSecond: [], cpuMicros: [], figures };
}
