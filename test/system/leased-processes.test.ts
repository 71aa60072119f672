import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createKeystile, type Keystile } from "../../src/keystile.js";
import { randomFrom } from "../model/random.js";
import { type Place, places } from "./shared-places.js";
import type { Burst, BurstReport, HammerReport } from "./workers/caller.js";
import { startWorker, type Worker } from "./workers/link.js";
import { openStore, type SharedStore } from "./workers/open-store.js";

/** What several processes promise that have leases, beside one that has none. See `processes.test.ts`. */
const BASE_SEED = Number(process.env["KEYSTILE_SEED"] ?? 1);
const PROCESSES = 3;
const REVALIDATE_MS = 200;

describe.each(Object.entries(places))("over %s", (_, make) => {
  describe.skipIf(make === undefined)("three processes with leases", () => {
    let place: Place;
    let shared: SharedStore;
    let keystile: Keystile;
    let workers: readonly Worker[];

    function inAll<T>(task: string, input?: unknown): Promise<readonly T[]> {
      return Promise.all(workers.map((worker) => worker.call(task, input) as Promise<T>));
    }

    beforeAll(async () => {
      place = await (make as () => Promise<Place>)();
      shared = openStore(place.url);
      await shared.store.setup();
      keystile = createKeystile({ store: shared.store, storeTimeoutMs: 50_000 });
      workers = await Promise.all(
        Array.from({ length: PROCESSES }, () => startWorker("caller.ts", place.url, `${REVALIDATE_MS}`)),
      );
    });

    afterAll(async () => {
      for (const worker of workers) worker.signal("SIGKILL");
      await Promise.all(workers.map(({ ended }) => ended));
      await keystile.close();
      await shared.close();
      await place.drop();
    });

    test("spend no more than there is, and book all of it", async () => {
      let mostEarly = 0;
      for (let seed = BASE_SEED; seed < BASE_SEED + 10; seed += 1) {
        const quota = 1_000;
        const random = randomFrom(seed);
        const { secret, key } = await keystile.keys.issue({ quota });
        const spreadMs = random.pick([10, 100, 400]);
        const burst: Burst = { secret, seed, count: 700, maxCost: 3, spreadMs, refunds: true, quota };
        const reports = await inAll<BurstReport>("burst", burst);
        const costs = await inAll<number>("finish");
        const at = `KEYSTILE_SEED=${seed} (spread over ${spreadMs} ms)`;
        const booked = costs.reduce((sum, cost) => sum + cost, 0);
        const admitted = reports.reduce((sum, report) => sum + report.admittedCost, 0);
        expect(Math.max(...reports.map(({ overspent }) => overspent)), at).toBe(0);
        mostEarly = Math.max(mostEarly, quota - admitted);
        // What an ending cost beyond its estimate is a fact; the burst makes up some of these.
        const { quota: view } = (await keystile.keys.get(key.id)) ?? {};
        expect(view, at).toMatchObject({ used: booked, held: 0 });
        expect(reports.flatMap(({ refused }) => Object.keys(refused)).filter(isOdd), at).toEqual([]);
      }
      console.log(`of 1,000 at most ${mostEarly} were left to the slices of others`);
    });

    test(`a revoked key is let in for ${REVALIDATE_MS} ms more, and no longer`, async () => {
      let latestMs = 0;
      for (let round = 0; round < 8; round += 1) {
        const { secret, key } = await keystile.keys.issue();
        const begun = Promise.race(workers.map((worker) => worker.call("hammering")));
        const answers = { secret, before: "allowed", after: "401 key_revoked", isAwaited: false };
        const reports = inAll<HammerReport>("hammer", answers);
        await begun;
        await sleep(randomFrom(BASE_SEED + round).between(0, 2 * REVALIDATE_MS));
        await keystile.keys.revoke(key.id);
        const resolvedAt = process.hrtime.bigint();
        await sleep(REVALIDATE_MS + 50);
        await inAll("told");
        for (const report of await reports) {
          const at = `KEYSTILE_SEED=${BASE_SEED} round ${round}`;
          expect(report.unexpected, at).toEqual([]);
          expect(report.wrongAfterTold, at).toBe(0);
          const lateMs = Number(report.lastBeforeBegunAt - resolvedAt) / 1e6;
          latestMs = Math.max(latestMs, lateMs);
          // A request is begun before it is let in, so this is strict: by the monotonic clock that all processes share.
          expect(lateMs, at).toBeLessThan(REVALIDATE_MS);
        }
      }
      console.log(
        `the last request that a lease let in came ${latestMs.toFixed(0)} ms after revoke() resolved`,
      );
      expect(latestMs).toBeGreaterThan(0);
    });
  });
});

function isOdd(reason: string): boolean {
  return reason !== "key_quota_exhausted";
}
