import { rmSync } from "node:fs";
import { afterAll, describe, expect, test } from "vitest";
import { breed, type Mutant, workshopOf } from "../model/breeding.js";
import { LEASED_MUTANTS, MUTANTS } from "../model/mutants.js";
import type { Profile } from "../model/scenario.js";
import { simulate, type Violation } from "../model/simulator.js";
import type { CreateSubject } from "../model/subject.js";

const WORKSHOP = workshopOf("mutants");

/** A mistake that takes more than this to show would slip through the model's own run, too. */
const MOST_STEPS = 400_000;
const STEPS_PER_RUN = 1_500;

afterAll(() => rmSync(WORKSHOP, { recursive: true, force: true }));

describe("the model catches", () => {
  test.each(MUTANTS)("$name", async (mutant) => {
    await expectCaught(mutant, 0);
  });

  test.each(LEASED_MUTANTS)("with leases: $name", async (mutant) => {
    await expectCaught(mutant, 500);
  });
});

async function expectCaught(mutant: Mutant<Profile>, leaseMs: number): Promise<void> {
  const violation = await hunt(await breed<CreateSubject>(mutant, WORKSHOP), mutant, leaseMs);
  expect(violation, "no invariant was broken").toBeDefined();
  expect(mutant.caughtBy, violation?.report).toContain(violation?.invariant);
}

async function hunt(
  create: CreateSubject,
  { profiles }: Mutant<Profile>,
  leaseMs: number,
): Promise<Violation | undefined> {
  let steps = 0;
  for (let seed = 1; steps < MOST_STEPS; seed++) {
    const profile = profiles[seed % profiles.length];
    if (profile === undefined) break;
    const outcome = await simulate(create, { seed, steps: STEPS_PER_RUN, profile, leaseMs });
    if (outcome.violation !== undefined) return outcome.violation;
    steps += outcome.steps;
  }
  return undefined;
}
