/** What a process takes from its surroundings. Handed in by tests that move time; real by default. */
export interface Runtime {
  /** Milliseconds that never step back. */
  monotonicMs(): number;
  /** Runs a function once after a time; returns its cancellation. */
  setTimer(run: () => void, ms: number): () => void;
  /** A number from 0 up to 1, for spreading retries. */
  random(): number;
  /** Cryptographically strong bytes, for secrets and ids. */
  randomBytes(size: number): Uint8Array;
}

/** The surroundings as they are. Its timers do not keep a Node process alive: whoever stops calls `close()`. */
export const systemRuntime: Runtime = {
  monotonicMs: () => performance.now(),
  setTimer(run, ms) {
    const timer: unknown = setTimeout(run, ms);
    // Node and Bun return an object; elsewhere timers are numbers and keep nothing alive.
    (timer as { unref?: () => void }).unref?.();
    return () => clearTimeout(timer as Parameters<typeof clearTimeout>[0]);
  },
  random: Math.random,
  randomBytes: (size) => crypto.getRandomValues(new Uint8Array(size)),
};
