import { createHash } from "node:crypto";
import { once } from "node:events";
import type { Server } from "node:http";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import WebSocket, { WebSocketServer } from "ws";
import type { AccountView, SubscriptionView } from "../../src/account-view.js";
import { guardUpgrade } from "../../src/adapters/node.js";
import type { AccountRecord, KeyRecord } from "../../src/documents.js";
import { type Allowed, createKeystile, type Document, type Keystile, type KeyView } from "../../src/index.js";
import { tokenPrices } from "../../src/prices.js";
import { systemRuntime } from "../../src/runtime.js";
import { memoryStore } from "../../src/stores/memory.js";
import { manualClock } from "../../src/testing/manual-clock.js";
import { type Common, listen, type Plan, SERVERS, stop } from "./adapters-servers.js";

/*
 * Every way a metered answer may end, over real sockets, alike behind every adapter: what is booked, that it is booked
 * once, and that the client gets the bytes that the handler wrote.
 */

const NAMES = Object.keys(SERVERS);
const DAY_MS = 86_400_000;

/** One unit for a token of input, three for one of output; at most a hundred of those. */
const prices = tokenPrices({
  models: {
    "gpt-5": { input: 1_000_000, output: 3_000_000, maxOutputTokens: 100 },
    "claude-5": { input: 2_000_000, cachedInput: 0, output: 5_000_000, maxOutputTokens: 100 },
  },
  otherModels: { input: 1_000_000_000, output: 1_000_000_000 },
});

function events(...messages: readonly unknown[]): string {
  return messages.map((message) => `data: ${JSON.stringify(message)}\n\n`).join("");
}

function chunk(content: string): object {
  const choices = [{ index: 0, delta: { role: "assistant", content }, finish_reason: null }];
  return { id: "c1", object: "chat.completion.chunk", created: 1, model: "gpt-5", choices, usage: null };
}

const usage = { prompt_tokens: 10, completion_tokens: 5, total_tokens: 15 };
const JSON_ANSWER = JSON.stringify({
  ...{ id: "c1", object: "chat.completion", created: 1, model: "gpt-5" },
  choices: [{ index: 0, message: { role: "assistant", content: "Hällo" }, finish_reason: "stop" }],
  usage,
});
/** 13 bytes of text. */
const TEXT = events(chunk("Hällo"), chunk(" there."));
const USAGE_CHUNK = events({ ...chunk(""), choices: [], usage });
const DONE = "data: [DONE]\n\n";
const CHAT = TEXT + USAGE_CHUNK + DONE;
const MESSAGES = [
  {
    type: "message_start",
    message: {
      ...{ id: "m1", type: "message", role: "assistant", model: "claude-5", content: [] },
      ...{ stop_reason: null, stop_sequence: null },
      usage: { input_tokens: 10, cache_read_input_tokens: 100, output_tokens: 1 },
    },
  },
  { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } },
  { type: "ping" },
  { type: "content_block_delta", index: 0, delta: { type: "text_delta", text: "Hello" } },
  { type: "content_block_stop", index: 0 },
  {
    type: "message_delta",
    delta: { stop_reason: "end_turn", stop_sequence: null },
    usage: { output_tokens: 6 },
  },
  { type: "message_stop" },
]
  .map((message) => `event: ${message.type}\ndata: ${JSON.stringify(message)}\n\n`)
  .join("");

/** A decision of nothing, to see what a row is going to answer. */
const idle = { observe() {}, settle() {}, void() {} } as unknown as Allowed;

function json(text: string, plan: Partial<Plan> = {}): Plan {
  return { status: 200, type: "application/json", chunks: [text], end: "close", isQuick: true, ...plan };
}

function stream(text: string, plan: Partial<Plan> = {}): Plan {
  const type = "text/event-stream; charset=utf-8";
  return { status: 200, type, chunks: [text], end: "close", isQuick: true, ...plan };
}

function singleBytes(text: string): readonly Uint8Array[] {
  return [...new TextEncoder().encode(text)].map((byte) => Uint8Array.of(byte));
}

/** How a request ended, as its key tells: by outcome how many, at what cost, with how many tokens. */
type Tally = Readonly<
  Record<string, readonly [requests: number, cost: number, input: number, output: number]>
>;

interface Row {
  readonly answer: (decision: Allowed) => Plan;
  /** Beside `prices`. */
  readonly options?: Common;
  readonly request?: object;
  readonly method?: string;
  /** The client leaves as soon as it has the head, and whatever the plan has for it. */
  readonly isLeaving?: boolean;
  /** What it gets; default: all that the handler wrote. */
  readonly received?: string;
  readonly tally: (estimate: { readonly cost: number; readonly input: number }) => Tally;
  readonly isUnknown?: boolean;
}

const strip = { stripUsageChunk: true };
const unasked = { model: "gpt-5", stream: true };
const asked = { ...unasked, stream_options: { include_usage: true } };
const settled =
  (...tally: Tally[string]) =>
  (): Tally => ({ settled: tally });
const atEstimate: Row["tally"] = ({ cost }) => ({ settled: [1, cost, 0, 0] });
const voided: Row["tally"] = () => ({ voided: [1, 0, 0, 0] });

const ROWS: Readonly<Record<string, Row>> = {
  JSON: { answer: () => json(JSON_ANSWER), tally: settled(1, 25, 10, 5) },
  "JSON, byte by byte": {
    answer: () => json("", { chunks: singleBytes(JSON_ANSWER) }),
    tally: settled(1, 25, 10, 5),
  },
  "JSON that is cut after its usage": {
    answer: () =>
      json(JSON_ANSWER.replace("{", `{"usage":${JSON.stringify(usage)},`).slice(0, -20), { end: "break" }),
    tally: settled(1, 25, 10, 5),
  },
  "a chat stream": { answer: () => stream(CHAT), request: asked, tally: settled(1, 25, 10, 5) },
  "a chat stream, byte by byte, with CRLF": {
    answer: () => stream("", { chunks: singleBytes(CHAT.replaceAll("\n", "\r\n")) }),
    tally: settled(1, 25, 10, 5),
  },
  "a chat stream to be stripped": {
    answer: () => stream(CHAT),
    options: strip,
    request: unasked,
    received: TEXT + DONE,
    tally: settled(1, 25, 10, 5),
  },
  "a chat stream to be stripped, byte by byte, with CRLF": {
    answer: () => stream("", { chunks: singleBytes(CHAT.replaceAll("\n", "\r\n")) }),
    options: strip,
    request: unasked,
    received: (TEXT + DONE).replaceAll("\n", "\r\n"),
    tally: settled(1, 25, 10, 5),
  },
  "a chat stream to be stripped, without its last line ends": {
    answer: () => stream(CHAT.trimEnd()),
    options: strip,
    request: unasked,
    received: TEXT + DONE.trimEnd(),
    tally: settled(1, 25, 10, 5),
  },
  "nothing but a usage chunk to be stripped": {
    answer: () => stream(USAGE_CHUNK),
    options: strip,
    request: unasked,
    received: "",
    tally: settled(1, 25, 10, 5),
  },
  "a chat stream that may be stripped, of a client that asked": {
    answer: () => stream(CHAT),
    options: strip,
    request: asked,
    tally: settled(1, 25, 10, 5),
  },
  "a stream of Anthropic": {
    answer: () => stream(MESSAGES),
    request: { model: "claude-5", stream: true },
    tally: settled(1, 50, 110, 6),
  },
  "a stream of Anthropic that is cut": {
    answer: () => stream(MESSAGES.slice(0, MESSAGES.indexOf("event: message_delta")), { end: "break" }),
    request: { model: "claude-5", stream: true },
    tally: settled(1, 30, 110, 2),
  },
  "a stream whose client leaves before the first byte": {
    answer: () => stream("", { chunks: [], end: "never" }),
    isLeaving: true,
    tally: atEstimate,
    isUnknown: true,
  },
  "a stream whose client leaves in the middle": {
    answer: () => stream(TEXT, { end: "never" }),
    isLeaving: true,
    tally: ({ input }) => ({ settled: [1, input + 4 * 3, input, 4] }),
  },
  "a stream to be stripped whose client leaves in the middle": {
    answer: () => stream(TEXT, { end: "never" }),
    options: strip,
    request: unasked,
    isLeaving: true,
    tally: ({ input }) => ({ settled: [1, input + 4 * 3, input, 4] }),
  },
  "a stream whose client leaves after the usage": {
    answer: () => stream(CHAT, { end: "never" }),
    isLeaving: true,
    tally: settled(1, 25, 10, 5),
  },
  "a stream that the upstream cuts": {
    answer: () => stream(TEXT, { end: "break" }),
    tally: ({ input }) => ({ settled: [1, input + 4 * 3, input, 4] }),
  },
  "a stream to be stripped that the upstream cuts within an event": {
    answer: () => stream(TEXT + USAGE_CHUNK.slice(0, 30), { end: "break" }),
    options: strip,
    request: unasked,
    tally: ({ input }) => ({ settled: [1, input + 4 * 3, input, 4] }),
  },
  "an error of the upstream": { answer: () => json(JSON_ANSWER, { status: 500 }), tally: voided },
  "a stream that is an error": { answer: () => stream(CHAT, { status: 429 }), tally: voided },
  "no usage": { answer: () => json('{"ok":true}'), tally: atEstimate, isUnknown: true },
  "no usage: input": {
    answer: () => json('{"ok":true}'),
    options: { onUnknownUsage: "input" },
    tally: ({ input }) => ({ settled: [1, input, 0, 0] }),
    isUnknown: true,
  },
  "no usage: nothing": {
    answer: () => json('{"ok":true}'),
    options: { onUnknownUsage: "nothing" },
    tally: settled(1, 0, 0, 0),
    isUnknown: true,
  },
  "a whole stream without usage": { answer: () => stream(TEXT + DONE), tally: atEstimate, isUnknown: true },
  "no content": { answer: () => json("", { status: 204 }), tally: atEstimate, isUnknown: true },
  "an answer to HEAD": {
    answer: () => json(JSON_ANSWER),
    method: "HEAD",
    received: "",
    tally: settled(1, 0, 0, 0),
  },
  "an answer of another type": {
    answer: () => json("", { chunks: [new Uint8Array([1, 2, 3])], type: "application/zip" }),
    tally: atEstimate,
    isUnknown: true,
  },
  "another API, with a reader of one's own": {
    answer: () => json('{"words":2}'),
    options: {
      readUsage: (message) => {
        const outputTokens = (message as { words: number }).words;
        const parts = { cachedInputTokens: 0, cacheWriteTokens: 0, reasoningTokens: 0 };
        return { usage: { inputTokens: 0, outputTokens, ...parts }, isFinal: true, isInputKnown: false };
      },
    },
    tally: ({ input }) => ({ settled: [1, input + 2 * 3, input, 2] }),
  },
  "a handler that settles, twice": {
    answer: (decision) => {
      void decision.settle(7);
      void decision.settle(8);
      return json(JSON_ANSWER);
    },
    tally: settled(1, 7, 0, 0),
  },
  "a handler that settles, and fails": {
    answer: (decision) => {
      void decision.settle(7);
      return json(JSON_ANSWER, { status: 500 });
    },
    tally: settled(1, 7, 0, 0),
  },
  "a handler that gives back, then settles": {
    answer: (decision) => {
      void decision.void();
      void decision.settle(8);
      return json(JSON_ANSWER);
    },
    tally: voided,
  },
  "a handler that observes, where the answer tells usage": {
    answer: (decision) => {
      decision.observe(9);
      return json(JSON_ANSWER);
    },
    tally: settled(1, 25, 10, 5),
  },
  "a handler that observes, where it does not": {
    answer: (decision) => {
      decision.observe(9);
      return json("{}");
    },
    tally: settled(1, 9, 0, 0),
  },
};

const clock = manualClock();
const store = memoryStore({ clock: clock.now });
const unhandled: unknown[] = [];
const noteUnhandled = (reason: unknown): void => void unhandled.push(reason);
const servers: Server[] = [];
const ports = new Map<string, Promise<number>>();
const answers = new Map<string, (decision: Allowed) => Plan>(
  Object.entries(ROWS).map(([name, { answer }]) => [name, answer]),
);
const unknown: string[] = [];
/** What every key said in the end, to be compared when all is over. */
const ends: (readonly [keyId: string, Tally])[] = [];
let headSeen: Promise<void>;
let gate: Keystile;

beforeAll(() => {
  process.on("unhandledRejection", noteUnhandled);
  process.on("uncaughtException", noteUnhandled);
  vi.spyOn(console, "error").mockImplementation(() => {});
  gate = createKeystile({ store, drainMs: 0, runtime: { ...systemRuntime, monotonicMs: clock.now } });
  gate.on("usage.unknown", ({ keyId }) => unknown.push(keyId));
});

afterAll(async () => {
  await Promise.all(servers.map(stop));
  expect(await gate.close()).toEqual({ unwritten: 0 });
  process.off("unhandledRejection", noteUnhandled);
  process.off("uncaughtException", noteUnhandled);
});

/** One server for each framework and set of options. It answers as the row in the query says. */
function portOf(name: string, options: Common = {}): Promise<number> {
  const id = `${name} ${Object.entries(options)}`;
  const started = ports.get(id) ?? start(name, options);
  ports.set(id, started);
  return started;
}

async function start(name: string, options: Common): Promise<number> {
  const server = await (SERVERS[name] as (typeof SERVERS)[string])(gate, { prices, ...options }, planOf);
  servers.push(server);
  return listen(server);
}

function planOf(url: string, decision: Allowed): Plan {
  const name = decodeURIComponent(url.split("?answer=")[1] ?? "");
  const plan = (answers.get(name) as (decision: Allowed) => Plan)(decision);
  return plan.end === "break" ? { ...plan, chunks: withHead(plan.chunks) } : plan;
}

/** A server may answer with an error instead of an answer that breaks before its head is out. */
async function* withHead(chunks: Plan["chunks"]) {
  yield* chunks;
  await headSeen;
}

async function newKey(): Promise<{ readonly secret: string; readonly keyId: string }> {
  const { secret, key } = await gate.keys.issue({ quota: 1_000_000 });
  return { secret, keyId: key.id };
}

function ask(port: number, secret: string, answer: string, init: RequestInit = {}): Promise<Response> {
  return fetch(`http://127.0.0.1:${port}/v1/chat/completions?answer=${encodeURIComponent(answer)}`, {
    method: "POST",
    body: JSON.stringify({ model: "gpt-5" }),
    headers: { authorization: `Bearer ${secret}`, "content-type": "application/json" },
    ...init,
  });
}

async function recordOf(keyId: string): Promise<KeyRecord> {
  const { documents } = await store.read([`key:${keyId}`]);
  return documents[0]?.body as unknown as KeyRecord;
}

/** The counters of all models together: with exactly one request, that is all that was ever written for it. */
async function tallyOf(keyId: string): Promise<Tally> {
  const models = Object.values((await recordOf(keyId)).tally?.models ?? {});
  expect(models.length).toBeLessThan(2);
  // Without the last sum: no balance pays anything here.
  const outcomes = Object.entries(models[0] ?? {}).map(([outcome, sums]) => [outcome, sums?.slice(0, 4)]);
  return Object.fromEntries(outcomes) as Tally;
}

async function expectEnd(keyId: string, tally: Tally, isUnknown = false): Promise<void> {
  await vi.waitFor(
    async () => {
      // What held nothing is counted with a later write, or now.
      await gate.flush();
      expect(await tallyOf(keyId)).toEqual(tally);
    },
    { timeout: 5_000, interval: 2 },
  );
  const { used, held } = ((await gate.keys.get(keyId)) as KeyView).quota;
  const cost = Object.values(tally).reduce((sum, [, booked]) => sum + booked, 0);
  expect({ used, held }).toEqual({ used: cost, held: 0 });
  expect(unknown.includes(keyId)).toBe(isUnknown);
  ends.push([keyId, tally]);
}

function hashOf(bytes: Uint8Array | string): string {
  return createHash("sha256").update(bytes).digest("hex");
}

async function readAll(
  body: ReadableStream<Uint8Array> | null | undefined,
  length = Number.POSITIVE_INFINITY,
) {
  const chunks: Uint8Array[] = [];
  const reader = body?.getReader();
  try {
    for (let size = 0; size < length; ) {
      const { value, done } = (await reader?.read()) ?? { done: true };
      if (value === undefined || done) break;
      chunks.push(value);
      size += value.length;
    }
  } catch {
    // It was cut.
  }
  return Buffer.concat(chunks);
}

async function written({ chunks }: Plan): Promise<Buffer> {
  const all: Uint8Array[] = [];
  for await (const piece of chunks) all.push(Buffer.from(piece as Uint8Array));
  return Buffer.concat(all);
}

describe.each(NAMES)("%s", (name) => {
  test.each(Object.entries(ROWS))("%s", async (title, row) => {
    const { request = { model: "gpt-5" }, method = "POST", isLeaving = false } = row;
    const port = await portOf(name, row.options);
    const { secret, keyId } = await newKey();
    const body = method === "POST" ? JSON.stringify(request) : null;
    const client = new AbortController();
    const plan = row.answer(idle);
    const expected = Buffer.from(row.received ?? (await written(plan)));
    let seeHead = (): void => {};
    headSeen = new Promise((resolve) => {
      seeHead = resolve;
    });
    const response = await ask(port, secret, title, { method, body, signal: client.signal });
    seeHead();
    const received = await readAll(response.body, isLeaving ? expected.length : undefined);
    if (isLeaving) client.abort();
    const isWhole = plan.end !== "break";
    expect(hashOf(received)).toBe(hashOf(isWhole ? expected : expected.subarray(0, received.length)));
    const input = body?.length ?? 0;
    await expectEnd(keyId, row.tally({ cost: input + 300, input }), row.isUnknown);
  });

  test("a request that was admitted in a cycle is booked in it, though it ends in the next", async () => {
    clock.set(Math.ceil((clock.now() + 1) / DAY_MS) * DAY_MS - 100);
    const account = await gate.accounts.open();
    const { secret, key } = await gate.accounts.subscribe(account.id, {
      plan: { name: "daily", allowance: 1_000 },
      cycle: { kind: "calendar", unit: "day" },
    });
    const quota = async () => {
      const { subscription } = (await gate.accounts.get(account.id)) as AccountView;
      const { used, held } = (subscription as SubscriptionView).quota;
      return { day: subscription?.currentCycle.startsAt.slice(0, 10), used, held };
    };
    const dayOf = (ms: number): string => new Date(ms).toISOString().slice(0, 10);
    let release = (): void => {};
    const released = new Promise<void>((resolve) => {
      release = resolve;
    });
    async function* late() {
      yield TEXT;
      await released;
      yield USAGE_CHUNK;
    }
    answers.set("late", () => stream("", { chunks: late() }));
    answers.set("next", () => json(JSON_ANSWER));
    const port = await portOf(name);

    const response = await ask(port, secret, "late");
    const before = clock.now();
    expect(await quota()).toEqual({ day: dayOf(before), used: 0, held: 17 + 300 });
    clock.advance(200);
    await readAll((await ask(port, secret, "next")).body);
    await vi.waitFor(async () => {
      expect(await quota()).toEqual({ day: dayOf(before + 200), used: 25, held: 0 });
    });
    release();
    expect((await readAll(response.body)).toString()).toBe(TEXT + USAGE_CHUNK);
    await vi.waitFor(async () => {
      const days = (await recordOf(key.id)).tally?.models["gpt-5"]?.settled;
      expect(days).toEqual([2, 50, 20, 10, 0]);
    });
    expect(await quota()).toEqual({ day: dayOf(before + 200), used: 25, held: 0 });
    const { documents } = await store.read([`account:${account.id}`]);
    const { used } = (documents[0] as Document).body as unknown as AccountRecord;
    expect(Object.values(used)).toEqual([25, 25]);
  });

  test("real clients stream, and what they were told is what is booked", async () => {
    answers.set("openai", () => stream(CHAT));
    answers.set("anthropic", () => stream(MESSAGES));
    const port = await portOf(name, strip);
    const first = await newKey();
    const openai = new OpenAI({
      apiKey: first.secret,
      baseURL: `http://127.0.0.1:${port}/v1`,
      defaultQuery: { answer: "openai" },
    });
    const messages = [{ role: "user" as const, content: "Hello" }];
    let said = "";
    for await (const { choices } of await openai.chat.completions.create({
      ...{ model: "gpt-5", messages, max_tokens: 50, stream: true },
    })) {
      expect(choices.length).toBe(1);
      said += choices[0]?.delta.content;
    }
    expect(said).toBe("Hällo there.");
    await expectEnd(first.keyId, { settled: [1, 25, 10, 5] });

    const second = await newKey();
    const anthropic = new Anthropic({
      apiKey: second.secret,
      baseURL: `http://127.0.0.1:${port}`,
      defaultQuery: { answer: "anthropic" },
    });
    const message = await anthropic.messages
      .stream({ model: "claude-5", messages, max_tokens: 50 })
      .finalMessage();
    expect(message).toMatchObject({
      content: [{ text: "Hello" }],
      usage: { input_tokens: 10, output_tokens: 6 },
    });
    await expectEnd(second.keyId, { settled: [1, 50, 110, 6] });
  });

  test("a slow client holds the handler back, also where a chunk may be stripped", async () => {
    let made = 0;
    async function* endless() {
      for (; made < 600; made++) yield events(chunk("x".repeat(50_000)));
      yield USAGE_CHUNK;
    }
    for (const options of [{}, strip]) {
      made = 0;
      answers.set("endless", () => stream("", { chunks: endless() }));
      const { secret, keyId } = await newKey();
      const response = await ask(await portOf(name, options), secret, "endless", {
        body: JSON.stringify(unasked),
      });
      let seen = -1;
      await vi.waitFor(
        () => {
          const before = seen;
          seen = made;
          expect(made).toBe(before);
        },
        { timeout: 20_000, interval: 200 },
      );
      expect(made).toBeLessThan(500);
      const received = await readAll(response.body);
      expect(received.length).toBeGreaterThan(30_000_000);
      expect(received.includes("prompt_tokens")).toBe(options !== strip);
      await expectEnd(keyId, { settled: [1, 25, 10, 5] });
    }
  });
});

test("a socket is admitted at the estimate, and booked at what was observed, else as unknown", async () => {
  const server = await (SERVERS["node:http"] as (typeof SERVERS)[string])(gate);
  servers.push(server);
  const sockets = new WebSocketServer({ noServer: true });
  const onAllowed = (request: object, socket: object, head: object, decision: Allowed): void =>
    sockets.handleUpgrade(request as never, socket as never, head as never, (client) => {
      client.on("message", (text) => {
        decision.observe(Number(String(text)));
        client.close();
      });
    });
  server.on("upgrade", guardUpgrade(gate, onAllowed, { prices }));
  const port = await listen(server);
  for (const observed of ["7", undefined]) {
    const { secret, keyId } = await newKey();
    const headers = { authorization: `Bearer ${secret}` };
    const client = new WebSocket(`ws://127.0.0.1:${port}/v1/realtime?model=gpt-5`, { headers });
    await once(client, "open");
    expect(((await gate.keys.get(keyId)) as KeyView).quota.held).toBe(300);
    if (observed === undefined) client.terminate();
    else client.send(observed);
    await expectEnd(keyId, { settled: [1, Number(observed ?? 300), 0, 0] }, observed === undefined);
  }
  sockets.close();
});

test("nothing was booked twice, and nothing went astray", async () => {
  await gate.flush();
  expect(ends.length).toBeGreaterThan(NAMES.length * Object.keys(ROWS).length);
  for (const [keyId, tally] of ends) expect(await tallyOf(keyId)).toEqual(tally);
  expect(unknown.length).toBe(new Set(unknown).size);
  expect(unhandled).toEqual([]);
});
