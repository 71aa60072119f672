import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";

/** A child process that does what it is asked. Calls may overlap. */
export interface Worker {
  readonly pid: number;
  call(task: string, input?: unknown): Promise<unknown>;
  signal(name: "SIGKILL" | "SIGSTOP" | "SIGCONT"): void;
  /** Resolves with the name of the signal that ended it, or null. */
  readonly ended: Promise<string | null>;
}

type Request = { readonly id: number; readonly task: string; readonly input: unknown };
type Reply = { readonly id: number; readonly outcome?: unknown; readonly problem?: string };

/** Starts a worker of this folder with the very Node that runs the tests. Resolves once it serves. */
export async function startWorker(file: string, ...args: readonly string[]): Promise<Worker> {
  const child = fork(fileURLToPath(new URL(file, import.meta.url)), args, {
    execArgv: [],
    serialization: "advanced", // for times in nanoseconds, which are BigInts
  });
  const calls = new Map<number, PromiseWithResolvers<unknown>>();
  let lastId = 0;

  child.on("message", ({ id, outcome, problem }: Reply) => {
    const call = calls.get(id);
    calls.delete(id);
    if (problem === undefined) call?.resolve(outcome);
    else call?.reject(new Error(`In worker ${child.pid}: ${problem}`));
  });
  const ended = new Promise<string | null>((resolve) => {
    child.on("exit", (code, signal) => {
      for (const call of calls.values()) call.reject(new Error(`Worker ended: ${signal ?? code}.`));
      resolve(signal);
    });
  });

  function call(task: string, input?: unknown): Promise<unknown> {
    lastId += 1;
    const answer = withResolvers<unknown>();
    calls.set(lastId, answer);
    // A worker that was killed takes its calls along; whoever waits is told by its end.
    child.send({ id: lastId, task, input } satisfies Request, () => {});
    return answer.promise;
  }

  await call("ready");
  return { pid: child.pid as number, call, signal: (name) => void child.kill(name), ended };
}

/** The worker's end. It lives until its parent hangs up. */
export function serve(tasks: Readonly<Record<string, (input: never) => unknown>>): void {
  async function answer({ id, task, input }: Request): Promise<void> {
    try {
      const run = task === "ready" ? () => undefined : tasks[task];
      if (run === undefined) throw new Error(`There is no task ${task}.`);
      send({ id, outcome: await run(input as never) });
    } catch (error) {
      send({ id, problem: error instanceof Error ? `${error.stack}` : String(error) });
    }
  }
  function send(reply: Reply): void {
    (process as ChildProcess | NodeJS.Process).send?.(reply as never);
  }
  process.on("message", (request: Request) => void answer(request));
  process.on("disconnect", () => process.exit());
}

interface PromiseWithResolvers<T> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
  readonly reject: (error: unknown) => void;
}

function withResolvers<T>(): PromiseWithResolvers<T> {
  let resolve!: (value: T) => void;
  let reject!: (error: unknown) => void;
  const promise = new Promise<T>((onResolve, onReject) => {
    resolve = onResolve;
    reject = onReject;
  });
  return { promise, resolve, reject };
}
