import fc from "fast-check";
import { Temporal } from "temporal-polyfill";
import { describe, expect, test } from "vitest";
import { type Cycle, cycleAt, cycleStart } from "../../src/cycle.js";

/*
 * The calendar arithmetic of billing cycles against Temporal, which knows nothing of ours: the polyfill is slow, so
 * this is not among the quick tests.
 */

/** A random cycle and a boundary of it: of any index, or a number of minutes from when the clocks change. */
interface Sample {
  readonly kind: "anniversary" | "calendar";
  readonly unit: "day" | "week" | "month";
  readonly every: number;
  readonly ms: number;
  readonly index: number;
  readonly minutesFromChange: number | null;
}

describe("an independent implementation", () => {
  const ALIASES = ["UTC", "Etc/GMT+12", "US/Eastern", "Asia/Calcutta", "Asia/Katmandu", "Europe/Kiev"];
  const zone = fc.constantFrom(...Intl.supportedValuesOf("timeZone"), ...ALIASES);
  const time = fc.integer({ min: Date.UTC(1900, 0), max: Date.UTC(2200, 11, 31) });
  const sample: fc.Arbitrary<Sample> = fc.record({
    kind: fc.constantFrom("anniversary", "anniversary", "calendar"),
    unit: fc.constantFrom("day", "month", "week"),
    every: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 36 })),
    ms: time,
    index: fc.integer({ min: -600, max: 600 }),
    minutesFromChange: fc.option(
      fc.integer({ min: -100, max: 100 }).map((quarters) => quarters * 15),
      { freq: 2 },
    ),
  });
  // Temporal is slow to find when the clocks change: a hundred samples share one change.
  const hundred = fc.array(sample, { minLength: 100, maxLength: 100 });

  test("agrees on 100,000 boundaries and on the cycles at either side", { timeout: 300_000 }, () => {
    fc.assert(
      fc.property(zone, time, hundred, (zone, ms, samples) => {
        const change = zoned(ms, zone).getTimeZoneTransition("next");
        for (const sample of samples) expectAgreement(sample, zone, change);
      }),
      { numRuns: 1_000 },
    );
  });
});

function expectAgreement(sample: Sample, zone: string, change: Temporal.ZonedDateTime | null): void {
  const { cycle, index, startOf } = asked(sample, zone, change);
  const boundary = startOf(index);
  const before = cycleAt(cycle, boundary - 1);
  const after = cycleAt(cycle, boundary);
  expect({ cycle, index, start: cycleStart(cycle, index), before, after }).toEqual({
    cycle,
    index,
    start: boundary,
    before: { index: before.index, startsAtMs: startOf(before.index), endsAtMs: boundary },
    after: { index: after.index, startsAtMs: boundary, endsAtMs: startOf(after.index + 1) },
  });
  expect(before.startsAtMs < boundary && boundary < after.endsAtMs).toBe(true);
  expect(before.index < index && index <= after.index).toBe(true);
}

/** The cycle of a sample, the index to look at, and where Temporal says that cycles begin. */
function asked(
  { kind, unit, every, ms, index, minutesFromChange }: Sample,
  zone: string,
  change: Temporal.ZonedDateTime | null,
): { readonly cycle: Cycle; readonly index: number; readonly startOf: (index: number) => number } {
  const isNear = change !== null && minutesFromChange !== null;
  const target = isNear
    ? change.toPlainDateTime().add({ minutes: minutesFromChange })
    : zoned(ms, zone).toPlainDateTime();
  if (kind === "calendar") {
    const origin = Temporal.PlainDate.from(unit === "week" ? "1969-12-29" : "1970-01-01");
    const passed = origin.until(target, { largestUnit: unit });
    const startOf = (steps: number): number => {
      const day = origin.add({ [`${unit}s`]: steps });
      return day.toZonedDateTime({ timeZone: zone, plainTime: "00:00" }).epochMilliseconds;
    };
    return { cycle: { kind, unit, zone }, index: passed[`${unit}s`], startOf };
  }
  const isMonth = unit === "month";
  const step = (steps: number): Temporal.DurationLike => ({ [isMonth ? "months" : "days"]: steps * every });
  const anchor = isNear ? target.subtract(step(index)).toZonedDateTime(zone) : zoned(ms, zone);
  const anchorMs = anchor.epochMilliseconds;
  return {
    cycle: { kind, unit: isMonth ? "month" : "day", every, anchorMs, zone },
    index,
    startOf: (steps) => anchor.add(step(steps)).epochMilliseconds,
  };
}

function zoned(ms: number, zone: string): Temporal.ZonedDateTime {
  return Temporal.Instant.fromEpochMilliseconds(ms).toZonedDateTimeISO(zone);
}
