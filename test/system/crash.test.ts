import { mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { KEY_PURSE, type KeyRecord } from "../../src/documents.js";
import type { KeyView } from "../../src/key-view.js";
import { createKeystile, type Keystile } from "../../src/keystile.js";
import { heldOf } from "../../src/ledger.js";
import type { Document, Store } from "../../src/store.js";
import { sqliteStore } from "../../src/stores/sqlite.js";
import { type Random, randomFrom } from "../model/random.js";
import { type Place, places } from "./shared-places.js";
import { startWorker, type Worker } from "./workers/link.js";
import { aheadBy, openStore } from "./workers/open-store.js";
import type { Victim } from "./workers/victim.js";

/** Processes that are killed or stopped at any moment. When that is follows from the seed, or nearly so. */
const BASE_SEED = Number(process.env["KEYSTILE_SEED"] ?? 1);
/** Requests in flight in a process. */
const LOOPS = 8;

/** Processes that go together, and how often: `KEYSTILE_CRASHES=100` lets them as often, over each store. */
const TOGETHER = 4;
const MASSACRES = Number(process.env["KEYSTILE_CRASHES"] ?? 4);

const REVALIDATE_MS = 100;

/** The default of `holdMs`, and a little: after it, what a dead process held may be collected. */
const HOLDS_EXPIRE_MS = 61_000;
const HOUR_MS = 3_600_000;

/** Over servers, where nothing can be left half done in a file, fewer processes are killed and stopped. */
const kinds = [
  { name: "sqlite", make: places.sqlite, rounds: 48, stops: 30 },
  { name: "postgres", make: places.postgres, rounds: 16, stops: 10 },
  { name: "redis", make: places.redis, rounds: 16, stops: 10 },
];

const directory = mkdtempSync(join(tmpdir(), "keystile-crash-"));
const clockFile = join(directory, "clock");
const living = new Set<Worker>();
const made: Place[] = [];
let logs = 0;

/** By how much the store's clock is ahead: one for all processes, as a database has it, but it can be moved. */
const offsetMs = () => Number(readFileSync(clockFile, "utf8"));

function advanceClock(ms: number): void {
  const offset = offsetMs() + ms;
  // Renamed into place, so that nobody reads half of it.
  writeFileSync(`${clockFile}.new`, String(offset));
  renameSync(`${clockFile}.new`, clockFile);
}

beforeAll(() => writeFileSync(clockFile, "0"));

afterAll(async () => {
  for (const worker of living) worker.signal("SIGKILL");
  await Promise.all([...living].map(({ ended }) => ended));
  await Promise.all(made.map((place) => place.drop()));
  rmSync(directory, { recursive: true });
});

interface Opened {
  readonly store: Store;
  readonly keystile: Keystile;
  close(): Promise<void>;
}

/** A process that knows nothing yet, as far as the package can tell. */
async function withFreshInstance<T>(address: string, use: (opened: Opened) => Promise<T>): Promise<T> {
  const opened = open(address);
  try {
    return await use(opened);
  } finally {
    await opened.close();
  }
}

function open(address: string): Opened {
  const { store, close } = openAhead(address);
  const keystile = createKeystile({ store });
  return {
    store,
    keystile,
    async close() {
      await keystile.close();
      await close();
    },
  };
}

function openAhead(address: string): Pick<Opened, "store" | "close"> {
  if (isServed(address)) {
    const { store, close } = openStore(address);
    return { store: aheadBy(store, offsetMs), close };
  }
  const store = sqliteStore(address, { clock: () => Date.now() + offsetMs() });
  return { store, close: () => store.close() };
}

function isServed(address: string): boolean {
  return address.includes("://");
}

interface Key {
  readonly id: string;
  readonly secret: string;
  readonly onCrash: "charge" | "release";
}

/** A new place with a key of either kind. */
async function newKeys(
  make: () => Promise<Place>,
): Promise<{ readonly address: string; readonly keys: readonly Key[] }> {
  const place = await make();
  made.push(place);
  const address = place.url;
  const { store, close } = openStore(address);
  await store.setup();
  await close();
  return withFreshInstance(address, async ({ keystile }) => {
    const keys: Key[] = [];
    for (const onCrash of ["charge", "release"] as const) {
      const { secret, key } = await keystile.keys.issue({ onCrash });
      keys.push({ id: key.id, secret, onCrash });
    }
    return { address, keys };
  });
}

/** @param revalidateMs with leases that go on for so long */
async function startVictim(
  address: string,
  revalidateMs?: number,
): Promise<{ readonly worker: Worker; readonly log: string }> {
  logs += 1;
  const log = join(directory, `${logs}.log`);
  const leased = revalidateMs === undefined ? [] : [`${revalidateMs}`];
  const worker = await startWorker("victim.ts", address, clockFile, log, ...leased);
  living.add(worker);
  void worker.ended.then(() => living.delete(worker));
  return { worker, log };
}

function startVictims(
  address: string,
  revalidateMs?: number,
): Promise<readonly Awaited<ReturnType<typeof startVictim>>[]> {
  return Promise.all(Array.from({ length: TOGETHER }, () => startVictim(address, revalidateMs)));
}

/** Once it has ended a request, however little of a processor it is given. */
async function atWork(log: string): Promise<void> {
  while (readTraces(log).every(isUnderWay)) await sleep(5);
}

/** What the document says once nothing of the dead is on its way to it any more. */
async function leftBehind(
  address: string,
  { id }: Key,
): Promise<{ readonly used: number; readonly held: number }> {
  const { store, close } = openAhead(address);
  let [version, since] = [0, 0];
  for (;;) {
    const { documents } = await store.read([`key:${id}`]);
    const [document] = documents as [Document];
    if (document.version !== version) [version, since] = [document.version, performance.now()];
    if (performance.now() - since > 200) {
      await close();
      const record = document.body as unknown as KeyRecord;
      return { used: record.used[KEY_PURSE] ?? 0, held: heldOf(record, KEY_PURSE) };
    }
    await sleep(10);
  }
}

async function viewOf(keystile: Keystile, { id }: Key): Promise<KeyView> {
  const view = await keystile.keys.get(id);
  if (view === undefined) throw new Error("The key is gone.");
  return view;
}

/** Tells what is used once a process that knows nothing yet has collected what expired. */
function touch(address: string, key: Key): Promise<number> {
  return withFreshInstance(address, (opened) => touchBy(opened, key));
}

/** Whoever writes next collects: here a change that makes room, and a request that comes to nothing. */
async function touchBy({ store, keystile }: Opened, key: Key): Promise<number> {
  // What is shown before the collection was written is what is written then.
  const shown = (await viewOf(keystile, key)).quota;
  await keystile.keys.update(key.id, { quota: null });
  const decision = await keystile.authorize({ headers: { authorization: `Bearer ${key.secret}` } });
  if (!decision.allowed) throw new Error(decision.refusal.reason);
  await decision.void();
  const { quota } = await viewOf(keystile, key);
  expect(quota).toMatchObject({ used: shown.used, held: 0 });
  const { documents } = await store.read([`key:${key.id}`]);
  const record = documents[0]?.body as KeyRecord | undefined;
  for (const node of Object.values(record?.nodes ?? {})) expect(node).toMatchObject({ open: 0, held: {} });
  return quota.used;
}

/** What a process knew of one request when it went. */
interface Trace {
  readonly key: number;
  readonly cost: number;
  state: "asking" | "refused" | "admitted" | "settling" | "settled";
  actual: number;
}

/** Every request of a log. @throws Error for a fault that was noted in it */
function readTraces(log: string): readonly Trace[] {
  const traces = new Map<string, Trace>();
  const lines = readFileSync(log, "utf8").split("\n").slice(0, -1);
  for (const line of lines) {
    const [event = "", id = "", ...numbers] = line.split(" ");
    const [first = 0, second = 0] = numbers.map(Number);
    if (event === "fault") throw new Error(line);
    if (event === "asking") {
      traces.set(id, { key: first, cost: second, state: "asking", actual: 0 });
      continue;
    }
    const trace = traces.get(id);
    if (trace === undefined) throw new Error(`A line without a beginning: ${line}`);
    trace.state = event as Trace["state"];
    if (event === "settling") trace.actual = first;
  }
  return [...traces.values()];
}

/**
 * What one request may have added to `used` once the holds of its process were collected: the least and the most.
 * What was acknowledged is certain. Of what was under way either nothing or all was stored.
 */
function bounds(
  { state, cost, actual }: Trace,
  onCrash: Key["onCrash"],
): readonly [least: number, most: number] {
  const collected = onCrash === "charge" ? cost : 0;
  if (state === "settled") return [actual, actual];
  if (state === "refused") return [0, 0];
  if (state === "admitted") return [collected, collected];
  // The hold was never written, or collected.
  if (state === "asking") return [0, collected];
  return [Math.min(actual, collected), Math.max(actual, collected)];
}

function expectWithinBounds(spent: number, traces: readonly Trace[], key: Key, at: string): void {
  const each = traces.map((trace) => bounds(trace, key.onCrash));
  expect(spent, at).toBeGreaterThanOrEqual(sumOf(each.map(([least]) => least)));
  expect(spent, at).toBeLessThanOrEqual(sumOf(each.map(([, most]) => most)));
}

function expectIntact(address: string): void {
  if (isServed(address)) return;
  const database = new DatabaseSync(address);
  expect(database.prepare("PRAGMA integrity_check").all()).toEqual([{ integrity_check: "ok" }]);
  database.close();
}

function sumOf(numbers: readonly number[]): number {
  return numbers.reduce((sum, number) => sum + number, 0);
}

/** Past the renewal, sometimes by far more: what was collected is forgotten after an hour. */
function someTime(random: Random): number {
  return random.chance(0.8)
    ? random.between(HOLDS_EXPIRE_MS, 10 * 60_000)
    : random.between(HOUR_MS, 2 * HOUR_MS);
}

function isUnderWay({ state }: Trace): boolean {
  return state !== "settled" && state !== "refused";
}

/** In some rounds the quota is nearly used up. It holds through the crash. */
async function limitAtTimes(
  address: string,
  { id }: Key,
  used: number,
  random: Random,
): Promise<number | null> {
  const quota = random.chance(0.3) ? used + random.between(10, 60) : null;
  await withFreshInstance(address, ({ keystile }) => keystile.keys.update(id, { quota }));
  return quota;
}

/** Stops a process where it does not stand in everybody's way: SQLite's lock on the file belongs to who holds it. */
async function stopOutsideLocks(worker: Worker, address: string): Promise<void> {
  if (isServed(address)) {
    worker.signal("SIGSTOP");
    // The server finishes what it was sent before.
    await sleep(50);
    return;
  }
  const database = new DatabaseSync(address, { timeout: 0 });
  for (;;) {
    worker.signal("SIGSTOP");
    try {
      database.exec("BEGIN IMMEDIATE; ROLLBACK");
      break;
    } catch {
      worker.signal("SIGCONT");
      await sleep(1);
    }
  }
  database.close();
}

describe.each(kinds)("over $name", ({ make, rounds, stops }) => {
  describe.skipIf(make === undefined)("kill -9", () => {
    test("amid eight requests: what is charged is what was acknowledged, and the holds of the rest, once", async () => {
      const random = randomFrom(BASE_SEED);
      const { address, keys } = await newKeys(make as () => Promise<Place>);
      const used = keys.map(() => 0);
      const count = { asking: 0, refused: 0, admitted: 0, settling: 0, settled: 0 };
      let next = startVictim(address);
      let witness: Opened | undefined;
      for (let round = 0; round < rounds; round += 1) {
        const at = `KEYSTILE_SEED=${BASE_SEED} round ${round}`;
        // At first nobody else has the file open, so that it is found as the dead left it; later somebody has.
        if (round === rounds / 2) witness = open(address);
        const { worker, log } = await next;
        next = startVictim(address); // Starting takes longer than dying.
        const quotas = await Promise.all(
          keys.map((key, k) => limitAtTimes(address, key, used[k] ?? 0, random)),
        );

        // Half of them die at a certain statement, the others at a certain time.
        const when = random.pick(["before", "after"] as const);
        const death = { statement: random.between(1, 400), when };
        const isSuicide = round % 2 === 0;
        const secrets = keys.map(({ secret }) => secret);
        const seed = random.between(0, 2 ** 31);
        void worker
          .call("begin", { seed, secrets, loops: LOOPS, ...(isSuicide && { death }) } satisfies Victim)
          .catch(() => {});
        if (!isSuicide) {
          await sleep(random.between(5, 80));
          worker.signal("SIGKILL");
        }
        expect(await worker.ended).toBe("SIGKILL");

        expectIntact(address);
        advanceClock(someTime(random));
        const traces = readTraces(log);
        for (const { state } of traces) count[state] += 1;
        expect(traces.filter(isUnderWay).length, at).toBeLessThanOrEqual(LOOPS);
        for (const [k, key] of keys.entries()) {
          const before = used[k] ?? 0;
          const after = await touch(address, key);
          expectWithinBounds(
            after - before,
            traces.filter((trace) => trace.key === k),
            key,
            `${at} ${key.onCrash}`,
          );
          expect(after, at).toBeLessThanOrEqual(quotas[k] ?? Number.POSITIVE_INFINITY);
          if (round % 8 === 0) advanceClock(someTime(random));
          const again = witness === undefined ? await touch(address, key) : await touchBy(witness, key);
          expect(again, at).toBe(after);
          used[k] = after;
        }
      }
      (await next).worker.signal("SIGKILL");
      if (witness !== undefined) await witness.close();
      console.log(`left behind by ${rounds} processes: ${JSON.stringify(count)}; used: ${used.join(", ")}`);
      for (const state of ["asking", "admitted", "settling", "settled"] as const) {
        expect(count[state], state).toBeGreaterThan(0);
      }
    });
  });

  describe.skipIf(make === undefined)("kill -9 of four at once", () => {
    test("amid their requests of one key: what was used stays, and what they held is charged or released, to the unit", () =>
      massacre(MASSACRES));

    test("with leases: the same, and what no request had taken of a slice is charged or released with it", () =>
      massacre(MASSACRES / 2, REVALIDATE_MS));

    async function massacre(rounds: number, revalidateMs?: number): Promise<void> {
      const random = randomFrom(BASE_SEED + 2);
      const { address, keys } = await newKeys(make as () => Promise<Place>);
      const count = { settled: 0, "under way": 0, held: 0 };
      let unspent = 0;
      let next = startVictims(address, revalidateMs);
      for (let round = 0; round < rounds; round += 1) {
        const at = `KEYSTILE_SEED=${BASE_SEED} round ${round}`;
        const victims = await next;
        const key = keys[round % keys.length] as Key;
        const before = await touch(address, key);
        const quota = await limitAtTimes(address, key, before, random);
        await Promise.all(
          victims.map(({ worker }) => {
            const seed = random.between(0, 2 ** 31);
            return worker.call("begin", { seed, secrets: [key.secret], loops: LOOPS } satisfies Victim);
          }),
        );
        await Promise.all(victims.map(({ log }) => atWork(log)));
        // The next ones start when these are gone: they would take their time away.
        await sleep(random.between(50, 300));
        for (const { worker } of victims) worker.signal("SIGKILL");
        for (const { worker } of victims) expect(await worker.ended).toBe("SIGKILL");
        next = startVictims(address, revalidateMs);

        expectIntact(address);
        const left = await leftBehind(address, key);
        advanceClock(someTime(random));
        const traces = victims.flatMap(({ log }) => readTraces(log));
        count.settled += traces.filter(({ state }) => state === "settled").length;
        count["under way"] += traces.filter(isUnderWay).length;
        count.held += left.held;
        const after = await touch(address, key);
        expect(after, at).toBe(left.used + (key.onCrash === "charge" ? left.held : 0));
        // Nothing is booked but ends, and every one that was acknowledged.
        const booked = left.used - before;
        const settled = traces.filter(({ state }) => state === "settled");
        expect(booked, at).toBeGreaterThanOrEqual(sumOf(settled.map(({ actual }) => actual)));
        expect(booked, at).toBeLessThanOrEqual(sumOf(traces.map(({ actual }) => actual)));
        // And all that was admitted and not ended is held.
        const open = sumOf(traces.filter(({ state }) => state === "admitted").map(({ cost }) => cost));
        expect(left.held, at).toBeGreaterThanOrEqual(open);
        unspent += left.held - sumOf(traces.filter(isUnderWay).map(({ cost }) => cost));
        if (revalidateMs === undefined) expectWithinBounds(after - before, traces, key, at);
        expect(left.used + left.held, at).toBeLessThanOrEqual(quota ?? Number.POSITIVE_INFINITY);
        expect(await touch(address, key), at).toBe(after);
      }
      for (const { worker } of await next) worker.signal("SIGKILL");
      console.log(
        `left behind by ${rounds} times ${TOGETHER} processes: ${JSON.stringify(count)}, ${unspent} unspent`,
      );
      for (const [what, many] of Object.entries(count)) expect(many, what).toBeGreaterThan(0);
    }
  });

  // There is no SIGSTOP on Windows.
  describe.skipIf(process.platform === "win32" || make === undefined)(
    "a process that was stopped and comes back",
    () => {
      test("amid eight requests: everything is charged as it was in the end, once", async () => {
        const random = randomFrom(BASE_SEED + 1);
        const { address, keys } = await newKeys(make as () => Promise<Place>);
        const { worker, log } = await startVictim(address);
        const secrets = keys.map(({ secret }) => secret);
        let open = 0;
        for (let round = 0; round < stops; round += 1) {
          const at = `KEYSTILE_SEED=${BASE_SEED} round ${round}`;
          await worker.call("begin", {
            seed: random.between(0, 2 ** 31),
            secrets,
            loops: LOOPS,
          } satisfies Victim);
          await sleep(random.between(2, 25));
          await stopOutsideLocks(worker, address);
          // Within the hour, so that the memory of the collection is still there.
          advanceClock(random.between(HOLDS_EXPIRE_MS, 20 * 60_000));
          const traces = readTraces(log);
          open += traces.filter(isUnderWay).length;
          for (const [k, key] of keys.entries()) {
            // Stopped or dead is the same to everybody else.
            expectWithinBounds(
              await touch(address, key),
              traces.filter((trace) => trace.key === k),
              key,
              at,
            );
          }
          worker.signal("SIGCONT");
          await worker.call("end");

          const settled = readTraces(log);
          expect(settled.filter(isUnderWay), at).toEqual([]);
          for (const [k, key] of keys.entries()) {
            const cost = sumOf(settled.filter((trace) => trace.key === k).map(({ actual }) => actual));
            expect(await touch(address, key), `${at} ${key.onCrash}`).toBe(cost);
          }
        }
        console.log(`${open} requests were open while their process stood still`);
        expect(open).toBeGreaterThan(0);
        worker.signal("SIGKILL");
      });

      test("with holds only: collected, then corrected, each once", async () => {
        const { address, keys } = await newKeys(make as () => Promise<Place>);
        const { worker } = await startVictim(address);
        const costs = [5, 7, 11];
        for (const key of keys) {
          await worker.call("hold", { secret: key.secret, costs });
          await stopOutsideLocks(worker, address);
          advanceClock(HOLDS_EXPIRE_MS);
          const collected = key.onCrash === "charge" ? sumOf(costs) : 0;
          expect(await touch(address, key)).toBe(collected);
          expect(await touch(address, key)).toBe(collected);
          worker.signal("SIGCONT");
          // Less than estimated, more, and nothing.
          await worker.call("settle", [2, 9, 0]);
          expect(await touch(address, key)).toBe(11);
        }
        worker.signal("SIGKILL");
      });

      test("after more than an hour: what was booked then stands", async () => {
        const { address, keys } = await newKeys(make as () => Promise<Place>);
        const { worker } = await startVictim(address);
        for (const key of keys) {
          await worker.call("hold", { secret: key.secret, costs: [5, 7] });
          await stopOutsideLocks(worker, address);
          advanceClock(HOLDS_EXPIRE_MS);
          const collected = await touch(address, key);
          expect(collected).toBe(key.onCrash === "charge" ? 12 : 0);
          advanceClock(HOUR_MS);
          expect(await touch(address, key)).toBe(collected);
          worker.signal("SIGCONT");
          await worker.call("settle", [1, 1]);
          expect(await touch(address, key)).toBe(collected);

          await worker.call("hold", { secret: key.secret, costs: [3] });
          await worker.call("settle", [2]);
          expect(await touch(address, key)).toBe(collected + 2);
        }
        worker.signal("SIGKILL");
      });
    },
  );
});
