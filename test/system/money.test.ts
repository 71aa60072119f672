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
const STEPS = Number(process.env["KEYSTILE_MONEY_STEPS"] ?? 400_000);

/** What must have happened, and how often at least in 400,000 steps, for the run to say anything. */
const EVENTFUL: Statistics = {
  allowed: 8_000,
  settled: 8_000,
  faults: 5_000,
  conflict: 3_000,
  lateWon: 100,
  collected: 200,
  corrections: 100,
  crashes: 300,
  jumps: 200,
  turns: 80,
  "turns with holds": 20,
  "resets seen": 30,
  days: 100,
  told: 300,
  "noted balance": 100,
  "noted quota": 100,
  "noted subscription": 80,
  "noted payAsYouGo": 5,
  "exact books": 100,
  "corrected books": 20,
  "refused account_suspended": 300,
  "refused subscription_ended": 200,
  "refused subscription_unpaid": 200,
  "refused subscription_exhausted": 200,
  "refused key_quota_exhausted": 200,
  "refused payg_cap_reached": 50,
  "refused balance_exhausted": 500,
  split: 100,
  "settled in a closed cycle": 200,
};

/** Two thirds of the steps go to histories of several processes, the rest to those of one thing at a time. */
const RUN_STEPS = 1_800;
const RUNS = Math.ceil((STEPS * 2) / 3 / RUN_STEPS);
const SOLO_OPERATIONS = 200;
const SOLO_RUNS = Math.ceil(STEPS / 3 / 1_600);

const totals: Record<string, number> = {};

test("money is conserved in every state of long random histories", async () => {
  const seed = fc.integer({ min: 1, max: 2 ** 31 });
  const history = fc.record({
    seed: fc.noBias(seed),
    profile: fc.constantFrom(...MONEY_PROFILES),
    // What breaks does so in a shorter history, too, if it is cut behind it.
    steps: fc.noBias(fc.integer({ min: 50, max: 2 * RUN_STEPS })),
  });
  await fc.assert(
    fc.asyncProperty(history, async (run) => judge(await simulateMoney(createKeystile, run))),
    { numRuns: RUNS, seed: SEED },
  );
});

test("one request at a time, every answer and every amount is the one of the law", async () => {
  const seed = fc.noBias(fc.integer({ min: 1, max: 2 ** 31 }));
  const operations = fc.noBias(fc.integer({ min: 5, max: 2 * SOLO_OPERATIONS }));
  await fc.assert(
    fc.asyncProperty(fc.record({ seed, operations }), async (run) =>
      judge(await simulateSolo(createKeystile, run)),
    ),
    { numRuns: SOLO_RUNS, seed: SEED },
  );
});

test("enough has happened in them", () => {
  const told = Object.entries(totals).sort(([, a], [, b]) => b - a);
  console.log(`money: seed ${SEED}: ${told.map(([name, count]) => `${count} ${name}`).join(", ")}`);
  const share = Math.min(1, STEPS / 400_000);
  for (const [name, least] of Object.entries(EVENTFUL))
    expect(totals[name] ?? 0, name).toBeGreaterThanOrEqual(Math.floor(least * share));
});

function judge({ steps, statistics, violation }: Outcome): void {
  if (violation !== undefined) throw new Error(violation.report);
  totals["steps"] = (totals["steps"] ?? 0) + steps;
  for (const [name, count] of Object.entries(statistics)) totals[name] = (totals[name] ?? 0) + count;
}
