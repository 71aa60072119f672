import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { IssuedKey } from "../../src/keyring.js";
import { createKeystile, type Keystile } from "../../src/keystile.js";
import { type Place, places } from "./shared-places.js";
import type { Hammering, HammerReport } from "./workers/changes.js";
import { startWorker, type Worker } from "./workers/link.js";
import { openStore, type SharedStore } from "./workers/open-store.js";

/**
 * What one process changes is in force in all others when the call resolves, and a key that four processes hammer is
 * shared fairly by them and can still be changed. `KEYSTILE_CHANGES=10000` asks that often, of each store.
 */
const IDLE_TRIES = Number(process.env["KEYSTILE_CHANGES"] ?? 600);
const LOADED_TRIES = Number(process.env["KEYSTILE_CHANGES"] ?? 200);
/** Requests by which four processes are compared: of half as many, luck alone has given one twice what another had. */
const MOST = 10_000;

const TIMEOUT_MS = 300_000 + 600 * IDLE_TRIES;
const PROCESSES = 4;
const PLENTY = 1_000_000_000;

/** A change that refuses a key, and the one that admits it again. */
interface Change {
  readonly reason: string;
  readonly refuse: (gate: Keystile, key: IssuedKey["key"]) => Promise<unknown>;
  readonly admit: (gate: Keystile, key: IssuedKey["key"]) => Promise<unknown>;
}

const CHANGES: readonly Change[] = [
  {
    reason: "key_disabled",
    refuse: (gate, { id }) => gate.keys.disable(id),
    admit: (gate, { id }) => gate.keys.enable(id),
  },
  {
    reason: "key_quota_exhausted",
    refuse: (gate, { id }) => gate.keys.update(id, { quota: 0 }),
    admit: (gate, { id }) => gate.keys.update(id, { quota: PLENTY }),
  },
  {
    reason: "model_not_allowed",
    refuse: (gate, { id }) => gate.keys.update(id, { allowedModels: ["claude-*"] }),
    admit: (gate, { id }) => gate.keys.update(id, { allowedModels: ["claude-*", "gpt-*"] }),
  },
  {
    reason: "balance_exhausted",
    refuse: (gate, { accountId = "" }) => gate.accounts.debit(accountId, { id: "taken", amount: PLENTY }),
    admit: (gate, { accountId = "" }) => gate.accounts.credit(accountId, { id: "topped-up", amount: PLENTY }),
  },
];

/** What a round may see of a key that is changed in it, besides what it asks for. */
function answersOf({ reason }: Change): ReadonlySet<string> {
  return new Set(["allowed", reason, "key_revoked"]);
}

let gate: Keystile;
let workers: readonly Worker[] = [];

/** A key that may do everything: alone, or of an account, so that both kinds of anchor are changed. */
async function newKey(isAlone: boolean): Promise<IssuedKey> {
  if (isAlone) return gate.keys.issue({ quota: PLENTY });
  const account = await gate.accounts.open();
  await gate.accounts.credit(account.id, { id: "first", amount: PLENTY });
  return gate.keys.issue({ account: account.id });
}

/** How often was asked after a change had resolved that admits, refuses or revokes, and what was answered wrongly. */
interface Tally {
  readonly tries: Record<"admitted" | "refused" | "revoked", number>;
  readonly wrong: string[];
  readonly revokeMs: number[];
}

/** Refuses a key, admits it again and revokes it, and asks some processes each time that has resolved. */
async function changeAndAsk(key: IssuedKey, change: Change, asked: readonly Worker[], tally: Tally) {
  async function expectAll(what: keyof Tally["tries"], right: string): Promise<void> {
    const answers = await Promise.all(asked.map((worker) => worker.call("ask", key.secret)));
    tally.tries[what] += answers.length;
    for (const answer of answers) if (answer !== right) tally.wrong.push(`${answer} instead of ${right}`);
  }

  await change.refuse(gate, key.key);
  await expectAll("refused", change.reason);
  await change.admit(gate, key.key);
  await expectAll("admitted", "allowed");
  const begunAtMs = performance.now();
  await gate.keys.revoke(key.key.id);
  tally.revokeMs.push(performance.now() - begunAtMs);
  await expectAll("revoked", "key_revoked");
}

function newTally(): Tally {
  return { tries: { admitted: 0, refused: 0, revoked: 0 }, wrong: [], revokeMs: [] };
}

/** All changes in turn, each on both kinds of keys as far as it concerns them. */
function roundOf(round: number): { readonly change: Change; readonly isAlone: boolean } {
  const change = CHANGES[round % CHANGES.length] as Change;
  const isOdd = Math.floor(round / CHANGES.length) % 2 === 1;
  return { change, isAlone: isOdd && change.reason !== "balance_exhausted" };
}

/** Starts the same requests in every process. Resolves when all of them are at it. */
async function hammerAll(input: Hammering): Promise<readonly Promise<HammerReport>[]> {
  const begun = workers.map((worker) => worker.call("hammering"));
  const reports = workers.map((worker) => worker.call("hammer", input) as Promise<HammerReport>);
  await Promise.all(begun);
  return reports;
}

async function enough(reports: readonly Promise<HammerReport>[]): Promise<readonly HammerReport[]> {
  await Promise.all(workers.map((worker) => worker.call("enough")));
  return Promise.all(reports);
}

function percentile(numbers: readonly number[], share: number): string {
  const sorted = numbers.toSorted((a, b) => a - b);
  return (sorted[Math.floor(share * (sorted.length - 1))] ?? 0).toFixed(1);
}

function spreadOf(ms: readonly number[]): string {
  return `p50 ${percentile(ms, 0.5)}, p99 ${percentile(ms, 0.99)}, at most ${percentile(ms, 1)} ms`;
}

describe.each(Object.entries(places))("over %s", (name, make) => {
  describe.skipIf(make === undefined)("what one process changes", () => {
    let place: Place;
    let shared: SharedStore;

    beforeAll(async () => {
      place = await (make as () => Promise<Place>)();
      shared = openStore(place.url);
      await shared.store.setup();
      gate = createKeystile({ store: shared.store });
      workers = await Promise.all(
        Array.from({ length: PROCESSES }, () => startWorker("changes.ts", place.url)),
      );
    });

    afterAll(async () => {
      for (const worker of workers) worker.signal("SIGKILL");
      await Promise.all(workers.map(({ ended }) => ended));
      await gate.close();
      await shared.close();
      await place.drop();
    });

    test("is in force in another that is idle", { timeout: TIMEOUT_MS }, async () => {
      const tally = newTally();
      for (let round = 0; round < IDLE_TRIES; round += 1) {
        const { change, isAlone } = roundOf(round);
        const key = await newKey(isAlone);
        const other = workers[Math.floor(round / CHANGES.length) % PROCESSES] as Worker;
        expect(await other.call("ask", key.secret)).toBe("allowed");
        await changeAndAsk(key, change, [other], tally);
      }
      console.log(
        `${name}, idle: ${tally.wrong.length} wrong of ${JSON.stringify(tally.tries)}; revoke: ${spreadOf(tally.revokeMs)}`,
      );
      expect(tally.wrong).toEqual([]);
    });

    test("is in force in four that hammer the key", { timeout: TIMEOUT_MS }, async () => {
      const tally = newTally();
      for (let round = 0; round < LOADED_TRIES / PROCESSES; round += 1) {
        const { change, isAlone } = roundOf(round);
        const key = await newKey(isAlone);
        const reports = await hammerAll({ secret: key.secret });
        await changeAndAsk(key, change, workers, tally);
        const known = answersOf(change);
        for (const { answers } of await enough(reports))
          expect(Object.keys(answers).filter((answer) => !known.has(answer))).toEqual([]);
      }
      console.log(
        `${name}, loaded: ${tally.wrong.length} wrong of ${JSON.stringify(tally.tries)}; revoke: ${spreadOf(tally.revokeMs)}`,
      );
      expect(tally.wrong).toEqual([]);
    });

    test("leaves a hammered key to all processes alike", { timeout: TIMEOUT_MS }, async () => {
      const key = await newKey(true);
      const reports = await hammerAll({ secret: key.secret, most: MOST });
      const updateMs: number[] = [];
      let isOver = false;
      const over = Promise.race(reports).then(() => {
        isOver = true;
      });
      for (let n = 0; !isOver; n += 1) {
        const begunAtMs = performance.now();
        await gate.keys.update(key.key.id, { quota: PLENTY + (n % 2) });
        updateMs.push(performance.now() - begunAtMs);
      }
      await over;
      const all = await enough(reports);

      const line = all.map(
        ({ requests, p50Ms, p99Ms }) => `${requests} (p50 ${p50Ms.toFixed(1)}, p99 ${p99Ms.toFixed(1)} ms)`,
      );
      console.log(`${name}, fair: ${line.join(", ")}; ${updateMs.length} updates: ${spreadOf(updateMs)}`);
      for (const { answers } of all) expect(Object.keys(answers)).toEqual(["allowed"]);
      const counts = all.map(({ requests }) => requests);
      // Who waits for the lock of a file has to ask for it again and again, and gets it by luck; who has it lets thousands in,
      // each within microseconds. Seen there: twice the requests of another on a busy machine, and waits of 24 ms.
      const [mostRequests, mostWaits, leastMs] = name === "sqlite" ? [4, 40, 2] : [2, 20, 0];
      expect(Math.max(...counts) / Math.min(...counts)).toBeLessThan(mostRequests);
      for (const { p50Ms, p99Ms } of all)
        expect(p99Ms).toBeLessThanOrEqual(mostWaits * Math.max(p50Ms, leastMs));
    });
  });
});
