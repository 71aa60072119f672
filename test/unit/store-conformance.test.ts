import { setImmediate as pause } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { KeystileError } from "../../src/errors.js";
import { createKeystile } from "../../src/keystile.js";
import type { Document, Json, Store, Write, WriteResult } from "../../src/store.js";
import { memoryStore } from "../../src/stores/memory.js";
import { manualClock, storeConformance } from "../../src/testing/index.js";

/** What somebody who writes a store may get wrong, and the clause that has to find it. */
const flaws = {
  "reads come from a cache": "S1",
  "absent documents are read as empty ones": "S2",
  "a lost group is written in part": "S3",
  "a deletion in a group is forgotten": "S3",
  "members from the 51st on are not compared": "S3",
  "members that only check are skipped": "S4",
  "a check on absence is skipped": "S4",
  "versions are compared before the lock": "S4",
  "versions are compared as 32 bits": "S4",
  "a deletion takes any later version": "S4",
  "0 always holds": "S5",
  "a lost race is thrown": "S6",
  "a lost race brings only the stale documents": "S6",
  "a lost race brings nothing": "S6",
  "a write sent again is taken for the one it repeats": "S6",
  "versions begin anew after a deletion": "S7",
  "a lost group takes the others along": "S8",
  "results are in the order of ids": "S8",
  "the clock is read before the lock": "S9",
  "a call of nothing tells no time": "S9",
  "a lost race tells no time": "S9",
  "false, 0 and '' are taken for nothing": "S10",
  "bodies are merged": "S10",
  "empty lists become empty maps": "S10",
  "members that are undefined are kept": "S10",
  "__proto__ is assigned": "S10",
  "bodies are floats of 32 bits": "S10",
  "bodies end at 64,000 characters": "S10",
  "returned bodies are shared": "S10",
  "ids fold case": "S11",
  "ids are normalised": "S11",
  "ids end at NUL": "S11",
  "ids are trimmed": "S11",
  "ids end at 500 characters": "S11",
  "of ids in a call that fold alike the last is written": "S11",
  "a list is in the order of UTF-16 units": "S12",
  "a list is in the order of arrival": "S12",
  "a full last page has a next": "S12",
  "a kind is any prefix": "S12",
  "owners fold case": "S12",
  "owners end at NUL": "S12",
  "the first owner stays": "S12",
  "pages are counted, not continued": "S12",
  "pages of an owner are counted, not continued": "S12",
  "a page begins after the last document if it is still there": "S12",
  "a page holds 500 documents": "S12",
  "after close a write happens and is denied": "S13",
  "a second close is thrown": "S14",
} as const;

type Flaw = keyof typeof flaws;

describe("the suite finds a store in which", () => {
  test.each(Object.entries(flaws))("%s (%s)", async (flaw, clause) => {
    expect(await brokenClauses(flaw as Flaw)).toContain(clause);
  });

  test("nothing is wrong to be sound", async () => {
    expect(await brokenClauses(undefined)).toEqual([]);
  });

  test("each clause can be broken, and is", () => {
    const clauses = new Set(storeConformance({ open: () => memoryStore() }).map(({ clause }) => clause));
    expect(new Set<string>(Object.values(flaws))).toEqual(clauses);
  });
});

test("the memory store tells the time of the clock it was given", async () => {
  const clock = manualClock(1_000);
  const store = memoryStore({ clock: clock.now });
  clock.advance(500);
  expect((await store.read([])).now).toBe(1_500);
  clock.set(200);
  expect((await store.write([])).now).toBe(200);
});

test("what an operator does to a policy that was given changes nothing that the memory store keeps", async () => {
  const gate = createKeystile({ store: memoryStore() });
  const metadata = { team: "red" };
  const limits = [{ requests: 5, windowMs: 1_000 }];
  const allowedModels = ["gpt-*"];
  const { key } = await gate.keys.issue({ metadata, limits, allowedModels });
  metadata.team = "blue";
  limits.push({ requests: 1, windowMs: 1 });
  (limits[0] as { requests: number }).requests = 50;
  allowedModels.push("**");
  const expected = { metadata: { team: "red" }, limits: [{ requests: 5 }], allowedModels: ["gpt-*"] };
  expect(await gate.keys.get(key.id)).toMatchObject(expected);
  await gate.close();
});

async function brokenClauses(flaw: Flaw | undefined): Promise<string[]> {
  const database: Database = { documents: new Map(), revision: 0, ticks: 0 };
  const broken = new Set<string>();
  for (const { clause, run } of storeConformance({ open: () => naiveStore(database, flaw) })) {
    await run().catch(() => broken.add(clause));
  }
  return [...broken];
}

interface Database {
  readonly documents: Map<string, Document>;
  revision: number;
  ticks: number;
}

/** A correct store, written without regard for beauty, in which one thing can be made wrong. */
function naiveStore(database: Database, flaw: Flaw | undefined): Store {
  const { documents } = database;
  const is = (one: Flaw): boolean => one === flaw;
  const cache = new Map<string, Document | undefined>();
  let closed = 0;

  function keyOf(id: string): string {
    if (is("ids fold case")) return id.toLowerCase();
    if (is("ids are normalised")) return id.normalize();
    if (is("ids end at NUL")) return id.split("\0")[0] ?? "";
    if (is("ids are trimmed")) return id.trim();
    if (is("ids end at 500 characters")) return id.slice(0, 500);
    return id;
  }

  function kept(body: Json): Json {
    if (is("bodies are floats of 32 bits") && typeof body === "number") return Math.fround(body);
    if (is("bodies end at 64,000 characters") && typeof body === "string") return body.slice(0, 64_000);
    if (is("empty lists become empty maps") && Array.isArray(body) && body.length === 0) return {};
    if (is("__proto__ is assigned")) return assigned(body);
    if (is("members that are undefined are kept")) return structuredClone(body);
    return JSON.parse(JSON.stringify(body)) as Json;
  }

  function found(id: string): Document | undefined {
    const document = documents.get(keyOf(id));
    return is("returned bodies are shared") ? document : structuredClone(document);
  }

  function versionOf(id: string): number {
    return documents.get(keyOf(id))?.version ?? 0;
  }

  function isStale({ id, expected, set }: Write, at: number): boolean {
    if (is("members from the 51st on are not compared") && at >= 50) return false;
    if (is("versions are compared as 32 bits")) return ((versionOf(id) ^ expected) | 0) !== 0;
    if (is("a deletion takes any later version") && set === null && expected > 0) {
      return versionOf(id) === 0 || versionOf(id) > expected;
    }
    if (is("a write sent again is taken for the one it repeats") && set !== undefined && set !== null) {
      const body = documents.get(keyOf(id))?.body;
      if (body !== undefined && JSON.stringify(body) === JSON.stringify(set)) return false;
    }
    if (is("members that only check are skipped") && set === undefined) return false;
    if (is("a check on absence is skipped") && set === undefined && expected === 0) return false;
    if (is("0 always holds") && expected === 0) return false;
    return versionOf(id) !== expected;
  }

  function apply({ id, set, owner }: Write): number {
    const before = documents.get(keyOf(id));
    const isDeletion =
      set === null || (is("false, 0 and '' are taken for nothing") && set !== undefined && !set);
    if (isDeletion) {
      if (!is("a deletion in a group is forgotten")) documents.delete(keyOf(id));
      return 0;
    }
    if (set === undefined || set === null) return before?.version ?? 0;
    database.revision += 1;
    const version = is("versions begin anew after a deletion")
      ? (before?.version ?? 0) + 1
      : database.revision;
    const isMerge = is("bodies are merged") && typeof before?.body === "object" && typeof set === "object";
    const body = isMerge ? { ...(before.body as object), ...set } : kept(set);
    const owned = is("the first owner stays") ? (before?.owner ?? owner) : owner;
    documents.set(keyOf(id), {
      id: keyOf(id),
      version,
      ...(owned === undefined ? {} : { owner: owned }),
      body,
    });
    return version;
  }

  function lose(group: readonly Write[], stale: readonly Write[]): WriteResult {
    if (is("a lost race is thrown")) throw new Error("could not serialize access");
    if (is("a lost race brings nothing")) return { written: false, current: [] };
    const brought = is("a lost race brings only the stale documents") ? stale : group;
    return { written: false, current: brought.flatMap(({ id }) => found(id) ?? []) };
  }

  return {
    async read(ids) {
      database.ticks += 1;
      const read = ids.map((id) => {
        if (is("absent documents are read as empty ones")) return found(id) ?? { id, version: 0, body: null };
        if (!is("reads come from a cache")) return found(id);
        if (!cache.has(id)) cache.set(id, found(id));
        return cache.get(id);
      });
      return { documents: read.flatMap((document) => document ?? []), now: database.ticks };
    },

    async write(given) {
      if (is("a call of nothing tells no time") && given.length === 0) return { results: [], now: 0 };
      let groups = is("results are in the order of ids")
        ? [...given].sort((a, b) => ((a[0]?.id ?? "") < (b[0]?.id ?? "") ? -1 : 1))
        : given;
      if (is("of ids in a call that fold alike the last is written")) {
        const last = new Map(groups.flat().map((write) => [write.id.toLowerCase(), write.set]));
        groups = groups.map((group) =>
          group.map((write) =>
            write.set ? { ...write, set: last.get(write.id.toLowerCase()) ?? null } : write,
          ),
        );
      }
      database.ticks += 1;
      let now = database.ticks;
      const early = groups.map((group) => group.filter(isStale));
      if (is("the clock is read before the lock")) for (let n = now % 5; n > 0; n -= 1) await pause();
      if (is("versions are compared before the lock")) await pause();
      if (!is("the clock is read before the lock")) {
        database.ticks += 1;
        now = database.ticks;
      }
      const late = groups.map((group) => group.filter(isStale));
      const stale = is("versions are compared before the lock") ? early : late;
      const isSpoilt = is("a lost group takes the others along") && stale.some((one) => one.length > 0);
      const results = groups.map((group, n): WriteResult => {
        const lost = stale[n] ?? [];
        if (lost.length === 0 && !isSpoilt) return { written: true, versions: group.map(apply) };
        if (is("a lost group is written in part"))
          for (const write of group) if (!lost.includes(write)) apply(write);
        return lose(group, lost);
      });
      if (closed > 0 && is("after close a write happens and is denied")) {
        throw new KeystileError("store_unavailable", "closed", { mayHaveHappened: false });
      }
      if (is("a lost race tells no time") && results.some((one) => !one.written)) now = 0;
      return { results, now };
    },

    async list({ kind, owner, after = "", limit }) {
      const isCounted =
        is("pages are counted, not continued") ||
        (is("pages of an owner are counted, not continued") && owner !== undefined);
      const fold = (text: string | undefined): string | undefined => {
        if (is("owners end at NUL")) return text?.split("\0")[0];
        return is("owners fold case") ? text?.toLowerCase() : text;
      };
      const all = [...documents.values()]
        .filter((document) => document.id.startsWith(is("a kind is any prefix") ? kind : `${kind}:`))
        .filter((document) => owner === undefined || fold(document.owner) === fold(owner));
      if (is("a list is in the order of UTF-16 units")) all.sort((a, b) => (a.id < b.id ? -1 : 1));
      else if (!is("a list is in the order of arrival")) {
        all.sort((a, b) => Buffer.compare(Buffer.from(a.id), Buffer.from(b.id)));
      }
      const isAfter = (id: string): boolean => Buffer.compare(Buffer.from(id), Buffer.from(after)) > 0;
      const skipped = isCounted ? Number(after.split("#")[1] ?? 0) : 0;
      let rest = isCounted ? all.slice(skipped) : all.filter((document) => isAfter(document.id));
      if (is("a page begins after the last document if it is still there")) {
        rest = all.slice(all.findIndex((document) => document.id === after) + 1);
      }
      const page = rest.slice(0, is("a page holds 500 documents") ? Math.min(limit, 500) : limit);
      const isLast = is("a full last page has a next") ? rest.length < limit : rest.length <= page.length;
      const next = isCounted ? `${kind}#${String(skipped + page.length).padStart(9, "0")}` : page.at(-1)?.id;
      const listed = page.flatMap((document) => found(document.id) ?? []);
      return { documents: listed, ...(isLast || next === undefined ? {} : { next }) };
    },

    async close() {
      closed += 1;
      if (closed > 1 && is("a second close is thrown")) throw new Error("closed already");
    },
  };
}

function assigned(body: Json): Json {
  if (typeof body !== "object" || body === null) return body;
  if (Array.isArray(body)) return body.map(assigned);
  const copy: Record<string, Json> = {};
  for (const [name, member] of Object.entries(body)) if (member !== undefined) copy[name] = assigned(member);
  return copy;
}
