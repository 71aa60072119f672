import type { Document, Json, Write, WriteResult } from "../../src/store.js";

/** The one store behind all connections, and the truth that the oracle inspects. */
export interface TrueStore {
  read(ids: readonly string[]): readonly Document[];
  write(groups: readonly (readonly Write[])[]): readonly WriteResult[];
}

/**
 * Keeps documents as deeply frozen values that all readers share: who changes what it was given throws. Versions
 * grow by more than one, so that nobody can count on the next one.
 *
 * `onWritten` is told of every change, in the order in which the changes happened.
 */
export function trueStore(onWritten: (document: Document) => void): TrueStore {
  const kept = new Map<string, Document>();
  let revision = 0;

  function find(id: string): readonly Document[] {
    const document = kept.get(id);
    return document === undefined ? [] : [document];
  }

  function writeGroup(group: readonly Write[]): WriteResult {
    const holds = group.every(({ id, expected }) => (kept.get(id)?.version ?? 0) === expected);
    if (!holds) return { written: false, current: group.flatMap(({ id }) => find(id)) };
    const versions = group.map(({ id, expected, set, owner }) => {
      if (set === undefined) return expected;
      if (set === null) {
        kept.delete(id);
        return 0;
      }
      revision += 1 + (revision % 3);
      // A store may keep what it is given: nobody changes that any more.
      freeze(set);
      const document = { id, version: revision, ...(owner === undefined ? {} : { owner }), body: copy(set) };
      kept.set(id, document);
      onWritten(document);
      return revision;
    });
    return { written: true, versions };
  }

  return {
    read: (ids) => ids.flatMap(find),
    write: (groups) => groups.map(writeGroup),
  };
}

function copy(body: Json): Json {
  return freeze(JSON.parse(JSON.stringify(body)) as Json);
}

function freeze(value: Json): Json {
  if (typeof value !== "object" || value === null || Object.isFrozen(value)) return value;
  for (const inner of Object.values(value)) freeze(inner as Json);
  return Object.freeze(value);
}
