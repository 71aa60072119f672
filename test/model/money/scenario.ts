import type { Random } from "../random.js";
import { drawScenario, type Scenario } from "../scenario.js";

/** `days`: hours instead of seconds, so that cycles turn again and again with requests in flight. */
export const MONEY_PROFILES = ["calm", "days", "lossy", "crashes", "pauses", "clocks", "everything"] as const;
export type MoneyProfile = (typeof MONEY_PROFILES)[number];

export interface MoneyScenario {
  readonly profile: MoneyProfile;
  /** What goes wrong, and how often. */
  readonly faults: Scenario;
  readonly accounts: number;
  /** How long what takes a millisecond elsewhere takes here. */
  readonly pace: number;
}

const HOUR_MS = 3_600_000;

export function drawMoneyScenario(random: Random, profile: MoneyProfile): MoneyScenario {
  const accounts = random.between(1, 3);
  if (profile !== "days") {
    const drawn = drawScenario(random, profile);
    const cacheSize = random.pick([1, 4, 100]);
    const editGapMs = random.pick([300, 1_500, 6_000]);
    // Where nothing but messages is lost, no hold ends by time: every sum has to be exact.
    const holdMs = profile === "lossy" ? 600_000 : drawn.holdMs;
    return { profile, accounts, pace: 1, faults: { ...drawn, cacheSize, editGapMs, holdMs } };
  }
  const seconds = drawScenario(random, random.pick(["calm", "lossy"]));
  const faults: Scenario = {
    ...seconds,
    storeTimeoutMs: 1_000,
    latencyMs: random.pick([5, 60]),
    holdMs: random.pick([6, 24]) * HOUR_MS,
    requestGapMs: random.pick([0.2, 1]) * HOUR_MS,
    quietGapMs: 12 * HOUR_MS,
    editGapMs: random.pick([1, 4]) * HOUR_MS,
    flushGapMs: 8 * HOUR_MS,
    requestMs: random.pick([0.1, 4, 20]) * HOUR_MS,
    crashGapMs: random.pick([Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY, 30 * HOUR_MS]),
  };
  return { profile, accounts, pace: HOUR_MS / 1_000, faults };
}

/** An account's terms, and how the requests of its keys behave. */
export interface AccountPlan {
  readonly onCrash: "charge" | "release";
  readonly limits: readonly AccountLimit[];
  readonly credit: number;
  readonly payAsYouGo: { readonly capPerCycle: number | null } | null;
  /** Quotas of its standard keys. */
  readonly quotas: readonly (number | null)[];
  readonly hasSubscription: boolean;
  readonly highestCost: number;
  /** What requests really cost, compared with their estimate. */
  readonly actual: "fixed" | "below" | "above";
  /** The share of requests with a price for each fund. */
  readonly priced: number;
}

type AccountLimit =
  | { readonly requests: number; readonly windowMs: number }
  | { readonly tokens: number; readonly windowMs: number }
  | { readonly inFlight: number };

export function drawAccountPlan(random: Random): AccountPlan {
  const quota = (): number | null => random.pick([null, null, 20, 100, 400]);
  return {
    onCrash: random.chance(0.15) ? "release" : "charge",
    limits: random.pick<readonly AccountLimit[]>([
      [],
      [],
      [],
      [{ inFlight: random.between(2, 6) }],
      [
        { requests: 20, windowMs: 5_000 },
        { tokens: 500, windowMs: 10_000 },
      ],
    ]),
    credit: random.pick([0, 30, 200, 1_000]),
    payAsYouGo: drawPayAsYouGo(random),
    quotas: Array.from({ length: random.between(0, 3) }, quota),
    hasSubscription: random.chance(0.8),
    highestCost: random.pick([1, 3, 10, 30]),
    actual: random.pick(["fixed", "fixed", "below", "above"]),
    priced: random.pick([0, 0, 0.3]),
  };
}

export function drawPayAsYouGo(random: Random): AccountPlan["payAsYouGo"] {
  return random.pick([
    null,
    { capPerCycle: null },
    { capPerCycle: 0 },
    { capPerCycle: random.between(5, 90) },
  ]);
}
