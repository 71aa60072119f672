import type { Runtime } from "./runtime.js";
import type { StoreSession } from "./store-session.js";
import { backoffMs } from "./task-line.js";

/** When the documents of a group may be written again, so that other processes get their turn. */
export interface Pacing {
  /** A write went through. `isResting`: nothing waits behind it. */
  won(isResting: boolean): void;
  lost(): void;
  failed(): void;
  /** The store answers again. */
  recovered(): void;
  hasFailed(): boolean;
  /** How long to leave the documents alone. */
  waitMs(): number;
}

/** The winner of a contended group leaves it alone for up to so many round trips. */
const MAX_PAUSE_ROUND_TRIPS = 4;

/** Who never loses does not know that others do: after so long, it leaves a gap that those far away can use. */
const MAX_RUN_MS = 250;
const GAP_ROUND_TRIPS = 10;
const MAX_GAP_MS = 50;

export function pacing(runtime: Runtime, session: StoreSession, storeTimeoutMs: number): Pacing {
  let lostRaces = 0;
  let failures = 0;
  /** 0: at any time. */
  let resumeAtMs = 0;
  let restedAtMs = runtime.monotonicMs();

  function gapMs(isResting: boolean, time: number): number {
    if (!isResting && time - restedAtMs < MAX_RUN_MS) return 0;
    restedAtMs = time;
    return isResting ? 0 : Math.min(MAX_GAP_MS, GAP_ROUND_TRIPS * session.roundTripMs());
  }

  return {
    won(isResting) {
      // The winner of a contended group lets others pass; losers retry at once. Without this, one starves.
      const time = runtime.monotonicMs();
      const pauseMs =
        lostRaces > 0
          ? runtime.random() * MAX_PAUSE_ROUND_TRIPS * session.roundTripMs()
          : gapMs(isResting, time);
      // Bounded, because the last round trip may have been that of a process that stood still.
      resumeAtMs = pauseMs === 0 ? 0 : time + Math.min(pauseMs, storeTimeoutMs / 10);
      lostRaces = 0;
    },
    lost() {
      lostRaces += 1;
    },
    failed() {
      failures += 1;
      resumeAtMs = runtime.monotonicMs() + backoffMs(failures, runtime);
    },
    recovered() {
      failures = 0;
    },
    hasFailed: () => failures > 0,
    // The clock is asked only where there is something to wait for.
    waitMs: () => (resumeAtMs === 0 ? 0 : resumeAtMs - runtime.monotonicMs()),
  };
}
