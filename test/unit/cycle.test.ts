import { afterEach, describe, expect, test, vi } from "vitest";
import { type Cycle, type CycleSpan, cycleAt, cycleStart, isTimeZone } from "../../src/cycle.js";

const DAY_MS = 86_400_000;
const LAST_MS = 8_640_000_000_000_000;

describe("anniversaries", () => {
  test.each([
    // The day is that of the anchor, or the last of a shorter month, and comes back after one.
    ["2024-01-31T10:00Z", "UTC", 1, "2024-02-29T10:00Z"],
    ["2024-01-31T10:00Z", "UTC", 2, "2024-03-31T10:00Z"],
    ["2024-01-31T10:00Z", "UTC", 3, "2024-04-30T10:00Z"],
    ["2024-01-31T10:00Z", "UTC", 4, "2024-05-31T10:00Z"],
    ["2024-01-31T10:00Z", "UTC", -2, "2023-11-30T10:00Z"],
    ["2024-01-31T10:00Z", "UTC", -11, "2023-02-28T10:00Z"],
    ["2024-02-29T00:00Z", "UTC", 1, "2024-03-29T00:00Z"],
    ["2024-02-29T00:00Z", "UTC", 12, "2025-02-28T00:00Z"],
    ["2024-02-29T00:00Z", "UTC", 48, "2028-02-29T00:00Z"],
    ["2024-02-29T00:00Z", "UTC", -12, "2023-02-28T00:00Z"],
    // 2100 is no leap year, 2000 and 2400 are.
    ["2096-02-29T00:00Z", "UTC", 48, "2100-02-28T00:00Z"],
    ["2096-02-29T00:00Z", "UTC", -96 * 12, "2000-02-29T00:00Z"],
    ["2096-02-29T00:00Z", "UTC", 304 * 12, "2400-02-29T00:00Z"],
    ["2099-12-31T23:59:59.999Z", "UTC", 2, "2100-02-28T23:59:59.999Z"],
    ["9999-11-30T00:00Z", "UTC", 1, "9999-12-30T00:00Z"],
    ["9999-12-31T12:00Z", "UTC", 2, "+010000-02-29T12:00Z"],
    ["1970-03-01T00:00Z", "UTC", 2, "1970-05-01T00:00Z"],
    ["0000-01-31T00:00Z", "UTC", -1, "-000001-12-31T00:00Z"],
    // The day is that of the zone.
    ["2024-01-30T20:00Z", "Asia/Shanghai", 1, "2024-02-28T20:00Z"],
    ["2024-01-30T20:00Z", "Asia/Shanghai", 2, "2024-03-30T20:00Z"],
    ["2024-01-31T18:14:59Z", "Asia/Kathmandu", 1, "2024-02-29T18:14:59Z"],
    ["2024-01-31T18:15Z", "Asia/Kathmandu", 1, "2024-02-29T18:15Z"],
    // 02:30 does not exist on March 10, and 01:30 happens twice on November 3.
    ["2024-02-10T07:30Z", "America/New_York", 1, "2024-03-10T07:30Z"],
    ["2024-02-10T07:30Z", "America/New_York", 2, "2024-04-10T06:30Z"],
    ["2024-10-03T05:30Z", "America/New_York", 1, "2024-11-03T05:30Z"],
    ["2024-10-03T05:30Z", "America/New_York", 2, "2024-12-03T06:30Z"],
    ["2024-02-10T06:59:59.999Z", "America/New_York", 1, "2024-03-10T06:59:59.999Z"],
    ["2024-02-10T08:00Z", "America/New_York", 1, "2024-03-10T07:00Z"],
    ["2024-10-03T06:00Z", "America/New_York", 1, "2024-11-03T07:00Z"],
    ["9999-02-14T07:30Z", "America/New_York", 1, "9999-03-14T07:30Z"],
    // An anchor in the second of the two hours stays there; its anniversaries have only one.
    ["2024-11-03T06:30Z", "America/New_York", 0, "2024-11-03T06:30Z"],
    ["2024-11-03T06:30Z", "America/New_York", 1, "2024-12-03T06:30Z"],
    ["2024-11-03T06:30Z", "America/New_York", -1, "2024-10-03T05:30Z"],
    // Half an hour is skipped (02:00 to 02:30) and happens twice (01:30 to 02:00).
    ["2024-09-05T15:45Z", "Australia/Lord_Howe", 1, "2024-10-05T15:45Z"],
    ["2024-09-05T15:45Z", "Australia/Lord_Howe", 2, "2024-11-05T15:15Z"],
    ["2024-03-06T14:45Z", "Australia/Lord_Howe", 1, "2024-04-06T14:45Z"],
    ["2024-03-06T15:00Z", "Australia/Lord_Howe", 1, "2024-04-06T15:30Z"],
    // 2011-12-30 was left out.
    ["2011-11-30T18:00Z", "Pacific/Apia", 1, "2011-12-30T18:00Z"],
    ["2011-11-30T18:00Z", "Pacific/Apia", 2, "2012-01-29T18:00Z"],
    // Local mean time, 4:56:02 behind.
    ["1883-10-18T16:59Z", "America/New_York", -1, "1883-09-18T16:59Z"],
    ["1883-10-18T16:59Z", "America/New_York", 1, "1883-11-18T16:59Z"],
    ["1883-10-18T16:59Z", "America/New_York", 2, "1883-12-18T17:02:58Z"],
    ["1883-10-18T17:00Z", "America/New_York", 1, "1883-11-18T17:03:58Z"],
  ])("from %s in %s, month %i begins at %s", (anchor, zone, index, boundary) => {
    expectBoundary(anniversary(anchor, zone, 1, "month"), index, boundary);
  });

  test.each([
    ["2024-01-31T10:00Z", "UTC", 3, 1, "2024-04-30T10:00Z"],
    ["2024-01-31T10:00Z", "UTC", 3, -1, "2023-10-31T10:00Z"],
    ["2024-02-29T10:00Z", "UTC", 12, 1, "2025-02-28T10:00Z"],
    ["2024-02-29T10:00Z", "UTC", 12, 4, "2028-02-29T10:00Z"],
    ["2024-02-29T10:00Z", "UTC", 12, -124, "1900-02-28T10:00Z"],
  ])("from %s in %s every %i months, cycle %i begins at %s", (anchor, zone, every, index, boundary) => {
    expectBoundary(anniversary(anchor, zone, every, "month"), index, boundary);
  });

  test.each([
    ["2024-02-27T10:00Z", "UTC", 1, 3, "2024-03-01T10:00Z"],
    ["2024-02-27T10:00Z", "UTC", 30, 1, "2024-03-28T10:00Z"],
    // Days are those of the clock on the wall: one of 23 hours, one of 25.
    ["2024-03-09T17:00Z", "America/New_York", 1, 1, "2024-03-10T16:00Z"],
    ["2024-03-09T07:30Z", "America/New_York", 1, 1, "2024-03-10T07:30Z"],
    ["2024-03-09T07:30Z", "America/New_York", 1, 2, "2024-03-11T06:30Z"],
    ["2024-11-02T16:00Z", "America/New_York", 1, 1, "2024-11-03T17:00Z"],
    ["2024-11-02T05:30Z", "America/New_York", 1, 1, "2024-11-03T05:30Z"],
    ["2024-11-04T06:30Z", "America/New_York", 7, -1, "2024-10-28T05:30Z"],
  ])("from %s in %s every %i days, cycle %i begins at %s", (anchor, zone, every, index, boundary) => {
    expectBoundary(anniversary(anchor, zone, every, "day"), index, boundary);
  });

  test("before the anchor have negative indices", () => {
    const cycle = anniversary("2024-01-31T10:00Z", "UTC", 1, "month");
    expect(cycleAt(cycle, at("2024-01-31T10:00Z"))).toEqual(
      span(0, "2024-01-31T10:00Z", "2024-02-29T10:00Z"),
    );
    expect(cycleAt(cycle, at("2024-01-31T09:59:59.999Z"))).toEqual(
      span(-1, "2023-12-31T10:00Z", "2024-01-31T10:00Z"),
    );
  });
});

describe("the calendar", () => {
  test.each([
    ["day", "UTC", 0, "1970-01-01T00:00Z"],
    ["day", "UTC", -1, "1969-12-31T00:00Z"],
    ["day", "UTC", 19_782, "2024-02-29T00:00Z"],
    ["day", "Asia/Shanghai", 0, "1969-12-31T16:00Z"],
    ["day", "Asia/Kathmandu", 20_000, "2024-10-03T18:15Z"],
    ["week", "UTC", 0, "1969-12-29T00:00Z"],
    ["week", "UTC", 1, "1970-01-05T00:00Z"],
    ["week", "Europe/Berlin", 2870, "2024-12-29T23:00Z"],
    ["month", "UTC", 0, "1970-01-01T00:00Z"],
    ["month", "UTC", -1, "1969-12-01T00:00Z"],
    ["month", "UTC", 649, "2024-02-01T00:00Z"],
    ["month", "UTC", 650, "2024-03-01T00:00Z"],
    ["month", "UTC", 130 * 12 + 1, "2100-02-01T00:00Z"],
    ["month", "UTC", 130 * 12 + 2, "2100-03-01T00:00Z"],
    ["month", "UTC", 8030 * 12 - 1, "9999-12-01T00:00Z"],
    ["month", "UTC", 8030 * 12, "+010000-01-01T00:00Z"],
    ["month", "America/New_York", 650, "2024-03-01T05:00Z"],
    ["month", "America/New_York", 651, "2024-04-01T04:00Z"],
    // Local mean time, 0:17:30 ahead.
    ["month", "Europe/Brussels", -90 * 12, "1879-12-31T23:42:30Z"],
    // Midnight was skipped (to 01:00), and in Havana happened twice (from 01:00 to 00:00).
    ["day", "America/Sao_Paulo", 17_839, "2018-11-04T03:00Z"],
    ["day", "America/Sao_Paulo", 17_840, "2018-11-05T02:00Z"],
    ["day", "Africa/Cairo", 19_839, "2024-04-25T22:00Z"],
    ["day", "America/Havana", 20_030, "2024-11-03T04:00Z"],
    // The clock went from 23:30 to 00:30, so the skipped midnight is at 01:00 of the new time.
    ["day", "America/Toronto", -18_539, "1919-03-31T05:00Z"],
  ] as const)("%s in %s: %i begins at %s", (unit, zone, index, boundary) => {
    expectBoundary({ kind: "calendar", unit, zone }, index, boundary);
  });

  test.each([
    ["Pacific/Apia", "2011-12-30T10:00Z", 15_338],
    ["Pacific/Kwajalein", "1993-08-21T12:00Z", 8_633],
  ])("a day that %s left out at %s is empty, and no instant falls into it", (zone, skippedAt, index) => {
    const cycle = { kind: "calendar", unit: "day", zone } as const;
    const boundary = at(skippedAt);
    const starts = [-1, 0, 1, 2].map((step) => cycleStart(cycle, index + step));
    expect(starts).toEqual([boundary - DAY_MS, boundary, boundary, boundary + DAY_MS]);
    expect(cycleAt(cycle, boundary - 1).index).toBe(index - 1);
    expect(cycleAt(cycle, boundary).index).toBe(index + 1);
  });

  test("a day that has begun does not end because the clocks go back into the day before", () => {
    // In St. John's from 00:01 to 23:01.
    const cycle = { kind: "calendar", unit: "day", zone: "America/St_Johns" } as const;
    const day = span(13_450, "2006-10-29T02:30Z", "2006-10-30T03:30Z");
    expect(cycleAt(cycle, at("2006-10-29T02:29:59.999Z")).index).toBe(13_449);
    expect(cycleAt(cycle, at("2006-10-29T02:30Z"))).toEqual(day);
    expect(cycleAt(cycle, at("2006-10-29T02:31Z"))).toEqual(day);
    expect(cycleAt(cycle, at("2006-10-29T03:29:59.999Z"))).toEqual(day);
  });

  test("a day that happened twice is one cycle", () => {
    // Alaska came to this side of the date line.
    const cycle = { kind: "calendar", unit: "day", zone: "America/Sitka" } as const;
    const change = at("1867-10-19T00:30Z");
    const spans = [-2, -1, 0, 1, 2].map((days) => cycleAt(cycle, change + days * DAY_MS));
    const hours = spans.map(({ startsAtMs, endsAtMs }) => (endsAtMs - startsAtMs) / 3_600_000);
    expect(new Set(hours)).toEqual(new Set([24, 48]));
  });
});

describe("the ends of time", () => {
  test("never renews", () => {
    const whole = { index: 0, startsAtMs: -LAST_MS, endsAtMs: LAST_MS };
    for (const ms of [-LAST_MS, 0, LAST_MS]) expect(cycleAt({ kind: "never" }, ms)).toEqual(whole);
    const starts = [-1, 0, 1, 2].map((index) => cycleStart({ kind: "never" }, index));
    expect(starts).toEqual([-LAST_MS, -LAST_MS, LAST_MS, LAST_MS]);
  });

  const cycles: readonly Cycle[] = ["UTC", "Asia/Tokyo", "America/New_York", "Pacific/Kiritimati"].flatMap(
    (zone) => [
      ...(["day", "week", "month"] as const).map((unit) => ({ kind: "calendar", unit, zone }) as const),
      ...(["day", "month"] as const).flatMap((unit) =>
        [0, -LAST_MS, LAST_MS].map(
          (anchorMs) => ({ kind: "anniversary", every: 1, unit, anchorMs, zone }) as const,
        ),
      ),
    ],
  );

  test.each(cycles)("are where the first and the last cycle is cut: %o", (cycle) => {
    const first = cycleAt(cycle, -LAST_MS);
    expect(first.startsAtMs).toBe(-LAST_MS);
    expect(first.endsAtMs).toBeGreaterThan(-LAST_MS);
    expect(cycleStart(cycle, first.index - 1)).toBe(-LAST_MS);
    expect(cycleAt(cycle, first.endsAtMs).index).toBe(first.index + 1);

    const last = cycleAt(cycle, LAST_MS - 1);
    expect(last.endsAtMs).toBe(LAST_MS);
    expect(last.startsAtMs).toBeLessThan(LAST_MS);
    expect(cycleStart(cycle, last.index + 2)).toBe(LAST_MS);
    expect(cycleAt(cycle, last.startsAtMs - 1).index).toBe(last.index - 1);
    expect(cycleAt(cycle, LAST_MS).endsAtMs).toBe(LAST_MS);
  });

  test.each(cycles)("are as far as an index leads: %o", (cycle) => {
    expect(cycleStart(cycle, Number.MAX_SAFE_INTEGER)).toBe(LAST_MS);
    expect(cycleStart(cycle, Number.MIN_SAFE_INTEGER)).toBe(-LAST_MS);
  });

  test("are found without a walk", () => {
    const cycle = {
      kind: "anniversary",
      every: 1_000,
      unit: "day",
      anchorMs: -LAST_MS,
      zone: "UTC",
    } as const;
    expect(cycleAt(cycle, LAST_MS - 1).index).toBe(199_999);
    expect(cycleAt(cycle, LAST_MS).index).toBe(200_000);
  });

  test("are as far as a step leads", () => {
    const cycle = anniversary("2024-01-31T10:00Z", "UTC", Number.MAX_SAFE_INTEGER, "month");
    expect(cycleAt(cycle, at("2024-01-31T10:00Z"))).toEqual({
      index: 0,
      startsAtMs: at("2024-01-31T10:00Z"),
      endsAtMs: LAST_MS,
    });
    expect(cycleStart(cycle, Number.MIN_SAFE_INTEGER)).toBe(-LAST_MS);
  });
});

describe("what is no time, index, step or zone", () => {
  const monthly = anniversary("2024-01-31T10:00Z", "UTC", 1, "month");

  test.each([Number.NaN, Infinity, 0.5, LAST_MS + 1, -LAST_MS - 1])("refuses the time %s", (ms) => {
    expect(() => cycleAt(monthly, ms)).toThrow(TypeError);
    expect(() => cycleAt({ kind: "never" }, ms)).toThrow(TypeError);
  });

  test.each([Number.NaN, Infinity, 0.5, 2 ** 53])("refuses the index %s", (index) => {
    expect(() => cycleStart(monthly, index)).toThrow(TypeError);
    expect(() => cycleStart({ kind: "never" }, index)).toThrow(TypeError);
  });

  test.each([0, -1, 0.5, Number.NaN, Infinity, 2 ** 53])("refuses every %s months, and ends", (every) => {
    expect(() => cycleAt({ ...monthly, every } as Cycle, 0)).toThrow(TypeError);
    expect(() => cycleStart({ ...monthly, every } as Cycle, 1)).toThrow(TypeError);
  });

  test("refuses a zone that is none", () => {
    expect(() => cycleAt({ kind: "calendar", unit: "day", zone: "Mars/Olympus" }, 0)).toThrow(RangeError);
  });
});

describe("time zones", () => {
  afterEach(() => void vi.restoreAllMocks());

  test.each("UTC Etc/UTC GMT Etc/GMT+8 Asia/Shanghai asia/shanghai US/Pacific EST5EDT CET".split(" "))(
    "%s is one",
    (zone) => expect(isTimeZone(zone)).toBe(true),
  );

  test.each([
    ..."+08:00 -0500 +00 Z GMT+8 UTC+1 Local Mars/Olympus Asia/\u0160anghai BST bst IST PST".split(" "),
    ...["", " UTC", "UTC ", "UTC\0", undefined, null, 0, {}, ["UTC"], Object("UTC")],
  ])("%j is none", (zone) => expect(isTimeZone(zone)).toBe(false));

  test("have short names", () => expect(isTimeZone("a".repeat(1_000_000))).toBe(false));

  test("are right beyond the number of formatters kept, which is bounded", () => {
    const zones = Intl.supportedValuesOf("timeZone");
    expect(zones.length).toBeGreaterThan(128);
    const made = vi.spyOn(Intl, "DateTimeFormat");
    const rounds = [0, 1].map(() =>
      zones.map((zone) => cycleStart({ kind: "calendar", unit: "day", zone }, 0)),
    );
    expect(rounds[0]).toEqual(rounds[1]);
    expect(rounds[0]).toContain(-9 * 3_600_000);
    expect(made.mock.calls.length).toBeGreaterThan(zones.length);
    made.mockClear();
    cycleStart({ kind: "calendar", unit: "month", zone: zones.at(-1) as string }, 7);
    expect(made).not.toHaveBeenCalled();
  });

  test("are not taken for UTC where a runtime writes their offsets in another way", () => {
    const unreadable = { format: () => "1/1/1970, UTC+1" } as unknown as Intl.DateTimeFormat;
    vi.spyOn(Intl, "DateTimeFormat").mockImplementation(function unreadableFormat() {
      return unreadable;
    });
    expect(() => cycleStart({ kind: "calendar", unit: "day", zone: "Test/Unreadable" }, 0)).toThrow(
      TypeError,
    );
  });
});

function anniversary(anchor: string, zone: string, every: number, unit: "day" | "month"): Cycle {
  return { kind: "anniversary", every, unit, anchorMs: at(anchor), zone };
}

function span(index: number, startsAt: string, endsAt: string): CycleSpan {
  return { index, startsAtMs: at(startsAt), endsAtMs: at(endsAt) };
}

/** Exactly there: the instant belongs to the cycle, and the millisecond before it to the previous one. */
function expectBoundary(cycle: Cycle, index: number, boundary: string): void {
  expect(new Date(cycleStart(cycle, index))).toEqual(new Date(at(boundary)));
  expect(cycleAt(cycle, at(boundary))).toMatchObject({ index, startsAtMs: at(boundary) });
  expect(cycleAt(cycle, at(boundary) - 1)).toMatchObject({ index: index - 1, endsAtMs: at(boundary) });
}

function at(text: string): number {
  const ms = Date.parse(text);
  if (Number.isNaN(ms)) throw new TypeError(`No time: ${text}`);
  return ms;
}

describe("what cannot be reckoned with is named", () => {
  const monthly: Cycle = { kind: "anniversary", every: 1, unit: "month", anchorMs: 0, zone: "UTC" };

  test("a time, an index, a step", () => {
    expect(() => cycleAt(monthly, 0.5)).toThrow(
      "A time is whole milliseconds that a Date can hold, received 0.5.",
    );
    expect(() => cycleStart(monthly, 0.5)).toThrow("An index is a safe integer, received 0.5.");
    expect(() => cycleStart({ ...monthly, every: 0 }, 1)).toThrow(
      "A cycle is every 1 or more months, received 0.",
    );
  });

  test.each([
    ["T, GMT", 0],
    ["T, GMT+00:00", 0],
    ["T, GMT+05:45", 20_700_000],
    ["T, GMT-00:44:30", -2_670_000],
    ["T, UTC+1", undefined],
    ["GMT+01:00, T", undefined],
    ["T", undefined],
  ])("a runtime that writes %j", (text, eastMs) => {
    // Each under a name of its own, because formatters are kept.
    const cycle: Cycle = { kind: "calendar", unit: "day", zone: `Test/${text}` };
    const format = vi.spyOn(Intl, "DateTimeFormat").mockImplementation(function DateTimeFormat() {
      return { format: () => text } as never;
    });
    try {
      if (eastMs !== undefined) expect(cycleStart(cycle, 1)).toBe(86_400_000 - eastMs);
      else
        expect(() => cycleStart(cycle, 1)).toThrow(
          `This runtime writes an offset in an unknown way: ${text}.`,
        );
    } finally {
      format.mockRestore();
    }
  });
});

test("a name of the tz database may begin and end like an abbreviation", () => {
  for (const zone of ["CST6CDT", "PST8PDT"]) expect(isTimeZone(zone)).toBe(true);
  for (const zone of ["Asia/Muscat", "Australia/Hobart"]) expect(isTimeZone(zone)).toBe(true);
  for (const zone of ["CST", "PST", "cst"]) expect(isTimeZone(zone)).toBe(false);
});
