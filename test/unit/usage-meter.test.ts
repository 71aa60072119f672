import { describe, expect, test, vi } from "vitest";
import { joinBytes } from "../../src/body.js";
import type { ObservedUsage, Usage } from "../../src/usage.js";
import { askForUsage, meterBody, type UsageMeterOptions, usageMeter } from "../../src/usage-meter.js";
import { readUsage } from "../../src/usage-readers.js";

const EVENTS = "text/event-stream; charset=utf-8";

function bytesOf(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

function textOf(bytes: Uint8Array): string {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
}

interface Metered {
  readonly observed: ObservedUsage | undefined;
  readonly text: string;
}

function meterPieces(pieces: readonly Uint8Array[], options: Partial<UsageMeterOptions> = {}): Metered {
  const meter = usageMeter({ contentType: EVENTS, ...options });
  const passed = [...pieces.map((piece) => meter.push(piece)), meter.end()];
  return { observed: meter.observed(), text: textOf(joinBytes(passed)) };
}

function meter(text: string, options: Partial<UsageMeterOptions> = {}): Metered {
  return meterPieces([bytesOf(text)], options);
}

function allCuts(bytes: Uint8Array): readonly (readonly Uint8Array[])[] {
  const inTwo = [...bytes.keys()].map((at) => [bytes.subarray(0, at), bytes.subarray(at)]);
  return [...inTwo, [...bytes].map((byte) => Uint8Array.of(byte))];
}

/** Events as the API writes them: with a name where their data has a type. */
function events(...messages: readonly object[]): string {
  return messages
    .map(
      (message) =>
        `${"type" in message ? `event: ${message.type}\n` : ""}data: ${JSON.stringify(message)}\n\n`,
    )
    .join("");
}

function usage(model: string | undefined, input: number, output: number, parts: Partial<Usage> = {}): Usage {
  return {
    ...(model !== undefined && { model }),
    inputTokens: input,
    cachedInputTokens: 0,
    cacheWriteTokens: 0,
    outputTokens: output,
    reasoningTokens: 0,
    ...parts,
  };
}

function chunk(content: string): object {
  return { model: "gpt-5", choices: [{ index: 0, delta: { content }, finish_reason: null }], usage: null };
}

const USAGE_CHUNK = events({
  model: "gpt-5",
  choices: [],
  usage: { prompt_tokens: 11, completion_tokens: 9, completion_tokens_details: { reasoning_tokens: 2 } },
});

const CHAT = `: open\n\n${events(chunk("Grüße, "), chunk("漢字 😀"))}${USAGE_CHUNK}data: [DONE]\n\n`;

const RESPONSES = events(
  { type: "response.created", response: { model: "gpt-5", usage: null } },
  { type: "response.output_text.delta", delta: "Grüße, 漢字" },
  { type: "response.output_text.done", text: "Grüße, 漢字" },
  {
    type: "response.completed",
    response: {
      model: "gpt-5",
      usage: { input_tokens: 20, input_tokens_details: { cached_tokens: 8 }, output_tokens: 30 },
    },
  },
);

const ANTHROPIC = events(
  {
    type: "message_start",
    message: {
      model: "claude",
      usage: {
        input_tokens: 25,
        cache_creation_input_tokens: 100,
        cache_read_input_tokens: 50,
        output_tokens: 1,
        service_tier: "standard",
      },
    },
  },
  { type: "ping" },
  { type: "content_block_delta", index: 0, delta: { type: "text_delta", text: "Grüße, " } },
  { type: "content_block_delta", index: 0, delta: { type: "text_delta", text: "漢字 😀" } },
  { type: "message_delta", delta: { stop_reason: "end_turn" }, usage: { output_tokens: 15 } },
  { type: "message_stop" },
);

const GEMINI = events(
  {
    candidates: [{ content: { parts: [{ text: "Grüße" }] } }],
    usageMetadata: { promptTokenCount: 10, candidatesTokenCount: 2 },
    modelVersion: "gemini",
  },
  {
    candidates: [{ content: { parts: [{ text: "漢字" }] }, finishReason: "STOP" }],
    usageMetadata: { promptTokenCount: 10, candidatesTokenCount: 6, thoughtsTokenCount: 3 },
    modelVersion: "gemini",
  },
);

const IMAGES = events(
  { type: "image_generation.partial_image", b64_json: "AAAA" },
  {
    type: "image_generation.completed",
    b64_json: "AAAA",
    usage: { input_tokens: 5, output_tokens: 9 },
  },
);

const TRANSCRIPTION = events(
  { type: "transcript.text.delta", delta: "Grüße" },
  {
    type: "transcript.text.done",
    text: "Grüße",
    usage: { type: "tokens", input_tokens: 5, output_tokens: 3 },
  },
);

const STREAMS: readonly (readonly [string, string, Usage])[] = [
  ["chat", CHAT, usage("gpt-5", 11, 9, { reasoningTokens: 2 })],
  ["responses", RESPONSES, usage("gpt-5", 20, 30, { cachedInputTokens: 8 })],
  [
    "Anthropic",
    ANTHROPIC,
    usage("claude", 175, 15, { cachedInputTokens: 50, cacheWriteTokens: 100, serviceTier: "standard" }),
  ],
  ["Gemini", GEMINI, usage("gemini", 10, 9, { reasoningTokens: 3 })],
  ["images", IMAGES, usage(undefined, 5, 9)],
  ["transcription", TRANSCRIPTION, usage(undefined, 5, 3)],
];

describe.each(STREAMS)("a stream of %s", (_, text, expected) => {
  const whole = { usage: expected, isFinal: true, isInputKnown: true };

  test("is read alike with any ends of lines, however it is cut, and passes as it is", () => {
    for (const end of ["\n", "\r\n", "\r"]) {
      const written = text.replaceAll("\n", end);
      for (const pieces of [[bytesOf(written)], ...allCuts(bytesOf(written))]) {
        expect(meterPieces(pieces)).toEqual({ observed: whole, text: written });
      }
    }
  });

  test("is the very bytes it was, at once", () => {
    const bytes = bytesOf(text);
    const passing = usageMeter({ contentType: EVENTS });
    for (const piece of [bytes.subarray(0, 9), bytes.subarray(9)]) expect(passing.push(piece)).toBe(piece);
    expect(passing.end()).toEqual(new Uint8Array());
  });

  test("that is cut anywhere is never final before its end, and never above it", () => {
    const bytes = bytesOf(text);
    for (let length = 0; length <= bytes.length; length++) {
      for (const stripUsageChunk of [false, true]) {
        const { observed, text: passed } = meterPieces([bytes.subarray(0, length)], { stripUsageChunk });
        expect(observed?.usage.outputTokens ?? 0).toBeLessThanOrEqual(expected.outputTokens);
        expect(observed?.usage.inputTokens ?? 0).toBeLessThanOrEqual(expected.inputTokens);
        if (observed?.isFinal) expect(observed).toEqual(whole);
        if (!stripUsageChunk) expect(bytesOf(passed).length).toBeGreaterThanOrEqual(length - 3);
      }
    }
  });
});

describe("a stream that is cut", () => {
  test("has cost what was generated: a token in four bytes, rounded up once", () => {
    const text = events(chunk("abc"), chunk("defg"), chunk("hi"));
    expect(meter(text).observed).toEqual({
      usage: usage("gpt-5", 0, 3),
      isFinal: false,
      isInputKnown: false,
    });
  });

  test("of Anthropic knows its input, and the greater of what it reported and what was generated", () => {
    const start = {
      type: "message_start",
      message: { model: "claude", usage: { input_tokens: 7, output_tokens: 2 } },
    };
    const delta = (text: string): object => ({ type: "content_block_delta", delta: { text } });
    const known = { isFinal: false, isInputKnown: true };
    expect(meter(events(start)).observed).toEqual({ usage: usage("claude", 7, 2), ...known });
    expect(meter(events(start, delta("abcd"))).observed).toEqual({ usage: usage("claude", 7, 2), ...known });
    expect(meter(events(start, delta("abcdefghi"))).observed).toEqual({
      usage: usage("claude", 7, 3),
      ...known,
    });
    const cut = { type: "message_delta", delta: { stop_reason: null }, usage: { output_tokens: 40 } };
    expect(meter(events(start, cut, delta("abcd"))).observed).toEqual({
      usage: usage("claude", 7, 40),
      ...known,
    });
  });

  test("that goes on after its usage is not final any more", () => {
    const early = { choices: [], usage: { prompt_tokens: 5, completion_tokens: 0 } };
    const text = { choices: [{ delta: { content: "abcdefgh" } }] };
    expect(meter(events(early)).observed).toEqual({
      usage: usage(undefined, 5, 0),
      isFinal: true,
      isInputKnown: true,
    });
    expect(meter(events(early, text)).observed).toEqual({
      usage: usage(undefined, 5, 2),
      isFinal: false,
      isInputKnown: true,
    });
    const late = { choices: [], usage: { prompt_tokens: 5, completion_tokens: 1 } };
    expect(meter(events(early, text, late)).observed).toMatchObject({
      usage: { outputTokens: 1 },
      isFinal: true,
    });
  });

  test("a mere end of the message does not make early counts final", () => {
    const start = { type: "message_start", message: { usage: { input_tokens: 7, output_tokens: 1 } } };
    const delta = { type: "content_block_delta", delta: { text: "abcdefgh" } };
    const ends = [{ type: "message_delta", delta: { stop_reason: "end_turn" } }, { type: "message_stop" }];
    expect(meter(events(start, delta, ...ends)).observed).toMatchObject({
      usage: { outputTokens: 2 },
      isFinal: false,
    });
  });

  test("with its last event complete but for the empty line is read to its end", () => {
    expect(meter(USAGE_CHUNK.trimEnd()).observed?.isFinal).toBe(true);
  });

  test("without a sign of a model has told nothing", () => {
    expect(meter(": ping\n\ndata: {}\n\ndata: null\n\ndata: [DONE]\n\n").observed).toBeUndefined();
    expect(meter("").observed).toBeUndefined();
  });
});

describe("the usage chunk", () => {
  const stripUsageChunk = true;

  test("is stripped, and nothing else, however the stream is cut", () => {
    for (const end of ["\n", "\r\n", "\r"]) {
      const written = CHAT.replaceAll("\n", end);
      const kept = CHAT.replace(USAGE_CHUNK, "").replaceAll("\n", end);
      for (const pieces of [[bytesOf(written)], ...allCuts(bytesOf(written))]) {
        const { observed, text } = meterPieces(pieces, { stripUsageChunk });
        expect(text).toBe(kept);
        expect(observed?.usage).toEqual(usage("gpt-5", 11, 9, { reasoningTokens: 2 }));
      }
    }
  });

  test.each([
    ["no usage", { choices: [] }],
    ["usage that is null", { choices: [], prompt_filter_results: [], usage: null }],
    ["a choice", { choices: [{ delta: {} }], usage: { prompt_tokens: 1, completion_tokens: 1 } }],
    ["no choices", { usage: { prompt_tokens: 1, completion_tokens: 1 } }],
    ["choices that are no list", { choices: {}, usage: { prompt_tokens: 1, completion_tokens: 1 } }],
  ])("is not a chunk with %s", (_, message) => {
    expect(meter(events(message), { stripUsageChunk }).text).toBe(events(message));
  });

  test("passes when the stream was cut before its empty line", () => {
    expect(meter(USAGE_CHUNK.trimEnd(), { stripUsageChunk }).text).toBe(USAGE_CHUNK.trimEnd());
  });

  test.each(STREAMS.slice(1))("nothing is stripped of a stream of %s", (_, text) => {
    for (const pieces of allCuts(bytesOf(text))) {
      expect(meterPieces(pieces, { stripUsageChunk }).text).toBe(text);
    }
  });
});

describe("an answer in JSON", () => {
  const contentType = "application/json";
  const answer = JSON.stringify({
    choices: [{ message: { content: 'Grüße "漢字" {' } }],
    usage: { prompt_tokens: 11, completion_tokens: 9 },
    model: "gpt-5",
  });
  const whole = { usage: usage("gpt-5", 11, 9), isFinal: true, isInputKnown: true };

  test("is read however it is cut, and passes as it is", () => {
    for (const pieces of allCuts(bytesOf(answer))) {
      expect(meterPieces(pieces, { contentType })).toEqual({ observed: whole, text: answer });
    }
    const bytes = bytesOf(answer);
    expect(usageMeter({ contentType, stripUsageChunk: true }).push(bytes)).toBe(bytes);
  });

  test("that is incomplete is not final", () => {
    const bytes = bytesOf(answer);
    for (let length = 0; length < bytes.length; length++) {
      const { observed } = meterPieces([bytes.subarray(0, length)], { contentType });
      const isToldUsage = length > bytesOf(answer.slice(0, answer.indexOf(',"model"'))).length;
      const told = { usage: usage(undefined, 11, 9), isFinal: false, isInputKnown: true };
      expect(observed).toEqual(isToldUsage ? told : undefined);
    }
  });

  test("that is whole is final without a reason to finish", () => {
    const gemini = JSON.stringify({ usageMetadata: { promptTokenCount: 10, candidatesTokenCount: 5 } });
    expect(meter(gemini, { contentType }).observed?.isFinal).toBe(true);
  });

  test("may be as long as it likes", () => {
    const passing = usageMeter({ contentType });
    const piece = bytesOf(`[${"-0.0123456,".repeat(6_000)}1],`);
    passing.push(bytesOf('{"object":"list","data":['));
    const before = process.memoryUsage().arrayBuffers;
    for (let count = 0; count < 512; count++) expect(passing.push(piece).length).toBe(piece.length);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(1024 * 1024);
    passing.push(bytesOf('1],"model":"embed","usage":{"prompt_tokens":8,"total_tokens":8}}'));
    expect(passing.observed()).toBeUndefined();
    passing.end();
    expect(passing.observed()).toEqual({ usage: usage("embed", 8, 0), isFinal: true, isInputKnown: true });
  });

  test.each([
    ["a list", `[${answer}]`],
    ["text", '"usage"'],
    ["an error", '{"error":{"message":"x"}}'],
    ["a count of tokens in advance", '{"input_tokens":2095}'],
    ["no JSON", "<html>"],
    ["nothing", ""],
  ])("of %s says nothing", (_, text) => {
    expect(meter(text, { contentType })).toEqual({ observed: undefined, text });
  });
});

describe("which bodies are read", () => {
  const answer = '{"usage":{"prompt_tokens":11,"completion_tokens":9}}';

  test.each<[string, Partial<UsageMeterOptions>, string]>([
    ["JSON", { contentType: "application/json" }, answer],
    ["JSON with parameters", { contentType: " Application/JSON ; charset=UTF-8" }, answer],
    ["a kind of JSON", { contentType: "application/vnd.api+json" }, answer],
    ["events", { contentType: "text/event-stream" }, USAGE_CHUNK],
    ["events in capitals", { contentType: "TEXT/EVENT-STREAM;charset=utf-8" }, USAGE_CHUNK],
    ["no encoding", { contentEncoding: null }, USAGE_CHUNK],
    ["the encoding that is none", { contentEncoding: " Identity" }, USAGE_CHUNK],
  ])("%s", (_, options, text) => {
    expect(meter(text, options).observed?.usage).toMatchObject({ inputTokens: 11, outputTokens: 9 });
  });

  test.each<[string, Partial<UsageMeterOptions>, string]>([
    ["no type", { contentType: null }, answer],
    ["an unknown type", { contentType: undefined }, answer],
    ["text", { contentType: "text/plain" }, answer],
    ["audio", { contentType: "audio/mpeg" }, answer],
    ["lines of JSON", { contentType: "application/jsonl" }, answer],
    ["what only looks like events", { contentType: "text/event-streams" }, USAGE_CHUNK],
    ["compressed events", { contentEncoding: "gzip" }, USAGE_CHUNK],
    ["compressed JSON", { contentType: "application/json", contentEncoding: "br" }, answer],
    ["several encodings", { contentEncoding: "identity, gzip" }, USAGE_CHUNK],
  ])("not %s", (_, options, text) => {
    const passing = usageMeter({ contentType: EVENTS, stripUsageChunk: true, ...options });
    const bytes = bytesOf(text);
    expect(passing.push(bytes)).toBe(bytes);
    expect(passing.end()).toEqual(new Uint8Array());
    expect(passing.observed()).toBeUndefined();
  });
});

describe("a reader of one's own", () => {
  const text = events({ tokens: 5 }, { tokens: 7 });

  test("folds the messages, of events and of JSON", () => {
    const read = (message: unknown, soFar: ObservedUsage | undefined): ObservedUsage => {
      const { tokens } = message as { readonly tokens: number };
      const sum = tokens + (soFar?.usage.outputTokens ?? 0);
      return { usage: usage("own", 1, sum), isFinal: sum === 12, isInputKnown: true };
    };
    expect(meter(text, { readUsage: read }).observed).toEqual({
      usage: usage("own", 1, 12),
      isFinal: true,
      isInputKnown: true,
    });
    const json = { contentType: "application/json", readUsage: read };
    expect(meter('{"tokens":5}', json).observed?.usage).toEqual(usage("own", 1, 5));
  });

  test("may ask the known one", () => {
    const { observed } = meter(CHAT, { readUsage: (message, soFar) => readUsage(message, soFar) });
    expect(observed?.usage).toMatchObject({ inputTokens: 11, outputTokens: 9 });
  });

  test.each<[string, () => ObservedUsage | undefined]>([
    [
      "throws",
      () => {
        throw new Error("broken");
      },
    ],
    ["forgets what it knew", () => undefined],
    ["counts in fractions", () => ({ usage: usage("x", 1, 1.5), isFinal: true, isInputKnown: true })],
    ["has no counts", () => ({ usage: {} as Usage, isFinal: true, isInputKnown: true })],
    ["returns nonsense", () => null as unknown as ObservedUsage],
  ])("that %s says nothing", (_, broken) => {
    const read = vi
      .fn<() => ObservedUsage | undefined>(broken)
      .mockReturnValueOnce({ usage: usage("x", 1, 2), isFinal: true, isInputKnown: true });
    const passed = meter(text, { readUsage: read });
    expect(read).toHaveBeenCalledTimes(2);
    expect(passed).toEqual({
      observed: { usage: usage("x", 1, 2), isFinal: true, isInputKnown: true },
      text,
    });
    expect(meter("{}", { contentType: "application/json", readUsage: broken }).observed).toBeUndefined();
  });
});

test("hostile events throw nothing", () => {
  const deep = 1_000_000;
  for (const data of [
    `${"[".repeat(deep)}`,
    `{"usage":${"[".repeat(deep)}${"]".repeat(deep)}}`,
    "\0",
    "{}{}",
  ]) {
    expect(meter(`data: ${data}\n\n${USAGE_CHUNK}`).observed?.isFinal).toBe(true);
  }
});

describe("meterBody", () => {
  interface Source {
    readonly body: ReadableStream<Uint8Array>;
    readonly log: string[];
  }

  /** A body of texts that notes when it is pulled and given up; it breaks at an error. */
  function source(...parts: readonly (string | Error)[]): Source {
    const log: string[] = [];
    const left = [...parts];
    const body = new ReadableStream<Uint8Array>(
      {
        pull(controller) {
          const part = left.shift();
          log.push("pull");
          if (part === undefined) controller.close();
          else if (part instanceof Error) controller.error(part);
          else controller.enqueue(bytesOf(part));
        },
        cancel(reason) {
          log.push(`cancel ${reason}`);
        },
      },
      { highWaterMark: 0 },
    );
    return { body, log };
  }

  function spied(stripUsageChunk = false) {
    const passing = usageMeter({ contentType: EVENTS, stripUsageChunk });
    return { ...passing, end: vi.fn(passing.end) };
  }

  test("passes a body on and ends the meter once", async () => {
    const passing = spied();
    const { body } = source(CHAT.slice(0, 50), "", CHAT.slice(50));
    expect(await new Response(meterBody(body, passing)).text()).toBe(CHAT);
    expect(passing.end).toHaveBeenCalledTimes(1);
    expect(passing.observed()?.isFinal).toBe(true);
  });

  test("waits for bytes to pass on where all are held, and passes on what was held at the end", async () => {
    const passing = spied(true);
    const { body, log } = source("data: {", '"a":1', "}\n\n", ...[...USAGE_CHUNK], "data: cut");
    const reader = meterBody(body, passing).getReader();
    expect(textOf((await reader.read()).value as Uint8Array)).toBe('data: {"a":1}\n\n');
    expect(log.length).toBe(3);
    expect(textOf((await reader.read()).value as Uint8Array)).toBe("data: cut");
    expect((await reader.read()).done).toBe(true);
    expect(passing.end).toHaveBeenCalledTimes(1);
  });

  test("reads only what is asked for", async () => {
    const { body, log } = source("a", "b", "c");
    const reader = meterBody(body, spied()).getReader();
    await Promise.resolve();
    expect(log).toEqual([]);
    await reader.read();
    await reader.read();
    expect(log).toEqual(["pull", "pull"]);
  });

  test("a reader that gives up ends the meter and the source", async () => {
    const passing = spied();
    const { body, log } = source(CHAT);
    const reader = meterBody(body, passing).getReader();
    await reader.read();
    expect(passing.end).not.toHaveBeenCalled();
    await reader.cancel("enough");
    expect(log).toEqual(["pull", "cancel enough"]);
    expect(passing.end).toHaveBeenCalledTimes(1);
    expect(passing.observed()?.isFinal).toBe(true);
  });

  test("so does one that gives up before the first byte, or while it waits", async () => {
    for (const isWaiting of [false, true]) {
      const passing = spied(true);
      const cancelled = vi.fn();
      const reader = meterBody(new ReadableStream({ cancel: cancelled }), passing).getReader();
      const waiting = isWaiting ? reader.read() : undefined;
      // A stream pulls and notices its end in turns of their own.
      await new Promise((turn) => setImmediate(turn));
      await reader.cancel("enough");
      expect((await waiting)?.value).toBeUndefined();
      await new Promise((turn) => setImmediate(turn));
      expect(cancelled).toHaveBeenCalledWith("enough");
      expect(passing.end).toHaveBeenCalledTimes(1);
    }
  });

  test("a body that breaks breaks for the reader, after what was held", async () => {
    const passing = spied(true);
    const broken = new Error("reset");
    const { body } = source("data: a\n\nda", broken);
    const reader = meterBody(body, passing).getReader();
    expect(textOf((await reader.read()).value as Uint8Array)).toBe("data: a\n\n");
    expect(textOf((await reader.read()).value as Uint8Array)).toBe("da");
    await expect(reader.read()).rejects.toBe(broken);
    expect(passing.end).toHaveBeenCalledTimes(1);
  });

  test("a failure to give up reaches the reader", async () => {
    const failing = new ReadableStream<Uint8Array>({
      cancel() {
        throw new Error("stuck");
      },
    });
    await expect(meterBody(failing, spied()).cancel()).rejects.toThrow("stuck");
  });
});

describe("askForUsage", () => {
  test.each([
    [{ stream: true }, { include_usage: true }],
    [{ stream: true, stream_options: null }, { include_usage: true }],
    [{ stream: true, stream_options: {} }, { include_usage: true }],
    [{ stream: true, stream_options: { include_usage: false } }, { include_usage: true }],
    [
      { stream: true, stream_options: { include_obfuscation: false } },
      { include_obfuscation: false, include_usage: true },
    ],
  ])("asks for it in a copy of %j", (body, options) => {
    const request = Object.freeze({ model: "gpt-5", ...body });
    expect(askForUsage(request)).toEqual({ body: { ...request, stream_options: options }, added: true });
  });

  test.each([
    [{}],
    [{ stream: false }],
    [{ stream: null, stream_options: null }],
    [{ stream: "true" }],
    [{ stream: true, stream_options: { include_usage: true } }],
    [{ stream: true, stream_options: "usage" }],
    [{ stream: true, stream_options: [] }],
  ])("leaves %j alone", (body) => {
    const asked = askForUsage(body);
    expect(asked.added).toBe(false);
    expect(asked.body).toBe(body);
  });
});
