/**
 * Where the time of a contender goes: `npm exec -- node bench/profile.ts core keystile 10000 64` prints the functions
 * that take most of it themselves, and writes the whole profile to a file for the tools of a browser.
 */
import { writeFileSync } from "node:fs";
import { Session } from "node:inspector/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import type { Subjects } from "./subject.ts";

const SECONDS = 4;
const SHOWN = 30;
/** Waiting, and what starts and stops the profile. */
const OURS: readonly string[] = ["(idle)", "post"];

const [part = "core", name = "keystile", keys = "10000", callers = "64", address = ""] =
  process.argv.slice(2);
const { subjects } = (await import(`./${part}.ts`)) as { readonly subjects: Subjects };
const open = subjects[name];
if (open === undefined) throw new TypeError(`${part} has ${Object.keys(subjects).join(", ")}.`);
const subject = await open(address);
const load = { keys: Number(keys), callers: Number(callers), seconds: SECONDS };
await subject.measure(load); // What is measured below is warm.

const session = new Session();
session.connect();
await session.post("Profiler.enable");
await session.post("Profiler.setSamplingInterval", { interval: 200 });
await session.post("Profiler.start");
const sample = await subject.measure(load);
const { profile } = await session.post("Profiler.stop");
session.disconnect();
await subject.close();

const nodes = new Map(profile.nodes.map((node) => [node.id, node]));
const micros = new Map<string, number>();
let total = 0;
(profile.samples ?? []).forEach((id, n) => {
  const node = nodes.get(id);
  const taken = profile.timeDeltas?.[n] ?? 0;
  if (node === undefined || OURS.includes(node.callFrame.functionName)) return;
  const { functionName, url, lineNumber } = node.callFrame;
  const where = url === "" ? "" : ` ${basename(url)}:${lineNumber + 1}`;
  const what = `${functionName || "(anonymous)"}${where}`;
  micros.set(what, (micros.get(what) ?? 0) + taken);
  total += taken;
});

// Time that other processes took is nobody's: all of it together is what this one got.
const cpuMicros = sample.cpuSeconds * 1e6;
const count = sample.operations;
console.log(
  `${count} operations, ${(cpuMicros / count).toFixed(2)} µs of CPU each; of that, by function itself:`,
);
for (const [what, taken] of [...micros].toSorted(([, a], [, b]) => b - a).slice(0, SHOWN)) {
  const share = taken / total;
  const each = ((share * cpuMicros) / count).toFixed(3);
  console.log(`${each.padStart(9)} µs ${(100 * share).toFixed(1).padStart(5)} %  ${what}`);
}
const file = join(tmpdir(), `keystile-${part}-${name.replaceAll(" ", "-")}.cpuprofile`);
writeFileSync(file, JSON.stringify(profile));
console.log(file);
