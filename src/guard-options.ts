import type { Admission } from "./authorizer.js";
import type { Cost } from "./documents.js";
import { KeystileError } from "./errors.js";
import type { UnknownUsage } from "./metering.js";
import { noSuchName } from "./nearest-name.js";
import type { Prices } from "./prices.js";
import type { UsageReader } from "./usage-readers.js";

/** How a guard reads a request. A function that throws is left to the framework's error handling; nothing is held then. */
export interface GuardOptions<R> {
  /** `enforce` is the default. For `observe` see `ObservingOptions`. */
  readonly mode?: "enforce";
  /**
   * The peer of the socket, for keys with an address list; never a header, which anybody can write (`trustedProxies`
   * of `createKeystile` reads those of proxies). Default: what the server knows of the socket.
   */
  readonly address?: (request: R) => string | undefined;
  /**
   * The models asked for, for keys with model lists. Default: every place where the known APIs name one, in body,
   * path and query. `null` declares that the route has no model; `undefined` says that it could not be told, which
   * such keys refuse. `body` is the parsed JSON body, or undefined where not everyone reads it alike; `named` gives
   * what the default would, for a function that has something to say about some routes only.
   */
  readonly model?: (request: R, body: unknown, named: () => Admission["model"]) => Admission["model"];
  /**
   * Prices each request by what it says before it runs, and by the usage that its answer reports after. Instead of `cost`
   * and `tokens`. Answers pass unchanged and without delay. What is compressed behind the guard cannot be read, so let
   * a middleware that compresses come first.
   */
  readonly prices?: Prices;
  /**
   * What is booked when a complete answer reports no usage, or one that was cut has shown nothing at all: its estimate,
   * the part of it that is input, or nothing. What a handler observed comes first. Default `estimate`.
   */
  readonly onUnknownUsage?: UnknownUsage;
  /** Reads the usage of an API that is not known. Default `readUsage`. */
  readonly readUsage?: UsageReader;
  /**
   * Takes the chunk that only tells the usage out of a chat stream for a client that has not asked for it: for gateways
   * that ask themselves (`askForUsage`). The stream is passed on event by event then. Default false.
   */
  readonly stripUsageChunk?: boolean;
  /**
   * What the request is estimated to cost, without `prices`, in the unit of the quota: an integer from 0, or one for each
   * fund. Default 1.
   */
  readonly cost?: Cost | ((request: R, body: unknown) => Cost | Promise<Cost>);
  /** How many tokens it is estimated to take, without `prices`, for limits in tokens: an integer from 0. Default 0. */
  readonly tokens?: number | ((request: R, body: unknown) => number | Promise<number>);
  /** Scopes that a key needs here. Default none. */
  readonly scopes?: readonly string[] | ((request: R) => readonly string[]);
  /**
   * The longest body that is read for `model` and for what it costs, in bytes; `prices` take one that was not read, is
   * compressed, or is JSON that not everyone reads alike, to be as long. Default 10 MiB, at most 100 MiB.
   */
  readonly maxBodyBytes?: number;
}

/**
 * How a guard reads a request for a dark launch: it decides and books as always, but **lets everything through**, also
 * requests without a key, and during an outage. Never leave it where it is the only check.
 *
 * It answers nothing, adds no header, changes no answer, and puts back what it reads of a body. What it would have done is told by the event `request.judged`, and to the handler (as `Judged`,
 * never as the decision that handlers behind a guard rely on). When it is made, the event `guard.observing` says so, or a
 * line on the console if nobody listens to that.
 */
export interface ObservingOptions<R> extends Omit<GuardOptions<R>, "mode" | "stripUsageChunk"> {
  readonly mode: "observe";
  /**
   * How long a request may be kept while it is judged, its body included. Then it goes on, judged `late`, and what it is
   * still found to hold is given back. 1 ms to 60 s. Default 1 s.
   */
  readonly maxWaitMs?: number;
}

/** @throws KeystileError `invalid_options` naming the option, what was received and what would be right. */
export function checkGuardOptions(options: GuardOptions<never> | ObservingOptions<never>): void {
  const { prices, mode } = options;
  for (const [name, value] of Object.entries(options)) {
    if (!Object.hasOwn(OPTIONS, name)) {
      throw invalid("options", noSuchName(name.slice(0, 64), Object.keys(OPTIONS)));
    }
    if (value === undefined) continue;
    const [holds, expected] = OPTIONS[name as keyof typeof OPTIONS];
    const path = `options.${name}`;
    if (!holds(value)) throw invalid(path, `expected ${expected}, received ${String(value)}.`);
    if (prices === undefined && WITH_PRICES.includes(name)) {
      throw invalid(path, "expected nothing without options.prices, since no usage is read then.");
    }
    if (prices !== undefined && WITHOUT_PRICES.includes(name)) {
      throw invalid(path, "expected nothing beside options.prices, which tell it.");
    }
    if (mode === "observe" && name === "stripUsageChunk") {
      throw invalid(path, 'expected nothing with options.mode "observe", which leaves answers as they are.');
    }
    if (mode !== "observe" && name === "maxWaitMs") {
      throw invalid(path, 'expected nothing without options.mode "observe".');
    }
  }
}

const OPTIONS: Readonly<
  Record<
    keyof GuardOptions<never> | keyof ObservingOptions<never>,
    readonly [holds: (value: unknown) => boolean, expected: string]
  >
> = {
  mode: [(value) => value === "enforce" || value === "observe", '"enforce" or "observe"'],
  address: [isFunction, "a function"],
  model: [isFunction, "a function"],
  prices: [isPrices, "an object with the functions estimate and cost"],
  onUnknownUsage: [
    (value) => ["estimate", "input", "nothing"].includes(value as string),
    '"estimate", "input" or "nothing"',
  ],
  readUsage: [isFunction, "a function"],
  stripUsageChunk: [(value) => typeof value === "boolean", "true or false"],
  cost: [
    (value) => isFunction(value) || isCost(value),
    "an integer from 0, two of them as { subscription, balance }, or a function",
  ],
  tokens: [(value) => isFunction(value) || isInteger(value), "an integer from 0, or a function"],
  scopes: [(value) => isFunction(value) || isTexts(value), "a list of texts, or a function"],
  maxWaitMs: [(value) => isInteger(value) && value > 0 && value <= 60_000, "an integer from 1 to 60000"],
  maxBodyBytes: [(value) => isInteger(value) && value <= 104_857_600, "an integer from 0 to 104857600"],
};

const WITHOUT_PRICES: readonly string[] = ["cost", "tokens"];
const WITH_PRICES: readonly string[] = ["onUnknownUsage", "readUsage", "stripUsageChunk"];

function invalid(path: string, problem: string): KeystileError {
  return new KeystileError("invalid_options", `${path}: ${problem}`);
}

function isFunction(value: unknown): boolean {
  return typeof value === "function";
}

function isInteger(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isCost(value: unknown): boolean {
  const { subscription, balance } = (value ?? {}) as { subscription?: unknown; balance?: unknown };
  return isInteger(value) || (isInteger(subscription) && isInteger(balance));
}

function isPrices(value: unknown): boolean {
  const { estimate, cost } = (value ?? {}) as Partial<Prices>;
  return isFunction(estimate) && isFunction(cost);
}

function isTexts(value: unknown): boolean {
  return Array.isArray(value) && value.every((member) => typeof member === "string");
}
