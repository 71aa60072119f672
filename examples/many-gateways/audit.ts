import type { Fund, Standing } from "./funds.ts";
import type { Tally } from "./load.ts";

/** What the callers have counted of a fund, and what the store has booked. */
export interface AuditRow {
  readonly fund: Fund;
  readonly tally: Tally;
  readonly standing: Standing;
}

const WIDTHS: readonly number[] = [9, 8, 7, 6, 7, 6, 6];

/** Prints a line per fund, below them what does not fit together, and the verdict. True when everything fits. */
export function printAudit(rows: readonly AuditRow[]): boolean {
  printLine("", ["requested", "admitted", "refused", "faults", "cut off", "spent", "limit"], "codes");
  for (const { fund, tally, standing } of rows) {
    const { admitted, refused, faults, cutOff } = countsOf(tally);
    const { used, limit } = standing;
    const columns = [tally.requested, admitted, refused, faults, cutOff, used, limit ?? "none"];
    printLine(fund.name, columns, codesOf(tally).join(", "));
  }
  const problems = rows.flatMap(problemsOf);
  for (const problem of problems) console.log(`✗ ${problem}`);
  const overspent = rows.some(({ standing: { used, limit } }) => limit !== null && used > limit);
  console.log(
    `\nnever overspent: ${yesOrNo(!overspent)}, all accounted for: ${yesOrNo(problems.length === 0)}`,
  );
  return problems.length === 0;
}

/**
 * Everything costs 1, so admitted is charged, and nothing else. Who was cut off may have been charged: the gateway that
 * died with the request may have had its answer already.
 */
function problemsOf({ fund, tally, standing }: AuditRow): readonly string[] {
  const { admitted, refused, faults, cutOff } = countsOf(tally);
  const { used, held, limit } = standing;
  const foreign = codesOf(tally).filter((code) => code.startsWith("4") && code !== fund.refusal);
  const checks: readonly (readonly [holds: boolean, problem: string])[] = [
    [limit === null || used <= limit, `${used} spent of ${limit}`],
    [tally.requested === admitted + refused + faults + cutOff, "not every request has an outcome"],
    [used >= admitted, `${admitted - used} answers were not charged`],
    [used <= admitted + cutOff, `${used - admitted - cutOff} charged that nobody was answered`],
    [held === 0, `${held} still held`],
    [foreign.length === 0, `refused with ${foreign.join(", ")}`],
    [limit === null || refused > 0, "its limit was never reached"],
  ];
  return checks.filter(([holds]) => !holds).map(([, problem]) => `${fund.name}: ${problem}`);
}

function countsOf({ outcomes }: Tally) {
  const count = (which: RegExp): number =>
    Object.entries(outcomes).reduce((sum, [outcome, times]) => (which.test(outcome) ? sum + times : sum), 0);
  return { admitted: count(/^200$/), refused: count(/^4/), faults: count(/^5/), cutOff: count(/^cut off$/) };
}

/** What requests were refused with, and faults. */
function codesOf({ outcomes }: Tally): readonly string[] {
  return Object.keys(outcomes).filter((outcome) => /^[45]/.test(outcome));
}

function printLine(name: string, columns: readonly (string | number)[], codes: string): void {
  const cells = columns.map((column, at) => String(column).padStart(WIDTHS[at] ?? 0));
  console.log([name.padEnd(17), ...cells, codes].join("  ").trimEnd());
}

function yesOrNo(holds: boolean): string {
  return holds ? "yes" : "no";
}
