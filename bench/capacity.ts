/**
 * How many requests a process decides and books a second, of one hot key and of 1,000 keys, over the store at an
 * address: `npm exec -- node bench/capacity.ts postgres://…` (or `redis://…`, or a path for SQLite; default memory).
 * For operators, on their own servers; what `run.ts` measures is compared with others, on servers that it starts.
 */
import { createKeystile } from "keystile";
import { memoryStore } from "keystile/memory";
import { openStore } from "../test/system/workers/open-store.ts";
import { bearer } from "./gate.ts";
import { ask } from "./subject.ts";

const CALLERS = 64;
const SECONDS = 3;

const [address] = process.argv.slice(2);
const { store, close } = address === undefined ? inMemory() : openStore(address);
await store.setup();
const keystile = createKeystile({ store });

for (const keys of [1, 1_000]) {
  const issued = await Promise.all(Array.from({ length: keys }, () => keystile.keys.issue()));
  const headers = issued.map(({ secret }) => bearer(secret));

  async function request(key: number): Promise<void> {
    const decision = await keystile.authorize({ headers: headers[key] ?? {}, cost: 1 });
    if (!decision.allowed) throw new Error(decision.refusal.message);
    await decision.settle();
  }

  await ask({ keys, callers: CALLERS, seconds: 1 }, request); // What is measured below is warm.
  const { operations, seconds, cpuSeconds } = await ask(
    { keys, callers: CALLERS, seconds: SECONDS },
    request,
  );
  const [rate, busy] = [Math.round(operations / seconds), Math.round((100 * cpuSeconds) / seconds)];
  console.log(`${keys} key(s): ${rate} requests/s, ${busy} % of a core in this process`);
}
await keystile.close();
await close();

function inMemory(): ReturnType<typeof openStore> {
  return { store: Object.assign(memoryStore(), { setup: async () => {} }), close: async () => {} };
}
