import { inject } from "vitest";
import { createKeystile, type Keystile } from "../../src/keystile.js";
import type { KeystileOptions } from "../../src/options.js";

declare module "vitest" {
  interface ProvidedContext {
    /** One operates and serves, unless several do: one of them operates, and the others serve by turns. */
    readonly instances?: "several";
    /** Keys are leased as soon as they are hot, unless a test says otherwise. */
    readonly leased?: true;
  }
}

const isLeased = inject("leased") === true;
const areSeveral = inject("instances") === "several";
const parts = new WeakMap<Keystile, readonly Keystile[]>();

/**
 * The turnstile under the tests of behaviour, as their vitest project wants it: one instance, or several on one store that
 * look like one. None of these knows what another has done but by the store, as if they were processes.
 */
export function newGate(given: KeystileOptions): Keystile {
  const options = isLeased ? { leases: { revalidateMs: 400 }, ...given } : given;
  if (!areSeveral) return createKeystile(options);
  const [operator, ...servers] = [0, 1, 2].map(() => createKeystile(options)) as [Keystile, ...Keystile[]];
  const all = [operator, ...servers];
  let turns = 0;

  function server(): Keystile {
    turns += 1;
    return servers[turns % servers.length] as Keystile;
  }

  const gate: Keystile = {
    ...operator,
    identify: (request) => server().identify(request),
    authorize: (request) => server().authorize(request),
    describe: (secret) => server().describe(secret),
    on(type, listener) {
      const stops = all.map((one) => one.on(type, listener));
      return () => {
        for (const stop of stops) stop();
      };
    },
    flush: async (timeoutMs) => sumOf(await Promise.all(all.map((one) => one.flush(timeoutMs)))),
    async close() {
      const ends = await Promise.all(all.map((one) => one.close()));
      return { unwritten: sumOf(ends.map(({ unwritten }) => unwritten)) };
    },
  };
  parts.set(gate, all);
  return gate;
}

/** Those that look like one. */
export function instancesOf(gate: Keystile): readonly Keystile[] {
  return parts.get(gate) ?? [gate];
}

/** Waits for an ending to be stored, which by a lease is when the clock has moved, unless it is asked for. */
export async function settled(gate: Keystile, ending: Promise<void>): Promise<void> {
  await gate.flush();
  await ending;
}

function sumOf(numbers: readonly number[]): number {
  return numbers.reduce((sum, number) => sum + number, 0);
}
