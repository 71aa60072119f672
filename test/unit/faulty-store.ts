import { type Runtime, systemRuntime } from "../../src/runtime.js";
import type { Document, Json, Store } from "../../src/store.js";
import { manualClock } from "../../src/testing/manual-clock.js";
import { idle, newStore } from "../setup/new-store.js";

/** What goes wrong with one call: it fails or never answers, before it had its effect or after. */
export type Fault = "fails before" | "fails after" | "hangs before" | "hangs after";

export interface StoreCall {
  readonly kind: "read" | "write" | "list";
  readonly ids: readonly string[];
}

export interface FaultyStore extends Store {
  /** All calls so far; set to `[]` to count from here. */
  calls: readonly StoreCall[];
  /** Asked about each call: a fault, a promise to wait for before it has its effect, or nothing. */
  onCall: (call: StoreCall) => Fault | Promise<unknown> | undefined;
  /** Every document there is, past all faults. */
  documents(): Promise<readonly Document[]>;
}

/** A store that records its calls and fails as it is told. */
export function faultyStore(clock: () => number): FaultyStore {
  const inner = newStore({ clock });

  async function through<T>(call: StoreCall, apply: () => Promise<T>): Promise<T> {
    faulty.calls = [...faulty.calls, call];
    const fault = faulty.onCall(call);
    if (typeof fault !== "string") await fault;
    if (fault === "hangs before") return new Promise(() => {});
    if (fault === "fails before") throw new Error("the store is down");
    const reply = await apply();
    if (fault === "hangs after") return new Promise(() => {});
    if (fault === "fails after") throw new Error("the connection was lost");
    return reply;
  }

  const faulty: FaultyStore = {
    calls: [],
    onCall: () => undefined,
    read: (ids) => through({ kind: "read", ids }, () => inner.read(ids)),
    write: (groups) =>
      through({ kind: "write", ids: groups.flat().map(({ id }) => id) }, () => inner.write(groups)),
    list: (query) => through({ kind: "list", ids: [] }, () => inner.list(query)),
    close: () => inner.close(),
    async documents() {
      const pages = await Promise.all(["key", "secret"].map((kind) => inner.list({ kind, limit: 1_000 })));
      return pages.flatMap(({ documents }) => documents);
    },
  };
  return faulty;
}

/** Replaces the stored body of a key, past everything that would have kept it sound. */
export async function damage(
  store: FaultyStore,
  keyId: string,
  change: (body: Record<string, unknown>) => unknown,
): Promise<void> {
  const { documents } = await store.read([`key:${keyId}`]);
  const [document] = documents;
  if (document === undefined) throw new Error("there is no such document");
  const set = change(document.body as Record<string, unknown>) as Json;
  await store.write([[{ id: document.id, expected: document.version, set }]]);
}

/** Time that stands still until it is moved: the store's clock, and the monotonic time and timers of a process. */
export interface ManualTime {
  /** The store's clock. It may be set by itself, as when somebody corrects it. */
  readonly store: ReturnType<typeof manualClock>;
  readonly runtime: Runtime;
  /** Moves all of it, and runs what was due on the way. */
  advance(ms: number): Promise<void>;
  /** Timers that have not run. */
  readonly pending: number;
}

export function manualTime(): ManualTime {
  const store = manualClock();
  let monotonicMs = 0;
  let timers: readonly { readonly atMs: number; readonly run: () => void }[] = [];

  function move(ms: number): void {
    monotonicMs += ms;
    store.advance(ms);
  }

  return {
    store,
    runtime: {
      ...systemRuntime,
      monotonicMs: () => monotonicMs,
      random: () => 0.5,
      setTimer(run, ms) {
        const timer = { atMs: monotonicMs + ms, run };
        timers = [...timers, timer];
        return () => {
          timers = timers.filter((other) => other !== timer);
        };
      },
    },
    async advance(ms) {
      const untilMs = monotonicMs + ms;
      await idle();
      for (;;) {
        const [next] = timers.toSorted((a, b) => a.atMs - b.atMs);
        if (next === undefined || next.atMs > untilMs) break;
        move(Math.max(0, Math.ceil(next.atMs - monotonicMs)));
        timers = timers.filter((other) => other !== next);
        next.run();
        await idle();
      }
      move(Math.max(0, untilMs - monotonicMs));
    },
    get pending() {
      return timers.length;
    },
  };
}
