/**
 * The store under the tests of behaviour: a new one for each call, of the kind that their vitest project names, so that
 * the same files run over every store. Where none is named it is the one in memory.
 *
 * These tests move the store's clock, and a server's cannot be moved: so what a reply of a real store says of the time
 * is replaced by the time of the test when the call was made. What real clocks do is the conformance suite's affair.
 */
import { setImmediate as nextTurn } from "node:timers/promises";
import { inject } from "vitest";
import type { Store } from "../../src/store.js";
import { memoryStore } from "../../src/stores/memory.js";

export type StoreKind = "sqlite" | "postgres" | "redis";

declare module "vitest" {
  interface ProvidedContext {
    readonly storeKind?: StoreKind;
  }
}

const kind = inject("storeKind");
const openNext = kind && (await import("../system/real-stores.js")).opener(kind);

/** Calls of real stores that have not been answered. */
const unanswered = new Set<Promise<unknown>>();

export function newStore({ clock = Date.now }: { readonly clock?: () => number } = {}): Store {
  return openNext === undefined ? memoryStore({ clock }) : real(openNext, clock);
}

/** Resolves when everything has happened that needs no time of the test's. */
export async function idle(): Promise<void> {
  await nextTurn();
  while (unanswered.size > 0) {
    await Promise.allSettled(unanswered);
    await nextTurn();
  }
}

/** A real store from its first call on, on the clock of the test. */
function real(open: () => Promise<Store>, clock: () => number): Store {
  let opened: Promise<Store> | undefined;

  function call<T>(ask: (store: Store) => Promise<T>): Promise<T> {
    opened ??= open();
    const answer = opened.then(ask);
    unanswered.add(answer);
    const forget = (): void => void unanswered.delete(answer);
    answer.then(forget, forget);
    return answer;
  }

  async function timed<T>(ask: (store: Store) => Promise<T>): Promise<T & { readonly now: number }> {
    const now = clock();
    return { ...(await call(ask)), now };
  }

  return {
    read: (ids) => timed((store) => store.read(ids)),
    write: (groups) => timed((store) => store.write(groups)),
    list: (query) => call((store) => store.list(query)),
    close: async () => {},
  };
}
