import type { Random } from "./random.js";
import type { SubjectLimit } from "./subject.js";

/** How much of what goes wrong in one run. Chances are per call of the store, gaps are mean virtual milliseconds. */
export interface Scenario {
  readonly profile: Profile;
  readonly processes: number;
  readonly keys: number;
  readonly holdMs: number;
  readonly storeTimeoutMs: number;
  readonly cacheSize: number;
  /** The usual way to the store and back, one way. */
  readonly latencyMs: number;
  readonly lost: number;
  readonly replyLost: number;
  readonly late: number;
  readonly duplicate: number;
  readonly slow: number;
  readonly requestGapMs: number;
  /** Now and then nothing comes for this long. */
  readonly quietGapMs: number;
  readonly editGapMs: number;
  readonly crashGapMs: number;
  readonly pauseGapMs: number;
  readonly longestPauseMs: number;
  readonly jumpGapMs: number;
  readonly longestJumpMs: number;
  readonly outageGapMs: number;
  readonly closeGapMs: number;
  readonly flushGapMs: number;
  /** The most requests that arrive in one instant. */
  readonly burst: number;
  /** The share of instants at which a single one arrives. */
  readonly singles: number;
  readonly requestMs: number;
}

export const PROFILES = [
  "calm",
  "lossy",
  "slow",
  "crashes",
  "pauses",
  "clocks",
  "outages",
  "everything",
  "hours",
  "churn",
] as const;
export type Profile = (typeof PROFILES)[number];

const NEVER = Number.POSITIVE_INFINITY;

export function drawScenario(random: Random, profile: Profile): Scenario {
  const base = drawCalm(random, profile);
  switch (profile) {
    case "calm":
      return base;
    case "lossy":
      return { ...base, ...drawLosses(random) };
    case "slow":
      // Calls that take seconds also carry news of the store's clock that is seconds old.
      return {
        ...base,
        slow: random.pick([0.05, 0.3]),
        storeTimeoutMs: 5_000,
        holdMs: 60_000,
        requestGapMs: 1_000,
        burst: 60,
        singles: 0.85,
        editGapMs: 60_000,
        requestMs: random.pick([10, 200]),
        keys: 1,
      };
    case "crashes":
      return { ...base, ...drawLosses(random), ...drawCrashes(random) };
    case "pauses":
      return { ...base, ...drawPauses(random, 4 * base.holdMs), lost: random.pick([0, 0.02]) };
    case "clocks":
      return { ...base, ...drawJumps(random), late: random.pick([0, 0.03]) };
    case "outages":
      return { ...base, ...drawLosses(random), outageGapMs: random.between(3_000, 20_000) };
    case "everything":
      return {
        ...base,
        ...drawLosses(random),
        ...drawCrashes(random),
        ...drawPauses(random, 3 * base.holdMs),
        ...drawJumps(random),
        outageGapMs: random.pick([NEVER, 30_000]),
      };
    case "churn":
      // More processes die holding something than a document remembers.
      return {
        ...base,
        ...drawLosses(random),
        ...drawPauses(random, 10_000),
        keys: 1,
        storeTimeoutMs: 500,
        holdMs: 1_500,
        requestGapMs: random.pick([20, 100]),
        requestMs: 30_000,
        crashGapMs: random.pick([200, 1_000]),
      };
    case "hours":
      return {
        ...base,
        ...drawLosses(random),
        ...drawPauses(random, 5_000_000),
        quietGapMs: random.pick([100_000, 2_000_000]),
        crashGapMs: random.pick([NEVER, 100_000]),
      };
  }
}

/** No fault at all: nothing but latency, many requests at once and people who edit keys. */
function drawCalm(random: Random, profile: Profile): Scenario {
  // Without faults nothing may fail, not even of those who lose many races in a row.
  const storeTimeoutMs = profile === "calm" ? 5_000 : random.pick([500, 1_000, 5_000]);
  return {
    profile,
    processes: random.between(1, 4),
    keys: random.between(1, 3),
    holdMs: random.pick([3 * storeTimeoutMs, 10_000, 60_000]),
    storeTimeoutMs,
    cacheSize: random.pick([1, 2, 100]),
    latencyMs: random.pick([1, 5, 20, 60]),
    lost: 0,
    replyLost: 0,
    late: 0,
    duplicate: 0,
    slow: 0,
    requestGapMs: random.pick([5, 20, 100, 400]),
    quietGapMs: random.pick([1_000, 20_000]),
    editGapMs: random.pick([1_000, 4_000, 20_000]),
    crashGapMs: NEVER,
    pauseGapMs: NEVER,
    longestPauseMs: 0,
    jumpGapMs: NEVER,
    longestJumpMs: 0,
    outageGapMs: NEVER,
    closeGapMs: random.pick([NEVER, 30_000]),
    flushGapMs: random.pick([NEVER, 3_000]),
    burst: random.pick([1, 3, 12]),
    singles: 0.5,
    requestMs: random.pick([10, 200, 2_000, 30_000]),
  };
}

function drawLosses(random: Random): Partial<Scenario> {
  const chance = (): number => random.pick([0, 0.01, 0.05, 0.2]);
  return {
    lost: chance(),
    replyLost: chance(),
    late: chance(),
    duplicate: chance(),
    slow: random.pick([0, 0.03]),
  };
}

function drawCrashes(random: Random): Partial<Scenario> {
  return { crashGapMs: random.pick([2_000, 10_000, 40_000]) };
}

function drawPauses(random: Random, longestPauseMs: number): Partial<Scenario> {
  return { pauseGapMs: random.pick([3_000, 20_000]), longestPauseMs };
}

function drawJumps(random: Random): Partial<Scenario> {
  return { jumpGapMs: random.pick([1_500, 10_000]), longestJumpMs: random.pick([3_000, 30_000, 1_200_000]) };
}

/** One key's policy and how its requests behave. */
export interface KeyPlan {
  readonly quota: number | null;
  readonly limits: readonly SubjectLimit[];
  readonly onCrash: "charge" | "release";
  /** Until it expires, or null. */
  readonly livesMs: number | null;
  /** The most a request of it costs; 0 for keys on which there is nothing to count. */
  readonly highestCost: number;
  /** What requests really cost, compared with their estimate. */
  readonly actual: "fixed" | "below" | "above";
}

export function drawKeyPlan(random: Random, { profile }: Scenario): KeyPlan {
  const isOnlyLimited = profile === "slow" && random.chance(0.7);
  return {
    quota: isOnlyLimited ? null : random.pick([null, 0, 12, 40, 150, 150, 600, 600]),
    limits: random.pick<() => readonly SubjectLimit[]>([
      () => (isOnlyLimited ? [drawRequestLimit(random)] : []),
      () => [],
      () => [drawRequestLimit(random)],
      () => [{ inFlight: random.between(1, 6) }],
      () => [drawRequestLimit(random), { inFlight: random.between(2, 9) }],
    ])(),
    onCrash: random.chance(0.2) ? "release" : "charge",
    livesMs: random.chance(0.25) ? random.pick([8_000, 20_000, 100_000]) : null,
    highestCost: random.pick([0, 1, 1, 3, 10]),
    actual: random.pick(["fixed", "fixed", "below", "above"]),
  };
}

function drawRequestLimit(random: Random): SubjectLimit {
  const requests = random.pick([2, 7, 30]);
  const windowMs = random.pick([1_000, 3_000, 10_000, 60_000]);
  return random.chance(0.5)
    ? { requests, windowMs }
    : { requests, windowMs, burst: random.between(1, 2 * requests) };
}
