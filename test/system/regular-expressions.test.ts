import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseSync, Visitor } from "oxc-parser";
// @ts-expect-error The build without Java or binaries has no types of its own.
import { checkSync } from "recheck/lib/browser.js";
import { describe, expect, test } from "vitest";

/*
 * No regular expression of ours takes more than linear time, whatever it is given. That is proved of each by its
 * automaton; where it cannot be, the test fails.
 */

const SOURCE = join(import.meta.dirname, "../../src");

/** Those that are made at run time, which no parser finds: as they are with the longest of what they are made of. */
const MADE = [{ file: "redact.ts", source: "(?<=sk-|sk-sub-|a{31}-)[A-Za-z0-9]{32}", flags: "g" }];

interface Expression {
  readonly file: string;
  readonly source: string;
  readonly flags: string;
}

function expressionsOf(file: string, text: string): { literals: Expression[]; made: number } {
  const literals: Expression[] = [];
  let made = 0;
  const { program, errors } = parseSync(file, text);
  expect(errors).toEqual([]);
  const noteMade = ({ callee }: { callee: unknown }): void => {
    if ((callee as { name?: unknown }).name === "RegExp") made += 1;
  };
  new Visitor({
    Literal(node) {
      if (!("regex" in node)) return;
      literals.push({ file, source: node.regex.pattern, flags: node.regex.flags });
    },
    NewExpression: noteMade,
    CallExpression: noteMade,
  }).visit(program);
  return { literals, made };
}

function time({ source, flags }: Expression): string {
  // A bound of some size makes the automaton that much larger; what is linear without it is so with it.
  const unbounded = source.replace(/\{1,\d+\}/g, "+");
  // Only the automaton proves; the other way of this checker tries, and finds or does not.
  const { status, complexity } = checkSync(unbounded, flags, { checker: "automaton", timeout: 60_000 });
  return status === "safe" ? "linear" : `${status} ${complexity?.summary}`;
}

const files = readdirSync(SOURCE, { recursive: true, encoding: "utf8" }).filter((file) =>
  file.endsWith(".ts"),
);
const found = files.map((file) => expressionsOf(file, readFileSync(join(SOURCE, file), "utf8")));
const all = [...found.flatMap(({ literals }) => literals), ...MADE];

describe("linear in the length of what it is given", () => {
  test.each(all.map((expression) => [`/${expression.source}/${expression.flags}`, expression] as const))(
    "%s",
    (_, expression) => {
      expect({ ...expression, time: time(expression) }).toEqual({ ...expression, time: "linear" });
    },
  );

  test("those that are made at run time are all known", () => {
    expect(all.length).toBeGreaterThan(40);
    expect(found.reduce((sum, { made }) => sum + made, 0)).toBe(MADE.length);
  });

  test.each([
    ["(a|a)*b", "vulnerable exponential"],
    ["([A-Za-z0-9]+)+$", "vulnerable exponential"],
    ["a+$", "vulnerable 2nd degree polynomial"],
  ])("%s is not", (source, answer) => {
    expect(time({ file: "", source, flags: "" })).toBe(answer);
  });
});
