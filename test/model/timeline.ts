import type { Random } from "./random.js";

/** Whom an event reaches: not at all when it is dead, later when it stands still. */
export interface Addressee {
  readonly name: string;
  readonly state: "running" | "closing" | "closed" | "crashed";
  readonly pausedUntilMs: number;
}

/** An event still to come. */
export interface Happening {
  atMs: number;
  readonly order: number;
  readonly label: string;
  /** undefined when it happens in the world outside. */
  readonly process: Addressee | undefined;
  readonly run: () => void;
  isCancelled: boolean;
}

export type Timeline = ReturnType<typeof createTimeline>;

/** Virtual time: events in a queue, carried out one by one, and a record of the latest ones. */
export function createTimeline(random: Random, traceLength: number, isOver: () => boolean) {
  const queue = createQueue();
  const trace: (readonly [step: number, atMs: number, text: string])[] = [];
  let nowMs = 0;
  let step = 0;

  /** One event, and everything that follows from it without time passing. */
  async function advance(): Promise<void> {
    const next = queue.pop();
    if (next === undefined) throw new Error("Nothing is left to happen.");
    if (next.isCancelled || next.process?.state === "crashed") return;
    nowMs = Math.max(nowMs, next.atMs);
    const pausedMs = (next.process?.pausedUntilMs ?? 0) - nowMs;
    if (pausedMs > 0) {
      next.atMs = nowMs + pausedMs + random.between(0, 3);
      queue.push(next);
      return;
    }
    step += 1;
    note(next.process === undefined ? next.label : `${next.process.name} ${next.label}`);
    next.run();
    await drain();
  }

  async function advanceBy(ms: number): Promise<void> {
    let arrived = false;
    schedule(ms, undefined, "time passes", () => {
      arrived = true;
    });
    while (!arrived && !isOver()) await advance();
  }

  function schedule(
    afterMs: number,
    process: Addressee | undefined,
    label: string,
    run: () => void,
  ): Happening {
    const order = queue.nextOrder();
    const happening = { atMs: nowMs + afterMs, order, label, process, run, isCancelled: false };
    queue.push(happening);
    return happening;
  }

  function note(text: string): void {
    trace.push([step, nowMs, text]);
    if (trace.length > 2 * traceLength) trace.splice(0, traceLength);
  }

  return {
    advance,
    advanceBy,
    schedule,
    note,
    nowMs: () => nowMs,
    step: () => step,
    latestEvents: () =>
      trace
        .slice(-traceLength)
        .map(([at, ms, text]) => `  #${at} ${ms} ms ${text}`)
        .join("\n"),
  };
}

/** Until every promise that can go on has gone on: the subject uses promises and the timers it was given, no more. */
export function drain(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** A binary heap by time, then by order of arrival. */
function createQueue() {
  const heap: Happening[] = [];
  let orders = 0;

  function isBefore(a: Happening, b: Happening): boolean {
    return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
  }

  function push(happening: Happening): void {
    let at = heap.push(happening) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!isBefore(happening, heap[parent] as Happening)) break;
      heap[at] = heap[parent] as Happening;
      at = parent;
    }
    heap[at] = happening;
  }

  function pop(): Happening | undefined {
    const first = heap[0];
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return first;
    let at = 0;
    while (true) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1] as Happening, heap[child] as Happening))
        child += 1;
      if (!isBefore(heap[child] as Happening, last)) break;
      heap[at] = heap[child] as Happening;
      at = child;
    }
    heap[at] = last;
    return first;
  }

  return { push, pop, nextOrder: () => orders++ };
}
