/** What is measured, and how: one contender of a part of the bench, in a process of its own (`worker.ts`). */

/** How a contender is asked. */
export interface Load {
  /** Of how many different keys the requests are. */
  readonly keys: number;
  /** How many requests are under way at any time. */
  readonly callers: number;
  readonly seconds: number;
}

export interface Sample {
  readonly operations: number;
  readonly seconds: number;
  /** Of the measured process, user and system. */
  readonly cpuSeconds: number;
  /** Whatever else was measured, by name. */
  readonly figures?: Readonly<Record<string, number>>;
}

export interface Subject {
  measure(load: Load): Promise<Sample>;
  close(): Promise<void>;
}

/** Makes a contender. `address`: of the server that its part has started, if any. */
export type OpenSubject = (address: string) => Promise<Subject>;
export type Subjects = Readonly<Record<string, OpenSubject>>;

/** How often something synchronous is done between two looks at the clock. */
const STEPS_BETWEEN_LOOKS = 256;

/** What every result goes into, so that no compiler can leave out the work. */
let sink = 0;

/** Does something synchronous again and again. `step` gets the number of the turn and returns what it came to. */
export async function repeat(load: Load, step: (turn: number) => number): Promise<Sample> {
  return timed(async (endsAtMs) => {
    let turns = 0;
    while (performance.now() < endsAtMs) {
      for (let n = 0; n < STEPS_BETWEEN_LOOKS; n++) sink = (sink + step(turns++)) | 0;
    }
    return turns;
  }, load.seconds);
}

/** Lets callers ask one request after the other, each time with the next key of all. */
export async function ask(
  { keys, callers, seconds }: Load,
  request: (key: number) => Promise<unknown>,
  settled: () => Promise<unknown> = async () => {},
): Promise<Sample> {
  return timed(async (endsAtMs) => {
    let turns = 0;
    async function caller(): Promise<void> {
      while (performance.now() < endsAtMs) await request(turns++ % keys);
    }
    await Promise.all(Array.from({ length: callers }, caller));
    await settled();
    return turns;
  }, seconds);
}

/** Measures what `run` does until about `endsAtMs` of `performance.now()`; it returns how many operations that were. */
export async function timed(run: (endsAtMs: number) => Promise<number>, seconds: number): Promise<Sample> {
  globalThis.gc?.();
  const cpu = process.cpuUsage();
  const startedAtMs = performance.now();
  const operations = await run(startedAtMs + seconds * 1_000);
  const elapsedMs = performance.now() - startedAtMs;
  const { user, system } = process.cpuUsage(cpu);
  return { operations, seconds: elapsedMs / 1_000, cpuSeconds: (user + system) / 1e6 };
}

/** What cannot be collected. */
export function heapBytes(): number {
  globalThis.gc?.();
  globalThis.gc?.();
  return process.memoryUsage().heapUsed;
}
