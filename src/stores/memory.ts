import { compareIds } from "../id-order.js";
import type { Document, Json, Store, Write, WriteResult } from "../store.js";

export interface MemoryStoreOptions {
  /** The store's clock in milliseconds: what every reply carries. Default `Date.now`. */
  readonly clock?: () => number;
}

/** A document as kept. Who wrote the body does not change it any more; who reads it gets a copy. */
interface Kept {
  readonly version: number;
  readonly owner: string | undefined;
  readonly body: Json;
}

/**
 * Keeps documents in this process and forgets them with it: for tests, trials and single processes without
 * quota worth keeping. It is also the contract of `Store` in its shortest form.
 *
 * Every call does all of its work before its first `await`, which is all the atomicity one process needs.
 */
export function memoryStore(options: MemoryStoreOptions = {}): Store {
  const clock = options.clock ?? Date.now;
  const kept = new Map<string, Kept>();
  // One for the whole store: a deleted document leaves nothing behind that could remember its versions.
  let revision = 0;

  function find(id: string): readonly Document[] {
    const found = kept.get(id);
    if (found === undefined) return [];
    const { version, owner, body } = found;
    const copy = JSON.parse(JSON.stringify(body)) as Json;
    return [{ id, version, ...(owner === undefined ? {} : { owner }), body: copy }];
  }

  function writeGroup(group: readonly Write[]): WriteResult {
    for (const { id, expected } of group) {
      if ((kept.get(id)?.version ?? 0) !== expected)
        return { written: false, current: group.flatMap((write) => find(write.id)) };
    }
    return { written: true, versions: group.map(writeOne) };
  }

  function writeOne({ id, expected, set, owner }: Write): number {
    if (set === undefined) return expected;
    if (set === null) {
      kept.delete(id);
      return 0;
    }
    revision += 1;
    kept.set(id, { version: revision, owner, body: set });
    return revision;
  }

  return {
    async read(ids) {
      return { documents: ids.flatMap(find), now: clock() };
    },

    async write(groups) {
      return { results: groups.map(writeGroup), now: clock() };
    },

    async list({ kind, owner, after, limit }) {
      const ids = [...kept.keys()]
        .filter((id) => id.startsWith(`${kind}:`))
        .filter((id) => owner === undefined || kept.get(id)?.owner === owner)
        .filter((id) => after === undefined || compareIds(id, after) > 0)
        .sort(compareIds);
      const page = ids.slice(0, limit);
      const next = ids.length > limit ? page.at(-1) : undefined;
      return { documents: page.flatMap(find), ...(next === undefined ? {} : { next }) };
    },

    async close() {},
  };
}
