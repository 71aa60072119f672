/** One of several processes that send requests against keys they share, with the package as it is published. */
import { setImmediate as nextTurn, setTimeout as sleep } from "node:timers/promises";
import { type Allowed, createKeystile, type Decision } from "keystile";
import { type Random, randomFrom } from "../../model/random.ts";
import { serve } from "./link.ts";
import { openStore } from "./open-store.ts";

/** Requests that arrive within `spreadMs`, each decided once. */
export interface Burst {
  readonly secret: string;
  readonly seed: number;
  readonly count: number;
  readonly maxCost: number;
  readonly spreadMs: number;
  /** Whether what settles during the burst may have cost less than estimated, which makes room for others. */
  readonly refunds: boolean;
  readonly quota: number;
}

export interface BurstReport {
  readonly admitted: number;
  readonly admittedCost: number;
  readonly refused: Readonly<Record<string, number>>;
  readonly smallestRefusedCost: number;
  /** Allowances that showed more than the quota as used and held. */
  readonly overspent: number;
}

/** Requests without end, until the parent says that its change of the key has resolved. */
export interface Hammering {
  readonly secret: string;
  readonly before: string;
  readonly after: string;
  /** Whether a request waits until its end is stored, as no gateway does. Default true. */
  readonly isAwaited?: boolean;
}

export interface HammerReport {
  readonly requests: number;
  /** When the last request with the old answer was begun, and when the first with the new one was answered. */
  readonly lastBeforeBegunAt: bigint;
  readonly firstAfterEndedAt: bigint;
  /** Requests begun after the parent said so, and how many of them still got the old answer. */
  readonly begunAfterTold: number;
  readonly wrongAfterTold: number;
  readonly unexpected: readonly string[];
}

const [address = "", leaseMs] = process.argv.slice(2);
const LOOPS = 4;

// Patient, because here four processes share two cores; what is late is a fault and would fail the test.
const keystile = createKeystile({
  store: openStore(address).store,
  storeTimeoutMs: 50_000,
  ...(leaseMs !== undefined && { leases: { revalidateMs: Number(leaseMs) } }),
});
const kept: { readonly decision: Allowed; readonly random: Random }[] = [];
let settling: Promise<number>[] = [];
let onHammering: () => void = () => {};
let told = false;

function authorize(secret: string, cost: number): Promise<Decision> {
  return keystile.authorize({ headers: { authorization: `Bearer ${secret}` }, cost });
}

async function settleAt(decision: Allowed, actual: number, delayMs: number): Promise<number> {
  if (delayMs > 0) await sleep(delayMs);
  await decision.settle(actual);
  return actual;
}

async function burst(input: Burst): Promise<BurstReport> {
  const { secret, seed, count, maxCost, spreadMs, refunds, quota } = input;
  const random = randomFrom(seed);
  const refused: Record<string, number> = {};
  let [admitted, admittedCost, overspent] = [0, 0, 0];
  let smallestRefusedCost = Number.POSITIVE_INFINITY;

  async function request(random: Random): Promise<void> {
    const cost = random.between(1, maxCost);
    if (spreadMs > 0) await sleep(random.between(0, spreadMs));
    const decision = await authorize(secret, cost);
    if (!decision.allowed) {
      const { reason } = decision.refusal;
      refused[reason] = (refused[reason] ?? 0) + 1;
      smallestRefusedCost = Math.min(smallestRefusedCost, cost);
      return;
    }
    admitted += 1;
    admittedCost += cost;
    if (decision.quota.used + decision.quota.held > quota) overspent += 1;
    if (random.chance(0.4)) {
      kept.push({ decision, random });
      return;
    }
    const actual = refunds ? random.between(0, cost) : cost;
    settling.push(settleAt(decision, actual, random.chance(0.5) ? 0 : random.between(1, 10)));
  }

  await Promise.all(Array.from({ length: count }, () => request(random.fork())));
  return { admitted, admittedCost, refused, smallestRefusedCost, overspent };
}

/** Ends what the burst left open, at any cost or none, and tells what all of its requests have cost. */
async function finish(): Promise<number> {
  for (const { decision, random } of kept.splice(0)) {
    const isVoid = random.chance(0.3);
    const actual = isVoid ? 0 : random.between(0, (decision.estimate as number) + 1);
    settling.push(isVoid ? decision.void().then(() => 0) : settleAt(decision, actual, 0));
  }
  const costs = await Promise.all(settling);
  settling = [];
  return costs.reduce((sum, cost) => sum + cost, 0);
}

/** Fires requests at once and keeps open what was admitted. Tells how many that were, and why others were not. */
async function acquire({ secret, count }: { readonly secret: string; readonly count: number }) {
  const decisions = await Promise.all(Array.from({ length: count }, () => authorize(secret, 1)));
  const refused = new Set<string>();
  let admitted = 0;
  for (const decision of decisions) {
    if (decision.allowed) {
      admitted += 1;
      kept.push({ decision, random: randomFrom(0) });
    } else refused.add(decision.refusal.reason);
  }
  return { admitted, refused: [...refused] };
}

async function release({ share, seed }: { readonly share: number; readonly seed: number }): Promise<number> {
  const random = randomFrom(seed);
  const ending = kept.filter(() => random.chance(share));
  for (const one of ending) kept.splice(kept.indexOf(one), 1);
  await Promise.all(ending.map(({ decision }) => (random.chance(0.5) ? decision.settle() : decision.void())));
  return ending.length;
}

/** Requests one after the other in several loops. Tells when each admitted one was surely open: from, until. */
async function churn({ secret, seed }: { readonly secret: string; readonly seed: number }) {
  const times: bigint[] = [];
  const refused = new Set<string>();

  async function loop(random: Random): Promise<void> {
    for (let n = 0; n < 60; n += 1) {
      const decision = await authorize(secret, 1);
      const from = process.hrtime.bigint();
      if (random.chance(0.5)) await nextTurn();
      else await sleep(random.between(1, 4));
      if (!decision.allowed) {
        refused.add(decision.refusal.reason);
        continue;
      }
      times.push(from, process.hrtime.bigint());
      await decision.settle();
    }
  }

  const random = randomFrom(seed);
  await Promise.all(Array.from({ length: 8 }, () => loop(random.fork())));
  return { times: BigUint64Array.from(times), refused: [...refused] };
}

async function hammer({ secret, before, after, isAwaited = true }: Hammering): Promise<HammerReport> {
  told = false;
  const unexpected: string[] = [];
  let lastBeforeBegunAt = 0n;
  let firstAfterEndedAt: bigint | undefined;
  let [requests, begunAfterTold, wrongAfterTold] = [0, 0, 0];

  async function request(): Promise<void> {
    const afterTold = told;
    const begunAt = process.hrtime.bigint();
    const answer = await ask(secret, isAwaited);
    requests += 1;
    if (afterTold) begunAfterTold += 1;
    if (answer === before) {
      if (begunAt > lastBeforeBegunAt) lastBeforeBegunAt = begunAt;
      if (afterTold) wrongAfterTold += 1;
    } else if (answer === after) {
      firstAfterEndedAt ??= process.hrtime.bigint();
    } else unexpected.push(answer);
  }

  async function loop(): Promise<void> {
    while (!told) {
      await request();
      onHammering();
      // The store answers without ever leaving the turn; what the parent says would not be heard.
      await nextTurn();
    }
    for (let n = 0; n < 3; n += 1) await request();
  }

  await Promise.all(Array.from({ length: LOOPS }, loop));
  return {
    requests,
    lastBeforeBegunAt,
    firstAfterEndedAt: firstAfterEndedAt ?? 0n,
    begunAfterTold,
    wrongAfterTold,
    unexpected,
  };
}

/** One request from begin to end: `allowed`, why it was refused, or what went wrong. */
async function ask(secret: string, isAwaited: boolean): Promise<string> {
  try {
    const decision = await authorize(secret, 1);
    if (!decision.allowed) return `${decision.refusal.status} ${decision.refusal.reason}`;
    const settled = decision.settle();
    if (isAwaited) await settled;
    else settled.catch(() => {});
    return "allowed";
  } catch (error) {
    return String(error);
  }
}

serve({
  burst,
  finish,
  acquire,
  release,
  churn,
  hammer,
  hammering: () =>
    new Promise<void>((resolve) => {
      onHammering = resolve;
    }),
  told: () => {
    told = true;
  },
});
