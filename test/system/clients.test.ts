import { once } from "node:events";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import * as anthropic1 from "@anthropic-ai/sdk";
import { createAdaptorServer } from "@hono/node-server";
import { APICallError, generateText, type LanguageModel, RetryError, streamText } from "ai";
import * as anthropic0 from "anthropic-sdk-0";
import {
  createKeystile,
  fixedPrice,
  type IssueInput,
  type Keystile,
  type Runtime,
  type Store,
} from "keystile";
import { memoryStore } from "keystile/memory";
import { manualClock } from "keystile/testing";
import * as openai7 from "openai";
import * as openai6 from "openai6";
import {
  afterAll,
  afterEach,
  beforeAll,
  beforeEach,
  describe,
  expect,
  onTestFinished,
  test,
  vi,
} from "vitest";
import { createGateway } from "../../examples/gateway/gateway.ts";
import { startModelServer } from "../../examples/gateway/model-server.ts";

/*
 * What developers see of a refusal, and what their clients do about it: a table of clients, with the settings they
 * come with, times a table of refusals, against the example gateway over real sockets.
 *
 * Nobody waits: the time in the gateway stands still, and what a client means to sleep before it tries again is noted
 * instead of slept. So every attempt, every wait and every `Retry-After` can be told exactly.
 */

const PROVIDER_KEY = "provider-key";
const HOUR_MS = 3_600_000;
/** Vercel's client sends Anthropic a list of blocks, which the model server says back. */
const ANSWER = /^This is (gpt|claude)-demo\. You said: (Hello|\[{"type":"text","text":"Hello"}\])$/;

const clock = manualClock();
/** What clients meant to sleep, in milliseconds, and whether the time in the gateway passes meanwhile. */
let waits: number[] = [];
let timePasses = false;

interface Gateway {
  readonly keystile: Keystile;
  readonly url: string;
  /** The headers of every HTTP request it saw. */
  readonly attempts: Headers[];
  close(): Promise<void>;
}

let modelServer: Awaited<ReturnType<typeof startModelServer>>;
let gateway: Gateway;
let gatewayWithoutStore: Gateway;

beforeAll(async () => {
  modelServer = await startModelServer({ apiKey: PROVIDER_KEY });
  gateway = await openGateway(memoryStore({ clock: clock.now }));
  const fail = (): never => {
    throw new Error("connect ECONNREFUSED 10.1.2.3:5432");
  };
  gatewayWithoutStore = await openGateway({ ...memoryStore(), read: fail, write: fail });
});

afterAll(async () => {
  await gateway.close();
  await gatewayWithoutStore.close();
  modelServer.close();
});

beforeEach(() => {
  // What the clients would pick up from the machine they run on.
  for (const name of ["OPENAI", "ANTHROPIC"]) {
    for (const setting of ["API_KEY", "AUTH_TOKEN", "BASE_URL"]) vi.stubEnv(`${name}_${setting}`, undefined);
  }
  vi.stubGlobal("setTimeout", notingClientsWaits(globalThis.setTimeout));
  vi.stubGlobal("AI_SDK_LOG_WARNINGS", false);
  waits = [];
  timePasses = false;
  gateway.attempts.length = 0;
  gatewayWithoutStore.attempts.length = 0;
});

afterEach(() => {
  vi.unstubAllGlobals();
  vi.unstubAllEnvs();
});

/** Does not sleep where a client would, between two attempts. All other timers, also theirs, remain as they are. */
function notingClientsWaits(real: typeof setTimeout): (...timer: Parameters<typeof setTimeout>) => unknown {
  return (run, ms = 0, ...rest) => {
    const isWait = /\/internal\/utils\/sleep\.|\/@ai-sdk\/provider-utils\//.test(new Error().stack ?? "");
    if (!isWait) return real(run, ms, ...rest);
    waits.push(ms);
    if (timePasses) clock.advance(ms);
    return real(run, 0, ...rest);
  };
}

async function openGateway(store: Store): Promise<Gateway> {
  const runtime: Runtime = {
    monotonicMs: clock.now,
    setTimer(run, ms) {
      const timer = setTimeout(run, ms).unref();
      return () => clearTimeout(timer);
    },
    random: Math.random,
    randomBytes: (size) => crypto.getRandomValues(new Uint8Array(size)),
  };
  const keystile = createKeystile({ store, runtime, drainMs: 0 });
  const app = createGateway({
    keystile,
    upstream: { url: modelServer.url, apiKey: PROVIDER_KEY },
    prices: fixedPrice(1),
  });
  const attempts: Headers[] = [];
  const server = createAdaptorServer({
    fetch(request: Request, env: object) {
      attempts.push(request.headers);
      return app.fetch(request, env);
    },
  }) as Server;
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    keystile,
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    attempts,
    async close() {
      server.close();
      server.closeAllConnections();
      expect(await keystile.close()).toEqual({ unwritten: 0 });
    },
  };
}

/** One question to a gateway. Without a secret, the client sends no credential at all. */
interface Question {
  readonly url: string;
  readonly secret: string | undefined;
  readonly stream: boolean;
}

/** What a developer can read off an error without parsing text. */
interface Report {
  readonly class: unknown;
  readonly status: unknown;
  readonly message: unknown;
  readonly type: unknown;
  readonly code: unknown;
  readonly param?: unknown;
  readonly requestId: unknown;
  readonly headers: Headers | undefined;
}

function classOf(error: unknown): unknown {
  return (error as object).constructor;
}

type Status = 401 | 402 | 403 | 429 | 503;

interface Client {
  readonly name: string;
  readonly credential: "authorization" | "x-api-key";
  /** Vercel's: it retries by the status alone, and wraps what it has retried. */
  readonly isVercel?: true;
  /** Asks "Hello" and resolves to the text of the answer. */
  ask(question: Question): Promise<string>;
  /** The models it is shown, where the client can ask for them. */
  models?(question: Pick<Question, "url" | "secret">): Promise<readonly string[]>;
  /** The class of its errors, by status. */
  readonly classes: Readonly<Record<Status, unknown>>;
  /** The text of an error whose message is `message`. */
  text(status: Status, message: string): string;
  report(error: unknown): Report;
}

const messages = [{ role: "user" as const, content: "Hello" }];

function openAI(name: string, { OpenAI, ...sdk }: typeof openai7 | typeof openai6): Client {
  const connect = ({ url, secret }: Pick<Question, "url" | "secret">): openai7.OpenAI =>
    new OpenAI({
      apiKey: secret ?? "not sent",
      baseURL: `${url}/v1`,
      ...(secret === undefined && { defaultHeaders: { authorization: null } }),
    }) as openai7.OpenAI;
  return {
    name,
    credential: "authorization",
    async ask(question) {
      const { completions } = connect(question).chat;
      if (!question.stream) {
        const completion = await completions.create({ model: "gpt-demo", messages });
        return completion.choices[0]?.message.content ?? "";
      }
      let text = "";
      for await (const { choices } of await completions.create({
        model: "gpt-demo",
        messages,
        stream: true,
      })) {
        text += choices[0]?.delta.content ?? "";
      }
      return text;
    },
    async models(question) {
      return (await connect(question).models.list()).data.map(({ id }) => id);
    },
    classes: {
      401: sdk.AuthenticationError,
      402: sdk.APIError,
      403: sdk.PermissionDeniedError,
      429: sdk.RateLimitError,
      503: sdk.InternalServerError,
    },
    text: (status, message) => `${status} ${message}`,
    report(error) {
      const { status, message, type, code, param, requestID, headers } = error as openai7.APIError;
      return { class: classOf(error), status, message, type, code, param, requestId: requestID, headers };
    },
  };
}

type AnthropicOptions = {
  readonly baseURL: string;
  readonly apiKey: string;
  readonly authToken?: string | null;
  readonly defaultHeaders?: Record<string, null>;
};

function anthropic(
  name: string,
  credential: Client["credential"],
  sdk: typeof anthropic1 | typeof anthropic0,
  classes: Pick<Client["classes"], 402 | 503>,
  codeOf: (error: anthropic1.APIError) => unknown,
): Client {
  const connect = ({ url, secret }: Pick<Question, "url" | "secret">): anthropic1.Anthropic => {
    const options: AnthropicOptions = {
      baseURL: url,
      apiKey: secret ?? "not sent",
      ...(secret === undefined && { defaultHeaders: { [credential]: null } }),
    };
    return new sdk.Anthropic(options) as anthropic1.Anthropic;
  };
  return {
    name,
    credential,
    async ask(question) {
      const asked = { model: "claude-demo", max_tokens: 64, messages };
      const client = connect(question);
      if (!question.stream) {
        const [block] = (await client.messages.create(asked)).content;
        return block?.type === "text" ? block.text : "";
      }
      let text = "";
      for await (const event of await client.messages.create({ ...asked, stream: true })) {
        if (event.type === "content_block_delta" && event.delta.type === "text_delta")
          text += event.delta.text;
      }
      return text;
    },
    async models(question) {
      return (await connect(question).models.list()).data.map(({ id }) => id);
    },
    classes: {
      ...classes,
      401: sdk.AuthenticationError,
      403: sdk.PermissionDeniedError,
      429: sdk.RateLimitError,
    },
    text: (status, message) => `${status} ${message}`,
    report(error) {
      const { status, message, type, requestID, headers } = error as anthropic1.APIError;
      const code = codeOf(error as anthropic1.APIError);
      return { class: classOf(error), status, message, type, code, requestId: requestID, headers };
    },
  };
}

/** An error's `data` is what its provider's schema left of the body. */
type ErrorData = {
  readonly error: {
    readonly type: string;
    readonly code?: string;
    readonly param?: string | null;
    readonly details?: { readonly error_code: string };
  };
};

function vercel(
  name: string,
  credential: Client["credential"],
  model: (question: Question) => LanguageModel,
  read: (data: ErrorData) => Pick<Report, "type" | "code" | "param">,
): Client {
  return {
    name,
    credential,
    isVercel: true,
    async ask(question) {
      const call = { model: model(question), messages, maxOutputTokens: 64 };
      if (!question.stream) return (await generateText(call)).text;
      let text = "";
      for await (const part of streamText({ ...call, onError: () => {} }).fullStream) {
        if (part.type === "error") throw part.error;
        if (part.type === "text-delta") text += part.text;
      }
      return text;
    },
    classes: { 401: APICallError, 402: APICallError, 403: APICallError, 429: RetryError, 503: RetryError },
    text: (_status, message) => message,
    report(error) {
      const last = RetryError.isInstance(error) ? error.lastError : error;
      if (!APICallError.isInstance(last)) throw error;
      if (RetryError.isInstance(error)) {
        expect(error.reason).toBe("maxRetriesExceeded");
        expect(error.message).toBe(`Failed after 3 attempts. Last error: AI_APICallError: ${last.message}`);
      }
      const headers = new Headers(last.responseHeaders);
      return {
        class: classOf(error),
        status: last.statusCode,
        message: last.message,
        ...read(last.data as ErrorData),
        requestId: headers.get("x-request-id"),
        headers,
      };
    },
  };
}

/** Vercel's providers send no header that is undefined, though their types know only strings. */
const unsent = (secret: string | undefined, name: string): { headers?: Record<string, string> } =>
  secret === undefined ? { headers: { [name]: undefined as unknown as string } } : {};

const CLIENTS: readonly Client[] = [
  openAI("openai 7", openai7),
  openAI("openai 6", openai6),
  anthropic(
    "@anthropic-ai/sdk 1",
    "authorization",
    anthropic1,
    { 402: anthropic1.PaymentRequiredError, 503: anthropic1.ServiceUnavailableError },
    ({ errorCode }) => errorCode,
  ),
  anthropic(
    "@anthropic-ai/sdk 0",
    "x-api-key",
    anthropic0,
    { 402: anthropic0.APIError, 503: anthropic0.InternalServerError },
    ({ error }) => (error as ErrorData).error.code,
  ),
  vercel(
    "ai with @ai-sdk/openai",
    "authorization",
    ({ url, secret }) =>
      createOpenAI({
        baseURL: `${url}/v1`,
        apiKey: secret ?? "not sent",
        ...unsent(secret, "Authorization"),
      }).chat("gpt-demo"),
    ({ error: { type, code, param } }) => ({ type, code, param }),
  ),
  vercel(
    "ai with @ai-sdk/openai-compatible",
    "authorization",
    ({ url, secret }) =>
      createOpenAICompatible({
        name: "keystile",
        baseURL: `${url}/v1`,
        ...(secret !== undefined && { apiKey: secret }),
      })("gpt-demo"),
    ({ error: { type, code, param } }) => ({ type, code, param }),
  ),
  vercel(
    "ai with @ai-sdk/anthropic",
    "x-api-key",
    ({ url, secret }) =>
      createAnthropic({
        baseURL: `${url}/v1`,
        apiKey: secret ?? "not sent",
        ...unsent(secret, "x-api-key"),
      })("claude-demo"),
    ({ error: { type, details } }) => ({ type, code: details?.error_code }),
  ),
];

interface Expected {
  readonly name: string;
  /** Brings a key into the state that is refused; resolves to the secret to present. */
  arrange(): Promise<string | undefined>;
  readonly status: Status;
  readonly type: string;
  readonly code: string;
  readonly message: string;
  readonly param?: "model";
  readonly headers: Readonly<Record<string, string>>;
  readonly isStoreDown?: true;
  /** What the clients sleep before they try again: as often as they do, and once less than they ask. */
  readonly waits?: { readonly official: readonly number[]; readonly vercel: readonly number[] };
}

async function issue(input: IssueInput = {}): Promise<{ readonly secret: string; readonly id: string }> {
  const { secret, key } = await gateway.keystile.keys.issue(input);
  return { secret, id: key.id };
}

/** A key with one request that is over. */
async function spent(input: IssueInput): Promise<string> {
  const { secret } = await issue(input);
  await (await admit(secret)).settle();
  return secret;
}

/** A key with one request that is in flight until the test is over. */
async function busy(input: IssueInput): Promise<string> {
  const { secret } = await issue(input);
  const decision = await admit(secret);
  onTestFinished(() => decision.void());
  return secret;
}

async function admit(secret: string) {
  const decision = await gateway.keystile.authorize({ headers: { "x-api-key": secret } });
  if (!decision.allowed) throw new Error(decision.refusal.reason);
  return decision;
}

const unauthorized = { status: 401, type: "authentication_error" } as const;
const invalidKey = {
  ...unauthorized,
  code: "invalid_api_key",
  message: "The API key is not valid.",
  headers: { "www-authenticate": 'Bearer realm="api", error="invalid_token"' },
} as const;
const unpaid = {
  status: 402,
  type: "billing_error",
  code: "quota_exceeded",
  message: "What is left of this API key's quota does not cover the request.",
} as const;
const forbidden = {
  status: 403,
  type: "permission_error",
  headers: { "x-should-retry": "false" },
} as const;
const rateLimited = { status: 429, type: "rate_limit_error", code: "rate_limit_exceeded" } as const;
const tooFast = { ...rateLimited, message: "The rate limit of this API key is reached. Slow down." } as const;

const REFUSALS: readonly Expected[] = [
  {
    name: "401, no key",
    arrange: async () => undefined,
    ...unauthorized,
    code: "missing_api_key",
    message: "No API key was sent. Send it as 'Authorization: Bearer <key>' or 'x-api-key: <key>'.",
    headers: { "www-authenticate": 'Bearer realm="api"' },
  },
  {
    name: "401, a malformed key",
    arrange: async () => "sk-short",
    ...invalidKey,
    message: "The credential is malformed. Send 'Authorization: Bearer <key>' or 'x-api-key: <key>'.",
  },
  { name: "401, an unknown key", arrange: async () => `sk-${"x".repeat(48)}`, ...invalidKey },
  {
    name: "401, a revoked key",
    async arrange() {
      const { secret, id } = await issue();
      await gateway.keystile.keys.revoke(id);
      return secret;
    },
    ...invalidKey,
  },
  {
    name: "401, an expired key",
    async arrange() {
      const { secret } = await issue({ expiresAt: clock.now() + 1 });
      clock.advance(1);
      return secret;
    },
    ...invalidKey,
    code: "expired_api_key",
    message: "The API key has expired.",
  },
  {
    name: "402, quota used up",
    arrange: () => spent({ quota: 1 }),
    ...unpaid,
    headers: { "x-should-retry": "false" },
  },
  {
    name: "402, the rest of the quota held by a request in flight",
    arrange: () => busy({ quota: 1 }),
    ...unpaid,
    headers: { "x-should-retry": "true", "retry-after": "1" },
    waits: { official: [1_000, 1_000], vercel: [] },
  },
  {
    name: "403, model",
    arrange: async () => (await issue({ allowedModels: ["research-demo"] })).secret,
    ...forbidden,
    code: "model_access_denied",
    message: "This API key may not use the requested model.",
    param: "model",
  },
  {
    name: "403, address",
    arrange: async () => (await issue({ allowedIps: ["203.0.113.0/24"] })).secret,
    ...forbidden,
    code: "ip_not_allowed",
    message: "This API key may not be used from this address.",
  },
  {
    name: "429, a short wait: the clients wait as they are told",
    arrange: () => spent({ limits: [{ requests: 1, windowMs: 30_000 }] }),
    ...tooFast,
    headers: { "retry-after": "30", "x-ratelimit-limit": "1", "x-ratelimit-remaining": "0" },
    waits: { official: [30_000, 30_000], vercel: [30_000, 30_000] },
  },
  {
    name: "429, the longest wait that is left to the clients",
    arrange: () => spent({ limits: [{ requests: 1, windowMs: 60_000 }] }),
    ...tooFast,
    headers: { "retry-after": "60" },
    waits: { official: [60_000, 60_000], vercel: [2_000, 4_000] },
  },
  {
    name: "429, a long wait: the official clients give up, Vercel's tries twice more, soon",
    arrange: () => spent({ limits: [{ requests: 1, windowMs: HOUR_MS }] }),
    ...tooFast,
    headers: { "retry-after": "3600", "x-should-retry": "false" },
    waits: { official: [], vercel: [2_000, 4_000] },
  },
  {
    name: "429, too many in flight",
    arrange: () => busy({ limits: [{ inFlight: 1 }] }),
    ...rateLimited,
    message: "Too many requests of this API key are in flight. Wait for one to end.",
    headers: { "retry-after": "1", "x-ratelimit-limit": "1", "x-ratelimit-remaining": "0" },
    waits: { official: [1_000, 1_000], vercel: [1_000, 1_000] },
  },
  {
    name: "503, the store is down",
    arrange: async () => `sk-${"x".repeat(48)}`,
    isStoreDown: true,
    status: 503,
    type: "server_error",
    code: "service_unavailable",
    message: "The service is temporarily unavailable. Try again shortly.",
    headers: { "retry-after": "1" },
    waits: { official: [1_000, 1_000], vercel: [1_000, 1_000] },
  },
];

describe.each(CLIENTS)("$name", (client) => {
  describe.each([false, true])("streamed: %s", (stream) => {
    test("an answer", async () => {
      const { secret } = await issue();
      expect(await client.ask({ url: gateway.url, secret, stream })).toMatch(ANSWER);
      expect(gateway.attempts).toHaveLength(1);
      const sent = { authorization: `Bearer ${secret}`, "x-api-key": secret }[client.credential];
      const other = client.credential === "authorization" ? "x-api-key" : "authorization";
      expect(gateway.attempts[0]?.get(client.credential)).toBe(sent);
      expect(gateway.attempts[0]?.has(other)).toBe(false);
    });

    test("an answer, after the wait it was told", async () => {
      timePasses = true;
      const secret = await spent({ limits: [{ requests: 1, windowMs: 30_000 }] });
      expect(await client.ask({ url: gateway.url, secret, stream })).toMatch(ANSWER);
      expect(waits).toEqual([30_000]);
      expect(gateway.attempts).toHaveLength(2);
    });

    test.each(REFUSALS)("$name", async (expected) => {
      const secret = await expected.arrange();
      const { url, attempts } = expected.isStoreDown ? gatewayWithoutStore : gateway;
      const error = await failure(client.ask({ url, secret, stream }));

      const { status, type, code, message, param = null } = expected;
      const { headers, ...report } = client.report(error);
      expect(report).toEqual({
        class: client.classes[status],
        status,
        message: client.text(status, message),
        type,
        code,
        ...("param" in report && { param }),
        requestId: expect.stringMatching(/^req_[0-9a-f]{32}$/),
      });
      expect(Object.fromEntries(headers ?? [])).toMatchObject({
        "content-type": "application/json",
        "cache-control": "no-store",
        ...expected.headers,
      });
      const advice = ["www-authenticate", "retry-after", "x-should-retry"];
      for (const name of advice) expect(headers?.has(name)).toBe(name in expected.headers);

      const { official, vercel } = expected.waits ?? { official: [], vercel: [] };
      const expectedWaits = client.isVercel ? vercel : official;
      expect(waits).toEqual(expectedWaits);
      expect(attempts).toHaveLength(1 + expectedWaits.length);
    });
  });
});

describe("two credentials in one request", () => {
  const answered = { model: "claude-demo" };
  const bad = `sk-${"x".repeat(48)}`;
  const asked = { model: "claude-demo", max_tokens: 64, messages };

  test("@anthropic-ai/sdk 0 sends a key and a token: the token alone is judged, good or bad", async () => {
    const { secret } = await issue();
    const ask = (authToken: string, apiKey: string) =>
      new anthropic0.Anthropic({ baseURL: gateway.url, apiKey, authToken }).messages.create(asked);

    expect(await ask(secret, bad)).toMatchObject(answered);
    expect(await failure(ask(bad, secret))).toBeInstanceOf(anthropic0.AuthenticationError);
    const sent = gateway.attempts.map((headers) => [headers.get("authorization"), headers.get("x-api-key")]);
    expect(sent).toEqual([
      [`Bearer ${secret}`, bad],
      [`Bearer ${bad}`, secret],
    ]);
  });

  test("so it does with those of the environment", async () => {
    const { secret } = await issue();
    vi.stubEnv("ANTHROPIC_AUTH_TOKEN", secret);
    vi.stubEnv("ANTHROPIC_API_KEY", bad);
    const client = new anthropic0.Anthropic({ baseURL: gateway.url });
    expect(await client.messages.create(asked)).toMatchObject(answered);
    expect(gateway.attempts[0]?.get("x-api-key")).toBe(bad);
  });

  test("@anthropic-ai/sdk 1 with an x-api-key header of one's own: the key, which it sends as Bearer", async () => {
    const { secret } = await issue();
    const defaultHeaders = { "x-api-key": bad };
    const client = new anthropic1.Anthropic({ baseURL: gateway.url, apiKey: secret, defaultHeaders });
    expect(await client.messages.create(asked)).toMatchObject(answered);
    expect(gateway.attempts[0]?.get("authorization")).toBe(`Bearer ${secret}`);
    expect(gateway.attempts[0]?.get("x-api-key")).toBe(bad);
  });
});

async function failure(asking: Promise<unknown>): Promise<unknown> {
  return asking.then(
    (answer) => Promise.reject(new Error(`It was answered: ${String(answer)}`)),
    (thrown: unknown) => thrown,
  );
}

test.each(CLIENTS.filter(({ models }) => models !== undefined))(
  "$name lists the models that the key may use",
  async ({ models }) => {
    const { secret } = await issue({ allowedModels: ["gpt-*", "claude-*"], deniedModels: ["*-mini"] });
    expect(await models?.({ url: gateway.url, secret })).toEqual(["gpt-demo", "claude-demo"]);
  },
);
