/**
 * What 10^9 keys and 10^6 requests a second would take, on paper: the costs that were measured (`results.json`), multiplied.
 * Nothing of that size was run. Writes the tables of `docs/scale.md`; `npm run bench:render` does it, too.
 *
 * The model. A key is asked at random times, by popularity: all alike, or by Zipf's law (the nth key 1/n as often as the
 * first), which is what services see. A process has one write per key under way; what comes meanwhile shares the
 * next one. A request wants to be written twice, held and booked, so that a key asked `rate` times a second by one process
 * is written `2 rate / (1 + 2 rate × round trip)` times. A request whose key is not in the cache takes two reads more.
 */
import { median } from "./figures.ts";
import type { Results } from "./results.ts";

/** What one request, one write and one key cost where they were measured. */
export interface Costs {
  /** Of one core of a gateway, for one request of one of many keys. */
  readonly cpuSeconds: number;
  /** From asking the store to its answer. */
  readonly roundTripSeconds: number;
  /** Documents that one shard, a primary of two cores, writes a second for one request each. */
  readonly writesPerShard: number;
  /** Requests of one key a second, when one process decides them, and when eight do. */
  readonly hotAlone: number;
  readonly hotShared: number;
  readonly diskBytesPerKey: number;
  readonly cacheBytesPerKey: number;
}

export interface Size {
  readonly keys: number;
  readonly perSecond: number;
}

export type Popularity = "alike" | "Zipf";
/** Whether a key is asked at all processes, or a balancer sends it to always the same one. */
export type Routing = "any process" | "by key";

export interface OnPaper {
  readonly gateways: number;
  readonly writes: number;
  readonly reads: number;
  readonly shards: number;
  readonly diskBytes: number;
  readonly cacheBytes: number;
  readonly hottest: number;
  /** Keys that are asked more often than can be decided without leases. */
  readonly tooHot: number;
}

/** Nothing is planned to be busier than this. */
const MOST_BUSY = 0.5;
const CACHE_SIZE = 10_000;
const SHARD_BYTES = 1e12;
const BINS = 400;

export function onPaper(
  { keys, perSecond }: Size,
  popularity: Popularity,
  routing: Routing,
  costs: Costs,
): OnPaper {
  const gateways = Math.ceil((perSecond * costs.cpuSeconds) / MOST_BUSY);
  const asking = routing === "by key" ? 1 : gateways;
  const cached = Math.min(keys, routing === "by key" ? gateways * CACHE_SIZE : CACHE_SIZE);
  const most = routing === "by key" ? costs.hotAlone : costs.hotShared;
  let writes = 0;
  let hits = 0;
  let tooHot = 0;
  for (const { from, count, rate } of ranks({ keys, perSecond }, popularity)) {
    const events = (2 * rate) / asking;
    writes += (count * asking * events) / (1 + events * costs.roundTripSeconds);
    hits += Math.min(count, Math.max(0, cached - from)) * rate;
    if (rate > most) tooHot += count;
  }
  const diskBytes = keys * costs.diskBytesPerKey;
  return {
    ...{ gateways, writes, diskBytes, tooHot: Math.round(tooHot) },
    reads: 2 * Math.max(0, perSecond - hits),
    shards: Math.ceil(Math.max(writes / (MOST_BUSY * costs.writesPerShard), diskBytes / SHARD_BYTES)),
    cacheBytes: Math.min(keys, CACHE_SIZE) * costs.cacheBytesPerKey,
    hottest: popularity === "Zipf" ? perSecond / harmonic(keys) : perSecond / keys,
  };
}

/** What one process, one shard and one key can do at most, by requests a second. Ordered: what breaks first comes first. */
export function breaking(costs: Costs, keysPerRequest: number): readonly (readonly [string, number])[] {
  const at = (perSecond: number): Size => ({ keys: perSecond * keysPerRequest, perSecond });
  const paper = (perSecond: number): OnPaper => onPaper(at(perSecond), "Zipf", "by key", costs);
  const limits: readonly (readonly [string, (perSecond: number) => boolean])[] = [
    ["one process is half busy", (rate) => (rate * costs.cpuSeconds) / MOST_BUSY > 1],
    ["one store is half busy with writes", (rate) => paper(rate).writes > MOST_BUSY * costs.writesPerShard],
    ["the hottest key has to be leased", (rate) => paper(rate).tooHot > 0],
    ["the keys fill a disk of 1 TB", (rate) => paper(rate).diskBytes > SHARD_BYTES],
  ];
  return limits.map(([what, breaks]) => [what, lowest(breaks)] as const).toSorted(([, a], [, b]) => a - b);
}

/** The keys by rank, in bins that grow with it: a billion need not be counted one by one. */
function ranks({ keys, perSecond }: Size, popularity: Popularity) {
  const bins: { readonly from: number; readonly count: number; readonly rate: number }[] = [];
  const total = harmonic(keys);
  for (let from = 0; from < keys; ) {
    const until = Math.min(keys, Math.max(from + 1, Math.floor(from * keys ** (1 / BINS))));
    const count = until - from;
    const share = popularity === "Zipf" ? (harmonic(until) - harmonic(from)) / total : count / keys;
    bins.push({ from, count, rate: (perSecond * share) / count });
    from = until;
  }
  return bins;
}

/** 1 + 1/2 + … + 1/n. */
function harmonic(n: number): number {
  if (n < 100) return Array.from({ length: n }, (_, k) => 1 / (k + 1)).reduce((sum, part) => sum + part, 0);
  return Math.log(n) + 0.5772156649 + 1 / (2 * n);
}

/** The lowest number of requests a second from which on it holds, between 1 and 10^9. */
function lowest(holds: (perSecond: number) => boolean): number {
  let [low, high] = [0, 9];
  for (let n = 0; n < 40; n++) {
    const middle = (low + high) / 2;
    if (holds(10 ** middle)) high = middle;
    else low = middle;
  }
  return 10 ** high;
}

/** The costs out of what was measured; undefined as long as something of it is missing. */
export function costsOf(results: Results): Costs | undefined {
  const all = Object.values(results).flatMap(({ series }) => series);
  /** Of the last contender of a scenario, which has most of whatever grows there, unless one is named. */
  const middle = (scenario: string, contender: string | undefined, figure?: string): number => {
    const found = all.findLast(
      (one) => one.scenario === scenario && (contender === undefined || one.contender === contender),
    );
    const values =
      figure === undefined ? found?.perSecond : figure === "cpu" ? found?.cpuMicros : found?.figures[figure];
    return values === undefined || values.length === 0 ? Number.NaN : median(values);
  };
  const costs = {
    cpuSeconds: middle("postgres, 10,000 keys", "keystile", "cpu") / 1e6,
    roundTripSeconds: middle("postgres, one caller", "keystile", "waitMs") / 1e3,
    writesPerShard: 2 * middle("postgres, 10,000 keys", "keystile"),
    hotAlone: middle("scale, processes, one hot key", "1 process"),
    hotShared: middle("scale, processes, one hot key", "8 processes"),
    diskBytesPerKey: middle("scale, keys, sqlite", undefined, "fileBytesPerKey"),
    cacheBytesPerKey: middle("scale, cache", "10,000 keys", "bytesPerKey"),
  };
  return Object.values(costs).some(Number.isNaN) ? undefined : costs;
}
