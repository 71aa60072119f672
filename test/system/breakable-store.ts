import type { Store } from "../../src/store.js";

/** A store that refuses every call while it is down, with an address in the error that no client may see. */
export function breakable(store: Store, isDown: () => boolean): Store {
  const check = (): void => {
    if (isDown()) throw new Error("connect ECONNREFUSED 10.1.2.3:5432");
  };
  return {
    ...store,
    async read(ids) {
      check();
      return store.read(ids);
    },
    async write(groups) {
      check();
      return store.write(groups);
    },
  };
}
