/**
 * An hour of a busy gate, with a clock that is moved: known keys of every kind, unknown keys and addresses by the hundred
 * thousand, listeners that throw. Then an end with requests in flight. Prints what it has seen as JSON, and must end by
 * itself: nothing may be left that keeps a process alive. Needs --expose-gc.
 */
import { setImmediate as nextTurn } from "node:timers/promises";
import {
  type Allowed,
  createKeystile,
  type Decision,
  isKeystileError,
  type Keystile,
  type Runtime,
  type Store,
} from "keystile";
import { memoryStore } from "keystile/memory";
import { sqliteStore } from "keystile/sqlite";
import { manualClock } from "keystile/testing";
import { type Random, randomFrom } from "../../model/random.ts";

export interface Endurance {
  /** `memory`, or a file of SQLite. */
  readonly store: string;
  readonly seed: number;
  readonly requests: number;
  /** So many more with each batch of 250, of strangers: each an unknown key from an address of its own. */
  readonly flood: number;
}

export interface Endured {
  readonly requests: number;
  readonly unknownKeys: number;
  readonly addresses: number;
  readonly outcomes: Readonly<Record<string, number>>;
  readonly eventsTold: number;
  readonly virtualMs: number;
  /** Bytes in use after a forced collection: at a tenth of the way, and at every tenth after it. */
  readonly heap: readonly number[];
  readonly unhandled: readonly string[];
  /** Keys of which the store says something else than what was booked. */
  readonly wrongBooks: readonly string[];
  readonly close: {
    readonly inFlight: number;
    readonly held: number;
    readonly allowed: number;
    readonly refused: number;
    readonly closed: number;
    readonly others: readonly string[];
    readonly unwritten: number;
    readonly timersLeft: number;
    readonly storeClosedByGate: number;
  };
}

const BATCH = 250;
/** An hour in so many requests. */
const HOUR_MS = 3_600_000;
const KEYS = 300;
const REQUEST_TIMEOUT_MS = 60_000;
const USAGE = {
  ...{ model: "gpt-1", inputTokens: 5, outputTokens: 6 },
  ...{ cachedInputTokens: 0, cacheWriteTokens: 0, reasoningTokens: 0 },
};

const { store: where, seed, requests, flood } = JSON.parse(process.argv[2] ?? "{}") as Endurance;
const collectGarbage = (globalThis as { gc?: () => void }).gc as () => void;
const random: Random = randomFrom(seed);
const clock = manualClock();
const startMs = clock.now();
const timers = new Map<object, { readonly run: () => void; readonly atMs: number }>();
const unhandled: string[] = [];
process.on("unhandledRejection", (reason) => unhandled.push(String(reason)));
process.on("uncaughtException", (error) => unhandled.push(String(error)));

let storeClosed = 0;
let eventsTold = 0;
let unknownKeys = 0;
let addresses = 0;
let isStoreSlow = false;
const outcomes: Record<string, number> = {};
const booked = new Map<string, number>();
const left: { readonly decision: Allowed; readonly sinceMs: number }[] = [];

const runtime: Runtime = {
  monotonicMs: clock.now,
  setTimer(run, ms) {
    const timer = {};
    timers.set(timer, { run, atMs: clock.now() + ms });
    return () => void timers.delete(timer);
  },
  random: random.next,
  randomBytes: (size) => Uint8Array.from({ length: size }, () => below(256)),
};

function advance(ms: number): void {
  clock.advance(ms);
  for (const [timer, { run, atMs }] of [...timers]) {
    if (atMs > clock.now() || !timers.delete(timer)) continue;
    run();
  }
}

function below(bound: number): number {
  return random.between(0, bound - 1);
}

/** Waits for work that may itself wait for the clock. */
async function settled<T>(work: Promise<T>): Promise<T> {
  let isOver = false;
  const over = (): void => {
    isOver = true;
  };
  work.then(over, over);
  for (let turn = 0; !isOver; turn++) {
    await nextTurn();
    if (turn > 50) advance(1);
  }
  return work;
}

async function openStore(): Promise<Store> {
  if (where === "memory") return memoryStore({ clock: clock.now });
  const store = sqliteStore(where, { clock: clock.now });
  await store.setup();
  return store;
}

function listenBadly(gate: Keystile): void {
  gate.on("*", () => {
    eventsTold += 1;
    throw new Error("A listener that throws.");
  });
  gate.on("request.refused", () => Promise.reject(new Error("A listener that rejects.")));
  gate.on("request.allowed", async () => {
    throw new Error("A listener that rejects later.");
  });
}

interface Known {
  readonly secret: string;
  readonly keyId: string;
}

async function issueKeys(gate: Keystile): Promise<readonly Known[]> {
  const account = await gate.accounts.open({ owner: "endurer" });
  await gate.accounts.credit(account.id, { id: "all", amount: 1_000_000_000 });
  const kinds = [
    {},
    { quota: 1_000_000_000 },
    { quota: 8 },
    { limits: [{ requests: 100_000, windowMs: 60_000, per: "model" as const }] },
    { limits: [{ inFlight: 50 }, { tokens: 1_000_000, windowMs: 60_000 }] },
    { account: account.id, quota: 1_000_000 },
    { allowedModels: ["gpt-*"], allowedIps: ["10.0.0.0/8"] },
    { limits: [{ requests: 2, windowMs: 60_000 }] },
  ];
  const keys: Known[] = [];
  for (let n = 0; n < KEYS; n++) {
    const { secret, key } = await settled(gate.keys.issue(kinds[n % kinds.length] ?? {}));
    keys.push({ secret, keyId: key.id });
    if (n % 16 === 15) await settled(gate.keys.disable(key.id));
  }
  return keys;
}

function count(outcome: string): void {
  outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
}

function book(keyId: string, cost: number): void {
  booked.set(keyId, (booked.get(keyId) ?? 0) + cost);
}

function newAddress(): string {
  const n = addresses++;
  return n % 2 === 0
    ? `11.${(n >> 16) & 255}.${(n >> 8) & 255}.${n & 255}`
    : `2001:db8:${(n >> 8).toString(16)}:${(n & 255).toString(16)}::1`;
}

async function request(gate: Keystile, keys: readonly Known[]): Promise<void> {
  const known = random.pick(keys);
  const kind = below(100);
  if (kind < 20) unknownKeys += 1;
  const secret =
    kind < 20 ? `sk-${String(unknownKeys).padStart(48, "u")}` : kind < 25 ? "sk-short" : known.secret;
  const model = below(4) === 0 ? `made-up-${below(1_000_000)}` : `gpt-${below(5)}`;
  const headers = kind < 28 && kind >= 25 ? {} : { authorization: `Bearer ${secret}` };
  const cost = below(5);
  const decision = await gate.authorize({
    headers,
    address: below(10) === 0 ? newAddress() : `10.0.0.${below(200)}`,
    model,
    cost,
    tokens: 10,
  });
  count(decision.allowed ? "allowed" : decision.refusal.reason);
  if (!decision.allowed) return;
  endSomehow(decision, cost);
}

function endSomehow(decision: Allowed, estimate: number): void {
  const way = below(20);
  const actual = below(4);
  if (way === 0) {
    // Nobody ends it: the gate does, when its time is out.
    if (below(2) === 0) {
      decision.observe(actual);
      book(decision.key.id, actual);
    } else book(decision.key.id, estimate);
    return void left.push({ decision, sinceMs: clock.now() });
  }
  if (way < 5) return void decision.void();
  book(decision.key.id, actual);
  void decision.settle(actual, { ...USAGE });
}

async function strange(gate: Keystile): Promise<void> {
  const decision = await gate.authorize({
    headers: { "x-api-key": `sk-${String(unknownKeys++).padStart(48, "v")}` },
    address: newAddress(),
  });
  count(decision.allowed ? "allowed" : decision.refusal.reason);
}

/** A key that lives for one request. */
async function churn(gate: Keystile): Promise<void> {
  const { secret, key } = await gate.keys.issue({ quota: 10 });
  const decision = await gate.authorize({ headers: { "x-api-key": secret }, address: "10.0.0.1" });
  if (decision.allowed) await decision.settle();
  await gate.keys.rotate(key.id);
  await gate.keys.revoke(key.id);
  await gate.keys.purge(key.id);
}

function heapNow(): number {
  collectGarbage();
  collectGarbage();
  const { heapUsed, external, arrayBuffers } = process.memoryUsage();
  return heapUsed + external + arrayBuffers;
}

async function endWithRequestsInFlight(gate: Keystile, keys: readonly Known[]): Promise<Endured["close"]> {
  const held = await Promise.all(
    keys
      .slice(0, 100)
      .map(({ secret }) =>
        gate.authorize({ headers: { "x-api-key": secret }, address: "10.0.0.1", model: "gpt-1", cost: 3 }),
      ),
  );
  for (const decision of held) if (decision.allowed) book(decision.key.id, 3);
  const send = (some: readonly Known[]): readonly Promise<Decision>[] =>
    some.map(({ secret }) =>
      gate.authorize({ headers: { "x-api-key": secret }, address: "10.0.0.1", model: "gpt-1", cost: 2 }),
    );
  // When it closes, the first half is being written, and the other has just come in.
  isStoreSlow = true;
  const first = send(keys.slice(0, KEYS / 2));
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
  const sent = [...first, ...send(keys.slice(KEYS / 2))];
  const closing = gate.close();
  const ended = Promise.allSettled(sent).then((results) => {
    const tally = { allowed: 0, refused: 0, closed: 0, others: [] as string[] };
    for (const result of results) {
      if (result.status === "rejected") {
        if (isKeystileError(result.reason) && result.reason.code === "closed") tally.closed += 1;
        else tally.others.push(String(result.reason));
      } else if (result.value.allowed) {
        tally.allowed += 1;
        book(result.value.key.id, 2);
      } else tally.refused += 1;
    }
    return tally;
  });
  // Nobody ends what is held, so the time to drain has to pass.
  for (let ms = 0; ms < 12_000; ms += 100) {
    await nextTurn();
    advance(100);
  }
  const { unwritten } = await settled(closing);
  const tally = await ended;
  await gate.authorize({ headers: {} }).then(
    () => tally.others.push("admitted after close"),
    (error: unknown) => isKeystileError(error) || tally.others.push(String(error)),
  );
  return {
    ...tally,
    ...{ inFlight: sent.length, held: held.filter(({ allowed }) => allowed).length, unwritten },
    ...{ timersLeft: timers.size, storeClosedByGate: storeClosed },
  };
}

async function endure(): Promise<Endured> {
  const opened = await openStore();
  const store: Store = {
    ...opened,
    async write(groups) {
      if (isStoreSlow) await nextTurn();
      return opened.write(groups);
    },
    close() {
      storeClosed += 1;
      return opened.close();
    },
  };
  const options = { store, runtime, requestTimeoutMs: REQUEST_TIMEOUT_MS, cacheSize: 100 };
  const gate = createKeystile({ ...options, addressLimit: { requests: 1_000_000, windowMs: 60_000 } });
  listenBadly(gate);
  const keys = await settled(issueKeys(gate));

  // What is bounded is to be full when its growth is measured: there are 10,000 counts of addresses.
  if (flood > 0) await settled(Promise.all(Array.from({ length: 11_000 }, () => strange(gate))));

  const heap: number[] = [];
  const batches = Math.ceil(requests / BATCH);
  for (let batch = 0; batch < batches; batch++) {
    const work = Array.from({ length: BATCH }, () => request(gate, keys));
    const flooded = Array.from({ length: flood }, () => strange(gate));
    await settled(Promise.all([...work, ...flooded, ...(batch % 4 === 0 ? [churn(gate)] : [])]));
    advance(HOUR_MS / batches);
    while (left[0] !== undefined && left[0].sinceMs < clock.now() - 2 * REQUEST_TIMEOUT_MS) left.shift();
    if (Math.floor(((batch + 1) * 10) / batches) > heap.length) heap.push(heapNow());
  }
  const virtualMs = clock.now() - startMs;
  for (let ms = 0; ms < 3 * REQUEST_TIMEOUT_MS; ms += 5_000) {
    await nextTurn();
    advance(5_000);
  }
  await settled(gate.flush());
  const close = await endWithRequestsInFlight(gate, keys);

  const wrongBooks: string[] = [];
  for (const { keyId } of keys) {
    const { used, held } = (await settled(gate.keys.get(keyId)))?.quota ?? { used: -1, held: -1 };
    const expected = booked.get(keyId) ?? 0;
    if (used !== expected || held !== 0) wrongBooks.push(`${keyId}: ${used} of ${expected}, ${held} held`);
  }
  await store.close();
  return {
    ...{ requests: batches * BATCH, unknownKeys, addresses, outcomes, eventsTold, virtualMs },
    ...{ heap, unhandled, wrongBooks, close },
  };
}

console.log(JSON.stringify(await endure()));
