import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

/*
 * What `npm run demo` shows to somebody who has not read a line yet: every scene comes out as it says, one line each,
 * and nothing of it is to be kept secret. Run with the Node that runs the tests, against the built package.
 */

const TOUR = join(import.meta.dirname, "../../examples/demo/tour.ts");

/** Scenes and the statuses that come back, in order. */
const SCENES = [
  ["allowed", [200]],
  ["Anthropic", [200]],
  ["streamed", [200]],
  ["no key", [401]],
  ["wrong key", [401]],
  ["expired", [200, 401]],
  ["wrong model", [403]],
  ["wrong address", [403]],
  ["both headers", [200, 401]],
  ["rate limit", [200, 429]],
  ["waited", [200, 200]],
  ["in flight", [200, 429]],
  ["quota", [200, 200, 402]],
  ["revoked", [200, 401, 401]],
  ["rotated", [200, 200, 401, 200]],
  ["metered", [200, 200]],
  ["subscription", [200, 200, 402, 200]],
  ["outage", [503, 200]],
  ["restarted", [200, 200]],
] as const;

let folder: string;
let status: number | null;
let lines: readonly string[];
let printed: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "keystile-demo-test-"));
  const { FORCE_COLOR: _, ...env } = process.env;
  const played = spawnSync(process.execPath, [TOUR], { encoding: "utf8", env: { ...env, TMPDIR: folder } });
  status = played.status;
  printed = played.stdout + played.stderr;
  lines = played.stdout.split("\n");
});

afterAll(() => rmSync(folder, { recursive: true }));

test("every scene comes out as it says, and the exit code says so", () => {
  expect(printed).toContain(`${SCENES.length} of ${SCENES.length} scenes came out as they say.`);
  expect(printed).not.toContain("✗");
  expect(status).toBe(0);
});

describe("has one line for the scene", () => {
  test.each(SCENES)("%s", (name, statuses) => {
    const [line, ...more] = lines.filter((line) => line.startsWith(`✓ ${name.padEnd(13)}  `));
    expect(more).toEqual([]);
    const cameBack = (line ?? "").slice(lines[0]?.indexOf("what came back"));
    expect(cameBack.match(/(?<=^|, )\d{3}\b/g)?.map(Number)).toEqual(statuses);
  });
});

test("shows what the statuses alone do not tell", () => {
  expect(printed).toContain("200 9 events, the last is [DONE]");
  expect(printed).toContain("429 rate_limit_exceeded (Retry-After 8)");
  expect(printed).toContain("200, 200, claude-demo 93, gpt-demo 50");
  expect(printed).toContain("402 quota_exceeded, 1 left, 200");
  expect(printed).toContain("200, all booked, 200");
});

test("shows no secret, not even a made-up one", () => {
  expect(printed).not.toMatch(/sk-(?:sub-)?[A-Za-z0-9]{20,}/);
});

test("is read in 100 columns, and has no colours where there is no terminal", () => {
  expect(lines.filter((line) => line.length > 100)).toEqual([]);
  expect(printed).not.toContain("\u001b");
});

test("leaves nothing behind", () => {
  expect(readdirSync(folder)).toEqual([]);
});
