import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Keyring } from "../../src/keyring.js";
import { createKeystile, type Keystile } from "../../src/keystile.js";
import { randomFrom } from "../model/random.js";
import { type Place, places } from "./shared-places.js";
import type { Burst, BurstReport, Hammering, HammerReport } from "./workers/caller.js";
import { startWorker, type Worker } from "./workers/link.js";
import { openStore, type SharedStore } from "./workers/open-store.js";

/**
 * The promise over several processes that share nothing but a store. A seed decides what each process asks for and
 * when; how the processes meet is up to the machine, so a seed that failed may have to be run more than once.
 */
const BASE_SEED = Number(process.env["KEYSTILE_SEED"] ?? 1);
const PROCESSES = 4;

let keystile: Keystile;
let workers: readonly Worker[] = [];

/** The same task in every process at once; inputs may differ. */
function inAll<T>(task: string, input: (n: number) => unknown = () => undefined): Promise<readonly T[]> {
  return Promise.all(workers.map((worker, n) => worker.call(task, input(n)) as Promise<T>));
}

function sumOf(numbers: readonly number[]): number {
  return numbers.reduce((sum, number) => sum + number, 0);
}

/** One key with a quota of 1,000, which 5,000 requests of four processes want to spend. */
async function spend(seed: number): Promise<readonly BurstReport[]> {
  const quota = 1_000;
  const random = randomFrom(seed);
  const kind = random.pick(["fixed", "fixed", "random costs", "refunds"] as const);
  const spreadMs = random.pick([0, 2, 10, 25]);
  const { secret, key } = await keystile.keys.issue({ quota });
  const reports = await inAll<BurstReport>("burst", (): Burst => {
    const maxCost = kind === "fixed" ? 1 : 5;
    const [count, refunds] = [1_250, kind === "refunds"];
    return { secret, seed: random.between(0, 2 ** 31), count, maxCost, spreadMs, refunds, quota };
  });
  const booked = sumOf(await inAll<number>("finish"));

  const at = `KEYSTILE_SEED=${seed} (${kind}, spread over ${spreadMs} ms)`;
  const admitted = sumOf(reports.map((report) => report.admitted));
  const refusals = sumOf(reports.map(({ refused }) => refused["key_quota_exhausted"] ?? 0));
  expect(admitted + refusals, at).toBe(5_000);
  expect(sumOf(reports.map(({ overspent }) => overspent)), at).toBe(0);
  if (kind === "fixed") expect(admitted, at).toBe(1_000);
  if (kind !== "refunds") {
    // Nothing was given back while requests were refused, so what was refused must not fit at the end either.
    const left = quota - sumOf(reports.map(({ admittedCost }) => admittedCost));
    expect(left, at).toBeGreaterThanOrEqual(0);
    expect(left, at).toBeLessThan(Math.min(...reports.map((report) => report.smallestRefusedCost)));
  }
  const view = await keystile.keys.get(key.id);
  expect(view?.quota, at).toMatchObject({ used: booked, held: 0, remaining: Math.max(0, quota - booked) });
  return reports;
}

interface Taken {
  readonly admitted: number;
  readonly refused: readonly string[];
}

/** The most intervals open at once, of a list `from, until, from, until, …`. One that ends lets another begin. */
function mostAtOnce(times: readonly bigint[]): number {
  const steps = times.map((at, index) => ({ at, change: index % 2 === 0 ? 1 : -1 }));
  steps.sort((a, b) => (a.at === b.at ? a.change - b.change : a.at < b.at ? -1 : 1));
  let [open, most] = [0, 0];
  for (const { change } of steps) {
    open += change;
    most = Math.max(most, open);
  }
  return most;
}

interface Change {
  readonly before: string;
  readonly after: string;
  /** Brings a new key into the state before. */
  readonly prepare?: (keys: Keyring, keyId: string) => Promise<unknown>;
  readonly make: (keys: Keyring, keyId: string) => Promise<unknown>;
}

const CHANGES: Readonly<Record<string, Change>> = {
  revoke: {
    before: "allowed",
    after: "401 key_revoked",
    make: (keys, id) => keys.revoke(id),
  },
  disable: {
    before: "allowed",
    after: "401 key_disabled",
    make: (keys, id) => keys.disable(id),
  },
  enable: {
    before: "401 key_disabled",
    after: "allowed",
    prepare: (keys, id) => keys.disable(id),
    make: (keys, id) => keys.enable(id),
  },
  "raise the quota": {
    before: "402 key_quota_exhausted",
    after: "allowed",
    prepare: (keys, id) => keys.update(id, { quota: 0 }),
    make: (keys, id) => keys.update(id, { quota: 1_000_000 }),
  },
  "take the quota away": {
    before: "allowed",
    after: "402 key_quota_exhausted",
    make: (keys, id) => keys.update(id, { quota: 0 }),
  },
  rotate: {
    before: "allowed",
    after: "401 key_unknown",
    make: (keys, id) => keys.rotate(id),
  },
  purge: {
    before: "401 key_revoked",
    after: "401 key_unknown",
    prepare: (keys, id) => keys.revoke(id),
    make: (keys, id) => keys.purge(id),
  },
};

describe.each(Object.entries(places))("over %s", (_, make) => {
  describe.skipIf(make === undefined)("four processes", () => {
    let place: Place;
    let shared: SharedStore;

    beforeAll(async () => {
      place = await (make as () => Promise<Place>)();
      shared = openStore(place.url);
      await shared.store.setup();
      keystile = createKeystile({ store: shared.store, storeTimeoutMs: 50_000 });
      workers = await Promise.all(
        Array.from({ length: PROCESSES }, () => startWorker("caller.ts", place.url)),
      );
    });

    afterAll(async () => {
      for (const worker of workers) worker.signal("SIGKILL");
      await Promise.all(workers.map(({ ended }) => ended));
      await keystile.close();
      await shared.close();
      await place.drop();
    });

    describe("never overspent", () => {
      test("by four processes at once, 100 times", async () => {
        const admittedBy = Array.from({ length: PROCESSES }, () => 0);
        let shared = 0;
        for (let seed = BASE_SEED; seed < BASE_SEED + 100; seed += 1) {
          const reports = await spend(seed);
          reports.forEach(({ admitted }, n) => {
            admittedBy[n] = (admittedBy[n] ?? 0) + admitted;
          });
          if (reports.filter(({ admitted }) => admitted > 0).length > 1) shared += 1;
        }
        console.log(
          `admitted by process: ${admittedBy.join(", ")}; by more than one in ${shared} of 100 seeds`,
        );
        expect(Math.min(...admittedBy)).toBeGreaterThan(0);
      });
    });

    describe("limits over processes", () => {
      test("requests: exactly the burst, whatever becomes of them", async () => {
        for (let round = 0; round < 20; round += 1) {
          // A day, so that nothing drains while this runs.
          const { secret } = await keystile.keys.issue({ limits: [{ requests: 100, windowMs: 86_400_000 }] });
          const reports = await inAll<BurstReport>("burst", (n): Burst => {
            const seed = (BASE_SEED + round) * PROCESSES + n;
            const spreadMs = (round % 3) * 5;
            return { secret, seed, count: 200, maxCost: 1, spreadMs, refunds: true, quota: 1_000 };
          });
          await inAll("finish");
          const at = `KEYSTILE_SEED=${BASE_SEED} round ${round}`;
          expect(sumOf(reports.map(({ admitted }) => admitted)), at).toBe(100);
          expect(sumOf(reports.map(({ refused }) => refused["rate_limited"] ?? 0)), at).toBe(700);
        }
      });

      test("in flight: exactly what is free is admitted", async () => {
        const random = randomFrom(BASE_SEED);
        const { secret, key } = await keystile.keys.issue({ limits: [{ inFlight: 10 }] });
        let free = 10;
        for (let round = 0; round < 50; round += 1) {
          const at = `KEYSTILE_SEED=${BASE_SEED} round ${round}`;
          const taken = await inAll<Taken>("acquire", () => ({ secret, count: 20 }));
          expect(sumOf(taken.map(({ admitted }) => admitted)), at).toBe(free);
          expect(new Set(taken.flatMap(({ refused }) => refused)), at).toEqual(
            new Set(["concurrency_limited"]),
          );
          free = sumOf(
            await inAll<number>("release", () => ({
              share: random.next(),
              seed: random.between(0, 2 ** 31),
            })),
          );
        }
        await inAll("release", () => ({ share: 1, seed: 0 }));
        expect((await keystile.keys.get(key.id))?.quota.held).toBe(0);
      });

      test("in flight: never more at any moment", async () => {
        const { secret } = await keystile.keys.issue({ limits: [{ inFlight: 6 }] });
        const reports = await inAll<{ readonly times: BigUint64Array; readonly refused: readonly string[] }>(
          "churn",
          (n) => ({ secret, seed: BASE_SEED * PROCESSES + n }),
        );
        expect(new Set(reports.flatMap(({ refused }) => refused))).toEqual(new Set(["concurrency_limited"]));
        // All processes read one monotonic clock. A request counts from when its process knew that it was admitted
        // until just before it ended it, so this is less than was open and never more.
        const most = mostAtOnce(reports.flatMap(({ times }) => [...times]));
        console.log(
          `at most ${most} of 6 in flight, ${sumOf(reports.map(({ times }) => times.length / 2))} admitted`,
        );
        expect(most).toBeGreaterThan(0);
        expect(most).toBeLessThanOrEqual(6);
      });
    });

    describe("a change that has resolved is in force in every process", () => {
      test.each(Object.keys(CHANGES))("%s", async (name) => {
        const { before, after, prepare, make } = CHANGES[name] as Change;
        const random = randomFrom(BASE_SEED);
        // Revocation is the promise; the others are its mirror images. `changes.test.ts` asks far more often.
        for (let round = 0; round < (name === "revoke" ? 40 : 10); round += 1) {
          const { secret, key } = await keystile.keys.issue();
          await prepare?.(keystile.keys, key.id);

          // All are at it once one has its first answer; in which state each is met is left to chance.
          const begun = Promise.race(workers.map((worker) => worker.call("hammering")));
          const reports = inAll<HammerReport>("hammer", (): Hammering => ({ secret, before, after }));
          await begun;
          await sleep(random.between(0, 20));
          const calledAt = process.hrtime.bigint();
          await make(keystile.keys, key.id);
          const resolvedAt = process.hrtime.bigint();
          await inAll("told");

          for (const [n, report] of (await reports).entries()) {
            const at = `KEYSTILE_SEED=${BASE_SEED} round ${round} process ${n}`;
            expect(report.unexpected, at).toEqual([]);
            expect(report.begunAfterTold, at).toBeGreaterThanOrEqual(12);
            expect(report.wrongAfterTold, at).toBe(0);
            // The same without the way of the message: by the monotonic clock that all processes share.
            expect(report.lastBeforeBegunAt, at).toBeLessThan(resolvedAt);
            expect(report.firstAfterEndedAt, at).toBeGreaterThan(calledAt);
          }
        }
      });
    });
  });
});
