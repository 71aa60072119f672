import { assertAmount, assertCost } from "./cost.js";
import { type HeaderSource, headerValues } from "./credential.js";
import type { Cost } from "./documents.js";
import type { Estimate, Priced, Prices } from "./prices.js";
import { mayBeJson } from "./strict-json.js";
import type { ObservedUsage, Usage } from "./usage.js";
import { askForUsage, type UsageMeter, usageMeter } from "./usage-meter.js";
import type { UsageReader } from "./usage-readers.js";

/**
 * How an answer ended: sent to its end; broken, or given up by its client; or worth nothing, because it is an error or
 * its handler failed before there was one.
 */
export type AnswerEnd = "complete" | "cut" | "failed";

/** What is booked for a request of which nobody learns what it took: its estimate, the input in it, or 0. */
export type UnknownUsage = "estimate" | "input" | "nothing";

/** How one request is priced. */
export interface Pricing {
  readonly prices: Prices;
  readonly estimate: Estimate;
  /** The model it was admitted with. */
  readonly asked: Priced["model"];
  readonly onUnknownUsage: UnknownUsage;
}

/** A request as it is priced. `bytes` is its body, undefined if that was not read; `body` the value of one in JSON. */
interface PricedRequest {
  readonly model: Priced["model"];
  readonly headers: HeaderSource;
  readonly bytes: Uint8Array | undefined;
  readonly body: unknown;
  readonly maxBodyBytes: number;
}

/** Prices a request before it runs. @throws TypeError for an estimate that is none, and whatever the prices throw */
export function estimateOf(
  prices: Prices,
  { model, headers, bytes, body, maxBodyBytes }: PricedRequest,
): Estimate {
  const isCompressed = isEncoded(headerValues(headers, "content-encoding").join());
  const declared = headerValues(headers, "content-length").map(Number).filter(Number.isSafeInteger);
  const isKnown = bytes !== undefined && !isCompressed && !hidesJson(headers, bytes, body);
  const bodyBytes = isKnown ? bytes.byteLength : Math.max(maxBodyBytes, ...declared);
  const estimate = prices.estimate({ model, body, bodyBytes });
  // Cost and tokens are checked by whoever admits; these are used only when nobody is left to be told.
  assertCost(estimate.inputCost);
  assertAmount(estimate.inputTokens, "number of tokens");
  return estimate;
}

/**
 * Whether a body may be JSON to whoever serves the request, but is none here, or only a text: then it may ask for any
 * length of output and any number of choices.
 */
function hidesJson(headers: HeaderSource, bytes: Uint8Array, body: unknown): boolean {
  if (body !== undefined) return typeof body === "string" && /^[\s\ufeff]*\{/.test(body);
  return bytes.length > 0 && mayBeJson(headers, bytes);
}

function isEncoded(encoding: string): boolean {
  return !/^(?:\s*identity\s*)?$/i.test(encoding);
}

/** What is to be known of an answer before its body: header fields by their name in lower case. */
interface AnswerHead {
  readonly status: number;
  readonly field: (name: string) => unknown;
}

/** How answers are to be read. */
interface Reading {
  readonly readUsage: UsageReader | undefined;
  /** Whether the chunk that only tells the usage is to be taken out. */
  readonly strips: boolean;
}

/** A meter for the body of an answer; undefined where there is none to read. */
export function answerMeter(
  method: string,
  { status, field }: AnswerHead,
  { readUsage, strips }: Reading,
): UsageMeter | undefined {
  const isReadable = status >= 200 && status < 300 && status !== 204 && method !== "HEAD";
  if (!isReadable) return undefined;
  return usageMeter({
    contentType: String(field("content-type") ?? ""),
    contentEncoding: String(field("content-encoding") ?? ""),
    readUsage,
    // A length that was announced must remain true.
    stripUsageChunk: strips && (field("content-length") ?? undefined) === undefined,
  });
}

/** Whether the body of a request asks for a stream of a chat completion, but not for its usage. */
export function leavesUsageOut(body: unknown): boolean {
  return typeof body === "object" && body !== null && askForUsage(body).added;
}

/** How a decision is to be ended: the name of its method, and what to hand in. */
export type Booking =
  | { readonly call: "void" }
  | { readonly call: "settle"; readonly cost?: Cost; readonly usage?: Usage }
  | { readonly call: "settleUnknown"; readonly cost: Cost };

/**
 * What a request comes to when its answer has ended. Never throws: prices that throw, or give no cost, leave the usage
 * as good as unknown.
 *
 * Input that was not reported is taken to be that of the estimate. A complete answer that reported nothing is unknown
 * even where its text was seen: text does not show what a model thought, so it has to do only for answers that were cut.
 */
export function bookingOf(
  end: AnswerEnd,
  pricing: Pricing | undefined,
  observed: ObservedUsage | undefined,
): Booking {
  if (end === "failed") return { call: "void" };
  if (pricing === undefined) return { call: "settle" };
  const { estimate, onUnknownUsage } = pricing;
  const usage = billableUsage(end, estimate, observed);
  const cost = usage && costOf(pricing, usage);
  if (usage !== undefined && cost !== undefined) return { call: "settle", cost, usage };
  // Of a request that generates nothing, such as one for the list of models, nothing is missing.
  if (estimate.tokens === 0 && isFree(estimate.cost)) return { call: "settle" };
  const unknown = { estimate: estimate.cost, input: estimate.inputCost, nothing: 0 };
  return { call: "settleUnknown", cost: unknown[onUnknownUsage] };
}

function billableUsage(
  end: AnswerEnd,
  { inputTokens }: Estimate,
  observed: ObservedUsage | undefined,
): Usage | undefined {
  if (observed === undefined) return undefined;
  const { usage, isFinal, isInputKnown } = observed;
  if (isInputKnown) return usage;
  return isFinal || end === "cut" ? { ...usage, inputTokens } : undefined;
}

function costOf({ prices, asked }: Pricing, usage: Usage): Cost | undefined {
  try {
    const cost: unknown = prices.cost(usage, asked);
    // Asynchronous by mistake: nothing waits for it, and it must not end the process when it rejects.
    if (cost instanceof Promise) cost.catch(() => {});
    assertCost(cost);
    assertAmount(usage.inputTokens + usage.outputTokens, "number of tokens");
    return cost;
  } catch {
    return undefined;
  }
}

function isFree(cost: Cost): boolean {
  return typeof cost === "number" ? cost === 0 : cost.subscription === 0 && cost.balance === 0;
}
