/** Writes what was measured into `docs/performance.md` and draws `docs/performance.svg`: `npm run bench:render`. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { chartOf } from "./chart.ts";
import { median, round, spread } from "./figures.ts";
import { type Row, rowsOf } from "./goals.ts";
import { type Results, readResults } from "./results.ts";

const DOCS = join(import.meta.dirname, "../docs");

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) render();

export function render(): void {
  const results = readResults();
  const rows = rowsOf(results);
  const page = join(DOCS, "performance.md");
  const text = between(readFileSync(page, "utf8"), "goals", tableOf(rows));
  writeFileSync(page, between(between(text, "measured", seriesOf(results)), "machine", machineOf(results)));
  writeFileSync(join(DOCS, "performance.svg"), chartOf(rows));
}

/** Puts text between the two comments of that name. @throws Error where they are not */
export function between(page: string, name: string, text: string): string {
  const [start, end] = [`<!-- ${name} -->`, `<!-- /${name} -->`];
  const [from, to] = [page.indexOf(start), page.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`There is no ${start} … ${end}.`);
  return `${page.slice(0, from + start.length)}\n\n${text}\n\n${page.slice(to)}`;
}

export function tableOf(rows: readonly Row[]): string {
  return table(
    ["work", "reference in the same run", "goal", "measured", "rounds", "met"],
    rows.map(({ work, reference, goal, measured }) => [
      ...[work, reference, goal, measured?.text ?? "not measured", measured?.between ?? "–"],
      measured === undefined ? "–" : measured.reached >= 1 ? "yes" : "**no**",
    ]),
  );
}

/** Everything that was measured, contender by contender. */
function seriesOf(results: Results): string {
  const rows = Object.values(results).flatMap(({ series }) =>
    series.map(({ scenario, contender, perSecond, cpuMicros, figures }) => [
      scenario,
      contender,
      perSecond.length === 0 ? "–" : round(median(perSecond)),
      perSecond.length === 0 ? "–" : `${Math.round(100 * spread(perSecond))} %`,
      cpuMicros.length === 0 ? "–" : round(median(cpuMicros)),
      Object.entries(figures)
        .map(([name, values]) => `${name} ${round(median(values))}`)
        .join(", "),
    ]),
  );
  return table(["scenario", "contender", "per second", "spread", "CPU µs each", "more"], rows);
}

function machineOf(results: Results): string {
  const rows = Object.entries(results).map(([part, measured]) => [
    ...[part, measured.at.slice(0, 16).replace("T", " "), `\`${measured.commit}\``, measured.node],
    ...[measured.processor, `${measured.rounds} × ${measured.seconds} s`],
    `${measured.loadBefore.toFixed(1)}, ${measured.loadAfter.toFixed(1)}`,
  ]);
  return table(
    ["part", "measured (UTC)", "commit", "Node", "processor", "rounds", "load before, after"],
    rows,
  );
}

function table(heads: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  return [line(heads), line(heads.map(() => "---")), ...rows.map(line)].join("\n");
}
