import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { ObservedUsage, Usage } from "../../src/usage.js";
import { generatedBytes, modelOf, readUsage } from "../../src/usage-readers.js";

function readAll(messages: readonly unknown[]): ObservedUsage | undefined {
  return messages.reduce<ObservedUsage | undefined>((soFar, message) => readUsage(message, soFar), undefined);
}

/** input, cached, written, output, reasoning */
type Counts = readonly [number, number, number, number, number];

function usage([input, cached, written, output, reasoning]: Counts, named: Partial<Usage> = {}): Usage {
  return {
    ...named,
    inputTokens: input,
    cachedInputTokens: cached,
    cacheWriteTokens: written,
    outputTokens: output,
    reasoningTokens: reasoning,
  };
}

const CHAT_USAGE = {
  prompt_tokens: 11,
  completion_tokens: 7,
  total_tokens: 18,
  prompt_tokens_details: { cached_tokens: 3, cache_write_tokens: 2, audio_tokens: 0 },
  completion_tokens_details: { reasoning_tokens: 5, audio_tokens: 0 },
};

const RESPONSES_USAGE = {
  input_tokens: 20,
  input_tokens_details: { cached_tokens: 8, cache_write_tokens: 4 },
  output_tokens: 30,
  output_tokens_details: { reasoning_tokens: 10 },
  total_tokens: 50,
};

const ANTHROPIC_USAGE = {
  input_tokens: 25,
  cache_creation_input_tokens: 100,
  cache_read_input_tokens: 50,
  cache_creation: { ephemeral_5m_input_tokens: 100, ephemeral_1h_input_tokens: 0 },
  output_tokens: 15,
  output_tokens_details: { thinking_tokens: 6 },
  service_tier: "standard",
};

const GEMINI_USAGE = {
  promptTokenCount: 10,
  cachedContentTokenCount: 4,
  toolUsePromptTokenCount: 2,
  candidatesTokenCount: 5,
  thoughtsTokenCount: 3,
  totalTokenCount: 20,
};

describe("whole answers", () => {
  test.each<[string, object, Counts, Partial<Usage>]>([
    [
      "chat completion",
      {
        object: "chat.completion",
        model: "gpt-5",
        service_tier: "default",
        choices: [{}],
        usage: CHAT_USAGE,
      },
      [11, 3, 2, 7, 5],
      { model: "gpt-5", serviceTier: "default" },
    ],
    [
      "completion",
      {
        object: "text_completion",
        model: "m",
        choices: [],
        usage: { prompt_tokens: 1, completion_tokens: 2 },
      },
      [1, 0, 0, 2, 0],
      { model: "m" },
    ],
    [
      "response",
      {
        object: "response",
        status: "completed",
        model: "gpt-5",
        service_tier: "flex",
        usage: RESPONSES_USAGE,
      },
      [20, 8, 4, 30, 10],
      { model: "gpt-5", serviceTier: "flex" },
    ],
    [
      "embeddings",
      { object: "list", model: "embed", data: [], usage: { prompt_tokens: 8, total_tokens: 8 } },
      [8, 0, 0, 0, 0],
      { model: "embed" },
    ],
    [
      "images",
      {
        created: 1,
        data: [],
        usage: {
          input_tokens: 50,
          output_tokens: 1_056,
          input_tokens_details: { text_tokens: 10, image_tokens: 40 },
          output_tokens_details: { text_tokens: 0, image_tokens: 1_056 },
        },
      },
      [50, 0, 0, 1_056, 0],
      {},
    ],
    [
      "transcription",
      {
        text: "hi",
        usage: {
          type: "tokens",
          input_tokens: 14,
          output_tokens: 4,
          input_token_details: { audio_tokens: 14 },
        },
      },
      [14, 0, 0, 4, 0],
      {},
    ],
    [
      "Anthropic message",
      {
        type: "message",
        role: "assistant",
        model: "claude",
        stop_reason: "end_turn",
        usage: ANTHROPIC_USAGE,
      },
      [175, 50, 100, 15, 6],
      { model: "claude", serviceTier: "standard" },
    ],
    [
      "Anthropic message without cache",
      { type: "message", model: "claude", usage: { input_tokens: 9, output_tokens: 4, speed: "standard" } },
      [9, 0, 0, 4, 0],
      { model: "claude" },
    ],
    [
      "Anthropic message at the fast speed",
      { type: "message", usage: { ...ANTHROPIC_USAGE, speed: "fast" } },
      [175, 50, 100, 15, 6],
      { serviceTier: "fast" },
    ],
    [
      "Anthropic message with a compaction",
      {
        type: "message",
        model: "claude",
        usage: {
          ...ANTHROPIC_USAGE,
          iterations: [
            { type: "compaction", input_tokens: 1_000, cache_read_input_tokens: 200, output_tokens: 300 },
            { type: "message", input_tokens: 25, cache_read_input_tokens: 50, output_tokens: 15 },
            { type: "compaction", input_tokens: 10, cache_creation_input_tokens: 20, output_tokens: 30 },
          ],
        },
      },
      [175 + 1_200 + 30, 250, 120, 345, 6],
      { model: "claude", serviceTier: "standard" },
    ],
    [
      "answer like Anthropic's without a type",
      { usage: { input_tokens: 1, cache_read_input_tokens: 2, output_tokens: 3 } },
      [3, 2, 0, 3, 0],
      {},
    ],
    [
      "chat completion with members of Anthropic",
      { choices: [{}], usage: { ...CHAT_USAGE, cache_read_input_tokens: 3, cache_creation_input_tokens: 2 } },
      [11, 3, 2, 7, 5],
      {},
    ],
    [
      "Gemini",
      { candidates: [{ finishReason: "STOP" }], usageMetadata: GEMINI_USAGE, modelVersion: "gemini" },
      [12, 4, 0, 8, 3],
      { model: "gemini" },
    ],
  ])("%s", (_, answer, counts, named) => {
    expect(readUsage(answer, undefined)).toMatchObject({ isFinal: true, isInputKnown: true });
    expect(readUsage(answer, undefined)?.usage).toEqual(usage(counts, named));
  });

  test("Gemini is at its end only with a reason to finish", () => {
    expect(readUsage({ usageMetadata: GEMINI_USAGE }, undefined)?.isFinal).toBe(false);
    expect(readUsage({ candidates: [{}], usageMetadata: GEMINI_USAGE }, undefined)?.isFinal).toBe(false);
  });
});

describe("events", () => {
  test.each<[string, readonly object[], Counts, Partial<Usage>]>([
    [
      "chat",
      [
        { model: "gpt-5", service_tier: "default", choices: [{ delta: { content: "a" } }], usage: null },
        { model: "gpt-5", service_tier: "default", choices: [{ delta: {}, finish_reason: "stop" }] },
        { model: "gpt-5", service_tier: "default", choices: [], usage: CHAT_USAGE },
      ],
      [11, 3, 2, 7, 5],
      { model: "gpt-5", serviceTier: "default" },
    ],
    [
      "chat that counts with every chunk",
      [
        { choices: [{ delta: { content: "a" } }], usage: { prompt_tokens: 11, completion_tokens: 1 } },
        { choices: [{ delta: { content: "b" } }], usage: { prompt_tokens: 11, completion_tokens: 2 } },
      ],
      [11, 0, 0, 2, 0],
      {},
    ],
    ...["completed", "incomplete", "failed"].map(
      (end) =>
        [
          `response that is ${end}`,
          [
            { type: "response.created", response: { model: "gpt-5", status: "in_progress", usage: null } },
            { type: "response.output_text.delta", delta: "a" },
            { type: `response.${end}`, response: { model: "gpt-5", status: end, usage: RESPONSES_USAGE } },
          ],
          [20, 8, 4, 30, 10],
          { model: "gpt-5" },
        ] as [string, readonly object[], Counts, Partial<Usage>],
    ),
    [
      "images",
      [
        { type: "image_generation.partial_image", b64_json: "" },
        { type: "image_generation.completed", b64_json: "", usage: { input_tokens: 5, output_tokens: 9 } },
      ],
      [5, 0, 0, 9, 0],
      {},
    ],
    [
      "transcription",
      [
        { type: "transcript.text.delta", delta: "a" },
        {
          type: "transcript.text.done",
          text: "a",
          usage: { type: "tokens", input_tokens: 5, output_tokens: 1 },
        },
      ],
      [5, 0, 0, 1, 0],
      {},
    ],
    [
      "speech",
      [
        { type: "speech.audio.delta", audio: "AAAA" },
        { type: "speech.audio.done", usage: { input_tokens: 5, output_tokens: 7, total_tokens: 12 } },
      ],
      [5, 0, 0, 7, 0],
      {},
    ],
    [
      "realtime",
      [
        {
          type: "response.done",
          response: {
            usage: { input_tokens: 9, output_tokens: 2, input_token_details: { cached_tokens: 3 } },
          },
        },
      ],
      [9, 3, 0, 2, 0],
      {},
    ],
    [
      "Anthropic",
      [
        {
          type: "message_start",
          message: { model: "claude", usage: { ...ANTHROPIC_USAGE, output_tokens: 1 } },
        },
        { type: "ping" },
        { type: "content_block_delta", delta: { type: "text_delta", text: "a" } },
        { type: "message_delta", delta: { stop_reason: "end_turn" }, usage: { output_tokens: 15 } },
        { type: "message_stop" },
      ],
      [175, 50, 100, 15, 6],
      { model: "claude", serviceTier: "standard" },
    ],
    [
      "Anthropic, whose last counts replace those before",
      [
        { type: "message_start", message: { model: "claude", usage: ANTHROPIC_USAGE } },
        { type: "message_delta", delta: { stop_reason: null }, usage: { output_tokens: 40 } },
        {
          type: "message_delta",
          delta: { stop_reason: "end_turn" },
          usage: {
            input_tokens: 500,
            cache_creation_input_tokens: null,
            cache_read_input_tokens: 70,
            output_tokens: 90,
          },
        },
      ],
      [670, 70, 100, 90, 6],
      { model: "claude", serviceTier: "standard" },
    ],
    [
      "Anthropic, whose compaction is told again and again but counts once",
      [
        {
          type: "message_start",
          message: {
            usage: { ...ANTHROPIC_USAGE, iterations: [{ type: "compaction", input_tokens: 1_000 }] },
          },
        },
        {
          type: "message_delta",
          delta: {},
          usage: {
            output_tokens: 2,
            iterations: [{ type: "compaction", input_tokens: 1_000, output_tokens: 30 }],
          },
        },
        { type: "message_delta", delta: { stop_reason: "end_turn" }, usage: { output_tokens: 20 } },
      ],
      [1_175, 50, 100, 50, 6],
      { serviceTier: "standard" },
    ],
    [
      "Gemini",
      [
        { candidates: [{}], modelVersion: "gemini", usageMetadata: { promptTokenCount: 10 } },
        {
          candidates: [{ finishReason: "STOP" }],
          modelVersion: "gemini",
          usageMetadata: { promptTokenCount: 10, candidatesTokenCount: 6, totalTokenCount: 16 },
        },
      ],
      [10, 0, 0, 6, 0],
      { model: "gemini" },
    ],
  ])("%s", (_, messages, counts, named) => {
    expect(readAll(messages)).toMatchObject({ isFinal: true, isInputKnown: true });
    expect(readAll(messages)?.usage).toEqual(usage(counts, named));
  });

  test("Anthropic is at its end with a reason to stop or an event that says so", () => {
    const start = { type: "message_start", message: { usage: ANTHROPIC_USAGE } };
    const delta = { type: "message_delta", delta: { stop_reason: null }, usage: { output_tokens: 20 } };
    expect(readAll([start])?.isFinal).toBe(false);
    expect(readAll([start, delta])?.isFinal).toBe(false);
    expect(readAll([start, delta, { type: "message_stop" }])?.isFinal).toBe(true);
    expect(readAll([{ type: "message_stop" }])).toBeUndefined();
  });

  test("output without input leaves the input unknown", () => {
    expect(readAll([{ type: "message_delta", delta: {}, usage: { output_tokens: 20 } }])).toMatchObject({
      usage: usage([0, 0, 0, 20, 0]),
      isInputKnown: false,
    });
  });
});

describe("messages that say nothing", () => {
  const before: ObservedUsage = { usage: usage([1, 0, 0, 2, 0]), isFinal: false, isInputKnown: true };

  test.each([
    ["a count of tokens in advance", { input_tokens: 2_095 }],
    ["a response that is not done", { type: "response.in_progress", response: { usage: null } }],
    ["a chunk", { choices: [{ delta: { content: "a" } }], usage: null }],
    ["seconds instead of tokens", { text: "a", usage: { type: "duration", seconds: 9 } }],
    ["an error", { type: "error", error: { type: "overloaded_error", message: "x" } }],
    ["an empty usage", { usage: {} }],
    [
      "a usage of something else",
      { usage: { total_tokens: 5, prompt_tokens_details: { cached_tokens: 1 } } },
    ],
    ["usage metadata without counts", { usageMetadata: { totalTokenCount: 5 } }],
    ["an Anthropic delta without usage", { type: "message_delta", delta: { stop_reason: "end_turn" } }],
    ["an Anthropic usage of its cache alone", { type: "message", usage: { cache_read_input_tokens: 5 } }],
    ["a type that is no text", { type: { toString: 1 }, usage: { input_tokens: [] } }],
    ["lists", [{ usage: CHAT_USAGE }]],
    ["a usage that is a list", { usage: [5] }],
    ["null", null],
    ["text", "usage"],
    ["a number", 5],
    ["nothing", undefined],
  ])("%s", (_, message) => {
    expect(readUsage(message, undefined)).toBeUndefined();
    expect(readUsage(message, before)).toBe(before);
  });

  test.each(["5", -1, 1.5, 2 ** 53, null, true, [5], { a: 5 }, "NaN"])(
    "a count that is %j is missing",
    (bad) => {
      expect(readUsage({ usage: { prompt_tokens: bad, completion_tokens: bad } }, undefined)).toBeUndefined();
      expect(readUsage({ type: "message", usage: { input_tokens: bad } }, undefined)).toBeUndefined();
      expect(readUsage({ usageMetadata: { promptTokenCount: bad } }, undefined)).toBeUndefined();
      expect(readUsage({ usage: { prompt_tokens: 5, completion_tokens: bad } }, undefined)).toMatchObject({
        usage: { inputTokens: 5, outputTokens: 0 },
      });
      const start = { type: "message_start", message: { usage: ANTHROPIC_USAGE } };
      const delta = { type: "message_delta", delta: {}, usage: { input_tokens: bad, output_tokens: 20 } };
      expect(readAll([start, delta])?.usage).toMatchObject({ inputTokens: 175, outputTokens: 20 });
    },
  );

  test("a sum beyond the safe integers is missing, too", () => {
    const max = Number.MAX_SAFE_INTEGER;
    const message = {
      type: "message",
      usage: { input_tokens: max, cache_read_input_tokens: 1, output_tokens: 3 },
    };
    expect(readUsage(message, undefined)).toMatchObject({
      usage: { inputTokens: 0, cachedInputTokens: 0, outputTokens: 3 },
      isInputKnown: false,
    });
    const metadata = { promptTokenCount: max, candidatesTokenCount: max, thoughtsTokenCount: 1 };
    expect(readUsage({ usageMetadata: metadata }, undefined)?.usage).toMatchObject({ outputTokens: 0 });
  });

  test("no part is greater than what it is a part of", () => {
    const details = { cached_tokens: 8, cache_write_tokens: 8 };
    const message = {
      usage: {
        input_tokens: 10,
        input_tokens_details: details,
        output_tokens: 5,
        output_tokens_details: { reasoning_tokens: 9 },
      },
    };
    expect(readUsage(message, undefined)?.usage).toEqual(usage([10, 8, 2, 5, 5]));
  });

  test.each(["", "x".repeat(513), 5, {}, null])("a model or tier that is %j is no name", (model) => {
    expect(modelOf({ model })).toBeUndefined();
    const message = { model, service_tier: model, usage: CHAT_USAGE };
    expect(readUsage(message, undefined)?.usage).toEqual(usage([11, 3, 2, 7, 5]));
  });

  test("whatever it is, nothing is thrown and every count is a safe integer within its whole", () => {
    const name = fc.constantFrom(
      ...[
        "usage",
        "response",
        "message",
        "type",
        "delta",
        "usageMetadata",
        "candidates",
        "iterations",
        "choices",
      ],
      ...["input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"],
      ...[
        "prompt_tokens",
        "promptTokenCount",
        "candidatesTokenCount",
        "prompt_tokens_details",
        "cached_tokens",
      ],
      ...["content", "parts", "text", "tool_calls", "function", "arguments", "model"],
    );
    const { value } = fc.letrec((tie) => ({
      value: fc.oneof(
        { maxDepth: 5 },
        fc.oneof(fc.maxSafeNat(), fc.jsonValue({ maxDepth: 0 })),
        fc.constantFrom(
          "message",
          "message_start",
          "message_delta",
          "message_stop",
          "content_block_delta",
          "x.delta",
        ),
        fc.dictionary(name, tie("value"), { maxKeys: 6 }),
        fc.array(tie("value"), { maxLength: 3 }),
      ),
    }));
    fc.assert(
      fc.property(fc.array(value, { maxLength: 4 }), (messages) => {
        for (const message of messages) expect(generatedBytes(message)).toBeGreaterThanOrEqual(0);
        const observed = readAll(messages);
        if (observed === undefined) return;
        const { inputTokens, cachedInputTokens, cacheWriteTokens, outputTokens, reasoningTokens } =
          observed.usage;
        for (const count of [
          inputTokens,
          cachedInputTokens,
          cacheWriteTokens,
          outputTokens,
          reasoningTokens,
        ]) {
          expect(Number.isSafeInteger(count) && count >= 0).toBe(true);
        }
        expect(cachedInputTokens + cacheWriteTokens).toBeLessThanOrEqual(inputTokens);
        expect(reasoningTokens).toBeLessThanOrEqual(outputTokens);
      }),
      { numRuns: 2_000 },
    );
  });
});

describe("generated text", () => {
  test.each([
    [{ choices: [{ delta: { content: "aé" } }, { delta: { content: "漢" } }] }, 6],
    [{ choices: [{ delta: { reasoning_content: "ab", content: null, refusal: "c" } }] }, 3],
    [{ choices: [{ delta: { reasoning: "ab" } }] }, 2],
    [{ choices: [{ delta: { reasoning_content: "ab", reasoning: "ab" } }] }, 2],
    [
      { choices: [{ delta: { tool_calls: [{ function: { arguments: "{}" } }, { function: {} }, null] } }] },
      2,
    ],
    [{ choices: [{ text: "abc" }] }, 3],
    [{ choices: [], usage: CHAT_USAGE }, 0],
    [{ type: "response.output_text.delta", delta: "abc" }, 3],
    [{ type: "response.function_call_arguments.delta", delta: "{" }, 1],
    [{ type: "response.output_audio.delta", delta: "AAAA" }, 0],
    [{ type: "response.output_text.done", text: "abc" }, 0],
    [{ type: "response.completed", delta: "abc" }, 0],
    [{ type: "content_block_delta", delta: { type: "text_delta", text: "ab" } }, 2],
    [{ type: "content_block_delta", delta: { type: "thinking_delta", thinking: "ab" } }, 2],
    [{ type: "content_block_delta", delta: { type: "input_json_delta", partial_json: '{"' } }, 2],
    [{ type: "content_block_delta", delta: { type: "signature_delta", signature: "ab" } }, 0],
    [{ candidates: [{ content: { parts: [{ text: "ab" }, { text: "c", thought: true }, {}] } }, {}] }, 3],
    [{ choices: "abc", candidates: {}, delta: "abc" }, 0],
    [null, 0],
  ])("%j", (message, bytes) => {
    expect(generatedBytes(message)).toBe(bytes);
  });
});
