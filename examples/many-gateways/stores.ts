import { Cluster } from "ioredis";
import type { Store } from "keystile";
import { postgresStore } from "keystile/postgres";
import { redisStore } from "keystile/redis";
import { Pool } from "pg";

export const STORES = ["postgres", "redis-cluster"] as const;
export type StoreName = (typeof STORES)[number];

/** Servers that were started for one run, and the address under which every process opens the store. */
export interface Servers {
  readonly address: string;
  stop(): Promise<void>;
}

/**
 * Starts real servers on free ports of 127.0.0.1, in new folders that go with them. Undefined where this machine has no
 * such server. They are the very ones that the tests of this repository use; yours are there already.
 */
export async function startServers(name: StoreName): Promise<Servers | undefined> {
  if (name === "postgres") {
    const { startPostgres } = await import("../../test/setup/postgres-server.ts");
    const server = await startPostgres();
    return server && { address: server.url, stop: server.stop };
  }
  const { hasRedis, startRedisCluster } = await import("../../test/setup/redis-server.ts");
  if (!hasRedis) return undefined;
  const { ports, stop } = await startRedisCluster();
  return { address: `redis-cluster:${ports.join(",")}`, stop };
}

/** The store at an address, set up, with a client of this process alone. */
export async function openStore(address: string): Promise<{ readonly store: Store; close(): Promise<void> }> {
  if (address.startsWith("postgres:")) {
    const pool = new Pool({ connectionString: address });
    // Of connections that nobody uses at the moment; the next who wants one gets another.
    pool.on("error", () => {});
    const store = postgresStore(pool);
    await store.setup();
    return { store, close: () => pool.end() };
  }
  const ports = address.replace("redis-cluster:", "").split(",").map(Number);
  const client = new Cluster(ports.map((port) => ({ host: "127.0.0.1", port })));
  const store = redisStore(client);
  await store.setup();
  return { store, close: async () => client.disconnect() };
}
