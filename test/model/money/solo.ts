import type { Keystile } from "../../../src/keystile.js";
import type { Statistics } from "../account.js";
import { storeClock } from "../clock.js";
import { createProcesses } from "../processes.js";
import { randomFrom } from "../random.js";
import { drawScenario } from "../scenario.js";
import type { Outcome, Violation } from "../simulator.js";
import { createTimeline } from "../timeline.js";
import { trueStore } from "../true-store.js";
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
import {
  admit,
  cycleEndMs,
  cycleOf,
  hasEnded,
  newReference,
  type ReferenceAccount,
  type ReferenceHold,
  type ReferenceKey,
  settle,
  turn,
} from "./reference.js";
import { drawPayAsYouGo } from "./scenario.js";
import type { CreateGate } from "./simulator.js";

type Decision = Awaited<ReturnType<Keystile["authorize"]>>;

interface SoloAccount {
  readonly id: string;
  readonly reference: ReferenceAccount;
  readonly keys: SoloKey[];
  entries: number;
}

interface SoloKey {
  readonly id: string;
  readonly secret: string;
  readonly reference: ReferenceKey;
  readonly counted: { settled: number; voided: number };
}

interface Open {
  readonly account: SoloAccount;
  readonly key: SoloKey;
  readonly hold: ReferenceHold;
  readonly decision: Extract<Decision, { allowed: true }>;
  readonly cost: Price;
  readonly sinceMs: number;
}

const DAY_MS = 86_400_000;
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
  const open: Open[] = [];

  for (let started = 0; started < scenario.processes; started++) processes.start();
  for (let opened = 0; opened < 2; opened++) await openAccount(`account${opened}`);
  for (let done = 0; done < operations && violation === undefined; done++) {
    const account = random.pick(accounts);
    await avoidBoundaries();
    for (const one of accounts) turn(one.reference, clock.at(nowMs()));
    await (random.chance(0.75) ? traffic(account) : operate(account));
    for (const one of accounts) compare(one);
    await pass();
  }
  while (open.length > 0 && violation === undefined) await end(0);
  for (const { subject } of processes.all) await processes.settled(subject.flush(60_000), "the last flush");
  for (const account of accounts) for (const key of account.keys) judgeCounts(key);
  return { steps: step(), statistics, violation };

  // ── what happens ────────────────────────────────────────────────────────────────────────────────────────────

  async function openAccount(name: string): Promise<void> {
    const { accounts: money } = processes.any().subject;
    const reference = newReference();
    reference.payAsYouGo = drawPayAsYouGo(random);
    const view = await done(money.open({ name, payAsYouGo: reference.payAsYouGo }));
    const account: SoloAccount = { id: view.id, reference, keys: [], entries: 0 };
    accounts.push(account);
    for (let issued = 0; issued < 3; issued++)
      await issue(account, issued === 0 ? "balance" : "subscription");
    await credit(account, random.between(1, 400));
    await subscribe(account);
  }

  async function issue(account: SoloAccount, pays: ReferenceKey["pays"]): Promise<void> {
    const quota = random.pick([null, null, random.between(10, 900)]);
    const kind = pays === "balance" ? "standard" : "subscription";
    const { keys } = processes.any().subject;
    const { secret, key } = await done(keys.issue({ account: account.id, kind, quota }));
    const reference = { pays, quota, used: 0, held: 0 };
    account.keys.push({ id: key.id, secret, reference, counted: { settled: 0, voided: 0 } });
  }

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
    const decision = await done(processes.any().subject.authorize({ headers, cost }));
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
    const isVoid = random.chance(0.15);
    const actual = isVoid ? 0 : drawActual(cost);
    settle(account.reference, key.reference, hold, actual);
    note(`${JSON.stringify(cost)} of ${key.id} ends with ${isVoid ? "void" : JSON.stringify(actual)}`);
    count(isVoid ? "voided" : "settled");
    if (cycleOf(account.reference) !== hold.cycle && hold.cycle !== "") count("settled in a closed cycle");
    // What held nothing and cost nothing is counted best effort.
    if (hold.total > 0) key.counted[isVoid ? "voided" : "settled"] += 1;
    await done(isVoid ? decision.void() : decision.settle(actual));
  }

  function drawActual(cost: Price): Price {
    const draw = (amount: number): number =>
      random.pick([amount, amount, random.between(0, amount), 2 * amount, random.between(0, 300)]);
    if (typeof cost === "number") return draw(cost);
    return { subscription: draw(cost.subscription), balance: draw(cost.balance) };
  }

  async function operate(account: SoloAccount): Promise<void> {
    const { id, reference } = account;
    const { subscription } = reference;
    const { accounts: money, keys } = processes.any().subject;
    const isLive = subscription !== undefined && !hasEnded(subscription, clock.at(nowMs()));
    const what = random.pick([
      "credit",
      "debit",
      "terms",
      "plan",
      "plan",
      "reset",
      "status",
      "status",
      "key",
    ]);
    count(`edit ${what}`);
    note(`${what} of ${id}`);
    if (what === "credit") await credit(account, random.between(1, 200));
    else if (what === "debit") await credit(account, -random.between(1, 100));
    else if (what === "terms") {
      reference.payAsYouGo = drawPayAsYouGo(random);
      await done(money.update(id, { payAsYouGo: reference.payAsYouGo }));
    } else if (what === "key") {
      const key = random.pick(account.keys);
      key.reference.quota = random.pick([null, random.between(10, 900)]);
      await done(keys.update(key.id, { quota: key.reference.quota }));
    } else if (what === "reset") {
      reference.used.delete(`subscription@${cycleOf(reference)}`);
      await done(money.resetCycle(id));
    } else if (!isLive) await subscribe(account);
    else if (what === "plan") await changePlan(account);
    else await changeStatus(account);
  }

  async function credit(account: SoloAccount, amount: number): Promise<void> {
    const { credit: add, debit } = processes.any().subject.accounts;
    account.entries += 1;
    const entry = { id: `entry${account.entries}`, amount: Math.abs(amount) };
    account.reference.credited += amount;
    const apply = amount > 0 ? add : debit;
    const first = await done(apply(account.id, entry));
    const again = random.chance(0.3) ? await done(apply(account.id, entry)) : undefined;
    if (!first.applied || again?.applied === true) fail("entries-apply-once", `${entry.id} of ${account.id}`);
  }

  async function subscribe(account: SoloAccount): Promise<void> {
    const { reference } = account;
    const now = clock.at(nowMs());
    const anchor = now - random.between(1, 20) * HOUR_MS;
    const kind = random.pick(["anniversary", "anniversary", "calendar", "never"] as const);
    const cycle =
      kind === "anniversary"
        ? ({ kind, unit: "day", every: 1, anchor } as const)
        : kind === "calendar"
          ? ({ kind, unit: "day" } as const)
          : ({ kind } as const);
    const allowance = random.between(0, 300);
    const endsAtMs = random.chance(0.2) ? now + random.between(1, 60) * HOUR_MS : null;
    const anchorMs = kind === "never" ? null : kind === "calendar" ? 0 : anchor;
    const index = anchorMs === null ? 0 : Math.floor((now - anchorMs) / DAY_MS);
    const serial = (reference.subscription?.serial ?? 0) + 1;
    const plan = { name: "plan", allowance };
    const { subscribe: begin } = processes.any().subject.accounts;
    reference.subscription = {
      ...{ serial, anchorMs, index, endsAtMs },
      ...{ plan: allowance, nextPlan: undefined, unpaidFromMs: null },
    };
    reference.allowances.set(cycleOf(reference), allowance);
    await done(begin(account.id, { plan, cycle, endsAt: endsAtMs, key: null }));
  }

  /** The part of a raise that is left of the cycle depends on the millisecond, which lies within the call. */
  async function changePlan({ id, reference }: SoloAccount): Promise<void> {
    const { subscription, allowances } = reference;
    if (subscription === undefined) return;
    const allowance = random.between(0, 500);
    const fromMs = clock.at(nowMs());
    await done(processes.any().subject.accounts.changePlan(id, { name: "plan", allowance }));
    const cycle = cycleOf(reference);
    const raise = allowance - subscription.plan;
    if (subscription.anchorMs === null) {
      allowances.set(cycle, allowance);
    } else if (raise < 0) {
      subscription.nextPlan = allowance;
      return;
    } else {
      const partAt = (now: number): number => Math.floor((raise * (cycleEndMs(subscription) - now)) / DAY_MS);
      const before = allowances.get(cycle) ?? 0;
      const is = (stored.get(`account:${id}`) as AccountBody).subscription?.current.allowance ?? 0;
      if (is < before + partAt(clock.at(nowMs()) + 10) || is > before + partAt(fromMs - 10))
        fail("books-by-the-law", `${is} after a raise by ${raise}, before it was ${before}`);
      allowances.set(cycle, is);
    }
    subscription.plan = allowance;
    subscription.nextPlan = undefined;
  }

  async function changeStatus(account: SoloAccount): Promise<void> {
    const { id, reference } = account;
    const { subscription } = reference;
    if (subscription === undefined) return;
    const { accounts: money } = processes.any().subject;
    const what = random.pick([
      "suspend",
      "resume",
      "resume",
      "unpaid",
      "paid",
      "paid",
      "cancel",
      "cancelNow",
    ]);
    if (what === "suspend" || what === "resume") {
      reference.isSuspended = what === "suspend";
      await done(money[what](id));
    } else if (what === "paid") {
      subscription.unpaidFromMs = null;
      await done(money.resumeSubscription(id));
    } else if (what === "unpaid") {
      const graceMs = random.pick([0, 5 * HOUR_MS]);
      await done(money.suspendSubscription(id, { graceMs }));
      subscription.unpaidFromMs ??= near("unpaidFromMs", clock.at(nowMs()) + graceMs);
    } else if (what === "cancel") {
      subscription.endsAtMs = Math.min(
        subscription.endsAtMs ?? cycleEndMs(subscription),
        cycleEndMs(subscription),
      );
      await done(money.cancelSubscription(id));
    } else {
      await done(money.cancelSubscription(id, { at: "now" }));
      subscription.endsAtMs = near("endsAtMs", clock.at(nowMs()));
    }

    function near(name: "unpaidFromMs" | "endsAtMs", expected: number): number {
      const is = (stored.get(`account:${id}`) as AccountBody).subscription?.[name] ?? 0;
      if (Math.abs(is - expected) > 200)
        fail("books-by-the-law", `${name} ${is}, expected about ${expected}`);
      return is;
    }
  }

  // ── time ────────────────────────────────────────────────────────────────────────────────────────────────────

  async function pass(): Promise<void> {
    const untilMs =
      nowMs() + random.pick([0, 0, 60_000, HOUR_MS, 8 * HOUR_MS, random.chance(0.2) ? 40 * HOUR_MS : 0]);
    while (nowMs() < untilMs && violation === undefined) {
      await advanceBy(Math.min(2 * HOUR_MS, untilMs - nowMs()));
      const old = open.findIndex(({ sinceMs }) => nowMs() - sinceMs > LONGEST_MS);
      if (old >= 0) await end(old);
    }
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

  async function done<T>(promise: Promise<T>): Promise<T> {
    return (await processes.settled(promise, "a call")) as T;
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
