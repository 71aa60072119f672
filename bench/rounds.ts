/** Measures contenders side by side: all of them once in every round, each round beginning with another one. */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import type { Load, Sample } from "./subject.ts";
import type { FromWorker, ToWorker } from "./worker.ts";

/** A contender, and how it is asked. */
export interface Entry {
  readonly scenario: string;
  readonly contender: string;
  readonly load: Omit<Load, "seconds">;
  /** The file of the part, without its ending, and the name in its `subjects`. */
  readonly part: string;
  readonly subject: string;
  readonly address?: string;
}

/** What was measured of one contender in one scenario; one value a round. */
export interface Series {
  readonly scenario: string;
  readonly contender: string;
  readonly perSecond: readonly number[];
  readonly cpuMicros: readonly number[];
  readonly figures: Readonly<Record<string, readonly number[]>>;
}

/** How long each is asked before what it does counts: until then it runs in part on code that is not compiled yet. */
const WARM_UP_SECONDS = 4;

export interface Pace {
  readonly rounds: number;
  readonly seconds: number;
}

export interface Worker {
  measure(load: Load): Promise<Sample>;
  close(): Promise<void>;
}

/** Whatever becomes of this process, its workers do not outlive it. */
const running = new Set<ChildProcess>();
process.once("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

/** Every contender has one process for all of its scenarios. One round more warms up. */
export async function measureRounds(entries: readonly Entry[], { rounds, seconds }: Pace): Promise<Series[]> {
  const workers = new Map<string, Worker>();
  const samples = entries.map((): Sample[] => []);
  try {
    for (const entry of entries) {
      const id = idOf(entry);
      if (!workers.has(id)) workers.set(id, await startWorker(entry));
    }
    for (const scenario of new Set(entries.map((entry) => entry.scenario))) {
      const numbers = [...entries.keys()].filter((n) => entries[n]?.scenario === scenario);
      for (let round = 0; round <= rounds; round++) {
        for (const n of rotated(numbers, round)) {
          const entry = entries[n] as Entry;
          const worker = workers.get(idOf(entry)) as Worker;
          const sample = await worker.measure({
            ...entry.load,
            seconds: round === 0 ? WARM_UP_SECONDS : seconds,
          });
          if (round > 0) samples[n]?.push(sample);
        }
      }
      for (const n of numbers) tell(seriesOf(entries[n] as Entry, samples[n] ?? []));
    }
  } finally {
    await Promise.all([...workers.values()].map((worker) => worker.close()));
  }
  return entries.map((entry, n) => seriesOf(entry, samples[n] ?? []));
}

/** @throws Error when the process ends before it is asked to */
export async function startWorker({
  part,
  subject,
  address = "",
}: Pick<Entry, "part" | "subject" | "address">): Promise<Worker> {
  const child = fork(join(import.meta.dirname, "worker.ts"), [part, subject, address], {
    execArgv: ["--expose-gc"],
  });
  running.add(child);
  child.once("exit", () => running.delete(child));
  const ended = once(child, "exit");

  async function heard(): Promise<FromWorker> {
    const cancel = new AbortController();
    try {
      const message = once(child, "message", { signal: cancel.signal });
      const answer = await Promise.race([message, ended.then(() => undefined)]);
      if (answer === undefined)
        throw new Error(`${part}, ${subject}: the process ended (${child.exitCode}).`);
      return answer[0] as FromWorker;
    } finally {
      cancel.abort();
    }
  }

  await heard();
  return {
    async measure(load) {
      child.send({ load } satisfies ToWorker);
      const answer = await heard();
      if (!("sample" in answer)) throw new Error(`${part}, ${subject}: no sample.`);
      return answer.sample;
    },
    async close() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.send({ close: true } satisfies ToWorker);
      await ended;
    },
  };
}

function idOf({ part, subject, address = "" }: Entry): string {
  return `${part} ${subject} ${address}`;
}

function rotated<T>(items: readonly T[], by: number): readonly T[] {
  const at = by % items.length;
  return [...items.slice(at), ...items.slice(0, at)];
}

export function seriesOf(
  { scenario, contender }: Pick<Entry, "scenario" | "contender">,
  samples: readonly Sample[],
): Series {
  const names = Object.keys(samples[0]?.figures ?? {});
  return {
    scenario,
    contender,
    perSecond: samples.map(({ operations, seconds }) => operations / seconds),
    cpuMicros: samples.map(({ operations, cpuSeconds }) => (cpuSeconds * 1e6) / operations),
    figures: Object.fromEntries(
      names.map((name) => [name, samples.map(({ figures }) => figures?.[name] ?? Number.NaN)]),
    ),
  };
}

/** What is seen while it runs. */
export function tell({ scenario, contender, perSecond, cpuMicros }: Series): void {
  const rates = perSecond.map((rate) => Math.round(rate).toLocaleString("en-US")).join(" ");
  const micros = cpuMicros.map((each) => each.toFixed(2)).join(" ");
  console.error(`${scenario} | ${contender}: ${rates} /s; CPU ${micros} µs`);
}
