import { DEFAULT_MEASURE, type InputMeasure, tokenCeilings } from "./ceilings.js";
import { type Cost, MAX_MODEL_LENGTH } from "./documents.js";
import { invalid, parseOptions } from "./invalid-options.js";
import { MAX_PATTERN_LENGTH, matchesPattern } from "./models.js";
import { entries, int, object, optional, orElse, that } from "./shapes.js";
import type { Usage } from "./usage.js";

/** What is known of a request when its price is estimated. */
export interface Priced {
  /** The models asked for; `null`: there is none; `undefined`: they could not be told. */
  readonly model: string | readonly string[] | null | undefined;
  /** The parsed JSON body; undefined where there is none that everyone reads alike. */
  readonly body: unknown;
  /** The length of the body, not compressed. Of one that could not be read, the most it may be. */
  readonly bodyBytes: number;
}

/** What a request may come to at most. */
export interface Estimate {
  readonly cost: Cost;
  /** The part of the cost that is input: what `onUnknownUsage: "input"` books. */
  readonly inputCost: Cost;
  /** Input and output, for limits in tokens. */
  readonly tokens: number;
  readonly inputTokens: number;
}

/** How requests are priced. Any object with these two pure functions will do. */
export interface Prices {
  /** What is held while the request runs. */
  estimate(request: Priced): Estimate;
  /** What it cost in the end. `asked` is the `model` of the request; the usage names the one that answered. */
  cost(usage: Usage, asked: Priced["model"]): Cost;
}

/**
 * What the tokens of a model cost: your unit per million tokens, from 0, with at most 6 decimals. In millionths of a
 * dollar, $1.25 per million is 1_250_000. A free model has nothing but zeros.
 */
export interface TokenRates {
  readonly input: number;
  /** Input read from a cache. Default `input`. */
  readonly cachedInput?: number;
  /** Input written to a cache. Default `input`. */
  readonly cacheWrite?: number;
  /** Either this or `completionMultiplier` is required: an output price left out would be a costly default. */
  readonly output?: number;
  /** How many times what `input` does output costs, from 0, with at most 6 decimals. */
  readonly completionMultiplier?: number;
  /** Output that is reasoning. Default what output costs. */
  readonly reasoning?: number;
  /** Added to each request: an integer in your unit. Default 0. */
  readonly perRequest?: number;
  /**
   * The longest answer that is held for, whatever the request asks for. It must bind the model as well, or an answer may
   * cost more than was held. 0 for models that only read, such as those of embeddings. Default: what the request
   * asks for, 16,384 where it says nothing.
   */
  readonly maxOutputTokens?: number;
}

export interface TokenPricesOptions {
  /**
   * By exact name or pattern (`*` within a segment, `**` across `/`). An exact name wins, else the first pattern that
   * matches. At most 1,024, each 1 to 256 characters.
   */
  readonly models: Readonly<Record<string, TokenRates>>;
  /** What every other model costs, so that none is free by being new. At least what your dearest one does is safe. */
  readonly otherModels: TokenRates;
  /**
   * How many bytes of the body are taken for one token. No text has more tokens than bytes, so 1 is a true ceiling; 3 or
   * 4 hold about what is used, and the excess is possible. An integer from 1 to 16. Default 1.
   */
  readonly bytesPerToken?: number;
  /**
   * What each image, audio and file in a message is taken for, an inline image in place of its bytes. An integer from 0 to
   * 10,000,000. Default 2,000.
   */
  readonly attachmentTokens?: number;
}

/**
 * Prices requests by their tokens, whatever their service tier. Exact, and rounded up once per request; what would be
 * beyond 2^53 - 1 is 2^53 - 1.
 *
 * The estimate is a ceiling: the request's size as input and its bound on output, at the dearest rate of each, of the
 * dearest of several models, or of all where the model is not known. It is 0 for a request that has no model (`null`),
 * or whose model is not known and that has no body. Not bounded by the size of a request is what the upstream adds: stored conversations and
 * prompts, tools it runs or explains to the model itself, attachments beyond `attachmentTokens`.
 *
 * The cost is that of the model which answered, where it has an entry; else of the model asked for, as an alias is
 * often answered by a dated name; else that of `otherModels`. So a pattern that covers the dated names of a model must
 * not be dearer than the model's own entry, or the answer costs more than was held.
 *
 * @throws KeystileError `invalid_options`
 */
export function tokenPrices(options: TokenPricesOptions): Prices {
  const { models, otherModels, ...measure } = pricesOf(options);
  const entryOf = entryFinder(models);

  function ratesOf(asked: Priced["model"], unnamed: readonly Rates[]): readonly Rates[] {
    const names = typeof asked === "string" ? [asked] : (asked ?? []);
    return names.length === 0 ? unnamed : [...new Set(names.map((name) => entryOf(name) ?? otherModels))];
  }

  function estimate(request: Priced): Estimate {
    if (generatesNothing(request)) return { cost: 0, inputCost: 0, tokens: 0, inputTokens: 0 };
    const candidates = ratesOf(request.model, [...models.values(), otherModels]);
    const longest = candidates.map(({ maxOutputTokens }) => maxOutputTokens);
    const { tokens, inputTokens, outputTokens } = tokenCeilings(request, measure, longest);
    return {
      cost: dearest(candidates, (rates) => ceilingCost(rates, inputTokens, outputTokens)),
      inputCost: dearest(candidates, (rates) => ceilingCost(rates, inputTokens, 0)),
      tokens,
      inputTokens,
    };
  }

  function cost(usage: Usage, asked: Priced["model"]): number {
    const answered = usage.model === undefined ? undefined : entryOf(usage.model);
    const candidates = answered === undefined ? ratesOf(asked, [otherModels]) : [answered];
    return dearest(candidates, (rates) => usageCost(rates, usage));
  }

  return { estimate, cost };
}

/**
 * Prices each request the same, whatever it uses: one cost, or one for each model asked for, as a function that gets
 * what the request names. Tokens are estimated as by `tokenPrices` without options, for limits that count them.
 *
 * @throws KeystileError `invalid_options` for a cost that is none; later TypeError, for a function that returns such.
 */
export function fixedPrice(cost: Cost | ((model: Priced["model"]) => Cost)): Prices {
  if (typeof cost !== "function" && !isCost(cost)) {
    const received = typeof cost === "number" ? cost : typeof cost;
    throw invalid("cost", `expected ${COST}, or a function, received ${received}`);
  }

  function costOf(model: Priced["model"]): Cost {
    const found = typeof cost === "function" ? cost(model) : cost;
    if (!isCost(found)) throw new TypeError(`The function of fixedPrice must return ${COST}.`);
    return found;
  }

  function estimate(request: Priced): Estimate {
    const price = costOf(request.model);
    if (generatesNothing(request)) return { cost: price, inputCost: price, tokens: 0, inputTokens: 0 };
    const { tokens, inputTokens } = tokenCeilings(request);
    return { cost: price, inputCost: price, tokens, inputTokens };
  }

  return { estimate, cost: (_usage, asked) => costOf(asked) };
}

/**
 * Prices requests for funds with different units, each by its own prices, which must give numbers: the first fund that
 * can pay its price pays alone.
 *
 * @throws TypeError, when it estimates, for prices that give no numbers.
 */
export function perFund(prices: { readonly subscription: Prices; readonly balance: Prices }): Prices {
  const { subscription, balance } = prices;
  return {
    estimate(request) {
      const [left, right] = [subscription.estimate(request), balance.estimate(request)];
      return {
        cost: { subscription: plain(left.cost), balance: plain(right.cost) },
        inputCost: { subscription: plain(left.inputCost), balance: plain(right.inputCost) },
        tokens: Math.max(left.tokens, right.tokens),
        inputTokens: Math.max(left.inputTokens, right.inputTokens),
      };
    },
    cost: (usage, asked) => ({
      subscription: plain(subscription.cost(usage, asked)),
      balance: plain(balance.cost(usage, asked)),
    }),
  };
}

/** The rates of a model, exact: millionths of a millionth of the unit, per million tokens. */
interface Rates {
  readonly input: bigint;
  readonly cachedInput: bigint;
  readonly cacheWrite: bigint;
  readonly output: bigint;
  readonly reasoning: bigint;
  readonly perRequest: bigint;
  readonly maxOutputTokens: number | undefined;
}

const MILLION = 1_000_000n;
const RATES_PER_UNIT = MILLION * MILLION * MILLION;

function usageCost(rates: Rates, usage: Usage): bigint {
  const [input, output] = [toCount(usage.inputTokens), toCount(usage.outputTokens)];
  // Parts that add up to more than the whole are cut, so that no remainder is negative.
  const cached = lesser(toCount(usage.cachedInputTokens), input);
  const written = lesser(toCount(usage.cacheWriteTokens), input - cached);
  const reasoning = lesser(toCount(usage.reasoningTokens), output);
  return unitsOf(
    rates,
    cached * rates.cachedInput +
      written * rates.cacheWrite +
      (input - cached - written) * rates.input +
      reasoning * rates.reasoning +
      (output - reasoning) * rates.output,
  );
}

/** Whatever part of the tokens turns out to be cached, written or reasoning. */
function ceilingCost(rates: Rates, inputTokens: number, outputTokens: number): bigint {
  const input = greatest([rates.input, rates.cachedInput, rates.cacheWrite]);
  const output = greatest([rates.output, rates.reasoning]);
  return unitsOf(rates, BigInt(inputTokens) * input + BigInt(outputTokens) * output);
}

/** Rounds up, once. */
function unitsOf({ perRequest }: Rates, tokensAtRates: bigint): bigint {
  return perRequest + (tokensAtRates + RATES_PER_UNIT - 1n) / RATES_PER_UNIT;
}

function dearest(candidates: readonly Rates[], costOf: (rates: Rates) => bigint): number {
  return Number(lesser(greatest(candidates.map(costOf)), BigInt(Number.MAX_SAFE_INTEGER)));
}

function greatest(amounts: readonly bigint[]): bigint {
  return amounts.reduce((most, amount) => (amount > most ? amount : most), 0n);
}

function lesser(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

function toCount(tokens: number): bigint {
  if (!isAmount(tokens)) throw new TypeError(`A number of tokens must be ${AMOUNT}, received ${tokens}.`);
  return BigInt(tokens);
}

/** A request that names no model and brings nothing, such as one for the list of models, has no tokens. */
function generatesNothing({ model, body, bodyBytes }: Priced): boolean {
  return model === null || (model === undefined && body === undefined && bodyBytes === 0);
}

/** Finds the rates of a model that has an entry: its own, else that of the first pattern that matches. */
function entryFinder(entries: ReadonlyMap<string, Rates>): (model: string) => Rates | undefined {
  const patterns = [...entries].filter(([name]) => name.includes("*"));
  return (model) => {
    if (model.length > MAX_MODEL_LENGTH) return undefined;
    return entries.get(model) ?? patterns.find(([pattern]) => matchesPattern(pattern, model))?.[1];
  };
}

const AMOUNT = "an integer from 0 to 9007199254740991";
const COST = `${AMOUNT}, or { subscription, balance } with two of them`;

function isAmount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isCost(value: unknown): value is Cost {
  if (isAmount(value)) return true;
  const { subscription, balance } = (value ?? {}) as {
    readonly subscription?: unknown;
    readonly balance?: unknown;
  };
  return isAmount(subscription) && isAmount(balance);
}

/** The price for one fund. */
function plain(cost: Cost): number {
  if (typeof cost === "number") return cost;
  throw new TypeError("perFund takes prices that give numbers, not a price for each fund.");
}

const MAX_ENTRIES = 1_024;

const amount = int(0);
const rate = that<number>(isRate, "a number from 0 with at most 6 decimals");

const tokenRates = object(
  {
    input: rate,
    cachedInput: optional(rate),
    cacheWrite: optional(rate),
    output: optional(rate),
    completionMultiplier: optional(rate),
    reasoning: optional(rate),
    perRequest: orElse(amount, 0),
    maxOutputTokens: optional(amount),
  },
  "refused",
  "the rates of a model",
);

const tokenPricesOptions = object({
  models: entries<unknown>((value) => value, MAX_ENTRIES, undefined, "rates by model"),
  otherModels: (value: unknown) => value,
  bytesPerToken: orElse(int(1, 16), DEFAULT_MEASURE.bytesPerToken),
  attachmentTokens: orElse(int(0, 10_000_000), DEFAULT_MEASURE.attachmentTokens),
});

interface ParsedOptions extends InputMeasure {
  readonly models: ReadonlyMap<string, Rates>;
  readonly otherModels: Rates;
}

function pricesOf(options: TokenPricesOptions): ParsedOptions {
  const { models, otherModels, ...measure } = parseOptions(tokenPricesOptions, options, "options");
  const entries = Object.entries(models).map(([name, rates]) => {
    const path = `options.models[${JSON.stringify(name.slice(0, 64))}]`;
    if (name === "" || name.length > MAX_PATTERN_LENGTH) {
      throw invalid(path, `expected 1 to ${MAX_PATTERN_LENGTH} characters, received ${name.length}`);
    }
    if (/^\*\*+$/.test(name)) throw invalid(path, "what all other models cost is options.otherModels");
    return [name, parseRates(rates, path)] as const;
  });
  return {
    models: new Map(entries),
    otherModels: parseRates(otherModels, "options.otherModels"),
    ...measure,
  };
}

function parseRates(rates: unknown, path: string): Rates {
  const parsed = parseOptions(tokenRates, rates, path);
  const { input } = parsed;
  const output = outputRate(parsed, path);
  return {
    input: exact(input),
    cachedInput: exact(parsed.cachedInput ?? input),
    cacheWrite: exact(parsed.cacheWrite ?? input),
    output,
    reasoning: parsed.reasoning === undefined ? output : exact(parsed.reasoning),
    perRequest: BigInt(parsed.perRequest),
    maxOutputTokens: parsed.maxOutputTokens,
  };
}

function outputRate(
  { input, output, completionMultiplier }: ReturnType<typeof tokenRates>,
  path: string,
): bigint {
  if (output !== undefined && completionMultiplier === undefined) return exact(output);
  if (output === undefined && completionMultiplier !== undefined) {
    return millionths(input) * millionths(completionMultiplier);
  }
  const received = output === undefined ? "neither" : "both";
  throw invalid(path, `expected either output or completionMultiplier, received ${received}`);
}

function isRate(value: unknown): boolean {
  return (
    typeof value === "number" && value <= Number.MAX_SAFE_INTEGER && /^\d+(?:\.\d{1,6})?$/.test(`${value}`)
  );
}

function exact(rate: number): bigint {
  return millionths(rate) * MILLION;
}

/** By its decimal digits, as its operator wrote them. */
function millionths(rate: number): bigint {
  const [whole = "", fraction = ""] = `${rate}`.split(".");
  return BigInt(whole + fraction.padEnd(6, "0"));
}
