import { DatabaseSync } from "node:sqlite";
import { PGlite } from "@electric-sql/pglite";
import { Redis } from "ioredis";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createKeystile, isKeystileError, type Keystile } from "../../src/index.js";
import { systemRuntime } from "../../src/runtime.js";
import type { Document, Json, Store } from "../../src/store.js";
import { memoryStore } from "../../src/stores/memory.js";
import { postgresStore } from "../../src/stores/postgres.js";
import { redisStore } from "../../src/stores/redis.js";
import { sqliteStore } from "../../src/stores/sqlite.js";
import { hasRedis, type RedisServer, startRedis } from "../setup/redis-server.js";
import { buildScenes, type Scene } from "./corruption-scenes.js";

/*
 * Documents that were damaged, field by field and as rows. A damaged document is a fault, or it is refused; never is a
 * request let in that its documents refuse, and never does anything else happen.
 */

/** Damage to one member that leaves a document of another key, which nothing can tell from one that was meant so. */
const MEANT_OTHERWISE: readonly RegExp[] = [
  // A member that is optional is gone, or a list that may be empty is.
  /^key policy\.(?:allowedIps|allowedModels|deniedModels) gone$/,
  /^key policy\.limits (?:\[\]|gone)$/,
  /^key policy\.limits\.0 gone$/,
  // Nothing was used, nobody holds anything, it never ends: so it is of most.
  /^key levels(?:\.requests\/3600000)? (?:gone|\{\})$/,
  /^key nodes(?:\.[\w.]+)? (?:gone|\{\})$/,
  /^(?:key|account) used(?:\.[\w@.]+)? (?:gone|\{\}|\{"a":1\})$/,
  /^key policy\.quota null$/,
  /^key secrets\.1\.endsAtMs null$/,
  /^account subscription\.(?:unpaidFromMs|endsAtMs) null$/,
  /^account subscription\.current\.index -1$/,
  // Another pattern.
  /^key policy\.deniedModels\.0 "[x9]"$/,
];

const GONE = "gone";
const WRONG: readonly Json[] = [null, true, "", "x", -1, 0.5, 1e300, 2 ** 53, [], {}, { a: 1 }];

function placesOf(value: unknown, at: readonly string[] = []): readonly (readonly string[])[] {
  const own = at.length === 0 ? [] : [at];
  if (typeof value !== "object" || value === null) return own;
  return [...own, ...Object.entries(value).flatMap(([name, inner]) => placesOf(inner, [...at, name]))];
}

function damaged(value: unknown, [name = "", ...rest]: readonly string[], by: Json | typeof GONE): unknown {
  const copy = (Array.isArray(value) ? [...value] : { ...(value as object) }) as Record<string, unknown>;
  if (rest.length > 0) copy[name] = damaged(copy[name], rest, by);
  else if (by !== GONE) copy[name] = by;
  else if (Array.isArray(copy)) copy.splice(Number(name), 1);
  else delete copy[name];
  return copy;
}

/** Without timers, of which a request that is answered at once needs none. */
const runtime = { ...systemRuntime, setTimer: () => () => {} };

/** What a process that has just begun makes of a request. */
async function outcomeOf(store: Store, { secret, ask }: Scene): Promise<string> {
  const gate = createKeystile({ store, drainMs: 0, runtime });
  try {
    const decision = await gate.authorize({ headers: { "x-api-key": secret }, ...ask });
    return decision.allowed ? "allowed" : decision.refusal.reason;
  } catch (error) {
    return isKeystileError(error) ? "a fault" : `broken: ${(error as Error).message}`;
  }
}

/** The documents that a request is decided on. */
async function documentsOf(store: Store, scene: Scene): Promise<readonly Document[]> {
  const ids = new Set<string>();
  const watched: Store = {
    ...store,
    async read(asked) {
      for (const id of asked) ids.add(id);
      return store.read(asked);
    },
    // Nothing is to happen.
    async write() {
      throw new Error("not now");
    },
  };
  await outcomeOf(watched, scene);
  return (await store.read([...ids])).documents;
}

/** A store of some documents, in which one is another. */
function holding(documents: readonly Document[]): Store {
  const store = memoryStore();
  const begun = store.write(
    documents.map(({ id, body, owner }) => [
      { id, expected: 0, set: body, ...(owner === undefined ? {} : { owner }) },
    ]),
  );
  return {
    ...store,
    async read(ids) {
      await begun;
      return store.read(ids);
    },
  };
}

let scenes: Readonly<Record<string, Scene>>;
let origin: Store;

beforeAll(async () => {
  origin = memoryStore();
  const gate = createKeystile({ store: origin });
  scenes = await buildScenes(gate);
  await gate.flush();
});

test("undamaged, every scene is what it says", async () => {
  for (const { refused = "allowed", ...scene } of Object.values(scenes)) {
    expect(
      await outcomeOf(holding(await documentsOf(origin, { refused, ...scene })), { refused, ...scene }),
    ).toBe(refused);
  }
});

/** Every way to damage one member of a document, and what that is called. */
function* damagesTo({ id, body }: Document): Generator<readonly [damage: string, body: Json]> {
  const text = JSON.stringify(body);
  for (const place of placesOf(body)) {
    for (const by of [GONE, ...WRONG] as const) {
      const other = damaged(body, place, by) as Json;
      const shown = by === GONE ? GONE : JSON.stringify(by);
      if (JSON.stringify(other) !== text) yield [`${id.split(":")[0]} ${place.join(".")} ${shown}`, other];
    }
  }
}

/** What becomes of a request when one of its documents has another body. */
async function outcomeWith(documents: readonly Document[], changed: Document, scene: Scene): Promise<string> {
  const others = documents.filter(({ id }) => id !== changed.id);
  return outcomeOf(holding([...others, changed]), scene);
}

test("a member that is gone, of another type, or beyond all bounds lets nothing in", async () => {
  const wider: string[] = [];
  const broken: string[] = [];
  let tried = 0;
  for (const [name, scene] of Object.entries(scenes)) {
    const documents = await documentsOf(origin, scene);
    for (const document of documents) {
      for (const [damage, body] of damagesTo(document)) {
        const outcome = await outcomeWith(documents, { ...document, body }, scene);
        tried += 1;
        if (outcome.startsWith("broken")) broken.push(`${damage}: ${outcome}`);
        if (scene.refused !== undefined && outcome === "allowed") wider.push(`${name}: ${damage}`);
      }
    }
  }
  const isIn = (list: readonly RegExp[], damage: string): boolean => list.some((known) => known.test(damage));
  expect(broken).toEqual([]);
  expect(wider.filter((found) => !isIn(MEANT_OTHERWISE, found.slice(found.indexOf(": ") + 2)))).toEqual([]);
  expect(tried).toBeGreaterThan(5_000);
});

/** A store whose rows can be written past it. */
interface Rows {
  readonly store: Store;
  /** Replaces the text of a document's body, or its version. */
  setBody(id: string, text: string): Promise<void>;
  setVersion(id: string, version: string): Promise<void>;
  close(): Promise<void>;
}

async function sqliteRows(): Promise<Rows> {
  const db = new DatabaseSync(":memory:");
  const store = sqliteStore(db);
  await store.setup();
  return {
    store,
    setBody: async (id, text) =>
      void db.prepare("UPDATE keystile_documents SET body = ? WHERE id = ?").run(text, id),
    setVersion: async (id, version) =>
      void db.prepare("UPDATE keystile_documents SET version = ? WHERE id = ?").run(BigInt(version), id),
    close: async () => db.close(),
  };
}

async function postgresRows(): Promise<Rows> {
  const db = new PGlite();
  const store = postgresStore(db);
  await store.setup();
  const set = (column: string) => async (id: string, value: string) =>
    void (await db.query(`UPDATE keystile.documents SET ${column} = $1 WHERE id = $2`, [value, id]));
  return { store, setBody: set("body"), setVersion: set("version"), close: () => db.close() };
}

async function redisRows(): Promise<Rows> {
  const server: RedisServer = await startRedis();
  const client = new Redis(server.port);
  const store = redisStore(client);
  await store.setup();
  const change = async (id: string, field: string, edit: (old: string) => string): Promise<void> => {
    const [key = ""] = (await client.keys("*")).filter((name) => name.endsWith(id));
    await client.hset(key, field, edit((await client.hget(key, field)) ?? ""));
  };
  return {
    store,
    setBody: (id, text) => change(id, "body", () => text),
    setVersion: (id, version) => change(id, "head", (head) => head.replace(/^\S+/, version)),
    async close() {
      client.disconnect();
      await server.stop();
    },
  };
}

/** What may be left of a text. */
function remainsOf(text: string): readonly string[] {
  const cuts = [1, 2, text.length >> 2, text.length >> 1, text.length - 2, text.length - 1];
  return [
    ...cuts.map((length) => text.slice(0, length)),
    ...["", " ", "null", "true", "0", '"x"', "[]", "{}", "{", "\u0001\u0002", "x".repeat(100_000)],
    ...[
      `${text}${text}`,
      text.slice(1),
      text.replace('"format":1', '"format":2'),
      text.replace(/"format":1,?/, ""),
    ],
    text.replace('"format":1', '"format":"1"'),
  ];
}

const VERSIONS = ["0", "-1", "9007199254740993"];

/**
 * Of all damage to members, one of so many is tried on rows: every member, and each time in another way. No divisor of
 * how many ways there are.
 */
const TRIED_ON_ROWS = 7;

describe.each([
  ["sqlite", sqliteRows],
  ["postgres", postgresRows],
  ...(hasRedis ? [["redis", redisRows] as const] : []),
] as const)("rows of %s", (_, open) => {
  let rows: Rows;
  let own: Readonly<Record<string, Scene>>;
  let gate: Keystile;

  beforeAll(async () => {
    rows = await open();
    gate = createKeystile({ store: rows.store, drainMs: 0 });
    own = await buildScenes(gate);
    await gate.flush();
  });

  afterAll(async () => {
    await gate.close();
    await rows.close();
  });

  test("that are cut, overwritten or of another format let nothing in", async () => {
    const wrong: string[] = [];
    for (const name of ["allowed", "balance_exhausted"]) {
      const scene = own[name] as Scene;
      const documents = await documentsOf(rows.store, scene);
      for (const { id, body, version } of documents) {
        const text = JSON.stringify(body);
        for (const remains of remainsOf(text)) {
          await rows.setBody(id, remains);
          const outcome = await outcomeOf(rows.store, scene);
          // What is cut is known to be; nobody may be told that a key does not exist.
          if (outcome !== "a fault") wrong.push(`${name}: ${id}: ${remains.slice(0, 40)}: ${outcome}`);
        }
        await rows.setBody(id, text);
        for (const odd of VERSIONS) {
          await rows.setVersion(id, odd);
          const outcome = await outcomeOf(rows.store, scene);
          if (outcome.startsWith("broken") || (outcome === "allowed" && scene.refused !== undefined)) {
            wrong.push(`${name}: ${id}: version ${odd}: ${outcome}`);
          }
        }
        await rows.setVersion(id, String(version));
      }
    }
    expect(wrong).toEqual([]);
  });

  test("that are damaged field by field get the answer that they get in memory", async () => {
    const different: string[] = [];
    let count = 0;
    for (const [name, scene] of Object.entries(own)) {
      const documents = await documentsOf(rows.store, scene);
      for (const document of documents) {
        for (const [damage, body] of damagesTo(document)) {
          if (count++ % TRIED_ON_ROWS !== 0) continue;
          await rows.setBody(document.id, JSON.stringify(body));
          const outcome = await outcomeOf(rows.store, scene);
          const expected = await outcomeWith(documents, { ...document, body }, scene);
          if (outcome !== expected) different.push(`${name}: ${damage}: ${outcome} instead of ${expected}`);
        }
        await rows.setBody(document.id, JSON.stringify(document.body));
      }
    }
    expect(different).toEqual([]);
    expect(count / TRIED_ON_ROWS).toBeGreaterThan(700);
  });
});
