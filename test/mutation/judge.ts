/**
 * Holds the report of Stryker against `docs/mutation.md`: every mutant that no test tells from the original has to be
 * explained there. Fails for one that is not, and prints its row. `npm run mutation` runs it after Stryker.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";

interface Mutant {
  readonly status: string;
  readonly replacement: string;
  readonly location: { readonly start: Place; readonly end: Place };
}

/** Counted from one. */
interface Place {
  readonly line: number;
  readonly column: number;
}

const ROOT = join(import.meta.dirname, "../..");
const UNDETECTED = ["Survived", "NoCoverage"];

const [reportFile = join(ROOT, "temp/mutation.json")] = process.argv.slice(2);
const report: { files: Record<string, { source: string; mutants: Mutant[] }> } = JSON.parse(
  readFileSync(reportFile, "utf8"),
);
const explained = rowsOf(readFileSync(join(ROOT, "docs/mutation.md"), "utf8"));
let unexplained = 0;
for (const [file, { source, mutants }] of Object.entries(report.files)) {
  const survivors = mutants.filter(({ status }) => UNDETECTED.includes(status));
  const rows = new Set(survivors.map((mutant) => rowOf(source, mutant)));
  const missing = [...rows].filter((row) => !explained.get(file)?.has(row));
  console.log(
    `${file}: ${mutants.length} mutants, ${survivors.length} live on, ${missing.length} without a reason`,
  );
  for (const row of missing) console.error(`  ${row} … |`);
  unexplained += missing.length;
}
if (unexplained > 0) {
  console.error("Add a test that tells them apart, or say in docs/mutation.md why none can.");
  process.exitCode = 1;
}

/** The beginnings of the table rows under the heading of each file. */
function rowsOf(page: string): ReadonlyMap<string, ReadonlySet<string>> {
  const sections = page.split(/^## /m).slice(1);
  return new Map(
    sections.map((section) => {
      const [heading = "", ...lines] = section.split("\n");
      const rows = lines.filter((line) => line.startsWith("| `"));
      return [heading.trim(), new Set(rows.map((row) => /^\| `.*?` \| `.*?` \|/.exec(row)?.[0] ?? ""))];
    }),
  );
}

/** By its text and not by its line, so that a reason outlives a change somewhere else in the file. */
function rowOf(source: string, { replacement, location: { start, end } }: Mutant): string {
  const lines = source.split("\n");
  const first = lines[start.line - 1] ?? "";
  const last = lines[end.line - 1] ?? "";
  const mutated = first.slice(0, start.column - 1) + replacement + last.slice(end.column - 1);
  return `| ${code(first)} | ${code(mutated)} |`;
}

function code(text: string): string {
  const line = text.replaceAll(/\s+/g, " ").trim();
  // A backtick would end the cell's code early, and a bar the cell.
  return `\`${line.replaceAll("`", "´").replaceAll("|", "\\|")}\``;
}
