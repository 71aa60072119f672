import { inject } from "vitest";
import { createKeystile, type Keystile } from "../../src/keystile.js";
import type { KeystileOptions } from "../../src/options.js";

declare module "vitest" {
  interface ProvidedContext {
    /** One operates and serves, unless several do: one of them operates, and the others serve by turns. */
    readonly instances?: "several";
  }
}

const areSeveral = inject("instances") === "several";
const parts = new WeakMap<Keystile, readonly Keystile[]>();

/**
 * The turnstile under the tests of behaviour, as their vitest project wants it: one instance, or several on one store that
 * look like one. None of these knows what another has done but by the store, as if they were processes.
 */
export function newGate(options: KeystileOptions): Keystile {
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

function sumOf(numbers: readonly number[]): number {
  return numbers.reduce((sum, number) => sum + number, 0);
}
