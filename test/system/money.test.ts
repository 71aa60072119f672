import fc from "fast-check";
import { expect, test } from "vitest";
import { createKeystile } from "../../src/keystile.js";
import type { Statistics } from "../model/account.js";
import { MONEY_PROFILES } from "../model/money/scenario.js";
import { simulateMoney } from "../model/money/simulator.js";
import { simulateSolo } from "../model/money/solo.js";
import type { Outcome } from "../model/simulator.js";

/** `KEYSTILE_SEED=n` plays other histories; `KEYSTILE_MONEY_STEPS=n` plays more of them. */
const SEED = Number(process.env["KEYSTILE_SEED"] ?? 1);
const STEPS = Number(process.env["KEYSTILE_MONEY_STEPS"] ?? 330_000);

/** What must have happened, and how often at least in 330,000 steps, for the run to say anything. */
const EVENTFUL: Statistics = {
  allowed: 6_000,
  settled: 6_000,
  faults: 4_000,
  conflict: 2_500,
  lateWon: 80,
  collected: 150,
  corrections: 80,
  crashes: 200,
  jumps: 250,
  turns: 50,
  "turns with holds": 10,
  "resets seen": 20,
  days: 80,
  told: 150,
  "noted balance": 60,
  "noted quota": 60,
  "noted subscription": 40,
  "noted payAsYouGo": 3,
  "exact books": 50,
  "corrected books": 15,
  "refused account_suspended": 500,
  "refused subscription_ended": 250,
  "refused subscription_unpaid": 250,
  "refused subscription_exhausted": 400,
  "refused key_quota_exhausted": 700,
  "refused payg_cap_reached": 50,
  "refused balance_exhausted": 900,
  split: 25,
  "settled in a closed cycle": 150,
};

/** Two thirds of the steps go to histories of several processes, the rest to those of one thing at a time. */
const RUN_STEPS = 1_800;
const RUNS = Math.ceil((STEPS * 2) / 3 / RUN_STEPS);
const LEASED_RUNS = Math.ceil(RUNS / 8);
const SOLO_OPERATIONS = 200;
const SOLO_RUNS = Math.ceil(STEPS / 3 / 1_600);

/** Another seed is another history, not a simpler one. */
const SEEDS = fc.noShrink(fc.noBias(fc.integer({ min: 1, max: 2 ** 31 })));

const totals: Record<string, number> = {};

const history = fc.record({
  seed: SEEDS,
  profile: fc.noShrink(fc.constantFrom(...MONEY_PROFILES)),
  // What breaks does so in a shorter history, too, if it is cut behind it.
  steps: fc.noBias(fc.integer({ min: 50, max: 2 * RUN_STEPS })),
});

test("money is conserved in every state of long random histories", async () => {
  await fc.assert(
    fc.asyncProperty(history, async (run) => judge(await simulateMoney(createKeystile, run))),
    { numRuns: RUNS, seed: SEED },
  );
});

test("money is conserved with leases, too", async () => {
  const leased: Record<string, number> = {};
  await fc.assert(
    fc.asyncProperty(history, async (run) => {
      judge(await simulateMoney(createKeystile, { ...run, leaseMs: 500 }), leased);
    }),
    { numRuns: LEASED_RUNS, seed: SEED },
  );
  const share = Math.min(1, STEPS / 330_000);
  for (const [name, least] of Object.entries({ leased: 25, settled: 700, collected: 15, corrections: 5 }))
    expect(leased[name] ?? 0, name).toBeGreaterThanOrEqual(Math.floor(least * share));
});

test("one request at a time, every answer and every amount is the one of the law", async () => {
  const operations = fc.noBias(fc.integer({ min: 5, max: 2 * SOLO_OPERATIONS }));
  await fc.assert(
    fc.asyncProperty(fc.record({ seed: SEEDS, operations }), async (run) =>
      judge(await simulateSolo(createKeystile, run)),
    ),
    { numRuns: SOLO_RUNS, seed: SEED },
  );
});

test("enough has happened in them", () => {
  const told = Object.entries(totals).sort(([, a], [, b]) => b - a);
  console.log(`money: seed ${SEED}: ${told.map(([name, count]) => `${count} ${name}`).join(", ")}`);
  const share = Math.min(1, STEPS / 330_000);
  for (const [name, least] of Object.entries(EVENTFUL))
    expect(totals[name] ?? 0, name).toBeGreaterThanOrEqual(Math.floor(least * share));
});

function judge({ steps, statistics, violation }: Outcome, sums: Record<string, number> = totals): void {
  if (violation !== undefined) throw new Error(violation.report);
  for (const [name, count] of Object.entries({ ...statistics, steps }))
    sums[name] = (sums[name] ?? 0) + count;
}
