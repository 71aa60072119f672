import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, afterEach, expect, test } from "vitest";

/*
 * Every program of the examples, found by listing them, so that a new one cannot be forgotten: a server starts
 * and answers, anything else runs to its end. Run with the Node that runs the tests, against the
 * built package. `npm start` and `npm run demo` have tests of their own.
 */

const EXAMPLES = join(import.meta.dirname, "../../examples");
const TESTED_ELSEWHERE = [
  "gateway/start.ts",
  "demo/tour.ts",
  "many-gateways/run.ts",
  "many-gateways/gateway.ts",
];

const programs = readdirSync(EXAMPLES, { withFileTypes: true, recursive: true })
  .filter((entry) => entry.isFile() && entry.name.endsWith(".ts") && !entry.name.endsWith(".test.ts"))
  .map(({ parentPath, name }) => join(parentPath, name).slice(EXAMPLES.length + 1))
  .filter((path) => !TESTED_ELSEWHERE.includes(path))
  .toSorted();
const servers = programs.filter((path) => path.endsWith("/server.ts"));
const others = programs.filter((path) => !servers.includes(path));

/** Where they run, so that a file they make is not left in the repository. */
const cwd = mkdtempSync(join(tmpdir(), "keystile-examples-"));
let running: ChildProcess | undefined;

afterEach(() => void running?.kill("SIGKILL"));
afterAll(() => rmSync(cwd, { recursive: true }));

// Modules that other programs import are among them: to run one does nothing, and shows that it can be loaded.
test.each(others)("%s runs to its end", async (path) => {
  const { stderr } = await promisify(execFile)(process.execPath, [join(EXAMPLES, path)], { cwd });
  expect(stderr.replace(/^.*(ExperimentalWarning|--trace-warnings).*\n/gm, "")).toBe("");
});

test("custom-rule/business-hours.ts shows its rule refuse one of two keys, from one minute to the next", async () => {
  const program = join(EXAMPLES, "custom-rule/business-hours.ts");
  const { stdout } = await promisify(execFile)(process.execPath, [program]);
  expect(stdout.trim().split("\n")).toEqual([
    "Fri, 04 Jan 2030 16:59  free  allowed",
    "Fri, 04 Jan 2030 16:59  paid  allowed",
    "Fri, 04 Jan 2030 17:00  free  refused  403 access_denied, by the rule business-hours",
    "Fri, 04 Jan 2030 17:00  paid  allowed",
  ]);
});

test.each(servers)("%s starts, and its key may use the one model and not the other", async (path) => {
  const { url, secret } = await start(path);

  async function ask(model: string, headers: Record<string, string>): Promise<unknown> {
    const response = await fetch(new URL("/v1/chat/completions", url), {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body: JSON.stringify({ model, messages: [{ role: "user", content: "Hello" }] }),
    });
    const answer = (await response.json()) as { readonly error?: { readonly code: string } };
    return [response.status, answer.error?.code];
  }

  const headers = { authorization: `Bearer ${secret}` };
  expect(await ask("gpt-demo", {})).toEqual([401, "missing_api_key"]);
  expect(await ask("gpt-demo", headers)).toEqual([200, undefined]);
  expect(await ask("claude-demo", headers)).toEqual([403, "model_access_denied"]);
});

test("prometheus/server.ts shows on its second port what became of three requests", async () => {
  const { url, secret, printed } = await start("prometheus/server.ts");
  for (const key of ["sk-nobody", secret, secret]) {
    await fetch(new URL("/v1/chat/completions", url), {
      method: "POST",
      headers: { "content-type": "application/json", "x-api-key": key },
      body: JSON.stringify({ model: "gpt-demo" }),
    });
  }
  const [scraped = ""] = printed().match(/http:\/\/\S+\/metrics/) ?? [];
  const answer = await fetch(scraped);
  expect(answer.headers.get("content-type")).toMatch(/^text\/plain; version=0\.0\.4/);
  const lines = (await answer.text()).split("\n");
  expect(lines).toContain('keystile_requests_allowed_total{model="gpt-demo"} 2');
  expect(lines).toContain('keystile_requests_refused_total{status="401",reason="credential_malformed"} 1');
});

test("opentelemetry/server.ts prints a span that knows the key and the status", async () => {
  const { url, secret, printed } = await start("opentelemetry/server.ts");
  await fetch(url, { method: "POST", headers: { "x-api-key": secret } });
  // The SDK exports every five seconds.
  await expect.poll(printed, { timeout: 20_000 }).toMatch(/'?keystile\.outcome'?: 'refused'/);
  expect(printed()).toMatch(/'http\.response\.status_code': 403/);
  expect(printed()).toMatch(/'keystile\.key\.id': '/);
  expect(printed().split(secret)).toHaveLength(2);
}, 60_000);

test("structured-logs/log.ts logs a forged line as what it is", async () => {
  const { stdout } = await promisify(execFile)(process.execPath, [join(EXAMPLES, "structured-logs/log.ts")]);
  const types = stdout
    .trim()
    .split("\n")
    .map((line) => (JSON.parse(line) as { type: string }).type);
  expect(types).toEqual(["key.issued", "request.allowed", "request.refused"]);
});

/** Resolves with the first address that the server prints, and the secret that it shows there, once. */
async function start(
  path: string,
): Promise<{ readonly url: string; readonly secret: string; readonly printed: () => string }> {
  const child = spawn(process.execPath, [join(EXAMPLES, path)], {
    cwd,
    env: { ...process.env, PORT: "0" },
    stdio: ["ignore", "pipe", "pipe"],
  });
  running = child;
  let printed = "";
  const started = new Promise<{ url: string; secret: string; printed: () => string }>((resolve) => {
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text: string) => {
        printed += text;
        const [url] = printed.match(/http:\/\/[^\s/]+:\d+(?=\D)/) ?? [];
        const [secret] = printed.match(/sk-[A-Za-z0-9]{32,}(?=\s)/) ?? [];
        if (url !== undefined && secret !== undefined) resolve({ url, secret, printed: () => printed });
      });
    }
  });
  const ended = once(child, "close").then(([code]) => {
    throw new Error(`It ended with ${code}:\n${printed}`);
  });
  return Promise.race([started, ended]);
}
