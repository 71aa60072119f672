import { MAX_MODEL_LENGTH } from "./documents.js";

/** Token counts of one answer: integers, and no part is greater than what it is a part of. */
export interface Usage {
  /** The model as the answer names it. Bill on this one: an alias resolves, and a fallback may have answered. */
  readonly model?: string;
  /** As the answer names it. Anthropic's fast speed is the tier `fast`. */
  readonly serviceTier?: string;
  /** All input, with what came from or went into a cache. */
  readonly inputTokens: number;
  /** Of the input, read from a cache. */
  readonly cachedInputTokens: number;
  /** Of the input, written to a cache. */
  readonly cacheWriteTokens: number;
  /** All output, with reasoning. */
  readonly outputTokens: number;
  /** Of the output, reasoning. */
  readonly reasoningTokens: number;
}

/** What is known of the usage of an answer so far. */
export interface ObservedUsage {
  readonly usage: Usage;
  /** The answer itself said that this is all. */
  readonly isFinal: boolean;
  /** The answer told its input. Where it did not, `inputTokens` is 0 and says nothing. */
  readonly isInputKnown: boolean;
}

/** What an answer reports. `undefined`: missing. */
export interface Report {
  readonly model: string | undefined;
  readonly serviceTier: string | undefined;
  readonly input: number | undefined;
  readonly cachedInput: number | undefined;
  readonly cacheWrite: number | undefined;
  readonly output: number | undefined;
  readonly reasoning: number | undefined;
}

/**
 * The usage that a report amounts to; `undefined` when it has neither input nor output. Nobody vouches for a report,
 * so what is missing is 0, and a part is cut to what it is a part of.
 */
export function observeReport(report: Report, isFinal: boolean): ObservedUsage | undefined {
  const {
    model,
    serviceTier,
    input = 0,
    cachedInput = 0,
    cacheWrite = 0,
    output = 0,
    reasoning = 0,
  } = report;
  if (report.input === undefined && report.output === undefined) return undefined;
  const cachedInputTokens = Math.min(cachedInput, input);
  const usage = {
    ...(model !== undefined && { model }),
    ...(serviceTier !== undefined && { serviceTier }),
    inputTokens: input,
    cachedInputTokens,
    cacheWriteTokens: Math.min(cacheWrite, input - cachedInputTokens),
    outputTokens: output,
    reasoningTokens: Math.min(reasoning, output),
  };
  return { usage, isFinal, isInputKnown: report.input !== undefined };
}

/** A count of tokens; `undefined` for anything but a safe integer from 0. */
export function tokenCount(value: unknown): number | undefined {
  return Number.isSafeInteger(value) && (value as number) >= 0 ? (value as number) : undefined;
}

/** The sum of the counts that are not missing; itself missing when all are, or when it is no safe integer. */
export function sumTokens(counts: readonly (number | undefined)[]): number | undefined {
  const present = counts.filter((count) => count !== undefined);
  return present.length === 0 ? undefined : tokenCount(present.reduce((sum, count) => sum + count, 0));
}

/** The name of a model or tier; `undefined` for anything but a text of a plausible length. */
export function plausibleName(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" && value.length <= MAX_MODEL_LENGTH ? value : undefined;
}
