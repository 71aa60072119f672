import { copyOf, withEntry } from "./copies.js";
import {
  DAY_MS,
  type DayTally,
  type KeyRecord,
  MAX_TALLIED_MODELS,
  type Outcome,
  type Tally,
} from "./documents.js";

/** What one request, or several alike, adds to the counters of a day. */
export interface Count {
  /** null: it asked for none, or it is not known which. */
  readonly model: string | null;
  readonly outcome: Outcome;
  readonly requests: number;
  readonly cost: number;
  readonly inputTokens: number;
  readonly outputTokens: number;
  /** Of the cost, what was booked on the balance of the key's account. */
  readonly paid: number;
}

/** Longer names are cut. */
const MAX_MODEL_LENGTH = 64;

/** The day of a key's counters at an instant, by the latest time the key has seen. */
export function dayOf({ latestMs }: Pick<KeyRecord, "latestMs">, now: number): number {
  return Math.floor(Math.max(now, latestMs) / DAY_MS);
}

/** Takes a key into the day of `now`. `closed` is the day before, to be kept in a document of its own. */
export function turnDay(
  key: KeyRecord,
  now: number,
): { readonly key: KeyRecord; readonly closed: DayTally | undefined } {
  const { tally } = key;
  if (tally === undefined || tally.day >= dayOf(key, now)) return { key, closed: undefined };
  return { key: withTally(key, undefined), closed: tally };
}

/** Counts something on the day of `now`. Of more than 64 models the further ones count as `other`. */
export function count(key: KeyRecord, counted: Count, now: number): KeyRecord {
  return withTally(key, withCount(key.tally ?? { day: dayOf(key, now), models: {} }, counted));
}

/** The key with other counters. */
export function withTally(key: KeyRecord, tally: DayTally | undefined): KeyRecord {
  const copy = copyOf(key);
  copy.tally = tally;
  return copy;
}

/** Adds to the counters of a day. Pure; sums stay safe integers. */
export function withCount(tally: DayTally, { model, outcome, ...counted }: Count): DayTally {
  const name = nameOf(tally, model);
  const outcomes = (Object.hasOwn(tally.models, name) ? tally.models[name] : undefined) ?? {};
  const { requests, cost, inputTokens, outputTokens, paid } = counted;
  const sums: Tally = [requests, cost, inputTokens, outputTokens, paid];
  const { settled, voided, expired, refused } = outcomes;
  const counts = { settled, voided, expired, refused, [outcome]: plus(outcomes[outcome], sums) };
  return { day: tally.day, models: withEntry(tally.models, name, counts) };
}

/** The counters of two parts of one day together. */
export function mergeDays(day: DayTally, more: DayTally): DayTally {
  let merged = day;
  for (const [model, outcomes] of Object.entries(more.models)) {
    for (const [outcome, tally] of Object.entries(outcomes)) {
      if (tally === undefined) continue;
      const [requests, cost, inputTokens, outputTokens, paid] = tally;
      const counted = { requests, cost, inputTokens, outputTokens, paid };
      merged = withCount(merged, {
        model: model === "" ? null : model,
        outcome: outcome as Outcome,
        ...counted,
      });
    }
  }
  return merged;
}

/** The counters of a day, of all models together. */
export function mergeModels({ day, models }: DayTally): DayTally {
  const merged = Object.values(models).map((outcomes) => ({ day, models: { other: outcomes } }));
  return merged.reduce(mergeDays, { day, models: {} });
}

function nameOf({ models }: DayTally, model: string | null): string {
  const name = (model ?? "").slice(0, MAX_MODEL_LENGTH).replace(/[\ud800-\udbff]$/, "");
  // Not a name in plain objects.
  if (name === "__proto__") return "other";
  if (Object.hasOwn(models, name) || Object.keys(models).length < MAX_TALLIED_MODELS) return name;
  return "other";
}

function plus(tally: Tally = [0, 0, 0, 0, 0], more: Tally): Tally {
  const at = (index: 0 | 1 | 2 | 3 | 4): number =>
    Math.min(tally[index] + more[index], Number.MAX_SAFE_INTEGER);
  return [at(0), at(1), at(2), at(3), at(4)];
}
