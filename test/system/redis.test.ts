import { Redis } from "ioredis";
import { createClient } from "redis";
import { afterAll, beforeAll, describe, test } from "vitest";
import { redisStore } from "../../src/stores/redis.js";
import { storeConformance } from "../../src/testing/index.js";
import { startRedis } from "../setup/redis-server.js";

let server: Awaited<ReturnType<typeof startRedis>>;
let io: Redis;
let node: ReturnType<typeof createClient>;
beforeAll(async () => {
  server = await startRedis();
  io = new Redis(server.port);
  node = createClient({ url: server.url });
  await node.connect();
});
afterAll(async () => {
  io.disconnect();
  node.destroy();
  await server.stop();
});
describe.each([
  ["ioredis", () => io],
  ["node", () => node],
] as const)("%s", (_, c) => {
  const open = async () => {
    const s = redisStore(c());
    await s.setup();
    return s;
  };
  for (const { clause, name, run } of storeConformance({ open })) test(`${clause} ${name}`, run);
});
