/**
 * A complete store, written against docs/stores.md: a journal. A call that changes something appends one line and waits
 * for the disk, so it is kept whole or not at all. For one process at a time, and what fits into its memory.
 */
import { open, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { type Document, KeystileError, type Store, type WriteResult } from "keystile";

export async function openJournalStore(path: string): Promise<Store> {
  // Fails where the file exists. After a crash remove it by hand, once you are sure that nobody uses the journal.
  await writeFile(`${path}.lock`, "", { flag: "wx" });
  const documents = new Map<string, Document>();
  // S7: one for the whole store, since a deleted document leaves nothing behind that remembers its versions.
  let revision = 0;
  let isOpen = true;
  let turn: Promise<unknown> = Promise.resolve();
  let closing: Promise<void> | undefined;

  const lines = (await readFile(path, { encoding: "utf8", flag: "a+" })).split("\n");
  // What follows the last line break was cut off by a crash: nobody was ever told that it is there.
  for (const line of lines.slice(0, -1)) apply(...(JSON.parse(line) as [number, Document[]]));

  // Go on in a short journal. A crash meanwhile leaves the old one, until the folder is on the disk, too.
  const journal = await open(`${path}.new`, "w");
  await append(revision, [...documents.values()]);
  await rename(`${path}.new`, path);
  const folder = await open(dirname(path));
  await folder.sync().finally(() => folder.close());

  /** A change is the document as it will be. A body of null, which no document has, says that it is deleted. */
  function apply(last: number, changes: readonly Document[]): void {
    revision = last;
    for (const one of changes) one.body === null ? documents.delete(one.id) : documents.set(one.id, one);
  }

  async function append(last: number, changes: readonly Document[]): Promise<void> {
    await journal.appendFile(`${JSON.stringify([last, changes])}\n`);
    await journal.datasync();
  }

  /** S10: copies, since callers may do to a document what they like. */
  function find(ids: readonly string[]): Document[] {
    if (!isOpen) throw new KeystileError("store_unavailable", "closed", { mayHaveHappened: false });
    return JSON.parse(JSON.stringify(ids.flatMap((id) => documents.get(id) ?? [])));
  }

  async function exchange(groups: Parameters<Store["write"]>[0]): ReturnType<Store["write"]> {
    const now = Date.now();
    const changes: Document[] = [];
    const results = groups.map((group): WriteResult => {
      const current = find(group.map(({ id }) => id));
      const holds = group.every(({ id, expected }) => (documents.get(id)?.version ?? 0) === expected);
      if (!holds) return { written: false, current };
      const versions = group.map(({ id, expected, set, owner }) => {
        if (set === undefined) return expected;
        const version = set === null ? 0 : ++revision;
        changes.push({ id, version, ...(owner !== undefined && { owner }), body: set });
        return version;
      });
      return { written: true, versions };
    });
    if (changes.length > 0) await append(revision, changes);
    apply(revision, changes);
    return { results, now };
  }

  return {
    read: async (ids) => ({ documents: find(ids), now: Date.now() }),
    async write(groups) {
      const own = structuredClone(groups);
      const written = turn.then(() => exchange(own));
      // S13: nobody knows whether the disk has a line that failed, and none may follow it: this error stays.
      turn = written;
      return written;
    },
    async list({ kind, owner, after = "", limit }) {
      const owned = [...documents.values()].filter((one) => owner === undefined || one.owner === owner);
      const ofKind = owned.map(({ id }) => id).filter((id) => id.startsWith(`${kind}:`));
      const ids = ofKind.filter((id) => byBytes(id, after) > 0).sort(byBytes);
      const next = ids.length > limit ? ids[limit - 1] : undefined;
      return { documents: find(ids.slice(0, limit)), ...(next !== undefined && { next }) };
    },
    async close() {
      closing ??= turn
        .catch(() => {})
        .then(async () => {
          isOpen = false;
          await journal.close();
          await rm(`${path}.lock`);
        });
      return closing;
    },
  };
}

/** S12: the order of UTF-8 bytes. That of JavaScript is by UTF-16 units. */
function byBytes(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}
