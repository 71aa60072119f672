import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, describe, expect, test } from "vitest";
import type { Endurance, Endured } from "./workers/endurer.ts";

/*
 * An hour of a busy gate in as long as it takes, by a clock that is moved. `KEYSTILE_ENDURANCE_REQUESTS=1000000` is the long
 * run of docs/endurance.md; `KEYSTILE_SEED=n` begins elsewhere.
 */

const REQUESTS = Number(process.env["KEYSTILE_ENDURANCE_REQUESTS"] ?? 25_000);
const SEED = Number(process.env["KEYSTILE_SEED"] ?? Date.now() % 1_000_000_007);

/** A short run would not show what each stranger leaves behind, so it has more of them. */
const FLOOD = REQUESTS < 200_000 ? 500 : 0;

/**
 * What the heap may grow by after a tenth of the way, whatever comes then. In the long run the records of 300 keys fill
 * up with the models that they count; what it would take to remember 180,000 strangers is more.
 */
const MAX_GROWTH_BYTES = (FLOOD > 0 ? 4 : 8) * 1_048_576;

const folder = mkdtempSync(join(tmpdir(), "keystile-endurance-"));
const worker = join(import.meta.dirname, "workers/endurer.ts");

afterAll(() => rmSync(folder, { recursive: true }));

describe.each([
  ["memory", "memory", REQUESTS],
  ["sqlite", join(folder, "keys.db"), Math.ceil(REQUESTS / 10)],
])("%s", (name, store, requests) => {
  let endured: Endured;

  test(`an hour of requests, and an end that nothing outlives (seed ${SEED})`, async () => {
    const endurance: Endurance = { store, seed: SEED, requests, flood: FLOOD };
    const { stdout } = await promisify(execFile)(
      process.execPath,
      ["--expose-gc", "--disable-warning=ExperimentalWarning", worker, JSON.stringify(endurance)],
      { maxBuffer: 64 * 1024 * 1024 },
    );
    endured = JSON.parse(stdout) as Endured;
    const megabytes = endured.heap.map((bytes) => (bytes / 1_048_576).toFixed(1)).join(" ");
    console.log(
      `endurance on ${name}: ${endured.requests} requests, ${endured.unknownKeys} unknown keys, ` +
        `${endured.addresses} addresses, ${endured.eventsTold} events; heap in MB at each tenth: ${megabytes}; ` +
        `${JSON.stringify(endured.outcomes)}; at the end ${JSON.stringify(endured.close)}`,
    );
    expect(endured.virtualMs).toBeGreaterThanOrEqual(3_600_000);
    expect(endured.unknownKeys).toBeGreaterThan(requests * 0.15);
    expect(endured.addresses).toBeGreaterThan(requests * 0.08);
  });

  test("memory is bounded", () => {
    const [first = 0, ...later] = endured.heap;
    expect(later).toHaveLength(9);
    expect(Math.max(...later) - first).toBeLessThan(MAX_GROWTH_BYTES);
  });

  test("nothing that a listener throws is heard of, and every kind of answer was given", () => {
    expect(endured.unhandled).toEqual([]);
    expect(endured.eventsTold).toBeGreaterThan(endured.requests);
    const reasons = ["allowed", "credential_missing", "credential_malformed", "key_unknown", "key_disabled"];
    reasons.push("model_not_allowed", "address_not_allowed");
    // Of so many in an hour some come too fast, and use a quota up.
    if (endured.requests >= 20_000) reasons.push("rate_limited", "key_quota_exhausted");
    expect(Object.keys(endured.outcomes)).toEqual(expect.arrayContaining(reasons));
  });

  test("every charge is in the books once, and nothing is held", () => {
    expect(endured.wrongBooks).toEqual([]);
  });

  test("closed with requests in flight, each is decided or refused, and all is stored", () => {
    const { close } = endured;
    expect(close.held).toBeGreaterThan(30);
    expect(close.allowed).toBeGreaterThan(0);
    expect(close.closed).toBeGreaterThan(0);
    expect(close.allowed + close.refused + close.closed).toBe(close.inFlight);
    expect(close).toMatchObject({ others: [], unwritten: 0, timersLeft: 0, storeClosedByGate: 0 });
  });
});
