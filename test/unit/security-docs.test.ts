import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";

/* A promise names the tests that would notice if it were broken: they exist, under that title. */

const ROOT = join(import.meta.dirname, "../..");
const PAGES = ["SECURITY.md", "docs/threats.md"];

interface Named {
  readonly file: string;
  readonly title: string;
}

/** `path/of/a.test.ts` "its title", as the pages have it. */
function namedIn(page: string): readonly Named[] {
  return [...page.matchAll(/`((?:test|examples|src)\/[\w./-]+)`\s+"([^"]+)"/g)].map(
    ([, file = "", title = ""]) => ({ file, title }),
  );
}

/** Whether a text is the title of a test, a group or a case in a file; `(seed …)` may follow it. */
function isTitleIn(text: string, title: string): boolean {
  const escaped = title.replace(/[$()*+.?[\\\]^{|}]/g, "\\$&");
  return new RegExp(`(?:\\(\\s*|name: )["'\`]${escaped}(?:["'\`]| \\(seed )`).test(text);
}

function textOf(path: string): string {
  return readFileSync(join(ROOT, path), "utf8");
}

describe.each(PAGES)("%s", (page) => {
  test("names tests that exist", () => {
    const named = namedIn(textOf(page));
    expect(named.length).toBeGreaterThan(40);
    const missing = named.filter(
      ({ file, title }) => !existsSync(join(ROOT, file)) || !isTitleIn(textOf(file), title),
    );
    expect(missing).toEqual([]);
  });

  test("names every file of tests in the form that is checked", () => {
    const text = textOf(page).replace("`test/unit/security-docs.test.ts` checks", "");
    const files = [...text.matchAll(/`[\w./-]+\.test(?:-d)?\.ts`/g)];
    expect(namedIn(text).filter(({ file }) => file.includes(".test")).length).toBe(files.length);
  });
});

test("every promise names a test, and every P in the threats is a promise", () => {
  const [promised = ""] = textOf("SECURITY.md").split("## What is not promised");
  const promises = promised.split(/^(?=\d+\. \*\*)/m).slice(1);
  expect(promises.map((promise) => Number.parseInt(promise, 10))).toEqual(promises.map((_, at) => at + 1));
  for (const promise of promises) expect(namedIn(promise).length, promise).toBeGreaterThan(0);
  const used = [...textOf("docs/threats.md").matchAll(/\bP(\d+)\b/g)].map(([, number]) => Number(number));
  expect(Math.max(...used)).toBeLessThanOrEqual(promises.length);
});

test("every threat has one row, and each is done, changed or refused", () => {
  const rows = [...textOf("docs/threats.md").matchAll(/^\| ([TG]\d+) \|(.*)$/gm)];
  const numbered = (letter: string, count: number, missing: number) =>
    Array.from({ length: count }, (_, at) => at + 1)
      .filter((number) => number !== missing)
      .map((number) => `${letter}${number}`);
  expect(rows.map(([, id]) => id)).toEqual([...numbered("T", 48, 45), ...numbered("G", 31, 28)]);
  for (const [row, , rest = ""] of rows) {
    const [answer = "", how = ""] = rest.split(" | ").slice(-2);
    // Done is shown by a test, here or where the promise stands; the others say why.
    if (answer === "done") expect(row).toMatch(/\bP\d+\b|`(?:test|examples|src)\//);
    else expect([answer, how.length > 30]).toEqual([expect.stringMatching(/^(?:changed|refused)$/), true]);
  }
});

test("a title that is not there, and a file that is not, would be noticed", () => {
  const [one] = namedIn('see `test/unit/security-docs.test.ts` "no such title", and others');
  expect(one).toEqual({ file: "test/unit/security-docs.test.ts", title: "no such title" });
  const text = textOf("test/unit/security-docs.test.ts");
  expect(isTitleIn(text, "names tests that exist")).toBe(true);
  expect(isTitleIn(text, "names tests that")).toBe(false);
  expect(isTitleIn(text, "its title")).toBe(false);
});
