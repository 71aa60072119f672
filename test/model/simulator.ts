import type { Statistics } from "./account.js";
import { storeClock } from "./clock.js";
import { createOracle } from "./oracle.js";
import { createProcesses, type Process, SETTLED_MS } from "./processes.js";
import { randomFrom } from "./random.js";
import { drawKeyPlan, drawScenario, PROFILES, type Profile } from "./scenario.js";
import type { CreateSubject, Subject } from "./subject.js";
import { createTimeline } from "./timeline.js";
import { trueStore } from "./true-store.js";
import { warm } from "./warming.js";
import { createWorkload, digestOf, type ModelKey } from "./workload.js";

export interface Run {
  readonly seed: number;
  /** After this many events nothing new begins; what was begun is brought to its end. */
  readonly steps: number;
  readonly profile?: Profile;
  /** For how long leases let requests in; 0, the default: there are none. */
  readonly leaseMs?: number;
  /** How many of the last events a report shows. Default 40. */
  readonly traceLength?: number;
}

export interface Outcome {
  readonly steps: number;
  readonly statistics: Statistics;
  readonly violation: Violation | undefined;
}

export interface Violation {
  /** The name of the broken invariant. */
  readonly invariant: string;
  /** All that is needed to see it again: seed, step, and the events that led to it. */
  readonly report: string;
}

const START_MS = Date.UTC(2026, 0, 1);
const TRACE_LENGTH = 40;
/** Longer than the latest message takes. */
const LATEST_MS = 600_000;

/**
 * Plays one seeded history against `create`: several processes, one store, virtual time, and a network that loses,
 * delays and repeats. Stops at the first broken invariant. The same seed and the same code give the same history.
 */
export async function simulate(
  create: CreateSubject,
  { seed, steps, profile, leaseMs = 0, traceLength = TRACE_LENGTH }: Run,
): Promise<Outcome> {
  const random = randomFrom(seed);
  const scenario = drawScenario(random, profile ?? PROFILES[seed % PROFILES.length] ?? "calm");
  const isCalm = scenario.profile === "calm";
  const statistics: Statistics = {};
  const clock = storeClock(START_MS);
  const timeline = createTimeline(random, traceLength, () => violation !== undefined);
  const { nowMs, step, note, schedule, advance, advanceBy } = timeline;
  let violation: Violation | undefined;
  let isWindingDown = false;

  const oracle = createOracle({
    clock,
    nowMs,
    step,
    // The design bounds the error at a second; without faults a process can only be wrong by what a call takes.
    toleranceMs: isCalm ? 2 * scenario.latencyMs : 1_000,
    leaseMs,
    isCalm,
    statistics,
    fail,
  });
  let writer = "";
  const store = trueStore((document) => oracle.written(writer, document));
  const processes = createProcesses<Subject>({
    ...{ random, scenario, timeline, clock, create, leaseMs, count, fail },
    storeOf: (name) => ({
      read: (ids) => store.read(ids),
      write(groups) {
        writer = name;
        return store.write(groups);
      },
    }),
    isOver: () => violation !== undefined,
    onSent: (name, call) => "write" in call && oracle.sent(name, call.write),
    onStarted: oracle.processStarted,
    onCrashed: oracle.processCrashed,
  });
  const { start, running, any: anyProcess, crash, pause, jump, cutOff, settled } = processes;
  const workload = createWorkload({ random, scenario, timeline, clock, oracle, processes, fail });
  const { keys, inputOf, addKey, arrive, request, edit } = workload;

  await warm(create);
  await begin();
  while (violation === undefined && step() < steps) await advance();
  if (violation === undefined) await windDown();
  return { steps: step(), statistics, violation };

  async function begin(): Promise<void> {
    for (let started = 0; started < scenario.processes; started++) start();
    const plans = Array.from({ length: scenario.keys }, () => drawKeyPlan(random, scenario));
    for (const plan of plans) {
      const process = anyProcess();
      const issued = await settled(process.subject.keys.issue(inputOf(plan)), "the first issue");
      if (issued !== undefined) addKey(process, plan, issued);
    }
    const { editGapMs, crashGapMs, pauseGapMs, jumpGapMs, outageGapMs, closeGapMs, flushGapMs } = scenario;
    processes.setFaulty(true);
    repeat(requestGap, "requests", arrive);
    repeat(() => editGapMs, "edit", edit);
    repeat(() => crashGapMs, "crash", crash);
    repeat(() => pauseGapMs, "pause", pause);
    repeat(() => jumpGapMs, "jump", jump);
    repeat(() => outageGapMs, "outage", cutOff);
    repeat(() => closeGapMs, "close", close);
    repeat(() => flushGapMs, "flush", flush);
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
    return random.chance(0.03) ? scenario.quietGapMs : scenario.requestGapMs;
  }

  function fail(invariant: string, detail: string): void {
    if (violation !== undefined) return;
    const report = `"${invariant}" broken: seed ${seed}, profile ${scenario.profile}, step ${step()}: ${detail}\n`;
    violation = { invariant, report: `${report}${timeline.latestEvents()}\n${JSON.stringify(scenario)}` };
  }

  function count(name: string): void {
    statistics[name] = (statistics[name] ?? 0) + 1;
  }

  // ── what happens to processes ───────────────────────────────────────────────────────────────────────────────

  function close(): void {
    const process = anyProcess();
    start();
    count("closes");
    note(`${process.name} closes`);
    process.state = "closing";
    oracle.processClosing(process.name);
    process.subject.close().then(
      ({ unwritten }) => {
        note(`${process.name} closed, ${unwritten} unwritten`);
        process.state = "closed";
        oracle.processClosed(process.name, unwritten);
        if (unwritten > 0) count("closed with unwritten");
        if (unwritten > 0 && isCalm)
          fail("calls-succeed-in-the-end", `${unwritten} unwritten though nothing was wrong`);
      },
      (error) => fail("close-resolves", `close() of ${process.name} threw ${String(error)}`),
    );
  }

  /** What was called for before a flush that leaves nothing is in the store after it. */
  function flush(): void {
    const process = anyProcess();
    const before = oracle.unacknowledgedOf(process.name);
    process.subject.flush(random.between(10, 5_000)).then(
      (unwritten) => {
        count("flushes");
        note(`${process.name} flushed, ${unwritten} unwritten`);
        const left = before.find(({ acknowledged }) => !acknowledged);
        // Acknowledgements come by other promises of the same instant: they are judged when it is over.
        if (unwritten === 0 && left !== undefined) {
          schedule(0, undefined, "after a flush", () => {
            if (!left.acknowledged)
              fail("flush-tells-the-truth", `the end of ${left.name} is not acknowledged`);
          });
        }
      },
      (error) => fail("flush-resolves", `flush() of ${process.name} threw ${String(error)}`),
    );
  }

  // ── the end ─────────────────────────────────────────────────────────────────────────────────────────────────

  /** No more faults; everyone gets the time to finish; then the dead's holds expire and the books are judged. */
  async function windDown(): Promise<void> {
    isWindingDown = true;
    processes.setFaulty(false);
    note("the run winds down");
    // Documents that have seen the future are a fault until the clock has caught up with them.
    clock.jump(nowMs(), Math.max(0, clock.latest(nowMs()) - clock.at(nowMs())));
    await advanceBy(Math.max(0, ...processes.all.map(({ pausedUntilMs }) => pausedUntilMs - nowMs())));
    workload.hurry();
    // Late messages arrive, and whoever waits for an answer gets one.
    const untilMs = nowMs() + LATEST_MS;
    while (violation === undefined && nowMs() < untilMs && (processes.isBusy() || oracle.isWaiting()))
      await advanceBy(5_000);
    await advanceBy(12_000);
    oracle.judgeAnswers();
    for (const process of running()) {
      const unwritten = await settled(process.subject.flush(SETTLED_MS / 2), `flush() of ${process.name}`);
      if (unwritten !== undefined && unwritten > 0)
        fail("calls-succeed-in-the-end", `${unwritten} unwritten in the end`);
    }
    await advanceBy(3 * scenario.holdMs);
    const fresh = start();
    for (const key of keys) await touch(fresh, key);
    await settled(fresh.subject.flush(SETTLED_MS / 2), "the last flush");
    if (violation === undefined) oracle.finish();
  }

  /** A request that nothing forbids, so that the key is written once more and what expired is collected. */
  async function touch(process: Process<Subject>, key: ModelKey): Promise<void> {
    if (oracle.bodyOf(key.id)?.policy.state === "revoked") return;
    const { keys: keyring } = process.subject;
    const what = `the last edit of ${key.id}`;
    oracle.editCalled({
      process: process.name,
      keyId: key.id,
      what,
      took: () => true,
      calledStep: step(),
      calledMs: nowMs(),
    });
    await settled(keyring.enable(key.id), what);
    await settled(keyring.update(key.id, { quota: null, expiresAt: null, limits: [] }), what);
    const issued = await settled(keyring.rotate(key.id, { graceMs: 0 }), what);
    if (issued === undefined) return;
    key.secrets.push({ secret: issued.secret, digest: digestOf(issued.secret) });
    const openBefore = statistics["allowed"];
    request(process, key);
    const untilMs = nowMs() + SETTLED_MS;
    while (statistics["allowed"] === openBefore && violation === undefined && nowMs() < untilMs)
      await advance();
    if (statistics["allowed"] === openBefore)
      fail("calls-succeed-in-the-end", `${key.id} cannot be used any more`);
    await advanceBy(5_000);
  }
}
