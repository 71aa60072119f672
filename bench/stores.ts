/**
 * The same requests over real stores, held and booked, beside the least that each store must do for a counter: one
 * guarded UPDATE or one scripted increment per request, which authenticates nobody and decides nothing else.
 */
import { DatabaseSync } from "node:sqlite";
import type { KeystileOptions } from "keystile";
import { Pool } from "pg";
import { createClient } from "redis";
import { openStore } from "../test/system/workers/open-store.ts";
import { percentile } from "./figures.ts";
import { ADDRESS, bearer, MODEL, makeKeys, openGate, pass, passing } from "./gate.ts";
import { peer } from "./peer.ts";
import type { Entry } from "./rounds.ts";
import type { places } from "./servers.ts";
import { ask, type Load, repeat, type Sample, type Subject, type Subjects } from "./subject.ts";

const KEYS = 10_000;
const QUOTA = 1_000_000_000;

export const subjects: Subjects = {
  "postgres floor": postgresFloor,
  "redis floor": redisFloor,
  "sqlite floor": sqliteFloor,
  keystile: (address) => throughStore(address, "strict", {}),
  leased: (address) => throughStore(address, "leased", { leases: true }),
  "postgres better-auth": (address) => peer("better-auth", "postgres", address),
  "sqlite better-auth": (address) => peer("better-auth", "sqlite", address),
  "postgres rate-limiter-flexible": (address) => peer("rate-limiter-flexible", "postgres", address),
  "redis rate-limiter-flexible": (address) => peer("rate-limiter-flexible", "redis", address),
  "sqlite rate-limiter-flexible": (address) => peer("rate-limiter-flexible", "sqlite", address),
};

/** What is asked of which store, and of whom. */
const SCENARIOS = {
  "hot key": { keys: 1, callers: 64 },
  "10,000 keys": { keys: KEYS, callers: 256 },
  "one caller": { keys: 1, callers: 1 },
};

type Kind = keyof typeof places;

const ASKED: Readonly<Record<Kind, Readonly<Record<string, readonly string[]>>>> = {
  postgres: {
    "hot key": ["floor", "keystile", "leased", "rate-limiter-flexible", "better-auth"],
    "10,000 keys": ["floor", "keystile", "leased", "rate-limiter-flexible"],
    "one caller": ["floor", "keystile", "leased", "rate-limiter-flexible", "better-auth"],
  },
  redis: {
    "hot key": ["floor", "keystile", "leased", "rate-limiter-flexible"],
    "10,000 keys": ["floor", "keystile", "leased", "rate-limiter-flexible"],
    "one caller": ["floor", "keystile", "leased", "rate-limiter-flexible"],
  },
  sqlite: {
    "hot key": ["floor", "keystile", "leased", "rate-limiter-flexible", "better-auth"],
    "10,000 keys": ["floor", "keystile", "leased"],
  },
};

export function entries(kind: Kind, address: string): readonly Entry[] {
  return Object.entries(ASKED[kind]).flatMap(([name, contenders]) =>
    contenders.map((contender) => ({
      ...{ part: "stores", scenario: `${kind}, ${name}`, contender, address },
      subject: ["keystile", "leased"].includes(contender) ? contender : `${kind} ${contender}`,
      load: SCENARIOS[name as keyof typeof SCENARIOS],
    })),
  );
}

async function throughStore(
  address: string,
  tag: string,
  options: Partial<KeystileOptions>,
): Promise<Subject> {
  const { store, close } = openStore(address);
  await store.setup();
  const secrets = await makeKeys(store, KEYS, tag);
  const gate = openGate(store, options);

  const measure = passing(gate, secrets);
  let isWarm = false;

  /** Every key has been asked for once: a round is too short for that, and reading it costs more than a decision. */
  async function warm({ keys, callers }: Load): Promise<void> {
    if (isWarm || keys === 1) return;
    isWarm = true;
    for (let from = 0; from < keys; from += callers) {
      await Promise.all(secrets.slice(from, from + callers).map((secret) => pass(gate, bearer(secret))));
    }
    await gate.flush();
  }

  async function waited(key: number): Promise<number> {
    const startedAtMs = performance.now();
    const request = { headers: bearer(secrets[key] ?? ""), address: ADDRESS, model: MODEL, cost: 1 };
    const decision = await gate.authorize(request);
    const waitedMs = performance.now() - startedAtMs;
    if (!decision.allowed) throw new Error(decision.refusal.message);
    // Booked while the client gets its answer: in the time of the store, but not of the request. Under a lease it is
    // booked when that is written next, and nobody waits for that.
    if (options.leases === undefined) await decision.settle();
    else void decision.settle();
    return waitedMs;
  }

  return {
    async measure(load) {
      await warm(load);
      return load.callers === 1 ? timedEach(load, waited) : measure(load);
    },
    async close() {
      await gate.close();
      await close();
    },
  };
}

/** How long each request waits, and how many pass a second. */
async function timedEach(load: Load, request: (key: number) => Promise<number>): Promise<Sample> {
  const waits: number[] = [];
  const sample = await ask(load, async (key) => waits.push(await request(key)));
  return { ...sample, figures: { waitMs: percentile(waits, 50), waitP99Ms: percentile(waits, 99) } };
}

async function timed(request: (key: number) => Promise<unknown>, key: number): Promise<number> {
  const startedAtMs = performance.now();
  await request(key);
  return performance.now() - startedAtMs;
}

function measured(request: (key: number) => Promise<unknown>): Subject["measure"] {
  return (load) => (load.callers === 1 ? timedEach(load, (key) => timed(request, key)) : ask(load, request));
}

async function postgresFloor(address: string): Promise<Subject> {
  const pool = new Pool({ connectionString: address, max: 16 });
  await pool.query(
    "CREATE TABLE floor (id integer PRIMARY KEY, used bigint NOT NULL) WITH (fillfactor = 50)",
  );
  await pool.query(`INSERT INTO floor SELECT n, 0 FROM generate_series(0, ${KEYS - 1}) n`);
  await pool.query("ANALYZE floor");

  async function spend(key: number): Promise<void> {
    const { rowCount } = await pool.query({
      name: "spend",
      text: "UPDATE floor SET used = used + 1 WHERE id = $1 AND used + 1 <= $2",
      values: [key, QUOTA],
    });
    if (rowCount !== 1) throw new Error("It was to be spent.");
  }

  return { measure: measured(spend), close: () => pool.end() };
}

const SPEND = `
local used = tonumber(redis.call("GET", KEYS[1]) or "0")
if used + 1 > tonumber(ARGV[1]) then return 0 end
redis.call("INCRBY", KEYS[1], 1)
return 1`;

async function redisFloor(address: string): Promise<Subject> {
  // Of the usual clients the one that takes least for a call: all of one turn of the event loop go in one packet.
  const client = createClient({ url: address });
  await client.connect();
  const script = await client.scriptLoad(SPEND);

  async function spend(key: number): Promise<void> {
    const reply = await client.sendCommand(["EVALSHA", script, "1", `floor:${key}`, String(QUOTA)]);
    if (Number(reply) !== 1) throw new Error("It was to be spent.");
  }

  return { measure: measured(spend), close: async () => client.destroy() };
}

/** One after the other, since a call blocks its process: with more callers nothing would change. */
async function sqliteFloor(address: string): Promise<Subject> {
  const database = new DatabaseSync(`${address}.floor`);
  database.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL");
  database.exec("CREATE TABLE floor (id INTEGER PRIMARY KEY, used INTEGER NOT NULL)");
  const insert = database.prepare("INSERT INTO floor VALUES (?, 0)");
  database.exec("BEGIN");
  for (let key = 0; key < KEYS; key++) insert.run(key);
  database.exec("COMMIT");
  const spend = database.prepare("UPDATE floor SET used = used + 1 WHERE id = ? AND used + 1 <= ?");
  return {
    measure: (load) => repeat(load, (turn) => Number(spend.run(turn % load.keys, QUOTA).changes)),
    close: async () => database.close(),
  };
}
