/**
 * When an allowance is renewed. Plain data, kept in documents. `zone` is what `isTimeZone` accepts.
 *
 * - `anniversary`: cycle 0 begins at the anchor, cycle n `n * every` days or months after it (before it, if negative),
 *   at the anchor's wall-clock time in the zone. `every` is 1 or more.
 * - `calendar`: a cycle begins at local midnight, a week's on Monday. Cycle 0 is the local day, ISO week or month that
 *   contains 1970-01-01.
 */
export type Cycle =
  | { readonly kind: "never" }
  | {
      readonly kind: "anniversary";
      readonly every: number;
      readonly unit: "day" | "month";
      readonly anchorMs: number;
      readonly zone: string;
    }
  | { readonly kind: "calendar"; readonly unit: "day" | "week" | "month"; readonly zone: string };

/**
 * One cycle, half-open: it ends where the next one begins. Both are kept within what a `Date` can hold, and the only
 * cycle of `never`, 0, fills all of that.
 */
export interface CycleSpan {
  readonly index: number;
  readonly startsAtMs: number;
  readonly endsAtMs: number;
}

const DAY_MS = 86_400_000;

/** The last time that a `Date` can hold; negated, the first. */
const LAST_MS = 8_640_000_000_000_000;

/** Formatters are slow to make. A process that meets more zones than this makes some of them again. */
const MAX_FORMATTERS = 64;
const formatters = new Map<string, Intl.DateTimeFormat>();

/** Abbreviations that ICU knows beside the names of IANA: to it, BST is Bangladesh and IST is India. */
const ABBREVIATION = /^(?:AC|AE|AG|AR|AS|BE|BS|CA|CN|CS|CT|EA|EC|IE|IS|JS|MI|NE|NS|PL|PN|PR|PS|SS|VS)T$/i;

const OFFSET = /GMT(?:([+-])(\d\d):(\d\d)(?::(\d\d))?)?$/;

/**
 * The cycle that an instant falls into. The very last instant, which a half-open span cannot contain, is in the
 * cycle that would go on.
 *
 * @throws TypeError when `ms` is not whole milliseconds that a `Date` can hold, or `every` not a whole number from 1.
 * @throws RangeError when this runtime does not know the zone.
 */
export function cycleAt(cycle: Cycle, ms: number): CycleSpan {
  if (!Number.isInteger(ms) || Math.abs(ms) > LAST_MS) {
    throw new TypeError(`A time is whole milliseconds that a Date can hold, received ${ms}.`);
  }
  // The guess is off by a step or two. Where a whole local day was skipped two cycles begin at once: the first is empty.
  let index = guessIndex(cycle, ms);
  let start = boundary(cycle, index);
  while (start > ms) {
    index -= 1;
    start = boundary(cycle, index);
  }
  let end = boundary(cycle, index + 1);
  while (end <= ms) {
    index += 1;
    start = end;
    end = boundary(cycle, index + 1);
  }
  return { index, startsAtMs: clamp(start), endsAtMs: clamp(end) };
}

/**
 * When cycle `index` begins, kept within what a `Date` can hold.
 *
 * Boundaries count from the anchor, never from one another: a month after January 31 is the last of February, two
 * months after it March 31. A wall-clock time that happens twice means the first, and one that was skipped is as much
 * later as the clock was put forward (`compatible` in Temporal); so 02:30 becomes 03:30.
 *
 * @throws TypeError when `index` is not a safe integer, or `every` not a whole number from 1.
 * @throws RangeError when this runtime does not know the zone.
 */
export function cycleStart(cycle: Cycle, index: number): number {
  if (!Number.isSafeInteger(index)) throw new TypeError(`An index is a safe integer, received ${index}.`);
  return clamp(boundary(cycle, index));
}

/** Whether a value is the name of a time zone in the tz database, as far as this runtime knows it. No offsets. */
export function isTimeZone(zone: unknown): zone is string {
  if (typeof zone !== "string" || !/^[a-z]/i.test(zone) || ABBREVIATION.test(zone)) return false;
  try {
    return formatterOf(zone) !== undefined;
  } catch {
    return false;
  }
}

/** The index whose cycle begins on the local day of `ms`, or near it. */
function guessIndex(cycle: Cycle, ms: number): number {
  if (cycle.kind === "never") return 0;
  const day = dayOf(localTime(ms, cycle.zone));
  if (cycle.kind === "calendar") {
    if (cycle.unit === "week") return Math.floor((day + 3) / 7);
    return cycle.unit === "day" ? day : monthOf(day);
  }
  const anchorDay = dayOf(localTime(cycle.anchorMs, cycle.zone));
  const passed = cycle.unit === "day" ? day - anchorDay : monthOf(day) - monthOf(anchorDay);
  return Math.floor(passed / cycle.every);
}

/** When a cycle begins, be it beyond what a `Date` can hold. */
function boundary(cycle: Cycle, index: number): number {
  if (cycle.kind === "never") return index > 0 ? Infinity : -Infinity;
  if (cycle.kind === "calendar") return instantOf(calendarDay(cycle.unit, index) * DAY_MS, cycle.zone);

  const { every, unit, anchorMs, zone } = cycle;
  if (!Number.isSafeInteger(every) || every < 1) {
    throw new TypeError(`A cycle is every 1 or more ${unit}s, received ${every}.`);
  }
  // Not by way of the wall clock, which shows the second of two equal hours like the first.
  if (index === 0) return anchorMs;
  const anchor = localTime(anchorMs, zone);
  const anchorDay = dayOf(anchor);
  const day = unit === "day" ? anchorDay + index * every : addMonths(anchorDay, index * every);
  return instantOf(day * DAY_MS + (anchor - anchorDay * DAY_MS), zone);
}

/** The local day, counted from 1970-01-01 (a Thursday), on which a cycle of the calendar begins. */
function calendarDay(unit: "day" | "week" | "month", index: number): number {
  if (unit === "month") return firstDayOf(index);
  return unit === "week" ? index * 7 - 3 : index;
}

function addMonths(day: number, months: number): number {
  const month = monthOf(day);
  const first = firstDayOf(month + months);
  const last = firstDayOf(month + months + 1) - 1;
  return Math.min(first + day - firstDayOf(month), last);
}

/** The month, counted from January 1970, that contains a day, counted from its first. */
function monthOf(day: number): number {
  let month = Math.floor(day / 30.436875);
  while (firstDayOf(month) > day) month -= 1;
  while (firstDayOf(month + 1) <= day) month += 1;
  return month;
}

/** The first day of a month, in the Gregorian calendar without bounds. A `Date` has some, and local time exceeds them. */
function firstDayOf(month: number): number {
  // Years that begin in March end with the leap day, and their months have 153 days in every five.
  const sinceMarch = month + 1970 * 12 - 2;
  const year = Math.floor(sinceMarch / 12);
  const leapDays = Math.floor(year / 4) - Math.floor(year / 100) + Math.floor(year / 400);
  return year * 365 + leapDays + Math.floor(((sinceMarch - year * 12) * 153 + 2) / 5) - 719_468;
}

function dayOf(local: number): number {
  return Math.floor(local / DAY_MS);
}

/** What the clocks of a zone show at an instant, as if it were UTC. */
function localTime(ms: number, zone: string): number {
  return ms + offsetAt(ms, zone);
}

/** The instant at which the clocks of a zone show a time. No zone is a day from UTC, or changes twice in two days. */
function instantOf(local: number, zone: string): number {
  const before = offsetAt(local - DAY_MS, zone);
  const early = local - before;
  if (offsetAt(early, zone) === before) return early;
  const after = offsetAt(local + DAY_MS, zone);
  const late = local - after;
  // Neither is right for a time that was skipped; then the offset before the change leads to the far side of it.
  return offsetAt(late, zone) === after ? late : early;
}

/** Milliseconds east of UTC, in whole seconds. */
function offsetAt(ms: number, zone: string): number {
  const text = formatterOf(zone).format(clamp(ms));
  const offset = OFFSET.exec(text);
  // To read it as UTC would move every boundary.
  if (offset === null) throw new TypeError(`This runtime writes an offset in an unknown way: ${text}.`);
  const [, sign, hours = 0, minutes = 0, seconds = 0] = offset;
  const total = (Number(hours) * 3_600 + Number(minutes) * 60 + Number(seconds)) * 1_000;
  return sign === "-" ? -total : total;
}

function formatterOf(zone: string): Intl.DateTimeFormat {
  const known = formatters.get(zone);
  if (known !== undefined) return known;
  // The offset never comes alone; a letter for the weekday is the least that comes with it.
  const formatter = new Intl.DateTimeFormat("en-US", {
    timeZone: zone,
    timeZoneName: "longOffset",
    weekday: "narrow",
  });
  if (formatters.size >= MAX_FORMATTERS) formatters.clear();
  formatters.set(zone, formatter);
  return formatter;
}

function clamp(ms: number): number {
  return Math.min(Math.max(ms, -LAST_MS), LAST_MS);
}
