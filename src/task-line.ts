import { idsOf, type Step, type Subject, type SubjectIds } from "./attempt.js";
import { KeystileError } from "./errors.js";
import type { Runtime } from "./runtime.js";

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
  waiting: Task[];
  /** That of the task that came last. */
  lastTurn: number;
  /** How many of them nobody waits for any longer. */
  finished: number;
}

/** Operations of one group that may wait in one process. Beyond, requests are answered 503. */
export const MAX_WAITING = 16_384;

const MIN_BACKOFF_MS = 50;
const MAX_BACKOFF_MS = 5_000;

export function taskLine(): TaskLine {
  return { waiting: [], lastTurn: 0, finished: 0 };
}

/** Puts a step in line. @param deadlineMs when it is given up, unless it is a fact; by the process's own clock */
export function addTask<T>(
  line: TaskLine,
  subject: Subject,
  step: Step<T>,
  options: StepOptions<T>,
  deadlineMs: number,
): Promise<T | undefined> {
  if (!options.isFact && line.waiting.length >= MAX_WAITING) return Promise.reject(overloaded());
  return new Promise((resolve, reject) => {
    line.lastTurn += 1;
    const task: Task = {
      subject,
      ids: idsOf(subject),
      step,
      options: options as StepOptions<never>,
      turn: line.lastTurn,
      deadlineMs: options.isFact ? Number.POSITIVE_INFINITY : deadlineMs,
      resolve: resolve as (outcome: unknown) => void,
      reject,
      state: "waiting",
      failures: 0,
      resumeAtMs: 0,
    };
    // A list that grows makes room for many more, and most have one.
    if (line.waiting.length === 0) line.waiting = [task];
    else line.waiting.push(task);
  });
}

/** Tells whoever still waits, once. */
export function resolveTask(line: TaskLine, task: Task, outcome: unknown): void {
  if (task.state === "waiting") line.finished += 1;
  // Whoever was given up does not hear it.
  task.resolve(outcome);
  task.state = "answered";
}

export function rejectTask(line: TaskLine, task: Task, error: unknown): void {
  if (task.state === "waiting") line.finished += 1;
  task.reject(error);
  task.state = "answered";
}

/** Whoever waits learns that it is not known. It may still turn out to have been written. */
export function giveUpTask(line: TaskLine, task: Task, error: unknown): void {
  if (task.state !== "waiting") return;
  task.state = "given up";
  line.finished += 1;
  task.reject(error);
}

/** Gives up what has waited too long. */
export function giveUpLate(line: TaskLine, timeMs: number, storeTimeoutMs: number): void {
  for (const task of line.waiting)
    if (task.deadlineMs <= timeMs) giveUpTask(line, task, tooLate(storeTimeoutMs));
  dropFinished(line);
}

/** After a fault, requests get an answer, and facts are tried again later. */
export function postponeTask(line: TaskLine, task: Task, error: unknown, runtime: Runtime): void {
  if (!task.options.isFact) {
    giveUpTask(line, task, error);
    return;
  }
  task.failures += 1;
  task.resumeAtMs = runtime.monotonicMs() + backoffMs(task.failures, runtime);
}

export function dropFinished(line: TaskLine): void {
  const { waiting, finished } = line;
  if (finished === 0) return;
  line.waiting = finished === waiting.length ? [] : waiting.filter(({ state }) => state === "waiting");
  line.finished = 0;
}

/** How long until one is due. */
export function dueInMs({ waiting }: TaskLine, runtime: Runtime): number {
  // What never had to be postponed is due at any time; so is nothing at all, which else would be for ever.
  const isDue = waiting.length === 0 || waiting.some(({ resumeAtMs }) => resumeAtMs === 0);
  if (isDue) return 0;
  const first = waiting.reduce((least, { resumeAtMs }) => Math.min(least, resumeAtMs), Infinity);
  return first - runtime.monotonicMs();
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
