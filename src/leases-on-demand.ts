import type { Leases } from "./leases.js";

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
export function leasesOnDemand(load: () => Promise<Leases>): Leases {
  let leases = NO_LEASES;
  let loading: Promise<void> | undefined;

  function begin(): void {
    loading ??= load().then(
      (loaded) => {
        leases = loaded;
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
