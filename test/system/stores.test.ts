import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { PGlite } from "@electric-sql/pglite";
import { Redis } from "ioredis";
import type { PoolConfig } from "pg";
import { createClient } from "redis";
import { afterAll, afterEach, beforeAll, describe, expect, inject, test, vi } from "vitest";
import { createKeystile } from "../../src/keystile.js";
import type { Store } from "../../src/store.js";
import { memoryStore } from "../../src/stores/memory.js";
import { type PostgresClient, type PostgresStoreOptions, postgresStore } from "../../src/stores/postgres.js";
import { type RedisClient, redisStore } from "../../src/stores/redis.js";
import type { SqliteDatabase, SqliteStatement } from "../../src/stores/sqlite.js";
import { sqliteStore } from "../../src/stores/sqlite.js";
import { manualClock, storeConformance, storeDurability } from "../../src/testing/index.js";
import { hasRedis, type RedisServer, startRedis } from "../setup/redis-server.js";
import { type Database, newDatabase } from "./postgres-database.js";
import { quickFolder } from "./shared-places.js";

/**
 * A handle of better-sqlite3, where it is installed. It is no development dependency: without a compiler and Python,
 * which a newcomer may not have, installing it from a lockfile fails on older npm.
 */
function betterSqlite(path: string): (SqliteDatabase & { close(): void }) | undefined {
  try {
    return new (createRequire(import.meta.url)("better-sqlite3"))(path);
  } catch (error) {
    if (process.env["KEYSTILE_TEST_REQUIRE_ALL"] === "1") throw error;
    console.warn(
      "better-sqlite3 is skipped. npm install --no-save --ignore-scripts better-sqlite3 brings it.",
    );
    return undefined;
  }
}

const directory = mkdtempSync(join(quickFolder, "keystile-"));
let files = 0;

function newFile(): string {
  files += 1;
  return join(directory, `${files}.db`);
}

async function ready<T extends { setup(): Promise<void> }>(store: T): Promise<T> {
  await store.setup();
  return store;
}

const shared = newFile();
const betterHandle = betterSqlite(newFile());
const bigIntHandle = new DatabaseSync(":memory:", { readBigInts: true });
const nodeHandle = new DatabaseSync(":memory:");

const lite = new PGlite();
const postgresUrl = inject("postgresUrl");
let postgres: Database | undefined;

beforeAll(async () => {
  if (postgresUrl !== undefined) postgres = await newDatabase(postgresUrl);
});

afterAll(async () => {
  for (const handle of [betterHandle, bigIntHandle, nodeHandle]) handle?.close();
  rmSync(directory, { recursive: true });
  await lite.close();
  await postgres?.drop();
});

/** One pool for all stores of a kind, as in an app. */
function onPool(config: PoolConfig, options?: PostgresStoreOptions): () => Promise<Store> {
  let pool: PostgresClient | undefined;
  return () => {
    pool ??= (postgres as Database).pool(config);
    return ready(postgresStore(pool, options));
  };
}

/** Two queries one after the other never meet the same connection. */
function onPools(count: number): () => Promise<Store> {
  let pools: readonly PostgresClient[] | undefined;
  let turn = 0;
  function query(text: string, values: (string | null)[]): ReturnType<PostgresClient["query"]> {
    pools ??= Array.from({ length: count }, () => (postgres as Database).pool({ max: 4 }));
    turn += 1;
    return (pools[turn % count] as PostgresClient).query(text, values);
  }
  return () => ready(postgresStore({ query }));
}

const stores: readonly (readonly [name: string, open: () => Store | Promise<Store>])[] = [
  ["memory", () => memoryStore()],
  ["sqlite, a file", () => ready(sqliteStore(shared))],
  ["sqlite, :memory:", () => ready(sqliteStore(":memory:"))],
  ["sqlite, a handle of node:sqlite", () => ready(sqliteStore(nodeHandle))],
  ["sqlite, a handle that returns BigInts", () => ready(sqliteStore(bigIntHandle))],
  ["postgres, PGlite", () => ready(postgresStore(lite))],
];

const ofBetterSqlite: typeof stores = [
  ["sqlite, a handle of better-sqlite3", () => ready(sqliteStore(betterHandle as SqliteDatabase))],
];

const ofPostgres: typeof stores = [
  ["postgres, a pool", onPool({ max: 20 })],
  [
    "postgres, a pool of one connection, in a schema of another name",
    onPool({ max: 1 }, { schema: "gate_2" }),
  ],
  // What a pooler in transaction mode may do at worst.
  ["postgres, every query on another connection", onPools(5)],
];

describe.each(stores)("the store contract: %s", (_, open) => {
  for (const { clause, name, run } of storeConformance({ open })) test(`${clause} ${name}`, run);
});

describe.skipIf(betterHandle === undefined).each(ofBetterSqlite)("the store contract: %s", (_, open) => {
  for (const { clause, name, run } of storeConformance({ open })) test(`${clause} ${name}`, run);
});

describe.skipIf(postgresUrl === undefined).each(ofPostgres)("the store contract: %s", (_, open) => {
  for (const { clause, name, run } of storeConformance({ open })) test(`${clause} ${name}`, run);
});

describe("what was acknowledged is kept: sqlite, a file", () => {
  const file = newFile();
  for (const { clause, name, run } of storeDurability({ open: () => ready(sqliteStore(file)) })) {
    test(`${clause} ${name}`, run);
  }
});

describe.skipIf(postgresUrl === undefined)("what was acknowledged is kept: postgres, a new pool", () => {
  const open = (): Promise<Store> => ready(postgresStore((postgres as Database).pool({ max: 2 })));
  for (const { clause, name, run } of storeDurability({ open })) test(`${clause} ${name}`, run);
});

describe.skipIf(!hasRedis)("the store contract: redis", () => {
  let server: RedisServer;
  const clients = new Map<string, RedisClient>();
  const ends: (() => void)[] = [];

  beforeAll(async () => {
    server = await startRedis();
    const ioredis = new Redis(server.port);
    const nodeRedis = await createClient({ url: server.url }).connect();
    clients.set("ioredis", ioredis).set("node-redis", nodeRedis);
    ends.push(
      () => ioredis.disconnect(),
      () => nodeRedis.destroy(),
    );
  });

  afterAll(async () => {
    for (const end of ends) end();
    await server?.stop();
  });

  describe.each(["ioredis", "node-redis"])("%s", (client) => {
    const open = (): Promise<Store> => ready(redisStore(clients.get(client) as RedisClient));
    for (const { clause, name, run } of storeConformance({ open })) test(`${clause} ${name}`, run);
  });

  describe("what was acknowledged is kept: a new client", () => {
    const open = (): Promise<Store> => {
      const client = new Redis(server.port);
      ends.push(() => client.disconnect());
      return ready(redisStore(client));
    };
    for (const { clause, name, run } of storeDurability({ open })) test(`${clause} ${name}`, run);
  });
});

describe("sqliteStore, setup", () => {
  test("must have been called, and says so", async () => {
    const store = sqliteStore(newFile());
    const missing = { code: "invalid_options", message: expect.stringContaining("store.setup()") };
    await expect(store.read(["key:1"])).rejects.toMatchObject(missing);
    await expect(store.write([])).rejects.toMatchObject(missing);
    await expect(store.list({ kind: "key", limit: 1 })).rejects.toMatchObject(missing);
    await store.setup();
    expect((await store.read(["key:1"])).documents).toEqual([]);
    await store.close();
  });

  test("may be called again and keeps everything, as does closing and opening", async () => {
    const file = newFile();
    const first = await ready(sqliteStore(file));
    const group = [
      { id: "key:1", expected: 0, set: { a: 1 }, owner: "o" },
      { id: "key:2", expected: 0, set: [2] },
    ];
    await first.write([group]);
    const before = await first.list({ kind: "key", limit: 10 });
    await first.close();

    const second = await ready(sqliteStore(file));
    expect(await second.list({ kind: "key", limit: 10 })).toEqual(before);
    const version = before.documents[0]?.version ?? 0;
    const { results } = await second.write([[{ id: "key:3", expected: 0, set: 3 }]]);
    expect(results).toEqual([{ written: true, versions: [version + 1] }]);
    await second.close();
  });

  test("refuses a newer schema and changes nothing", async () => {
    const database = new DatabaseSync(newFile());
    const store = await ready(sqliteStore(database));
    database.exec("UPDATE keystile_meta SET schema = 2; DROP TABLE keystile_documents");
    await expect(store.setup()).rejects.toMatchObject({ code: "format_newer" });
    await expect(sqliteStore(database).read(["key:1"])).rejects.toMatchObject({ code: "format_newer" });
    expect(
      database.prepare("SELECT name FROM sqlite_master WHERE name = 'keystile_documents'").all(),
    ).toEqual([]);
    database.close();
  });

  test("by twenty processes at once on a new file", async () => {
    const file = newFile();
    const replies = await inProcesses(20, (n) => ["setup", file, "0", String(n)]);
    expect(new Set(replies.map((reply) => JSON.stringify(reply))).size).toBe(20);
    const store = sqliteStore(file);
    expect((await store.list({ kind: "process", limit: 100 })).documents).toHaveLength(20);
    await store.close();
  });
});

describe("sqliteStore, several at one file", () => {
  test("two stores of one process add up", async () => {
    const file = newFile();
    const [one, other] = [await ready(sqliteStore(file)), sqliteStore(new DatabaseSync(file))];
    async function add(store: Store): Promise<void> {
      for (;;) {
        const known = (await store.read(["sum:1"])).documents[0];
        const write = { id: "sum:1", expected: known?.version ?? 0, set: Number(known?.body ?? 0) + 1 };
        if ((await store.write([[write]])).results[0]?.written) return;
      }
    }
    await Promise.all(Array.from({ length: 50 }, (_, n) => add(n % 2 ? one : other)));
    expect((await other.read(["sum:1"])).documents[0]?.body).toBe(50);
    await one.close();
  });

  test("four processes add up", async () => {
    const file = newFile();
    const store = await ready(sqliteStore(file));
    await inProcesses(4, () => ["increment", file, "150"]);
    expect((await store.read(["sum:1"])).documents[0]?.body).toBe(600);
    await store.close();
  });

  test("of two processes that void each other's check never both win", async () => {
    const file = newFile();
    const store = await ready(sqliteStore(file));
    const [one, other] = (await inProcesses(2, (n) => ["mirror", file, "400", String(n)])) as {
      won: number[];
    }[];
    expect(one?.won.filter((round) => other?.won.includes(round))).toEqual([]);
    expect((one?.won.length ?? 0) + (other?.won.length ?? 0)).toBe(400);
    await store.close();
  });
});

describe("sqliteStore, trouble", () => {
  afterEach(() => {
    vi.useRealTimers();
    vi.restoreAllMocks();
  });

  test("waits for the lock of another process without stopping this one", async () => {
    const file = newFile();
    const store = await ready(sqliteStore(file, { clock: manualClock(7).now }));
    const locker = new DatabaseSync(file);
    locker.exec("BEGIN IMMEDIATE");
    const writing = store.write([[{ id: "key:1", expected: 0, set: 1 }]]);
    // A read and a call that only checks need no lock.
    expect((await store.read(["key:1"])).documents).toEqual([]);
    expect((await store.write([[{ id: "key:1", expected: 0 }]])).results[0]?.written).toBe(true);
    locker.exec("COMMIT");
    expect(await writing).toEqual({ results: [{ written: true, versions: [1] }], now: 7 });
    locker.close();
    await store.close();
  });

  test("gives up after five seconds and has certainly written nothing", async () => {
    const file = newFile();
    const store = await ready(sqliteStore(file));
    const locker = new DatabaseSync(file);
    locker.exec("BEGIN IMMEDIATE");
    vi.useFakeTimers({ toFake: ["setTimeout", "performance"] });
    const writing = store.write([[{ id: "key:1", expected: 0, set: 1 }]]);
    const outcome = expect(writing).rejects.toMatchObject({
      code: "store_unavailable",
      mayHaveHappened: false,
      cause: { message: "database is locked" },
    });
    await vi.advanceTimersByTimeAsync(5_100);
    await outcome;
    locker.exec("ROLLBACK");
    locker.close();
    expect((await store.read(["key:1"])).documents).toEqual([]);
    await store.close();
  });

  test("rolls back what fails half-way, and goes on", async () => {
    const database = failingHandle(/^INSERT INTO keystile_documents/);
    const store = await ready(sqliteStore(database));
    await store.write([[{ id: "key:1", expected: 0, set: 1 }]]);
    database.failNext(2);
    const group = [
      { id: "key:2", expected: 0, set: 2 },
      { id: "key:3", expected: 0, set: 3 },
    ];
    const fault = { code: "store_unavailable", mayHaveHappened: false, cause: { message: "disk I/O error" } };
    await expect(store.write([group])).rejects.toMatchObject(fault);
    expect((await store.list({ kind: "key", limit: 10 })).documents.map(({ id }) => id)).toEqual(["key:1"]);
    expect((await store.write([group])).results[0]?.written).toBe(true);
  });

  test("says that a write may have happened when only its commit failed", async () => {
    const database = failingHandle(/^COMMIT/);
    const store = await ready(sqliteStore(database));
    database.failNext(1);
    const writing = store.write([[{ id: "key:1", expected: 0, set: 1 }]]);
    await expect(writing).rejects.toMatchObject({ code: "store_unavailable", mayHaveHappened: true });
    expect((await store.write([[{ id: "key:1", expected: 0, set: 1 }]])).results[0]?.written).toBe(true);
  });

  test("leaves a transaction alone that somebody else has open on the handle", async () => {
    const database = new DatabaseSync(":memory:");
    const store = await ready(sqliteStore(database));
    database.exec("CREATE TABLE theirs (n); BEGIN; INSERT INTO theirs VALUES (1)");
    const writing = store.write([[{ id: "key:1", expected: 0, set: 1 }]]);
    await expect(writing).rejects.toMatchObject({ code: "store_unavailable", mayHaveHappened: false });
    database.exec("COMMIT");
    expect(database.prepare("SELECT n FROM theirs").all()).toHaveLength(1);
    expect((await store.read(["key:1"])).documents).toEqual([]);
    database.close();
  });

  test("a stored text that is not JSON is the fault of its key alone", async () => {
    const database = new DatabaseSync(":memory:");
    const store = await ready(sqliteStore(database));
    const gate = createKeystile({ store });
    const [broken, sound] = [await gate.keys.issue(), await gate.keys.issue()];
    database.prepare("UPDATE keystile_documents SET body = '{' WHERE id = ?").run(`key:${broken.key.id}`);
    const asked = [broken, sound].map(({ secret }) => gate.authorize({ headers: { "x-api-key": secret } }));
    const [refused, decided] = await Promise.allSettled(asked);
    expect(refused).toMatchObject({ status: "rejected", reason: { code: "document_invalid" } });
    expect(decided).toMatchObject({ status: "fulfilled", value: { allowed: true } });
    database.close();
  });

  test("names a file that cannot be opened", () => {
    const path = join(directory, "missing", "file.db");
    expect(() => sqliteStore(path)).toThrow(expect.objectContaining({ code: "store_unavailable" }));
  });

  test("needs a handle where node:sqlite is missing, and says so", async () => {
    vi.spyOn(process, "getBuiltinModule").mockReturnValue(undefined as never);
    expect(() => sqliteStore(":memory:")).toThrow(
      expect.objectContaining({
        code: "invalid_options",
        message: expect.stringContaining("better-sqlite3"),
      }),
    );
    const database = new DatabaseSync(":memory:");
    expect((await (await ready(sqliteStore(database))).read(["key:1"])).documents).toEqual([]);
    database.close();
  });
});

describe("sqliteStore, the handle", () => {
  test("commits to the disk before it acknowledges, in write-ahead logging", async () => {
    const database = new DatabaseSync(newFile());
    database.exec("PRAGMA synchronous = OFF");
    await (await ready(sqliteStore(database))).read(["key:1"]);
    expect(database.prepare("PRAGMA synchronous").get()).toEqual({ synchronous: 2 });
    expect(database.prepare("PRAGMA journal_mode").get()).toEqual({ journal_mode: "wal" });
    database.close();
  });

  test("is not closed when it was handed in, a file opened by path is", async () => {
    const database = new DatabaseSync(":memory:");
    const handed = await ready(sqliteStore(database));
    await handed.close();
    expect(database.prepare("SELECT 1 AS one").get()).toEqual({ one: 1 });
    database.close();

    const own = await ready(sqliteStore(newFile()));
    await own.close();
    await expect(own.read(["key:1"])).rejects.toMatchObject({ code: "store_unavailable" });
  });

  test("walks one index whether a list is by owner or not", async () => {
    const database = new DatabaseSync(":memory:");
    const texts: string[] = [];
    function prepare(sql: string): SqliteStatement {
      texts.push(sql);
      return database.prepare(sql);
    }
    const store = await ready(sqliteStore({ prepare }));
    await store.list({ kind: "key", limit: 10 });
    await store.list({ kind: "key", owner: "o", limit: 10 });
    const plans = texts.slice(-2).map((text) => database.prepare(`EXPLAIN QUERY PLAN ${text}`).all());
    expect(plans.map((plan) => plan.map(({ detail }) => detail))).toEqual([
      [
        expect.stringMatching(
          /^SEARCH d USING INDEX sqlite_autoindex_keystile_documents_1 \(id>\? AND id<\?\)$/,
        ),
      ],
      [
        expect.stringMatching(
          /^SEARCH d USING INDEX keystile_documents_by_owner \(owner=\? AND id>\? AND id<\?\)$/,
        ),
      ],
    ]);
    database.close();
  });
});

/** A handle on which the nth run of certain statements from now fails. */
function failingHandle(statements: RegExp): SqliteDatabase & { failNext(nth: number): void } {
  const database = new DatabaseSync(":memory:");
  let left = 0;
  return {
    failNext(nth) {
      left = nth;
    },
    prepare(sql): SqliteStatement {
      const statement = database.prepare(sql);
      if (!statements.test(sql)) return statement;
      return {
        get: (...parameters) => statement.get(...parameters),
        all: (...parameters) => statement.all(...parameters),
        run(...parameters) {
          left -= 1;
          if (left === 0) throw new Error("disk I/O error");
          return statement.run(...parameters);
        },
      };
    },
  };
}

async function inProcesses(count: number, commandLine: (n: number) => string[]): Promise<unknown[]> {
  const worker = fileURLToPath(new URL("sqlite-worker.ts", import.meta.url));
  const run = promisify(execFile);
  return Promise.all(
    Array.from({ length: count }, async (_, n) => {
      const { stdout } = await run(process.execPath, [worker, ...commandLine(n)]);
      return JSON.parse(stdout) as unknown;
    }),
  );
}
