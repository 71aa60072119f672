import type { Statistics } from "./account.js";
import { storeClock } from "./clock.js";
import { connect, type Fault, type Surroundings } from "./network.js";
import { createOracle } from "./oracle.js";
import { randomFrom } from "./random.js";
import { drawKeyPlan, drawScenario, PROFILES, type Profile } from "./scenario.js";
import type { CreateSubject } from "./subject.js";
import { createTimeline, drain } from "./timeline.js";
import { trueStore } from "./true-store.js";
import { createWorkload, digestOf, type ModelKey, type Process } from "./workload.js";

export interface Run {
  readonly seed: number;
  /** After this many events nothing new begins; what was begun is brought to its end. */
  readonly steps: number;
  readonly profile?: Profile;
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
/** Longer than anything the package may still be doing when all is well. */
const SETTLED_MS = 120_000;
/** Longer than the latest message takes. */
const LATEST_MS = 600_000;

/**
 * Plays one seeded history against `create`: several processes, one store, virtual time, and a network that loses,
 * delays and repeats. Stops at the first broken invariant. The same seed and the same code give the same history.
 */
export async function simulate(
  create: CreateSubject,
  { seed, steps, profile, traceLength = TRACE_LENGTH }: Run,
): Promise<Outcome> {
  const random = randomFrom(seed);
  const scenario = drawScenario(random, profile ?? PROFILES[seed % PROFILES.length] ?? "calm");
  const isCalm = scenario.profile === "calm";
  const statistics: Statistics = {};
  const clock = storeClock(START_MS);
  const timeline = createTimeline(random, traceLength, () => violation !== undefined);
  const { nowMs, step, note, schedule, advance, advanceBy } = timeline;
  const processes: Process[] = [];
  let violation: Violation | undefined;
  let travelling = 0;
  let isFaulty = false;
  let isWindingDown = false;

  const oracle = createOracle({
    clock,
    nowMs,
    step,
    // The design bounds the error at a second; without faults a process can only be wrong by what a call takes.
    toleranceMs: isCalm ? 2 * scenario.latencyMs : 1_000,
    isCalm,
    statistics,
    fail,
  });
  const workload = createWorkload({ random, scenario, timeline, clock, oracle, running, fail });
  const { keys, anyProcess, inputOf, addKey, arrive, request, edit } = workload;
  let writer = "";
  const store = trueStore((document) => oracle.written(writer, document));

  await begin();
  while (violation === undefined && step() < steps) await advance();
  if (violation === undefined) await windDown();
  return { steps: step(), statistics, violation };

  async function begin(): Promise<void> {
    for (let started = 0; started < scenario.processes; started++) startProcess();
    const plans = Array.from({ length: scenario.keys }, () => drawKeyPlan(random, scenario));
    for (const plan of plans) {
      const process = anyProcess();
      const issued = await settled(process.subject.keys.issue(inputOf(plan)), "the first issue");
      if (issued !== undefined) addKey(process, plan, issued);
    }
    const { editGapMs, crashGapMs, pauseGapMs, jumpGapMs, outageGapMs, closeGapMs, flushGapMs } = scenario;
    isFaulty = true;
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

  // ── processes ───────────────────────────────────────────────────────────────────────────────────────────────

  function startProcess(): Process {
    const name = `p${processes.length + 1}`;
    const own = random.fork();
    const monotonicOffset = random.between(0, 1_000_000);
    const process = { name, state: "running", pausedUntilMs: 0, cutOffUntilMs: 0 } as Process;
    const surroundings: Surroundings = {
      scenario,
      store: {
        read: (ids) => store.read(ids),
        write(groups) {
          writer = name;
          return store.write(groups);
        },
      },
      clock,
      nowMs,
      inNetwork(delayMs, label, run) {
        travelling += 1;
        schedule(delayMs, undefined, `${name} ${label}`, () => {
          travelling -= 1;
          run();
        });
      },
      inProcess: (delayMs, label, run) => void schedule(delayMs, process, label, run),
      isFaulty: () => isFaulty,
      isCutOff: () => process.cutOffUntilMs > nowMs(),
      onSent: (call) => "write" in call && oracle.sent(name, call.write),
      onFault: (fault: Fault) => count(fault),
    };
    process.subject = create({
      store: connect(surroundings, random.fork()),
      runtime: {
        monotonicMs: () => nowMs() + monotonicOffset,
        setTimer(run, ms) {
          const timer = schedule(Math.max(0, ms), process, `timer of ${Math.round(ms)} ms`, run);
          return () => {
            timer.isCancelled = true;
          };
        },
        random: own.next,
        randomBytes: (size) => Uint8Array.from({ length: size }, () => own.between(0, 255)),
      },
      holdMs: scenario.holdMs,
      storeTimeoutMs: scenario.storeTimeoutMs,
      drainMs: 1_000,
      requestTimeoutMs: 86_400_000,
      cacheSize: scenario.cacheSize,
    });
    processes.push(process);
    oracle.processStarted(name);
    return process;
  }

  function running(): readonly Process[] {
    return processes.filter(({ state }) => state === "running");
  }

  // ── what happens to them ────────────────────────────────────────────────────────────────────────────────────

  function crash(): void {
    const process = anyProcess();
    process.state = "crashed";
    oracle.processCrashed(process.name);
    count("crashes");
    note(`${process.name} crashes`);
    startProcess();
  }

  function pause(): void {
    const process = anyProcess();
    if (process.pausedUntilMs > nowMs()) return;
    const pausedMs = random.between(10, random.chance(0.3) ? scenario.longestPauseMs : scenario.holdMs);
    process.pausedUntilMs = nowMs() + pausedMs;
    count("pauses");
    note(`${process.name} stands still for ${pausedMs} ms`);
  }

  function jump(): void {
    const longest = random.chance(0.5) ? scenario.longestJumpMs : 4_000;
    const byMs = random.between(-longest, longest);
    clock.jump(nowMs(), byMs);
    count("jumps");
    note(`the store's clock jumps by ${byMs} ms`);
  }

  function cutOff(): void {
    const victims = random.chance(0.3) ? running() : [anyProcess()];
    const ms = random.gap(3_000);
    for (const process of victims) process.cutOffUntilMs = nowMs() + ms;
    count("outages");
    note(`${victims.map(({ name }) => name).join(" ")} cannot reach the store for ${ms} ms`);
  }

  function close(): void {
    const process = anyProcess();
    startProcess();
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
    isFaulty = false;
    note("the run winds down");
    // Documents that have seen the future are a fault until the clock has caught up with them.
    clock.jump(nowMs(), Math.max(0, clock.latest(nowMs()) - clock.at(nowMs())));
    await advanceBy(Math.max(0, ...processes.map(({ pausedUntilMs }) => pausedUntilMs - nowMs())));
    workload.hurry();
    // Late messages arrive, and whoever waits for an answer gets one.
    const untilMs = nowMs() + LATEST_MS;
    while (violation === undefined && nowMs() < untilMs && (travelling > 0 || oracle.isWaiting()))
      await advanceBy(5_000);
    await advanceBy(12_000);
    oracle.judgeAnswers();
    for (const process of running()) {
      const unwritten = await settled(process.subject.flush(SETTLED_MS / 2), `flush() of ${process.name}`);
      if (unwritten !== undefined && unwritten > 0)
        fail("calls-succeed-in-the-end", `${unwritten} unwritten in the end`);
    }
    await advanceBy(3 * scenario.holdMs);
    const fresh = startProcess();
    for (const key of keys) await touch(fresh, key);
    await settled(fresh.subject.flush(SETTLED_MS / 2), "the last flush");
    if (violation === undefined) oracle.finish();
  }

  /** A request that nothing forbids, so that the key is written once more and what expired is collected. */
  async function touch(process: Process, key: ModelKey): Promise<void> {
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

  async function settled<T>(promise: Promise<T>, what: string): Promise<T | undefined> {
    let result: { value: T } | undefined;
    promise.then(
      (value) => {
        result = { value };
      },
      (error) => fail("calls-succeed-in-the-end", `${what}: ${String(error)}`),
    );
    const untilMs = nowMs() + SETTLED_MS;
    await drain();
    while (result === undefined && violation === undefined) {
      if (nowMs() > untilMs) fail("calls-succeed-in-the-end", `${what} does not come to an end`);
      else await advance();
    }
    return result?.value;
  }
}
