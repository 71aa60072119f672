import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { RE2JS } from "re2js";
import { describe, expect, it } from "vitest";
import { DEFAULT_PREFIXES, generateSecret, hasValidChecksum } from "../../src/secret.js";

/*
 * The rules that we publish for scanners, on planted keys and on what only looks like one. Every scanner has to agree.
 */

const ROOT = join(import.meta.dirname, "../..");
const KEY = "sk-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef1W1e6b";
const SUB_KEY = "sk-sub-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef2Nap6F";
const BODY = KEY.slice("sk-".length);

const PLANTED: readonly (readonly [what: string, line: string, keys: readonly string[]])[] = [
  ["a line of its own", KEY, [KEY]],
  ["a subscription's", SUB_KEY, [SUB_KEY]],
  ["an environment file", `OPENAI_API_KEY=${KEY}`, [KEY]],
  ["a string", `const key = "${KEY}";`, [KEY]],
  ["a header", `authorization: Bearer ${SUB_KEY}\r`, [SUB_KEY]],
  ["a URL", `https://api.example/v1/models?key=${KEY}&x=1`, [KEY]],
  ["an escaped space", `Bearer%20${KEY}`, [KEY]],
  ["an escaped end of line", `"first\\n${KEY}\\nlast"`, [KEY]],
  ["a WebSocket protocol", `openai-insecure-api-key.${KEY}, realtime`, [KEY]],
  ["two with a comma between", `${KEY},${SUB_KEY}`, [KEY, SUB_KEY]],
  ["the end of a sentence", `It was ${KEY}.`, [KEY]],
];

const SPARED: readonly (readonly [what: string, line: string])[] = [
  ["a word that ends alike", `risk-${BODY}`],
  ["the same in a longer name", `task-sk-${BODY}`],
  ["one character less", `sk-${BODY.slice(1)}`],
  ["one more", `sk-${BODY}0`],
  ["one more after an underscore", `sk-${BODY}_0`],
  ["another prefix", `sk-proj-${BODY}`],
  ["another kind", `sk_live_${BODY}`],
  ["a digit that is none", `sk-${BODY.replace("0", "０")}`],
  ["a dash inside", `sk-${BODY.slice(0, 20)}-${BODY.slice(21)}`],
  ["in capitals", `SK-${BODY}`],
  ["32 hexadecimal digits", `sk-${"0123456789abcdef".repeat(2)}`],
  ["a name of a style", ".sk-folding-cube .sk-cube { transform: rotateZ(45deg); }"],
];

const ISSUED = Object.values(DEFAULT_PREFIXES).flatMap((prefix) =>
  Array.from({ length: 50 }, () => generateSecret(prefix)),
);
const LINES = [...PLANTED, ...SPARED].map(([, line]) => line).concat(ISSUED);

describe.each([
  { scanner: "gitleaks", find: gitleaks() },
  { scanner: "GitHub", find: gitHub() },
  { scanner: "secretlint", find: secretlint() },
])("the rule for $scanner", ({ find }) => {
  it.each(PLANTED)("finds %s", (_, line, keys) => {
    expect(find(line)).toEqual(keys);
  });

  it.each(SPARED)("spares %s", (_, line) => {
    expect(find(line)).toEqual([]);
  });

  it("finds whatever is issued", () => {
    for (const secret of ISSUED) expect(find(secret)).toEqual([secret]);
  });
});

it("gitleaks' rule spares what is too regular to be random", () => {
  const find = gitleaks();
  expect(find(`sk-${"x".repeat(48)}`)).toEqual([]);
  expect(find(`sk-${"placeholder0".repeat(4)}`)).toEqual([]);
});

describe("this repository", () => {
  /** Those of the documentation: of the format, and what tests are written with. */
  const EXAMPLES = [KEY, SUB_KEY];
  const find = gitHub();

  it("holds no key that could be real but the documented examples", () => {
    const found = sources(ROOT).flatMap((file) =>
      find(readFileSync(file, "latin1"))
        .filter((key) => hasValidChecksum(key) && !EXAMPLES.includes(key))
        .map((key) => `${file}: …${key.slice(-4)}`),
    );
    expect(found).toEqual([]);
  });

  it("is searched by a search that finds", () => {
    const folder = mkdtempSync(join(tmpdir(), "keystile-scan-"));
    try {
      const secret = generateSecret("sk-");
      writeFileSync(join(folder, "notes.md"), `Ask with ${secret}, and ${EXAMPLES.join(" ")}.`);
      const [file = ""] = sources(folder);
      expect(find(readFileSync(file, "latin1")).filter(hasValidChecksum)).toEqual([secret, ...EXAMPLES]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

type Find = (text: string) => readonly string[];

/** The rule in the dialect of RE2, and the measure of randomness that it asks for. */
function gitleaks(): Find {
  const rule = readFileSync(join(ROOT, "docs/scanners/gitleaks.toml"), "utf8");
  const pattern = RE2JS.compile(/^regex = '''(.+)'''$/m.exec(rule)?.[1] ?? "");
  const group = Number(/^secretGroup = (\d+)$/m.exec(rule)?.[1]);
  const leastEntropy = Number(/^entropy = ([\d.]+)$/m.exec(rule)?.[1]);
  const keywords: string[] = JSON.parse(/^keywords = (.+)$/m.exec(rule)?.[1] ?? "");
  return (text) => {
    const found: string[] = [];
    const matcher = pattern.matcher(text);
    while (keywords.some((keyword) => text.toLowerCase().includes(keyword)) && matcher.find()) {
      const secret = matcher.group(group) ?? "";
      if (entropyOf(secret) > leastEntropy) found.push(secret);
    }
    return found;
  };
}

/** Bits for each character, by Shannon. */
function entropyOf(text: string): number {
  const shares = [...new Set(text)]
    .map((character) => text.split(character).length - 1)
    .map((n) => n / text.length);
  return -shares.reduce((sum, share) => sum + share * Math.log2(share), 0);
}

/** The three fields of the form, as one expression. What stands after a secret is not taken away from the next. */
function gitHub(): Find {
  const page = readFileSync(join(ROOT, "docs/secret-scanning.md"), "utf8");
  const [secret, before, after] = ["Secret format", "Before secret", "After secret"].map((field) => {
    const cell = new RegExp(`^\\| ${field} \\| \`(.+)\` \\|$`, "m").exec(page)?.[1] ?? "";
    return cell.replaceAll("\\|", "|").replace("\\A", "^").replace("\\z", "$");
  });
  const pattern = new RegExp(`(?:${before})(${secret})(?=${after})`, "g");
  return (text) => [...text.matchAll(pattern)].map(([, found = ""]) => found);
}

/** The scanner itself, run once over all lines, each in a file of its own. */
function secretlint(): Find {
  const main = join(ROOT, "node_modules/secretlint/bin/secretlint.js");
  const rules = join(ROOT, "docs/scanners/secretlintrc.json");
  const folder = mkdtempSync(join(tmpdir(), "keystile-secretlint-"));
  try {
    LINES.forEach((line, at) => {
      writeFileSync(join(folder, `${at}.txt`), line);
    });
    const args = [main, "--secretlintrc", rules, "--format", "json", "--no-maskSecrets", "*.txt"];
    const { stdout, stderr, status } = spawnSync(process.execPath, args, { cwd: folder, encoding: "utf8" });
    expect({ stderr, status }).toEqual({ stderr: "", status: 1 });
    const results: Linted[] = JSON.parse(stdout);
    const found = new Map(results.map(({ filePath, messages }) => [basename(filePath), messages]));
    return (line) => {
      const messages = found.get(`${LINES.indexOf(line)}.txt`);
      if (messages === undefined) throw new Error(`secretlint was not asked about: ${line}`);
      return messages.map(({ data }) => /sk-[0-9A-Za-z-]+$/.exec(data.CREDENTIAL)?.[0] ?? data.CREDENTIAL);
    };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

interface Linted {
  readonly filePath: string;
  readonly messages: readonly { readonly data: { readonly CREDENTIAL: string } }[];
}

function sources(folder: string): readonly string[] {
  const left = new Set(["node_modules", "dist", "coverage", "temp", ".git"]);
  return readdirSync(folder, { withFileTypes: true })
    .filter(({ name }) => !left.has(name))
    .flatMap((entry) => {
      const path = join(folder, entry.name);
      return entry.isDirectory() ? sources(path) : entry.isFile() ? [path] : [];
    });
}
