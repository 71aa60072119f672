import { isKeystileError } from "../../../src/errors.js";
import type { Keystile } from "../../../src/keystile.js";
import type { Usage } from "../../../src/usage.js";
import type { StoreClock } from "../clock.js";
import type { Process as AnyProcess, Processes } from "../processes.js";
import type { Random } from "../random.js";
import type { Happening, Timeline } from "../timeline.js";
import type { MoneyRequest, Price } from "./books.js";
import { createOperators } from "./operators.js";
import type { MoneyOracle } from "./oracle.js";
import type { AccountPlan, MoneyScenario } from "./scenario.js";

type Process = AnyProcess<Keystile>;
type Decision = Awaited<ReturnType<Keystile["authorize"]>>;

export interface MoneyKey {
  readonly id: string;
  readonly secret: string;
  readonly pays: "balance" | "subscription";
}

export interface MoneyAccount {
  readonly id: string;
  readonly plan: AccountPlan;
  readonly keys: MoneyKey[];
  /** Credits and debits ever asked for. */
  readonly entries: { readonly id: string; readonly amount: number }[];
}

export interface MoneyWorld {
  readonly random: Random;
  readonly scenario: MoneyScenario;
  readonly timeline: Timeline;
  readonly clock: StoreClock;
  readonly oracle: MoneyOracle;
  readonly processes: Processes<Keystile>;
  fail(invariant: string, detail: string): void;
}

/** Less than what the package itself settles for being open too long. */
const LONGEST_MS = 20 * 3_600_000;

/** The programs that spend money, and the operators who grant it. */
export function createMoneyWorkload(world: MoneyWorld) {
  const { random, scenario, timeline, oracle, processes, fail } = world;
  const { faults } = scenario;
  const { nowMs, step, note, schedule } = timeline;
  const accounts: MoneyAccount[] = [];
  const handlers = new Map<MoneyRequest, { process: Process; end: () => void; at: Happening }>();
  const operators = createOperators(world, accounts);
  let requests = 0;
  let isHurried = false;

  function arrive(): void {
    const count = random.chance(faults.singles) ? 1 : random.between(1, faults.burst);
    const account = random.pick(accounts);
    const process = processes.any();
    for (let arrived = 0; arrived < count; arrived++) {
      const isAlike = random.chance(0.6);
      request(isAlike ? process : processes.any(), isAlike ? account : random.pick(accounts));
    }
  }

  function request(process: Process, account: MoneyAccount): void {
    if (account.keys.length === 0) return;
    // A process that stands still finds the connection when it goes on.
    if (process.pausedUntilMs > nowMs()) {
      const accept = (): void => void (process.state === "running" && request(process, account));
      schedule(0, process, "accepts a connection", accept);
      return;
    }
    const { id: keyId, secret, pays } = random.pick(account.keys);
    requests += 1;
    const asked: MoneyRequest = {
      name: `r${requests}`,
      ...{ keyId, accountId: account.id, pays, process: process.name },
      cost: drawCost(account.plan),
      arrivedStep: step(),
      arrivedMs: nowMs(),
      answer: "pending",
      answeredStep: 0,
      answeredMs: 0,
      cycles: new Set(),
      ended: undefined,
      acknowledged: false,
      lost: false,
    };
    note(`${process.name} is asked ${asked.name} of ${keyId} (${pays}), cost ${JSON.stringify(asked.cost)}`);
    oracle.requested(asked);
    const headers = { authorization: `Bearer ${secret}` };
    process.subject.authorize({ headers, cost: asked.cost, tokens: random.between(0, 50) }).then(
      (decision) => answered(process, account, asked, decision),
      (error) => {
        note(`${asked.name} meets a fault: ${String(error)}`);
        oracle.answeredFault(asked, codeOf(error));
      },
    );
  }

  function drawCost({ highestCost, priced }: AccountPlan): Price {
    const amount = (): number => (random.chance(0.05) ? 0 : random.between(1, highestCost));
    return random.chance(priced) ? { subscription: amount(), balance: 3 * amount() } : amount();
  }

  function answered(process: Process, { plan }: MoneyAccount, asked: MoneyRequest, decision: Decision): void {
    if (!decision.allowed) {
      note(`${asked.name} is refused: ${decision.refusal.reason}`);
      oracle.answeredRefusal(asked, decision.refusal);
      return;
    }
    note(`${asked.name} is allowed`);
    oracle.answeredAllowance(asked);
    const usualMs = random.chance(0.1) ? 5 * faults.requestMs : faults.requestMs;
    const end = (): void => {
      handlers.delete(asked);
      endRequest(process, plan, asked, decision);
    };
    const takesMs = Math.min(random.gap(isHurried ? 50 : usualMs), LONGEST_MS);
    handlers.set(asked, { process, end, at: schedule(takesMs, process, `${asked.name} is done`, end) });
  }

  function endRequest(
    process: Process,
    plan: AccountPlan,
    asked: MoneyRequest,
    decision: Extract<Decision, { allowed: true }>,
  ): void {
    const isVoid = random.chance(0.15);
    const cost = isVoid ? 0 : drawActual(plan, asked.cost);
    note(`${asked.name} ends with ${isVoid ? "void" : JSON.stringify(cost)}`);
    oracle.ended(asked, cost);
    const ending = isVoid ? decision.void() : decision.settle(cost, drawUsage());
    acknowledge(process, asked, ending);
    // Ending twice is no mistake: the first time counts.
    if (random.chance(0.05))
      acknowledge(process, asked, random.chance(0.5) ? decision.void() : decision.settle(99));
  }

  function acknowledge(process: Process, asked: MoneyRequest, ending: Promise<void>): void {
    ending.then(
      () => oracle.acknowledged(asked),
      (error) => {
        if (process.state === "running")
          fail("settle-resolves", `settle() of ${asked.name} threw ${String(error)}`);
      },
    );
  }

  function drawActual({ actual }: AccountPlan, estimate: Price): Price {
    const draw = (amount: number): number => {
      if (actual === "fixed") return amount;
      return random.between(0, actual === "below" ? amount : 2 * amount);
    };
    if (typeof estimate === "number") return draw(estimate);
    return { subscription: draw(estimate.subscription), balance: draw(estimate.balance) };
  }

  function drawUsage(): Usage | undefined {
    if (random.chance(0.5)) return undefined;
    const tokens = (): number => random.between(0, 25);
    return {
      model: random.pick(["small", "large"]),
      ...{ inputTokens: tokens(), cachedInputTokens: 0, cacheWriteTokens: 0 },
      ...{ outputTokens: tokens(), reasoningTokens: 0 },
    };
  }

  /** Brings all requests to their ends. */
  function hurry(): void {
    isHurried = true;
    for (const { process, end, at } of [...handlers.values()]) {
      at.isCancelled = true;
      schedule(random.between(0, 2_000), process, "hurries up", end);
    }
  }

  return { accounts, arrive, hurry, ...operators };
}

export function codeOf(error: unknown): string | undefined {
  return isKeystileError(error) ? error.code : String(error);
}
