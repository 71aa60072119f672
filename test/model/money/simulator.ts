import type { createKeystile, Keystile } from "../../../src/keystile.js";
import type { Document } from "../../../src/store.js";
import type { Statistics } from "../account.js";
import { storeClock } from "../clock.js";
import { createProcesses, SETTLED_MS } from "../processes.js";
import { randomFrom } from "../random.js";
import type { Outcome, Violation } from "../simulator.js";
import { createTimeline } from "../timeline.js";
import { trueStore } from "../true-store.js";
import { warm } from "../warming.js";
import { THRESHOLDS } from "./alerts.js";
import { createMoneyOracle } from "./oracle.js";
import { drawMoneyScenario, MONEY_PROFILES, type MoneyProfile } from "./scenario.js";
import { createMoneyWorkload } from "./workload.js";

/** The package, or a copy of it with a mistake in it. */
export type CreateGate = typeof createKeystile;

export interface MoneyRun {
  readonly seed: number;
  /** After this many events nothing new begins; what was begun is brought to its end. */
  readonly steps: number;
  readonly profile?: MoneyProfile;
  /** For how long leases let requests in; 0, the default: there are none. */
  readonly leaseMs?: number;
  /** How many of the last events a report shows. Default 40. */
  readonly traceLength?: number;
}

const START_MS = Date.UTC(2026, 0, 30, 18);
const LATEST_MS = 600_000;

/**
 * Plays one seeded history of shared money against `create`: accounts with keys that spend them, and with subscriptions
 * that turn, in several processes on one store, through a network that loses, delays and repeats. Stops at the first
 * broken invariant. The same seed and the same code give the same history.
 */
export async function simulateMoney(
  create: CreateGate,
  {
    seed,
    steps,
    profile = MONEY_PROFILES[seed % MONEY_PROFILES.length] ?? "calm",
    leaseMs = 0,
    traceLength = 40,
  }: MoneyRun,
): Promise<Outcome> {
  const random = randomFrom(seed);
  const scenario = drawMoneyScenario(random, profile);
  const { faults } = scenario;
  const isCalm = profile === "calm";
  const statistics: Statistics = {};
  const clock = storeClock(START_MS);
  const timeline = createTimeline(random, traceLength, () => violation !== undefined);
  const { nowMs, step, note, schedule, advance, advanceBy } = timeline;
  let violation: Violation | undefined;
  let isWindingDown = false;

  const toleranceMs = isCalm ? 2 * faults.latencyMs : 1_000;
  const isRenewed = faults.profile === "calm" && !Number.isFinite(faults.crashGapMs);
  const oracle = createMoneyOracle({
    isRenewed,
    leaseMs,
    clock,
    nowMs,
    step,
    toleranceMs,
    isCalm,
    statistics,
    fail,
  });
  let changed: Document[] = [];
  const store = trueStore((document) => changed.push(document));
  const processes = createProcesses<Keystile>({
    ...{ random, scenario: faults, timeline, clock, leaseMs, count, fail },
    create(options, name) {
      const gate = create({ ...options, alerts: THRESHOLDS });
      gate.on("quota.low", ({ keyId, accountId, fund, thresholdPercent: threshold, left }) => {
        oracle.told(name, { id: keyId ?? accountId ?? "", fund, threshold, left });
      });
      gate.on("balance.low", ({ accountId: id, threshold, left }) => {
        oracle.told(name, { id, fund: "balance", threshold, left });
      });
      return gate;
    },
    storeOf: (name) => ({
      read: (ids) => store.read(ids),
      write: (groups) =>
        groups.flatMap((group) => {
          changed = [];
          const results = store.write([group]);
          oracle.committed(name, changed);
          return results;
        }),
    }),
    isOver: () => violation !== undefined,
    onSent: (name, call) => "write" in call && oracle.sent(name, call.write),
    onStarted: oracle.processStarted,
    onCrashed: oracle.processCrashed,
  });
  const { settled } = processes;
  const workload = createMoneyWorkload({ random, scenario, timeline, clock, oracle, processes, fail });

  await warm(create);
  await begin();
  while (violation === undefined && step() < steps) await advance();
  if (violation === undefined) await windDown();
  return { steps: step(), statistics, violation };

  async function begin(): Promise<void> {
    for (let started = 0; started < faults.processes; started++) processes.start();
    for (let opened = 0; opened < scenario.accounts; opened++) await workload.open(`account${opened}`);
    processes.setFaulty(true);
    repeat(requestGap, "requests", workload.arrive);
    repeat(() => faults.editGapMs, "edit", workload.operate);
    repeat(() => faults.crashGapMs, "crash", processes.crash);
    repeat(() => faults.pauseGapMs, "pause", processes.pause);
    repeat(() => faults.jumpGapMs, "jump", processes.jump);
    repeat(() => faults.outageGapMs, "outage", processes.cutOff);
    repeat(
      () => faults.flushGapMs,
      "flush",
      () => void processes.any().subject.flush(1_000),
    );
  }

  /** Again and again, at random times, until the run winds down. */
  function repeat(meanMs: () => number, label: string, run: () => void): void {
    if (!Number.isFinite(meanMs())) return;
    schedule(random.gap(meanMs()), undefined, label, () => {
      if (isWindingDown) return;
      run();
      repeat(meanMs, label, run);
    });
  }

  function requestGap(): number {
    return random.chance(0.03) ? faults.quietGapMs : faults.requestGapMs;
  }

  function fail(invariant: string, detail: string): void {
    if (violation !== undefined) return;
    const report = `"${invariant}" broken: seed ${seed}, profile ${profile}, step ${step()}: ${detail}\n`;
    violation = { invariant, report: `${report}${timeline.latestEvents()}\n${JSON.stringify(scenario)}` };
  }

  function count(name: string): void {
    statistics[name] = (statistics[name] ?? 0) + 1;
  }

  /** No more faults; everyone gets the time to finish; then the dead's holds expire and the books are judged. */
  async function windDown(): Promise<void> {
    isWindingDown = true;
    processes.setFaulty(false);
    note("the run winds down");
    // Documents that have seen the future are a fault until the clock has caught up with them.
    clock.jump(nowMs(), Math.max(0, clock.latest(nowMs()) - clock.at(nowMs())));
    await advanceBy(Math.max(0, ...processes.all.map(({ pausedUntilMs }) => pausedUntilMs - nowMs())));
    workload.hurry();
    const untilMs = nowMs() + LATEST_MS;
    while (violation === undefined && nowMs() < untilMs && (processes.isBusy() || oracle.isWaiting()))
      await advanceBy(5_000);
    await advanceBy(12_000);
    for (const { name, subject } of processes.running()) {
      const unwritten = await settled(subject.flush(SETTLED_MS / 2), `flush() of ${name}`);
      if ((unwritten ?? 0) > 0) fail("calls-succeed-in-the-end", `${unwritten} unwritten in ${name}`);
    }
    await advanceBy(3 * faults.holdMs);
    // Whoever writes next collects what the dead have held.
    const { subject } = processes.start();
    for (const { id, keys } of workload.accounts) {
      for (const key of keys) {
        const edit = {
          process: processes.all.at(-1)?.name ?? "",
          accountId: id,
          what: "last",
          took: () => true,
        };
        oracle.editCalled({ ...edit, calledStep: step(), calledMs: nowMs() });
        await settled(subject.keys.update(key.id, { quota: null }), `the last edit of ${key.id}`);
      }
    }
    if (violation === undefined) oracle.finish();
  }
}
