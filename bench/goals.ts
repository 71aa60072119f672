/** What must be true, row by row, and whether it is by what was measured. Pure. */
import { median, type Ratio, ratioOf, round } from "./figures.ts";
import type { Results } from "./results.ts";
import type { Series } from "./rounds.ts";

/** A row of the table. */
export interface Row {
  readonly work: string;
  /** What it is compared with, and what that came to. */
  readonly reference: string;
  readonly goal: string;
  /** Undefined while it has not been measured, or cannot be. */
  readonly measured?: Measure | undefined;
}

interface Measure {
  readonly text: string;
  /** The lowest and the highest of single rounds. */
  readonly between: string;
  /** How many times over the goal is reached: it is met from 1 on. */
  readonly reached: number;
}

/** A row, and the measurements it needs: scenario and contender of each. */
interface Goal {
  readonly work: string;
  readonly needs: readonly (readonly [scenario: string, contender: string])[];
  readonly goal: string;
  readonly reference: (series: readonly Series[]) => string;
  readonly judge: (series: readonly Series[]) => Measure;
}

/** How many floors a whole decision may take. */
const FLOORS = 8;

/**
 * Of the rate of row 1; a goal of a store beyond it is cut to it, since no process could decide more. Of what that row
 * should be at least: that decisions are slow is no excuse for a store.
 */
const SHARE_OF_DECISIONS = 0.8;

/** More than this a round is no noise of the garbage collector. */
const GROWTH_BYTES = 256 * 1_024;

const DECISIONS = ["core", "keystile"] as const;
const FLOOR = ["core", "floor"] as const;

const GOALS: readonly Goal[] = [
  timesFloor(
    "A whole decision: memory store, 10,000 keys, all policies, reserve, settle",
    "keystile",
    FLOORS,
  ),
  {
    work: "The same beside a check by better-auth with 1 key",
    needs: [DECISIONS, ["core", "better-auth"]],
    goal: "at least 90x as fast",
    reference: ([, peer]) => `better-auth: ${timeOf(peer)}`,
    judge: ([own, peer]) => atLeast(rates(own, peer), 90),
  },
  timesFloor("Refusing an unknown key", "keystile, unknown", 2),
  timesFloor("Refusing a malformed key", "keystile, malformed", 0.75),
  ...framework("Express", { share: 0.85, micros: 18 }),
  ...framework("Fastify", { share: 0.85, micros: 8.9 }),
  ...framework("Hono", { share: 0.8, micros: 10.4 }),
  store("Postgres, one hot key, 64 callers", ["postgres, hot key", "keystile"], 20),
  store("Postgres, one hot key, 64 callers, leased", ["postgres, hot key", "leased"], 100),
  store("Postgres, 10,000 keys, 256 callers", ["postgres, 10,000 keys", "keystile"], 5),
  {
    work: "Postgres, one caller: how long a request waits",
    needs: [
      ["postgres, one caller", "keystile"],
      ["postgres, one caller", "floor"],
    ],
    goal: "at most 1.3x",
    reference: ([, floor]) => `one guarded UPDATE: ${round(median(figure(floor, "waitMs")))} ms`,
    judge: ([own, floor]) => atMost(ratioOf(figure(own, "waitMs"), figure(floor, "waitMs")), 1.3),
  },
  store("Redis, one hot key, 64 callers", ["redis, hot key", "keystile"], 2),
  store("Redis, one hot key, 64 callers, leased", ["redis, hot key", "leased"], 5),
  store("Redis, 10,000 keys, 256 callers", ["redis, 10,000 keys", "keystile"], 1),
  store("SQLite (WAL, `synchronous` FULL), one hot key, 64 callers", ["sqlite, hot key", "keystile"], 50),
  ...["malformed", "unknown", "over limit"].flatMap(refusing),
  ...["Express", "Fastify", "Hono"].map(delay),
  {
    work: "Cold import of `keystile`",
    needs: [
      ["import", "keystile"],
      ["import", "bare node"],
    ],
    goal: "under 30 ms",
    reference: ([, bare]) => `Node alone: ${round(median(figure(bare, "ms")))} ms`,
    judge: ([own, bare]) => under(differences(own, bare, "ms"), 30, "ms"),
  },
  {
    work: "Size of `keystile` without zod and ipaddr.js",
    needs: [["size", "keystile"]],
    goal: "under 20 kB brotli",
    reference: () => "–",
    judge: ([own]) =>
      under(
        figure(own, "bytes").map((bytes) => bytes / 1_000),
        20,
        "kB",
      ),
  },
];

/** The table of what must be true, as far as it was measured. */
export function rowsOf(results: Results): readonly Row[] {
  const all = Object.values(results).flatMap(({ series }) => series);
  return GOALS.map(({ work, needs, goal, reference, judge }) => {
    const series = needs.map(([scenario, contender]) =>
      all.find((one) => one.scenario === scenario && one.contender === contender),
    );
    if (!series.every((one) => one !== undefined)) return { work, goal, reference: "–" };
    return { work, goal, reference: reference(series), measured: judge(series) };
  });
}

function timesFloor(work: string, contender: string, times: number): Goal {
  return {
    work,
    needs: [["core", contender], FLOOR],
    goal: `at most ${times}x`,
    reference: ([, floor]) => `one \`crypto.hash\` and one look at a Map: ${timeOf(floor)}`,
    judge: ([own, floor]) => {
      const ratio = rates(floor, own);
      return { ...atMost(ratio, times), text: `${round(ratio.ratio)}x (${timeOf(own)})` };
    },
  };
}

/** What share of a framework's requests is left, and what each costs. */
function framework(name: string, goal: { readonly share: number; readonly micros: number }): readonly Goal[] {
  const [own, bare, usual, least] = [
    [`http, ${name}`, "keystile"],
    [`http, ${name}`, "bare"],
    [`http, ${name}`, "usual"],
    [`http, ${name}`, "least"],
  ] as const;
  return [
    {
      work: `${name}, everything on: requests/s`,
      needs: [own, bare, usual, least],
      goal: `at least ${goal.share}x the bare framework`,
      reference: ([, bare, usual, least]) =>
        `its usual static key and limiter: ${round(rates(usual, bare).ratio)}x; the least of a gate: ${round(rates(least, bare).ratio)}x`,
      judge: ([own, bare]) => atLeast(rates(own, bare), goal.share),
    },
    {
      work: `${name}, everything on: CPU added to a request`,
      needs: [own, bare, usual, least],
      goal: `under ${goal.micros} µs`,
      reference: ([, bare, usual, least]) =>
        `its usual static key and limiter: ${added(usual, bare)} µs; the least of a gate: ${added(least, bare)} µs`,
      judge: ([own, bare]) =>
        under(
          (own?.cpuMicros ?? []).map((micros, n) => micros - (bare?.cpuMicros[n] ?? 0)),
          goal.micros,
          "µs",
        ),
    },
  ];
}

/** How much more CPU a request takes than on the bare framework, in microseconds. */
function added(contender: Series | undefined, bare: Series | undefined): string {
  return round(median(contender?.cpuMicros ?? []) - median(bare?.cpuMicros ?? []));
}

/** The rate over a store, beside the rate of the least that the store must do. */
function store(work: string, own: readonly [string, string], times: number): Goal {
  return {
    work,
    needs: [own, [own[0], "floor"], DECISIONS, FLOOR],
    goal: `at least ${times}x, or ${100 * SHARE_OF_DECISIONS} % of row 1`,
    reference: ([, floor]) =>
      `${NAMES[own[0].split(",")[0] ?? ""]}: ${round(median(floor?.perSecond ?? []))}/s`,
    judge: ([own, floor, decisions, least]) => {
      const decided = Math.max(median(decisions?.perSecond ?? []), median(least?.perSecond ?? []) / FLOORS);
      const most = (SHARE_OF_DECISIONS * decided) / median(floor?.perSecond ?? []);
      const ratio = rates(own, floor);
      const text = `${round(ratio.ratio)}x (${round(median(own?.perSecond ?? []))}/s)`;
      return { ...atLeast(ratio, Math.min(times, most)), text };
    },
  };
}

const NAMES: Readonly<Record<string, string>> = {
  postgres: "one guarded UPDATE per request",
  redis: "one EVALSHA per request",
  sqlite: "one UPDATE per request",
};

function refusing(what: string): readonly Goal[] {
  const flood = `a flood of ${what === "over limit" ? "requests over the limit" : `${what} keys`}`;
  return [
    {
      work: `Refusing ${flood}`,
      needs: [
        ["flood", what],
        ["flood", "allowed"],
      ],
      goal: "at least 1x allowing",
      reference: ([, allowed]) => `allowing: ${round(median(allowed?.perSecond ?? []))}/s`,
      judge: ([own, allowed]) => atLeast(rates(own, allowed), 1),
    },
    {
      work: `What ${flood} leaves in memory`,
      needs: [["flood", what]],
      goal: `nothing (under ${GROWTH_BYTES / 1_024} KiB)`,
      reference: ([own]) => `${round(median(own?.perSecond ?? []))} requests`,
      judge: ([own]) =>
        under(
          figure(own, "grownBytes").map((bytes) => bytes / 1_024),
          GROWTH_BYTES / 1_024,
          "KiB",
        ),
    },
  ];
}

function delay(name: string): Goal {
  return {
    work: `${name}, everything on: event-loop delay added under full load, p99`,
    needs: [
      [`http, ${name}`, "keystile"],
      [`http, ${name}`, "bare"],
    ],
    goal: "at most 1 ms",
    reference: ([, bare]) => `bare: ${round(median(figure(bare, "delayP99Ms")))} ms`,
    judge: ([own, bare]) => under(differences(own, bare, "delayP99Ms"), 1, "ms"),
  };
}

function rates(above: Series | undefined, below: Series | undefined): Ratio {
  return ratioOf(above?.perSecond ?? [], below?.perSecond ?? []);
}

function figure(series: Series | undefined, name: string): readonly number[] {
  return series?.figures[name] ?? [];
}

function differences(above: Series | undefined, below: Series | undefined, name: string): readonly number[] {
  return figure(above, name).map((value, n) => value - (figure(below, name)[n] ?? Number.NaN));
}

function atLeast(ratio: Ratio, goal: number): Measure {
  return { ...measureOf(ratio), reached: ratio.ratio / goal };
}

function atMost(ratio: Ratio, goal: number): Measure {
  return { ...measureOf(ratio), reached: goal / ratio.ratio };
}

function measureOf({ ratio, low, high }: Ratio): Omit<Measure, "reached"> {
  return { text: `${round(ratio)}x`, between: `${round(low)} to ${round(high)}` };
}

/** Of an amount that may be nothing, or less. */
function under(values: readonly number[], goal: number, unit: string): Measure {
  const middle = median(values);
  const between = `${round(Math.min(...values))} to ${round(Math.max(...values))}`;
  return { text: `${round(middle)} ${unit}`, between, reached: middle <= 0 ? 100 : goal / middle };
}

/** How long one operation takes on average. */
function timeOf(series: Series | undefined): string {
  return `${round(1e6 / median(series?.perSecond ?? []))} µs`;
}
