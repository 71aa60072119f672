import type { Runtime } from "./runtime.js";
import type { StoreSession } from "./store-session.js";
import { backoffMs } from "./task-line.js";

/** When the documents of a group may be written again, so that other processes get their turn. */
export interface Pace {
  lostRaces: number;
  failures: number;
  /** 0: at any time. */
  resumeAtMs: number;
  restedAtMs: number;
}

/** The winner of a contended group leaves it alone for up to so many round trips. */
const MAX_PAUSE_ROUND_TRIPS = 4;

/** Who never loses does not know that others do: after so long, it leaves a gap that those far away can use. */
const MAX_RUN_MS = 250;
const GAP_ROUND_TRIPS = 10;
const MAX_GAP_MS = 50;

export function newPace(timeMs: number): Pace {
  return { lostRaces: 0, failures: 0, resumeAtMs: 0, restedAtMs: timeMs };
}

/**
 * A write went through. @param isResting nothing waits behind it
 *
 * The winner of a contended group lets others pass; losers retry at once. Without this, one starves.
 */
export function paceAfterWin(
  pace: Pace,
  isResting: boolean,
  timeMs: number,
  { runtime, session, storeTimeoutMs }: Pacing,
): void {
  const pauseMs =
    pace.lostRaces > 0
      ? runtime.random() * MAX_PAUSE_ROUND_TRIPS * session.roundTripMs()
      : gapMs(pace, isResting, timeMs, session);
  // Bounded, because the last round trip may have been that of a process that stood still.
  pace.resumeAtMs = pauseMs === 0 ? 0 : timeMs + Math.min(pauseMs, storeTimeoutMs / 10);
  pace.lostRaces = 0;
}

export function paceAfterFailure(pace: Pace, runtime: Runtime): void {
  pace.failures += 1;
  pace.resumeAtMs = runtime.monotonicMs() + backoffMs(pace.failures, runtime);
}

/** How long to leave the documents alone. */
export function pauseLeftMs({ resumeAtMs }: Pace, runtime: Runtime): number {
  // The clock is asked only where there is something to wait for.
  return resumeAtMs === 0 ? 0 : resumeAtMs - runtime.monotonicMs();
}

interface Pacing {
  readonly runtime: Runtime;
  readonly session: StoreSession;
  readonly storeTimeoutMs: number;
}

function gapMs(pace: Pace, isResting: boolean, timeMs: number, session: StoreSession): number {
  if (!isResting && timeMs - pace.restedAtMs < MAX_RUN_MS) return 0;
  pace.restedAtMs = timeMs;
  return isResting ? 0 : Math.min(MAX_GAP_MS, GAP_ROUND_TRIPS * session.roundTripMs());
}
