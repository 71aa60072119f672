import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect } from "vitest";

/** One deliberate mistake in the package, as an exact replacement of text that occurs once. */
export interface Mutant<P> {
  readonly name: string;
  readonly file: string;
  readonly find: string;
  readonly replace: string;
  /** Where it is looked for. */
  readonly profiles: readonly P[];
  /** The invariants that may report it. */
  readonly caughtBy: readonly string[];
}

const SOURCE = fileURLToPath(new URL("../../src", import.meta.url));

/** A directory for mutants, where they find the packages they import. */
export function workshopOf(name: string): string {
  return fileURLToPath(new URL(`../../temp/${name}`, import.meta.url));
}

/** Copies the source with one mistake in it, and loads the copy. */
export async function breed<T>({ name, file, find, replace }: Mutant<unknown>, workshop: string): Promise<T> {
  const directory = `${workshop}/${name.replaceAll(/\W+/g, "-")}`;
  mkdirSync(workshop, { recursive: true });
  cpSync(SOURCE, directory, { recursive: true });
  const text = readFileSync(`${directory}/${file}`, "utf8");
  expect(text.split(find), `${file} no longer has exactly one: ${find}`).toHaveLength(2);
  writeFileSync(
    `${directory}/${file}`,
    text.replace(find, () => replace),
  );
  const { createKeystile } = (await import(`${directory}/keystile.ts`)) as { createKeystile: T };
  return createKeystile;
}
