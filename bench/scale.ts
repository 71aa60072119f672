/**
 * How it goes on with more: keys in the store, processes that share it, requests in flight; and what the cache of a
 * process takes. `docs/scale.md` goes on from there on paper.
 */
import { statSync } from "node:fs";
import { memoryStore } from "keystile/memory";
import { openStore } from "../test/system/workers/open-store.ts";
import { ADDRESS, bearer, makeKeys, openGate, passing, secretsOf } from "./gate.ts";
import {
  type Entry,
  measureRounds,
  type Pace,
  type Series,
  seriesOf,
  startWorker,
  tell,
  type Worker,
} from "./rounds.ts";
import { places } from "./servers.ts";
import { heapBytes, type Load, type Sample, type Subject, type Subjects, timed } from "./subject.ts";

/** Keys in the store; of the first thousand, ten thousand and so on of them the requests are. */
const MOST_KEYS = Number(process.env["KEYSTILE_BENCH_KEYS"] ?? 1_000_000);
const SIZES: readonly number[] = [1_000, 10_000, 100_000, 1_000_000].filter((size) => size <= MOST_KEYS);
const CALLERS: readonly number[] = [1, 4, 16, 64, 256, 1_024];
const PROCESSES: readonly number[] = [1, 2, 4, 8];

/** As the package comes, and ten times that. */
const CACHE_SIZES: readonly number[] = [10_000, 100_000];

export const subjects: Subjects = {
  ...Object.fromEntries(SIZES.map((size) => [`memory of ${size}`, async () => overMemory(size)])),
  sqlite: (address) => overSqlite(address),
  ...Object.fromEntries(
    CACHE_SIZES.map((size) => [`cache of ${size}`, (address: string) => filledCache(address, size)]),
  ),
};

export async function measureScale(pace: Pace): Promise<Series[]> {
  return [...(await withManyKeys(pace)), ...(await withManyProcesses(pace))];
}

/** SQLite keeps its documents outside of the heap, so that what grows there is what the package holds. */
async function withManyKeys(pace: Pace): Promise<Series[]> {
  const part = "scale";
  const place = await places.sqlite();
  const { address } = place;
  try {
    const { store, close } = openStore(address);
    await store.setup();
    await makeKeys(store, MOST_KEYS, "scale");
    await close();
    const keys = (subject: string, scenario: string, size: number, callers: number): Entry => ({
      ...{ part, subject, address, scenario: `scale, ${scenario}`, load: { keys: size, callers } },
      contender: scenario.startsWith("in flight") ? name(callers, "in flight") : name(size, "keys"),
    });
    return await measureRounds(
      [
        ...SIZES.map((size) => keys(`memory of ${size}`, "keys, memory", size, 64)),
        ...CALLERS.map((callers) => keys("memory of 10000", "in flight, memory", 10_000, callers)),
        ...SIZES.map((size) => keys("sqlite", "keys, sqlite", size, 64)),
        ...CACHE_SIZES.map((size) => ({
          ...keys(`cache of ${size}`, "cache", MOST_KEYS, 256),
          contender: name(size, "keys"),
        })),
      ],
      pace,
    );
  } finally {
    await place.stop();
  }
}

/** All of them at once, in one database; what they do is added up. */
async function withManyProcesses({ rounds, seconds }: Pace): Promise<Series[]> {
  const place = await places.postgres();
  const workers: Worker[] = [];
  const series: Series[] = [];
  try {
    for (const count of PROCESSES) {
      while (workers.length < count) {
        workers.push(await startWorker({ part: "stores", subject: "keystile", address: place.address }));
      }
      for (const keys of [1, 10_000]) {
        series.push(await together(workers, { keys, callers: 64 }, { rounds, seconds }));
      }
    }
    for (const callers of CALLERS) {
      const [first] = workers;
      const load = { keys: 10_000, callers };
      const scenario = "scale, in flight, postgres";
      const only = first === undefined ? [] : [first];
      const measured = await together(only, load, { rounds, seconds });
      series.push({ ...measured, scenario, contender: name(callers, "in flight") });
    }
  } finally {
    await Promise.all(workers.map((worker) => worker.close()));
    await place.stop();
  }
  return series;
}

async function together(
  workers: readonly Worker[],
  load: Omit<Load, "seconds">,
  { rounds, seconds }: Pace,
): Promise<Series> {
  const samples: Sample[] = [];
  for (let round = 0; round <= rounds; round++) {
    const all = await Promise.all(workers.map((worker) => worker.measure({ ...load, seconds })));
    if (round > 0) samples.push(sumOf(all));
  }
  const scenario = `scale, processes, ${load.keys === 1 ? "one hot key" : name(load.keys, "keys")}`;
  const series = seriesOf({ scenario, contender: name(workers.length, "processes") }, samples);
  tell(series);
  return series;
}

function sumOf(samples: readonly Sample[]): Sample {
  const operations = samples.reduce((sum, sample) => sum + sample.operations, 0);
  const cpuSeconds = samples.reduce((sum, sample) => sum + sample.cpuSeconds, 0);
  const rates = samples.map((sample) => sample.operations / sample.seconds);
  const seconds = operations / rates.reduce((sum, rate) => sum + rate, 0);
  return { operations, seconds, cpuSeconds, figures: { unfair: Math.max(...rates) / Math.min(...rates) } };
}

async function overMemory(size: number): Promise<Subject> {
  const store = memoryStore();
  const secrets = secretsOf("scale", size);
  const before = heapBytes();
  await makeKeys(store, size, "scale");
  const storeBytesPerKey = (heapBytes() - before) / size;
  const gate = openGate(store);
  const measure = passing(gate, secrets);
  return {
    async measure(load) {
      const sample = await measure(load);
      return { ...sample, figures: { storeBytesPerKey } };
    },
    close: async () => void (await gate.close()),
  };
}

async function overSqlite(address: string): Promise<Subject> {
  const { store, close } = openStore(address);
  const secrets = secretsOf("scale", MOST_KEYS);
  const gate = openGate(store);
  const measure = passing(gate, secrets);
  return {
    async measure(load) {
      const sample = await measure(load);
      return { ...sample, figures: { fileBytesPerKey: statSync(address).size / MOST_KEYS } };
    },
    async close() {
      await gate.close();
      await close();
    },
  };
}

/** Looks for as many keys as it can in the time; what the heap has grown by after is the cache, and has a bound. */
async function filledCache(address: string, cacheSize: number): Promise<Subject> {
  const { store, close } = openStore(address);
  const secrets = secretsOf("scale", MOST_KEYS);

  async function measure(load: Load): Promise<Sample> {
    const before = heapBytes();
    const gate = openGate(store, { cacheSize });
    const sample = await timed(async (endsAtMs) => {
      let turns = 0;
      async function caller(): Promise<void> {
        while (performance.now() < endsAtMs || turns < cacheSize) {
          const headers = bearer(secrets[turns++ % load.keys] ?? "");
          if (!(await gate.identify({ headers, address: ADDRESS })).allowed)
            throw new Error("It was refused.");
        }
      }
      await Promise.all(Array.from({ length: load.callers }, caller));
      return turns;
    }, load.seconds);
    const grown = heapBytes() - before;
    await gate.close();
    return {
      ...sample,
      figures: { looked: sample.operations, grownBytes: grown, bytesPerKey: grown / cacheSize },
    };
  }

  return { measure, close };
}

function name(count: number, what: string): string {
  return `${count.toLocaleString("en-US")} ${count === 1 ? what.replace(/es$/, "") : what}`;
}
