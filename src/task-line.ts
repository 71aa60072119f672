import { idsOf, type Step, type Subject, type SubjectIds } from "./attempt.js";
import { KeystileError } from "./errors.js";
import type { Runtime } from "./runtime.js";
import { withResolvers } from "./store-session.js";

export interface StepOptions<T> {
  /** A fact is tried until it is stored. Anything else is given up after `storeTimeoutMs`. */
  readonly isFact: boolean;
  /** What to book when the outcome came too late for whoever waited, and turns out to have been written. */
  readonly undo?: ((outcome: T) => Step<void> | undefined) | undefined;
}

/** A step in line, and who waits for its outcome. */
export interface Task {
  readonly subject: Subject;
  /** The documents it needs. */
  readonly ids: SubjectIds;
  readonly step: Step<unknown>;
  readonly options: StepOptions<never>;
  /** Higher than that of those that came before. */
  readonly turn: number;
  readonly deadlineMs: number;
  readonly resolve: (outcome: unknown) => void;
  readonly reject: (error: unknown) => void;
  state: "waiting" | "answered" | "given up";
  /** Facts about a document that cannot be read wait for it, longer each time. */
  failures: number;
  resumeAtMs: number;
}

/** What waits for the documents of one group, in the order in which it came. */
export interface TaskLine {
  add<T>(subject: Subject, step: Step<T>, options: StepOptions<T>): Promise<T | undefined>;
  waiting(): readonly Task[];
  /** That of the task that came last. */
  lastTurn(): number;
  /** How long until one is due. */
  dueInMs(): number;
  /** Tells whoever still waits, once. */
  resolve(task: Task, outcome: unknown): void;
  reject(task: Task, error: unknown): void;
  /** Whoever waits learns that it is not known. It may still turn out to have been written. */
  giveUp(task: Task, error: unknown): void;
  /** Gives up what has waited too long. */
  giveUpLate(timeMs: number): void;
  /** After a fault, requests get an answer, and facts are tried again later. */
  postpone(task: Task, error: unknown): void;
  dropFinished(): void;
}

/** Operations of one group that may wait in one process. Beyond, requests are answered 503. */
export const MAX_WAITING = 16_384;

const MIN_BACKOFF_MS = 50;
const MAX_BACKOFF_MS = 5_000;

export function taskLine(runtime: Runtime, storeTimeoutMs: number): TaskLine {
  let waiting: Task[] = [];
  let lastTurn = 0;
  /** How many of them nobody waits for any longer. */
  let finished = 0;

  function add<T>(subject: Subject, step: Step<T>, options: StepOptions<T>): Promise<T | undefined> {
    if (!options.isFact && waiting.length >= MAX_WAITING) return Promise.reject(overloaded());
    const { promise, resolve, reject } = withResolvers<T | undefined>();
    lastTurn += 1;
    waiting.push({
      subject,
      ids: idsOf(subject),
      step,
      options: options as StepOptions<never>,
      turn: lastTurn,
      deadlineMs: options.isFact ? Number.POSITIVE_INFINITY : runtime.monotonicMs() + storeTimeoutMs,
      resolve: resolve as (outcome: unknown) => void,
      reject,
      state: "waiting",
      failures: 0,
      resumeAtMs: 0,
    });
    return promise;
  }

  function resolve(task: Task, outcome: unknown): void {
    if (task.state === "waiting") finished += 1;
    // Whoever was given up does not hear it.
    task.resolve(outcome);
    task.state = "answered";
  }

  function reject(task: Task, error: unknown): void {
    if (task.state === "waiting") finished += 1;
    task.reject(error);
    task.state = "answered";
  }

  function giveUp(task: Task, error: unknown): void {
    if (task.state !== "waiting") return;
    task.state = "given up";
    finished += 1;
    task.reject(error);
  }

  function dropFinished(): void {
    if (finished === 0) return;
    waiting = finished === waiting.length ? [] : waiting.filter(({ state }) => state === "waiting");
    finished = 0;
  }

  return {
    add,
    waiting: () => waiting,
    lastTurn: () => lastTurn,
    dueInMs() {
      // What never had to be postponed is due at any time; so is nothing at all, which else would be for ever.
      const isDue = waiting.length === 0 || waiting.some(({ resumeAtMs }) => resumeAtMs === 0);
      if (isDue) return 0;
      const first = waiting.reduce((least, { resumeAtMs }) => Math.min(least, resumeAtMs), Infinity);
      return first - runtime.monotonicMs();
    },
    resolve,
    reject,
    giveUp,
    giveUpLate(timeMs) {
      for (const task of waiting) if (task.deadlineMs <= timeMs) giveUp(task, tooLate(storeTimeoutMs));
      dropFinished();
    },
    postpone(task, error) {
      if (!task.options.isFact) {
        giveUp(task, error);
        return;
      }
      task.failures += 1;
      task.resumeAtMs = runtime.monotonicMs() + backoffMs(task.failures, runtime);
    },
    dropFinished,
  };
}

/** How long to leave the store alone after so many failures. */
export function backoffMs(failures: number, runtime: Runtime): number {
  const most = Math.min(MAX_BACKOFF_MS, MIN_BACKOFF_MS * 2 ** Math.min(failures, 10));
  return most * (0.5 + runtime.random() / 2);
}

export function overloaded(): KeystileError {
  const message = "More operations of one key or account wait for the store than are kept in memory.";
  return new KeystileError("overloaded", message);
}

function tooLate(storeTimeoutMs: number): KeystileError {
  return new KeystileError("store_unavailable", `It could not be decided within ${storeTimeoutMs} ms.`);
}
