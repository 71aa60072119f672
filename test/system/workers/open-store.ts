/**
 * A store that several processes share, by its address: the URL of a database or of a Redis server, or the path of a
 * SQLite file. From the package as it is published.
 */
import { Redis } from "ioredis";
import type { Store } from "keystile";
import { type PostgresStore, postgresStore } from "keystile/postgres";
import { type RedisStore, redisStore } from "keystile/redis";
import { type SqliteStore, sqliteStore } from "keystile/sqlite";
import { Pool } from "pg";

export interface SharedStore {
  readonly store: PostgresStore | RedisStore | SqliteStore;
  close(): Promise<void>;
}

export function openStore(address: string): SharedStore {
  if (address.startsWith("postgres:")) {
    const pool = new Pool({ connectionString: address });
    return { store: postgresStore(pool), close: () => pool.end() };
  }
  if (address.startsWith("redis:")) {
    const client = new Redis(address);
    // Of a server that went away only its calls tell.
    client.on("error", () => {});
    return { store: redisStore(client), close: async () => client.disconnect() };
  }
  const store = sqliteStore(address);
  return { store, close: () => store.close() };
}

/** The same store on a clock that is ahead of the server's. */
export function aheadBy(store: Store, offsetMs: () => number): Store {
  return {
    ...store,
    async read(ids) {
      const reply = await store.read(ids);
      return { ...reply, now: reply.now + offsetMs() };
    },
    async write(groups) {
      const reply = await store.write(groups);
      return { ...reply, now: reply.now + offsetMs() };
    },
  };
}
