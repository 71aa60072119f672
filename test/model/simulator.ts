import { createHash } from "node:crypto";
import { isKeystileError } from "../../src/errors.js";
import { storeClock } from "./clock.js";
import { type Fault, connect, type Surroundings } from "./network.js";
import type { Body } from "./body.js";
import { createOracle, type ModelRequest, type Statistics } from "./oracle.js";
import { randomFrom } from "./random.js";
import { drawKeyPlan, drawScenario, type KeyPlan, PROFILES, type Profile } from "./scenario.js";
import type { CreateSubject, Subject, SubjectDecision } from "./subject.js";
import { trueStore } from "./true-store.js";

const EDITS = ["quota", "quota", "expiry", "limits", "disable", "enable", "enable", "revoke", "rotate", "rotate", "issue"] as const;
const REMEDIES = { revoked: "issue", disabled: "enable", expired: "expiry", exhausted: "quota" } as const;
const MOST_KEYS = 8;

export interface Run {
  readonly seed: number;
  /** After this many events nothing new begins; what was begun is brought to its end. */
  readonly steps: number;
  readonly profile?: Profile;
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

interface Process {
  readonly name: string;
  /** Set right after its creation, which already sets timers of the process. */
  subject: Subject;
  state: "running" | "closing" | "closed" | "crashed";
  /** Until then nothing reaches it. */
  pausedUntilMs: number;
  cutOffUntilMs: number;
}

interface ModelKey {
  readonly id: string;
  readonly plan: KeyPlan;
  /** All ever issued, the latest last; old ones are tried, too. */
  readonly secrets: { readonly secret: string; readonly digest: string }[];
}

interface Happening {
  atMs: number;
  readonly order: number;
  readonly label: string;
  /** Whom it reaches; undefined when it happens in the world outside. */
  readonly process: Process | undefined;
  readonly run: () => void;
  isCancelled: boolean;
}

const START_MS = Date.UTC(2026, 0, 1);
const TRACE_LENGTH = Number((globalThis as any).process.env.TRACE ?? 40);
/** Longer than anything the package may still be doing when all is well. */
const SETTLED_MS = 120_000;
/** Longer than the latest message takes. */
const LATEST_MS = 600_000;

/**
 * Plays one seeded history against `create`: several processes, one store, virtual time, and a network that loses,
 * delays and repeats. Stops at the first broken invariant. The same seed and the same code give the same history.
 */
export async function simulate(create: CreateSubject, { seed, steps, profile }: Run): Promise<Outcome> {
  const random = randomFrom(seed);
  const scenario = drawScenario(random, profile ?? PROFILES[seed % PROFILES.length] ?? "calm");
  const statistics: Statistics = {};
  const clock = storeClock(START_MS);
  const queue = createQueue();
  const processes: Process[] = [];
  const keys: ModelKey[] = [];
  const handlers = new Map<ModelRequest, { readonly process: Process; readonly end: () => void; readonly at: Happening }>();
  const trace: (readonly [step: number, atMs: number, text: string])[] = [];
  const isCalm = scenario.profile === "calm";
  let violation: Violation | undefined;
  let nowMs = 0;
  let step = 0;
  let names = 0;
  let travelling = 0;
  let isFaulty = false;
  let isWindingDown = false;

  const oracle = createOracle({
    clock,
    nowMs: () => nowMs,
    step: () => step,
    // The design bounds the error at a second; without faults a process can only be wrong by what a call takes.
    toleranceMs: isCalm ? 2 * scenario.latencyMs : 1_000,
    isCalm,
    statistics,
    fail,
  });
  let writer = "";
  const store = trueStore((document) => oracle.written(writer, document));

  await begin();
  while (violation === undefined && step < steps) await advance();
  if (violation === undefined) await windDown();
  return { steps: step, statistics, violation };

  // ── time ────────────────────────────────────────────────────────────────────────────────────────────────────

  /** One event, and everything that follows from it without time passing. */
  async function advance(): Promise<void> {
    const next = queue.pop();
    if (next === undefined) throw new Error(`Nothing is left to happen (seed ${seed}).`);
    if (next.isCancelled || next.process?.state === "crashed") return;
    nowMs = Math.max(nowMs, next.atMs);
    const pausedMs = (next.process?.pausedUntilMs ?? 0) - nowMs;
    if (pausedMs > 0) {
      next.atMs = nowMs + pausedMs + random.between(0, 3);
      return queue.push(next);
    }
    step += 1;
    note(next.process === undefined ? next.label : `${next.process.name} ${next.label}`);
    next.run();
    await drain();
  }

  async function advanceBy(ms: number): Promise<void> {
    const untilMs = nowMs + ms;
    let arrived = false;
    schedule(ms, undefined, "time passes", () => {
      arrived = true;
    });
    while (!arrived && violation === undefined) await advance();
    nowMs = Math.max(nowMs, untilMs);
  }

  async function settled<T>(promise: Promise<T>, what: string): Promise<T | undefined> {
    let result: { value: T } | undefined;
    promise.then(
      (value) => {
        result = { value };
      },
      (error) => fail("calls-succeed-in-the-end", `${what}: ${String(error)}`),
    );
    const untilMs = nowMs + SETTLED_MS;
    await drain();
    while (result === undefined && violation === undefined) {
      if (nowMs > untilMs) fail("calls-succeed-in-the-end", `${what} does not come to an end`);
      else await advance();
    }
    return result?.value;
  }

  function schedule(afterMs: number, process: Process | undefined, label: string, run: () => void): Happening {
    const happening = { atMs: nowMs + afterMs, order: queue.nextOrder(), label, process, run, isCancelled: false };
    queue.push(happening);
    return happening;
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

  // ── judging ─────────────────────────────────────────────────────────────────────────────────────────────────

  function note(text: string): void {
    trace.push([step, nowMs, text]);
    if (trace.length > 2 * TRACE_LENGTH) trace.splice(0, TRACE_LENGTH);
  }

  function fail(invariant: string, detail: string): void {
    if (violation !== undefined) return;
    const events = trace.slice(-TRACE_LENGTH).map(([at, ms, text]) => `  #${at} ${ms} ms ${text}`);
    const report = `"${invariant}" broken: seed ${seed}, profile ${scenario.profile}, step ${step}: ${detail}\n`;
    violation = { invariant, report: `${report}${events.join("\n")}\n${JSON.stringify(scenario)}` };
  }

  function count(name: string): void {
    statistics[name] = (statistics[name] ?? 0) + 1;
  }

  // ── processes ───────────────────────────────────────────────────────────────────────────────────────────────

  function startProcess(): Process {
    names += 1;
    const name = `p${names}`;
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
      nowMs: () => nowMs,
      inNetwork(delayMs, label, run) {
        travelling += 1;
        schedule(delayMs, undefined, `${name} ${label}`, () => {
          travelling -= 1;
          run();
        });
      },
      inProcess: (delayMs, label, run) => void schedule(delayMs, process, label, run),
      isFaulty: () => isFaulty,
      isCutOff: () => process.cutOffUntilMs > nowMs,
      onSent: (call) => "write" in call && oracle.sent(name, call.write),
      onFault: (fault: Fault) => count(fault),
    };
    process.subject = create({
      store: connect(surroundings, random.fork()),
      runtime: {
        monotonicMs: () => nowMs + monotonicOffset,
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

  function anyProcess(): Process {
    return random.pick(running());
  }

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

  function requestGap(): number {
    return random.chance(0.03) ? scenario.quietGapMs : scenario.requestGapMs;
  }

  // ── what happens to processes ───────────────────────────────────────────────────────────────────────────────

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
    if (process.pausedUntilMs > nowMs) return;
    const pausedMs = random.between(10, random.chance(0.3) ? scenario.longestPauseMs : scenario.holdMs);
    process.pausedUntilMs = nowMs + pausedMs;
    count("pauses");
    note(`${process.name} stands still for ${pausedMs} ms`);
  }

  function jump(): void {
    const longest = random.chance(0.5) ? scenario.longestJumpMs : 4_000;
    const byMs = random.between(-longest, longest);
    clock.jump(nowMs, byMs);
    count("jumps");
    note(`the store's clock jumps by ${byMs} ms`);
  }

  function cutOff(): void {
    const victims = random.chance(0.3) ? running() : [anyProcess()];
    const ms = random.gap(3_000);
    for (const process of victims) process.cutOffUntilMs = nowMs + ms;
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
        if (unwritten > 0 && isCalm) fail("calls-succeed-in-the-end", `${unwritten} unwritten though nothing was wrong`);
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
            if (!left.acknowledged) fail("flush-tells-the-truth", `the end of ${left.name} is not acknowledged`);
          });
        }
      },
      (error) => fail("flush-resolves", `flush() of ${process.name} threw ${String(error)}`),
    );
  }

  // ── requests ────────────────────────────────────────────────────────────────────────────────────────────────

  function arrive(): void {
    const count = random.chance(scenario.singles) ? 1 : random.between(1, scenario.burst);
    const key = likelyKey();
    const upright = running().filter(({ pausedUntilMs }) => pausedUntilMs <= nowMs);
    const process = (random.chance(0.9) ? random.pick(upright) : undefined) ?? anyProcess();
    for (let arrived = 0; arrived < count; arrived++) {
      const isAlike = random.chance(0.7);
      request(isAlike ? process : anyProcess(), isAlike ? key : likelyKey());
    }
  }

  /** Keys that can still be used are tried more often than others. */
  function likelyKey(): ModelKey {
    const isUsable = (key: ModelKey): boolean => oracle.obstacleOf(key.id) === undefined;
    return random.chance(0.9) ? random.pick(keys.filter(isUsable)) ?? random.pick(keys) : random.pick(keys);
  }

  function request(process: Process, key: ModelKey): void {
    // A process that stands still finds the connection when it goes on.
    if (process.pausedUntilMs > nowMs) {
      schedule(0, process, "accepts a connection", () => process.state === "running" && request(process, key));
      return;
    }
    const isOld = !isWindingDown && random.chance(0.05);
    const { secret, digest } = isOld ? random.pick(key.secrets) : latestOf(key.secrets);
    names += 1;
    const asked: ModelRequest = {
      name: `r${names}`,
      keyId: key.id,
      process: process.name,
      digest,
      cost: random.chance(0.05) ? 0 : random.between(1, key.plan.highestCost),
      arrivedStep: step,
      arrivedMs: nowMs,
      answer: "pending",
      answeredStep: 0,
      answeredMs: 0,
      ended: undefined,
      acknowledged: false,
      lost: false,
      forgotten: false,
    };
    note(`${process.name} is asked ${asked.name} of ${key.id}, cost ${asked.cost}`);
    oracle.requested(asked);
    const headers = { authorization: `Bearer ${secret}` };
    process.subject.authorize({ headers, cost: asked.cost }).then(
      (decision) => answered(process, key, asked, decision),
      (error) => {
        note(`${asked.name} meets a fault: ${String(error)}`);
        oracle.answeredFault(asked, codeOf(error));
      },
    );
  }

  function answered(process: Process, { plan }: ModelKey, asked: ModelRequest, decision: SubjectDecision): void {
    if (!decision.allowed) {
      const { reason, held } = decision.refusal;
      note(`${asked.name} is refused: ${reason}${held === true ? " (held)" : ""}`);
      return oracle.answeredRefusal(asked, decision.refusal);
    }
    note(`${asked.name} is allowed`);
    oracle.answeredAllowance(asked);
    const usualMs = random.chance(0.1) ? 10 * scenario.requestMs : scenario.requestMs;
    const takesMs = random.gap(isWindingDown ? 50 : usualMs);
    const end = (): void => {
      handlers.delete(asked);
      endRequest(process, plan, asked, decision);
    };
    if (takesMs === 0) return end();
    handlers.set(asked, { process, end, at: schedule(takesMs, process, `${asked.name} is done`, end) });
  }

  function endRequest(
    process: Process,
    plan: KeyPlan,
    asked: ModelRequest,
    decision: Extract<SubjectDecision, { allowed: true }>,
  ): void {
    if (process.state === "closed") return;
    const isVoid = random.chance(0.15);
    const isSilent = !isVoid && random.chance(0.1);
    const cost = isVoid ? 0 : isSilent ? asked.cost : drawActual(plan, asked.cost);
    note(`${asked.name} ends with ${isVoid ? "void" : cost}`);
    oracle.ended(asked, cost);
    const ending = isVoid ? decision.void() : isSilent ? decision.settle() : decision.settle(cost);
    acknowledge(process, asked, ending);
    // Ending twice is no mistake: the first time counts.
    if (random.chance(0.05)) acknowledge(process, asked, random.chance(0.5) ? decision.void() : decision.settle(cost + 7));
  }

  function acknowledge(process: Process, asked: ModelRequest, ending: Promise<void>): void {
    ending.then(
      () => {
        note(`${asked.name} is settled`);
        oracle.acknowledged(asked);
      },
      (error) => {
        if (process.state === "running") fail("settle-resolves", `settle() of ${asked.name} threw ${String(error)}`);
      },
    );
  }

  function drawActual({ actual }: KeyPlan, estimate: number): number {
    if (actual === "fixed") return estimate;
    if (actual === "below") return random.between(0, estimate);
    return random.between(0, 2 * estimate);
  }

  // ── edits ───────────────────────────────────────────────────────────────────────────────────────────────────

  function inputOf(plan: KeyPlan): Parameters<Subject["keys"]["issue"]>[0] {
    const { quota, limits, onCrash, livesMs } = plan;
    return { quota, limits, onCrash, expiresAt: livesMs === null ? null : clock.latest(nowMs) + livesMs };
  }

  function addKey(process: Process, plan: KeyPlan, { secret, key }: Awaited<ReturnType<Subject["keys"]["issue"]>>): void {
    const digest = digestOf(secret);
    note(`${process.name} issued ${key.id}`);
    oracle.issued(process.name, key.id, digest);
    keys.push({ id: key.id, plan, secrets: [{ secret, digest }] });
  }

  function edit(): void {
    const process = anyProcess();
    if (process.pausedUntilMs > nowMs) return;
    const key = random.pick(keys);
    const obstacle = oracle.obstacleOf(key.id);
    const what = obstacle !== undefined && random.chance(0.7) ? REMEDIES[obstacle] : random.pick(EDITS);
    const { keys: keyring } = process.subject;
    const policy = oracle.bodyOf(key.id)?.policy;
    if (policy === undefined) return;
    const { id } = key;

    switch (what) {
      case "issue": {
        if (keys.length >= MOST_KEYS) return;
        const plan = drawKeyPlan(random, scenario);
        return watch(process, "", what, () => true, keyring.issue(inputOf(plan)), (issued) => addKey(process, plan, issued));
      }
      case "quota": {
        const quota = policy.quota === null ? null : policy.quota + random.between(1, 200);
        const took = (body: Body): boolean => body.policy.quota === quota;
        if (quota !== null) oracle.quotaAsked(id, quota);
        return watch(process, id, `set quota ${quota}`, took, keyring.update(id, { quota }));
      }
      case "expiry": {
        const expiresAt = policy.expiresAtMs === null ? null : clock.latest(nowMs) + 30_000;
        const took = (body: Body): boolean => body.policy.expiresAtMs === expiresAt;
        return watch(process, id, `set expiry ${expiresAt}`, took, keyring.update(id, { expiresAt }));
      }
      case "limits":
        return watch(process, id, "lift limits", ({ policy: { limits } }) => limits.length === 0, keyring.update(id, { limits: [] }));
      case "disable":
        return watch(process, id, what, ({ policy: { state } }) => state !== "active", keyring.disable(id));
      case "enable":
        return watch(process, id, what, ({ policy: { state } }) => state === "active", keyring.enable(id));
      case "revoke":
        return watch(process, id, what, ({ policy: { state } }) => state === "revoked", keyring.revoke(id));
      case "rotate": {
        const graceMs = random.pick([0, 0, 1_500, 60_000]);
        return watch(process, id, what, () => true, keyring.rotate(id, { graceMs }), ({ secret }) => {
          const digest = digestOf(secret);
          key.secrets.push({ secret, digest });
          oracle.rotated(id, digest);
        });
      }
    }
  }

  function watch<T>(
    process: Process,
    keyId: string,
    what: string,
    took: Parameters<typeof oracle.editCalled>[0]["took"],
    call: Promise<T>,
    then: (value: T) => void = () => {},
  ): void {
    const called = { process: process.name, keyId, what: `${what} ${keyId}`, took, calledStep: step, calledMs: nowMs };
    note(`${process.name} is told to ${called.what}`);
    oracle.editCalled(called);
    call.then(
      (value) => {
        note(`${called.what} is done`);
        oracle.editDone(called, {});
        then(value);
      },
      (error) => {
        note(`${called.what} failed: ${String(error)}`);
        oracle.editDone(called, { fault: codeOf(error) ?? String(error) });
      },
    );
  }

  // ── the end ─────────────────────────────────────────────────────────────────────────────────────────────────

  /** No more faults; everyone gets the time to finish; then the dead's holds expire and the books are judged. */
  async function windDown(): Promise<void> {
    isWindingDown = true;
    isFaulty = false;
    note("the run winds down");
    // Documents that have seen the future are a fault until the clock has caught up with them.
    clock.jump(nowMs, Math.max(0, clock.latest(nowMs) - clock.at(nowMs)));
    await advanceBy(Math.max(0, ...processes.map(({ pausedUntilMs }) => pausedUntilMs - nowMs)));
    for (const { process, end, at } of [...handlers.values()]) {
      at.isCancelled = true;
      schedule(random.between(0, 2_000), process, "hurries up", end);
    }
    // Late messages arrive, and whoever waits for an answer gets one.
    const untilMs = nowMs + LATEST_MS;
    while (violation === undefined && nowMs < untilMs && (travelling > 0 || oracle.isWaiting())) await advanceBy(5_000);
    await advanceBy(12_000);
    oracle.judgeAnswers();
    for (const process of running()) {
      const unwritten = await settled(process.subject.flush(SETTLED_MS / 2), `flush() of ${process.name}`);
      if (unwritten !== undefined && unwritten > 0) fail("calls-succeed-in-the-end", `${unwritten} unwritten in the end`);
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
    oracle.editCalled({ process: process.name, keyId: key.id, what, took: () => true, calledStep: step, calledMs: nowMs });
    await settled(keyring.enable(key.id), what);
    await settled(keyring.update(key.id, { quota: null, expiresAt: null, limits: [] }), what);
    const issued = await settled(keyring.rotate(key.id, { graceMs: 0 }), what);
    if (issued === undefined) return;
    key.secrets.push({ secret: issued.secret, digest: digestOf(issued.secret) });
    const openBefore = statistics["allowed"];
    request(process, key);
    const untilMs = nowMs + SETTLED_MS;
    while (statistics["allowed"] === openBefore && violation === undefined && nowMs < untilMs) await advance();
    if (statistics["allowed"] === openBefore) fail("calls-succeed-in-the-end", `${key.id} cannot be used any more`);
    await advanceBy(5_000);
  }
}

/** Until every promise that can go on has gone on: the subject uses promises and the timers it was given, no more. */
function drain(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

function latestOf<T>(list: readonly T[]): T {
  return list.at(-1) as T;
}

function digestOf(secret: string): string {
  return createHash("sha256").update(secret).digest("hex");
}

function codeOf(error: unknown): string | undefined {
  return isKeystileError(error) ? error.code : undefined;
}

/** A binary heap by time, then by order of arrival. */
function createQueue() {
  const heap: Happening[] = [];
  let orders = 0;

  function isBefore(a: Happening, b: Happening): boolean {
    return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
  }

  function push(happening: Happening): void {
    let at = heap.push(happening) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!isBefore(happening, heap[parent] as Happening)) break;
      heap[at] = heap[parent] as Happening;
      at = parent;
    }
    heap[at] = happening;
  }

  function pop(): Happening | undefined {
    const first = heap[0];
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return first;
    let at = 0;
    while (true) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1] as Happening, heap[child] as Happening)) child += 1;
      if (!isBefore(heap[child] as Happening, last)) break;
      heap[at] = heap[child] as Happening;
      at = child;
    }
    heap[at] = last;
    return first;
  }

  return { push, pop, nextOrder: () => orders++ };
}
