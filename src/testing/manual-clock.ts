/** A clock that stands still until it is moved. Its `now` may be handed on by itself. */
export interface ManualClock {
  readonly now: () => number;
  readonly advance: (ms: number) => void;
  readonly set: (ms: number) => void;
}

/** A clock for tests, in milliseconds. It starts at noon UTC on 15 January 2025 unless told otherwise. */
export function manualClock(startMs: number = Date.UTC(2025, 0, 15, 12)): ManualClock {
  let nowMs = startMs;
  return {
    now: () => nowMs,
    advance(ms) {
      nowMs += ms;
    },
    set(ms) {
      nowMs = ms;
    },
  };
}
