import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Tally } from "../../src/documents.js";
import type { IssuedKey } from "../../src/keyring.js";
import type { Keystile } from "../../src/keystile.js";
import type { IssueInput } from "../../src/policy-input.js";
import type { Json } from "../../src/store.js";
import type { UsageQuery, UsageRow } from "../../src/usage-reports.js";
import { sumUsage, usageCsv } from "../../src/usage-totals.js";
import { newGate, settled } from "../setup/new-gate.js";
import { damage, type FaultyStore, faultyStore, type ManualTime, manualTime } from "./faulty-store.js";

interface Bench {
  readonly time: ManualTime;
  readonly store: FaultyStore;
  readonly keystile: Keystile;
  /** Another instance on the same store: another process. */
  another(): Keystile;
}

interface Spending {
  readonly cost?: number;
  readonly model?: string;
  readonly tokens?: readonly [input: number, output: number];
}

const DAY_MS = 86_400_000;
const today = "2025-01-15";

describe("rows", () => {
  test("are of a key, a model, a day and an outcome, in this order of day, key, model and outcome", async () => {
    const { keystile, time } = bench();
    const { secret, key } = await keystile.keys.issue({ owner: "acme", allowedModels: ["a", "b"] });
    await spend(keystile, secret, { cost: 5, model: "b", tokens: [10, 20] });
    await spend(keystile, secret, { cost: 7, model: "b", tokens: [1, 2] });
    await spend(keystile, secret, { cost: 3, model: "a" });
    const { decision } = await admitted(keystile, secret, { model: "b" });
    await settled(keystile, decision.void());
    await passDays(time, 1);
    await spend(keystile, secret, { cost: 2, model: "b" });
    expect(await keystile.usage.query()).toEqual({
      rows: [
        row(key.id, today, "a", "settled", [1, 3, 0, 0, 0]),
        row(key.id, today, "b", "settled", [2, 12, 11, 22, 0]),
        row(key.id, today, "b", "voided", [1, 0, 0, 0, 0]),
        row(key.id, "2025-01-16", "b", "settled", [1, 2, 0, 0, 0]),
      ].map((each) => ({ ...each, owner: "acme" })),
      from: "2024-12-18",
      to: "2025-01-16",
    });
  });

  test("put requests without a model first, as null", async () => {
    const { keystile } = bench();
    const { secret } = await keystile.keys.issue();
    await spend(keystile, secret, { model: "a" });
    await spend(keystile, secret, {});
    expect((await keystile.usage.query()).rows.map(({ model }) => model)).toEqual([null, "a"]);
  });

  test("know refusals with the next write of their key, or with flush()", async () => {
    const { keystile } = bench();
    const { secret } = await keystile.keys.issue({ allowedModels: ["a"] });
    await spend(keystile, secret, { model: "a" });
    await keystile.authorize({ ...presenting(secret), model: "b" });
    const refused = async () =>
      (await keystile.usage.query()).rows.filter(({ outcome }) => outcome === "refused");
    expect(await refused()).toEqual([]);
    await keystile.flush();
    expect(await refused()).toMatchObject([{ model: "b", requests: 1, cost: 0 }]);
  });

  test("may take back what expired on an earlier day, and are left out where nothing is left", async () => {
    const { keystile, store } = bench();
    const { key } = await keystile.keys.issue();
    await putDay(store, key.id, "2025-01-14", {
      "": { expired: [-1, -4, 0, 0, 0] },
      m: { expired: [0, 0, 0, 0, 0] },
    });
    expect((await keystile.usage.query()).rows).toEqual([
      row(key.id, "2025-01-14", null, "expired", [-1, -4, 0, 0, 0]),
    ]);
  });

  test("add up what several processes counted", async () => {
    const { keystile, another, time } = bench();
    const { secret, key } = await keystile.keys.issue();
    const other = another();
    for (const instance of [keystile, other, keystile]) await spend(instance, secret, { cost: 2 });
    await passDays(time, 1);
    for (const instance of [other, keystile]) await spend(instance, secret, { cost: 3 });
    for (const instance of [keystile, other, another()]) {
      expect((await instance.usage.query({ keyId: key.id })).rows).toEqual([
        row(key.id, today, null, "settled", [3, 6, 0, 0, 0]),
        row(key.id, "2025-01-16", null, "settled", [2, 6, 0, 0, 0]),
      ]);
    }
  });

  test("equal an independent count of any history, by one key, by owner and by all", async () => {
    const step = fc.record({
      days: fc.constantFrom(0, 0, 0, 1, 3),
      process: fc.nat(1),
      key: fc.nat(2),
      model: fc.constantFrom(null, "a", "b"),
      cost: fc.integer({ min: 1, max: 9 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 12 }), async (history) => {
        const { keystile, another, time } = bench();
        const processes = [keystile, another()];
        const owners = ["acme", "acme", undefined];
        const issued = await Promise.all(
          owners.map((owner) => keystile.keys.issue(owner === undefined ? {} : { owner })),
        );
        const expected = new Map<string, readonly [number, number]>();
        for (const { days, process, key: at, model, cost } of history) {
          if (days > 0) await passDays(time, days);
          const { secret, key } = issued[at] as IssuedKey;
          const request = { cost, ...(model !== null && { model }) };
          await spend(processes[process] as Keystile, secret, request);
          const date = new Date(time.store.now()).toISOString().slice(0, 10);
          const name = JSON.stringify([date, key.id, model]);
          const [requests, spent] = expected.get(name) ?? [0, 0];
          expected.set(name, [requests + 1, spent + cost]);
        }
        const last = { from: "2025-01-15", to: "2025-03-31" };
        const counted = (rows: readonly UsageRow[]) =>
          new Map(
            rows.map(({ day, keyId, model, requests, cost }) => [
              JSON.stringify([day, keyId, model]),
              [requests, cost],
            ]),
          );
        expect(counted((await keystile.usage.query(last)).rows)).toEqual(expected);
        const byKey = await Promise.all(
          issued.map(({ key }) => keystile.usage.query({ ...last, keyId: key.id })),
        );
        expect(counted(byKey.flatMap(({ rows }) => rows))).toEqual(expected);
        const acme = (await keystile.usage.query({ ...last, owner: "acme" })).rows;
        const ofAcme = [...expected].filter(([name]) => !name.includes(issued[2]?.key.id as string));
        expect(counted(acme)).toEqual(new Map(ofAcme));
      }),
      { numRuns: 25 },
    );
  }, 30_000);
});

describe("days", () => {
  test("of a month that were used one by one are all there, today among them", async () => {
    const { keystile, time } = bench();
    const { secret, key } = await keystile.keys.issue();
    for (let day = 1; day <= 31; day += 1) {
      await spend(keystile, secret, { cost: day });
      if (day < 31) await passDays(time, 1);
    }
    const { rows } = await keystile.usage.query({ keyId: key.id, from: today });
    expect(rows.map(({ day }) => day)).toEqual(datesFrom(today, 31));
    expect(rows.map(({ cost }) => cost)).toEqual(Array.from({ length: 31 }, (_, at) => at + 1));
    const latest = await keystile.usage.query();
    expect([latest.rows.length, latest.from, latest.to]).toEqual([30, "2025-01-16", "2025-02-14"]);
  });

  test("are counted in the key until something is written after them", async () => {
    const { keystile, time } = bench();
    const { secret, key } = await keystile.keys.issue();
    await spend(keystile, secret, { cost: 4 });
    await passDays(time, 20);
    const expected = [row(key.id, today, null, "settled", [1, 4, 0, 0, 0])];
    expect((await keystile.usage.query()).rows).toEqual(expected);
    expect((await keystile.usage.query({ keyId: key.id, from: today, to: today })).rows).toEqual(expected);
    expect((await keystile.usage.query({ from: "2025-01-16" })).rows).toEqual([]);
    expect((await keystile.usage.query({ to: "2025-01-14" })).rows).toEqual([]);
  });

  test("of a leap year are 366, first and last included, read 400 at a time at most", async () => {
    const { keystile, store } = bench();
    const { key } = await keystile.keys.issue();
    for (const date of datesFrom("2023-12-31", 368))
      await putDay(store, key.id, date, { m: { settled: [1, 1, 0, 0, 0] } });
    store.calls = [];
    const page = await keystile.usage.query({ keyId: key.id, from: "2024-01-01", to: "2024-12-31" });
    expect(page.rows.map(({ day }) => day)).toEqual(datesFrom("2024-01-01", 366));
    expect(store.calls.map(({ kind, ids }) => [kind, ids.length])).toEqual([
      ["read", 1],
      ["read", 366],
    ]);
  });

  test.each<[string, (query: { readonly keyId: string }) => UsageQuery]>([
    ["by key", ({ keyId }) => ({ keyId })],
    ["by listing", () => ({})],
  ])("that are closed while they are read are counted once, %s", async (_, queryOf) => {
    for (const moment of [0, 1]) {
      const { keystile, another, store, time } = bench();
      const { secret, key } = await keystile.keys.issue();
      await spend(keystile, secret, { cost: 5, model: "m" });
      await passDays(time, 1);
      const query = { ...queryOf({ keyId: key.id }), from: today };
      await keystile.usage.query(query);
      let seen = 0;
      store.onCall = ({ kind }) => {
        if (kind === "write" || seen > moment) return undefined;
        seen += 1;
        // The other process writes on the next day just before this call of the query reaches the store.
        return seen === moment + 1 ? spend(another(), secret, { cost: 1, model: "m" }) : undefined;
      };
      const { rows } = await keystile.usage.query(query);
      expect(seen).toBe(moment + 1);
      expect(rows[0]).toEqual(row(key.id, today, "m", "settled", [1, 5, 0, 0, 0]));
      expect(rows.slice(1)).toEqual(
        moment === 0 ? [row(key.id, "2025-01-16", "m", "settled", [1, 1, 0, 0, 0])] : [],
      );
    }
  });

  test("and their key are not trusted to come from one moment of a read", async () => {
    const { keystile, store, time, another } = bench();
    const { secret, key } = await keystile.keys.issue();
    await spend(keystile, secret, { cost: 5 });
    await passDays(time, 1);
    // A store that reads the ids of one call one after the other, the last one first, while others write.
    let isClosed = false;
    const torn = {
      ...store,
      async read(ids: readonly string[]) {
        const documents = [];
        for (const id of ids.toReversed()) {
          documents.push(...(await store.read([id])).documents);
          if (!isClosed && id.endsWith(today)) {
            isClosed = true;
            await spend(another(), secret, { cost: 1 });
          }
        }
        return { documents, now: time.store.now() };
      },
    };
    const reader = newGate({ store: torn, runtime: time.runtime });
    const { rows } = await reader.usage.query({ keyId: key.id });
    expect(isClosed).toBe(true);
    expect(rows).toEqual([row(key.id, today, null, "settled", [1, 5, 0, 0, 0])]);
  });

  test("that are over outlive a purge of their key, for whoever knows its id", async () => {
    const { keystile, time } = bench();
    const { secret, key } = await keystile.keys.issue({ owner: "acme" });
    await spend(keystile, secret, { cost: 5 });
    await passDays(time, 1);
    await spend(keystile, secret, { cost: 6 });
    await keystile.keys.revoke(key.id);
    expect((await keystile.usage.query()).rows).toHaveLength(2);
    await keystile.keys.purge(key.id);
    const closed = { ...row(key.id, today, null, "settled", [1, 5, 0, 0, 0]), owner: "acme" };
    expect((await keystile.usage.query({ keyId: key.id })).rows).toEqual([closed]);
    expect((await keystile.usage.query()).rows).toEqual([]);
  });
});

describe("what is asked for", () => {
  const keyId = `abc.${"0".repeat(24)}`;

  test.each<[unknown, string]>([
    [{ keyid: today }, 'query: there is no "keyid"; did you mean "keyId"?'],
    [{ keyId: "sk-nothing" }, 'query.keyId: expected the id of a key, received "sk-nothing".'],
    [{ owner: "" }, "query.owner: "],
    [{ from: "2025-02-29" }, 'query.from: expected a day in UTC such as 2026-11-23, received "2025-02-29".'],
    [{ to: "2025-01-15T00:00:00Z" }, "query.to: expected a day in UTC such as 2026-11-23, received"],
    [
      { to: 1_736_942_400_000 },
      "query.to: expected a day in UTC such as 2026-11-23, received 1736942400000.",
    ],
    [{ from: "2025-01-16" }, "query.from: expected a day up to 2025-01-15 (query.to), received 2025-01-16."],
    [
      { from: "2024-01-01", to: "2023-12-31" },
      "query.from: expected a day up to 2023-12-31 (query.to), received 2024-01-01.",
    ],
    [
      { from: "2023-12-31", to: "2024-12-31" },
      "query.from: expected at most 366 days up to 2024-12-31 (query.to), received 367.",
    ],
    [{ limit: 0 }, "query.limit: "],
    [{ limit: 1_001 }, "query.limit: "],
    [{ limit: 134 }, "query.limit: expected at most 133 keys a page for 30 days, received 134."],
    [
      { limit: 11, from: "2024-01-01", to: "2024-12-31" },
      "query.limit: expected at most 10 keys a page for 366 days, received 11.",
    ],
    [{ after: "x".repeat(513) }, "query.after: "],
    [{ keyId, after: "x" }, "query: expected neither after nor limit with keyId, which is one page."],
    [{ keyId, limit: 1 }, "query: expected neither after nor limit with keyId, which is one page."],
    [null, "query: "],
  ])("%j is refused with a reason", async (query, message) => {
    await expect(bench().keystile.usage.query(query as UsageQuery)).rejects.toMatchObject({
      code: "invalid_options",
      message: expect.stringContaining(message),
    });
  });

  test("may be nothing that exists", async () => {
    const { keystile } = bench();
    const none = { rows: [], from: "2024-12-17", to: today };
    expect(await keystile.usage.query({ keyId })).toEqual(none);
    expect(await keystile.usage.query({ owner: "nobody" })).toEqual(none);
    expect(await keystile.usage.query({ from: "2024-12-17", to: today, after: "key:zzz" })).toEqual(none);
    expect(await keystile.usage.query({ from: "9999-01-01", to: "9999-12-31" })).toMatchObject({ rows: [] });
  });

  test("ends today by the store's clock", async () => {
    const { keystile, time } = bench();
    await keystile.usage.query();
    await passDays(time, 400);
    expect((await keystile.usage.query()).to).toBe("2026-02-19");
  });

  test("may be the keys of one owner, page by page, each key once", async () => {
    const { keystile } = bench();
    const issued = await Promise.all(
      ["acme", "other", "acme", "acme", "other", "acme", "acme"].map((owner) => used(keystile, { owner })),
    );
    const ids = issued.flatMap(({ key }) => (key.owner === "acme" ? [key.id] : [])).sort();
    const pages: (readonly string[])[] = [];
    for (let after: string | undefined; pages.length < 5; ) {
      const query = { owner: "acme", limit: 2, ...(after !== undefined && { after }) };
      const { rows, next } = await keystile.usage.query(query);
      expect(rows.every(({ owner }) => owner === "acme")).toBe(true);
      pages.push(rows.map(({ keyId }) => keyId));
      if (next === undefined) break;
      after = next;
    }
    expect(pages.map(({ length }) => length)).toEqual([2, 2, 1]);
    expect(pages.flat()).toEqual(ids);
    expect((await keystile.usage.query()).rows).toHaveLength(7);
  });

  test("may be one key of one owner, and nothing if it is somebody else's", async () => {
    const { keystile, time } = bench();
    const { key, secret } = await used(keystile, { owner: "acme" });
    await passDays(time, 1);
    await spend(keystile, secret, {});
    expect((await keystile.usage.query({ keyId: key.id, owner: "acme" })).rows).toHaveLength(2);
    expect((await keystile.usage.query({ keyId: key.id, owner: "other" })).rows).toEqual([]);
  });

  test("is read in bounded pages: 4,000 days of keys in reads of 400", async () => {
    const { keystile, store } = bench();
    await Promise.all(Array.from({ length: 11 }, () => keystile.keys.issue()));
    store.calls = [];
    const year = { from: "2024-01-01", to: "2024-12-31" };
    expect((await keystile.usage.query(year)).next).toBeDefined();
    const sizes = store.calls.map(({ kind, ids }) => [kind, ids.length] as const);
    expect(sizes).toEqual([["list", 0], ...Array.from({ length: 9 }, () => ["read", 400]), ["read", 60]]);
    expect((await keystile.usage.query({ ...year, limit: 10 })).next).toBeDefined();
    expect((await keystile.usage.query({ from: today, limit: 1_000 })).next).toBeUndefined();
  });

  test("is never written for", async () => {
    const { keystile, store, time, another } = bench();
    await used(keystile, {});
    await passDays(time, 1);
    store.calls = [];
    await another().usage.query();
    expect(store.calls.map(({ kind }) => kind)).toEqual(["read", "list", "read"]);
  });
});

describe("documents that cannot be read", () => {
  test("are named, and cost no other row", async () => {
    const { keystile, store, time } = bench();
    const sound = await used(keystile, {});
    const damaged = await used(keystile, {});
    const newer = await used(keystile, {});
    await passDays(time, 1);
    for (const { secret } of [sound, damaged, newer]) await spend(keystile, secret, {});
    await damage(store, damaged.key.id, () => ({ format: 1 }));
    await damageDay(store, newer.key.id, today, (body) => ({ ...body, format: 2 }));
    const { rows, unreadable } = await keystile.usage.query();
    expect(rows.map(({ keyId, day }) => [keyId, day])).toEqual(
      [
        [sound.key.id, today],
        [damaged.key.id, today],
        [sound.key.id, "2025-01-16"],
        [newer.key.id, "2025-01-16"],
      ].toSorted(([a, b], [c, d]) => (`${b}${a}` < `${d}${c}` ? -1 : 1)),
    );
    expect(unreadable).toEqual([{ keyId: damaged.key.id }, { keyId: newer.key.id, day: today }]);
  });

  test("do not bring back the part of a day that its key still shows", async () => {
    const { keystile, store } = bench();
    const { key } = await used(keystile, {});
    await putDay(store, key.id, today, { m: { settled: [1, 1, 0, 0, 0] } });
    await damageDay(store, key.id, today, () => ({}));
    const page = await keystile.usage.query({ keyId: key.id });
    expect(page).toMatchObject({ rows: [], unreadable: [{ keyId: key.id, day: today }] });
  });

  test("are no excuse for a store that is down", async () => {
    const { keystile, store, time } = bench();
    const { key } = await used(keystile, {});
    for (const kind of ["read", "list"] as const) {
      store.onCall = (call) => (call.kind === kind ? "fails before" : undefined);
      await expect(keystile.usage.query()).rejects.toMatchObject({ code: "store_unavailable" });
    }
    store.onCall = () => "hangs before";
    const query = keystile.usage.query({ keyId: key.id }).catch((error: unknown) => error);
    await time.advance(5_000);
    expect(await query).toMatchObject({ code: "store_unavailable" });
  });
});

describe("CSV", () => {
  const plain = row("abc.0", today, "gpt-5", "settled", [2, 30, 4, 5, 20]);

  test("has a header, a line for each row, and empty cells for what is not there", () => {
    expect(usageCsv([])).toBe(
      "day,keyId,owner,accountId,model,outcome,requests,cost,paid,inputTokens,outputTokens\r\n",
    );
    const rows = [
      { ...plain, owner: "acme", accountId: "abc.main" },
      row("abc.0", today, null, "expired", [-1, -30, 0, 0, -30]),
    ];
    expect(usageCsv(rows).split("\r\n").slice(1)).toEqual([
      "2025-01-15,abc.0,acme,abc.main,gpt-5,settled,2,30,20,4,5",
      "2025-01-15,abc.0,,,,expired,-1,-30,-30,0,0",
      "",
    ]);
  });

  test.each<[string, string]>([
    ["a,b", '"a,b"'],
    ['say "a"', '"say ""a"""'],
    ["a\nb", '"a\nb"'],
    ["a\r\nb", '"a\r\nb"'],
    ["=1+1", "'=1+1"],
    ["+1", "'+1"],
    ["-1", "'-1"],
    ["@SUM(A1)", "'@SUM(A1)"],
    ["\t=1", "\"'\t'=1\""],
    ["\r=1", "\"'\r'=1\""],
    ['=HYPERLINK("http://x","y")', `"'=HYPERLINK(""http://x"",""y"")"`],
    ["x;=1+1", `"x;'=1+1"`],
    ["x,@y", `"x,'@y"`],
    ["a=1", "a=1"],
    ["claude-sonnet-4-5@20250929", "claude-sonnet-4-5@20250929"],
    ["アクメ", "アクメ"],
  ])("writes the text %j as %s", (model, cell) => {
    expect(usageCsv([{ ...plain, model, owner: model }]).split("\r\n2025-01-15,")[1]).toBe(
      `abc.0,${cell},,${cell},settled,2,30,20,4,5\r\n`,
    );
  });

  test("is read back as it was written, but for the apostrophes, and no text of it begins a formula", () => {
    const text = fc.string({
      unit: fc.constantFrom("=", "+", "-", "@", "\t", "\r", "\n", '"', ",", ";", "a", "é"),
    });
    fc.assert(
      fc.property(fc.array(fc.tuple(text, text), { maxLength: 5 }), (texts) => {
        const rows = texts.map(([owner, model]) => ({ ...plain, owner, model }));
        const [, ...records] = parseCsv(usageCsv(rows));
        expect(records).toHaveLength(rows.length);
        for (const [at, cells] of records.entries()) {
          const [, , owner = "", , model = "", ...others] = cells;
          const withoutGuards = [owner, model].map((cell) => cell.replaceAll("'", ""));
          expect(withoutGuards).toEqual(texts[at]);
          for (const cell of [owner, model]) expect(cell).not.toMatch(/^[=+\-@\t\r]/);
          expect(others).toEqual(["settled", "2", "30", "20", "4", "5"]);
        }
      }),
    );
  });
});

describe("sums", () => {
  const rows = [
    { ...row("k1", "2025-01-01", "a", "settled", [1, 10, 100, 1_000, 5]), owner: "acme", accountId: "abc.a" },
    { ...row("k1", "2025-01-02", "a", "settled", [2, 20, 200, 2_000, 6]), owner: "acme", accountId: "abc.a" },
    { ...row("k2", "2025-01-01", null, "refused", [3, 0, 0, 0, 0]), owner: "acme", accountId: "abc.b" },
    row("k3", "2025-01-01", "a", "voided", [4, 0, 0, 0, 0]),
  ];

  test("go by any members, in the order in which they occur", () => {
    expect(sumUsage(rows, ["model"])).toEqual([
      { model: "a", requests: 7, cost: 30, paid: 11, inputTokens: 300, outputTokens: 3_000 },
      { model: null, requests: 3, cost: 0, paid: 0, inputTokens: 0, outputTokens: 0 },
    ]);
    expect(
      sumUsage(rows, ["owner", "day"]).map(({ owner, day, requests }) => [owner, day, requests]),
    ).toEqual([
      ["acme", "2025-01-01", 4],
      ["acme", "2025-01-02", 2],
      [undefined, "2025-01-01", 4],
    ]);
    expect(sumUsage(rows, ["accountId"]).map(({ accountId, paid }) => [accountId, paid])).toEqual([
      ["abc.a", 11],
      ["abc.b", 0],
      [undefined, 0],
    ]);
    expect(sumUsage(rows, [])).toEqual([
      { requests: 10, cost: 30, paid: 11, inputTokens: 300, outputTokens: 3_000 },
    ]);
    expect(sumUsage([], ["day"])).toEqual([]);
  });

  test("stop at 2^53 - 1", () => {
    const most = row("k", today, null, "settled", [1, Number.MAX_SAFE_INTEGER, 0, 0, 0]);
    expect(sumUsage([most, most], [])).toMatchObject([{ requests: 2, cost: Number.MAX_SAFE_INTEGER }]);
  });

  test("go by nothing else", () => {
    expect(() => sumUsage(rows, ["cost" as "day"])).toThrow(
      new TypeError("Usage is summed by day, keyId, owner, accountId, model, outcome, received cost."),
    );
  });
});

function bench(): Bench {
  const time = manualTime();
  const store = faultyStore(time.store.now);
  const another = () => newGate({ store, runtime: time.runtime });
  return { time, store, keystile: another(), another };
}

/** Lets days pass without running the ticks of all of them. */
async function passDays(time: ManualTime, days: number): Promise<void> {
  time.store.advance(days * DAY_MS - 11_000);
  // Long enough that every process asks the store for its time first.
  await time.advance(11_000);
}

function presenting(secret: string): { readonly headers: { readonly authorization: string } } {
  return { headers: { authorization: `Bearer ${secret}` } };
}

async function admitted(keystile: Keystile, secret: string, { cost = 1, model }: Spending) {
  const decision = await keystile.authorize({ ...presenting(secret), cost, model: model ?? null });
  if (!decision.allowed) throw new Error(`refused: ${decision.refusal.reason}`);
  return { decision, cost };
}

async function spend(keystile: Keystile, secret: string, spending: Spending): Promise<void> {
  const { decision, cost } = await admitted(keystile, secret, spending);
  const [inputTokens, outputTokens] = spending.tokens ?? [0, 0];
  const parts = { cachedInputTokens: 0, cacheWriteTokens: 0, reasoningTokens: 0 };
  await settled(keystile, decision.settle(cost, { ...parts, inputTokens, outputTokens }));
}

/** A new key that was used once. */
async function used(keystile: Keystile, input: IssueInput): Promise<IssuedKey> {
  const issued = await keystile.keys.issue(input);
  await spend(keystile, issued.secret, {});
  return issued;
}

function row(
  keyId: string,
  day: string,
  model: string | null,
  outcome: UsageRow["outcome"],
  [requests, cost, inputTokens, outputTokens, paid]: Tally,
): UsageRow {
  return { day, keyId, model, outcome, requests, cost, paid, inputTokens, outputTokens };
}

function datesFrom(first: string, count: number): readonly string[] {
  return Array.from({ length: count }, (_, at) =>
    new Date(Date.parse(first) + at * DAY_MS).toISOString().slice(0, 10),
  );
}

async function putDay(store: FaultyStore, keyId: string, date: string, models: Json): Promise<void> {
  const set = { format: 1, keyId, day: Date.parse(date) / DAY_MS, models };
  await store.write([[{ id: `usage:${keyId}.${date}`, expected: 0, set }]]);
}

async function damageDay(
  store: FaultyStore,
  keyId: string,
  date: string,
  change: (body: Record<string, Json>) => Json,
): Promise<void> {
  const { documents } = await store.read([`usage:${keyId}.${date}`]);
  const [document] = documents;
  if (document === undefined) throw new Error("there is no such document");
  const set = change(document.body as Record<string, Json>);
  await store.write([[{ id: document.id, expected: document.version, set }]]);
}

/** Reads RFC 4180 by itself. */
function parseCsv(text: string): readonly (readonly string[])[] {
  const records: string[][] = [];
  let cells: string[] = [];
  const token = /(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n)/y;
  while (token.lastIndex < text.length) {
    const match = token.exec(text);
    if (match === null) throw new Error("that is no CSV");
    cells.push(match[1]?.replaceAll('""', '"') ?? match[2] ?? "");
    if (match[3] === ",") continue;
    records.push(cells);
    cells = [];
  }
  return records;
}
