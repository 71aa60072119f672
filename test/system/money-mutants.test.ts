import { rmSync } from "node:fs";
import { afterAll, describe, expect, test } from "vitest";
import { breed, workshopOf } from "../model/breeding.js";
import { MONEY_MUTANTS, type MoneyMutant } from "../model/money/mutants.js";
import { type CreateGate, simulateMoney } from "../model/money/simulator.js";
import { simulateSolo } from "../model/money/solo.js";
import type { Violation } from "../model/simulator.js";

const WORKSHOP = workshopOf("money-mutants");

/** A mistake that takes more than this to show would slip through the model's own run, too. */
const MOST_STEPS = 200_000;

afterAll(() => rmSync(WORKSHOP, { recursive: true, force: true }));

describe("the model of money catches", () => {
  test.each(MONEY_MUTANTS)("$name", async (mutant) => {
    const violation = await hunt(await breed<CreateGate>(mutant, WORKSHOP), mutant);
    expect(violation, "no invariant was broken").toBeDefined();
    expect(mutant.caughtBy, violation?.report).toContain(violation?.invariant);
  });
});

async function hunt(create: CreateGate, { profiles }: MoneyMutant): Promise<Violation | undefined> {
  let steps = 0;
  for (let seed = 1; steps < MOST_STEPS; seed++) {
    const profile = profiles[seed % profiles.length];
    if (profile === undefined) break;
    const outcome =
      profile === "solo"
        ? await simulateSolo(create, { seed, operations: 200 })
        : await simulateMoney(create, { seed, steps: 1_500, profile });
    if (outcome.violation !== undefined) return outcome.violation;
    steps += outcome.steps;
  }
  return undefined;
}
