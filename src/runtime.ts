/** What a process takes from its surroundings. Handed in by tests that move time; real by default. */
export interface Runtime {
  /** Milliseconds that never step back. */
  monotonicMs(): number;
  /** Runs a function once after a time; returns its cancellation. A background timer keeps no process alive. */
  setTimer(run: () => void, ms: number, isBackground?: boolean): () => void;
  /** A number from 0 up to 1, for spreading retries. */
  random(): number;
  /** Cryptographically strong bytes, for secrets and ids. */
  randomBytes(size: number): Uint8Array;
}

/** The surroundings as they are. */
export const systemRuntime: Runtime = {
  monotonicMs: () => performance.now(),
  setTimer(run, ms, isBackground = false) {
    const timer: unknown = setTimeout(run, ms);
    // Node and Bun return an object; elsewhere timers are numbers and keep nothing alive.
    if (isBackground) (timer as { unref?: () => void }).unref?.();
    return () => clearTimeout(timer as Parameters<typeof clearTimeout>[0]);
  },
  random: Math.random,
  randomBytes: (size) => crypto.getRandomValues(new Uint8Array(size)),
};
