import { followBody } from "./body.js";
import { eventStream } from "./event-stream.js";
import { jsonMembers, parseJson } from "./json-members.js";
import { type ObservedUsage, tokenCount, type Usage } from "./usage.js";
import { generatedBytes, modelOf, readUsage, type UsageReader } from "./usage-readers.js";

/** Reads the usage of one answer as the bytes of its body pass. */
export interface UsageMeter {
  /** Takes the next bytes, cut anywhere. Returns those to pass on: the very same, unless a usage chunk may be stripped. */
  push(bytes: Uint8Array): Uint8Array;
  /** The body ended, or was cut. To be called once, and last. Returns the bytes that were held back. */
  end(): Uint8Array;
  /** What is known so far, of a body in JSON from its end on; `undefined`: nothing. */
  observed(): ObservedUsage | undefined;
}

export interface UsageMeterOptions {
  readonly contentType: string | null | undefined;
  readonly contentEncoding?: string | null | undefined;
  /** For an API that `readUsage` does not know. Default `readUsage`. */
  readonly readUsage?: UsageReader | undefined;
  /** Drops the chunk of a chat stream that only tells the usage, for a client that has not asked. Default false. */
  readonly stripUsageChunk?: boolean | undefined;
}

/**
 * Meters a body of events or JSON; one of another type, or compressed, passes unseen. Never throws.
 *
 * Nothing is delayed or copied on its way, except that a stream to be stripped is passed on event by event. At most one
 * event is in memory, up to 8 MiB, or the members of a JSON answer that are up to 64 KiB each: longer ones are not read.
 *
 * A stream that is cut before its final usage has still cost something. Until that comes, the output is taken to be
 * one token for every four bytes of text that passed, which is an approximation, or what was reported if that is more.
 */
export function usageMeter(options: UsageMeterOptions): UsageMeter {
  const type = (options.contentType ?? "").split(";", 1).join().trim().toLowerCase();
  const encoding = (options.contentEncoding ?? "").trim().toLowerCase();
  const reader = cautious(options.readUsage ?? readUsage);
  if (encoding !== "" && encoding !== "identity") return blindMeter();
  if (type === "text/event-stream") return eventMeter(reader, options.stripUsageChunk ?? false);
  return type === "application/json" || type.endsWith("+json") ? jsonMeter(reader) : blindMeter();
}

/** What a reader throws, or counts wrongly, is as if it had found nothing: the answer must not suffer from it. */
function cautious(read: UsageReader): UsageReader {
  return (message, soFar) => {
    try {
      const observed = read(message, soFar);
      // Asynchronous by mistake: it must not end the process when it rejects.
      if (observed instanceof Promise) observed.catch(() => {});
      return observed !== undefined && COUNTS.every((name) => isCount(observed.usage[name]))
        ? observed
        : soFar;
    } catch {
      return soFar;
    }
  };
}

const COUNTS = [
  "inputTokens",
  "cachedInputTokens",
  "cacheWriteTokens",
  "outputTokens",
  "reasoningTokens",
] as const;

function isCount(value: unknown): boolean {
  return tokenCount(value) !== undefined;
}

function blindMeter(): UsageMeter {
  return { push: (bytes) => bytes, end: () => new Uint8Array(), observed: () => undefined };
}

function jsonMeter(read: UsageReader): UsageMeter {
  const answer = jsonMembers();
  let seen: ObservedUsage | undefined;

  function push(bytes: Uint8Array): Uint8Array {
    answer.push(bytes);
    return bytes;
  }

  function end(): Uint8Array {
    const { members, isComplete } = answer.read();
    const found = read(members, undefined);
    seen = found && { usage: found.usage, isFinal: isComplete, isInputKnown: found.isInputKnown };
    return new Uint8Array();
  }

  return { push, end, observed: () => seen };
}

const BYTES_PER_TOKEN = 4;

function eventMeter(read: UsageReader, mayDrop: boolean): UsageMeter {
  let reported: ObservedUsage | undefined;
  let model: string | undefined;
  let textBytes = 0;
  /** The model went on after the last report, however final that was. */
  let isBehind = false;
  const { push, end } = eventStream(passEvent, { mayDrop });

  function passEvent(data: string): boolean {
    const message = parseJson(data);
    const before = reported;
    const bytes = generatedBytes(message);
    reported = read(message, before);
    model = modelOf(message) ?? model;
    textBytes += bytes;
    isBehind = reported?.usage === before?.usage && (isBehind || bytes > 0);
    return !isUsageChunk(message);
  }

  function observed(): ObservedUsage | undefined {
    if (reported === undefined && textBytes === 0) return undefined;
    const { usage, isFinal, isInputKnown } = reported ?? {
      usage: NOTHING,
      isFinal: false,
      isInputKnown: false,
    };
    const named = model === undefined ? usage : { model, ...usage };
    if (isFinal && !isBehind) return { usage: named, isFinal, isInputKnown };
    const outputTokens = Math.max(usage.outputTokens, Math.ceil(textBytes / BYTES_PER_TOKEN));
    return { usage: { ...named, outputTokens }, isFinal: false, isInputKnown };
  }

  return { push, end, observed };
}

const NOTHING: Usage = {
  inputTokens: 0,
  cachedInputTokens: 0,
  cacheWriteTokens: 0,
  outputTokens: 0,
  reasoningTokens: 0,
};

/** The chunk that OpenAI sends only to those who ask. Others tell the usage with the last of the text, which must stay. */
function isUsageChunk(message: unknown): boolean {
  const { choices, usage } = (message ?? {}) as { readonly choices?: unknown; readonly usage?: unknown };
  return Array.isArray(choices) && choices.length === 0 && typeof usage === "object" && usage !== null;
}

/**
 * A body that passes through a meter, whose `end` is called exactly once: when the body has ended, broke, or was given
 * up by its reader. Breaking and giving up reach the other side. Nothing is read before it is asked for.
 */
export function meterBody(body: ReadableStream<Uint8Array>, meter: UsageMeter): ReadableStream<Uint8Array> {
  return followBody(body, meter).body;
}

/** The part of a request for a chat completion that is about its stream. */
interface StreamRequest {
  readonly stream?: unknown;
  readonly stream_options?: { readonly include_usage?: unknown } | null;
}

/**
 * The body of a request for a chat completion, such that its stream tells its usage: a copy with
 * `stream_options.include_usage`. `added` tells that the client had not asked, so the chunk is to be stripped. A body
 * that asks for no stream, or has options that are no object, stays as it is, for the API to judge.
 */
export function askForUsage<T extends object>(body: T): { readonly body: T; readonly added: boolean } {
  const { stream, stream_options } = body as StreamRequest;
  const options = stream_options ?? {};
  const isStream = stream === true && typeof options === "object" && !Array.isArray(options);
  if (!isStream || options.include_usage === true) return { body, added: false };
  return { body: { ...body, stream_options: { ...options, include_usage: true } }, added: true };
}
