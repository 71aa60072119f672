import { rmSync } from "node:fs";
import { Redis } from "ioredis";
import { Pool } from "pg";
import { afterAll, afterEach, beforeAll, beforeEach } from "vitest";
import type { Store } from "../../src/store.js";
import { postgresStore } from "../../src/stores/postgres.js";
import { redisStore } from "../../src/stores/redis.js";
import { sqliteStore } from "../../src/stores/sqlite.js";
import type { StoreKind } from "../setup/new-store.js";
import { type Place, places } from "./shared-places.js";

interface Client {
  /** A store that shares nothing with the others: of a file, schema or prefix of its own. */
  next(n: number): Store & { setup(): Promise<void> };
  /** Ends what only the stores up to now need. */
  tidy?(): Promise<void>;
  close(): Promise<void>;
}

/** Over one connection, so that calls arrive as they were made and tests see the same every time. */
const clients: Readonly<Record<StoreKind, (url: string) => Client>> = {
  sqlite(path) {
    let open: { readonly file: string; readonly store: Store }[] = [];
    async function tidy(): Promise<void> {
      for (const { file, store } of open) {
        await store.close();
        rmSync(file);
      }
      open = [];
    }
    return {
      next(n) {
        const file = `${path}-${n}`;
        const store = sqliteStore(file);
        open.push({ file, store });
        return store;
      },
      tidy,
      close: tidy,
    };
  },
  postgres(url) {
    const pool = new Pool({ connectionString: url, max: 1 });
    return { next: (n) => postgresStore(pool, { schema: `store_${n}` }), close: () => pool.end() };
  },
  redis(url) {
    const client = new Redis(url);
    return {
      next: (n) => redisStore(client, { prefix: `store-${n}:` }),
      close: async () => client.disconnect(),
    };
  },
};

/**
 * Opens one empty store after the other while the tests of this file run. Where there is no server for them these tests
 * are skipped.
 */
export function opener(kind: StoreKind): () => Promise<Store> {
  const make = places[kind];
  let place: Place | undefined;
  let client: Client | undefined;
  let count = 0;

  if (make === undefined) beforeEach(({ skip }) => skip(`There is no server for ${kind}.`));
  beforeAll(async () => {
    place = await make?.();
    client = place && clients[kind](place.url);
  });
  afterEach(() => client?.tidy?.());
  afterAll(async () => {
    await client?.close();
    await place?.drop();
  });

  return async () => {
    if (client === undefined) throw new Error("Stores are opened by tests only.");
    count += 1;
    const store = client.next(count);
    await store.setup();
    return store;
  };
}
