/**
 * What is under way, the oldest first. Not a Map or a Set: one that is added to and taken from all the time outgrows its
 * table every few entries, and each old table keeps what stood in it, and the next table, until the next full collection.
 */
export interface Roster<T> {
  first: Entry<T> | undefined;
  last: Entry<T> | undefined;
  size: number;
}

export interface Entry<T> {
  readonly value: T;
  isIn: boolean;
  before: Entry<T> | undefined;
  after: Entry<T> | undefined;
}

export function newRoster<T>(): Roster<T> {
  return { first: undefined, last: undefined, size: 0 };
}

export function enter<T>(roster: Roster<T>, value: T): Entry<T> {
  const entry = { value, isIn: true, before: roster.last, after: undefined };
  if (roster.last === undefined) roster.first = entry;
  else roster.last.after = entry;
  roster.last = entry;
  roster.size += 1;
  return entry;
}

/** Takes out what was entered; nothing where that was done before. */
export function leave<T>(roster: Roster<T>, entry: Entry<T>): void {
  if (!entry.isIn) return;
  entry.isIn = false;
  const { before, after } = entry;
  if (before === undefined) roster.first = after;
  else before.after = after;
  if (after === undefined) roster.last = before;
  else after.before = before;
  // Whoever still has the entry is not to keep all that came after it.
  entry.before = undefined;
  entry.after = undefined;
  roster.size -= 1;
}

export function valuesOf<T>({ first }: Roster<T>): readonly T[] {
  const values: T[] = [];
  for (let entry = first; entry !== undefined; entry = entry.after) values.push(entry.value);
  return values;
}
