import {
  type ObservedUsage,
  observeReport,
  plausibleName,
  type Report,
  sumTokens,
  tokenCount,
} from "./usage.js";

/**
 * Folds one message of an answer into what is known of its usage so far. A message is the data of one event, or a
 * whole answer in JSON, of which only members of up to 64 KiB are there. Returns `soFar` itself where the message says
 * nothing of usage.
 *
 * Whatever it throws counts as saying nothing, and so does a usage with a count that is no safe integer from 0.
 */
export type UsageReader = (message: unknown, soFar: ObservedUsage | undefined) => ObservedUsage | undefined;

/**
 * Reads the usage of OpenAI (Chat Completions, Completions, Responses, Embeddings, Images, and audio where it is
 * counted in tokens), Anthropic Messages, Gemini, and whoever speaks like them. Later reports replace earlier ones and
 * never add to them, since each is of the whole answer so far. Never throws.
 */
export function readUsage(message: unknown, soFar: ObservedUsage | undefined): ObservedUsage | undefined {
  if (member(message, "usageMetadata") !== undefined) return readGemini(message) ?? soFar;
  if (isAnthropic(message)) return readAnthropic(message, soFar) ?? soFar;
  return readOpenAI(message) ?? soFar;
}

/** Cached tokens are inside the input here, and reasoning is inside the output. */
function readOpenAI(message: unknown): ObservedUsage | undefined {
  const response = member(message, "response");
  const answer = isObject(response) ? response : message;
  const usage = member(answer, "usage");
  const inputDetails =
    member(usage, "prompt_tokens_details") ??
    member(usage, "input_tokens_details") ??
    member(usage, "input_token_details");
  const outputDetails = member(usage, "completion_tokens_details") ?? member(usage, "output_tokens_details");
  const report = {
    model: modelOf(message),
    serviceTier: plausibleName(member(answer, "service_tier")),
    input: count(usage, "prompt_tokens") ?? count(usage, "input_tokens"),
    cachedInput: count(inputDetails, "cached_tokens"),
    cacheWrite: count(inputDetails, "cache_write_tokens"),
    output: count(usage, "completion_tokens") ?? count(usage, "output_tokens"),
    reasoning: count(outputDetails, "reasoning_tokens"),
  };
  return observeReport(report, true);
}

/** Cached tokens are inside the prompt here, but reasoning comes on top of the candidates. */
function readGemini(message: unknown): ObservedUsage | undefined {
  const usage = member(message, "usageMetadata");
  const prompt = count(usage, "promptTokenCount");
  const thoughts = count(usage, "thoughtsTokenCount");
  const report = {
    model: modelOf(message),
    serviceTier: undefined,
    input: prompt === undefined ? undefined : sumTokens([prompt, count(usage, "toolUsePromptTokenCount")]),
    cachedInput: count(usage, "cachedContentTokenCount"),
    cacheWrite: undefined,
    output: sumTokens([count(usage, "candidatesTokenCount"), thoughts]),
    reasoning: thoughts,
  };
  // Nothing else ends a stream.
  const isFinal = list(member(message, "candidates")).some((candidate) =>
    isText(member(candidate, "finishReason")),
  );
  return observeReport(report, isFinal);
}

/** What Anthropic reported in so many words, since an event may replace only some of it. */
interface ObservedAnthropic extends ObservedUsage {
  readonly answer: Report;
  /** What it took to shorten a conversation that grew too long: the counts of the answer leave it out. */
  readonly compactions: readonly Report[];
}

const ANTHROPIC_TYPES: readonly unknown[] = ["message", "message_start", "message_delta", "message_stop"];

/** Cached tokens come on top of the input here, and reasoning is inside the output. */
function readAnthropic(
  message: unknown,
  soFar: ObservedUsage | undefined,
): ObservedUsage | ObservedAnthropic | undefined {
  const type = member(message, "type");
  if (type === "message_stop") return soFar && { ...soFar, isFinal: true };
  const usage = member(type === "message_start" ? member(message, "message") : message, "usage");
  const reported = anthropicReport(usage, modelOf(message));
  if (reported.input === undefined && reported.output === undefined) return undefined;
  const before = soFar as Partial<ObservedAnthropic> | undefined;
  const answer = replaceReport(before?.answer, reported);
  const iterations = member(usage, "iterations");
  const compactions = Array.isArray(iterations) ? compactionsIn(iterations) : (before?.compactions ?? []);
  const isEnd = type === "message_delta" && isText(member(member(message, "delta"), "stop_reason"));
  const isWhole = type !== "message_delta" && type !== "message_start";
  const observed = observeReport(withCompactions(answer, compactions), isEnd || isWhole);
  return observed && { ...observed, answer, compactions };
}

/** Also for those who speak like Anthropic but name no type. Some who speak like OpenAI have its members as well. */
function isAnthropic(message: unknown): boolean {
  const usage = member(message, "usage");
  const isLike =
    member(usage, "cache_read_input_tokens") !== undefined ||
    member(usage, "cache_creation_input_tokens") !== undefined;
  const isOpenAI = member(usage, "prompt_tokens") !== undefined;
  return ANTHROPIC_TYPES.includes(member(message, "type")) || (isLike && !isOpenAI);
}

function anthropicReport(usage: unknown, model?: string): Report {
  const tier = member(usage, "speed") === "fast" ? "fast" : member(usage, "service_tier");
  return {
    model,
    serviceTier: plausibleName(tier),
    input: count(usage, "input_tokens"),
    cachedInput: count(usage, "cache_read_input_tokens"),
    cacheWrite: count(usage, "cache_creation_input_tokens"),
    output: count(usage, "output_tokens"),
    reasoning: count(member(usage, "output_tokens_details"), "thinking_tokens"),
  };
}

function replaceReport(before: Report | undefined, reported: Report): Report {
  const known = Object.entries(reported).filter(([, value]) => value !== undefined);
  return { ...reported, ...before, ...Object.fromEntries(known) };
}

function compactionsIn(iterations: readonly unknown[]): readonly Report[] {
  return iterations
    .filter((iteration) => member(iteration, "type") === "compaction")
    .map((iteration) => anthropicReport(iteration));
}

function withCompactions(answer: Report, compactions: readonly Report[]): Report {
  const sum = (name: "input" | "cachedInput" | "cacheWrite" | "output" | "reasoning"): number | undefined =>
    sumTokens([answer, ...compactions].map((report) => report[name]));
  const cachedInput = sum("cachedInput");
  const cacheWrite = sum("cacheWrite");
  const input = answer.input === undefined ? undefined : sumTokens([sum("input"), cachedInput, cacheWrite]);
  return { ...answer, input, cachedInput, cacheWrite, output: sum("output"), reasoning: sum("reasoning") };
}

/** The model that a message of any of these APIs names, with or without usage. */
export function modelOf(message: unknown): string | undefined {
  const named =
    member(message, "model") ??
    member(member(message, "response"), "model") ??
    member(member(message, "message"), "model") ??
    member(message, "modelVersion");
  return plausibleName(named);
}

/**
 * How many bytes of UTF-8 the model generated, as far as one event of a stream shows them: text, reasoning, refusals
 * and arguments of calls. Sound and images are left out, since their bytes say nothing about tokens.
 */
export function generatedBytes(message: unknown): number {
  const texts = [...eventTexts(message), ...chatTexts(message), ...geminiTexts(message)];
  return texts.reduce<number>((sum, text) => sum + (isText(text) ? encoder.encode(text).length : 0), 0);
}

const encoder = new TextEncoder();

/** Of Responses, whose deltas are texts, and of Anthropic, whose deltas are objects. */
function eventTexts(message: unknown): readonly unknown[] {
  const type = member(message, "type");
  const delta = member(message, "delta");
  if (type === "content_block_delta")
    return ["text", "thinking", "partial_json"].map((name) => member(delta, name));
  return isText(type) && type.endsWith(".delta") && !type.endsWith("audio.delta") ? [delta] : [];
}

function chatTexts(message: unknown): readonly unknown[] {
  return list(member(message, "choices")).flatMap((choice) => {
    const delta = member(choice, "delta");
    const calls = list(member(delta, "tool_calls")).map((call) =>
      member(member(call, "function"), "arguments"),
    );
    const reasoning = member(delta, "reasoning_content") ?? member(delta, "reasoning");
    return [member(choice, "text"), member(delta, "content"), member(delta, "refusal"), reasoning, ...calls];
  });
}

function geminiTexts(message: unknown): readonly unknown[] {
  return list(member(message, "candidates")).flatMap((candidate) =>
    list(member(member(candidate, "content"), "parts")).map((part) => member(part, "text")),
  );
}

function member(value: unknown, name: string): unknown {
  return isObject(value) ? value[name] : undefined;
}

function count(usage: unknown, name: string): number | undefined {
  return tokenCount(member(usage, name));
}

function list(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

function isText(value: unknown): value is string {
  return typeof value === "string";
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null;
}
