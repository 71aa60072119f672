/**
 * How many requests a process decides and books a second, of one hot key and of 1,000 keys, over the store at an
 * address: `npm exec -- node bench/capacity.ts postgres://…` (or `redis://…`, or a path for SQLite; default memory).
 */
import { createKeystile } from "keystile";
import { memoryStore } from "keystile/memory";
import { openStore } from "../test/system/workers/open-store.ts";

const CALLERS = 64;
const SECONDS = 3;

const [address] = process.argv.slice(2);
const { store, close } = address === undefined ? inMemory() : openStore(address);
await store.setup();
const keystile = createKeystile({ store });

for (const count of [1, 1_000]) {
  const issued = await Promise.all(Array.from({ length: count }, () => keystile.keys.issue()));
  const secrets = issued.map(({ secret }) => secret);
  await measure(secrets, 1); // what is measured below is warm
  const decided = await measure(secrets, SECONDS);
  const { user, system } = decided.cpu;
  const busy = (user + system) / 1e6 / SECONDS;
  console.log(
    `${count} key(s): ${Math.round(decided.requests / SECONDS)} requests/s, ${Math.round(100 * busy)} % of a core in this process`,
  );
}
await keystile.close();
await close();

/** Callers who send one request after the other, with a key each time the next one of all. */
async function measure(secrets: readonly string[], seconds: number) {
  const before = process.cpuUsage();
  const endsAtMs = performance.now() + seconds * 1_000;
  let requests = 0;

  async function caller(): Promise<void> {
    while (performance.now() < endsAtMs) {
      const secret = secrets[requests % secrets.length];
      requests += 1;
      const decision = await keystile.authorize({ headers: { authorization: `Bearer ${secret}` }, cost: 1 });
      if (!decision.allowed) throw new Error(decision.refusal.message);
      await decision.settle();
    }
  }

  await Promise.all(Array.from({ length: CALLERS }, caller));
  return { requests, cpu: process.cpuUsage(before) };
}

function inMemory(): ReturnType<typeof openStore> {
  return { store: Object.assign(memoryStore(), { setup: async () => {} }), close: async () => {} };
}
