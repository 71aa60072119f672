/** Other people's packages, which the bench installs for itself (`npm run bench` does). Never needed for anything else. */
import type { Subject } from "./subject.ts";

/** A contender of `peers/`, by the name of its file, over a kind of store at an address. */
export async function peer(name: string, kind: string, address = ""): Promise<Subject> {
  // Not a literal, so that nobody needs the packages to check the types of what is here.
  const file = `./peers/${name}.ts`;
  const { open } = (await import(file)) as { open(kind: string, address: string): Promise<Subject> };
  return open(kind, address);
}
