/** A realm whose `Object.prototype` is polluted by one name after the other, with the package as it is published. */
import { parentPort, workerData } from "node:worker_threads";
import { createKeystile, isKeystileError, requestedModels, type Store } from "keystile";
import { memoryStore } from "keystile/memory";
import { buildScenes } from "../corruption-scenes.ts";

/** No timer of a realm that is soon gone. */
const runtime = {
  monotonicMs: () => performance.now(),
  setTimer: () => () => {},
  random: Math.random,
  randomBytes: (size: number) => crypto.getRandomValues(new Uint8Array(size)),
};

const { names } = workerData as { readonly names: readonly string[] };

/** Loops see what is enumerable, and zod then throws whatever it is given; so it mostly is not, to get further. */
function pollute(name: string, value: unknown): void {
  const descriptor = {
    __proto__: null,
    value,
    configurable: true,
    enumerable: value === true,
    writable: true,
  };
  Object.defineProperty(Object.prototype, name, descriptor as PropertyDescriptor);
}

function clean(name: string): void {
  Reflect.deleteProperty(Object.prototype, name);
}

const wrong: string[] = [];
let allowed = 0;

/** Of a process that knows no document yet, polluted once it runs. */
async function outcomeOf(store: Store, name: string, value: unknown, request: object): Promise<string> {
  const gate = createKeystile({ store, drainMs: 0, runtime });
  pollute(name, value);
  try {
    const decision = await gate.authorize(request as never);
    if (decision.allowed) await decision.void();
    return decision.allowed ? "allowed" : String(decision.refusal.reason);
  } catch (error) {
    // Closed is closed: a realm like this may well be beyond use.
    return isKeystileError(error) || error instanceof TypeError ? "thrown" : `broken: ${String(error)}`;
  } finally {
    clean(name);
  }
}

for (const name of names) {
  // These are of the language itself, and were there before.
  if (name in Object.prototype) throw new Error(`${name} is no name to pollute.`);
  // Anew for each name: what one lets happen is not to be blamed on the next.
  const store = memoryStore();
  const gate = createKeystile({ store, runtime });
  const scenes = await buildScenes(gate as never);
  await gate.flush();
  const { secret } = scenes["allowed"] as { secret: string };
  const values: readonly unknown[] = [
    ...[true, 0, 1e9, "gpt-5", null, ["gpt-5", "claude-5", "b"], () => true, `Bearer ${secret}`, secret],
  ];
  for (const value of values) {
    for (const [scene, { refused, secret: key, ask }] of Object.entries(scenes)) {
      const request = { headers: { "x-api-key": key }, ...ask };
      const outcome = await outcomeOf(store, name, value, request);
      if (outcome === "allowed") allowed += 1;
      if (outcome.startsWith("broken") || (outcome === "allowed" && refused !== undefined)) {
        wrong.push(`${name}: ${scene}: ${outcome}`);
      }
    }
    const body = new TextEncoder().encode("{}");
    const headers = { "content-type": "application/json" };
    const bare = { headers: {}, address: "10.0.0.1", model: "gpt-5", scopes: ["s"] };
    const withoutKey = await outcomeOf(store, name, value, bare);
    pollute(name, value);
    const models = requestedModels({ method: "POST", url: "/v1/chat", headers, body });
    clean(name);
    if (withoutKey === "allowed") wrong.push(`${name} = ${String(value)}: without a key`);
    if (models !== undefined)
      wrong.push(`${name} = ${String(value)}: a body without a model names ${models}`);
  }
}

parentPort?.postMessage({ wrong, allowed });
