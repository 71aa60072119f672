/**
 * Writes what was measured into `docs/performance.md` and `docs/scale.md` and draws `docs/performance.svg`:
 * `npm run bench:render`.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { chartOf } from "./chart.ts";
import { median, round, spread } from "./figures.ts";
import { type Row, rowsOf } from "./goals.ts";
import { breaking, type Costs, costsOf, onPaper, type Size } from "./paper-scale.ts";
import { type Results, readResults } from "./results.ts";

const DOCS = join(import.meta.dirname, "../docs");

const SIZES_ON_PAPER: readonly Size[] = [
  { keys: 1e6, perSecond: 1e3 },
  { keys: 1e7, perSecond: 1e4 },
  { keys: 1e8, perSecond: 1e5 },
  { keys: 1e9, perSecond: 1e6 },
];

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) render();

export function render(): void {
  const results = readResults();
  const rows = rowsOf(results);
  const { scale, ...others } = results;
  fill("performance.md", {
    goals: tableOf(rows),
    measured: seriesOf(others),
    machine: machineOf(results),
  });
  writeFileSync(join(DOCS, "performance.svg"), chartOf(rows));
  const costs = costsOf(results);
  if (scale === undefined || costs === undefined) return;
  fill("scale.md", {
    measured: seriesOf({ scale }),
    costs: costsTable(costs),
    paper: paperTable(costs),
    breaking: breakingTable(costs),
  });
}

function fill(name: string, texts: Readonly<Record<string, string>>): void {
  const file = join(DOCS, name);
  const page = Object.entries(texts).reduce(
    (page, [name, text]) => between(page, name, text),
    readFileSync(file, "utf8"),
  );
  writeFileSync(file, page);
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

function costsTable(costs: Costs): string {
  return table(
    ["cost", "measured"],
    [
      ["CPU of a gateway for one request", `${round(costs.cpuSeconds * 1e6)} µs`],
      ["one round trip to the store", `${round(costs.roundTripSeconds * 1e3)} ms`],
      ["documents that one store writes", `${round(costs.writesPerShard)}/s`],
      ["requests of one key, by one process", `${round(costs.hotAlone)}/s`],
      ["requests of one key, by eight processes", `${round(costs.hotShared)}/s`],
      ["a key in the store", bytes(costs.diskBytesPerKey)],
      ["a key in the cache of a process", bytes(costs.cacheBytesPerKey)],
    ],
  );
}

function paperTable(costs: Costs): string {
  const kinds = [
    ["alike", "any process"],
    ["Zipf", "any process"],
    ["Zipf", "by key"],
  ] as const;
  const rows = SIZES_ON_PAPER.flatMap((size) =>
    kinds.map(([popularity, routing]) => {
      const paper = onPaper(size, popularity, routing, costs);
      return [
        ...[short(size.keys), short(size.perSecond), popularity, routing, short(paper.gateways)],
        ...[short(paper.writes), short(paper.reads), short(paper.shards), bytes(paper.diskBytes)],
        ...[bytes(paper.cacheBytes), short(paper.hottest), short(paper.tooHot)],
      ];
    }),
  );
  const heads = ["keys", "requests/s", "popularity", "sent to", "processes", "writes/s", "reads/s", "shards"];
  return table([...heads, "on disk", "cache of each", "hottest key, /s", "keys to lease"], rows);
}

function breakingTable(costs: Costs): string {
  const rows = breaking(costs, 1_000).map(([what, perSecond]) => [
    ...[short(perSecond), short(1_000 * perSecond), what],
  ]);
  return table(["requests/s", "keys", "what happens"], rows);
}

/** 12, 3,400, 5.6 million. */
function short(value: number): string {
  if (value >= 1e9) return `${round(value / 1e9)} billion`;
  return value >= 1e6 ? `${round(value / 1e6)} million` : round(value);
}

function bytes(value: number): string {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  const power = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log10(value || 1) / 3)));
  return `${round(value / 1_000 ** power)} ${units[power]}`;
}

function table(heads: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  return [line(heads), line(heads.map(() => "---")), ...rows.map(line)].join("\n");
}
