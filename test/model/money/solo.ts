import type { Keystile } from "../../../src/keystile.js";
import type { Statistics } from "../account.js";
import { storeClock } from "../clock.js";
import { createProcesses } from "../processes.js";
import { randomFrom } from "../random.js";
import { drawScenario } from "../scenario.js";
import type { Outcome, Violation } from "../simulator.js";
import { createTimeline } from "../timeline.js";
import { trueStore } from "../true-store.js";
import { warm } from "../warming.js";
import { THRESHOLDS } from "./alerts.js";
import type { Price } from "./books.js";
import {
  type AccountBody,
  countsOf,
  type DayBody,
  heldIn,
  type KeyBody,
  cycleOf as storedCycleOf,
} from "./documents.js";
import { admit, cycleEndMs, cycleOf, type ReferenceHold, settle, turn } from "./reference.js";
import type { CreateGate } from "./simulator.js";
import { createSoloOperators, type SoloAccount, type SoloKey } from "./solo-operators.js";

type Decision = Awaited<ReturnType<Keystile["authorize"]>>;

interface Open {
  readonly account: SoloAccount;
  readonly key: SoloKey;
  readonly hold: ReferenceHold;
  readonly decision: Extract<Decision, { allowed: true }>;
  readonly cost: Price;
  readonly sinceMs: number;
}

const HOUR_MS = 3_600_000;
const START_MS = Date.UTC(2026, 1, 27, 22);
/** Requests are ended before the package itself would settle them. */
const LONGEST_MS = 16 * HOUR_MS;

/**
 * Plays one seeded history in which nothing happens at the same time, in several processes without any fault: every
 * answer, every amount held and used, and every count has to be the one of the reference.
 */
export async function simulateSolo(
  create: CreateGate,
  { seed, operations }: { readonly seed: number; readonly operations: number },
): Promise<Outcome> {
  const random = randomFrom(seed);
  const drawn = drawScenario(random, "calm");
  const scenario = { ...drawn, holdMs: 24 * HOUR_MS, latencyMs: 5, cacheSize: random.pick([1, 100]) };
  const statistics: Statistics = {};
  const clock = storeClock(START_MS);
  const timeline = createTimeline(random, 40, () => violation !== undefined);
  const { nowMs, step, note, advanceBy } = timeline;
  let violation: Violation | undefined;
  const stored = new Map<string, unknown>();
  const store = trueStore(({ id, body }) => void stored.set(id, body));
  const processes = createProcesses<Keystile>({
    ...{ random, scenario, timeline, clock, count, fail },
    create: (options) => create({ ...options, alerts: THRESHOLDS }),
    storeOf: () => store,
    isOver: () => violation !== undefined,
    ...{ onSent: () => {}, onStarted: () => {}, onCrashed: () => {} },
  });
  const accounts: SoloAccount[] = [];
  const answer = async <T>(promise: Promise<T>): Promise<T> =>
    (await processes.settled(promise, "a call")) as T;
  const operators = createSoloOperators({ random, timeline, clock, processes, stored, answer, count, fail });
  const open: Open[] = [];

  await warm(create);
  for (let started = 0; started < scenario.processes; started++) processes.start();
  for (let opened = 0; opened < 2; opened++) accounts.push(await operators.open(`account${opened}`));
  for (let done = 0; done < operations && violation === undefined; done++) {
    const account = random.pick(accounts);
    await avoidBoundaries();
    for (const one of accounts) turn(one.reference, clock.at(nowMs()));
    await (random.chance(0.75) ? traffic(account) : operators.operate(account));
    for (const one of accounts) compare(one);
    await pass();
  }
  while (open.length > 0 && violation === undefined) await end(0);
  for (const { subject } of processes.all) await processes.settled(subject.flush(60_000), "the last flush");
  for (const account of accounts) for (const key of account.keys) judgeCounts(key);
  return { steps: step(), statistics, violation };

  // ── what happens ────────────────────────────────────────────────────────────────────────────────────────────

  async function traffic(account: SoloAccount): Promise<void> {
    if (open.length > 0 && random.chance(0.5)) await end(random.between(0, open.length - 1));
    else await request(account);
  }

  async function request(account: SoloAccount): Promise<void> {
    const key = random.pick(account.keys);
    const amount = (): number => random.pick([0, 1, random.between(1, 40), random.between(1, 200)]);
    const cost = random.chance(0.25) ? { subscription: amount(), balance: amount() } : amount();
    const expected = admit(account.reference, key.reference, cost, clock.at(nowMs()));
    const headers = { authorization: `Bearer ${key.secret}` };
    const decision = await answer(processes.any().subject.authorize({ headers, cost }));
    note(`${JSON.stringify(cost)} of ${key.id}: ${JSON.stringify(decision)}`);
    if ("reason" in expected) {
      const answer = decision.allowed
        ? "allowed"
        : `${decision.refusal.reason} ${decision.refusal.held ?? ""}`;
      count(`refused ${expected.reason}${expected.held === true ? " held" : ""}`);
      if (answer !== `${expected.reason} ${expected.held ?? ""}`)
        fail(
          "answers-by-the-law",
          `${JSON.stringify(cost)}: ${answer}, should be ${JSON.stringify(expected)}`,
        );
      return;
    }
    count("allowed");
    if (expected.purses.size > 1) count("split");
    if (!decision.allowed) {
      fail("answers-by-the-law", `${JSON.stringify(cost)}: ${decision.refusal.reason}, should be allowed`);
      return;
    }
    open.push({ account, key, hold: expected, decision, cost, sinceMs: nowMs() });
  }

  async function end(at: number): Promise<void> {
    const [ended] = open.splice(at, 1);
    if (ended === undefined) return;
    const { account, key, hold, decision, cost } = ended;
    turn(account.reference, clock.at(nowMs()));
    // The package remembers what a closed cycle allowed for those who hold something of it.
    const isForgotten = hold.total === 0 && hold.cycle !== "" && hold.cycle !== cycleOf(account.reference);
    const isVoid = isForgotten || random.chance(0.15);
    const actual = isVoid ? 0 : drawActual(cost);
    settle(account.reference, key.reference, hold, actual);
    note(`${JSON.stringify(cost)} of ${key.id} ends with ${isVoid ? "void" : JSON.stringify(actual)}`);
    count(isVoid ? "voided" : "settled");
    if (cycleOf(account.reference) !== hold.cycle && hold.cycle !== "") count("settled in a closed cycle");
    // What held nothing and cost nothing is counted best effort.
    if (hold.total > 0) key.counted[isVoid ? "voided" : "settled"] += 1;
    await answer(isVoid ? decision.void() : decision.settle(actual));
  }

  function drawActual(cost: Price): Price {
    const draw = (amount: number): number =>
      random.pick([amount, amount, random.between(0, amount), 2 * amount, random.between(0, 300)]);
    if (typeof cost === "number") return draw(cost);
    return { subscription: draw(cost.subscription), balance: draw(cost.balance) };
  }

  // ── time ────────────────────────────────────────────────────────────────────────────────────────────────────

  async function pass(): Promise<void> {
    const untilMs =
      nowMs() + random.pick([0, 0, 60_000, HOUR_MS, 8 * HOUR_MS, random.chance(0.2) ? 40 * HOUR_MS : 0]);
    while (nowMs() < untilMs && violation === undefined) {
      await advanceBy(Math.min(2 * HOUR_MS, untilMs - nowMs()));
      while (open.some(isOld)) await end(open.findIndex(isOld));
    }
  }

  function isOld({ sinceMs }: Open): boolean {
    return nowMs() - sinceMs > LONGEST_MS;
  }

  /** Nothing is asked so near to an instant at which the answer changes that it could be judged on either side. */
  async function avoidBoundaries(): Promise<void> {
    const instants = accounts.flatMap(({ reference: { subscription } }) =>
      subscription === undefined
        ? []
        : [cycleEndMs(subscription), subscription.endsAtMs ?? 0, subscription.unpaidFromMs ?? 0],
    );
    while (instants.some((ms) => Math.abs(ms - clock.at(nowMs())) < 3_000)) await advanceBy(4_000);
  }

  // ── the books ───────────────────────────────────────────────────────────────────────────────────────────────

  function compare({ id, reference, keys }: SoloAccount): void {
    const body = stored.get(`account:${id}`) as AccountBody;
    const cycle = cycleOf(reference);
    const held = heldIn(body);
    const purses = new Set([...Object.keys(body.used), ...reference.used.keys(), ...reference.held.keys()]);
    for (const purse of purses) {
      const [isUsed, isHeld] = [body.used[purse] ?? 0, held[purse] ?? 0];
      const [used, holds] = [reference.used.get(purse) ?? 0, reference.held.get(purse) ?? 0];
      const isForgotten =
        !purse.endsWith("@0") && !purse.endsWith(`@${cycle}`) && isUsed === 0 && holds === 0;
      if ((isUsed !== used && !isForgotten) || isHeld !== holds)
        fail(
          "books-by-the-law",
          `${purse} of ${id} has ${isUsed} and ${isHeld}, should have ${used} and ${holds}`,
        );
    }
    if (body.credited !== reference.credited) fail("books-by-the-law", `${body.credited} credited`);
    const { subscription } = body;
    if (subscription !== undefined && storedCycleOf(body) === cycle) {
      const allowance = reference.allowances.get(cycle);
      if (subscription.current.allowance !== allowance)
        fail(
          "books-by-the-law",
          `${subscription.current.allowance} allowed in ${cycle}, should be ${allowance}`,
        );
    }
    for (const { id: keyId, reference: key } of keys) {
      const is = stored.get(`key:${keyId}`) as KeyBody;
      if ((is.used["key@0"] ?? 0) !== key.used || (heldIn(is)["key@0"] ?? 0) !== key.held)
        fail(
          "books-by-the-law",
          `${keyId} has ${JSON.stringify(is.used)}, should have ${key.used}, ${key.held}`,
        );
    }
  }

  /** Over all days, a key has counted every request that cost or held something, once. */
  function judgeCounts({ id, counted }: SoloKey): void {
    const days = [...stored]
      .filter(([name]) => name.startsWith(`usage:${id}.`))
      .map(([, body]) => body as DayBody);
    const { tally } = stored.get(`key:${id}`) as KeyBody;
    const all = [...days, ...(tally === undefined ? [] : [tally])];
    for (const outcome of ["settled", "voided"] as const) {
      const requests = all.reduce((sum, day) => sum + countsOf(day, [outcome])[0], 0);
      if (requests < counted[outcome])
        fail("counters-agree", `${id} counts ${requests} ${outcome}, there were ${counted[outcome]}`);
    }
  }

  function fail(invariant: string, detail: string): void {
    if (violation !== undefined) return;
    const report = `"${invariant}" broken: seed ${seed}, one at a time, step ${step()}: ${detail}\n`;
    violation = { invariant, report: `${report}${timeline.latestEvents()}` };
  }

  function count(name: string): void {
    statistics[name] = (statistics[name] ?? 0) + 1;
  }
}
