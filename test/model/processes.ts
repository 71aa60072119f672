import type { StoreClock } from "./clock.js";
import { type Call, connect } from "./network.js";
import type { Random } from "./random.js";
import type { Scenario } from "./scenario.js";
import type { SubjectOptions } from "./subject.js";
import { type Addressee, drain, type Timeline } from "./timeline.js";
import type { TrueStore } from "./true-store.js";

/** One process: an instance of the package with its own timers and its own way to the store. */
export interface Process<S> extends Addressee {
  /** Set right after its creation, which already sets timers of the process. */
  subject: S;
  state: "running" | "closing" | "closed" | "crashed";
  /** Until then nothing reaches it. */
  pausedUntilMs: number;
  cutOffUntilMs: number;
}

/** What processes run in, and who wants to know what becomes of them. */
export interface Stage<S> {
  readonly random: Random;
  readonly scenario: Scenario;
  readonly timeline: Timeline;
  readonly clock: StoreClock;
  readonly create: (options: SubjectOptions, name: string) => S;
  /** For how long leases let requests in. Default 0: there are none. */
  readonly leaseMs?: number;
  /** The store as a process writes to it. */
  readonly storeOf: (name: string) => TrueStore;
  readonly isOver: () => boolean;
  readonly count: (name: string) => void;
  readonly fail: (invariant: string, detail: string) => void;
  readonly onSent: (name: string, call: Call) => void;
  readonly onStarted: (name: string) => void;
  readonly onCrashed: (name: string) => void;
}

export type Processes<S> = ReturnType<typeof createProcesses<S>>;

/** Longer than anything the package may still be doing when all is well. */
export const SETTLED_MS = 120_000;

/** Several processes, and what happens to them: they crash, stand still, lose their way to the store. */
export function createProcesses<S>(stage: Stage<S>) {
  const { random, scenario, timeline, clock, leaseMs = 0, count, fail } = stage;
  const { nowMs, note, schedule, advance } = timeline;
  const all: Process<S>[] = [];
  let travelling = 0;
  let isFaulty = false;

  function start(): Process<S> {
    const name = `p${all.length + 1}`;
    const own = random.fork();
    const monotonicOffset = random.between(0, 1_000_000);
    const process = { name, state: "running", pausedUntilMs: 0, cutOffUntilMs: 0 } as Process<S>;
    const surroundings = {
      scenario,
      store: stage.storeOf(name),
      clock,
      nowMs,
      inNetwork(delayMs: number, label: string, run: () => void): void {
        travelling += 1;
        schedule(delayMs, undefined, `${name} ${label}`, () => {
          travelling -= 1;
          run();
        });
      },
      inProcess: (delayMs: number, label: string, run: () => void) =>
        void schedule(delayMs, process, label, run),
      isFaulty: () => isFaulty,
      isCutOff: () => process.cutOffUntilMs > nowMs(),
      onSent: (call: Call) => stage.onSent(name, call),
      onFault: count,
    };
    const options = {
      store: connect(surroundings, random.fork()),
      runtime: {
        monotonicMs: () => nowMs() + monotonicOffset,
        setTimer(run: () => void, ms: number) {
          const timer = schedule(Math.max(0, ms), process, `timer of ${Math.round(ms)} ms`, run);
          return () => {
            timer.isCancelled = true;
          };
        },
        random: own.next,
        randomBytes: (size: number) => Uint8Array.from({ length: size }, () => own.between(0, 255)),
      },
      holdMs: scenario.holdMs,
      storeTimeoutMs: scenario.storeTimeoutMs,
      drainMs: 1_000,
      requestTimeoutMs: 86_400_000,
      cacheSize: scenario.cacheSize,
      ...(leaseMs > 0 && { leases: { revalidateMs: leaseMs, sharePercent: 50 } }),
    };
    process.subject = stage.create(options, name);
    all.push(process);
    stage.onStarted(name);
    return process;
  }

  function running(): readonly Process<S>[] {
    return all.filter(({ state }) => state === "running");
  }

  function any(): Process<S> {
    return random.pick(running());
  }

  // ── what happens to them ────────────────────────────────────────────────────────────────────────────────────

  function crash(): void {
    const process = any();
    process.state = "crashed";
    stage.onCrashed(process.name);
    count("crashes");
    note(`${process.name} crashes`);
    start();
  }

  function pause(): void {
    const process = any();
    if (process.pausedUntilMs > nowMs()) return;
    const pausedMs = random.between(10, random.chance(0.3) ? scenario.longestPauseMs : scenario.holdMs);
    process.pausedUntilMs = nowMs() + pausedMs;
    count("pauses");
    note(`${process.name} stands still for ${pausedMs} ms`);
  }

  function jump(): void {
    const longest = random.chance(0.5) ? scenario.longestJumpMs : 4_000;
    const byMs = random.between(-longest, longest);
    clock.jump(nowMs(), byMs);
    count("jumps");
    note(`the store's clock jumps by ${byMs} ms`);
  }

  function cutOff(): void {
    const victims = random.chance(0.3) ? running() : [any()];
    const ms = random.gap(3_000);
    for (const process of victims) process.cutOffUntilMs = nowMs() + ms;
    count("outages");
    note(`${victims.map(({ name }) => name).join(" ")} cannot reach the store for ${ms} ms`);
  }

  /** Until a promise is kept, while the world goes on. */
  async function settled<T>(promise: Promise<T>, what: string): Promise<T | undefined> {
    let result: { value: T } | undefined;
    promise.then(
      (value) => {
        result = { value };
      },
      (error) => fail("calls-succeed-in-the-end", `${what}: ${String(error)}`),
    );
    const untilMs = nowMs() + SETTLED_MS;
    await drain();
    while (result === undefined && !stage.isOver()) {
      if (nowMs() > untilMs) fail("calls-succeed-in-the-end", `${what} does not come to an end`);
      else await advance();
    }
    return result?.value;
  }

  return {
    all,
    start,
    running,
    any,
    crash,
    pause,
    jump,
    cutOff,
    settled,
    /** Whether messages are still on their way. */
    isBusy: () => travelling > 0,
    setFaulty(faulty: boolean): void {
      isFaulty = faulty;
    },
  };
}
