import { setImmediate as pause } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { KeystileError } from "../../src/errors.js";
import { compareIds } from "../../src/id-order.js";
import type { Document, Store, WriteResult } from "../../src/store.js";
import { memoryStore } from "../../src/stores/memory.js";
import { storeDurability } from "../../src/testing/index.js";

/** What may be lost or wrong once a store was closed and opened again, and the clause that has to find it. */
const flaws = {
  "nothing is kept": "S1",
  "the last document is lost": "S1",
  "deletions are lost": "S1",
  "half of the last group is lost": "S3",
  "what was under way is denied and happens": "S3",
  "what was under way is acknowledged and dropped": "S3",
  "versions are not compared with those from before": "S6",
  "versions begin anew": "S7",
  "versions go on from the highest that is left": "S7",
  "the clock is that of the process": "S9",
  "owners end at NUL": "S10",
  "numbers become floats of 32 bits": "S10",
  "__proto__ is left out": "S10",
  "the place in a list is kept in the process": "S12",
} as const;

type Flaw = keyof typeof flaws;

describe("the durability list finds a store in which", () => {
  test.each(Object.entries(flaws))("%s (%s)", async (flaw, clause) => {
    expect(await brokenClauses(flaw as Flaw)).toContain(clause);
  });

  test("nothing is wrong to be sound", async () => {
    expect(await brokenClauses(undefined)).toEqual([]);
  });

  test("each of its clauses can be broken, and is", () => {
    const clauses = storeDurability({ open: () => memoryStore() }).map(({ clause }) => clause);
    expect(new Set<string>(Object.values(flaws))).toEqual(new Set(clauses));
  });
});

test("the memory store promises none of it", async () => {
  const failed = new Set<string>();
  for (const { clause, run } of storeDurability({ open: () => memoryStore() })) {
    await run().catch(() => failed.add(clause));
  }
  expect(failed).toContain("S1");
});

test("reopen, when given, opens all but the first", async () => {
  const disk = newDisk();
  let calls: string[] = [];
  function opens(name: string): () => Store {
    return () => {
      calls.push(name);
      return openStore(disk, undefined);
    };
  }
  for (const { run } of storeDurability({ open: opens("open"), reopen: opens("reopen") })) {
    calls = [];
    await run();
    expect(calls.length).toBeGreaterThan(1);
    expect(calls).toEqual(calls.map((_, n) => (n === 0 ? "open" : "reopen")));
  }
});

async function brokenClauses(flaw: Flaw | undefined): Promise<string[]> {
  const disk = newDisk();
  const broken = new Set<string>();
  for (const { clause, run } of storeDurability({ open: () => openStore(disk, flaw) })) {
    await run().catch(() => broken.add(clause));
  }
  return [...broken];
}

/** What outlives a store. */
interface Disk {
  readonly documents: Map<string, Document>;
  readonly deleted: Document[];
  revision: number;
  ticks: number;
}

function newDisk(): Disk {
  return { documents: new Map(), deleted: [], revision: 0, ticks: 0 };
}

/** A correct store on a disk that may have been damaged since it was last closed. */
function openStore(disk: Disk, flaw: Flaw | undefined): Store {
  const is = (one: Flaw): boolean => one === flaw;
  damage(disk, flaw);
  const { documents } = disk;
  const fromBefore = new Set(documents.keys());
  const places = new Map<string, string>();
  let isClosed = false;

  function versionOf(id: string): number {
    return documents.get(id)?.version ?? 0;
  }

  function find(ids: readonly string[]): Document[] {
    return structuredClone(ids.flatMap((id) => documents.get(id) ?? []));
  }

  return {
    async read(ids) {
      disk.ticks += 1;
      return { documents: find(ids), now: disk.ticks };
    },

    async write(groups) {
      await pause();
      disk.ticks += 1;
      const now = disk.ticks;
      const closed = new KeystileError("store_unavailable", "closed", { mayHaveHappened: false });
      if (isClosed && is("what was under way is acknowledged and dropped")) {
        return { results: groups.map((group) => ({ written: true, versions: group.map(() => 1) })), now };
      }
      if (isClosed && !is("what was under way is denied and happens")) throw closed;
      const results = groups.map((group): WriteResult => {
        const holds = group.every(({ id, expected }) => {
          if (is("versions are not compared with those from before") && fromBefore.has(id))
            return expected > 0;
          return versionOf(id) === expected;
        });
        if (!holds) return { written: false, current: find(group.map(({ id }) => id)) };
        const versions = group.map(({ id, set, owner }) => {
          if (set === undefined) return versionOf(id);
          disk.deleted.push(...find(set === null ? [id] : []));
          documents.delete(id);
          if (set === null) return 0;
          disk.revision += 1;
          const owned = owner === undefined ? {} : { owner };
          documents.set(id, { id, version: disk.revision, ...owned, body: structuredClone(set) });
          return disk.revision;
        });
        return { written: true, versions };
      });
      if (isClosed) throw closed;
      return { results, now };
    },

    async list({ kind, owner, after = "", limit }) {
      const from = is("the place in a list is kept in the process") ? (places.get(after) ?? "") : after;
      const ids = [...documents.values()]
        .filter((one) => one.id.startsWith(`${kind}:`) && (owner === undefined || one.owner === owner))
        .map(({ id }) => id)
        .filter((id) => compareIds(id, from) > 0)
        .sort(compareIds);
      const next = ids.length > limit ? ids[limit - 1] : undefined;
      if (next !== undefined) places.set(next, next);
      return { documents: find(ids.slice(0, limit)), ...(next === undefined ? {} : { next }) };
    },

    async close() {
      isClosed = true;
    },
  };
}

function damage(disk: Disk, flaw: Flaw | undefined): void {
  const { documents } = disk;
  const is = (one: Flaw): boolean => one === flaw;
  const last = [...documents.keys()].at(-1) ?? "";
  if (is("nothing is kept")) documents.clear();
  if (is("the last document is lost") || is("half of the last group is lost")) documents.delete(last);
  if (is("deletions are lost")) for (const one of disk.deleted) documents.set(one.id, one);
  if (is("versions begin anew")) disk.revision = 0;
  if (is("versions go on from the highest that is left")) {
    disk.revision = Math.max(0, ...[...documents.values()].map(({ version }) => version));
  }
  if (is("the clock is that of the process")) disk.ticks = 0;
  for (const [id, { owner, body, ...rest }] of documents) {
    const owned = is("owners end at NUL") ? owner?.split("\0")[0] : owner;
    const text = JSON.stringify(body);
    documents.set(id, {
      ...rest,
      ...(owned === undefined ? {} : { owner: owned }),
      body: JSON.parse(text, (name, value) => {
        if (is("__proto__ is left out") && name === "__proto__") return undefined;
        const isCut = is("numbers become floats of 32 bits") && typeof value === "number";
        return isCut ? Math.fround(value) : value;
      }),
    });
  }
}
