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
  allowed: 10_000,
  refused: 10_000,
  faults: 5_000,
  settled: 10_000,
  conflict: 5_000,
  lost: 500,
  replyLost: 500,
  late: 500,
  lateWon: 150,
  duplicated: 250,
  falseConflict: 150,
  slow: 500,
  collected: 250,
  corrections: 150,
  forgotten: 2,
  jumps: 250,
  pauses: 250,
  crashes: 500,
  closes: 150,
  outages: 100,
  flushes: 1_500,
  edits: 1_500,
  "refused key_unknown": 250,
  "refused key_disabled": 250,
  "refused key_revoked": 250,
  "refused key_expired": 250,
  "refused rate_limited": 250,
  "refused concurrency_limited": 250,
  "refused key_quota_exhausted": 250,
  "refused key_quota_exhausted held": 250,
  "exact books": 250,
  "bounded books": 25,
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
    expect(totals[name] ?? 0, name).toBeGreaterThanOrEqual(Math.floor(least * share));
  }
});

function describe(totals: Statistics): string {
  return Object.entries(totals)
    .sort(([, a], [, b]) => b - a)
    .map(([name, count]) => `${count} ${name}`)
    .join(", ");
}

/** Steps with leases, of a million without. */
const LEASED_SHARE = 0.2;

test("every invariant holds with leases, a change is seen when they end, and a crash costs at most what they hold", async () => {
  const totals: Record<string, number> = {};
  let steps = 0;
  for (let seed = FIRST_SEED; steps < STEPS * LEASED_SHARE; seed++) {
    const outcome = await simulate(createKeystile, { seed, steps: STEPS_PER_RUN, leaseMs: 500 });
    if (outcome.violation !== undefined) expect.fail(outcome.violation.report);
    steps += outcome.steps;
    for (const [name, count] of Object.entries(outcome.statistics))
      totals[name] = (totals[name] ?? 0) + count;
  }
  console.log(`model with leases: ${steps} steps from seed ${FIRST_SEED}: ${describe(totals)}`);

  const share = Math.min(1, STEPS / 1_000_000) * LEASED_SHARE;
  for (const [name, least] of Object.entries({
    leased: 500,
    allowed: 10_000,
    collected: 250,
    corrections: 150,
  }))
    expect(totals[name] ?? 0, name).toBeGreaterThanOrEqual(Math.floor(least * share));
});
