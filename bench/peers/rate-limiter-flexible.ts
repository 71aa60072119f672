/** rate-limiter-flexible: a limit of requests per key, and nothing else. */
import Sqlite from "better-sqlite3";
import { Redis } from "ioredis";
import { Pool } from "pg";
import {
  RateLimiterMemory,
  RateLimiterPostgres,
  RateLimiterRedis,
  RateLimiterSQLite,
} from "rate-limiter-flexible";
import { ask, type Subject } from "../subject.ts";

const LIMIT = { points: 1_000_000_000, duration: 3_600 };

export async function open(kind: string, address: string): Promise<Subject> {
  const { limiter, close } = await limiterOf(kind, address);
  return { measure: (load) => ask(load, (key) => limiter.consume(`key ${key}`)), close };
}

async function limiterOf(kind: string, address: string) {
  if (kind === "postgres") {
    const storeClient = new Pool({ connectionString: address });
    const limiter = await new Promise<RateLimiterPostgres>((resolve, reject) => {
      const made = new RateLimiterPostgres({ ...LIMIT, storeClient, tableName: "rate_limits" }, (error) =>
        error === undefined ? resolve(made) : reject(error),
      );
    });
    return { limiter, close: () => storeClient.end() };
  }
  if (kind === "redis") {
    const storeClient = new Redis(address, { enableAutoPipelining: true });
    const limiter = new RateLimiterRedis({ ...LIMIT, storeClient });
    return { limiter, close: async () => storeClient.disconnect() };
  }
  if (kind === "sqlite") {
    const storeClient = new Sqlite(`${address}.rate-limits`);
    storeClient.pragma("journal_mode = WAL");
    storeClient.pragma("synchronous = FULL");
    const options = { ...LIMIT, storeClient, storeType: "better-sqlite3", tableName: "rate_limits" };
    const limiter = await new Promise<RateLimiterSQLite>((resolve, reject) => {
      const made = new RateLimiterSQLite(options, (error) =>
        error === undefined ? resolve(made) : reject(error),
      );
    });
    return { limiter, close: async () => void storeClient.close() };
  }
  return { limiter: new RateLimiterMemory(LIMIT), close: async () => {} };
}
