import { Redis } from "ioredis";
import { type RedisStore, redisStore } from "keystile/redis";
import { createClient } from "redis";

/** The store of a worker over Redis, with the package as it is published. The client lives as long as the process. */
export async function openRedisStore(url: string, client: string): Promise<RedisStore> {
  if (client === "ioredis") return redisStore(new Redis(url));
  return redisStore(await createClient({ url }).connect());
}
