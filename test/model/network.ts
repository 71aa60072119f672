import { KeystileError } from "../../src/errors.js";
import type { Store } from "../../src/store.js";
import type { StoreClock } from "./clock.js";
import type { Random } from "./random.js";
import type { Scenario } from "./scenario.js";
import type { TrueStore } from "./true-store.js";

/** What a connection needs of the simulator around it. */
export interface Surroundings {
  readonly scenario: Scenario;
  readonly store: TrueStore;
  readonly clock: StoreClock;
  nowMs(): number;
  /** Something that happens whatever becomes of the process: a request on its way, a store at work. */
  inNetwork(delayMs: number, label: string, run: () => void): void;
  /** Something that reaches the process: not at all when it is dead, later when it stands still. */
  inProcess(delayMs: number, label: string, run: () => void): void;
  /** False once the run winds down. */
  isFaulty(): boolean;
  /** Whether the store cannot be reached by this process just now. */
  isCutOff(): boolean;
  onSent(call: Call): void;
  onFault(fault: Fault): void;
}

export type Call =
  | { readonly read: Parameters<Store["read"]>[0] }
  | { readonly write: Parameters<Store["write"]>[0] };

export type Fault =
  | "lost"
  | "replyLost"
  | "late"
  | "lateWon"
  | "duplicated"
  | "falseConflict"
  | "conflict"
  | "slow";

/** What the network does to one call. */
interface Journey {
  /** After how long the store carries it out; none, once, or more often. */
  readonly arrivals: readonly number[];
  /** Which of them answers; undefined when the caller gets an error or nothing. */
  readonly answers: number | undefined;
  /** The way back of the answer, or how long until the error; undefined for silence. */
  readonly backMs: number | undefined;
  readonly error: () => Error;
  readonly fault: Fault | undefined;
}

/** One process's way to the store: slow, lossy, repeating, as the scenario says. */
export function connect(surroundings: Surroundings, random: Random): Store {
  const { store, clock, inNetwork, inProcess, onFault } = surroundings;

  function send<R extends object>(call: Call, carryOut: () => R): Promise<R & { now: number }> {
    surroundings.onSent(call);
    const { arrivals, answers, backMs, error, fault } = drawJourney(surroundings, random, "write" in call);
    if (fault !== undefined) onFault(fault);
    const label = describeCall(call);
    return new Promise((resolve, reject) => {
      for (const [index, delayMs] of arrivals.entries()) {
        inNetwork(delayMs, `store: ${label}${fault === undefined ? "" : ` (${fault})`}`, () => {
          const outcome = carryOut();
          const conflicts = isConflict(outcome);
          if (conflicts && index === 0) onFault("conflict");
          if (conflicts && index > 0) onFault("falseConflict");
          if (!conflicts && fault === "late" && "write" in call) onFault("lateWon");
          if (index !== answers || backMs === undefined) return;
          const reply = { ...outcome, now: clock.at(surroundings.nowMs()) };
          inProcess(backMs, `reply: ${label}${conflicts ? " lost its race" : ""}`, () => resolve(reply));
        });
      }
      if (answers === undefined && backMs !== undefined) {
        inProcess(backMs, `error: ${label} (${fault})`, () => reject(error()));
      }
    });
  }

  return {
    read: (ids) => send({ read: ids }, () => ({ documents: store.read(ids) })),
    write: (groups) => send({ write: groups }, () => ({ results: store.write(groups) })),
    async list() {
      throw new Error("The model does not list.");
    },
    async close() {},
  };
}

function drawJourney(surroundings: Surroundings, random: Random, isWrite: boolean): Journey {
  const { scenario } = surroundings;
  const wayMs = (): number => random.between(1, scenario.latencyMs);
  const plain: Journey = {
    arrivals: [wayMs()],
    answers: 0,
    backMs: wayMs(),
    error: unknownOutcome,
    fault: undefined,
  };
  if (!surroundings.isFaulty()) return plain;
  const silence = random.chance(0.4);
  const backMs = silence ? undefined : wayMs();

  if (surroundings.isCutOff() || random.chance(scenario.lost)) {
    const error = random.pick([unknownOutcome, plainError, certainlyNot]);
    return { arrivals: [], answers: undefined, backMs, error, fault: "lost" };
  }
  if (random.chance(scenario.replyLost)) {
    const error = random.pick([unknownOutcome, plainError]);
    return {
      arrivals: [wayMs()],
      answers: undefined,
      backMs: backMs && 2 * backMs,
      error,
      fault: "replyLost",
    };
  }
  if (random.chance(scenario.late)) {
    // Soon after the caller gave up is the moment that hurts: it has read the document, and now it changes.
    const gaveUpMs = backMs ?? scenario.storeTimeoutMs;
    const lateMs = random.pick([
      wayMs(),
      3 * scenario.latencyMs,
      scenario.storeTimeoutMs,
      random.gap(20_000),
    ]);
    return { ...plain, arrivals: [gaveUpMs + lateMs], answers: undefined, backMs, fault: "late" };
  }
  if (isWrite && random.chance(scenario.duplicate)) {
    const firstMs = wayMs();
    const secondMs = firstMs + random.pick([0, wayMs(), 10 * wayMs()]);
    const answers = random.chance(0.8) ? 1 : 0;
    return { ...plain, arrivals: [firstMs, secondMs], answers, fault: "duplicated" };
  }
  if (random.chance(scenario.slow)) {
    const slowMs = random.gap(2_000);
    return random.chance(0.5)
      ? { ...plain, arrivals: [slowMs], fault: "slow" }
      : { ...plain, backMs: slowMs, fault: "slow" };
  }
  return plain;
}

function isConflict(outcome: object): boolean {
  return (
    "results" in outcome &&
    (outcome.results as readonly { written: boolean }[]).some(({ written }) => !written)
  );
}

function describeCall(call: Call): string {
  if ("read" in call) return `read ${call.read.map(shortId).join(" ")}`;
  const groups = call.write.map((group) =>
    group
      .map(({ id, expected, set }) => `${shortId(id)}@${expected}${set === undefined ? "?" : ""}`)
      .join("+"),
  );
  return `write ${groups.join(" ")}`;
}

function shortId(id: string): string {
  return id.slice(0, 15);
}

function unknownOutcome(): Error {
  return new KeystileError("store_unavailable", "The connection broke.", { mayHaveHappened: true });
}

function plainError(): Error {
  return new Error("socket hang up");
}

function certainlyNot(): Error {
  return new KeystileError("store_unavailable", "The connection was refused.", { mayHaveHappened: false });
}
