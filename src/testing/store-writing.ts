import type { Document } from "../store.js";
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

/** Reading one's writes, groups and races: S1 to S8. */
export const writingCases: readonly StoreCase[] = [
  { clause: "S1", name: "a read sees every acknowledged write, whoever else is busy", check: readsWrites },
  { clause: "S2", name: "a read leaves out what does not exist", check: leavesOutTheAbsent },
  { clause: "S3", name: "a create, an update, a deletion and a check win together", check: writesMixedGroup },
  {
    clause: "S3",
    name: "one stale member, whichever it is, keeps all from being written",
    check: refusesGroup,
  },
  { clause: "S3", name: "a group of sixty is written whole or not at all", check: writesLargeGroup },
  { clause: "S3", name: "racing groups over the same documents are never mixed", check: neverMixesGroups },
  { clause: "S4", name: "a check writes nothing and reports the version it found", check: onlyChecks },
  { clause: "S4", name: "a check that fails keeps the group from being written", check: heedsFailedChecks },
  {
    clause: "S4",
    name: "'p is absent, create q' and its mirror never both win",
    check: refusesMirroredCreates,
  },
  {
    clause: "S4",
    name: "'p is unchanged, change q' and its mirror never both win",
    check: refusesMirroredSets,
  },
  {
    clause: "S5",
    name: "0 holds while there is no document, and no other version does",
    check: knowsAbsence,
  },
  { clause: "S6", name: "a lost race brings the documents of the group as they are", check: bringsCurrent },
  {
    clause: "S6",
    name: "fifty writers of one document, going by what they are shown, add up",
    check: addsUp,
  },
  {
    clause: "S7",
    name: "a document made again never has a version it had before",
    check: neverRepeatsVersions,
  },
  {
    clause: "S8",
    name: "groups of one call succeed and fail each on its own",
    check: keepsGroupsIndependent,
  },
  { clause: "S8", name: "a call of a hundred groups is answered in their order", check: answersInOrder },
];

async function readsWrites({ store, id }: Bench): Promise<void> {
  await together(20, async (lane) => {
    const one = id(lane);
    let version = 0;
    for (const round of upTo(8)) {
      version = await put(store, sets(one, version, { lane, round }));
      same(await get(store, one), { id: one, version, body: { lane, round } }, "a document just written");
    }
    await put(store, deletes(one, version));
    same(await get(store, one), undefined, "a document just deleted");
  });
}

async function leavesOutTheAbsent({ store, id }: Bench): Promise<void> {
  same((await store.read([])).documents, [], "a read of nothing");
  same((await store.read([id("none")])).documents, [], "a read of an absent document");
  for (const n of upTo(60)) if (n % 3 > 0) await put(store, sets(id(n), 0, n));
  const { documents } = await store.read(upTo(60).map(id));
  const expected = upTo(60).filter((n) => n % 3 > 0);
  same(
    documents.map((d) => Number(d.body)).sort((a, b) => a - b),
    expected,
    "the bodies of those that exist",
  );
}

async function writesMixedGroup({ store, id }: Bench): Promise<void> {
  const [a, b, c, d] = [id("a"), id("b"), id("c"), id("d")];
  const [atB = 0, atC = 0, atD = 0] = await written(store, sets(b, 0, 1), sets(c, 0, 1), sets(d, 0, 1, "o"));
  const group = [sets(a, 0, { new: true }, "o"), sets(b, atB, 2), deletes(c, atC), checks(d, atD)];
  const [created = 0, updated = 0, deleted, checked] = await written(store, ...group);
  same([deleted, checked], [0, atD], "the versions of a deleted and a checked document");
  ensure(Number.isSafeInteger(created) && created > 0, "a new document has a positive version");
  ensure(updated > atB, "an updated document has a higher version");
  const expected = [
    { id: a, version: created, owner: "o", body: { new: true } },
    { id: b, version: updated, body: 2 },
    { id: d, version: atD, owner: "o", body: 1 },
  ];
  same(await getAll(store, [a, b, c, d]), expected, "the documents after the group");
}

async function refusesGroup({ store, id }: Bench): Promise<void> {
  for (const stale of upTo(4)) {
    const [a, b, c, d] = [id(`${stale}a`), id(`${stale}b`), id(`${stale}c`), id(`${stale}d`)];
    const [atA = 0, atB = 0, atC = 0] = await written(store, sets(a, 0, 1), sets(b, 0, 1), sets(c, 0, 1));
    const group = [sets(a, atA, 2), deletes(b, atB), checks(c, atC), sets(d, 0, 2)];
    // Somebody else is faster at one of them.
    await put(store, { ...(group[stale] ?? checks(a, 0)), set: "theirs" });
    const before = await getAll(store, [a, b, c, d]);
    for (const order of [group, [...group].reverse()]) {
      await lost(store, ...order);
      same(await getAll(store, [a, b, c, d]), before, `the documents when member ${stale} was stale`);
    }
  }
}

async function writesLargeGroup({ store, id }: Bench): Promise<void> {
  const ids = upTo(60).map((n) => id(String(n).padStart(2, "0")));
  const versions = await written(store, ...ids.map((one) => sets(one, 0, "first")));
  const group = ids.map((one, n) => sets(one, versions[n] ?? 0, "second"));
  // Somebody else is faster at the last one.
  const last = await put(store, { ...(group[59] ?? checks("", 0)), set: "theirs" });
  const before = await getAll(store, ids);
  same(byId(await lost(store, ...group)), before, "what a large group is shown");
  same(await getAll(store, ids), before, "the documents of a large group that lost");
  await written(store, ...group.slice(0, 59), sets(id("59"), last, "second"));
  const bodies = (await getAll(store, ids)).map((d) => d.body);
  same(bodies, Array<string>(60).fill("second"), "the bodies of a large group");
}

async function neverMixesGroups({ store, id }: Bench): Promise<void> {
  const ids = [id("a"), id("b"), id("c")];
  let wins = 0;
  await together(12, async (writer) => {
    for (const round of upTo(6)) {
      const found = new Map((await store.read(ids)).documents.map((d) => [d.id, d.version]));
      const order = rotated(ids, writer);
      const group = order.map((one) => sets(one, found.get(one) ?? 0, `${writer}.${round}`));
      if ((await attempt(store, ...group)).written) wins += 1;
    }
  });
  ensure(wins > 0, "somebody wins a race");
  const bodies = (await getAll(store, ids)).map((d) => d.body);
  same(bodies, [bodies[0], bodies[0], bodies[0]], "the bodies of documents only ever written together");
}

async function onlyChecks({ store, id }: Bench): Promise<void> {
  const version = await put(store, sets(id("a"), 0, 1, "o"));
  same(await written(store, checks(id("a"), version)), [version], "the version of a checked document");
  same(await written(store, checks(id("b"), 0)), [0], "the version of a checked absence");
  const expected = [{ id: id("a"), version, owner: "o", body: 1 }];
  same(await getAll(store, [id("a"), id("b")]), expected, "what was only checked");
}

async function heedsFailedChecks({ store, id }: Bench): Promise<void> {
  const [a, b] = [id("a"), id("b")];
  const version = await put(store, sets(a, 0, 1));
  for (const wrong of [
    checks(a, 0),
    checks(a, version + 1),
    checks(a, version - 1),
    checks(id("c"), version),
  ]) {
    await lost(store, wrong);
    await lost(store, wrong, sets(b, 0, 1));
    await lost(store, sets(b, 0, 1), wrong);
    same(await get(store, b), undefined, "a document guarded by a check that failed");
  }
}

async function refusesMirroredCreates({ store, id }: Bench): Promise<void> {
  for (const round of upTo(60)) {
    const [p, q] = [id(`p${round}`), id(`q${round}`)];
    const [one, other] = await Promise.all([
      attempt(store, checks(p, 0), sets(q, 0, 1)),
      attempt(store, checks(q, 0), sets(p, 0, 1)),
    ]);
    ensure(!(one.written && other.written), "of two groups that void each other's check one is not written");
    const count = Number(one.written) + Number(other.written);
    same((await getAll(store, [p, q])).length, count, "how many documents the winners made");
  }
}

async function refusesMirroredSets({ store, id }: Bench): Promise<void> {
  let [p = 0, q = 0] = await written(store, sets(id("p"), 0, 0), sets(id("q"), 0, 0));
  for (const round of upTo(60)) {
    const [one, other] = await Promise.all([
      attempt(store, checks(id("p"), p), sets(id("q"), q, round)),
      attempt(store, checks(id("q"), q), sets(id("p"), p, round)),
    ]);
    ensure(!(one.written && other.written), "of two groups that void each other's check one is not written");
    if (one.written) q = one.versions[1] ?? 0;
    if (other.written) p = other.versions[1] ?? 0;
  }
}

async function knowsAbsence({ store, id }: Bench): Promise<void> {
  const a = id("a");
  same(await lost(store, sets(a, 1, 1)), [], "what an update of an absent document brings");
  same(await lost(store, deletes(a, 1)), [], "what a deletion of an absent document brings");
  same(await written(store, deletes(a, 0)), [0], "the version of what was absent and was deleted");
  const version = await put(store, sets(a, 0, 1));
  await lost(store, sets(a, 0, 2));
  await lost(store, deletes(a, 0));
  same(await get(store, a), { id: a, version, body: 1 }, "a document that was taken to be absent");
  await put(store, deletes(a, version));
  same(await lost(store, sets(a, version, 2)), [], "what an update of a deleted document brings");
  await put(store, sets(a, 0, 3));
}

async function bringsCurrent({ store, id }: Bench): Promise<void> {
  const [a, b, c] = [id("a"), id("b"), id("c")];
  const old = await put(store, sets(a, 0, "old"));
  const [version = 0, other = 0] = await written(
    store,
    sets(a, old, { by: "them" }, "o"),
    sets(b, 0, "fresh"),
  );
  const current = await lost(store, sets(a, old, "mine"), checks(b, other), sets(c, 0, "mine"));
  const expected = [
    { id: a, version, owner: "o", body: { by: "them" } },
    { id: b, version: other, body: "fresh" },
  ];
  same(byId(current), expected, "what a lost race brings");
}

async function addsUp({ store, id }: Bench): Promise<void> {
  await together(50, async () => {
    let known: Document | undefined;
    for (let tries = 1; ; tries += 1) {
      ensure(tries < 5_000, "who tries again gets a turn");
      const write = sets(id("sum"), known?.version ?? 0, Number(known?.body ?? 0) + 1);
      const result = await attempt(store, write);
      if (result.written) return;
      known = result.current[0];
    }
  });
  same((await get(store, id("sum")))?.body, 50, "the sum of fifty increments");
}

async function neverRepeatsVersions({ store, id }: Bench): Promise<void> {
  let highest = 0;
  let stale = 0;
  for (const life of upTo(4)) {
    let version = await put(store, sets(id("a"), 0, life));
    ensure(
      version > highest,
      `made again it has version ${version}, higher than ${highest} which it once had`,
    );
    if (stale > 0) await lost(store, sets(id("a"), stale, "from an earlier life"));
    stale = version;
    for (const n of upTo(life)) version = await put(store, sets(id("a"), version, n));
    highest = version;
    await put(store, deletes(id("a"), version));
  }
}

async function keepsGroupsIndependent({ store, id }: Bench): Promise<void> {
  const names = ["a", "b", "c", "d", "e", "f", "g"].map(id);
  const [a = "", b = "", c = "", d = "", e = "", f = "", g = ""] = names;
  const version = await put(store, sets(a, 0, 1));
  const { results } = await store.write([
    [sets(b, 0, 1)],
    [sets(c, 0, 1), sets(a, version + 1, "lost")],
    [checks(d, 0)],
    [checks(e, 7)],
    [sets(f, 0, 1), sets(g, 0, 1)],
  ]);
  const won = results.map((result) => result.written);
  same(won, [true, false, true, false, true], "which groups were written");
  same(
    (await getAll(store, names)).map((one) => one.id),
    [a, b, f, g],
    "which documents there are",
  );
  same((await store.write([])).results, [], "the results of no groups");
}

async function answersInOrder({ store, id }: Bench): Promise<void> {
  const first = await store.write(upTo(100).map((n) => [sets(id(n), 0, n)]));
  const versions = first.results.map((result) => (result.written ? (result.versions[0] ?? 0) : 0));
  const found = new Map((await store.read(upTo(100).map(id))).documents.map((d) => [d.id, d]));
  for (const n of upTo(100)) {
    same(found.get(id(n)), { id: id(n), version: versions[n], body: n }, "a document of a large call");
  }
  // Every second group is stale.
  const second = await store.write(upTo(100).map((n) => [sets(id(n), (versions[n] ?? 0) + (n % 2), n)]));
  const won = second.results.map((result) => result.written);
  same(
    won,
    upTo(100).map((n) => n % 2 === 0),
    "which of a hundred groups were written",
  );
}
