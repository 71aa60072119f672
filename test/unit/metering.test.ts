import fc from "fast-check";
import { describe, expect, test, vi } from "vitest";
import {
  type AnswerEnd,
  answerMeter,
  type Booking,
  bookingOf,
  estimateOf,
  leavesUsageOut,
  type Pricing,
  type UnknownUsage,
} from "../../src/metering.js";
import { type Estimate, fixedPrice, type Prices, tokenPrices } from "../../src/prices.js";
import type { ObservedUsage, Usage } from "../../src/usage.js";

const prices = tokenPrices({
  models: { "gpt-5": { input: 1_000_000, output: 3_000_000, maxOutputTokens: 100 } },
  otherModels: { input: 10_000_000, output: 30_000_000, maxOutputTokens: 100 },
});
const estimate: Estimate = { cost: 340, inputCost: 40, tokens: 140, inputTokens: 40 };

function usage(inputTokens: number, outputTokens: number, model?: string): Usage {
  const parts = { cachedInputTokens: 0, cacheWriteTokens: 0, reasoningTokens: 0 };
  return { ...(model !== undefined && { model }), inputTokens, outputTokens, ...parts };
}

function seen(of: Usage, isFinal: boolean, isInputKnown = true): ObservedUsage {
  return { usage: of, isFinal, isInputKnown };
}

describe("what an end comes to", () => {
  const pricing: Pricing = { prices, estimate, asked: "gpt-5", onUnknownUsage: "estimate" };
  const final = seen(usage(10, 5), true);
  const begun = seen(usage(10, 2), false);
  const textOnly = seen(usage(0, 2), false, false);
  const voided: Booking = { call: "void" };
  const unknown: Booking = { call: "settleUnknown", cost: 340 };
  const settled = (cost: number, of: Usage): Booking => ({ call: "settle", cost, usage: of });

  test.each<[string, ObservedUsage | undefined, Record<AnswerEnd, Booking>]>([
    ["nothing", undefined, { complete: unknown, cut: unknown, failed: voided }],
    [
      "final usage",
      final,
      { complete: settled(25, usage(10, 5)), cut: settled(25, usage(10, 5)), failed: voided },
    ],
    [
      "usage so far",
      begun,
      { complete: settled(16, usage(10, 2)), cut: settled(16, usage(10, 2)), failed: voided },
    ],
    ["text alone", textOnly, { complete: unknown, cut: settled(46, usage(40, 2)), failed: voided }],
    [
      "final usage without its input",
      seen(usage(0, 5), true, false),
      { complete: settled(55, usage(40, 5)), cut: settled(55, usage(40, 5)), failed: voided },
    ],
    [
      "nothing spent",
      seen(usage(0, 0), true),
      { complete: settled(0, usage(0, 0)), cut: settled(0, usage(0, 0)), failed: voided },
    ],
  ])("with prices, %s was seen", (_, observed, bookings) => {
    for (const end of ["complete", "cut", "failed"] as const) {
      expect({ end, ...bookingOf(end, pricing, observed) }).toEqual({ end, ...bookings[end] });
    }
  });

  test.each<[UnknownUsage, number]>([
    ["estimate", 340],
    ["input", 40],
    ["nothing", 0],
  ])("unknown usage is booked as %s", (onUnknownUsage, cost) => {
    for (const end of ["complete", "cut"] as const) {
      expect(bookingOf(end, { ...pricing, onUnknownUsage }, undefined)).toEqual({
        call: "settleUnknown",
        cost,
      });
    }
  });

  test("without prices the decision itself knows, whatever was seen", () => {
    for (const end of ["complete", "cut"] as const) {
      expect(bookingOf(end, undefined, final)).toEqual({ call: "settle" });
    }
    expect(bookingOf("failed", undefined, final)).toEqual(voided);
  });

  test.each<[string, Estimate, Booking]>([
    ["no tokens at no cost", { cost: 0, inputCost: 0, tokens: 0, inputTokens: 0 }, { call: "settle" }],
    [
      "no tokens at no cost of two funds",
      { cost: { subscription: 0, balance: 0 }, inputCost: 0, tokens: 0, inputTokens: 0 },
      { call: "settle" },
    ],
    [
      "tokens at no cost",
      { cost: 0, inputCost: 0, tokens: 5, inputTokens: 5 },
      { call: "settleUnknown", cost: 0 },
    ],
    [
      "no tokens at a cost of one fund",
      { cost: { subscription: 0, balance: 1 }, inputCost: 0, tokens: 0, inputTokens: 0 },
      { call: "settleUnknown", cost: { subscription: 0, balance: 1 } },
    ],
  ])("of a request that was estimated at %s", (_, of, booking) => {
    expect(bookingOf("complete", { ...pricing, estimate: of }, undefined)).toEqual(booking);
  });

  test("the model that answered is priced, else the one it was admitted with", () => {
    const cost = vi.fn(prices.cost);
    const booking = bookingOf("complete", { ...pricing, prices: { ...prices, cost } }, final);
    expect(booking).toMatchObject({ cost: 25 });
    expect(cost).toHaveBeenCalledExactlyOnceWith(usage(10, 5), "gpt-5");
    const named = seen(usage(10, 5, "gpt-5"), true);
    expect(bookingOf("complete", { ...pricing, asked: "alias" }, named)).toMatchObject({ cost: 25 });
    expect(bookingOf("complete", { ...pricing, asked: "alias" }, final)).toMatchObject({ cost: 250 });
  });

  test.each<[string, () => unknown]>([
    [
      "throw",
      () => {
        throw new Error("no such model");
      },
    ],
    ["give nothing", () => undefined],
    ["give a fraction", () => 0.5],
    ["give less than nothing", () => -1],
    ["give a promise", () => Promise.resolve(1)],
    ["give half of two funds", () => ({ subscription: 1 })],
  ])("prices that %s leave the usage unknown", (_, cost) => {
    const broken = { ...prices, cost } as Prices;
    expect(bookingOf("complete", { ...pricing, prices: broken }, final)).toEqual(unknown);
  });

  test("counts that are no integers together are unknown", () => {
    const huge = seen(usage(Number.MAX_SAFE_INTEGER, 1), true);
    const flat = { ...pricing, prices: fixedPrice(1) };
    expect(bookingOf("complete", flat, huge)).toEqual(unknown);
    const most = seen(usage(Number.MAX_SAFE_INTEGER, 0), true);
    expect(bookingOf("complete", flat, most)).toMatchObject({ call: "settle", cost: 1 });
  });

  test("whatever happens, exactly one call with an amount that a decision takes", () => {
    const count = fc.oneof(fc.nat(), fc.constantFrom(0, Number.MAX_SAFE_INTEGER));
    const amount = fc.oneof(count, fc.record({ subscription: count, balance: count }));
    const anyCost = fc.oneof(amount, fc.constantFrom(undefined, null, -1, 0.5, Number.NaN, "1", {}));
    const isAmount = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 0;
    fc.assert(
      fc.property(
        fc.record({
          end: fc.constantFrom<AnswerEnd>("complete", "cut", "failed"),
          estimate: fc.record({ cost: amount, inputCost: amount, tokens: count, inputTokens: count }),
          policy: fc.constantFrom<UnknownUsage>("estimate", "input", "nothing"),
          cost: anyCost,
          observed: fc.option(
            fc.record({
              usage: fc.tuple(count, count).map(([input, output]) => usage(input, output)),
              isFinal: fc.boolean(),
              isInputKnown: fc.boolean(),
            }),
            { nil: undefined },
          ),
        }),
        ({ end, estimate: of, policy, cost, observed }) => {
          const odd = { estimate: () => of, cost: () => cost } as Prices;
          const priced = { prices: odd, estimate: of, asked: null, onUnknownUsage: policy };
          const booking = bookingOf(end, priced, observed);
          expect(booking.call === "void").toBe(end === "failed");
          if (booking.call === "void" || booking.cost === undefined) return;
          const amounts = typeof booking.cost === "number" ? [booking.cost] : Object.values(booking.cost);
          expect(amounts.every(isAmount)).toBe(true);
          if (booking.call === "settleUnknown" || booking.usage === undefined) return;
          expect(isAmount(booking.usage.inputTokens + booking.usage.outputTokens)).toBe(true);
        },
      ),
      { numRuns: 500 },
    );
  });
});

describe("what a request is estimated at", () => {
  const plain = { model: "gpt-5", headers: {}, body: undefined, maxBodyBytes: 1_000 };
  const bytes = new Uint8Array(7);

  test.each<[string, object, number]>([
    ["a body that was read", { bytes }, 7],
    ["none", { bytes: new Uint8Array() }, 0],
    ["one that was not read", {}, 1_000],
    ["one that was not read and is longer", { headers: { "content-length": "1001" } }, 1_001],
    ["one that was not read and is shorter", { headers: { "content-length": "5" } }, 1_000],
    [
      "one that was not read, with two lengths",
      { headers: ["content-length", "2000", "Content-Length", "3000"] },
      3_000,
    ],
    ["one of no plausible length", { headers: { "content-length": "1e400" } }, 1_000],
    ["one that is compressed", { bytes, headers: { "content-encoding": "gzip" } }, 1_000],
    [
      "one that is compressed twice",
      { bytes, headers: ["content-encoding", "identity", "Content-Encoding", "br"] },
      1_000,
    ],
    [
      "one of JSON that not everyone reads alike",
      { bytes, headers: { "content-type": "application/json" } },
      1_000,
    ],
    ["one of a kind of JSON", { bytes, headers: { "content-type": "text/json; charset=utf-16" } }, 1_000],
    [
      "one that does not say it is JSON",
      { bytes: new TextEncoder().encode(' \ufeff{"n":128,"n":1}') },
      1_000,
    ],
    ["one in UTF-16", { bytes: Uint8Array.of(0xff, 0xfe, 0x7b, 0, 0x7d, 0) }, 1_000],
    ["none, of JSON", { bytes: new Uint8Array(), headers: { "content-type": "application/json" } }, 0],
    ["a form", { bytes, headers: { "content-type": "multipart/form-data; boundary=b" } }, 7],
    ["one that says it is not compressed", { bytes, headers: { "content-encoding": " Identity " } }, 7],
  ])("%s", (_, request, bodyBytes) => {
    const given = vi.fn(prices.estimate);
    const found = estimateOf({ ...prices, estimate: given }, { ...plain, bytes: undefined, ...request });
    expect(given).toHaveBeenCalledExactlyOnceWith({ model: "gpt-5", body: undefined, bodyBytes });
    expect(found).toEqual(prices.estimate({ model: "gpt-5", body: undefined, bodyBytes }));
  });

  test.each([
    ['{"n":128}', 1_000],
    ["hello", 7],
    [null, 7],
    [{}, 7],
  ])("what a parser made of a body: %j", (body, bodyBytes) => {
    const given = vi.fn(prices.estimate);
    const headers = { "content-type": "application/json" };
    estimateOf({ ...prices, estimate: given }, { ...plain, headers, bytes, body });
    expect(given).toHaveBeenCalledExactlyOnceWith({ model: "gpt-5", body, bodyBytes });
  });

  test.each([{ inputCost: -1 }, { inputCost: undefined }, { inputTokens: 0.5 }, { inputTokens: Number.NaN }])(
    "an estimate with %j is a mistake, told before anything is held",
    (wrong) => {
      const broken = { ...prices, estimate: () => ({ ...estimate, ...wrong }) } as Prices;
      expect(() => estimateOf(broken, { ...plain, bytes })).toThrow(TypeError);
    },
  );
});

describe("whether an answer is metered", () => {
  const ANSWER = JSON.stringify({ model: "m", usage: { prompt_tokens: 1, completion_tokens: 2 } });
  const CHUNK = `data: ${JSON.stringify({ choices: [], usage: { prompt_tokens: 1, completion_tokens: 2 } })}\n\n`;
  const json = { "content-type": "application/json" };
  const stream = { "content-type": "text/event-stream" };

  const PLAIN = { readUsage: undefined, strips: false };

  function head(status: number, fields: Readonly<Record<string, unknown>>) {
    return { status, field: (name: string) => fields[name] };
  }

  test.each<[string, string, number, Record<string, unknown>, boolean]>([
    ["an answer", "POST", 200, json, true],
    ["one with another success", "POST", 299, json, true],
    ["one to GET", "GET", 200, json, true],
    ["one to HEAD", "HEAD", 200, json, false],
    ["no content", "POST", 204, json, false],
    ["not modified", "GET", 304, json, false],
    ["a redirect", "POST", 302, json, false],
    ["an error", "POST", 400, json, false],
  ])("%s", (_, method, status, fields, isMetered) => {
    const meter = answerMeter(method, head(status, fields), PLAIN);
    meter?.push(new TextEncoder().encode(ANSWER));
    meter?.end();
    expect(meter?.observed()?.isFinal ?? false).toBe(isMetered);
  });

  test("one that is compressed, or of another type, is not seen", () => {
    for (const fields of [{ ...json, "content-encoding": "gzip" }, { "content-type": "text/plain" }, {}]) {
      const meter = answerMeter("POST", head(200, fields), PLAIN);
      meter?.push(new TextEncoder().encode(ANSWER));
      meter?.end();
      expect(meter?.observed()).toBeUndefined();
    }
  });

  test("a reader of one's own reads it", () => {
    const readUsage = () => seen(usage(3, 4), true);
    const meter = answerMeter("POST", head(200, json), { readUsage, strips: false });
    meter?.push(new TextEncoder().encode("{}"));
    meter?.end();
    expect(meter?.observed()?.usage).toEqual(usage(3, 4));
  });

  test.each<[string, boolean, Record<string, unknown>, boolean]>([
    ["a stream", true, stream, true],
    ["a stream, where nothing is to be stripped", false, stream, false],
    ["a stream of an announced length", true, { ...stream, "content-length": 99 }, false],
    ["a stream of no announced length", true, { ...stream, "content-length": null }, true],
  ])("the usage chunk of %s", (_, strips, fields, isStripped) => {
    const meter = answerMeter("POST", head(200, fields), { readUsage: undefined, strips });
    const passed = meter?.push(new TextEncoder().encode(CHUNK)).length ?? 0;
    expect(passed + (meter?.end().length ?? 0)).toBe(isStripped ? 0 : CHUNK.length);
    expect(meter?.observed()?.usage).toMatchObject({ inputTokens: 1, outputTokens: 2 });
  });
});

test.each<[string, unknown, boolean]>([
  ["a stream", { stream: true }, true],
  ["a stream without its usage", { stream: true, stream_options: { include_usage: false } }, true],
  ["a stream with its usage", { stream: true, stream_options: { include_usage: true } }, false],
  ["no stream", { stream: false }, false],
  ["a list", [], false],
  ["nothing", null, false],
  ["what could not be read", undefined, false],
])("the usage is left out by a request for %s", (_, body, isLeftOut) => {
  expect(leavesUsageOut(body)).toBe(isLeftOut);
});
