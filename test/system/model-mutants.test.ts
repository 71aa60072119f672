import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import { MUTANTS, type Mutant } from "../model/mutants.js";
import { simulate, type Violation } from "../model/simulator.js";
import type { CreateSubject } from "../model/subject.js";

const SOURCE = fileURLToPath(new URL("../../src", import.meta.url));
const WORKSHOP = fileURLToPath(new URL("../../temp/mutants", import.meta.url));

/** A mistake that takes more than this to show would slip through the model's own run, too. */
const MOST_STEPS = 400_000;
const STEPS_PER_RUN = 1_500;

afterAll(() => rmSync(WORKSHOP, { recursive: true, force: true }));

describe("the model catches", () => {
  test.each(MUTANTS)("$name", async (mutant) => {
    const violation = await hunt(await breed(mutant), mutant);
    expect(violation, "no invariant was broken").toBeDefined();
    expect(mutant.caughtBy, violation?.report).toContain(violation?.invariant);
  });
});

/** Copies the source with one mistake in it, and loads the copy. */
async function breed({ name, file, find, replace }: Mutant): Promise<CreateSubject> {
  const directory = `${WORKSHOP}/${name.replaceAll(/\W+/g, "-")}`;
  mkdirSync(WORKSHOP, { recursive: true });
  cpSync(SOURCE, directory, { recursive: true });
  const text = readFileSync(`${directory}/${file}`, "utf8");
  expect(text.split(find), `${file} no longer has exactly one: ${find}`).toHaveLength(2);
  writeFileSync(
    `${directory}/${file}`,
    text.replace(find, () => replace),
  );
  const { createKeystile } = (await import(`${directory}/keystile.ts`)) as { createKeystile: CreateSubject };
  return createKeystile;
}

async function hunt(create: CreateSubject, { profiles }: Mutant): Promise<Violation | undefined> {
  let steps = 0;
  for (let seed = 1; steps < MOST_STEPS; seed++) {
    const profile = profiles[seed % profiles.length];
    if (profile === undefined) break;
    const outcome = await simulate(create, { seed, steps: STEPS_PER_RUN, profile });
    if (outcome.violation !== undefined) return outcome.violation;
    steps += outcome.steps;
  }
  return undefined;
}
