/** The chart that the README shows: how many times over each goal is reached. Pure; nothing but text. */
import type { Row } from "./goals.ts";

const WIDTH = 880;
const LINE = 22;
const TOP = 40;
const LEFT = 490;
const RIGHT = 60;
/** From a tenth of a goal to ten times it, in powers. */
const DECADES = [-1, 1] as const;

/** Readable on white and on black: the colours of the text follow the reader's. */
const STYLE = `
  text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .scale { fill: #59636e }
  .line { stroke: #d1d9e0 }
  .goal { stroke: #1f2328; stroke-width: 1.5 }
  .met { fill: #2da44e }
  .missed { fill: #bc4c00 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc }
    .scale { fill: #9198a1 }
    .line { stroke: #3d444d }
    .goal { stroke: #f0f6fc }
    .met { fill: #3fb950 }
    .missed { fill: #db6d28 }
  }`;

export function chartOf(rows: readonly Row[]): string {
  const bars = rows.flatMap(({ work, measured }) =>
    measured === undefined ? [] : [{ work: plain(work), ...measured }],
  );
  const height = TOP + bars.length * LINE + 12;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" role="img">`,
    `<title>How many times over each goal is reached</title>`,
    `<style>${STYLE}\n</style>`,
    ...[0.1, 0.3, 1, 3, 10].map((times) => tick(times, height)),
    ...bars.map(bar),
    "</svg>\n",
  ].join("\n");
}

function tick(times: number, height: number): string {
  const x = at(times);
  return [
    `<line class="${times === 1 ? "goal" : "line"}" x1="${x}" x2="${x}" y1="${TOP - 8}" y2="${height - 8}"/>`,
    `<text class="scale" x="${x}" y="${TOP - 16}" text-anchor="middle">${times === 1 ? "goal" : `${times}x`}</text>`,
  ].join("\n");
}

function bar(
  { work, text, reached }: { readonly work: string; readonly text: string; readonly reached: number },
  line: number,
): string {
  const y = TOP + line * LINE;
  const [goal, end] = [at(1), at(reached)];
  const [x, width] = [Math.min(goal, end), Math.abs(end - goal)];
  const colour = reached >= 1 ? "met" : "missed";
  return [
    `<text x="${LEFT - 12}" y="${y + 14}" text-anchor="end">${escapeText(work)}</text>`,
    `<rect class="${colour}" x="${x}" y="${y + 4}" width="${Math.max(2, width)}" height="${LINE - 8}" rx="2"/>`,
    `<text x="${WIDTH - 4}" y="${y + 14}" text-anchor="end">${escapeText(text.replace(/ \(.*/, ""))}</text>`,
  ].join("\n");
}

/** Where so many times the goal is, as far as the scale goes. */
function at(times: number): number {
  const [low, high] = DECADES;
  const share = (Math.min(high, Math.max(low, Math.log10(times))) - low) / (high - low);
  return Math.round(LEFT + share * (WIDTH - LEFT - RIGHT - 20));
}

function plain(text: string): string {
  return text.replaceAll("`", "");
}

function escapeText(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}
