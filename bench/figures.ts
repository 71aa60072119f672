/** What many measurements of one thing come to. Pure. */

/** The middle one, or the mean of the two in the middle. @throws TypeError where there is none */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const half = sorted.length >> 1;
  const [upper, lower] = [sorted[half], sorted[sorted.length % 2 === 1 ? half : half - 1]];
  if (upper === undefined || lower === undefined) throw new TypeError("The median of nothing.");
  return (upper + lower) / 2;
}

/** The value that so many of a hundred do not exceed. @throws TypeError where there is none */
export function percentile(values: readonly number[], percent: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const value = sorted[Math.max(0, Math.ceil((percent / 100) * sorted.length) - 1)];
  if (value === undefined) throw new TypeError("A percentile of nothing.");
  return value;
}

/** A quotient of two medians, and between which bounds the quotients of the single rounds were. */
export interface Ratio {
  readonly ratio: number;
  readonly low: number;
  readonly high: number;
}

/** Of measurements that were made side by side: the first of one right before or after the first of the other. */
export function ratioOf(above: readonly number[], below: readonly number[]): Ratio {
  const each = above.slice(0, below.length).map((value, n) => value / (below[n] ?? Number.NaN));
  return { ratio: median(above) / median(below), low: Math.min(...each), high: Math.max(...each) };
}

/** How far the measurements of one thing are apart, as a part of their median: (highest - lowest) / median. */
export function spread(values: readonly number[]): number {
  return (Math.max(...values) - Math.min(...values)) / median(values);
}

/** With three significant digits, and thousands apart: 0.412, 12.3, 45,600. */
export function round(value: number): string {
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value) || 1)));
  const short = Number(value.toPrecision(3));
  return short.toLocaleString("en-US", { maximumFractionDigits: Math.min(digits, 3) });
}
