/** Other people's packages, which the bench installs for itself (`npm run bench` does). Nothing else needs them. */
import type { Subject } from "./subject.ts";

/** A contender of `peers/`, by the name of its file, over a kind of store at an address. */
export async function peer(name: string, kind: string, address = ""): Promise<Subject> {
  const { open } = await fileOfPeers<{ open(kind: string, address: string): Promise<Subject> }>(name);
  return open(kind, address);
}

/** What a file of `peers/` exports. Its name is no literal, so that types are checked without the packages. */
export function fileOfPeers<T>(name: string): Promise<T> {
  return import(`./peers/${name}.ts`) as Promise<T>;
}
