import type { Leases } from "./leases.js";
import type { Part } from "./on-demand.js";

/** Strict: every request asks the store. */
export const NO_LEASES: Leases = {
  admit: () => undefined,
  warm: () => {},
  giveBack: async () => false,
  close: async () => {},
};

/**
 * Leases that are loaded beside the first requests: until they are there, and where they cannot be loaded, every request
 * asks the store.
 */
export function leasesOnDemand<M>(part: Part<M>, make: (part: M) => Leases): Leases {
  const loaded = part.loaded();
  let leases = loaded === undefined ? NO_LEASES : make(loaded);
  let loading: Promise<void> | undefined;

  function begin(): void {
    if (leases !== NO_LEASES) return;
    loading ??= part.load().then(
      (late) => {
        leases = make(late);
      },
      () => {
        loading = undefined;
      },
    );
  }

  begin();
  return {
    admit: (asked) => leases.admit(asked),
    warm(asked) {
      begin();
      leases.warm(asked);
    },
    giveBack: (subject, sinceMs) => leases.giveBack(subject, sinceMs),
    async close() {
      await loading;
      await leases.close();
    },
  };
}
