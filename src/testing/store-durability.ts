import { isKeystileError } from "../errors.js";
import type { Json, Store, Write, WriteResult } from "../store.js";
import {
  attempt,
  checks,
  deletes,
  ensure,
  get,
  getAll,
  lost,
  newKind,
  put,
  same,
  sets,
  upTo,
  written,
} from "./store-bench.js";
import type { ConformanceCase } from "./store-conformance.js";

/** What a case works on. */
interface DurabilityBench {
  readonly store: Store;
  /** Closes the store that was opened last and opens its documents again. */
  readonly reopen: () => Promise<Store>;
  readonly kind: string;
  readonly id: (rest: string | number) => string;
}

interface DurabilityCase {
  readonly clause: string;
  readonly name: string;
  readonly check: (bench: DurabilityBench) => Promise<void>;
}

const durabilityCases: readonly DurabilityCase[] = [
  { clause: "S1", name: "what was acknowledged is there after reopening", check: keepsDocuments },
  {
    clause: "S3",
    name: "what was under way at the end is there whole or not at all",
    check: keepsGroupsWhole,
  },
  { clause: "S6", name: "who comes from before the end loses to who came after", check: refusesTheStale },
  { clause: "S7", name: "versions go on rising after reopening", check: goesOnRising },
  { clause: "S7", name: "versions go on rising after deleting and reopening", check: remembersTheDeleted },
  { clause: "S9", name: "time does not run back by reopening", check: keepsTime },
  { clause: "S10", name: "bodies and owners come back as they were after reopening", check: keepsBodies },
  { clause: "S12", name: "a list goes on where it was after reopening", check: continuesLists },
];

/**
 * What a store promises that keeps documents beyond its own life, as cases like those of `storeConformance()`: what
 * was acknowledged is there after reopening, versions go on rising, a list continues.
 *
 * Every case calls `open`, closes that store and calls `reopen` (once or more), which opens the same documents
 * again as another process would: with a new handle or client, or after a restart of the server. By default it is
 * `open`, which then opens the same database every time. Run one case after the other.
 */
export function storeDurability(options: {
  readonly open: () => Store | Promise<Store>;
  readonly reopen?: () => Store | Promise<Store>;
}): readonly ConformanceCase[] {
  const { open, reopen = open } = options;
  return durabilityCases.map(({ clause, name, check }, index) => ({
    clause,
    name,
    async run() {
      const kind = newKind(index);
      const store = await open();
      let last = store;
      async function openAgain(): Promise<Store> {
        await last.close();
        last = await reopen();
        return last;
      }
      try {
        await check({ store, reopen: openAgain, kind, id: (rest) => `${kind}:${rest}` });
      } finally {
        await last.close();
      }
    },
  }));
}

async function keepsDocuments({ store, reopen, id }: DurabilityBench): Promise<void> {
  const ids = upTo(20).map((n) => id(n));
  const [made = "", changed = "", gone = "", refused = ""] = ids;
  const versions = await written(store, ...[made, changed, gone].map((one) => sets(one, 0, "first", "o")));
  await written(store, sets(changed, versions[1] ?? 0, "second"), deletes(gone, versions[2] ?? 0));
  await lost(store, sets(made, versions[1] ?? 0, "lost"), sets(refused, 0, "lost"), checks(gone, 1));
  await store.write(ids.slice(4).map((one) => [sets(one, 0, one)]));
  const before = await getAll(store, ids);

  const again = await reopen();
  same(await getAll(again, ids), before, "the documents after reopening");
  same(await getAll(await reopen(), ids), before, "the documents after reopening once more");
}

async function keepsGroupsWhole({ store, reopen, id }: DurabilityBench): Promise<void> {
  const groups = upTo(30).map((n) => [sets(id(`${n}a`), 0, n), sets(id(`${n}b`), 0, n)]);
  function begin(some: typeof groups): Promise<PromiseSettledResult<WriteResult>[]> {
    return Promise.allSettled(some.map((group) => attempt(store, ...group)));
  }
  const done = await begin(groups.slice(0, 10));
  // Nobody waits for these replies before the store is closed. What they say must be true all the same.
  const pending = begin(groups.slice(10));
  const [again, late] = await Promise.all([reopen(), pending]);
  const outcomes = [...done, ...late];
  for (const [n, group] of groups.entries()) {
    const ids = group.map((write) => write.id);
    const count = (await getAll(again, ids)).length;
    ensure(count === 0 || count === ids.length, "a group is there whole or not at all");
    const told = wasWritten(outcomes[n]);
    if (told !== undefined) same(count > 0, told, "whether a group is there, against what was told");
  }
}

/** What was told of a write; undefined where that was left open. */
function wasWritten(outcome: PromiseSettledResult<WriteResult> | undefined): boolean | undefined {
  if (outcome?.status === "fulfilled") return outcome.value.written;
  const error: unknown = outcome?.reason;
  return isKeystileError(error) && !error.mayHaveHappened ? false : undefined;
}

async function refusesTheStale({ store, reopen, id }: DurabilityBench): Promise<void> {
  const a = id("a");
  const old = await put(store, sets(a, 0, "old"));
  const again = await reopen();
  const version = await put(again, sets(a, old, "new", "o"));
  const current = { id: a, version, owner: "o", body: "new" };
  const third = await reopen();
  const stale: readonly Write[] = [sets(a, old, "mine"), deletes(a, old), checks(a, old), sets(a, 0, "mine")];
  for (const write of stale) same(await lost(third, write), [current], "what the stale writer is shown");
}

async function goesOnRising({ store, reopen, id }: DurabilityBench): Promise<void> {
  let [at, current] = [0, store];
  for (const round of upTo(4)) {
    const version = await put(current, sets(id("a"), at, round));
    ensure(version > at, `after reopening it has version ${version}, higher than ${at}`);
    at = version;
    current = await reopen();
  }
  same(await get(current, id("a")), { id: id("a"), version: at, body: 3 }, "the document at the end");
}

async function remembersTheDeleted({ store, reopen, id }: DurabilityBench): Promise<void> {
  const a = id("a");
  let [highest, current] = [0, store];
  for (const life of upTo(4)) {
    const first = await put(current, sets(a, 0, life));
    ensure(first > highest, `made again it has version ${first}, higher than ${highest} which it once had`);
    if (highest > 0) await lost(current, sets(a, highest, "from an earlier life"));
    highest = await put(current, sets(a, first, [life]));
    await put(current, deletes(a, highest));
    current = await reopen();
    same(await get(current, a), undefined, "what was deleted, after reopening");
    await lost(current, checks(a, highest));
  }
}

async function keepsTime({ store, reopen, id }: DurabilityBench): Promise<void> {
  let latest = 0;
  for (const n of upTo(5)) await store.read([id(n)]);
  for (let [turn, current] = [0, store]; turn < 3; turn += 1) {
    const { now } = await current.write([[sets(id(turn), 0, turn)]]);
    ensure(now >= latest, `after reopening it is ${now}, no earlier than ${latest}`);
    latest = (await current.read([])).now;
    current = await reopen();
  }
}

async function keepsBodies({ store, reopen, kind }: DurabilityBench): Promise<void> {
  const bodies: readonly Json[] = [
    ...[0, false, true, "", null, [], {}, 2 ** 53 - 1, -(2 ** 53 - 1)].map((body) => [body]),
    JSON.parse('{"__proto__":{"a":1},"":2,"10":3,"9":4,"$set":5}') as Json,
    { text: "\u0000'\"\\\n\r\u2028\ufeff\u00e9e\u0301\ud83d\ude00", half: "\ud83d" },
    "x".repeat(65_534),
  ];
  const rests = ["", " ", "%", "'", "\n", "\u0000", "a", "A", "\u00e9", "e\u0301", "\uffff", "\ud83d\ude00"];
  const ids = rests.map((rest) => `${kind}:${rest}`);
  for (const [n, one] of ids.entries()) await put(store, sets(one, 0, bodies[n] ?? n, rests[n] ?? ""));
  const again = await reopen();
  for (const [n, one] of ids.entries()) {
    const document = await get(again, one);
    same([document?.body, document?.owner], [bodies[n], rests[n]], `the document ${JSON.stringify(one)}`);
  }
}

async function continuesLists({ store, reopen, kind, id }: DurabilityBench): Promise<void> {
  const ids = upTo(12).map((n) => id(String(n).padStart(2, "0")));
  for (const [n, one] of ids.entries()) await put(store, sets(ids[(n * 5) % 12] ?? one, 0, n, "o"));
  for (const query of [
    { kind, limit: 5 },
    { kind, limit: 5, owner: "o" },
  ]) {
    const listed: string[] = [];
    let after: string | undefined;
    for (const _ of ids) {
      const page = await (await reopen()).list({ ...query, ...(after === undefined ? {} : { after }) });
      listed.push(...page.documents.map((d) => d.id));
      after = page.next;
      if (after === undefined) break;
    }
    same(listed, ids, "the ids of all pages");
  }
}
