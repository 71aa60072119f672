/**
 * The process that asks: many callers, each sending one request after another, with every key to every gateway in turn.
 * Tells its parent how it stands, and the last time when the parent has told it to stop.
 */
import { setTimeout as sleep } from "node:timers/promises";

export interface LoadTask {
  readonly gateways: readonly string[];
  /** Each secret with the name under which its requests are counted. */
  readonly keys: readonly { readonly fund: string; readonly secret: string }[];
  readonly callers: number;
}

export interface LoadReport {
  readonly answered: number;
  readonly tallies: Readonly<Record<string, Tally>>;
  /** Nothing is under way any more. */
  readonly isLast: boolean;
}

/** What was sent with the keys of one fund, and what came back: `200`, `402 quota_exceeded`, `cut off`. */
export interface Tally {
  readonly requested: number;
  readonly outcomes: Readonly<Record<string, number>>;
}

/** The connection ended before there was an answer: the caller cannot know whether it was charged. */
const CUT_OFF = "cut off";

const REPORT_EVERY = 100;
const BODY = JSON.stringify({ model: "gpt-demo", messages: [{ role: "user", content: "Hello" }] });

process.once("message", (task: LoadTask) => void run(task));
process.once("disconnect", () => process.exit()); // The parent has read the last report, or has gone.

async function run({ gateways, keys, callers }: LoadTask): Promise<void> {
  const tallies: Record<string, Tally> = {};
  let sent = 0;
  let answered = 0;
  let stopped = false;
  process.once("message", () => {
    stopped = true;
  });

  async function call(): Promise<void> {
    while (!stopped) {
      const turn = sent++;
      const { fund = "", secret = "" } = keys[turn % keys.length] ?? {};
      const outcome = await ask(Math.floor(turn / keys.length), secret);
      if (outcome === undefined) continue;
      const { requested, outcomes } = tallies[fund] ?? { requested: 0, outcomes: {} };
      const times = (outcomes[outcome] ?? 0) + 1;
      tallies[fund] = { requested: requested + 1, outcomes: { ...outcomes, [outcome]: times } };
      answered += 1;
      if (answered % REPORT_EVERY === 0) report(false);
    }
  }

  /** What came back. Where a gateway is down the next is asked, as a load balancer does; undefined when all are. */
  async function ask(first: number, secret: string): Promise<string | undefined> {
    for (let n = 0; n < gateways.length; n++) {
      const outcome = await send(gateways[(first + n) % gateways.length] ?? "", secret);
      if (outcome !== undefined) return outcome;
    }
    await sleep(10);
    return undefined;
  }

  function report(isLast: boolean): void {
    process.send?.({ answered, tallies, isLast } satisfies LoadReport);
  }

  await Promise.all(Array.from({ length: callers }, call));
  report(true);
}

/** What came back; undefined when nobody listens there, so that nothing was sent. */
async function send(gateway: string, secret: string): Promise<string | undefined> {
  try {
    const response = await fetch(`${gateway}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${secret}` },
      body: BODY,
    });
    const body = (await response.json()) as { readonly error?: { readonly code: string } };
    return body.error === undefined ? String(response.status) : `${response.status} ${body.error.code}`;
  } catch (error) {
    const { code } = ((error as Error).cause ?? {}) as { readonly code?: string };
    return code === "ECONNREFUSED" ? undefined : CUT_OFF;
  }
}
