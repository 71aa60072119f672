import { isKeystileError } from "../errors.js";
import type { Document, Write } from "../store.js";
import type { Bench, StoreCase } from "./store-bench.js";
import {
  attempt,
  byId,
  checks,
  deletes,
  ensure,
  get,
  getAll,
  lost,
  put,
  rotated,
  same,
  sets,
  together,
  upTo,
  written,
} from "./store-bench.js";

/** What a caller is told: of versions that are wrong, of lost replies, of the time and of the end. S4, S6, S9, S13, S14. */
export const answeringCases: readonly StoreCase[] = [
  {
    clause: "S4",
    name: "no version but the one it has lets a document be changed, deleted or checked",
    check: refusesWrongVersions,
  },
  {
    clause: "S6",
    name: "a write sent again because its reply was lost loses, and is shown itself",
    check: refusesRepeats,
  },
  { clause: "S6", name: "of a write sent twice at once one wins", check: refusesTwins },
  { clause: "S9", name: "every reply tells the time, and time does not run back", check: alwaysTellsTime },
  { clause: "S9", name: "no reply is older than the documents it carries", check: tellsTimeAfterLocks },
  {
    clause: "S13",
    name: "groups that cross in every order are answered, not thrown",
    check: answersCrossingGroups,
  },
  { clause: "S13", name: "what a closed store says of a write is true", check: isHonestWhenClosed },
  { clause: "S14", name: "closing twice is harmless and leaves other stores alone", check: closesTwice },
];

async function refusesWrongVersions({ store, id }: Bench): Promise<void> {
  const a = id("a");
  const old = await put(store, sets(a, 0, "old"));
  const version = await put(store, sets(a, old, "new"));
  const document = { id: a, version, body: "new" };
  // 32 bits further on: the same to an engine, or a careless conversion, that cuts it off there.
  const wrong = [0, 1, old, version - 1, version + 1, version + 2 ** 32, 2 ** 53 - 1];
  for (const expected of wrong.filter((one) => one !== version && Number.isSafeInteger(one))) {
    for (const write of [sets(a, expected, 3), deletes(a, expected), checks(a, expected)]) {
      same(await lost(store, write), [document], `what is shown to who expects ${expected}`);
    }
  }
  same(await get(store, a), document, "a document that others took for another version");
}

async function refusesRepeats({ store, id }: Bench): Promise<void> {
  const [a, b] = [id("a"), id("b")];
  const creation = [sets(a, 0, { by: "me" }, "o"), sets(b, 0, 1)];
  const [atA = 0, atB = 0] = await written(store, ...creation);
  const created = await getAll(store, [a, b]);
  same(byId(await lost(store, ...creation)), created, "what a creation sent again is shown");

  const update = [sets(a, atA, { by: "me" }, "o"), deletes(b, atB)];
  await written(store, ...update);
  const updated = await getAll(store, [a, b]);
  same(await lost(store, ...update), updated, "what an update sent again is shown");
  same(await getAll(store, [a, b]), updated, "the documents after all that");
}

async function refusesTwins({ store, id }: Bench): Promise<void> {
  for (const round of upTo(30)) {
    const write = sets(id(round), 0, round);
    const results = await Promise.all([attempt(store, write), attempt(store, write)]);
    const document = await get(store, id(round));
    const outcomes = results.map((result) => (result.written ? "written" : result.current[0]));
    if (outcomes[0] !== "written") outcomes.reverse();
    same(outcomes, ["written", document], "what becomes of a write and its twin");
  }
}

async function alwaysTellsTime({ store, id }: Bench): Promise<void> {
  const a = id("a");
  const version = await put(store, sets(a, 0, 1));
  const calls: readonly (() => Promise<{ readonly now: number }>)[] = [
    () => store.read([a]),
    () => store.read([]),
    () => store.write([[checks(a, version)]]),
    () => store.write([]),
    () => store.write([[sets(a, version + 1, "lost")]]),
    () => store.read([id("none")]),
    () => store.write([[checks(id("none"), 0)]]),
    () => store.write([[deletes(a, version)]]),
  ];
  let latest = Number.NEGATIVE_INFINITY;
  for (const [n, call] of calls.entries()) {
    const { now } = await call();
    ensure(Number.isSafeInteger(now), "the clock is in whole milliseconds");
    ensure(now >= latest, `the time of reply ${n} is no earlier than that of the reply before`);
    latest = now;
  }
}

async function tellsTimeAfterLocks({ store, id }: Bench): Promise<void> {
  const writtenAt = new Map<number, number>();
  const seenAt: (readonly [version: number, now: number])[] = [];
  await together(20, async () => {
    let known: Document | undefined;
    for (const round of upTo(10)) {
      const { results, now } = await store.write([[sets(id("a"), known?.version ?? 0, round)]]);
      ensure(Number.isSafeInteger(now), "the clock is in whole milliseconds");
      for (const result of results) {
        if (result.written) writtenAt.set(result.versions[0] ?? 0, now);
        else seenAt.push(...result.current.map(({ version }) => [version, now] as const));
      }
      const reply = await store.read([id("a")]);
      known = reply.documents[0];
      if (known !== undefined) seenAt.push([known.version, reply.now]);
    }
  });
  ensure(writtenAt.size > 0 && seenAt.length > 0, "somebody wins a race and everybody reads");
  for (const [version, now] of seenAt) {
    ensure(now >= (writtenAt.get(version) ?? 0), "a reply is no older than the writes it shows");
  }
  const inOrder = [...writtenAt].sort(([a], [b]) => a - b).map(([, now]) => now);
  same(
    inOrder,
    [...inOrder].sort((a, b) => a - b),
    "the times of successive writes",
  );
}

async function answersCrossingGroups({ store, id }: Bench): Promise<void> {
  const ids = ["a", "b", "c", "d", "e", "f"].map(id);
  const wins = new Map<string, number>();
  await together(24, async (writer) => {
    for (const _ of upTo(8)) {
      const found = new Map((await store.read(ids)).documents.map((d) => [d.id, d]));
      // Each call goes through the six in another order, as two groups of three.
      const order = writer % 2 ? rotated(ids, writer) : rotated(ids, writer).reverse();
      const [one = [], other = []] = [order.slice(0, 3), order.slice(3)].map((group) =>
        group.map((each): Write => {
          const known = found.get(each);
          return sets(each, known?.version ?? 0, Number(known?.body ?? 0) + 1);
        }),
      );
      const { results } = await store.write([one, other]);
      const won = [...(results[0]?.written ? one : []), ...(results[1]?.written ? other : [])];
      for (const write of won) wins.set(write.id, (wins.get(write.id) ?? 0) + 1);
    }
  });
  const counted = (await getAll(store, ids)).map((d) => [d.id, d.body]);
  same(
    counted,
    ids.map((one) => [one, wins.get(one)]),
    "what each counts, against who was told to have won",
  );
}

async function isHonestWhenClosed({ store, id, open }: Bench): Promise<void> {
  const other = await open();
  try {
    await store.close();
    let thrown: unknown;
    await store.write([[sets(id("a"), 0, 1)]]).catch((error: unknown) => {
      thrown = error;
    });
    ensure(thrown === undefined || thrown instanceof Error, "what is thrown is an Error");
    if (isKeystileError(thrown) && thrown.code === "store_unavailable" && !thrown.mayHaveHappened) {
      same(await get(other, id("a")), undefined, "a document that was certainly not written");
    }
  } finally {
    await other.close();
  }
}

async function closesTwice({ store, id, open }: Bench): Promise<void> {
  const other = await open();
  try {
    await put(store, sets(id("a"), 0, 1));
    await Promise.all([store.close(), store.close()]);
    await store.close();
    await put(other, sets(id("b"), 0, 1));
    same((await get(other, id("b")))?.body, 1, "a document of a store that was not closed");
  } finally {
    await other.close();
  }
}
