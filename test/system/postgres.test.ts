import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { Pool, type PoolClient, types } from "pg";
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import { storeOnDrizzle } from "../../examples/postgres-clients/drizzle.js";
import { storeOnKysely } from "../../examples/postgres-clients/kysely.js";
import { storeOnNeon } from "../../examples/postgres-clients/neon.js";
import { storeOnPostgresJs } from "../../examples/postgres-clients/postgres-js.js";
import { storeOnPrisma } from "../../examples/postgres-clients/prisma.js";
import type { Store, Write } from "../../src/store.js";
import {
  type PostgresClient,
  type PostgresStore,
  type PostgresStoreOptions,
  postgresStore,
} from "../../src/stores/postgres.js";
import { randomFrom } from "../model/random.js";
import { type Database, newDatabase } from "./postgres-database.js";
import { dumpOf } from "./postgres-dump.js";

/** What is true of the store on Postgres alone; the contract of all stores is in `stores.test.ts`. */
const server = inject("postgresUrl");
const onServer = describe.skipIf(server === undefined);

let database: Database;
let pool: Pool;
let schemas = 0;

beforeAll(async () => {
  if (server === undefined) return;
  database = await newDatabase(server);
  pool = database.pool({ max: 20 });
});

afterAll(async () => {
  await database?.drop();
});

interface Fresh {
  readonly store: PostgresStore;
  readonly schema: string;
}

/** An empty store in a schema of its own. */
async function fresh(client: PostgresClient = pool): Promise<Fresh> {
  const schema = newSchema();
  const store = postgresStore(client, { schema });
  await store.setup();
  return { store, schema };
}

function newSchema(): string {
  schemas += 1;
  return `s${schemas}`;
}

async function select<T>(text: string, values: unknown[] = []): Promise<readonly T[]> {
  return (await pool.query(text, values)).rows as T[];
}

async function wins(store: Store, ...group: Write[]): Promise<boolean> {
  return (await store.write([group])).results[0]?.written === true;
}

onServer("races of groups", () => {
  test("'p is absent, create q' and its mirror never both win, 300 times", async () => {
    const { store } = await fresh();
    let won = 0;
    for (let round = 0; round < 300; round += 1) {
      const [p, q] = [`pair:p${round}`, `pair:q${round}`];
      const both = await Promise.all([
        wins(store, { id: p, expected: 0 }, { id: q, expected: 0, set: 1 }),
        wins(store, { id: q, expected: 0 }, { id: p, expected: 0, set: 1 }),
      ]);
      won += both.filter(Boolean).length;
      expect((await store.read([p, q])).documents).toHaveLength(1);
    }
    expect(won).toBe(300);
  });

  test("'p is unchanged, delete q' and its mirror never both win", async () => {
    const { store } = await fresh();
    for (let round = 0; round < 100; round += 1) {
      const [p, q] = [`gone:p${round}`, `gone:q${round}`];
      const made = await store.write([[p, q].map((id) => ({ id, expected: 0, set: 1 }))]);
      const [atP = 0, atQ = 0] = made.results[0]?.written ? made.results[0].versions : [];
      const both = await Promise.all([
        wins(store, { id: p, expected: atP }, { id: q, expected: atQ, set: null }),
        wins(store, { id: q, expected: atQ }, { id: p, expected: atP, set: null }),
      ]);
      expect(both.filter(Boolean)).toHaveLength(1);
      expect((await store.read([p, q])).documents).toHaveLength(1);
    }
  });

  test("two creates are made together or not at all, whoever else makes one of them", async () => {
    const { store } = await fresh();
    for (let round = 0; round < 100; round += 1) {
      const [a, b, c] = [`made:a${round}`, `made:b${round}`, `made:c${round}`];
      const [one, other] = await Promise.all([
        wins(store, { id: a, expected: 0, set: "one" }, { id: b, expected: 0, set: "one" }),
        wins(store, { id: b, expected: 0, set: "other" }, { id: c, expected: 0, set: "other" }),
      ]);
      const found = (await store.read([a, b, c])).documents.map(({ id, body }) => [id, body]).sort();
      expect([one, other].filter(Boolean)).toHaveLength(1);
      const expected = one ? [[a, "one"], [b, "one"]] : [[b, "other"], [c, "other"]]; // biome-ignore format: pairs
      expect(found).toEqual(expected);
    }
  });

  test("calls over the same documents in every order wait for each other and never for ever", async () => {
    const { store } = await fresh();
    const before = await deadlocks();
    const ids = Array.from({ length: 12 }, (_, n) => `sum:${n}`);
    const counted = new Map<string, number>();
    await Promise.all(
      Array.from({ length: 8 }, async (_, client) => {
        const random = randomFrom(client);
        for (let round = 0; round < 40; round += 1) {
          const order = client % 2 ? ids : ids.toReversed();
          const some = order.filter(() => random.chance(0.6));
          const known = new Map((await store.read(some)).documents.map((found) => [found.id, found]));
          // Groups of two and a check of a third, so that locks of both kinds cross.
          const groups = [some.slice(0, 3), some.slice(3, 6), some.slice(6, 9)].map((group) =>
            group.map((id, n): Write => {
              const { version = 0, body = 0 } = known.get(id) ?? {};
              return n === 2 ? { id, expected: version } : { id, expected: version, set: Number(body) + 1 };
            }),
          );
          const { results } = await store.write(groups);
          for (const [g, group] of groups.entries()) {
            if (!results[g]?.written) continue;
            for (const { id, set } of group)
              if (set !== undefined) counted.set(id, (counted.get(id) ?? 0) + 1);
          }
        }
      }),
    );
    const { documents } = await store.read(ids);
    expect(new Map(documents.map(({ id, body }) => [id, body]))).toEqual(counted);
    expect(await deadlocks()).toBe(before);
  });

  test("the largest call takes no more than 1,024 entries of the server's lock table", async () => {
    const { store, schema } = await fresh();
    // Waits, with all other locks taken, for the last place in the order.
    const locker = await pool.connect();
    await locker.query("BEGIN");
    await locker.query("SELECT pg_advisory_xact_lock($1::regclass::oid::integer, 1023)", [
      `${schema}.documents`,
    ]);
    const groups = Array.from({ length: 256 }, (_, group) =>
      Array.from({ length: 16 }, (_, n) => ({ id: `many:${group}.${n}`, expected: 0, set: 1 })),
    );
    let isDone = false;
    const writing = store.write(groups).finally(() => {
      isDone = true;
    });
    await waitFor(async () => isDone || (await waiting()) === 1);
    const locks = await select(
      `SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid <> ${await pidOf(locker)}`,
    );
    await locker.query("ROLLBACK");
    locker.release();
    expect((await writing).results.every(({ written }) => written)).toBe(true);
    expect(locks.length).toBeGreaterThan(900);
    expect(locks.length).toBeLessThan(1024);
  });

  test("a call that only checks waits for nobody", async () => {
    const { store, schema } = await fresh();
    await store.write([[{ id: "key:1", expected: 0, set: 1 }]]);
    const locker = await pool.connect();
    await locker.query("BEGIN");
    await locker.query(
      `SELECT pg_advisory_xact_lock($1::regclass::oid::integer, n) FROM generate_series(0, 1023) AS n`,
      [`${schema}.documents`],
    );
    expect((await store.read(["key:1"])).documents).toHaveLength(1);
    expect((await store.write([[{ id: "key:1", expected: 7 }]])).results[0]?.written).toBe(false);
    // Of what was locked first, to see that the lock is one that a write does wait for.
    const writing = store.write([[{ id: "key:2", expected: 0, set: 1 }]]);
    await waitFor(async () => (await waiting()) === 1);
    const [{ now = 0 } = {}] = await select<{ now: string }>(
      "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::text AS now",
    );
    await locker.query("ROLLBACK");
    locker.release();
    const reply = await writing;
    expect(reply.results[0]?.written).toBe(true);
    expect(reply.now, "the time after the locks").toBeGreaterThanOrEqual(Number(now));
  });
});

async function pidOf(client: PoolClient): Promise<number> {
  return (await client.query("SELECT pg_backend_pid() AS pid")).rows[0].pid;
}

async function deadlocks(): Promise<number> {
  const [row] = await select<{ deadlocks: string }>(
    "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()",
  );
  return Number(row?.deadlocks);
}

/** How many sessions of this database wait for a lock. */
async function waiting(): Promise<number> {
  return (
    await select(
      "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'",
    )
  ).length;
}

async function waitFor(isSo: () => Promise<boolean>): Promise<void> {
  while (!(await isSo()));
}

onServer("setup", () => {
  test("must have been called, and says so", async () => {
    const store = postgresStore(pool, { schema: newSchema() });
    const missing = { code: "invalid_options", message: expect.stringContaining("store.setup()") };
    await expect(store.read(["key:1"])).rejects.toMatchObject(missing);
    await expect(store.write([])).rejects.toMatchObject(missing);
    await expect(store.list({ kind: "key", limit: 1 })).rejects.toMatchObject(missing);
    await store.setup();
    expect((await store.read(["key:1"])).documents).toEqual([]);
    await pool.query(`DROP SCHEMA s${schemas} CASCADE`);
    await expect(store.read(["key:1"])).rejects.toMatchObject(missing);
  });

  test("by twenty at once on a new database, again and again", async () => {
    const schema = newSchema();
    for (let round = 0; round < 3; round += 1) {
      await Promise.all(
        Array.from({ length: 20 }, async (_, n) => {
          const store = postgresStore(pool, { schema });
          await store.setup();
          await store.write([[{ id: `installer:${round}.${n}`, expected: 0, set: true }]]);
        }),
      );
    }
    const listed = await postgresStore(pool, { schema }).list({ kind: "installer", limit: 100 });
    expect(listed.documents).toHaveLength(60);
    expect(new Set(listed.documents.map(({ version }) => version)).size).toBe(60);
  });

  test("refuses a newer schema and changes nothing", async () => {
    const { schema, store } = await fresh();
    await pool.query(`UPDATE ${schema}.meta SET schema = 2; DROP TABLE ${schema}.documents CASCADE`);
    const newer = postgresStore(pool, { schema });
    await expect(newer.setup()).rejects.toMatchObject({ code: "format_newer" });
    await expect(newer.read(["key:1"])).rejects.toMatchObject({ code: "format_newer" });
    await expect(store.setup()).rejects.toMatchObject({ code: "format_newer" });
    expect(await select(`SELECT 1 FROM pg_tables WHERE schemaname = '${schema}'`)).toHaveLength(1);
  });

  test("installs what is in etc/postgres.sql", async () => {
    const store = postgresStore(pool);
    await store.setup();
    await expect(await dumpOf(pool, "keystile")).toMatchFileSnapshot("../../etc/postgres.sql");
  });

  test("keeps stores of different schemas apart", async () => {
    const [one, other] = [await fresh(), await fresh()];
    await one.store.write([[{ id: "key:1", expected: 0, set: "one" }]]);
    expect((await other.store.read(["key:1"])).documents).toEqual([]);
    expect(await wins(other.store, { id: "key:1", expected: 0, set: "other" })).toBe(true);
    expect((await one.store.list({ kind: "key", limit: 10 })).documents.map(({ body }) => body)).toEqual([
      "one",
    ]);
  });

  test("takes a role that may not create anything, once another has called it", async () => {
    const { schema, store } = await fresh();
    const role = `app_of_${new URL(database.url).pathname.slice(1)}`;
    await pool.query(`CREATE ROLE ${role} LOGIN;
      GRANT USAGE ON SCHEMA ${schema} TO ${role};
      GRANT SELECT ON ${schema}.meta TO ${role};
      GRANT SELECT, INSERT, UPDATE, DELETE ON ${schema}.documents TO ${role};
      GRANT USAGE ON SEQUENCE ${schema}.versions TO ${role}`);
    const limited = postgresStore(database.pool({ max: 1 }, role), { schema });
    await limited.setup();
    expect(await wins(limited, { id: "key:1", expected: 0, set: 1 })).toBe(true);
    expect((await limited.list({ kind: "key", limit: 10 })).documents).toHaveLength(1);
    await pool.query(`REVOKE INSERT ON ${schema}.documents FROM ${role}`);
    const writing = limited.write([[{ id: "key:2", expected: 0, set: 1 }]]);
    await expect(writing).rejects.toMatchObject({ code: "store_unavailable", mayHaveHappened: false });
    expect((await store.read(["key:2"])).documents).toEqual([]);
    await pool.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
  });
});

test.each(["", "Keystile", "a-b", '"', "1a", "a".repeat(64), 7, null])(
  "the schema %j is refused",
  (schema) => {
    expect(() => postgresStore({ query: neverAsked }, { schema } as PostgresStoreOptions)).toThrow(
      expect.objectContaining({ code: "invalid_options", message: expect.stringContaining("schema:") }),
    );
  },
);

async function neverAsked(): Promise<never> {
  throw new Error("It was asked all the same.");
}

onServer("a session", () => {
  test.each(["serializable", "repeatable read"])(
    "that is %s is refused before anything is done",
    async (level) => {
      const { schema, store } = await fresh();
      await store.write([[{ id: "key:1", expected: 0, set: 1 }]]);
      const options = `-c default_transaction_isolation=${level.replace(" ", "\\ ")}`;
      const other = postgresStore(database.pool({ max: 1, options }), { schema });
      const refused = { code: "invalid_options", message: expect.stringContaining("READ COMMITTED") };
      await expect(other.setup()).rejects.toMatchObject(refused);
      await expect(other.read(["key:1"])).rejects.toMatchObject(refused);
      await expect(other.list({ kind: "key", limit: 1 })).rejects.toMatchObject(refused);
      await expect(other.write([[{ id: "key:2", expected: 0, set: 1 }]])).rejects.toMatchObject(refused);
      expect((await store.read(["key:2"])).documents).toEqual([]);
    },
  );

  test("may have any settings that other programs like", async () => {
    const options =
      "-c search_path=elsewhere -c DateStyle=German -c TimeZone=Asia/Kathmandu -c enable_indexscan=off";
    const { store } = await fresh(database.pool({ max: 1, options }));
    expect(await wins(store, { id: "key:1", expected: 0, set: "ü" })).toBe(true);
    const { documents, now } = await store.read(["key:1"]);
    expect(documents).toMatchObject([{ id: "key:1", body: "ü" }]);
    expect(Math.abs(now - Date.now())).toBeLessThan(60_000);
  });

  test("is left with no statement prepared and no lock", async () => {
    const single = database.pool({ max: 1 });
    const { store } = await fresh(single);
    for (let n = 0; n < 10; n += 1) await store.write([[{ id: `key:${n}`, expected: 0, set: 1 }]]);
    await store.list({ kind: "key", limit: 5 });
    const { rows } = await single.query(
      "SELECT (SELECT count(*) FROM pg_prepared_statements) AS prepared, count(*) AS locks FROM pg_locks " +
        "WHERE pid = pg_backend_pid() AND locktype = 'advisory'",
    );
    expect(rows).toEqual([{ prepared: "0", locks: "0" }]);
  });
});

onServer("ids", () => {
  test("of characters that stand for one which Postgres cannot keep stay apart and in order", async () => {
    const { store } = await fresh();
    const characters = ["", "\0", "\u0001", "\u0002", "a"];
    const rests = characters.flatMap((a) => characters.flatMap((b) => characters.map((c) => a + b + c)));
    const ids = [...new Set(rests)].map((rest) => `key:${rest}`).sort();
    await store.write(ids.map((id) => [{ id, expected: 0, set: id, owner: id }]));
    const pages = [await store.list({ kind: "key", limit: 40 })];
    for (let next = pages[0]?.next; next !== undefined; next = pages.at(-1)?.next) {
      pages.push(await store.list({ kind: "key", limit: 40, after: next }));
    }
    const listed = pages.flatMap(({ documents }) => documents);
    expect(listed.map(({ id, owner, body }) => [id, owner, body])).toEqual(ids.map((id) => [id, id, id]));
    const owned = await store.list({ kind: "key", owner: "key:\0\u0001", limit: 10 });
    expect(owned.documents.map(({ id }) => id)).toEqual(["key:\0\u0001"]);
  });
});

onServer("plans", () => {
  test("made for an empty table read no whole table, and no whole index, when it has grown", async () => {
    const single = database.pool({ max: 1 });
    const { store, schema } = await fresh(single);
    // An empty table that was vacuumed is known to be empty: the worst that a plan can be made for.
    await single.query(`VACUUM ANALYZE ${schema}.documents`);
    const use = async (n: number): Promise<void> => {
      await store.write([[{ id: `use:${n}`, expected: 0, set: n }], [{ id: "key:1", expected: 99 }]]);
      const [found] = (await store.read([`use:${n}`, "key:1"])).documents;
      await store.write([[{ id: `use:${n}`, expected: found?.version ?? 0, set: null }]]);
      await store.list({ kind: "use", limit: 10 });
      await store.list({ kind: "use", owner: "o", limit: 10 });
    };
    // Often enough for the server to settle on a plan that it keeps.
    for (let n = 0; n < 12; n += 1) await use(n);
    await single.query(`INSERT INTO ${schema}.documents
      SELECT 'key:' || n, n, 'owner ' || n % 100, '{}' FROM generate_series(1, 20000) AS n`);
    const before = await usage(single, schema);
    for (let n = 0; n < 20; n += 1) await use(n);
    const after = await usage(single, schema);
    expect(after.scans - before.scans).toBe(0);
    expect(after.entries - before.entries).toBeLessThan(20 * 20);
    // Both numbers tell a wrong plan from a right one.
    await single.query("SET max_parallel_workers_per_gather = 0");
    await single.query(`SELECT count(*) FROM ${schema}.documents WHERE body <> '{}'`);
    await single.query("SET enable_seqscan = off");
    await single.query(`SELECT body FROM ${schema}.documents ORDER BY id OFFSET 15000`);
    const wrong = await usage(single, schema);
    expect(wrong.scans - after.scans).toBe(1);
    expect(wrong.entries - after.entries).toBeGreaterThan(15_000);
  });
});

/** How often all of the documents were read, and how many entries of indexes. */
async function usage(single: Pool, schema: string): Promise<{ scans: number; entries: number }> {
  await single.query("SELECT pg_stat_force_next_flush()");
  const { rows } = await single.query(
    `SELECT seq_scan AS scans, (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes AS i WHERE i.relid = t.relid) AS entries
     FROM pg_stat_user_tables AS t WHERE schemaname = $1 AND relname = 'documents'`,
    [schema],
  );
  return { scans: Number(rows[0].scans), entries: Number(rows[0].entries) };
}

onServer("trouble", () => {
  test("a deadlock is a lost race, with the documents as they are", async () => {
    const { store, schema } = await fresh(database.pool({ max: 2, options: "-c deadlock_timeout=50ms" }));
    await store.write([[{ id: "key:1", expected: 0, set: "theirs" }]]);
    // Somebody who takes the same locks in the opposite order.
    const rival = await pool.connect();
    const lock = `SELECT pg_advisory_xact_lock($1::regclass::oid::integer, place) FROM
      (SELECT hashtext(id) & 1023 AS place FROM unnest(ARRAY['key:1', 'key:2']) AS id ORDER BY 1 DESC) AS p`;
    await rival.query("BEGIN");
    await rival.query(`${lock} LIMIT 1`, [`${schema}.documents`]);
    const writing = store.write([
      [{ id: "key:1", expected: 0, set: "mine" }],
      [{ id: "key:2", expected: 0, set: "mine" }],
    ]);
    await waitFor(async () => (await waiting()) === 1);
    const [{ results }] = await Promise.all([writing, rival.query(lock, [`${schema}.documents`])]);
    await rival.query("ROLLBACK");
    rival.release();
    expect(results).toMatchObject([
      { written: false, current: [{ id: "key:1", body: "theirs" }] },
      { written: false, current: [] },
    ]);
    expect(await deadlocks()).toBeGreaterThan(0);
  });

  test("so is one over documents that are there", async () => {
    const { store, schema } = await fresh(database.pool({ max: 2, options: "-c deadlock_timeout=50ms" }));
    const { results: made } = await store.write(
      ["key:1", "key:2"].map((id) => [{ id, expected: 0, set: "theirs" }]),
    );
    const rival = await pool.connect();
    const lock = (id: string) =>
      rival.query(`SELECT FROM ${schema}.documents WHERE id = $1 FOR UPDATE`, [id]);
    await rival.query("BEGIN");
    await lock("key:2");
    const writing = store.write(
      made.map((one, n) => [
        { id: `key:${n + 1}`, expected: one.written ? (one.versions[0] ?? 0) : 0, set: "mine" },
      ]),
    );
    await waitFor(async () => {
      const blocked = "SELECT FROM pg_stat_activity WHERE wait_event = 'transactionid' AND query LIKE $1";
      return (await select(blocked, [`%${schema}%`])).length === 1;
    });
    const [{ results }] = await Promise.all([writing, lock("key:1")]);
    await rival.query("ROLLBACK");
    rival.release();
    expect(results).toMatchObject([
      { written: false, current: [{ id: "key:1", body: "theirs" }] },
      { written: false, current: [{ id: "key:2", body: "theirs" }] },
    ]);
  });

  test("a statement that was cancelled has certainly written nothing", async () => {
    const { schema, store } = await fresh();
    const impatient = postgresStore(database.pool({ max: 1, options: "-c statement_timeout=200" }), {
      schema,
    });
    await impatient.read([]);
    const locker = await pool.connect();
    await locker.query(`BEGIN; LOCK TABLE ${schema}.documents`);
    const writing = impatient.write([[{ id: "key:1", expected: 0, set: 1 }]]);
    await expect(writing).rejects.toMatchObject({
      code: "store_unavailable",
      mayHaveHappened: false,
      cause: { code: "57014" },
    });
    await locker.query("ROLLBACK");
    locker.release();
    expect((await store.read(["key:1"])).documents).toEqual([]);
  });

  test("a session that was ended may have written", async () => {
    const { schema } = await fresh();
    const doomed = database.pool({ max: 1 });
    doomed.on("error", () => {});
    const store = postgresStore(doomed, { schema });
    await store.read([]);
    const locker = await pool.connect();
    await locker.query(`BEGIN; LOCK TABLE ${schema}.documents`);
    const writing = store.write([[{ id: "key:1", expected: 0, set: 1 }]]);
    const reading = expect(writing).rejects.toMatchObject({
      code: "store_unavailable",
      mayHaveHappened: true,
    });
    await waitFor(async () => {
      const ended = await select(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'relation' AND query LIKE $1",
        [`%${schema}%`],
      );
      return ended.length > 0;
    });
    await reading;
    await locker.query("ROLLBACK");
    locker.release();
    // The pool makes a new connection, and the store goes on.
    expect(await wins(store, { id: "key:1", expected: 0, set: 1 })).toBe(true);
  });

  test("a server that is not there has written nothing, one that falls silent may have", async () => {
    const silent = createServer((socket) => socket.destroy()).listen(0, "127.0.0.1");
    await once(silent, "listening");
    const fallen = new Pool({ host: "127.0.0.1", port: (silent.address() as AddressInfo).port });
    const { schema } = await fresh();
    let current = pool;
    const one = postgresStore({ query: (text, values) => current.query(text, values) }, { schema });
    await one.read([]);
    current = fallen;
    const write = [[{ id: "key:1", expected: 0, set: 1 }]];
    await expect(one.write(write)).rejects.toMatchObject({
      code: "store_unavailable",
      mayHaveHappened: true,
    });
    await expect(one.read(["key:1"])).rejects.toMatchObject({
      code: "store_unavailable",
      mayHaveHappened: false,
    });
    silent.close();
    await once(silent, "close");
    await expect(one.write(write)).rejects.toMatchObject({
      code: "store_unavailable",
      mayHaveHappened: false,
      cause: { code: "ECONNREFUSED" },
    });
    await fallen.end();
  });

  test("closing the store leaves the client alone", async () => {
    const { store } = await fresh();
    await store.close();
    expect(await select("SELECT 1 AS one")).toEqual([{ one: 1 }]);
  });
});

onServer("a client of another kind, wrapped as in examples/postgres-clients", () => {
  // Stand-ins that answer in the shape of each, and in the types that each makes of a bigint.
  async function rows(text: string, values: unknown[] = []): Promise<Record<string, unknown>[]> {
    return (await pool.query(text, values)).rows;
  }
  const bigints = {
    getTypeParser: (type: number) => (type === types.builtins.INT8 ? BigInt : types.getTypeParser(type)),
  };
  const wrapped: Readonly<Record<string, () => Store>> = {
    Drizzle: () => storeOnDrizzle({ $client: pool }),
    Neon: () => storeOnNeon({ query: rows }),
    "Postgres.js": () => storeOnPostgresJs({ unsafe: rows }),
    Kysely: () =>
      storeOnKysely(
        { executeQuery: ({ text, values }) => pool.query(text, values) },
        { raw: (text, values) => ({ text, values }) },
      ),
    Prisma: () =>
      storeOnPrisma({
        async $queryRawUnsafe<T>(text: string, ...values: unknown[]): Promise<T> {
          return (await pool.query({ text, values, types: bigints as never })).rows as T;
        },
      }),
  };

  test.each(Object.keys(wrapped))("%s", async (name) => {
    const store = (wrapped[name] as () => PostgresStore)();
    await store.setup();
    const id = `client:${name}`;
    const [result] = (await store.write([[{ id, expected: 0, set: { name }, owner: name }]])).results;
    const version = result?.written ? result.versions[0] : undefined;
    const { documents, now } = await store.read([id]);
    expect(documents).toStrictEqual([{ id, version, owner: name, body: { name } }]);
    expect(Number.isSafeInteger(now)).toBe(true);
    expect((await store.list({ kind: "client", owner: name, limit: 1 })).documents).toStrictEqual(documents);
  });
});
