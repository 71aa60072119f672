import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, expect, test } from "vitest";

/*
 * What a stranger does first: start it, paste what it prints, stop it, start it again. Run with the Node that runs
 * the tests, against the built package.
 */

const START = fileURLToPath(new URL("../../examples/gateway/start.ts", import.meta.url));
const READY = "Stop with Ctrl+C.";
const SECRET = /sk-(?:sub-)?[A-Za-z0-9]{32,}/g;

let folder: string;
let running: ChildProcess | undefined;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "keystile-start-"));
});

afterEach(async () => {
  running?.kill("SIGKILL");
  await rm(folder, { recursive: true, force: true });
});

interface Started {
  readonly printed: string;
  stop(signal: NodeJS.Signals): Promise<{ readonly printed: string; readonly exit: unknown }>;
}

async function start(env: NodeJS.ProcessEnv = {}): Promise<Started> {
  const { UPSTREAM_URL: _, UPSTREAM_API_KEY: __, ...inherited } = process.env;
  const child = spawn(process.execPath, [START], {
    env: { ...inherited, KEYSTILE_DB: join(folder, "keys.db"), PORT: "0", ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  running = child;
  let printed = "";
  child.stdout.setEncoding("utf8");
  child.stderr.setEncoding("utf8");
  const ready = new Promise<void>((resolve, reject) => {
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (text: string) => {
        printed += text;
        if (printed.includes(READY)) resolve();
      });
    }
    child.on("exit", (code) => reject(new Error(`It stopped with ${code}:\n${printed}`)));
  });
  await ready;
  return {
    printed,
    async stop(signal) {
      const exited = once(child, "close");
      child.kill(signal);
      const [exit] = await exited;
      return { printed, exit };
    },
  };
}

/** The commands as they were printed: everything indented, which is what a reader copies. */
function commands(printed: string): string {
  return printed
    .split("\n")
    .filter((line) => line.startsWith("  "))
    .join("\n");
}

/** Runs them as a reader would. Handed over by standard input, because an error shows arguments, and they have the secret. */
function runInShell(lines: string): string {
  const env = { ...process.env, no_proxy: "127.0.0.1" };
  const { status, stdout, stderr } = spawnSync("sh", ["-eu"], { input: lines, encoding: "utf8", env });
  if (status !== 0) throw new Error(`The commands ended with ${status}:\n${stderr}`);
  return stdout;
}

test("the printed lines work as they are, and stopping says what was used", async (context) => {
  if (spawnSync("curl", ["--version"]).error !== undefined) {
    const why = "There is no curl on PATH.";
    if (process.env["KEYSTILE_TEST_REQUIRE_ALL"] === "1") throw new Error(why);
    console.log(`Skipped: ${why}`);
    return context.skip(why);
  }
  const { printed, stop } = await start();
  expect(printed).toContain("allows\n$0.100000 a day, $0.100000 of it are left; then up to $0.050000 a day");
  expect(printed.match(SECRET)).toHaveLength(1);

  const stdout = runInShell(commands(printed));
  expect(stdout).toContain('"content":"This is gpt-demo. You said: Hello"');
  expect(stdout).toContain('"text":"This is claude-demo. You said: Hello"');
  expect(stdout).toContain('"delta":{"content":"gpt-demo. "}');
  expect(stdout).toContain("data: [DONE]");
  expect(stdout).toContain("HTTP/1.1 403 Forbidden");
  expect(stdout).toContain('"code":"model_access_denied"');
  // Two answers of gpt-demo and one of claude-demo, by their tokens.
  expect(stdout).toContain('"used":193,"held":0,"remaining":99807');

  const stopped = await stop("SIGTERM");
  expect(stopped.exit).toBe(0);
  expect(stopped.printed).toContain(
    "Stopped. $0.000193 of the day's allowance used, $0.000000 paid from the balance,",
  );
  expect(stopped.printed).toContain("$0.000000 held, 0 not written.");
  expect(stopped.printed.match(SECRET)).toHaveLength(1);
});

test("commands that fail are reported without themselves", () => {
  const failing = "  export KEY=sk-shown\n  echo out\n  echo why >&2\n  exit 3";
  expect(() => runInShell(failing)).toThrow(new Error("The commands ended with 3:\nwhy\n"));
});

test("started again on the same file, it keeps one key and its counters, and both secrets work", async () => {
  const first = await start();
  const url = /Gateway +(\S+)/;
  const ask = async ({ printed }: Started, secret: string | undefined): Promise<number> => {
    const response = await fetch(`${url.exec(printed)?.[1]}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${secret}`, "content-type": "application/json" },
      body: JSON.stringify({ model: "gpt-demo", messages: [{ role: "user", content: "Hello" }] }),
    });
    await response.text();
    return response.status;
  };
  const [firstSecret] = first.printed.match(SECRET) ?? [];
  expect(await ask(first, firstSecret)).toBe(200);
  expect((await first.stop("SIGINT")).exit).toBe(0);

  const second = await start();
  const [secondSecret] = second.printed.match(SECRET) ?? [];
  expect(second.printed).toContain("The key in this file got a new secret");
  expect(second.printed).toContain("$0.099950 of it are left");
  expect(secondSecret).not.toBe(firstSecret);
  expect(second.printed).not.toContain(firstSecret);
  expect(await ask(second, secondSecret)).toBe(200);
  expect(await ask(second, firstSecret)).toBe(200);
  const { exit, printed } = await second.stop("SIGTERM");
  expect(exit).toBe(0);
  expect(printed).toContain("Stopped. $0.000150 of the day's allowance used");
});

test("stopped while a stream of a provider of one's own is open, it waits a little, settles it and exits", async () => {
  let credential: string | undefined;
  const provider = createServer((request, response) => {
    credential = request.headers.authorization;
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write("data: {}\n\n");
  });
  provider.listen(0, "127.0.0.1");
  await once(provider, "listening");
  const { port } = provider.address() as AddressInfo;
  const { printed, stop } = await start({
    UPSTREAM_URL: `http://127.0.0.1:${port}`,
    UPSTREAM_API_KEY: "own",
  });

  const [secret] = printed.match(SECRET) ?? [];
  const url = /Gateway +(\S+)/.exec(printed)?.[1];
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${secret}`, "content-type": "application/json" },
    body: JSON.stringify({ model: "gpt-any", stream: true, messages: [] }),
  });
  const reader = response.body?.getReader();
  await reader?.read();
  expect(credential).toBe("Bearer own");

  const stopped = await stop("SIGTERM");
  expect(stopped.exit).toBe(0);
  // The stream had told nothing, so the estimate stands: 47 bytes in and 500 tokens out of a model without a price.
  expect(stopped.printed).toContain("Stopped. $0.020470 of the day's allowance used");
  expect(stopped.printed).toContain("$0.000000 held, 0 not written.");
  await expect(reader?.read()).rejects.toThrow();
  provider.closeAllConnections();
  provider.close();
});
