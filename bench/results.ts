/** What was measured, as it is kept in `results.json`: part by part, so that one can be measured again alone. */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { cpus, loadavg } from "node:os";
import { join } from "node:path";
import type { Pace, Series } from "./rounds.ts";

export interface Measured extends Pace {
  readonly at: string;
  /** Of this package, with a plus where files had been changed. */
  readonly commit: string;
  readonly node: string;
  readonly processor: string;
  /** How much else there was to do when it began, and at its end (itself included): processes that wanted a core. */
  readonly loadBefore: number;
  readonly loadAfter: number;
  readonly series: readonly Series[];
}

export type Results = Readonly<Record<string, Measured>>;

const FILE = join(import.meta.dirname, "results.json");

export function readResults(): Results {
  return existsSync(FILE) ? JSON.parse(readFileSync(FILE, "utf8")) : {};
}

/** Puts parts that were measured in the place of what was there of them. */
export function keepResults(measured: Results): void {
  const all = { ...readResults(), ...measured };
  const text = JSON.stringify(all, (_, value) => (typeof value === "number" ? shorten(value) : value), 2);
  // A list of numbers on one line, as the formatter would have it.
  const short = text.replace(/\[[\d\s.,e+-]+\]/g, (list) =>
    list.replaceAll(/\s+/g, " ").replace("[ ", "[").replace(" ]", "]"),
  );
  writeFileSync(FILE, `${short}\n`);
}

/** What is known of a measurement before it begins; call the result when it is over. */
export function measuring(pace: Pace): (series: readonly Series[]) => Measured {
  const known = {
    ...pace,
    at: new Date().toISOString(),
    commit: git("rev-parse", "--short=10", "HEAD") + (git("status", "--porcelain", "src") === "" ? "" : "+"),
    node: process.version,
    processor: `${cpus().length} × ${cpus()[0]?.model ?? "unknown"}`,
    loadBefore: loadavg()[0] ?? 0,
  };
  return (series) => ({ ...known, loadAfter: loadavg()[0] ?? 0, series });
}

function git(...words: readonly string[]): string {
  return execFileSync("git", words, { cwd: import.meta.dirname, encoding: "utf8" }).trim();
}

function shorten(value: number): number {
  return Number(value.toPrecision(5));
}
