/** One of several processes that request with keys which another one changes, with the package as it is published. */
import { setImmediate as nextTurn } from "node:timers/promises";
import { createKeystile } from "keystile";
import { serve } from "./link.ts";
import { openStore } from "./open-store.ts";

/** Requests of several callers, each back to back, until there are so many or the parent says that it is enough. */
export interface Hammering {
  readonly secret: string;
  readonly most?: number;
}

export interface HammerReport {
  readonly requests: number;
  /** How many were answered how: `allowed`, the reason of a refusal, or what went wrong. */
  readonly answers: Readonly<Record<string, number>>;
  /** From a request to its decision. */
  readonly p50Ms: number;
  readonly p99Ms: number;
}

const [address = ""] = process.argv.slice(2);
const CALLERS = 8;

const keystile = createKeystile({ store: openStore(address).store });
let isEnough = false;
let onAnswer: () => void = () => {};

/** One request from begin to end. */
async function ask(secret: string, onDecided: () => void = () => {}): Promise<string> {
  try {
    const headers = { authorization: `Bearer ${secret}` };
    const decision = await keystile.authorize({ headers, model: "gpt-5", cost: 1 });
    onDecided();
    if (!decision.allowed) return decision.refusal.reason;
    await decision.settle();
    return "allowed";
  } catch (error) {
    return String(error);
  }
}

async function hammer({ secret, most = Number.POSITIVE_INFINITY }: Hammering): Promise<HammerReport> {
  isEnough = false;
  const answers: Record<string, number> = {};
  const latenciesMs: number[] = [];

  async function caller(): Promise<void> {
    while (!isEnough && latenciesMs.length < most) {
      const begunAtMs = performance.now();
      const answer = await ask(secret, () => latenciesMs.push(performance.now() - begunAtMs));
      answers[answer] = (answers[answer] ?? 0) + 1;
      onAnswer();
      // A store that answers within the turn would keep what the parent says from being heard.
      await nextTurn();
    }
  }

  await Promise.all(Array.from({ length: CALLERS }, caller));
  const sorted = latenciesMs.toSorted((a, b) => a - b);
  const at = (share: number): number => sorted[Math.floor(share * (sorted.length - 1))] ?? 0;
  return { requests: sorted.length, answers, p50Ms: at(0.5), p99Ms: at(0.99) };
}

serve({
  ask: (secret: string) => ask(secret),
  hammer,
  hammering: () =>
    new Promise<void>((resolve) => {
      onAnswer = resolve;
    }),
  enough: () => {
    isEnough = true;
  },
});
