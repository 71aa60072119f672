import { describe, expect, it } from "vitest";
import { chartOf } from "../../bench/chart.ts";
import { median, percentile, ratioOf, round, spread } from "../../bench/figures.ts";
import { rowsOf } from "../../bench/goals.ts";
import { breaking, type Costs, onPaper } from "../../bench/paper-scale.ts";
import { between, tableOf } from "../../bench/render.ts";
import type { Results } from "../../bench/results.ts";

describe("figures", () => {
  it.each([
    [[3], 3],
    [[3, 1], 2],
    [[9, 1, 10, 2, 3], 3],
  ])("the median of %j is %d", (values, expected) => {
    expect(median(values)).toBe(expected);
  });

  it.each([
    [50, 5],
    [99, 10],
    [10, 1],
    [0, 1],
  ])("%d %% of one to ten do not exceed %d", (percent, expected) => {
    expect(percentile([10, 9, 8, 7, 6, 5, 4, 3, 2, 1], percent)).toBe(expected);
  });

  it("have neither of nothing", () => {
    expect(() => median([])).toThrow(TypeError);
    expect(() => percentile([], 50)).toThrow(TypeError);
  });

  it("compare medians, and tell between what the single rounds were", () => {
    expect(ratioOf([10, 40, 20], [10, 20, 5])).toEqual({ ratio: 2, low: 1, high: 4 });
    expect(spread([8, 10, 12])).toBeCloseTo(0.4);
  });

  it.each([
    [0, "0"],
    [0.0412, "0.041"],
    [0.5, "0.5"],
    [12.34, "12.3"],
    [123.4, "123"],
    [45_678, "45,700"],
    [-3.456, "-3.46"],
  ])("%d is written %s", (value, expected) => {
    expect(round(value)).toBe(expected);
  });
});

describe("goals", () => {
  const floorOf = (perSecond: number) => series("core", "floor", { perSecond: [perSecond] });
  const core = (own: number, floor: number): Results => ({
    core: part([series("core", "keystile", { perSecond: [own] }), floorOf(floor)]),
  });
  const [FIRST] = rowsOf({}).map(({ work }) => work);
  const row = (results: Results, work: string | undefined) =>
    rowsOf(results).find((one) => one.work === work)?.measured;

  it("are all told before anything was measured", () => {
    expect(rowsOf({}).length).toBeGreaterThan(20);
    expect(rowsOf({}).every(({ measured }) => measured === undefined)).toBe(true);
    expect(tableOf(rowsOf({}))).not.toContain("yes");
  });

  it.each([
    [125, 1],
    [250, 2],
    [124, 0.992],
  ])("%d decisions to a floor of 1,000 reach at most 8x so many times: %d", (own, reached) => {
    expect(row(core(own, 1_000), FIRST)?.reached).toBeCloseTo(reached);
  });

  it.each([
    ["is asked for where the process can decide so many", 1_000_000, 1, 20_000, 1],
    ["is cut to 80 % of what the process decides at all", 5_000, 40_000, 4_000, 1],
    ["is missed below that", 5_000, 40_000, 3_000, 0.75],
    ["is no less because the process decides too slowly", 500, 40_000, 3_000, 0.75],
  ])("20x of a store %s", (_, decisions, floor, own, reached) => {
    const results = {
      ...core(decisions, floor),
      postgres: part([
        series("postgres, hot key", "keystile", { perSecond: [own] }),
        series("postgres, hot key", "floor", { perSecond: [1_000] }),
      ]),
    };
    expect(row(results, "Postgres, one hot key, 64 callers")?.reached).toBeCloseTo(reached);
  });

  it("count what is less than nothing as met", () => {
    const results = {
      flood: part([series("flood", "malformed", { perSecond: [1], figures: { grownBytes: [-5, -9, 2] } })]),
    };
    expect(row(results, "What a flood of malformed keys leaves in memory")?.reached).toBeGreaterThan(1);
  });

  it("say in the table and by the colour in the chart whether they are met", () => {
    const [met, missed] = [rowsOf(core(125, 1_000)), rowsOf(core(124, 1_000))];
    expect(tableOf(met)).toMatch(/ yes \|\n/);
    expect(tableOf(missed)).toContain("| **no** |");
    expect(chartOf(met)).toContain('class="met"');
    expect(chartOf(met)).not.toContain('class="missed"');
    expect(chartOf(missed)).toContain('class="missed"');
  });
});

describe("between", () => {
  it("puts text between its comments, and leaves the rest", () => {
    const page = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n";
    const written = between(page, "x", "new");
    expect(written).toBe("a\n<!-- x -->\n\nnew\n\n<!-- /x -->\nb\n");
    expect(between(written, "x", "new")).toBe(written);
  });

  it("refuses a page without them", () => {
    expect(() => between("<!-- /x --> <!-- x -->", "x", "new")).toThrow("<!-- x -->");
  });
});

describe("scale on paper", () => {
  const costs: Costs = {
    cpuSeconds: 0.001,
    roundTripSeconds: 0.01,
    writesPerShard: 1_000,
    hotAlone: 500,
    hotShared: 100,
    diskBytesPerKey: 1_000,
    cacheBytesPerKey: 2_000,
  };

  it("adds up by hand where all keys are alike", () => {
    // Each of 1,000 keys is asked once a second, at 2 processes: 1 event a second there, 1 / 1.01 writes.
    const paper = onPaper({ keys: 1_000, perSecond: 1_000 }, "alike", "any process", costs);
    expect(paper).toMatchObject({ gateways: 2, reads: 0, tooHot: 0, hottest: 1, diskBytes: 1e6 });
    expect(paper.writes).toBeCloseTo((1_000 * 2) / 1.01);
    expect(paper.shards).toBe(4);
    expect(paper.cacheBytes).toBe(2e6);
  });

  it("reads twice what is not in the cache", () => {
    const paper = onPaper({ keys: 40_000, perSecond: 1_000 }, "alike", "any process", costs);
    expect(paper.reads).toBeCloseTo(2 * 1_000 * (30 / 40), -1);
  });

  it("counts the keys that are too hot by Zipf's law, and saves writes of hot keys", () => {
    const size = { keys: 1_000_000, perSecond: 10_000 };
    // The sum of 1/n to a million is 14.39: the nth key is asked 695/n times a second.
    const paper = onPaper(size, "Zipf", "any process", costs);
    expect(paper.hottest).toBeCloseTo(694.8, 0);
    expect(paper.tooHot).toBe(6);
    expect(onPaper(size, "Zipf", "by key", costs).tooHot).toBe(1);
    expect(onPaper(size, "Zipf", "by key", costs).writes).toBeLessThan(paper.writes);
    expect(paper.writes).toBeLessThan(20_000);
  });

  it("tells what breaks first, in order", () => {
    const limits = breaking(costs, 1_000).map(([what, rate]) => [what, Math.round(rate)] as const);
    expect(limits[0]?.[0]).toContain("store");
    expect(limits.find(([what]) => what.includes("process"))?.[1]).toBe(500);
    expect(limits.find(([what]) => what.includes("disk"))?.[1]).toBe(1_000_000);
    expect(limits.map(([, rate]) => rate)).toEqual(limits.map(([, rate]) => rate).toSorted((a, b) => a - b));
  });
});

function series(
  scenario: string,
  contender: string,
  { perSecond, figures = {} }: { perSecond: number[]; figures?: Record<string, number[]> },
) {
  return { scenario, contender, perSecond, cpuMicros: perSecond.map((rate) => 1e6 / rate), figures };
}

function part(all: ReturnType<typeof series>[]): Results[string] {
  const known = { at: "2026-01-01T00:00:00Z", commit: "x", node: "v24", processor: "x" };
  return { ...known, rounds: 1, seconds: 1, loadBefore: 0, loadAfter: 0, series: all };
}
