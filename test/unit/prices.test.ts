import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type Estimate,
  fixedPrice,
  type Priced,
  type Prices,
  perFund,
  type TokenPricesOptions,
  type TokenRates,
  tokenPrices,
} from "../../src/prices.js";
import type { Usage } from "../../src/usage.js";

const MOST = Number.MAX_SAFE_INTEGER;
const FREE: TokenRates = { input: 0, output: 0 };

// Millionths of a dollar per million tokens: a token at $1 per million costs 1.
const GPT: TokenRates = { input: 1_250_000, cachedInput: 125_000, output: 10_000_000 };
const CLAUDE: TokenRates = {
  input: 3_000_000,
  cachedInput: 300_000,
  cacheWrite: 3_750_000,
  output: 15_000_000,
};

describe("what usage costs", () => {
  test.each<[string, TokenRates, Partial<Usage>, number]>([
    ["nothing used", GPT, {}, 0],
    // 8 × 1.25 + 3 × 0.125 + 5 × 10 = 60.375
    ["OpenAI, 8 + 3 cached", GPT, { inputTokens: 11, cachedInputTokens: 3, outputTokens: 5 }, 61],
    // 25 × 3 + 100 × 0.3 + 50 × 3.75 + 5 × 15 = 367.5
    [
      "Anthropic, 25 + 100 read + 50 written",
      CLAUDE,
      { inputTokens: 175, cachedInputTokens: 100, cacheWriteTokens: 50, outputTokens: 5 },
      368,
    ],
    ["reasoning as output", GPT, { outputTokens: 100, reasoningTokens: 60 }, 1_000],
    // 40 × 10 + 60 × 2.5
    ["reasoning", { ...GPT, reasoning: 2_500_000 }, { outputTokens: 100, reasoningTokens: 60 }, 550],
    [
      "cache as input",
      { input: 2e6, output: 0 },
      { inputTokens: 9, cachedInputTokens: 4, cacheWriteTokens: 3 },
      18,
    ],
    ["multiplier 2", { input: 1e6, completionMultiplier: 2 }, { inputTokens: 3, outputTokens: 4 }, 11],
    ["multiplier 5", { input: 1e6, completionMultiplier: 5 }, { inputTokens: 3, outputTokens: 4 }, 23],
    ["multiplier 1.5", { input: 1e6, completionMultiplier: 1.5 }, { inputTokens: 3, outputTokens: 3 }, 8],
    ["multiplier 0", { input: 1e6, completionMultiplier: 0 }, { inputTokens: 3, outputTokens: 3 }, 3],
    ["a free model", FREE, { inputTokens: MOST, outputTokens: MOST }, 0],
    ["a price per request", { ...FREE, perRequest: 7 }, {}, 7],
    ["both", { ...GPT, perRequest: 7 }, { inputTokens: 4, outputTokens: 1 }, 22],
    ["one token", { input: 0.000001, output: 0 }, { inputTokens: 1 }, 1],
    ["the least", { input: 0.000001, completionMultiplier: 0.000001 }, { outputTokens: 1 }, 1],
    ["no more than whole", { input: 0.000001, output: 0 }, { inputTokens: 1e12 }, 1],
    ["hardly more", { input: 0.000001, output: 0 }, { inputTokens: 1e12 + 1 }, 2],
    // In floating point 0.1 + 0.2 is more than 0.3, and would come to 4.
    ["decimals", { input: 100_000, output: 200_000 }, { inputTokens: 10, outputTokens: 10 }, 3],
    ["rounded once", { input: 500_000, output: 500_000 }, { inputTokens: 1, outputTokens: 1 }, 1],
    ["parts beyond the whole", CLAUDE, { inputTokens: 10, cachedInputTokens: 30, cacheWriteTokens: 50 }, 3],
    ["written beyond the rest", CLAUDE, { inputTokens: 10, cachedInputTokens: 6, cacheWriteTokens: 50 }, 17],
    ["more reasoning than output", { ...GPT, reasoning: 1e6 }, { outputTokens: 4, reasoningTokens: 9 }, 4],
    ["beyond every quota", GPT, { outputTokens: MOST }, MOST],
  ])("%s", (_, rates, used, expected) => {
    expect(pricesOf(rates).cost(usage(used), "m")).toBe(expected);
  });

  test.each([-1, 1.5, Number.NaN, 2 ** 53, Number.POSITIVE_INFINITY])("refuses %d tokens", (tokens) => {
    for (const name of [
      "inputTokens",
      "cachedInputTokens",
      "cacheWriteTokens",
      "outputTokens",
      "reasoningTokens",
    ]) {
      expect(() => pricesOf(GPT).cost(usage({ [name]: tokens }), "m")).toThrow(TypeError);
    }
  });
});

describe("whose rates", () => {
  const prices = tokenPrices({
    models: {
      "gpt-*": perToken(1),
      "gpt-5-*": perToken(2),
      "gpt-5-mini": perToken(3),
      "o4*": perToken(4),
      "openai/**": perToken(5),
      "claude-sonnet": perToken(6),
    },
    otherModels: perToken(9),
  });

  test.each([
    ["gpt-5-mini", 3],
    ["gpt-5-nano", 1],
    ["o4", 4],
    ["o4-mini", 4],
    ["openai/a/b", 5],
    ["o3", 9],
    ["GPT-5-mini", 9],
    ["", 9],
    ["constructor", 9],
    [`gpt-${"x".repeat(508)}`, 1],
    [`gpt-${"x".repeat(509)}`, 9],
  ])("%s: its own, else the first pattern, else those of other models", (model, expected) => {
    expect(prices.cost(usage({ inputTokens: 1 }), model)).toBe(expected);
    expect(prices.estimate({ model, body: undefined, bodyBytes: 1 }).inputCost).toBe(expected);
  });

  test.each<[string | undefined, Priced["model"], number]>([
    ["gpt-5-mini", "claude-sonnet", 3],
    ["gpt-4", "claude-sonnet", 1],
    ["claude-sonnet-20260801", "claude-sonnet", 6],
    ["claude-sonnet-20260801", ["o3", "claude-sonnet"], 9],
    ["claude-sonnet-20260801", ["gpt-4", "claude-sonnet"], 6],
    ["unheard-of", "unheard-of-too", 9],
    ["unheard-of", undefined, 9],
    ["unheard-of", null, 9],
    ["o4", null, 4],
    [undefined, "claude-sonnet", 6],
    [undefined, ["gpt-4", "o4"], 4],
    [undefined, [], 9],
    [undefined, undefined, 9],
    [undefined, null, 9],
  ])("%j answers what %j was asked: %i", (answered, asked, expected) => {
    const used = usage({ inputTokens: 1, ...(answered === undefined ? {} : { model: answered }) });
    expect(prices.cost(used, asked)).toBe(expected);
  });
});

describe("the estimate", () => {
  const prices = tokenPrices({
    models: {
      // 2 for input at its dearest, 20 for output.
      cached: { input: 1e6, cachedInput: 5e5, cacheWrite: 2e6, output: 1e7, reasoning: 2e7, perRequest: 3 },
      short: { input: 4e6, output: 4e6, maxOutputTokens: 10 },
      embedding: { input: 1e6, output: 0, maxOutputTokens: 0 },
      free: FREE,
    },
    otherModels: perToken(1),
  });

  test.each<[string, Priced["model"], number | undefined, Estimate]>([
    ["the dearest of each", "cached", 100, estimated(2_023, 23, 110, 10)],
    ["a model's bound", "short", 100, estimated(80, 40, 20, 10)],
    ["less than a model's bound", "short", 1, estimated(44, 40, 11, 10)],
    ["no bound", "cached", undefined, estimated(327_703, 23, 16_394, 10)],
    ["a model without output", "embedding", undefined, estimated(10, 10, 10, 10)],
    ["a free model", "free", 100, estimated(0, 0, 110, 10)],
    ["another model", "other", 100, estimated(110, 10, 110, 10)],
    // The longest answer of any at the rates of each: 10 × 2 + 100 × 20 + 3, and 10 × 4 of input.
    ["the dearest of several", ["short", "cached", "free"], 100, estimated(2_023, 40, 110, 10)],
    ["the dearest of all", undefined, 100, estimated(2_023, 40, 110, 10)],
    ["the dearest of all", [], 100, estimated(2_023, 40, 110, 10)],
    ["none without a model", null, 100, estimated(0, 0, 0, 0)],
  ])("%s", (_, model, maxTokens, expected) => {
    const body = { messages: [], max_tokens: maxTokens };
    expect(prices.estimate({ model, body, bodyBytes: 10 })).toEqual(expected);
  });

  test("is 0 without model and body, and of all models for a body that cannot be read", () => {
    const nothing = { model: undefined, body: undefined, bodyBytes: 0 };
    expect(prices.estimate(nothing)).toEqual(estimated(0, 0, 0, 0));
    expect(prices.estimate({ ...nothing, bodyBytes: 1 }).cost).toBe(3 + 2 + 16_384 * 20);
    expect(prices.estimate({ ...nothing, model: "cached" }).cost).toBe(3 + 16_384 * 20);
  });

  test("goes by the options", () => {
    const body = {
      messages: [{ content: [{ type: "image_url", image_url: { url: "https://a.example" } }] }],
    };
    const request = { model: "m", body: { ...body, max_tokens: 0 }, bodyBytes: 101 };
    expect(pricesOf(perToken(1)).estimate(request).cost).toBe(2_101);
    expect(pricesOf(perToken(1), { bytesPerToken: 4 }).estimate(request).cost).toBe(2_026);
    expect(pricesOf(perToken(1), { attachmentTokens: 5 }).estimate(request).cost).toBe(106);
  });

  test("beyond 2^53 - 1 is 2^53 - 1", () => {
    const request = { model: "m", body: undefined, bodyBytes: MOST };
    expect(pricesOf(GPT).estimate(request)).toEqual(estimated(MOST, MOST, MOST, MOST));
    expect(pricesOf({ ...FREE, perRequest: MOST }).estimate({ ...request, bodyBytes: 0 }).cost).toBe(MOST);
  });
});

describe("for all rates and usages", () => {
  const millionths = fc.bigInt(0n, 10n ** 13n);
  const tokens = fc.oneof(fc.nat({ max: 5 }), fc.nat({ max: 2_000_000 }));
  const rates = fc.record(
    {
      input: millionths,
      cachedInput: millionths,
      cacheWrite: millionths,
      output: millionths,
      completionMultiplier: fc.bigInt(0n, 10n ** 8n),
      reasoning: millionths,
    },
    { requiredKeys: ["input"] },
  );
  const perRequest = fc.nat();
  const used = fc.record({
    inputTokens: tokens,
    cachedInputTokens: tokens,
    cacheWriteTokens: tokens,
    outputTokens: tokens,
    reasoningTokens: tokens,
  });

  /** As an operator writes them, with one of the two prices for output. */
  function written({ output, ...sampled }: Sampled, perRequest: number): TokenRates {
    const { completionMultiplier, ...rest } = sampled;
    const forOutput =
      completionMultiplier === undefined ? { output: output ?? 0n } : { completionMultiplier };
    const numbers = Object.entries({ ...rest, ...forOutput }).map(([name, value]) => [
      name,
      Number(value) / 1e6,
    ]);
    return { ...Object.fromEntries(numbers), perRequest };
  }

  test("the cost is the smallest integer that is not below the exact one", () => {
    fc.assert(
      fc.property(rates, perRequest, used, (sampled, fee, usage) => {
        const cost = BigInt(pricesOf(written(sampled, fee)).cost(usage, "m") as number);
        const exact = exactCost(sampled, usage) + BigInt(fee) * UNIT;
        expect(cost * UNIT >= exact && (cost - 1n) * UNIT < exact).toBe(true);
      }),
      { numRuns: 2_000 },
    );
  });

  test("what stays within the ceiling never costs more than was estimated", () => {
    fc.assert(
      fc.property(rates, perRequest, used, fc.nat({ max: 8 }), (sampled, fee, usage, spare) => {
        const prices = pricesOf(written(sampled, fee));
        const body = { messages: [], max_tokens: usage.outputTokens + spare };
        const estimate = prices.estimate({ model: "m", body, bodyBytes: usage.inputTokens + spare });
        const cost = prices.cost(usage, "m");
        expect(cost).toBeLessThanOrEqual(estimate.cost as number);
        expect(estimate.inputCost).toBeLessThanOrEqual(estimate.cost as number);
        expect(estimate.tokens).toBeGreaterThanOrEqual(usage.inputTokens + usage.outputTokens);
      }),
      { numRuns: 1_000 },
    );
  });

  test("of several models, no answer of one of them costs more than was estimated", () => {
    fc.assert(
      fc.property(
        fc.array(rates, { minLength: 2, maxLength: 4 }),
        used,
        fc.nat(3),
        (all, usage, answered) => {
          const models = Object.fromEntries(all.map((sampled, at) => [`m${at}`, written(sampled, at)]));
          const names = Object.keys(models);
          const prices = tokenPrices({ models, otherModels: FREE });
          const body = { messages: [], max_tokens: usage.outputTokens };
          const model = names[answered % names.length] as string;
          for (const asked of [names, undefined]) {
            const { cost } = prices.estimate({ model: asked, body, bodyBytes: usage.inputTokens });
            expect(prices.cost({ ...usage, model }, asked)).toBeLessThanOrEqual(cost as number);
            expect(prices.cost(usage, asked)).toBeLessThanOrEqual(cost as number);
          }
        },
      ),
    );
  });

  test("more input or output never costs less, and no cost is unsafe", () => {
    const any = fc.oneof(tokens, fc.maxSafeNat());
    fc.assert(
      fc.property(rates, used, any, any, (sampled, usage, input, output) => {
        const prices = pricesOf(written(sampled, 0));
        const before = prices.cost(usage, "m") as number;
        const { inputTokens, outputTokens } = usage;
        const more = [
          { ...usage, inputTokens: Math.min(inputTokens + input, MOST) },
          { ...usage, outputTokens: Math.min(outputTokens + output, MOST) },
        ];
        for (const one of more) {
          const cost = prices.cost(one, "m") as number;
          expect(cost).toBeGreaterThanOrEqual(before);
          expect(Number.isSafeInteger(cost) && cost >= 0).toBe(true);
        }
      }),
      { numRuns: 1_000 },
    );
  });

  test("of a part with a rate of its own, more never costs less where it is dearer, nor more where it is cheaper", () => {
    fc.assert(
      fc.property(rates, used, fc.nat({ max: 9 }), (sampled, usage, more) => {
        const { input, cachedInput = input } = sampled;
        const prices = pricesOf(written(sampled, 0));
        const plain = { ...usage, cacheWriteTokens: 0 };
        const [less, moreCached] = [
          plain,
          { ...plain, cachedInputTokens: plain.cachedInputTokens + more },
        ].map((one) => prices.cost(one, "m") as number) as [number, number];
        expect(cachedInput >= input ? moreCached >= less : moreCached <= less).toBe(true);
      }),
    );
  });
});

describe("fixedPrice", () => {
  const request = { model: "m", body: { messages: [], max_tokens: 5 }, bodyBytes: 10 };

  test.each([0, 1, MOST, { subscription: 3, balance: 4_200 }])("is %j whatever is used", (cost) => {
    const prices = fixedPrice(cost);
    expect(prices.estimate(request)).toEqual({ cost, inputCost: cost, tokens: 15, inputTokens: 10 });
    expect(prices.cost(usage({ inputTokens: 1_000_000, model: "dearer" }), "m")).toEqual(cost);
  });

  test("goes by the model asked for, not by the one that answers", () => {
    const prices = fixedPrice((model) => (model === "m" ? 5 : 50));
    expect(prices.estimate(request).cost).toBe(5);
    expect(prices.cost(usage({ model: "dearer" }), "m")).toBe(5);
    expect(prices.cost(usage({}), undefined)).toBe(50);
  });

  test("has no tokens where there is nothing to generate", () => {
    const nothing = { model: undefined, body: undefined, bodyBytes: 0 };
    expect(fixedPrice(5).estimate(nothing)).toEqual({ cost: 5, inputCost: 5, tokens: 0, inputTokens: 0 });
  });

  test.each([-1, 1.5, 2 ** 53, "1", null, {}, { subscription: 1 }, { subscription: 1, balance: -1 }])(
    "takes no %j",
    (cost) => {
      expect(() => fixedPrice(cost as never)).toThrow(
        /^cost: expected an integer from 0 to 9007199254740991, or/,
      );
      expect(() => fixedPrice(() => cost as never).estimate(request)).toThrow(TypeError);
      expect(() => fixedPrice(() => cost as never).cost(usage({}), "m")).toThrow(TypeError);
    },
  );
});

describe("perFund", () => {
  const tokens = pricesOf({ ...perToken(2), maxOutputTokens: 100 }, { bytesPerToken: 2 });
  const prices = perFund({ subscription: fixedPrice(3), balance: tokens });

  test("gives each fund its own price, and the tokens of the larger", () => {
    const request = { model: "m", body: { messages: [], max_tokens: 50 }, bodyBytes: 10 };
    expect(prices.estimate(request)).toEqual({
      cost: { subscription: 3, balance: 110 },
      inputCost: { subscription: 3, balance: 10 },
      tokens: 60,
      inputTokens: 10,
    });
    expect(prices.cost(usage({ inputTokens: 4, outputTokens: 5 }), "m")).toEqual({
      subscription: 3,
      balance: 18,
    });
  });

  test.each<[string, Prices]>([
    ["subscription", perFund({ subscription: prices, balance: tokens })],
    ["balance", perFund({ subscription: tokens, balance: prices })],
  ])("takes no prices per fund for the %s", (_, nested) => {
    expect(() => nested.estimate({ model: "m", body: undefined, bodyBytes: 1 })).toThrow(TypeError);
    expect(() => nested.cost(usage({}), "m")).toThrow(TypeError);
  });
});

describe("options", () => {
  const names = "/".repeat(256);

  test.each<[string, TokenPricesOptions]>([
    ["nothing but other models", { models: {}, otherModels: FREE }],
    ["1,024 models", { models: manyModels(1_024), otherModels: FREE }],
    ["256 characters", { models: { [names]: GPT }, otherModels: FREE }],
    [
      "the largest numbers",
      { ...only({ input: MOST, output: MOST, perRequest: MOST, maxOutputTokens: MOST }) },
    ],
    ["six decimals", only({ input: 0.000001, completionMultiplier: 123_456.654321 })],
    ["bounds of the measure", { ...only(FREE), bytesPerToken: 16, attachmentTokens: 10_000_000 }],
    ["least of the measure", { ...only(FREE), bytesPerToken: 1, attachmentTokens: 0 }],
  ])("%s will do", (_, options) => {
    expect(() => tokenPrices(options)).not.toThrow();
  });

  const decimals = "expected a number from 0 with at most 6 decimals";
  test.each<[string, object, string]>([
    ["no models", { otherModels: FREE }, "options.models: expected rates by model, received undefined."],
    [
      "no other models",
      { models: { m: GPT } },
      "options.otherModels: expected the rates of a model, received undefined.",
    ],
    [
      "1,025 models",
      { models: manyModels(1_025), otherModels: FREE },
      "options.models: expected at most 1,024",
    ],
    [
      "a name of 257 characters",
      { models: { [`${names}/`]: GPT }, otherModels: FREE },
      `options.models["${"/".repeat(64)}"]: expected 1 to 256 characters, received 257.`,
    ],
    [
      "no name",
      { models: { "": GPT }, otherModels: FREE },
      'options.models[""]: expected 1 to 256 characters',
    ],
    [
      "a pattern for all",
      { models: { "**": GPT }, otherModels: FREE },
      'options.models["**"]: what all other models cost is options.otherModels.',
    ],
    ["an option misspelt", { ...only(FREE), bytesPerTokens: 4 }, 'did you mean "bytesPerToken"?'],
    ["bytesPerToken 0", { ...only(FREE), bytesPerToken: 0 }, "options.bytesPerToken: "],
    ["bytesPerToken 17", { ...only(FREE), bytesPerToken: 17 }, "options.bytesPerToken: "],
    ["bytesPerToken 1.5", { ...only(FREE), bytesPerToken: 1.5 }, "options.bytesPerToken: "],
    ["attachmentTokens -1", { ...only(FREE), attachmentTokens: -1 }, "options.attachmentTokens: "],
    [
      "too many attachmentTokens",
      { ...only(FREE), attachmentTokens: 10_000_001 },
      "options.attachmentTokens: ",
    ],
    ["rates that are none", only(5), 'options.models["gpt-4.1"]: expected the rates of a model, received 5.'],
    [
      "a rate misspelt",
      only({ ...GPT, cachedInputs: 1 }),
      'options.models["gpt-4.1"]: there is no "cachedInputs"',
    ],
    ["no input", only({ output: 1 }), `options.models["gpt-4.1"].input: ${decimals}, received undefined.`],
    ["text", only({ input: "1", output: 1 }), `options.models["gpt-4.1"].input: ${decimals}, received "1".`],
    ["a negative rate", only({ input: -1, output: 1 }), `.input: ${decimals}, received -1.`],
    ["no number", only({ input: Number.NaN, output: 1 }), `.input: ${decimals}, received NaN.`],
    [
      "infinity",
      only({ input: 1, output: Number.POSITIVE_INFINITY }),
      `.output: ${decimals}, received Infinity.`,
    ],
    [
      "beyond 2^53 - 1",
      only({ input: 2 ** 53, output: 1 }),
      `.input: ${decimals}, received 9007199254740992.`,
    ],
    ["7 decimals", only({ ...GPT, cachedInput: 0.0000001 }), `.cachedInput: ${decimals}, received 1e-7.`],
    ["7 decimals", only({ ...GPT, cacheWrite: 1.0000001 }), `.cacheWrite: ${decimals}, received 1.0000001.`],
    ["7 decimals", only({ ...GPT, reasoning: 0.1 + 0.2 }), `.reasoning: ${decimals}, received 0.3000`],
    [
      "a negative multiplier",
      only({ input: 1, completionMultiplier: -2 }),
      `.completionMultiplier: ${decimals}`,
    ],
    [
      "both",
      only({ ...GPT, completionMultiplier: 2 }),
      "expected either output or completionMultiplier, received both.",
    ],
    ["neither", only({ input: 1 }), "expected either output or completionMultiplier, received neither."],
    ["part of a unit", only({ ...GPT, perRequest: 0.5 }), 'options.models["gpt-4.1"].perRequest: '],
    ["a negative fee", only({ ...GPT, perRequest: -1 }), 'options.models["gpt-4.1"].perRequest: '],
    [
      "a negative bound",
      only({ ...GPT, maxOutputTokens: -1 }),
      'options.models["gpt-4.1"].maxOutputTokens: ',
    ],
    ["wrong other models", { models: {}, otherModels: { input: 1 } }, "options.otherModels: expected either"],
  ])("%s will not", (_, options, problem) => {
    let message = "";
    try {
      tokenPrices(options as TokenPricesOptions);
    } catch (error) {
      expect(error).toMatchObject({ code: "invalid_options" });
      message = (error as Error).message;
    }
    expect(message).toContain(problem);
  });
});

interface Sampled {
  readonly input: bigint;
  readonly cachedInput?: bigint;
  readonly cacheWrite?: bigint;
  readonly output?: bigint;
  readonly completionMultiplier?: bigint;
  readonly reasoning?: bigint;
}

/** One unit, in what `exactCost` counts in. */
const UNIT = 10n ** 18n;

/** Token by token, what each is: the definition, without a thought for the order of sums. */
function exactCost(rates: Sampled, usage: Usage): bigint {
  const { input, cachedInput = input, cacheWrite = input, completionMultiplier } = rates;
  const output =
    completionMultiplier === undefined ? (rates.output ?? 0n) * 1_000_000n : input * completionMultiplier;
  const reasoning = rates.reasoning === undefined ? output : rates.reasoning * 1_000_000n;
  const cached = Math.min(usage.cachedInputTokens, usage.inputTokens);
  const cachedOrWritten = Math.min(usage.cachedInputTokens + usage.cacheWriteTokens, usage.inputTokens);
  const parts: readonly (readonly [number, bigint])[] = [
    [cached, cachedInput * 1_000_000n],
    [cachedOrWritten - cached, cacheWrite * 1_000_000n],
    [usage.inputTokens - cachedOrWritten, input * 1_000_000n],
    [Math.max(0, usage.outputTokens - usage.reasoningTokens), output],
    [Math.min(usage.outputTokens, usage.reasoningTokens), reasoning],
  ];
  return parts.reduce((sum, [tokens, rate]) => sum + BigInt(tokens) * rate, 0n);
}

function pricesOf(rates: TokenRates, options?: Partial<TokenPricesOptions>): Prices {
  return tokenPrices({ models: { m: rates }, otherModels: FREE, ...options });
}

function perToken(units: number): TokenRates {
  return { input: units * 1_000_000, output: units * 1_000_000 };
}

function only(rates: unknown): TokenPricesOptions {
  return { models: { "gpt-4.1": rates as TokenRates }, otherModels: FREE };
}

function manyModels(count: number): Record<string, TokenRates> {
  return Object.fromEntries(Array.from({ length: count }, (_, at) => [`m${at}`, GPT]));
}

function estimated(cost: number, inputCost: number, tokens: number, inputTokens: number): Estimate {
  return { cost, inputCost, tokens, inputTokens };
}

function usage(used: Partial<Usage>): Usage {
  return {
    inputTokens: 0,
    cachedInputTokens: 0,
    cacheWriteTokens: 0,
    outputTokens: 0,
    reasoningTokens: 0,
    ...used,
  };
}
