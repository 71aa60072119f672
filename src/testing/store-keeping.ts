import type { Json } from "../store.js";
import type { Bench, StoreCase } from "./store-bench.js";
import {
  attempt,
  byBytes,
  deletes,
  ensure,
  get,
  getAll,
  listAll,
  lost,
  put,
  same,
  sets,
  upTo,
  written,
} from "./store-bench.js";

/** Bodies, ids and lists: S10 to S12. */
export const keepingCases: readonly StoreCase[] = [
  { clause: "S10", name: "a body comes back as it was written", check: returnsBodies },
  { clause: "S10", name: "a member that is undefined is absent", check: dropsUndefined },
  { clause: "S10", name: "a body of 64 KiB comes back as it was written", check: returnsLargeBodies },
  { clause: "S10", name: "changing what was returned changes nothing stored", check: sharesNothing },
  { clause: "S11", name: "ids that an engine may take for one stay apart", check: keepsLookalikesApart },
  { clause: "S11", name: "such ids may meet in one call", check: writesLookalikesTogether },
  { clause: "S11", name: "ids of 1 and of 512 characters are kept whole", check: keepsLongIds },
  { clause: "S12", name: "a list is in the order of UTF-8 bytes, in pages of any size", check: listsInOrder },
  { clause: "S12", name: "a list holds one kind, also among kinds that begin alike", check: listsOneKind },
  { clause: "S12", name: "a list by owner goes by the last write of each document", check: listsByOwner },
  { clause: "S12", name: "a page holds up to 1,000 documents", check: listsLongPages },
  {
    clause: "S12",
    name: "what stays is listed once while other documents come and go",
    check: listsInTraffic,
  },
  {
    clause: "S12",
    name: "a list goes on although the last document of a page was deleted or has another owner",
    check: listsOnwards,
  },
];

/** Made to lose something in an engine's own JSON type, in a test for truth or in a careless copy. */
function trickyBodies(): Json[] {
  let deep: Json = "bottom";
  for (const level of upTo(60)) deep = level % 2 ? [deep] : { deep };
  const numbers = [2 ** 53 - 1, -(2 ** 53 - 1), 2 ** 32, 2 ** 31, 0];
  return [
    ...[0, false, true, "", "0", "null", "2025-01-01T00:00:00Z", [], {}, -1, ...numbers],
    { numbers, nothing: null, list: [], map: {}, lists: [[], [[]], {}] },
    { z: 1, a: 2, "10": 3, "9": 4, "": 5, " ": 6, "a.b": 7, $set: 8, "\u00e9": 9, "e\u0301": 10, A: 11 },
    JSON.parse(
      '{"__proto__":{"a":1},"constructor":{"prototype":2},"toString":3,"then":4,"length":5}',
    ) as Json,
    { text: "'\"\\/`$1 $x {x} {{y}} %s ?1 :a @b -- ; \b\f\n\r\t\u0000\u001f\u007f\u0080\u2028\u2029" },
    { text: "\ufeff \ufffe \uffff e\u0301 \u00e9 \ufb00 \u212b \u00e5 \u00df \u0130 \u4f60\u597d" },
    { text: "\ud83d\ude00 \ud83d\udc69\u200d\ud83d\udcbb \udbff\udfff", half: "\ud83d", "\u0000": "\ude00" },
    deep,
  ];
}

async function returnsBodies({ store, id, kind }: Bench): Promise<void> {
  for (const [n, body] of trickyBodies().entries()) {
    const version = await put(store, sets(id(n), 0, body));
    same((await get(store, id(n)))?.body, body, "a body read");
    same((await lost(store, sets(id(n), 0, 1)))[0]?.body, body, "a body in a lost race");
    // Replaced, not merged: nothing of the body between may be left.
    const between = await put(store, sets(id(n), version, { other: n }));
    await put(store, sets(id(n), between, body));
    same((await get(store, id(n)))?.body, body, "a body written over another");
  }
  const listed = new Map((await listAll(store, { kind, limit: 7 })).map((d) => [d.id, d.body]));
  for (const [n, body] of trickyBodies().entries()) same(listed.get(id(n)), body, "a body listed");
}

async function dropsUndefined({ store, id }: Bench): Promise<void> {
  const version = await put(
    store,
    sets(id("a"), 0, { a: undefined, b: { c: undefined }, d: [{ e: undefined }] }),
  );
  same(await get(store, id("a")), { id: id("a"), version, body: { b: {}, d: [{}] } }, "a body with gaps");
}

async function returnsLargeBodies({ store, id }: Bench): Promise<void> {
  // Each is at most 65,536 bytes of JSON text; the quotes and brackets take two.
  const room = 65_536 - 2;
  const group = [
    sets(id("ascii"), 0, "x".repeat(room)),
    sets(id("three bytes"), 0, "\u8a9e".repeat(Math.floor(room / 3))),
    sets(id("escaped"), 0, "\u0001".repeat(Math.floor(room / 6))),
    sets(id("numbers"), 0, Array<number>(Math.floor(room / 17)).fill(2 ** 53 - 1)),
  ];
  await written(store, ...group);
  for (const write of group) same((await get(store, write.id))?.body, write.set, "a large body");
}

async function sharesNothing({ store, id, kind }: Bench): Promise<void> {
  const a = id("a");
  const original = { list: [1], map: { deep: "original" } };
  function spoil(body: unknown): void {
    const given = body as typeof original;
    given.list.push(2);
    given.map.deep = "changed";
  }
  await store.write([[sets(a, 0, structuredClone(original))]]);
  spoil((await get(store, a))?.body);
  spoil((await store.list({ kind, limit: 1 })).documents[0]?.body);
  spoil((await lost(store, sets(a, 0, 1)))[0]?.body);
  same((await get(store, a))?.body, original, "a body that was changed where it had been returned");
}

/** In each line some engine, or some careless query, takes a name for another one or for a pattern. */
const LOOKALIKES: readonly string[] = [
  ..."a A \u00e1 a\u0301 \u00c1 \u00e0 \uff41 \u00e4 ae \u00e6 \u00df ss SS \u1e9e \u017f s \ufb00 ff".split(
    " ",
  ),
  ..."i I \u0131 \u0130 i\u0307 K \u212a k \u212b \u00c5 \u2126 \u03a9 \u03c2 \u03c3 \u03a3".split(" "),
  ...["", " ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u200b", "\ufeff", "\u00ad", "a ", " a", "a b", "a\tb"],
  ...["\u0000", "\u0000\u0000", "a\u0000", "\u0000a", "a\u0000b", "a\u0000c"],
  ..."% _ a% a_ * ? a* [a] [^b] \\ \\\\ \\% ^ . .* $ + | ' '' \" \"\" ` ';-- \\' $a {a} {b} } (a) <a>".split(
    " ",
  ),
  ..."&amp; & # %25 %00 1 01 1.0 1e0 +1 -0 0 \u0660 \u00b9 null undefined true NaN".split(" "),
  ..."__proto__ constructor prototype hasOwnProperty toString then".split(" "),
  ..."a:b a: :a : :: a/b a/../b .. / a,b a;b a|b a=b".split(" "),
  ..."\ud7ff \ue000 \uff5e \ufffd \uffff \ud83d\ude00 \ud83d\ude01 \ud800\udc00 \udbff\udfff".split(" "),
];

async function keepsLookalikesApart({ store, id, kind }: Bench): Promise<void> {
  const ids = LOOKALIKES.map(id).sort(byBytes);
  for (const one of ids) await put(store, sets(one, 0, one));
  for (const one of ids) same((await get(store, one))?.body, one, `the document ${JSON.stringify(one)}`);
  same(
    (await getAll(store, ids)).map((d) => d.id),
    ids,
    "the ids read in one call",
  );
  const listed = await listAll(store, { kind, limit: 10 });
  same(
    listed.map((d) => [d.id, d.body]),
    ids.map((one) => [one, one]),
    "the ids listed",
  );

  for (const [n, { id: one, version }] of listed.entries())
    if (n % 2) await put(store, deletes(one, version));
  const left = (await listAll(store, { kind, limit: 1_000 })).map((d) => d.id);
  same(
    left,
    ids.filter((_, n) => n % 2 === 0),
    "the ids left after every second was deleted",
  );
}

async function writesLookalikesTogether({ store, id }: Bench): Promise<void> {
  const ids = LOOKALIKES.map(id).sort(byBytes);
  const first = await store.write(ids.map((one) => [sets(one, 0, one)]));
  const versions = first.results.map((result) => (result.written ? (result.versions[0] ?? 0) : 0));
  const second = await store.write(ids.map((one, n) => [sets(one, versions[n] ?? 0, [one])]));
  ensure(
    second.results.every((result) => result.written),
    "each was written with the version told for it",
  );
  same(
    (await getAll(store, ids)).map((d) => [d.id, d.body]),
    ids.map((one) => [one, [one]]),
    "the documents written in one call",
  );
}

async function keepsLongIds({ store, id, kind }: Bench): Promise<void> {
  const room = 512 - id("").length;
  const pairs = Math.floor(room / 2) - 1;
  const ids = [
    ...["a", "b", "A", "\u0000", "\u00e9"].map((last) => id("x".repeat(room - 1) + last)),
    ...["\u8a9e", "\u8aa4"].map((last) => id("\u8a9e".repeat(room - 1) + last)),
    ...["\ud83d\ude00", "\ud83d\ude01"].map((last) => id("\ud83d\ude00".repeat(pairs) + last)),
  ].sort(byBytes);
  for (const [n, one] of ids.entries()) await put(store, sets(one, 0, n));
  for (const [n, one] of ids.entries()) same((await get(store, one))?.body, n, "the document of a long id");
  same(
    (await listAll(store, { kind, limit: 2 })).map((d) => d.id),
    ids,
    "the long ids listed",
  );

  // An id of one character cannot be of this run alone, so it is taken as it is found and removed again.
  const short = String.fromCharCode(0x4e00 + Math.floor(Math.random() * 20_000));
  const version = await put(store, sets(short, (await get(store, short))?.version ?? 0, 1));
  same(await get(store, short), { id: short, version, body: 1 }, "the document of a short id");
  await put(store, deletes(short, version));
}

async function listsInOrder({ store, id, kind }: Bench): Promise<void> {
  same(await store.list({ kind, limit: 10 }), { documents: [] }, "the list of a kind without documents");
  // Among them those whose order by UTF-16 units differs, and what lies close to the colon.
  const rests = "- 0 10 9 : ; A Z _ a aa b ~ \u0000 \u0080 \u07ff \u0800 \ud7ff \ue000 \uff5e \uffff";
  const ids = ["", ...rests.split(" "), "\ud800\udc00", "\ud83d\ude00", "\udbff\udfff"].map(id).sort(byBytes);
  // Written in an order that is none, so that a list in order of arrival is found out.
  for (const n of upTo(ids.length)) await put(store, sets(ids[(n * 7) % ids.length] ?? "", 0, n));
  const documents = await getAll(store, ids);
  same(
    documents.map((d) => d.id),
    ids,
    "the ids read",
  );
  for (const limit of [1, 2, 5, ids.length - 1, ids.length, ids.length + 1, 1_000]) {
    same(await listAll(store, { kind, limit }), documents, `the list in pages of ${limit}`);
  }
  const { next } = await store.list({ kind, limit: ids.length });
  same(next, undefined, "the next of a last page that is full");
}

async function listsOneKind({ store, kind }: Bench): Promise<void> {
  const others = [
    `${kind}s`,
    `${kind}-2`,
    `${kind}%`,
    `${kind}_`,
    `${kind};`,
    kind.toUpperCase(),
    `x${kind}`,
  ];
  const kinds = [kind, kind.slice(0, -1), `${kind.slice(0, -1)}_`, ...others];
  const rests = ["1", kind, `${kind}:1`];
  for (const one of kinds) for (const rest of rests) await put(store, sets(`${one}:${rest}`, 0, one));
  for (const one of kinds) {
    const listed = (await listAll(store, { kind: one, limit: 2 })).map((d) => d.id);
    same(
      listed,
      rests.map((rest) => `${one}:${rest}`),
      `the list of the kind ${one}`,
    );
  }
}

async function listsByOwner({ store, id, kind }: Bench): Promise<void> {
  const owners = ["o", "O", "o ", "\u00f3", "o\u0301", "%", "_", "o%", "'", "\ud83d\ude00", ""];
  owners.push("\u0000", "o\u0000", "\u0000o", '"', "o:", "a:b", "\\", "__proto__", "null", "o".repeat(128));
  for (const n of upTo(3)) {
    await put(store, sets(id(`${n}.none`), 0, 1));
    for (const [m, owner] of owners.entries()) await put(store, sets(id(`${n}.${m}`), 0, 1, owner));
  }
  async function listed(owner: string): Promise<unknown> {
    return (await listAll(store, { kind, owner, limit: 2 })).map((d) => [d.id, d.owner]);
  }
  for (const [m, owner] of owners.entries()) {
    const expected = upTo(3).map((n) => [id(`${n}.${m}`), owner]);
    same(await listed(owner), expected, `the list of the owner ${JSON.stringify(owner)}`);
  }
  const everybody = await listAll(store, { kind, limit: 10 });
  same(everybody.length, 3 * (owners.length + 1), "how many documents there are of all owners");

  const version = (rest: string): number => everybody.find((d) => d.id === id(rest))?.version ?? 0;
  await put(store, sets(id("1.0"), version("1.0"), 2, "%"));
  const last = await put(store, sets(id("2.0"), version("2.0"), 2));
  same(
    await get(store, id("2.0")),
    { id: id("2.0"), version: last, body: 2 },
    "what was written without owner",
  );
  same(await listed("o"), [[id("0.0"), "o"]], "what is left to an owner");
  same(
    await listed("%"),
    ["0.5", "1.0", "1.5", "2.5"].map((rest) => [id(rest), "%"]),
    "what another has got",
  );
}

async function listsLongPages({ store, id, kind }: Bench): Promise<void> {
  const ids = upTo(1_001).map((n) => id(String(n).padStart(4, "0")));
  for (let n = 0; n < ids.length; n += 77) {
    await store.write(ids.slice(n, n + 77).map((one) => [sets(one, 0, 1)]));
  }
  const page = await store.list({ kind, limit: 1_000 });
  same(page.documents.length, 1_000, "how many documents a page of 1,000 holds");
  same(
    (await listAll(store, { kind, limit: 1_000 })).map((d) => d.id),
    ids,
    "two pages",
  );
}

async function listsInTraffic({ store, id, kind }: Bench): Promise<void> {
  const ids = upTo(90).map((n) => id(String(n).padStart(2, "0")));
  // Every third exists; of these every second stays.
  const versions = new Map<string, number>();
  for (const [n, one] of ids.entries()) if (n % 3 === 0) versions.set(one, await put(store, sets(one, 0, n)));
  const staying = ids.filter((_, n) => n % 6 === 0);

  const listed: string[] = [];
  let after: string | undefined;
  for (let n = 0; n < 90; n += 3) {
    const [coming = "", going = ""] = [ids[(n * 7 + 1) % 90], ids[n]];
    const [page] = await Promise.all([
      store.list({ kind, limit: 4, ...(after === undefined ? {} : { after }) }),
      attempt(store, sets(coming, 0, "came")),
      attempt(store, sets(going, versions.get(going) ?? 0, n % 2 ? null : "stays, written again")),
    ]);
    listed.push(...page.documents.map((d) => d.id));
    after = page.next;
    if (after === undefined) break;
  }
  ensure(after === undefined, "a list comes to its last page");
  same(listed, [...new Set(listed)].sort(byBytes), "the ids of all pages");
  same(
    staying.filter((one) => !listed.includes(one)),
    [],
    "what stayed and was not listed",
  );
}

async function listsOnwards({ store, id, kind }: Bench): Promise<void> {
  const ids = upTo(15).map((n) => id(`${String(n).padStart(2, "0")}`));
  for (const owner of ["o", undefined]) {
    for (const one of ids) {
      await put(store, sets(one, (await get(store, one))?.version ?? 0, 1, "o"));
    }
    const query = { kind, limit: 3, ...(owner === undefined ? {} : { owner }) };
    const listed: string[] = [];
    const gone = new Set<string>();
    let after: string | undefined;
    for (const turn of upTo(ids.length)) {
      const page = await store.list({ ...query, ...(after === undefined ? {} : { after }) });
      listed.push(...page.documents.map((d) => d.id));
      after = page.next;
      if (after === undefined) break;
      const last = page.documents.at(-1);
      if (last === undefined) break;
      gone.add(last.id);
      await put(store, turn % 2 ? deletes(last.id, last.version) : sets(last.id, last.version, 2, "p"));
    }
    ensure(after === undefined, "a list comes to its last page");
    same(listed, ids, `the ids of all pages${owner === undefined ? "" : " of an owner"}`);
    ensure(gone.size > 0, "pages end with documents that can go");
  }
}
