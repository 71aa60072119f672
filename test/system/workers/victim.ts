/**
 * A process that is killed or stopped while it works, with the package as it is published. It notes what it begins
 * and what was acknowledged in a file, line by line, before it does anything else: what is there it knew.
 */
import { openSync, readFileSync, writeSync } from "node:fs";
import { DatabaseSync } from "node:sqlite";
import { setImmediate as nextTurn, setTimeout as sleep } from "node:timers/promises";
import { type Allowed, createKeystile, type Store } from "keystile";
import { type SqliteDatabase, sqliteStore } from "keystile/sqlite";
import { type Random, randomFrom } from "../../model/random.ts";
import { serve } from "./link.ts";
import { aheadBy, openStore } from "./open-store.ts";

export interface Victim {
  readonly seed: number;
  readonly secrets: readonly string[];
  readonly loops: number;
  /** Where to put an end to itself: at its nth statement, before or after that was run. Absent: others will. */
  readonly death?: { readonly statement: number; readonly when: "before" | "after" };
}

const [address = "", clockFile = "", logFile = "", revalidateMs] = process.argv.slice(2);
const log = openSync(logFile, "a");
let death: Victim["death"];
let statements = 0;
let runs = 0;
let stopping = false;
let running: Promise<void>[] = [];
const held: Allowed[] = [];

const offsetMs = () => Number(readFileSync(clockFile, "utf8"));
const keystile = createKeystile({
  store: store(),
  ...(revalidateMs !== undefined && { leases: { revalidateMs: Number(revalidateMs) } }),
});

function store(): Store {
  if (address.includes("://")) return mortalStore(aheadBy(openStore(address).store, offsetMs));
  return sqliteStore(mortal(new DatabaseSync(address)), { clock: () => Date.now() + offsetMs() });
}

/** The kernel keeps what was written to a file whatever happens to the process that wrote it. */
function note(event: string, id: string, ...numbers: readonly number[]): void {
  writeSync(log, `${[event, id, ...numbers].join(" ")}\n`);
}

/** `statement` counts from one: others may have begun since this one has. */
function perhapsDie(statement: number, when: "before" | "after"): void {
  if (statement === death?.statement && when === death.when) process.kill(process.pid, "SIGKILL");
}

/** A store on which the process can die at any call. */
function mortalStore(store: Store): Store {
  async function dying<T>(call: () => Promise<T>): Promise<T> {
    const statement = ++statements;
    perhapsDie(statement, "before");
    const reply = await call();
    perhapsDie(statement, "after");
    return reply;
  }
  return {
    ...store,
    read: (ids) => dying(() => store.read(ids)),
    write: (groups) => dying(() => store.write(groups)),
  };
}

/** A handle on which the process can die at any statement, `BEGIN` and `COMMIT` included. */
function mortal(database: DatabaseSync): SqliteDatabase {
  return {
    prepare(sql) {
      const statement = database.prepare(sql);
      function dying<T>(run: () => T): T {
        const number = ++statements;
        perhapsDie(number, "before");
        const result = run();
        perhapsDie(number, "after");
        return result;
      }
      return {
        get: (...parameters) => dying(() => statement.get(...parameters)),
        all: (...parameters) => dying(() => statement.all(...parameters)),
        run: (...parameters) => dying(() => statement.run(...parameters)),
      };
    },
  };
}

async function loop(name: string, secrets: readonly string[], random: Random): Promise<void> {
  for (let n = 0; !stopping; n += 1) {
    const id = `${name}.${n}`;
    const key = random.between(0, secrets.length - 1);
    const cost = random.between(1, 5);
    note("asking", id, key, cost);
    const headers = { authorization: `Bearer ${secrets[key]}` };
    const decision = await keystile.authorize({ headers, cost });
    note(decision.allowed ? "admitted" : "refused", id);
    // The store answers without ever leaving the turn; the parent would not be heard.
    if (random.chance(0.5)) await nextTurn();
    else await sleep(random.between(1, 6));
    if (!decision.allowed) continue;
    const actual = random.chance(0.2) ? 0 : random.between(0, cost);
    note("settling", id, actual);
    await (actual === 0 && random.chance(0.5) ? decision.void() : decision.settle(actual));
    note("settled", id);
  }
}

serve({
  /** Requests without end. */
  begin(victim: Victim) {
    runs += 1;
    stopping = false;
    statements = 0;
    death = victim.death;
    const random = randomFrom(victim.seed);
    running = Array.from({ length: victim.loops }, (_, n) =>
      loop(`${process.pid}.${runs}.${n}`, victim.secrets, random.fork()),
    );
    // A fault is told by whoever waits for the loops, or by the test for want of progress.
    for (const one of running) one.catch((error: unknown) => note("fault", JSON.stringify(String(error))));
  },

  /** Ends the loops; every request they began is settled then. */
  async end() {
    stopping = true;
    await Promise.all(running);
  },

  async hold({ secret, costs }: { readonly secret: string; readonly costs: readonly number[] }) {
    for (const cost of costs) {
      const decision = await keystile.authorize({ headers: { authorization: `Bearer ${secret}` }, cost });
      if (!decision.allowed) throw new Error(decision.refusal.reason);
      held.push(decision);
    }
  },

  async settle(actuals: readonly number[]) {
    await Promise.all(held.splice(0).map((decision, n) => decision.settle(actuals[n])));
  },
});
