import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { DEFAULT_MEASURE, tokenCeilings } from "../../src/ceilings.js";

const PIXEL = "data:image/png;base64,iVBORw0KGgo=";

describe("input", () => {
  test.each([
    ["no body", undefined, 0, 0],
    ["a body that could not be parsed", undefined, 1_234, 1_234],
    ["text", { messages: [{ role: "user", content: "hello" }] }, 55, 55],
    ["text that speaks of images", { messages: [{ role: "user", content: `image_url ${PIXEL}` }] }, 99, 99],
  ])("%s counts its bytes", (_, body, bodyBytes, expected) => {
    expect(tokenCeilings({ body, bodyBytes }).inputTokens).toBe(expected);
  });

  test.each([
    [1, 100, 100],
    [3, 100, 34],
    [4, 100, 25],
    [4, 101, 26],
    [16, 1, 1],
  ])("at %i bytes per token, %i bytes are %i tokens", (bytesPerToken, bodyBytes, expected) => {
    const measure = { ...DEFAULT_MEASURE, bytesPerToken };
    expect(tokenCeilings({ body: undefined, bodyBytes }, measure).inputTokens).toBe(expected);
  });

  const link = "https://example.com/a.png";
  test.each<[string, object]>([
    ["chat image", { messages: [content({ type: "image_url", image_url: { url: link } })] }],
    ["chat file", { messages: [content({ type: "file", file: { file_id: "file-1" } })] }],
    ["chat audio", { messages: [content({ type: "input_audio", input_audio: { data: "AAAA" } })] }],
    ["response image", { input: [content({ type: "input_image", image_url: link })] }],
    ["response image by id", { input: [content({ type: "input_image", file_id: "file-1" })] }],
    ["response file", { input: [content({ type: "input_file", file_id: "file-1" })] }],
    [
      "screenshot",
      {
        input: [{ type: "computer_call_output", output: { type: "computer_screenshot", file_id: "file-1" } }],
      },
    ],
    [
      "output of a function",
      { input: [{ type: "function_call_output", output: [{ type: "input_image", image_url: link }] }] },
    ],
    ["message image", { messages: [content({ type: "image", source: { type: "url", url: link } })] }],
    [
      "message document",
      { messages: [content({ type: "document", source: { type: "file", file_id: "1" } })] },
    ],
    [
      "tool result",
      {
        messages: [
          content({
            type: "tool_result",
            content: [{ type: "image", source: { type: "file", file_id: "file-1" } }],
          }),
        ],
      },
    ],
    [
      "batch",
      { requests: [{ params: { messages: [content({ type: "image", source: { type: "url" } })] } }] },
    ],
    ["Gemini file", { contents: [{ parts: [{ fileData: { fileUri: link } }] }] }],
    ["Gemini file, spelled otherwise", { contents: [{ parts: [{ file_data: { file_uri: link } }] }] }],
  ])("a %s counts attachmentTokens besides the bytes", (_, body) => {
    expect(tokenCeilings({ body, bodyBytes: 500 }).inputTokens).toBe(2_500);
    const measure = { bytesPerToken: 4, attachmentTokens: 70 };
    expect(tokenCeilings({ body, bodyBytes: 500 }, measure).inputTokens).toBe(125 + 70);
  });

  const data = PIXEL.slice(PIXEL.indexOf(",") + 1);
  test.each<[string, object, string]>([
    ["chat", { messages: [content({ type: "image_url", image_url: { url: PIXEL } })] }, PIXEL],
    ["response", { input: [content({ type: "input_image", image_url: PIXEL })] }, PIXEL],
    [
      "message",
      {
        messages: [content({ type: "image", source: { type: "base64", media_type: "image/png", data } })],
      },
      data,
    ],
    ["Gemini", { contents: [{ parts: [{ inlineData: { mimeType: "image/png", data } }] }] }, data],
    ["Gemini snake", { contents: [{ parts: [{ inline_data: { mime_type: "image/png", data } }] }] }, data],
  ])("an inline image (%s) counts attachmentTokens in place of its bytes", (_, body, image) => {
    expect(tokenCeilings({ body, bodyBytes: 500 }).inputTokens).toBe(500 - image.length + 2_000);
  });

  const long = `data:image/png;base64,${"a ".repeat(1_000)}`;
  test.each<[string, object, number]>([
    ["text", { messages: [content({ type: "text", text: long, image_url: long })] }, 0],
    [
      "the input of a tool",
      { messages: [content({ type: "tool_use", input: { content: [image(long)] } })] },
      0,
    ],
    ["a schema", { tools: [{ parameters: { content: [image(long)] } }] }, 0],
    ["metadata", { metadata: { messages: [content(image(long))] } }, 0],
    ["a text file", { input: [content({ type: "input_file", file_data: long })] }, 1],
    [
      "a document",
      {
        messages: [
          content({ type: "document", source: { type: "text", media_type: "text/plain", data: long } }),
        ],
      },
      1,
    ],
    ["a PDF", { contents: [{ parts: [{ inlineData: { mimeType: "application/pdf", data: long } }] }] }, 1],
    [
      "an image of no type",
      { contents: [{ parts: [{ inlineData: { mimeType: { toString: 1 }, data: long } }] }] },
      1,
    ],
    ["an image that says it is text", { messages: [content(image(`data:text/plain,${long}`))] }, 1],
  ])("no bytes are taken off for what looks like an image in %s", (_, body, attachments) => {
    expect(tokenCeilings({ body, bodyBytes: 5_000 }).inputTokens).toBe(5_000 + attachments * 2_000);
  });

  test("a size smaller than that of the images is none below 0", () => {
    const body = { messages: [content(image(long))] };
    expect(tokenCeilings({ body, bodyBytes: 10 }).inputTokens).toBe(2_000);
  });

  test("no depth of nesting exhausts the stack", () => {
    const depth = 200_000;
    const body = JSON.parse(`{"messages":${'[{"content":'.repeat(depth)}[]${"}]".repeat(depth)}}`);
    expect(tokenCeilings({ body, bodyBytes: 7 }).inputTokens).toBe(7);
  });
});

describe("output", () => {
  const messages = [{ role: "user", content: "hello" }];

  test.each<[string, object, number]>([
    ["chat", { messages, max_completion_tokens: 100 }, 100],
    ["chat, as it was", { messages, max_tokens: 100 }, 100],
    ["message", { messages, max_tokens: 100, thinking: { type: "enabled", budget_tokens: 90 } }, 100],
    ["response", { input: "hello", max_output_tokens: 100 }, 100],
    ["stored prompt", { prompt: { id: "pmpt_1" }, max_output_tokens: 100 }, 100],
    ["Gemini", { contents: [], generationConfig: { maxOutputTokens: 100 } }, 100],
    ["Gemini, spelled otherwise", { contents: [], generation_config: { max_output_tokens: 100 } }, 100],
    ["completion", { prompt: "hello", max_tokens: 100 }, 100],
    ["nothing", { messages, max_tokens: 0 }, 0],
    ["choices", { messages, max_tokens: 100, n: 3 }, 300],
    ["choices tried", { prompt: "hello", max_tokens: 100, n: 2, best_of: 5 }, 500],
    ["candidates", { contents: [], generationConfig: { maxOutputTokens: 100, candidateCount: 4 } }, 400],
    ["no choices", { messages, max_tokens: 100, n: 0 }, 100],
    ["no choices tried", { prompt: "hello", max_tokens: 100, n: 0, best_of: 0 }, 100],
    ["choices left open", { messages, max_tokens: 100, n: null }, 100],
    ["more prompts", { prompt: ["a", "b", "c"], max_tokens: 100, n: 2 }, 600],
    ["a prompt in tokens", { prompt: [1, 2, 3], max_tokens: 100 }, 100],
    ["prompts in tokens", { prompt: [[1, 2], [3]], max_tokens: 100 }, 200],
    [
      "a batch",
      {
        requests: [{ params: { messages, max_tokens: 100 } }, { params: { messages, max_tokens: 30, n: 2 } }],
      },
      160,
    ],
    [
      "a batch of Gemini",
      {
        batch: {
          inputConfig: {
            requests: {
              requests: [
                { request: { contents: [], generationConfig: { maxOutputTokens: 100 } } },
                { request: { contents: [], generationConfig: { maxOutputTokens: 30, candidateCount: 2 } } },
              ],
            },
          },
        },
      },
      160,
    ],
    [
      "two open entries of one",
      {
        batch: {
          input_config: {
            requests: { requests: [{ request: { contents: [] } }, { request: { contents: [] } }, {}] },
          },
        },
      },
      32_768,
    ],
    ["a batch of Gemini in a file", { batch: { input_config: { file_name: "files/1" } } }, 16_384],
    ["an open entry of a batch", { requests: [{ params: { messages } }] }, 16_384],
  ])("%s: what is asked for", (_, body, expected) => {
    expect(outputTokens(body)).toBe(expected);
  });

  test.each<[string, unknown]>([
    ["no body", undefined],
    ["no object", [1]],
    ["null", null],
    ["an empty object", {}],
    ["chat without a bound", { messages }],
    ["a bound of null", { messages, max_tokens: null, max_completion_tokens: null }],
    ["an empty batch", { requests: [] }],
    ["a batch of what generates nothing", { requests: [{ content: { parts: [] } }, null, { params: 1 }] }],
    ...["100", -1, 1.5, true, {}, 2 ** 53].map((bound): [string, unknown] => [
      `a bound of ${JSON.stringify(bound)}`,
      { messages, max_tokens: bound },
    ]),
  ])("%s: 16,384, or the model's bound", (_, body) => {
    expect(outputTokens(body)).toBe(16_384);
    expect(outputTokens(body, [100])).toBe(100);
    expect(outputTokens(body, [0])).toBe(0);
    expect(outputTokens(body, [50_000])).toBe(50_000);
  });

  // Each would make the hold smaller than what an upstream that reads only its own names may write.
  test.each<[string, object, number]>([
    ["two bounds", { messages, max_tokens: 900, max_completion_tokens: 1 }, 900],
    ["a good bound and one that is none", { messages, max_tokens: "900", max_completion_tokens: 1 }, 16_384],
    ["a bound of the Responses API in a chat", { messages, max_output_tokens: 1 }, 16_384],
    ["a bound of Gemini in a chat", { messages, generationConfig: { maxOutputTokens: 1 } }, 16_384],
    ["a bound of the chat API in a response", { input: "hello", max_tokens: 1 }, 16_384],
    ["a body for two APIs", { messages, max_tokens: 900, input: "hello", max_output_tokens: 1 }, 900],
    [
      "the second of them",
      {
        messages,
        max_tokens: 1,
        input: "hello",
        max_output_tokens: 2,
        contents: [],
        generationConfig: { maxOutputTokens: 900 },
      },
      900,
    ],
    [
      "two spellings",
      {
        contents: [],
        generationConfig: { maxOutputTokens: 1 },
        generation_config: { max_output_tokens: 900 },
      },
      900,
    ],
    ["an empty batch in a chat", { messages, max_tokens: 900, requests: [] }, 900],
    ["choices that are no number", { messages, max_tokens: 10, n: "128" }, 1_280],
  ])("%s: the larger", (_, body, expected) => {
    expect(outputTokens(body)).toBe(expected);
  });

  test("a model's bound caps each choice of each request", () => {
    const one = { messages, max_tokens: 1_000_000, n: 3 };
    expect(outputTokens(one, [500])).toBe(1_500);
    expect(
      outputTokens({ requests: [{ params: one }, { params: { messages, max_tokens: 7 } }] }, [500]),
    ).toBe(1_507);
  });

  test.each<[(number | undefined)[], number, number]>([
    [[100, 200], 200, 200],
    [[100, undefined], 16_384, 1_000_000],
    [[50_000, undefined], 50_000, 1_000_000],
  ])("of models bound to %j, the longest answer counts", (longest, unasked, asked) => {
    expect(outputTokens({ messages }, longest)).toBe(unasked);
    expect(outputTokens({ messages, max_tokens: 1_000_000 }, longest)).toBe(asked);
  });

  test("adds up to no more than 2^53 - 1", () => {
    const body = { messages, max_tokens: Number.MAX_SAFE_INTEGER, n: Number.MAX_SAFE_INTEGER };
    const most = Number.MAX_SAFE_INTEGER;
    expect(tokenCeilings({ body, bodyBytes: most })).toEqual({
      tokens: most,
      inputTokens: most,
      outputTokens: most,
    });
  });
});

test("whatever the body is, the ceilings are safe integers, and tokens are their sum", () => {
  const names = ["messages", "input", "contents", "requests", "params", "content", "parts", "prompt", "n"];
  const bounds = [
    "type",
    "image_url",
    "source",
    "data",
    "media_type",
    "max_tokens",
    "generationConfig",
    "toString",
  ];
  const key = fc.constantFrom(...names, ...bounds);
  const value = fc.letrec((tie) => ({
    any: fc.oneof(
      { maxDepth: 6 },
      fc.constantFrom(null, 0, 7, -1, 2 ** 53, "image", "image_url", PIXEL),
      fc.array(tie("any"), { maxLength: 3 }),
      fc.dictionary(key, tie("any"), { maxKeys: 5 }),
    ),
  })).any;
  fc.assert(
    fc.property(value, (body) => {
      const bodyBytes = new TextEncoder().encode(JSON.stringify(body)).length;
      const { tokens, inputTokens, outputTokens } = tokenCeilings({ body, bodyBytes });
      for (const count of [tokens, inputTokens, outputTokens]) {
        expect(Number.isSafeInteger(count) && count >= 0).toBe(true);
      }
      expect(tokens).toBe(Math.min(inputTokens + outputTokens, Number.MAX_SAFE_INTEGER));
    }),
    { numRuns: 500 },
  );
});

function outputTokens(body: unknown, longest?: readonly (number | undefined)[]): number {
  return tokenCeilings({ body, bodyBytes: 0 }, DEFAULT_MEASURE, longest).outputTokens;
}

function content(part: object): object {
  return { role: "user", content: [{ type: "text", text: "look" }, part] };
}

function image(url: string): object {
  return { type: "image_url", image_url: { url } };
}
