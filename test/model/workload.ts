import { createHash } from "node:crypto";
import { isKeystileError } from "../../src/errors.js";
import type { ModelEdit, ModelRequest } from "./account.js";
import type { Body } from "./body.js";
import type { StoreClock } from "./clock.js";
import type { Oracle } from "./oracle.js";
import type { Process as AnyProcess, Processes } from "./processes.js";
import type { Random } from "./random.js";
import { drawKeyPlan, type KeyPlan, type Scenario } from "./scenario.js";
import type { Subject, SubjectDecision, SubjectSecret } from "./subject.js";
import type { Happening, Timeline } from "./timeline.js";

type Process = AnyProcess<Subject>;

export interface ModelKey {
  readonly id: string;
  readonly plan: KeyPlan;
  /** All ever issued, the latest last; old ones are tried, too. */
  readonly secrets: { readonly secret: string; readonly digest: string }[];
}

/** What the workload needs of the world around it. */
export interface World {
  readonly random: Random;
  readonly scenario: Scenario;
  readonly timeline: Timeline;
  readonly clock: StoreClock;
  readonly oracle: Oracle;
  readonly processes: Processes<Subject>;
  fail(invariant: string, detail: string): void;
}

const EDITS = [
  "quota",
  "quota",
  "expiry",
  "limits",
  "disable",
  "enable",
  "enable",
  "revoke",
  "rotate",
  "rotate",
  "issue",
] as const;
const REMEDIES = { revoked: "issue", disabled: "enable", expired: "expiry", exhausted: "quota" } as const;

const MOST_KEYS = 8;

/** Secret, key, the write before its own, its own: each may end in silence, and be waited for behind another. */
const MOST_TIMEOUTS = 12;

/** The people and programs that use the keys: requests and their ends, edits and their outcomes. */
export function createWorkload({ random, scenario, timeline, clock, oracle, processes, fail }: World) {
  const { nowMs, step, note, schedule } = timeline;
  const { running, any: anyProcess } = processes;
  const keys: ModelKey[] = [];
  const handlers = new Map<ModelRequest, { process: Process; end: () => void; at: Happening }>();
  let requests = 0;
  let isHurried = false;

  // ── requests ────────────────────────────────────────────────────────────────────────────────────────────────

  function arrive(): void {
    const count = random.chance(scenario.singles) ? 1 : random.between(1, scenario.burst);
    const key = likelyKey();
    const upright = running().filter(({ pausedUntilMs }) => pausedUntilMs <= nowMs());
    const process = (random.chance(0.9) ? random.pick(upright) : undefined) ?? anyProcess();
    for (let arrived = 0; arrived < count; arrived++) {
      const isAlike = random.chance(0.7);
      request(isAlike ? process : anyProcess(), isAlike ? key : likelyKey());
    }
  }

  /** Keys that can still be used are tried more often than others. */
  function likelyKey(): ModelKey {
    const isUsable = (key: ModelKey): boolean => oracle.obstacleOf(key.id) === undefined;
    return random.chance(0.9) ? (random.pick(keys.filter(isUsable)) ?? random.pick(keys)) : random.pick(keys);
  }

  function request(process: Process, key: ModelKey): void {
    // A process that stands still finds the connection when it goes on.
    if (process.pausedUntilMs > nowMs()) {
      schedule(
        0,
        process,
        "accepts a connection",
        () => process.state === "running" && request(process, key),
      );
      return;
    }
    const isOld = !isHurried && random.chance(0.05);
    const { secret, digest } = isOld ? random.pick(key.secrets) : latestOf(key.secrets);
    requests += 1;
    const asked: ModelRequest = {
      name: `r${requests}`,
      keyId: key.id,
      process: process.name,
      digest,
      cost: random.chance(0.05) ? 0 : random.between(Math.min(1, key.plan.highestCost), key.plan.highestCost),
      arrivedStep: step(),
      arrivedMs: nowMs(),
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
      (decision) => {
        judgePatience(process, asked);
        answered(process, key, asked, decision);
      },
      (error) => {
        judgePatience(process, asked);
        note(`${asked.name} meets a fault: ${String(error)}`);
        oracle.answeredFault(asked, codeOf(error));
      },
    );
  }

  /** Every call of the store ends in `storeTimeoutMs`, and nobody waits for many of them one after the other. */
  function judgePatience(process: Process, { name, arrivedMs }: ModelRequest): void {
    const waitedMs = nowMs() - arrivedMs;
    if (process.pausedUntilMs > arrivedMs || waitedMs <= MOST_TIMEOUTS * scenario.storeTimeoutMs) return;
    fail("answered-in-time", `${name} of ${process.name} waited ${waitedMs} ms`);
  }

  function answered(
    process: Process,
    { plan }: ModelKey,
    asked: ModelRequest,
    decision: SubjectDecision,
  ): void {
    if (!decision.allowed) {
      const { reason, held } = decision.refusal;
      note(`${asked.name} is refused: ${reason}${held === true ? " (held)" : ""}`);
      oracle.answeredRefusal(asked, decision.refusal);
      return;
    }
    note(`${asked.name} is allowed`);
    oracle.answeredAllowance(asked);
    const usualMs = random.chance(0.1) ? 10 * scenario.requestMs : scenario.requestMs;
    const takesMs = random.gap(isHurried ? 50 : usualMs);
    const end = (): void => {
      handlers.delete(asked);
      endRequest(process, plan, asked, decision);
    };
    if (takesMs === 0) {
      end();
      return;
    }
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
    if (random.chance(0.05))
      acknowledge(process, asked, random.chance(0.5) ? decision.void() : decision.settle(cost + 7));
  }

  function acknowledge(process: Process, asked: ModelRequest, ending: Promise<void>): void {
    ending.then(
      () => {
        note(`${asked.name} is settled`);
        oracle.acknowledged(asked);
      },
      (error) => {
        if (process.state === "running")
          fail("settle-resolves", `settle() of ${asked.name} threw ${String(error)}`);
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
    return { quota, limits, onCrash, expiresAt: livesMs === null ? null : clock.latest(nowMs()) + livesMs };
  }

  function addKey(process: Process, plan: KeyPlan, { secret, key }: SubjectSecret): void {
    const digest = digestOf(secret);
    note(`${process.name} issued ${key.id}`);
    oracle.issued(process.name, key.id, digest);
    keys.push({ id: key.id, plan, secrets: [{ secret, digest }] });
  }

  function edit(): void {
    const process = anyProcess();
    if (process.pausedUntilMs > nowMs()) return;
    const key = random.pick(keys);
    const obstacle = oracle.obstacleOf(key.id);
    const what = obstacle !== undefined && random.chance(0.7) ? REMEDIES[obstacle] : random.pick(EDITS);
    if (what === "issue") issue(process);
    else if (what === "rotate") rotate(process, key);
    else change(process, key, what);
  }

  function issue(process: Process): void {
    if (keys.length >= MOST_KEYS) return;
    const plan = drawKeyPlan(random, scenario);
    const told = { process, keyId: "", what: "issue", took: () => true };
    watch(
      told,
      () => process.subject.keys.issue(inputOf(plan)),
      (issued) => addKey(process, plan, issued),
    );
  }

  function rotate(process: Process, { id, secrets }: ModelKey): void {
    const graceMs = random.pick([0, 0, 1_500, 60_000]);
    const told = { process, keyId: id, what: "rotate", took: () => true };
    watch(
      told,
      () => process.subject.keys.rotate(id, { graceMs }),
      ({ secret }) => {
        const digest = digestOf(secret);
        secrets.push({ secret, digest });
        oracle.rotated(id, digest);
      },
    );
  }

  function change(
    process: Process,
    { id }: ModelKey,
    what: Exclude<(typeof EDITS)[number], "issue" | "rotate">,
  ): void {
    const { update, disable, enable, revoke } = process.subject.keys;
    const policy = oracle.bodyOf(id)?.policy;
    const quota = policy?.quota == null ? null : policy.quota + random.between(1, 200);
    const expiresAt = policy?.expiresAtMs == null ? null : clock.latest(nowMs()) + 30_000;
    const changes: Record<typeof what, readonly [() => Promise<unknown>, ModelEdit["took"]]> = {
      quota: [() => update(id, { quota }), (body) => body.policy.quota === quota],
      expiry: [() => update(id, { expiresAt }), (body) => body.policy.expiresAtMs === expiresAt],
      limits: [() => update(id, { limits: [] }), (body) => body.policy.limits.length === 0],
      disable: [() => disable(id), isIn("disabled")],
      enable: [() => enable(id), isIn("active")],
      revoke: [() => revoke(id), isIn("revoked")],
    };
    const [call, took] = changes[what];
    if (what === "quota" && quota !== null) oracle.quotaAsked(id, quota);
    watch({ process, keyId: id, what, took }, call);
  }

  function watch<T>(
    { process, ...told }: Pick<ModelEdit, "keyId" | "what" | "took"> & { readonly process: Process },
    call: () => Promise<T>,
    then: (value: T) => void = () => {},
  ): void {
    const called = { ...told, process: process.name, calledStep: step(), calledMs: nowMs() };
    const what = `${called.what} ${called.keyId}`;
    note(`${process.name} is told to ${what}`);
    oracle.editCalled(called);
    call().then(
      (value) => {
        note(`${what} is done`);
        oracle.editDone(called, {});
        then(value);
      },
      (error) => {
        note(`${what} failed: ${String(error)}`);
        oracle.editDone(called, { fault: codeOf(error) ?? String(error) });
      },
    );
  }

  /** Brings all requests to their ends, and lets later ones be short. */
  function hurry(): void {
    isHurried = true;
    for (const { process, end, at } of [...handlers.values()]) {
      at.isCancelled = true;
      schedule(random.between(0, 2_000), process, "hurries up", end);
    }
  }

  return { keys, inputOf, addKey, arrive, request, edit, hurry };
}

function isIn(state: Body["policy"]["state"]): ModelEdit["took"] {
  return ({ policy }) => policy.state === state;
}

function latestOf<T>(list: readonly T[]): T {
  return list.at(-1) as T;
}

export function digestOf(secret: string): string {
  return createHash("sha256").update(secret).digest("hex");
}

function codeOf(error: unknown): string | undefined {
  return isKeystileError(error) ? error.code : undefined;
}
