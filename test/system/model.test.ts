import { expect, test } from "vitest";
import { createKeystile } from "../../src/keystile.js";
import type { Statistics } from "../model/account.js";
import { simulate } from "../model/simulator.js";

/** `KEYSTILE_SEED=n` begins elsewhere; `KEYSTILE_MODEL_STEPS=n` goes further. */
const FIRST_SEED = Number(process.env["KEYSTILE_SEED"] ?? 1);
const STEPS = Number(process.env["KEYSTILE_MODEL_STEPS"] ?? 1_000_000);
const STEPS_PER_RUN = 2_000;

/** What must have happened, and how often at least in a million steps, for the run to say anything. */
const EVENTFUL: Statistics = {
  allowed: 20_000,
  refused: 20_000,
  faults: 10_000,
  settled: 20_000,
  conflict: 10_000,
  lost: 1_000,
  replyLost: 1_000,
  late: 1_000,
  lateWon: 300,
  duplicated: 500,
  falseConflict: 300,
  slow: 1_000,
  collected: 500,
  corrections: 300,
  forgotten: 10,
  jumps: 500,
  pauses: 500,
  crashes: 1_000,
  closes: 300,
  outages: 200,
  flushes: 3_000,
  edits: 3_000,
  "refused key_unknown": 500,
  "refused key_disabled": 500,
  "refused key_revoked": 500,
  "refused key_expired": 500,
  "refused rate_limited": 500,
  "refused concurrency_limited": 500,
  "refused key_quota_exhausted": 500,
  "refused key_quota_exhausted held": 500,
  "exact books": 500,
  "bounded books": 50,
};

test("every invariant holds in long random histories", async () => {
  const totals: Record<string, number> = {};
  let steps = 0;
  for (let seed = FIRST_SEED; steps < STEPS; seed++) {
    const outcome = await simulate(createKeystile, { seed, steps: STEPS_PER_RUN });
    if (outcome.violation !== undefined) expect.fail(outcome.violation.report);
    steps += outcome.steps;
    for (const [name, count] of Object.entries(outcome.statistics))
      totals[name] = (totals[name] ?? 0) + count;
  }
  console.log(`model: ${steps} steps from seed ${FIRST_SEED}: ${describe(totals)}`);

  const share = Math.min(1, STEPS / 1_000_000);
  for (const [name, least] of Object.entries(EVENTFUL)) {
    expect(totals[name] ?? 0, name).toBeGreaterThanOrEqual(Math.floor(least * share * 0.5));
  }
});

function describe(totals: Statistics): string {
  return Object.entries(totals)
    .sort(([, a], [, b]) => b - a)
    .map(([name, count]) => `${count} ${name}`)
    .join(", ");
}
