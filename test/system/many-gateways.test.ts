import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { expect, test } from "vitest";

/*
 * What `npm run demo:many` shows: real servers, three gateway processes of which one is killed, and books that fit what
 * callers in another process have counted. The example starts and stops everything itself.
 */

const RUN = join(import.meta.dirname, "../../examples/many-gateways/run.ts");

/** The exit code where there is no such server. */
const LEFT_OUT = 2;

/** Of a run of 600 requests: what each fund may spend, and what it refuses with. */
const FUNDS: readonly (readonly [name: string, limit: number | "none", code: string])[] = [
  ["key with quota", 75, "402 quota_exceeded"],
  ["account, 3 keys", 225, "402 insufficient_balance"],
  ["subscription", 75, "402 quota_exceeded"],
  ["key without limit", "none", ""],
];

test.for(["postgres", "redis-cluster"])("nothing is overspent on %s", async (store, { skip }) => {
  const { status, printed, left } = await play(store, "600");
  expect(left).toEqual([]);
  if (status === LEFT_OUT && process.env["KEYSTILE_TEST_REQUIRE_ALL"] !== "1") {
    console.warn(`There is no server for ${store}: what needs one is SKIPPED.`);
    skip();
  }
  expect(printed).toContain("never overspent: yes, all accounted for: yes");
  expect(status).toBe(0);
  expect(printed).toMatch(/one gateway is killed \(SIGKILL\)\nafter \d+ requests it is back\n/);
  for (const [name, limit, code] of FUNDS) checkLine(printed, name, limit, code);
  expect(printed).not.toMatch(/sk-(?:sub-)?[A-Za-z0-9]{20,}/);
});

test("a name that is no store's is an error", async () => {
  const { status, printed } = await play("mysql");
  expect(printed).toContain("Expected one of postgres, redis-cluster");
  expect(status).toBe(1);
});

/** The columns: requested, admitted, refused, faults, cut off, spent, limit, codes. */
function checkLine(printed: string, name: string, limit: number | "none", code: string): void {
  const line = printed.split("\n").find((each) => each.startsWith(`${name}  `)) ?? "";
  const columns = line.slice(name.length).trim().split(/ {2,}/);
  const [requested = 0, admitted = 0, refused = 0, faults = 0, cutOff = 0, spent = 0] = columns.map(Number);
  expect(columns.slice(6)).toEqual(code === "" ? [`${limit}`] : [`${limit}`, code]);
  expect(requested).toBe(admitted + refused + faults + cutOff);
  expect(spent).toBeGreaterThanOrEqual(admitted);
  expect(spent).toBeLessThanOrEqual(Math.min(admitted + cutOff, limit === "none" ? Infinity : limit));
  expect(refused > 0).toBe(limit !== "none");
}

/** Runs the example with a folder for temporary files of its own, and tells what it has left there. */
async function play(
  ...args: readonly string[]
): Promise<{ readonly status: number | null; readonly printed: string; readonly left: readonly string[] }> {
  const folder = mkdtempSync(join(tmpdir(), "keystile-many-gateways-"));
  try {
    // A Postgres that root starts runs as somebody else.
    chmodSync(folder, 0o755);
    const { FORCE_COLOR: _, ...env } = process.env;
    const child = spawn(process.execPath, [RUN, ...args], { env: { ...env, TMPDIR: folder } });
    const [[status], out, err] = await Promise.all([
      once(child, "exit"),
      text(child.stdout),
      text(child.stderr),
    ]);
    return { status, printed: out + err, left: readdirSync(folder) };
  } finally {
    rmSync(folder, { recursive: true });
  }
}
