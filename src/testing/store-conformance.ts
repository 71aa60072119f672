import type { Store } from "../store.js";
import { answeringCases } from "./store-answering.js";
import { newKind, type StoreCase } from "./store-bench.js";
import { keepingCases } from "./store-keeping.js";
import { writingCases } from "./store-writing.js";

/** One promise of the store contract, checked. `run` rejects with an `Error` that says what was broken. */
export interface ConformanceCase {
  readonly name: string;
  /** The clause of the contract in the doc comment of `Store`: `S1` to `S14`. */
  readonly clause: string;
  readonly run: () => Promise<void>;
}

/**
 * The store contract as a list of cases, at least one for every clause, to be run by any test runner:
 * `for (const { clause, name, run } of storeConformance({ open })) test(clause + " " + name, run)`.
 *
 * `open` is called at least once for each case, which closes what it was given. It may open the same database
 * every time, also one in which earlier runs have left documents. Allow a case a minute on a slow engine.
 */
export function storeConformance(options: {
  readonly open: () => Store | Promise<Store>;
}): readonly ConformanceCase[] {
  const cases: readonly StoreCase[] = [...writingCases, ...answeringCases, ...keepingCases];
  return cases.map(({ clause, name, check }, index) => ({
    clause,
    name,
    async run() {
      const store = await options.open();
      const kind = newKind(index);
      try {
        await check({ store, open: async () => options.open(), kind, id: (rest) => `${kind}:${rest}` });
      } finally {
        await store.close();
      }
    },
  }));
}
