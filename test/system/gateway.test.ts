import { once } from "node:events";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import Anthropic from "@anthropic-ai/sdk";
import { createAdaptorServer } from "@hono/node-server";
import { createKeystile, fixedPrice, type IssueInput, type Keystile, type Prices } from "keystile";
import { memoryStore } from "keystile/memory";
import OpenAI, {
  APIError,
  AuthenticationError,
  InternalServerError,
  NotFoundError,
  PermissionDeniedError,
  RateLimitError,
} from "openai";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { createGateway } from "../../examples/gateway/gateway.ts";
import { startModelServer } from "../../examples/gateway/model-server.ts";
import { demoPrices } from "../../examples/gateway/prices.ts";
import { breakable } from "./breakable-store.js";

/*
 * The example gateway as its callers see it: the built package, a real server, and the official client of OpenAI,
 * whose error classes, texts, ids and retries are what a refusal is for.
 */

const HOUR_MS = 3_600_000;

let modelServer: Awaited<ReturnType<typeof startModelServer>>;
let keystile: Keystile;
let server: Server;
let meteredServer: Server;
/** Where every request costs 1, and where tokens are charged for. */
let url: string;
let meteredUrl: string;
let storeIsDown = false;
/** The clock of the store, ahead of time by this much. */
let aheadMs = 0;

beforeAll(async () => {
  modelServer = await startModelServer({ apiKey: "provider-key" });
  const store = memoryStore({ clock: () => Date.now() + aheadMs });
  keystile = createKeystile({ store: breakable(store, () => storeIsDown), drainMs: 0 });
  [server, url] = await serve(fixedPrice(1));
  [meteredServer, meteredUrl] = await serve(demoPrices);
});

async function serve(prices: Prices): Promise<[Server, string]> {
  const upstream = { url: modelServer.url, apiKey: "provider-key" };
  const app = createGateway({ keystile, upstream, prices });
  const listening = createAdaptorServer({ fetch: app.fetch }) as Server;
  listening.listen(0, "127.0.0.1");
  await once(listening, "listening");
  return [listening, `http://127.0.0.1:${(listening.address() as AddressInfo).port}`];
}

afterAll(async () => {
  for (const listening of [server, meteredServer]) {
    listening.close();
    listening.closeAllConnections();
  }
  modelServer.close();
  expect(await keystile.close()).toEqual({ unwritten: 0 });
});

async function issue(input: IssueInput = {}): Promise<{ secret: string; id: string }> {
  const { secret, key } = await keystile.keys.issue({ quota: 100, ...input });
  return { secret, id: key.id };
}

/** The official client, and how often it asked. */
function client(
  apiKey: string,
  options: { maxRetries?: number; headers?: Record<string, string | null> } = {},
) {
  const seen = { attempts: 0 };
  const openai = new OpenAI({
    apiKey,
    baseURL: `${url}/v1`,
    ...(options.maxRetries !== undefined && { maxRetries: options.maxRetries }),
    defaultHeaders: options.headers ?? {},
    fetch: (input, init) => {
      seen.attempts += 1;
      return fetch(input, init);
    },
  });
  return { openai, seen };
}

const hello = { model: "gpt-demo", messages: [{ role: "user", content: "Hello" }] } as const;

function ask(openai: OpenAI, model: string = hello.model): Promise<OpenAI.ChatCompletion> {
  return openai.chat.completions.create({ model, messages: [...hello.messages] });
}

async function failure(asking: Promise<unknown>): Promise<APIError> {
  const error: unknown = await asking.then(
    () => new Error("It was allowed."),
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(APIError);
  return error as APIError;
}

async function expectUsed(keyId: string, used: number): Promise<void> {
  await vi.waitFor(async () => {
    expect((await keystile.keys.get(keyId))?.quota).toMatchObject({ used, held: 0 });
  });
}

describe("what passes", () => {
  test("an answer", async () => {
    const { secret, id } = await issue();
    const { data: completion, request_id } = await client(secret)
      .openai.chat.completions.create({ ...hello, messages: [...hello.messages] })
      .withResponse();
    expect(completion.choices[0]?.message.content).toBe("This is gpt-demo. You said: Hello");
    expect(completion.usage).toEqual({ prompt_tokens: 1, completion_tokens: 6, total_tokens: 7 });
    expect(request_id).toMatch(/^req_[0-9a-f]{32}$/);
    await expectUsed(id, 1);
  });

  test("a stream, with its usage", async () => {
    const { secret, id } = await issue();
    const stream = await client(secret).openai.chat.completions.create({
      model: "gpt-demo",
      messages: [...hello.messages],
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = "";
    let total: number | undefined;
    for await (const { choices, usage } of stream) {
      text += choices[0]?.delta.content ?? "";
      total = usage?.total_tokens ?? total;
    }
    expect([text, total]).toEqual(["This is gpt-demo. You said: Hello", 7]);
    await expectUsed(id, 1);
  });

  test("a stream that the client stops reading", async () => {
    const { secret, id } = await issue();
    const stream = await client(secret).openai.chat.completions.create({
      ...hello,
      messages: [...hello.messages],
      stream: true,
    });
    for await (const _ of stream) break;
    await expectUsed(id, 1);
  });

  test("the models a key may use, and no others; asking costs nothing", async () => {
    const { secret, id } = await issue({ allowedModels: ["gpt-*", "claude-*"], deniedModels: ["*-mini"] });
    const page = await client(secret).openai.models.list();
    expect(page.data.map((model) => model.id)).toEqual(["gpt-demo", "claude-demo"]);
    await expectUsed(id, 0);
  });

  test("Anthropic's API with x-api-key", async () => {
    const { secret, id } = await issue();
    const response = await messages(secret);
    expect(await response.json()).toMatchObject({
      type: "message",
      content: [{ type: "text", text: "This is claude-demo. You said: Hello" }],
      usage: { input_tokens: 1, output_tokens: 6 },
    });
    expect(response.headers.get("request-id")).toMatch(/^req_/);
    await expectUsed(id, 1);
  });

  test("its streams, with the names of their events", async () => {
    const { secret, id } = await issue();
    const text = await (await messages(secret, { stream: true })).text();
    const names = [...text.matchAll(/^event: (.*)$/gm)].map(([, name]) => name);
    expect([...new Set(names)]).toEqual([
      "message_start",
      "content_block_start",
      "content_block_delta",
      "content_block_stop",
      "message_delta",
      "message_stop",
    ]);
    for (const [, name, data] of text.matchAll(/^event: (.*)\ndata: (.*)$/gm)) {
      expect(JSON.parse(data as string)).toMatchObject({ type: name });
    }
    await expectUsed(id, 1);
  });
});

function messages(secret: string, body: object = {}): Promise<Response> {
  return fetch(`${url}/v1/messages?beta=true`, {
    method: "POST",
    headers: { "x-api-key": secret, "anthropic-version": "2023-06-01", "content-type": "application/json" },
    body: JSON.stringify({ model: "claude-demo", max_tokens: 64, messages: hello.messages, ...body }),
  });
}

describe("what does not, in the words of the official client", () => {
  type Expected = {
    readonly class: new (...parameters: never[]) => APIError;
    readonly status: number;
    readonly type: string;
    readonly code: string;
    readonly message: string;
    readonly param?: string;
  };

  /** Everything a developer sees of a refusal, and that it was asked for once, though the client would retry. */
  async function expectFailure(
    asking: { readonly openai: OpenAI; readonly seen: { readonly attempts: number } },
    expected: Expected,
    model?: string,
  ): Promise<APIError> {
    const error = await failure(ask(asking.openai, model));
    expect(error).toBeInstanceOf(expected.class);
    expect(error).toMatchObject({
      status: expected.status,
      type: expected.type,
      code: expected.code,
      param: expected.param ?? null,
      message: `${expected.status} ${expected.message}`,
    });
    expect(error.requestID).toMatch(/^req_[0-9a-f]{32}$/);
    expect(asking.seen.attempts).toBe(1);
    return error;
  }

  const unauthorized = { class: AuthenticationError, status: 401, type: "authentication_error" };
  const invalid = { ...unauthorized, code: "invalid_api_key", message: "The API key is not valid." };
  const unknownSecret = `sk-${"x".repeat(48)}`;

  test("401, no key", async () => {
    const message = "No API key was sent. Send it as 'Authorization: Bearer <key>' or 'x-api-key: <key>'.";
    const asking = client("unused", { headers: { authorization: null } });
    const error = await expectFailure(asking, { ...unauthorized, code: "missing_api_key", message });
    expect(error.headers?.get("www-authenticate")).toBe('Bearer realm="api"');
  });

  test.each(["not-a-key", "sk-short", "sk-with spaces in between"])("401, malformed: %s", async (secret) => {
    const message = "The credential is malformed. Send 'Authorization: Bearer <key>' or 'x-api-key: <key>'.";
    const error = await expectFailure(client(secret), { ...invalid, message });
    expect(error.headers?.get("www-authenticate")).toBe('Bearer realm="api", error="invalid_token"');
  });

  test("401, unknown", async () => {
    await expectFailure(client(unknownSecret), invalid);
  });

  test("401, expired", async () => {
    const { secret } = await issue({ expiresAt: Date.now() + 1_000 });
    await ask(client(secret).openai);
    await new Promise((resolve) => setTimeout(resolve, 1_100));
    const message = "The API key has expired.";
    await expectFailure(client(secret), { ...unauthorized, code: "expired_api_key", message });
  });

  test("401, revoked: at once, and indistinguishable from unknown", async () => {
    const { secret, id } = await issue();
    await ask(client(secret).openai);
    await keystile.keys.revoke(id);
    await expectFailure(client(secret), invalid);
  });

  test("401, disabled, until it is enabled", async () => {
    const { secret, id } = await issue();
    await keystile.keys.disable(id);
    await expectFailure(client(secret), invalid);
    await keystile.keys.enable(id);
    await ask(client(secret).openai);
  });

  test("402, quota used up", async () => {
    const { secret, id } = await issue({ quota: 2 });
    await ask(client(secret).openai);
    await ask(client(secret).openai);
    await expectUsed(id, 2);
    const error = await expectFailure(client(secret), {
      class: APIError,
      status: 402,
      type: "billing_error",
      code: "quota_exceeded",
      message: "What is left of this API key's quota does not cover the request.",
    });
    expect(error.headers?.get("x-should-retry")).toBe("false");
    await expectUsed(id, 2);
  });

  const forbidden = { class: PermissionDeniedError, status: 403, type: "permission_error" };

  test("403, model", async () => {
    const { secret, id } = await issue({ allowedModels: ["gpt-*"] });
    const message = "This API key may not use the requested model.";
    const expected = { ...forbidden, code: "model_access_denied", message, param: "model" };
    await expectFailure(client(secret), expected, "research-demo");
    await expectUsed(id, 0);
  });

  test("403, address", async () => {
    const { secret } = await issue({ allowedIps: ["203.0.113.0/24"] });
    const message = "This API key may not be used from this address.";
    await expectFailure(client(secret, { headers: { "x-forwarded-for": "203.0.113.1" } }), {
      ...forbidden,
      code: "ip_not_allowed",
      message,
    });
  });

  const limited = {
    class: RateLimitError,
    status: 429,
    type: "rate_limit_error",
    code: "rate_limit_exceeded",
  };
  const slowDown = "The rate limit of this API key is reached. Slow down.";

  test("429, without retries", async () => {
    const { secret } = await issue({ limits: [{ requests: 1, windowMs: 1_000 }] });
    await ask(client(secret).openai);
    const error = await expectFailure(client(secret, { maxRetries: 0 }), { ...limited, message: slowDown });
    expect(error.headers?.get("retry-after")).toBe("1");
    expect(error.headers?.get("x-ratelimit-limit")).toBe("1");
    expect(error.headers?.get("x-ratelimit-remaining")).toBe("0");
  });

  test("429, a short wait: the client waits as told and then passes", async () => {
    const { secret } = await issue({ limits: [{ requests: 1, windowMs: 1_000 }] });
    await ask(client(secret).openai);
    const { openai, seen } = client(secret);
    await ask(openai);
    expect(seen.attempts).toBe(2);
  });

  test("429, a long wait: the client is told not to wait", async () => {
    const { secret } = await issue({ limits: [{ requests: 1, windowMs: HOUR_MS }] });
    await ask(client(secret).openai);
    const error = await expectFailure(client(secret), { ...limited, message: slowDown });
    expect(error.headers?.get("x-should-retry")).toBe("false");
    expect(Number(error.headers?.get("retry-after"))).toBeGreaterThan(3_590);
  });

  test("503, the store is down: no word about the key, nor about the store", async () => {
    const { secret, id } = await issue();
    await ask(client(secret).openai);
    storeIsDown = true;
    try {
      for (const presented of [secret, unknownSecret]) {
        const error = await expectFailure(client(presented, { maxRetries: 0 }), {
          class: InternalServerError,
          status: 503,
          type: "server_error",
          code: "service_unavailable",
          message: "The service is temporarily unavailable. Try again shortly.",
        });
        expect(JSON.stringify(error.error)).not.toContain("ECONNREFUSED");
        expect(error.headers?.get("retry-after")).toBe("1");
      }
    } finally {
      storeIsDown = false;
    }
    await ask(client(secret).openai);
    await expectUsed(id, 2);
  });

  test("an error of the provider reaches the caller and costs nothing", async () => {
    const { secret, id } = await issue();
    const error = await failure(ask(client(secret).openai, "gpt-unheard-of"));
    expect(error).toBeInstanceOf(NotFoundError);
    expect(error).toMatchObject({
      code: "model_not_found",
      message: '404 There is no model "gpt-unheard-of".',
    });
    expect(error.requestID).toMatch(/^req_/);
    await expectUsed(id, 0);
  });

  test("a key in the query gets no further than the gateway", async () => {
    const seen: string[] = [];
    const provider = createServer((request, response) => {
      seen.push(request.url ?? "");
      response.writeHead(200, { "content-type": "application/json" }).end('{"data":[]}');
    });
    provider.listen(0, "127.0.0.1");
    await once(provider, "listening");
    const { port } = provider.address() as AddressInfo;
    const gate = createKeystile({ store: memoryStore(), credentials: ["query"], drainMs: 0 });
    const { secret } = await gate.keys.issue();
    const app = createGateway({
      keystile: gate,
      upstream: { url: `http://127.0.0.1:${port}`, apiKey: "provider-key" },
      prices: fixedPrice(1),
    });
    const response = await app.request(`/v1/models?limit=2&key=${secret}&after_id=a%20b`);
    expect([response.status, await response.json()]).toEqual([200, { data: [] }]);
    expect(seen).toEqual(["/v1/models?limit=2&after_id=a%20b"]);
    await gate.close();
    provider.closeAllConnections();
    provider.close();
  });

  test.each([
    "//v1/chat/completions",
    "/V1/chat/completions",
    "/%761/chat/completions",
    "/v1/chat/completions/",
  ])("%s leads around no guard", async (path) => {
    const response = await fetch(url + path, { method: "POST", body: JSON.stringify(hello) });
    expect([401, 404]).toContain(response.status);
  });
});

describe("money", () => {
  const question = { model: "gpt-demo", messages: [{ role: "user" as const, content: "Hello" }] };

  test("a stream of OpenAI's client is billed by its tokens, and has no chunk that it had not asked for", async () => {
    const { secret, id } = await issue({ quota: 1_000_000 });
    const openai = new OpenAI({ apiKey: secret, baseURL: `${meteredUrl}/v1` });
    const chunks = [];
    for await (const chunk of await openai.chat.completions.create({ ...question, stream: true }))
      chunks.push(chunk);
    expect(chunks.every(({ choices, usage }) => choices.length === 1 && !usage)).toBe(true);
    // 1 token in at 2, 6 out at 8 millionths of a dollar.
    await expectUsed(id, 50);
    const { rows } = await keystile.usage.query({ keyId: id });
    expect(rows).toMatchObject([
      {
        model: "gpt-demo",
        outcome: "settled",
        requests: 1,
        cost: 50,
        paid: 0,
        inputTokens: 1,
        outputTokens: 6,
      },
    ]);
  });

  test("one that was asked for stays", async () => {
    const { secret } = await issue({ quota: 1_000_000 });
    const openai = new OpenAI({ apiKey: secret, baseURL: `${meteredUrl}/v1` });
    const asked = { ...question, stream: true, stream_options: { include_usage: true } } as const;
    let total: number | undefined;
    for await (const { usage } of await openai.chat.completions.create(asked))
      total = usage?.total_tokens ?? total;
    expect(total).toBe(7);
  });

  test("a stream of Anthropic's client is billed by its tokens", async () => {
    const { secret, id } = await issue({ quota: 1_000_000 });
    const anthropic = new Anthropic({ apiKey: secret, baseURL: meteredUrl });
    const message = { ...question, model: "claude-demo", max_tokens: 64 };
    const { usage } = await anthropic.messages.stream(message).finalMessage();
    expect(usage).toMatchObject({ input_tokens: 1, output_tokens: 6 });
    // 1 token in at 3, 6 out at 15.
    await expectUsed(id, 93);
  });

  test("a subscription runs dry, spills over into the balance, hits its cap, and begins anew", async () => {
    const { accounts } = keystile;
    const { id } = await accounts.open({ payAsYouGo: { capPerCycle: 1 } });
    await accounts.credit(id, { id: "first", amount: 10 });
    const { secret } = await accounts.subscribe(id, { plan: { name: "one", allowance: 1 } });
    const balance = async () => (await accounts.get(id))?.balance.remaining;
    const { openai } = client(secret);
    await ask(openai);
    await vi.waitFor(async () => expect((await accounts.get(id))?.subscription?.quota.used).toBe(1));
    expect(await balance()).toBe(10);
    await ask(openai);
    await vi.waitFor(async () =>
      expect((await accounts.get(id))?.balance).toMatchObject({ used: 1, held: 0 }),
    );
    const error = await failure(ask(openai));
    expect(error).toMatchObject({ status: 402, code: "quota_exceeded" });
    const view = await accounts.get(id);
    expect(error.error).toMatchObject({ details: { reset_at: view?.subscription?.currentCycle.endsAt } });
    expect(await standingOf(secret)).toMatchObject({
      state: "active",
      quota: { limit: 1, used: 1, remaining: 0 },
      subscription: { status: "active", payAsYouGo: { limit: 1, used: 1, remaining: 0 } },
    });
    aheadMs += 32 * 24 * HOUR_MS;
    expect(await standingOf(secret)).toMatchObject({ quota: { used: 0, remaining: 1 } });
    await ask(openai);
    await vi.waitFor(async () => expect((await accounts.get(id))?.subscription?.quota.used).toBe(1));
    expect(await balance()).toBe(9);
  });

  test("a key that is used up, or has expired, still learns how it stands; one that is revoked does not", async () => {
    const { secret, id } = await issue({ quota: 1, expiresAt: Date.now() + aheadMs + HOUR_MS });
    await ask(client(secret).openai);
    await expectUsed(id, 1);
    expect(await standingOf(secret)).toMatchObject({ state: "active", quota: { remaining: 0 } });
    aheadMs += 2 * HOUR_MS;
    expect(await standingOf(secret)).toMatchObject({ state: "expired" });
    await keystile.keys.revoke(id);
    expect(await standingOf(secret)).toMatchObject({ error: { code: "invalid_api_key" } });
  });

  async function standingOf(secret: string): Promise<unknown> {
    const response = await fetch(`${url}/v1/key`, { headers: { "x-api-key": secret } });
    expect(response.headers.get("cache-control")).toBe("no-store");
    return response.json();
  }
});
