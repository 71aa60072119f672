import { readFileSync } from "node:fs";
import { Cluster, Redis, type RedisOptions } from "ioredis";
import { createClient, createCluster } from "redis";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { createKeystile } from "../../src/keystile.js";
import type { Document, Store, Write } from "../../src/store.js";
import {
  type IoredisClient,
  type RedisClient,
  type RedisStoreOptions,
  redisStore,
} from "../../src/stores/redis.js";
import { storeConformance } from "../../src/testing/index.js";
import {
  cli,
  hasRedis,
  type RedisClusterServers,
  type RedisServer,
  startRedis,
  startRedisCluster,
} from "../setup/redis-server.js";
import { startWorker } from "./workers/link.js";

/** What Redis says that it has not done: nothing was written for certain. */
const NOT_DONE = { code: "store_unavailable", mayHaveHappened: false };

const ends: (() => unknown)[] = [];

async function server(settings?: Readonly<Record<string, string>>): Promise<RedisServer> {
  const started = await startRedis(settings);
  ends.push(() => started.stop());
  return started;
}

function ioredis(port: number, options: Omit<RedisOptions, "replyMapping"> = {}): Redis {
  const client = new Redis(port, options);
  client.on("error", () => {});
  ends.unshift(() => client.disconnect());
  return client;
}

async function nodeRedis(port: number) {
  const client = createClient({ socket: { port, host: "127.0.0.1" } });
  client.on("error", () => {});
  await client.connect();
  ends.unshift(() => client.destroy());
  return client;
}

async function ready(client: RedisClient, options?: RedisStoreOptions): Promise<Store> {
  const store = redisStore(client, options);
  await store.setup();
  return store;
}

function sets(id: string, expected: number, set: unknown, owner?: string): Write {
  return { id, expected, set: set as string, ...(owner === undefined ? {} : { owner }) };
}

async function idsOf(store: Store, kind: string): Promise<string[]> {
  return (await store.list({ kind, limit: 1_000 })).documents.map(({ id }) => id);
}

afterEach(async () => {
  for (const end of ends.splice(0)) await end();
});

describe.skipIf(!hasRedis)("redisStore, setup", () => {
  test("must have been called, and says so, also after the server has lost its data", async () => {
    const client = ioredis((await server()).port);
    const store = redisStore(client);
    const missing = {
      code: "invalid_options",
      mayHaveHappened: false,
      message: expect.stringContaining("store.setup()"),
    };
    async function everyCallFails(): Promise<void> {
      await expect(store.read(["key:1"])).rejects.toMatchObject(missing);
      await expect(store.read([])).rejects.toMatchObject(missing);
      await expect(store.write([[sets("key:1", 0, 1)]])).rejects.toMatchObject(missing);
      await expect(store.list({ kind: "key", limit: 1 })).rejects.toMatchObject(missing);
    }
    await everyCallFails();
    await store.setup();
    expect((await store.write([[sets("key:1", 0, 1)]])).results[0]?.written).toBe(true);
    await store.setup();
    expect((await store.read(["key:1"])).documents).toHaveLength(1);
    await client.flushall();
    await everyCallFails();
  });

  test.each(["allkeys-lru", "allkeys-random", "volatile-ttl"])("refuses %s", async (policy) => {
    const { port } = await server({ "maxmemory-policy": policy });
    const client = ioredis(port);
    await expect(redisStore(client).setup()).rejects.toMatchObject({
      code: "invalid_options",
      message: expect.stringContaining(policy),
    });
    expect(await client.dbsize()).toBe(0);
    await client.config("SET", "maxmemory-policy", "noeviction");
    await redisStore(client).setup();
  });

  test("refuses a server that does not tell its policy, unless told to accept it", async () => {
    const { port } = await server();
    cli(port, "acl", "setuser", "gate", "on", ">pw", "~*", "+@all", "-info");
    const client = ioredis(port, { username: "gate", password: "pw", enableReadyCheck: false });
    await expect(redisStore(client).setup()).rejects.toMatchObject({
      code: "invalid_options",
      message: expect.stringContaining("allowUnknownEviction"),
    });
    const store = await ready(client, { allowUnknownEviction: true });
    expect((await store.write([[sets("key:1", 0, 1)]])).results[0]?.written).toBe(true);
  });

  test("refuses a newer format and changes nothing", async () => {
    const client = ioredis((await server()).port);
    const store = await ready(client);
    await client.hset("keystile:{2f}.meta", "format", "2");
    await expect(redisStore(client).setup()).rejects.toMatchObject({ code: "format_newer" });
    await expect(store.read(["key:2f7.1"])).rejects.toMatchObject({ code: "format_newer" });
    await expect(store.write([[sets("key:2f7.1", 0, 1)]])).rejects.toMatchObject({ code: "format_newer" });
    expect(await client.exists("keystile:{2f}:key:2f7.1")).toBe(0);
  });

  test.each<[string, RedisStoreOptions, string]>([
    ["a prefix with braces", { prefix: "{app}:" }, 'received "{app}:"'],
    ["half a replica", { durability: { replicas: 0.5 } }, "durability.replicas"],
    ["no time", { durability: { replicas: 1, timeoutMs: 0 } }, "durability.timeoutMs"],
  ])("refuses %s", (_, options, message) => {
    const client = { eval: fail, evalsha: fail, pipeline: fail } as RedisClient;
    expect(() => redisStore(client, options)).toThrow(
      expect.objectContaining({ code: "invalid_options", message: expect.stringContaining(message) }),
    );
  });
});

describe.skipIf(!hasRedis)("redisStore, what it keeps", () => {
  test("two prefixes, and the prefix of a client, keep their documents apart", async () => {
    const { port } = await server();
    const stores = [
      await ready(ioredis(port)),
      await ready(ioredis(port), { prefix: "other:" }),
      await ready(ioredis(port, { keyPrefix: "theirs:" })),
    ];
    for (const [n, store] of stores.entries()) await store.write([[sets("key:1", 0, n)]]);
    for (const [n, store] of stores.entries()) {
      expect((await store.read(["key:1"])).documents[0]?.body).toBe(n);
      expect(await idsOf(store, "key")).toEqual(["key:1"]);
    }
  });

  test("a deleted document leaves nothing but its version", async () => {
    const client = ioredis((await server()).port);
    const store = await ready(client);
    const before = new Set(await client.keys("*"));
    const { results } = await store.write([[sets("key:2f7.1", 0, "1", "o")]]);
    const version = results[0]?.written ? (results[0].versions[0] ?? 0) : 0;
    await store.write([[sets("key:2f7.1", version, null)]]);
    expect(new Set(await client.keys("*"))).toEqual(before);
    expect(await client.hgetall("keystile:{2f}.meta")).toEqual({ format: "1", version: String(version) });
  });

  test("a document that changes hands is in the index of its owner alone, and its group is written once", async () => {
    const client = ioredis((await server()).port);
    const store = await ready(client);
    const versionsOf = async (group: readonly Write[]): Promise<readonly number[]> => {
      const { results } = await store.write([[sets(`key:2f7.${group.length}x`, 0, 1)], group]);
      expect(results.map(({ written }) => written)).toEqual([true, true]);
      return results[1]?.written ? results[1].versions : [];
    };
    const [first = 0] = await versionsOf([sets("key:2f7.1", 0, 1, "o")]);
    const [second = 0, other] = await versionsOf([sets("key:2f7.1", first, 2, "p"), sets("key:2f7.2", 0, 2)]);
    expect(other).toBe(second);
    expect(await client.zrange("keystile:{2f}.index", "0", "-1")).toEqual([
      '"p"key:2f7.1',
      ":key:2f7.1",
      ":key:2f7.1x",
      ":key:2f7.2",
      ":key:2f7.2x",
    ]);
    const { results } = await store.write([[sets("key:2f7.1", first, 3, "o"), sets("key:2f7.2", second, 3)]]);
    expect(results[0]).toMatchObject({ written: false, current: [{ owner: "p", body: 2 }, { body: 2 }] });
    const handed = await store.write([[sets("key:2f7.1", second, 3), { id: "key:2f7.2", expected: second }]]);
    expect(handed.results[0]).toEqual({ written: true, versions: [expect.any(Number), second] });
    expect(await client.zrange("keystile:{2f}.index", "0", "0")).toEqual([":key:2f7.1"]);
  });

  test("what a failover has lost is never taken for what is written after it", async () => {
    const client = ioredis((await server()).port);
    const store = await ready(client);
    const [document, meta] = ["keystile:{2f}:key:2f7.1", "keystile:{2f}.meta"];
    async function put(expected: number): Promise<number> {
      const { results } = await store.write([[sets("key:2f7.1", expected, 1)]]);
      return results[0]?.written ? (results[0].versions[0] ?? 0) : 0;
    }
    const kept = await put(0);
    const replica = [await client.hgetall(document), await client.hgetall(meta)] as const;
    const lost = await put(await put(kept));
    await client.del(document, meta);
    await client.hset(document, replica[0]);
    await client.hset(meta, replica[1]);
    expect(await put(lost)).toBe(0);
    expect(await put(kept)).toBeGreaterThan(lost);
  });

  test("a clock that steps back repeats no version", async () => {
    const client = ioredis((await server()).port);
    const store = await ready(client);
    await client.hset("keystile:{2f}.meta", "version", String(2 ** 52));
    const group = [sets("key:2f7.1", 0, 1), sets("key:2f7.2", 0, 1)];
    const { results } = await store.write([group]);
    expect(results[0]).toEqual({ written: true, versions: [2 ** 52 + 1, 2 ** 52 + 1] });
    expect((await store.read(["key:2f7.2"])).documents[0]?.version).toBe(2 ** 52 + 1);
  });

  test("a user needs no more rights than the documentation says", async () => {
    const { port } = await server();
    const page = readFileSync(new URL("../../docs/redis.md", import.meta.url), "utf8");
    const rights = /Users limited by ACL need\n([\s\S]*?)\./.exec(page)?.[1]?.match(/[+~][\w@:*]+/g) ?? [];
    // A right to what the server does not know is an error.
    const known = rights.filter((right) => right !== "+waitaof");
    expect(cli(port, "acl", "setuser", "gate", "on", ">pw", ...known)).toBe("OK");
    const options = { username: "gate", password: "pw", enableReadyCheck: false };
    const store = await ready(ioredis(port, options));
    const { results } = await store.write([[sets("key:2f7.1", 0, 1, "o")]]);
    const version = results[0]?.written ? (results[0].versions[0] ?? 0) : 0;
    await store.write([[sets("key:2f7.1", version, 2, "p")]]);
    const { documents } = await store.list({ kind: "key", owner: "p", limit: 1 });
    await store.write([[sets("key:2f7.1", documents[0]?.version ?? 0, null)]]);
    expect(await idsOf(store, "key")).toEqual([]);
    const waiting = redisStore(ioredis(port, options), { durability: { replicas: 1, timeoutMs: 1 } });
    await waiting.setup();
    await expect(waiting.write([[sets("key:1", 0, 1)]])).rejects.toThrow(/0 of 1 replicas/);
  });

  test("all of it is there after a power cut, with appendfsync always", async () => {
    const started = await server({ appendonly: "yes", appendfsync: "always" });
    const client = ioredis(started.port);
    const store = await ready(client);
    const group = [sets("key:2f7.1", 0, { a: [] }, "o"), sets("account:2f7.1", 0, 2 ** 53 - 1)];
    await store.write([group]);
    const before = (await store.read(["key:2f7.1", "account:2f7.1"])).documents;
    const [key] = before as [Document];
    await store.write([[sets("key:2f7.1", key.version, null)]]);
    await started.restart();
    expect((await store.read(["key:2f7.1", "account:2f7.1"])).documents).toEqual(before.slice(1));
    expect(await idsOf(store, "account")).toEqual(["account:2f7.1"]);
    // The script is gone with the old process, and the last version is not.
    const { results } = await store.write([[sets("key:2f7.1", 0, 1)]]);
    expect(results[0]).toMatchObject({ written: true, versions: [expect.any(Number)] });
    expect((await store.read(["key:2f7.1"])).documents[0]?.version).toBeGreaterThan(
      Math.max(...before.map(({ version }) => version)),
    );
  });

  test("a stored text that is not JSON is the fault of its key alone", async () => {
    const client = ioredis((await server()).port);
    const store = await ready(client);
    const gate = createKeystile({ store });
    const [broken, sound] = [await gate.keys.issue(), await gate.keys.issue()];
    const id = `keystile:{${broken.key.id.slice(0, 2)}}:key:${broken.key.id}`;
    await client.hset(id, "body", ((await client.hget(id, "body")) ?? "").slice(0, -5));
    const asked = [broken, sound].map(({ secret }) => gate.authorize({ headers: { "x-api-key": secret } }));
    const [refused, decided] = await Promise.allSettled(asked);
    expect(refused).toMatchObject({ status: "rejected", reason: { code: "document_invalid" } });
    expect(decided).toMatchObject({ status: "fulfilled", value: { allowed: true } });
  });

  test("a reply to another call is not believed", async () => {
    const client = ioredis((await server()).port);
    const other = await ready(client);
    const { results } = await other.write([[sets("key:1", 0, 1)]]);
    const expected = results[0]?.written ? (results[0].versions[0] ?? 0) : 0;
    let before: Promise<unknown> | undefined;
    // As over a connection on which one reply came twice.
    const late: IoredisClient = {
      evalsha(digest, ...call) {
        const reply = client.evalsha(digest, ...call);
        const told = before ?? reply;
        before = reply;
        return told;
      },
      eval: fail,
      pipeline: fail,
    };
    const store = redisStore(late);
    expect((await store.write([[sets("key:2", 0, 1)]])).results[0]?.written).toBe(true);
    await other.write([[sets("key:1", expected, 2)]]);
    const unknown = { code: "store_unavailable", mayHaveHappened: true };
    await expect(store.write([[sets("key:1", expected, 3)]])).rejects.toMatchObject(unknown);
    await expect(store.read(["key:1"])).rejects.toMatchObject(unknown);
    expect((await other.read(["key:1"])).documents[0]?.body).toBe(2);
  });

  test("a list leaves out what has gone or changed hands since its ids were found, and is as long all the same", async () => {
    const client = ioredis((await server()).port);
    const store = await ready(client);
    const ids = Array.from({ length: 6 }, (_, n) => `key:2f7.${n}`);
    const { results } = await store.write([ids.map((id) => sets(id, 0, 1, "o"))]);
    const versions = results[0]?.written ? results[0].versions : [];
    // The first script that the server does not know is the one that finds ids.
    const slow: IoredisClient = {
      evalsha: (digest, ...call) => client.evalsha(digest, ...call),
      async eval(script, ...call) {
        const reply = await client.eval(script, ...call);
        await store.write([[sets("key:2f7.0", versions[0] ?? 0, null)]]);
        await store.write([[sets("key:2f7.2", versions[2] ?? 0, 1, "p")]]);
        return reply;
      },
      pipeline: fail,
    };
    const page = await redisStore(slow).list({ kind: "key", owner: "o", limit: 3 });
    expect(page.documents.map(({ id }) => id)).toEqual([1, 3, 4].map((n) => ids[n]));
    expect(page.next).toBe(ids[4]);
  });

  test("a list goes on over many tags of many documents each", async () => {
    const store = await ready(ioredis((await server()).port));
    // 300 in each of three places, more than a list takes from one at a time, and 300 spread over all.
    const places = ["000", "07f", "fff"].flatMap((place) =>
      Array.from({ length: 300 }, (_, n) => `key:${place}.${n}`),
    );
    const ids = [...places, ...Array.from({ length: 300 }, (_, n) => `key:~${n}`)];
    for (let at = 0; at < ids.length; at += 100) {
      const batch = ids.slice(at, at + 100);
      await store.write(batch.map((id, n) => [sets(id, 0, n, n % 2 ? "odd" : "even")]));
    }
    for (const [owner, least] of [[undefined, 1_200] as const, ["odd", 600] as const]) {
      const listed: string[] = [];
      for (let after: string | undefined; ; ) {
        const query = { kind: "key", limit: 437, ...(owner && { owner }), ...(after && { after }) };
        const { documents, next } = await store.list(query);
        listed.push(...documents.map(({ id }) => id));
        if (next === undefined) break;
        expect(documents).toHaveLength(437);
        after = next;
      }
      expect(listed).toHaveLength(least);
      expect(listed).toEqual([...new Set(listed)].sort());
    }
  });
});

describe.skipIf(!hasRedis).each([
  ["ioredis", async (port: number): Promise<RedisClient> => ioredis(port)],
  ["node-redis", async (port: number): Promise<RedisClient> => nodeRedis(port)],
])("redisStore, trouble with %s", (name, connect) => {
  test("a server that has forgotten the scripts is given them again", async () => {
    const { port } = await server();
    const store = await ready(await connect(port));
    for (const n of [1, 2, 3]) {
      cli(port, "script", "flush");
      const calls = Array.from({ length: 5 }, (_, m) => store.write([[sets(`key:${n}.${m}`, 0, n)]]));
      for (const { results } of await Promise.all(calls)) expect(results[0]?.written).toBe(true);
      cli(port, "script", "flush");
      expect((await store.read([`key:${n}.0`])).documents).toHaveLength(1);
      cli(port, "script", "flush");
      expect(await idsOf(store, "key")).toHaveLength(5 * n);
    }
  });

  test("a replica is not believed", async () => {
    const { port } = await server();
    const store = await ready(await connect(port));
    await store.write([[sets("key:1", 0, 1)]]);
    cli(port, "replicaof", "127.0.0.1", "1");
    cli(port, "config", "set", "replica-serve-stale-data", "yes");
    await expect(store.write([[sets("key:2", 0, 1)]])).rejects.toMatchObject(NOT_DONE);
    await expect(store.read(["key:1"])).rejects.toMatchObject(NOT_DONE);
    await expect(store.write([[{ id: "key:1", expected: 1 }]])).rejects.toMatchObject(NOT_DONE);
    await expect(store.list({ kind: "key", limit: 1 })).rejects.toMatchObject(NOT_DONE);
    cli(port, "config", "set", "replica-serve-stale-data", "no");
    await expect(store.read(["key:1"])).rejects.toMatchObject(NOT_DONE); // MASTERDOWN
    cli(port, "replicaof", "no", "one");
    expect(await idsOf(store, "key")).toEqual(["key:1"]);
  });

  test("nor is a primary without the replicas it must have", async () => {
    const { port } = await server({ "min-replicas-to-write": "1" });
    const client = await connect(port);
    await expect(redisStore(client).setup()).rejects.toMatchObject(NOT_DONE);
    cli(port, "config", "set", "min-replicas-to-write", "0");
    const store = await ready(client);
    cli(port, "config", "set", "min-replicas-to-write", "1");
    await expect(store.write([[sets("key:1", 0, 1)]])).rejects.toMatchObject(NOT_DONE);
    await expect(store.read(["key:1"])).rejects.toMatchObject(NOT_DONE);
  });

  test("a full memory refuses writes whole, and nothing else", async () => {
    const { port } = await server();
    const store = await ready(await connect(port));
    const { results } = await store.write([[sets("key:1", 0, 1)], [sets("key:2", 0, 2)]]);
    const versions = results.flatMap((result) => (result.written ? result.versions : []));
    cli(port, "config", "set", "maxmemory", "1mb");
    const groups = [
      [{ id: "key:1", expected: versions[0] ?? 0 }, sets("key:3", 0, 3)],
      [sets("key:4", 0, 4)],
    ];
    await expect(store.write(groups)).rejects.toMatchObject({
      ...NOT_DONE,
      cause: { message: expect.stringContaining("OOM") },
    });
    expect(await idsOf(store, "key")).toEqual(["key:1", "key:2"]);
    const deletion = await store.write([[sets("key:2", versions[1] ?? 0, null)]]);
    expect(deletion.results[0]?.written).toBe(true);
    cli(port, "config", "set", "maxmemory", "0");
    expect((await store.write(groups)).results.map(({ written }) => written)).toEqual([true, true]);
  });

  test("a script of somebody else that runs too long is not waited for", async () => {
    const { port } = await server({ "busy-reply-threshold": "1" });
    const store = await ready(await connect(port));
    const looping = ioredis(port).eval("while true do end", 0);
    const ended = expect(looping).rejects.toThrow(/Script killed/);
    await until(() => cli(port, "ping").includes("BUSY"));
    await expect(store.write([[sets("key:1", 0, 1)]])).rejects.toMatchObject({
      code: "store_unavailable",
      cause: { message: expect.stringContaining("BUSY") },
    });
    cli(port, "script", "kill");
    await ended;
    expect((await store.write([[sets("key:1", 0, 1)]])).results[0]?.written).toBe(true);
  });

  test("a write waits for replicas, and says when they did not have it in time", async () => {
    const { port } = await server({ "repl-diskless-sync-delay": "0" });
    const client = await connect(port);
    await ready(client);
    const store = redisStore(client, { durability: { replicas: 1, timeoutMs: 20 } });
    await expect(store.write([[sets("key:1", 0, 1)]])).rejects.toMatchObject({
      code: "store_unavailable",
      mayHaveHappened: true,
      message: expect.stringContaining("0 of 1 replicas"),
    });
    // It was written. What writes nothing waits for nothing, and a lost race has written nothing.
    expect((await store.read(["key:1"])).documents).toHaveLength(1);
    expect((await store.write([[{ id: "key:2", expected: 0 }]])).results[0]?.written).toBe(true);
    expect((await store.write([[sets("key:1", 0, 2)]])).results[0]?.written).toBe(false);

    const replica = await server();
    cli(replica.port, "replicaof", "127.0.0.1", String(port));
    await until(() => cli(replica.port, "info", "replication").includes("master_link_status:up"));
    cli(port, "script", "flush");
    const patient = await ready(client, { durability: { replicas: 1, timeoutMs: 10_000 } });
    expect((await patient.write([[sets("key:2f7.3", 0, 3)]])).results[0]?.written).toBe(true);
    expect(cli(replica.port, "hget", "keystile:{2f}:key:2f7.3", "body")).toBe("3");
  });

  test("a write waits for the disk where the server can", async () => {
    const { port } = await server({ appendonly: "yes", appendfsync: "everysec" });
    const client = await connect(port);
    const store = redisStore(client, { durability: { fsync: true } });
    const isKnown = cli(port, "command", "info", "waitaof") !== "";
    if (isKnown) {
      await store.setup();
      expect((await store.write([[sets("key:1", 0, 1)]])).results[0]?.written).toBe(true);
      cli(port, "config", "set", "appendonly", "no");
    }
    // Unknown before Redis 7.2, or impossible without the file.
    await expect(store.setup()).rejects.toMatchObject({
      code: "invalid_options",
      message: expect.stringContaining("Redis 7.2"),
    });
  });

  test("three processes add up", async () => {
    const { url, port } = await server();
    const file = new URL("workers/adder.ts", import.meta.url).href;
    const workers = await Promise.all([0, 1, 2].map(() => startWorker(file, url, name)));
    try {
      await Promise.all(workers.map((worker) => worker.call("add", 200)));
    } finally {
      for (const worker of workers) worker.signal("SIGKILL");
      await Promise.all(workers.map(({ ended }) => ended));
    }
    const store = redisStore(await connect(port));
    expect((await store.read(["sum:1"])).documents[0]?.body).toBe(600);
  });

  test("connections that break lose nothing and repeat nothing", async () => {
    const { port } = await server();
    const admin = ioredis(port);
    const gate = createKeystile({ store: await ready(await connect(port)) });
    const { secret, key } = await gate.keys.issue({ quota: 1_000 });
    let [settled, failed] = [0, 0];

    async function request(): Promise<void> {
      try {
        const decision = await gate.authorize({ headers: { "x-api-key": secret }, cost: 3 });
        if (!decision.allowed) return;
        settled += 2;
        await decision.settle(2);
      } catch {
        failed += 1;
      }
    }
    for (let round = 0; round < 40; round += 1) {
      const requests = Array.from({ length: 10 }, () => request());
      // In the midst of them; ioredis sends again what was not answered, although it may have been done.
      for (let turns = round % 4; turns > 0; turns -= 1)
        await new Promise((resolve) => setImmediate(resolve));
      await admin.call("client", "kill", "type", "normal", "skipme", "yes");
      await Promise.all(requests);
    }
    await gate.close();
    const reopened = createKeystile({ store: redisStore(await connect(port)) });
    console.log(`${name}: settled ${settled}, ${failed} of 400 requests failed`);
    expect((await reopened.keys.get(key.id))?.quota).toMatchObject({ used: settled, held: 0 });
  });

  test("a server that is gone may have done what it was asked for", async () => {
    const started = await server();
    const store = await ready(
      name === "ioredis" ? ioredis(started.port, { maxRetriesPerRequest: 0 }) : await connect(started.port),
    );
    cli(started.port, "client", "pause", "60000", "ALL");
    const writing = store.write([[sets("key:1", 0, 1)]]);
    const outcome = expect(writing).rejects.toMatchObject({
      code: "store_unavailable",
      mayHaveHappened: true,
    });
    await new Promise((resolve) => setImmediate(resolve));
    await started.stop();
    await outcome;
  });
});

test("a write that waits for the disk asks primary and replicas in one message", async () => {
  const sent: unknown[] = [];
  let reached = [1, 2];
  const client: RedisClient = {
    eval: fail,
    evalsha: fail,
    pipeline(commands) {
      const [[, , , ...rest] = [], follow] = commands;
      sent.push(follow);
      // The keys are that of the format, and of the document and the indexes of its tag.
      const reply = [rest[4], 7, 5];
      return { exec: async () => [[null, reply] as [null, unknown], [null, reached] as [null, unknown]] };
    },
  };
  const store = redisStore(client, { durability: { replicas: 2, fsync: true, timeoutMs: 300 } });
  expect(await store.write([[sets("key:1", 0, 1)]])).toEqual({
    results: [{ written: true, versions: [5] }],
    now: 7,
  });
  expect(sent).toEqual([["call", "WAITAOF", "1", "2", "300"]]);
  for (reached of [
    [0, 2],
    [1, 1],
  ]) {
    await expect(store.write([[sets("key:1", 0, 1)]])).rejects.toMatchObject({
      code: "store_unavailable",
      mayHaveHappened: true,
    });
  }
});

describe.skipIf(!hasRedis)("redisStore on a cluster of three", () => {
  let servers: RedisClusterServers;
  let io: Cluster;
  let node: ReturnType<typeof createCluster>;

  beforeAll(async () => {
    servers = await startRedisCluster();
    io = new Cluster(servers.ports.map((port) => ({ host: "127.0.0.1", port })));
    node = createCluster({ rootNodes: servers.ports.map((port) => ({ url: `redis://127.0.0.1:${port}` })) });
    await node.connect();
  });

  afterAll(async () => {
    io?.disconnect();
    node?.destroy();
    await servers?.stop();
  });

  const clients: readonly (readonly [string, () => RedisClient])[] = [
    ["ioredis", () => io],
    ["node-redis", () => node],
  ];

  describe.each(clients)("the store contract, a place for each kind of document: %s", (_, client) => {
    const open = async (): Promise<Store> => inOnePlace(await ready(client()));
    for (const { clause, name, run } of storeConformance({ open })) test(`${clause} ${name}`, run);
  });

  describe.each(clients)("the store contract, documents all over the cluster: %s", (_, client) => {
    const open = (): Promise<Store> => ready(client());
    const cases = storeConformance({ open }).filter(({ clause }) => /^S(1|2|5|7|11|12)$/.test(clause));
    for (const { clause, name, run } of cases) test(`${clause} ${name}`, run);
  });

  test.each(clients)("a group must share its place: %s", async (_, client) => {
    const store = await ready(client(), { prefix: `${_}:groups:` });
    const apart = [sets("key:2f7.1", 0, 1), sets("account:ab7.1", 0, 1)];
    await expect(store.write([[sets("key:2f7.2", 0, 1)], apart])).rejects.toMatchObject({
      code: "invalid_options",
      mayHaveHappened: false,
      message: expect.stringContaining("key:2f7.1, account:ab7.1"),
    });
    // Braces in ids or owners, which Redis might take for those of its hash tags.
    const hostile = ["key:2f7.{ab}", "account:2f7.}{x}", "entry:2f7.{}.{{ab}}", "usage:2f7.}}.1"];
    const { results } = await store.write([hostile.map((id) => sets(id, 0, id, "{o}"))]);
    expect(results[0]?.written).toBe(true);
    expect((await store.read(hostile)).documents.map(({ body }) => body)).toEqual(hostile);
    const listed = await store.list({ kind: "entry", owner: "{o}", limit: 9 });
    expect(listed.documents.map(({ id }) => id)).toEqual([hostile[2]]);
  });

  test.each(clients)("two gates spend the accounts of many owners: %s", async (_, client) => {
    const prefix = `${_}:gates:`;
    const store = await ready(client(), { prefix });
    const gates = [createKeystile({ store }), createKeystile({ store: redisStore(client(), { prefix }) })];
    const [gate = createKeystile({ store })] = gates;
    const owners = Array.from({ length: 12 }, (_, n) => `owner ${n}`);
    const accounts = await Promise.all(
      owners.map(async (owner) => {
        const { id } = await gate.accounts.open({ owner });
        await Promise.all(gates.map((one) => one.accounts.credit(id, { id: "pay-1", amount: 100 })));
        const issued = await Promise.all([0, 1].map(() => gate.keys.issue({ account: id })));
        return { owner, id, secrets: issued.map(({ secret }) => secret) };
      }),
    );
    expect(new Set(accounts.map(({ id }) => id.slice(0, 2))).size).toBeGreaterThan(5);
    await Promise.all(
      accounts.map(async ({ secrets }) => {
        const asked = Array.from({ length: 30 }, (_, n) =>
          gates[n % 2]?.authorize({ headers: { "x-api-key": secrets[n % 3 ? 1 : 0] ?? "" }, cost: 7 }),
        );
        const decisions = await Promise.all(asked);
        const allowed = decisions.filter((decision) => decision?.allowed === true);
        expect(allowed).toHaveLength(14);
        await Promise.all(allowed.map((decision) => decision.settle(5)));
      }),
    );
    for (const { owner, id } of accounts) {
      const { accounts: listed } = await gate.accounts.list({ owner });
      expect(listed).toMatchObject([{ id, balance: { limit: 100, used: 70, held: 0, remaining: 30 } }]);
    }
    for (const one of gates) await one.close();
  });

  test.each(clients)("a slot that has moved is followed, also when a write waits: %s", async (_, client) => {
    const prefix = `${_}:moving:`;
    const store = await ready(client(), { prefix });
    const waiting = redisStore(client(), { prefix, durability: { replicas: 1, timeoutMs: 10 } });
    const [first = 0, second = 0] = servers.ports;
    const place = PLACES.find((each) => slotOf(first, `{${each.slice(0, 2)}}`) < 5_461) ?? "";
    const slot = slotOf(first, `{${place.slice(0, 2)}}`);
    // There and back, twice.
    for (const [n, one] of [store, waiting, waiting, store].entries()) {
      await moveSlot(servers.ports, slot, n % 2 ? [second, first] : [first, second]);
      const writing = one.write([[sets(`key:${place}.${n}`, 0, n)]]);
      // No node has a replica; that it was waited for shows that the write came through.
      if (one === waiting) await expect(writing).rejects.toThrow(/0 of 1 replicas/);
      else expect((await writing).results[0]?.written).toBe(true);
      expect((await store.read([`key:${place}.${n}`])).documents).toHaveLength(1);
    }
  });

  test("a node in trouble fails the calls that concern it, of which others may have done their part", async () => {
    const store = await ready(io, { prefix: "trouble:" });
    const [, , port = 0] = servers.ports;
    const isThere = (place: string): boolean => slotOf(port, `{${place.slice(0, 2)}}`) >= 10_923;
    const there = PLACES.find(isThere) ?? "";
    const elsewhere = PLACES.find((place) => !isThere(place)) ?? "";
    cli(port, "config", "set", "maxmemory", "1mb");
    try {
      await expect(store.write([[sets(`key:${there}.1`, 0, 1)]])).rejects.toMatchObject(NOT_DONE);
      expect((await store.write([[sets(`key:${elsewhere}.1`, 0, 1)]])).results[0]?.written).toBe(true);
      const both = store.write([[sets(`key:${there}.2`, 0, 1)], [sets(`key:${elsewhere}.2`, 0, 1)]]);
      await expect(both).rejects.toMatchObject({ code: "store_unavailable", mayHaveHappened: true });
    } finally {
      cli(port, "config", "set", "maxmemory", "0");
    }
    const ids = [1, 2].flatMap((n) => [`key:${there}.${n}`, `key:${elsewhere}.${n}`]);
    expect((await store.read(ids)).documents.map(({ id }) => id).sort()).toEqual([
      `key:${elsewhere}.1`,
      `key:${elsewhere}.2`,
    ]);
  });

  test("slots that nobody has are told from slots that are empty", async () => {
    const client = new Cluster(
      servers.ports.map((port) => ({ host: "127.0.0.1", port })),
      { maxRedirections: 1 },
    );
    ends.unshift(() => client.disconnect());
    const store = await ready(client, { prefix: "nobody:" });
    const [, , port = 0] = servers.ports;
    const place = PLACES.find((each) => slotOf(port, `{${each.slice(0, 2)}}`) >= 10_923);
    cli(port, "cluster", "delslotsrange", "10923", "16383");
    try {
      const fault = { code: "store_unavailable" };
      await expect(store.write([[sets(`key:${place}.1`, 0, 1)]])).rejects.toMatchObject(fault);
      await expect(store.read([`key:${place}.1`])).rejects.toMatchObject(fault);
      await expect(store.list({ kind: "key", limit: 1 })).rejects.toMatchObject(fault);
    } finally {
      cli(port, "cluster", "addslotsrange", "10923", "16383");
    }
  });
});

const PLACES: readonly string[] = Array.from({ length: 16 }, (_, n) => `${n.toString(16)}00`);

function slotOf(port: number, key: string): number {
  return Number(cli(port, "cluster", "keyslot", key));
}

/** As `redis-cli --cluster reshard` does it. */
async function moveSlot(
  ports: readonly number[],
  slot: number,
  [from, to]: readonly [number, number],
): Promise<void> {
  const [source, target] = [ioredis(from), ioredis(to)];
  const [sourceId, targetId] = [await source.cluster("MYID"), await target.cluster("MYID")];
  await target.cluster("SETSLOT", slot, "IMPORTING", sourceId);
  await source.cluster("SETSLOT", slot, "MIGRATING", targetId);
  const keys = await source.cluster("GETKEYSINSLOT", slot, 10_000);
  await source.migrate("127.0.0.1", to, "", 0, 10_000, "KEYS", ...keys);
  for (const port of [to, from, ...ports]) await ioredis(port).cluster("SETSLOT", slot, "NODE", targetId);
}

/** Puts a place into every id, one for each kind, so that all documents of one case can be written in one group. */
function inOnePlace(store: Store): Store {
  function inside(id: string): string {
    const at = id.indexOf(":") + 1;
    return at === 0 ? id : `${id.slice(0, at)}${placeOf(id.slice(0, at))}.${id.slice(at)}`;
  }
  function outside(document: Document): Document {
    const at = document.id.indexOf(":") + 1;
    return at === 0 ? document : { ...document, id: document.id.slice(0, at) + document.id.slice(at + 4) };
  }
  return {
    async read(ids) {
      const { documents, now } = await store.read(ids.map(inside));
      return { documents: documents.map(outside), now };
    },
    async write(groups) {
      const { results, now } = await store.write(
        groups.map((group) => group.map((write) => ({ ...write, id: inside(write.id) }))),
      );
      return {
        results: results.map((one) => (one.written ? one : { ...one, current: one.current.map(outside) })),
        now,
      };
    },
    async list(query) {
      const { after } = query;
      const page = await store.list({ ...query, ...(after === undefined ? {} : { after: inside(after) }) });
      const next =
        page.next === undefined ? {} : { next: outside({ id: page.next, version: 1, body: 0 }).id };
      return { documents: page.documents.map(outside), ...next };
    },
    close: () => store.close(),
  };
}

function placeOf(kind: string): string {
  const sum = [...kind].reduce((total, letter) => (total * 31 + letter.charCodeAt(0)) % 4_096, 0);
  return sum.toString(16).padStart(3, "0");
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 20));
}

function fail(): never {
  throw new Error("This was not to be called.");
}
