import { defined } from "./copies.js";
import type { UsageCounts, UsageRow } from "./usage-reports.js";

/** What usage may be summed by. */
export type UsageDimension = "day" | "keyId" | "owner" | "accountId" | "model" | "outcome";

export type UsageTotal<By extends UsageDimension> = Pick<UsageRow, By> & UsageCounts;

/**
 * Usage as CSV (RFC 4180, with a header line) of all members of a row; what is null or absent is an empty cell.
 *
 * Models are named by whoever sends a request, and spreadsheets run what looks like a formula. So an apostrophe is put
 * before `=`, `+`, `-`, `@`, tab and carriage return at the start of a text, and after what another locale takes for
 * the end of a cell. Numbers stay numbers, negative ones too.
 */
export function usageCsv(rows: readonly UsageRow[]): string {
  const lines = rows.map((row) => COLUMNS.map((name) => cell(row[name] ?? "")).join(","));
  return [COLUMNS.join(","), ...lines].map((line) => `${line}\r\n`).join("");
}

/**
 * Adds rows up, by one or more of their members: `sumUsage(rows, ["owner", "day"])`; by none, all of them. In the order
 * in which they first occur. @throws TypeError for a member that rows cannot be summed by
 */
export function sumUsage<By extends UsageDimension>(
  rows: readonly UsageRow[],
  by: readonly By[],
): readonly UsageTotal<By>[] {
  const unknown = by.find((name) => !DIMENSIONS.includes(name));
  if (unknown !== undefined) {
    throw new TypeError(`Usage is summed by ${DIMENSIONS.join(", ")}, received ${String(unknown)}.`);
  }
  const totals = new Map<string, UsageTotal<By>>();
  for (const row of rows) {
    const group = Object.fromEntries(by.map((name) => [name, row[name]])) as Pick<UsageRow, By>;
    const name = JSON.stringify(by.map((dimension) => row[dimension] ?? null));
    const sum: UsageCounts = totals.get(name) ?? NOTHING;
    const counts = COUNTS.map((count) => [count, Math.min(sum[count] + row[count], Number.MAX_SAFE_INTEGER)]);
    totals.set(name, { ...defined(group), ...(Object.fromEntries(counts) as unknown as UsageCounts) });
  }
  return [...totals.values()];
}

const DIMENSIONS: readonly UsageDimension[] = ["day", "keyId", "owner", "accountId", "model", "outcome"];
const COUNTS = ["requests", "cost", "paid", "inputTokens", "outputTokens"] as const;
const COLUMNS: readonly (keyof UsageRow)[] = [...DIMENSIONS, ...COUNTS];
const NOTHING: UsageCounts = { requests: 0, cost: 0, paid: 0, inputTokens: 0, outputTokens: 0 };

function cell(value: string | number): string {
  if (typeof value === "number") return String(value);
  const text = value.replace(/(?<=^|[,;|"\t\r\n])(?=[=+\-@\uff1d\uff0b\uff0d\uff20\t\r])/g, "'");
  return /[",;\t\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
