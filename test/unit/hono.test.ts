import { type Context, Hono } from "hono";
import { cors } from "hono/cors";
import { timeout } from "hono/timeout";
import { describe, expect, test } from "vitest";
import { type GuardOptions as AnyGuardOptions, type KeystileEnv, keystile } from "../../src/adapters/hono.js";
import type { Admission, Arrival, Identified } from "../../src/authorizer.js";
import type { Allowed, Decision, Refused } from "../../src/decision.js";
import { KeystileError } from "../../src/errors.js";
import type { Keystile } from "../../src/keystile.js";
import type { LimitStatus } from "../../src/limits.js";
import { fixedPrice, type Prices, tokenPrices } from "../../src/prices.js";
import { type Reason, refuse } from "../../src/refusal.js";

type GuardOptions = AnyGuardOptions<Context>;

const limits: readonly LimitStatus[] = [{ unit: "requests", limit: 10, remaining: 9, resetAtMs: 5_000 }];
const rateHeaders = { "x-ratelimit-limit": "10", "x-ratelimit-remaining": "9", "x-ratelimit-reset": "5" };

interface Script {
  readonly identify?: Reason | Error;
  readonly admit?: Reason | Error;
  /** What `settle` and `void` answer. */
  readonly end?: () => Promise<void>;
}

/** A gate that does as it is told and notes what was asked of it, in order. */
function scriptedGate({ identify, admit, end = async () => {} }: Script = {}) {
  const calls: string[] = [];
  const arrivals: Arrival[] = [];
  const admissions: Admission[] = [];
  const key = { id: "abc.def", metadata: {} };
  const refused = (reason: Reason): Refused => ({ allowed: false, refusal: refuse(reason), limits, key });

  const allowed: Allowed = {
    allowed: true,
    key,
    model: "m",
    estimate: 1,
    limits,
    quota: { limit: null, used: 0, held: 1, remaining: null, unlimited: true },
    canUseModel: () => true,
    observe: (cost) => void calls.push(`observe ${cost}`),
    settle: (cost, usage) => {
      const tokens = usage && ` for ${usage.inputTokens} and ${usage.outputTokens} tokens`;
      calls.push(cost === undefined ? "settle" : `settle ${cost}${tokens ?? ""}`);
      return end();
    },
    settleUnknown: (cost) => {
      calls.push(`settleUnknown ${cost}`);
      return end();
    },
    void: () => {
      calls.push("void");
      return end();
    },
  };

  const identified: Identified = {
    allowed: true,
    key,
    resolve: (model) => model,
    async admit(admission = {}): Promise<Decision> {
      calls.push("admit");
      admissions.push(admission);
      if (admit instanceof Error) throw admit;
      return admit === undefined ? allowed : refused(admit);
    },
  };

  const gate: Keystile = {
    wire: { realm: "scripted", codes: "full" },
    get keys(): never {
      throw new Error("The guard has no business with the keyring.");
    },
    get accounts(): never {
      throw new Error("Nor with accounts.");
    },
    get usage(): never {
      throw new Error("Nor with reports.");
    },
    get describe(): never {
      throw new Error("Nor with where a key stands.");
    },
    on: () => () => {},
    emit: () => false,
    async identify(arrival) {
      calls.push("identify");
      arrivals.push(arrival);
      if (identify instanceof Error) throw identify;
      return identify === undefined ? identified : refused(identify);
    },
    authorize: () => Promise.reject(new Error("The guard works in two phases.")),
    async flush() {
      calls.push("flush");
      return 0;
    },
    close: async () => ({ unwritten: 0 }),
  };
  return { gate, calls, arrivals, admissions };
}

type Handler = (c: import("hono").Context<KeystileEnv>) => Response | Promise<Response>;

function guarded(handler: Handler, script: Script = {}, options?: GuardOptions) {
  const scripted = scriptedGate(script);
  const app = new Hono<KeystileEnv>();
  app.onError((error, c) => c.text(`error: ${error.message}`, 500));
  app.use(keystile(scripted.gate, options));
  app.all("*", handler);
  return { ...scripted, app };
}

const ok: Handler = (c) => c.json({ ok: true });
const tick = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 5));
const post = (body: unknown, type = "application/json"): RequestInit => ({
  method: "POST",
  body: typeof body === "string" ? body : JSON.stringify(body),
  headers: { "content-type": type },
});

/** A body that gives one chunk per step, then ends, breaks or stays silent. */
function streamed(chunks: number, ending: "close" | "error" | "silence") {
  const seen = { cancelled: false };
  let given = 0;
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      given += 1;
      if (given <= chunks) return controller.enqueue(new TextEncoder().encode(`chunk ${given};`));
      if (ending === "close") return controller.close();
      if (ending === "error") return controller.error(new Error("upstream broke"));
      return new Promise<void>(() => {});
    },
    cancel() {
      seen.cancelled = true;
    },
  });
  return { seen, body };
}

describe("the way in", () => {
  test("identifies from headers and peer, admits with model and cost, then runs the handler", async () => {
    const { app, calls, arrivals, admissions } = guarded((c) => {
      calls.push("handler");
      return c.text(c.get("keystile").key.id);
    });
    const incoming = { socket: { remoteAddress: "192.0.2.7" } };
    const response = await app.request("/", post({ model: "gpt-x" }), { incoming });
    expect(await response.text()).toBe("abc.def");
    expect(arrivals[0]?.headers).toBeInstanceOf(Headers);
    expect(arrivals[0]?.address).toBe("192.0.2.7");
    expect(admissions).toEqual([{ model: "gpt-x", cost: 1, tokens: 0 }]);
    await tick();
    expect(calls).toEqual(["identify", "admit", "handler", "settle"]);
  });

  test("where the runtime shows no peer, the address is unknown", async () => {
    const { app, arrivals } = guarded(ok);
    await app.request("/");
    expect(arrivals[0]?.address).toBeUndefined();
  });

  test("a refused credential is answered before the body is read", async () => {
    const { app, calls } = guarded(ok, { identify: "key_unknown" });
    let pulled = 0;
    const pull = (): void => {
      pulled += 1;
    };
    const body = new ReadableStream({ pull }, { highWaterMark: 0 });
    const headers = { "content-type": "application/json" };
    const response = await app.request("/", { method: "POST", body, headers, duplex: "half" } as RequestInit);
    expect(response.status).toBe(401);
    expect(pulled).toBe(0);
    expect(calls).toEqual(["identify"]);
  });

  test("the handler still gets the body it was sent, byte for byte", async () => {
    const text = '{ "model": "a",\n"n": 1.0 }';
    const { app } = guarded(async (c) => c.text(await new Response(c.req.raw.body).text()));
    expect(await (await app.request("/", post(text))).text()).toBe(text);
    const parsed = guarded(async (c) => c.json(await c.req.json()));
    expect(await (await parsed.app.request("/", post(text))).json()).toEqual({ model: "a", n: 1 });
  });

  test.each([
    ["no body", {}, undefined],
    ["no model", post({}), undefined],
    ["a model that is no text", post({ model: 7 }), undefined],
    ["a body that is no object", post([{ model: "a" }]), undefined],
    ["null", post("null"), undefined],
    ["a form", post("model=a", "application/x-www-form-urlencoded"), "a"],
    ["text", post('{"model":"a"}', "text/plain"), undefined],
    ["a model twice", post('{"model":"a","model":"b"}'), undefined],
    ["an empty model", post({ model: "" }), undefined],
  ])("%s: the model", async (_, init, model) => {
    const { app, admissions } = guarded(ok);
    await app.request("/", init);
    expect(admissions).toEqual([{ model, cost: 1, tokens: 0 }]);
  });

  test("address, model and cost are read as the options say", async () => {
    const { app, arrivals, admissions } = guarded(
      ok,
      {},
      {
        address: () => "198.51.100.1",
        model: (_, body) => (body as { models: string[] }).models,
        cost: async (_, body) => (body as { n: number }).n * 3,
        tokens: async (_, body) => (body as { n: number }).n,
      },
    );
    await app.request("/", post({ models: ["a", "b"], n: 2 }));
    expect(arrivals[0]?.address).toBe("198.51.100.1");
    expect(admissions).toEqual([{ model: ["a", "b"], cost: 6, tokens: 2 }]);
    const free = guarded(ok, {}, { model: () => null, cost: 0, tokens: 7 });
    await free.app.request("/");
    expect(free.admissions).toEqual([{ model: null, cost: 0, tokens: 7 }]);
    const perFund = guarded(ok, {}, { cost: { subscription: 1, balance: 5 } });
    await perFund.app.request("/");
    expect(perFund.admissions).toMatchObject([{ cost: { subscription: 1, balance: 5 } }]);
  });

  test("a body beyond maxBodyBytes is not judged by, but reaches the handler", async () => {
    const text = JSON.stringify({ model: "a" });
    for (const [maxBodyBytes, model] of [
      [text.length, "a"] as const,
      [text.length - 1, undefined] as const,
    ]) {
      const { app, admissions } = guarded(async (c) => c.text(await c.req.text()), {}, { maxBodyBytes });
      expect(await (await app.request("/", post(text))).text()).toBe(text);
      expect(admissions[0]?.model).toBe(model);
    }
  });

  test.each([
    [{ maxBodyBytes: "10" }, "options.maxBodyBytes: expected an integer from 0 to 104857600, received 10."],
    [{ maxBodyBytes: 104_857_601 }, "options.maxBodyBytes"],
    [{ maxBodyBytes: -1 }, "options.maxBodyBytes"],
    [{ cost: 1.5 }, "options.cost"],
    [{ cost: -1 }, "options.cost"],
    [{ cost: { subscription: 1 } }, "options.cost: expected an integer from 0, two of them as"],
    [{ cost: { subscription: 1, balance: 0.5 } }, "options.cost"],
    [{ tokens: -1 }, "options.tokens: expected an integer from 0, or a function, received -1."],
    [{ prices: {} }, "options.prices: expected an object with the functions estimate and cost"],
    [{ prices: { estimate: () => 1 } }, "options.prices"],
    [{ prices: null }, "options.prices"],
    [{ prices: fixedPrice(1), cost: 1 }, "options.cost: expected nothing beside options.prices"],
    [{ prices: fixedPrice(1), tokens: 1 }, "options.tokens: expected nothing beside options.prices"],
    [
      { prices: fixedPrice(1), onUnknownUsage: "guess" },
      'options.onUnknownUsage: expected "estimate", "input" or "nothing", received guess.',
    ],
    [{ onUnknownUsage: "input" }, "options.onUnknownUsage: expected nothing without options.prices"],
    [{ readUsage: () => undefined }, "options.readUsage: expected nothing without options.prices"],
    [{ prices: fixedPrice(1), readUsage: "openai" }, "options.readUsage: expected a function"],
    [{ stripUsageChunk: true }, "options.stripUsageChunk: expected nothing without options.prices"],
    [{ prices: fixedPrice(1), stripUsageChunk: "yes" }, "options.stripUsageChunk: expected true or false"],
    [{ model: "gpt" }, "options.model"],
    [{ address: "127.0.0.1" }, "options.address"],
    [{ cots: 1 }, 'options: there is no "cots"; did you mean "cost"?'],
    [{ colour: "red" }, 'options: there is no "colour".'],
    [{ valueOf: 1 }, 'options: there is no "valueOf".'],
    [{ scopes: "admin" }, "options.scopes: expected a list of texts, or a function, received admin."],
    [{ scopes: [1] }, "options.scopes"],
  ])("options %j throw when it is mounted", (options, message) => {
    expect(() => keystile(scriptedGate().gate, options as GuardOptions)).toThrow(message);
  });

  test("options at their bounds and frozen options are taken", () => {
    const { gate } = scriptedGate();
    const options = { maxBodyBytes: 104_857_600, cost: 0, model: undefined } as unknown as GuardOptions;
    expect(() => keystile(gate, Object.freeze(options))).not.toThrow();
    expect(() => keystile(gate, { maxBodyBytes: 0 })).not.toThrow();
    expect(() => keystile(gate, { prices: undefined, cost: 1 } as unknown as GuardOptions)).not.toThrow();
    const metered = { prices: fixedPrice(1), onUnknownUsage: "nothing", readUsage: () => undefined } as const;
    expect(() => keystile(gate, { ...metered, stripUsageChunk: false })).not.toThrow();
  });
});

describe("what is answered here", () => {
  test.each(["credential_missing", "key_expired", "address_not_allowed"] as const)(
    "%s, before the body",
    async (reason) => {
      const { app, calls } = guarded(ok, { identify: reason });
      const response = await app.request("/", post({ model: "a" }));
      const refusal = refuse(reason);
      expect(response.status).toBe(refusal.status);
      const requestId = response.headers.get("x-request-id");
      expect(requestId).toMatch(/^req_[0-9a-f]{32}$/);
      expect(response.headers.get("request-id")).toBe(requestId);
      expect(Object.fromEntries(response.headers)).toMatchObject(rateHeaders);
      expect(await response.json()).toMatchObject({ error: { code: refusal.code }, request_id: requestId });
      expect(response.headers.get("www-authenticate")?.includes('realm="scripted"') ?? false).toBe(
        refusal.status === 401,
      );
      await tick();
      expect(calls).toEqual(["identify"]);
    },
  );

  test.each(["model_not_allowed", "rate_limited", "key_quota_exhausted"] as const)(
    "%s, after it",
    async (reason) => {
      const { app, calls } = guarded(ok, { admit: reason });
      const response = await app.request("/", post({ model: "a", stream: true }));
      expect(response.status).toBe(refuse(reason).status);
      expect(response.headers.get("content-type")).toBe("application/json");
      await tick();
      expect(calls).toEqual(["identify", "admit"]);
    },
  );

  test.each(["identify", "admit"] as const)("a fault of %s is a 503 without its text", async (phase) => {
    const fault = new KeystileError("store_unavailable", "secret text", { cause: new Error("secret cause") });
    const { app, calls } = guarded(ok, { [phase]: fault });
    const response = await app.request("/", post({}));
    expect(response.status).toBe(503);
    expect(response.headers.get("retry-after")).toBe("1");
    expect(await response.text()).not.toContain("secret");
    await tick();
    expect(calls.at(-1)).toBe(phase);
  });

  test("an error that is not a fault goes to Hono, and nothing is held", async () => {
    const failing = { ...scriptedGate({ identify: new Error("a bug") }), text: "a bug" };
    const inOption = guarded(ok, {}, { cost: () => Promise.reject(new Error("no price")) });
    const app = new Hono();
    app.onError((error, c) => c.text(error.message, 500));
    app.use(keystile(failing.gate));
    expect(await (await app.request("/")).text()).toBe("a bug");
    expect(await (await inOption.app.request("/")).text()).toBe("error: no price");
    expect(inOption.calls).toEqual(["identify"]);
  });

  test("a preflight is answered without key and handler; any other OPTIONS is judged", async () => {
    const { app, calls } = guarded(ok, { identify: "credential_missing" });
    const preflight = { origin: "https://app.example", "access-control-request-method": "POST" };
    const response = await app.request("/", { method: "OPTIONS", headers: preflight });
    expect([response.status, await response.text()]).toEqual([204, ""]);
    expect(calls).toEqual([]);
    expect((await app.request("/", { method: "OPTIONS" })).status).toBe(401);
    for (const [name, value] of Object.entries(preflight)) {
      expect((await app.request("/", { method: "OPTIONS", headers: { [name]: value } })).status).toBe(401);
    }
    expect((await app.request("/", { method: "POST", headers: preflight })).status).toBe(401);
  });

  test("headers set by a middleware outside, such as cors(), are on refusals too", async () => {
    const app = new Hono();
    app.use(cors({ origin: "*", exposeHeaders: ["x-request-id"] }));
    app.use(keystile(scriptedGate({ identify: "key_unknown" }).gate));
    const response = await app.request("/");
    expect(response.status).toBe(401);
    expect(response.headers.get("access-control-allow-origin")).toBe("*");
  });

  test.each(["HEAD", "PUT", "DELETE", "PATCH", "PROPFIND"])("%s is judged like any other", async (method) => {
    const { app, calls } = guarded(ok, { identify: "credential_missing" });
    expect((await app.request("/", { method })).status).toBe(401);
    expect(calls).toEqual(["identify"]);
  });
});

describe("headers of answers that passed", () => {
  test.each<[string, Handler, number]>([
    ["c.json", ok, 200],
    ["a raw response", () => new Response("x"), 200],
    ["an error status", (c) => c.text("no", 404), 404],
    ["no body", () => new Response(null, { status: 204 }), 204],
    ["a handler that throws", () => Promise.reject(new Error("x")), 500],
  ])("%s", async (_, handler, status) => {
    const { app } = guarded(handler);
    const response = await app.request("/");
    expect(response.status).toBe(status);
    expect(Object.fromEntries(response.headers)).toMatchObject(rateHeaders);
    expect(response.headers.get("x-request-id")).toMatch(/^req_/);
    expect(response.headers.get("request-id")).toBe(response.headers.get("x-request-id"));
  });

  test("they win over what a proxied answer says about the upstream; the rest of it stays", async () => {
    const headers = {
      "x-ratelimit-limit": "999",
      "x-request-id": "req_upstream",
      "content-type": "text/event-stream",
      "content-length": "5",
    };
    const { app } = guarded(() => new Response("data:", { status: 203, statusText: "Fine", headers }));
    const response = await app.request("/");
    expect([response.status, response.statusText]).toEqual([203, "Fine"]);
    expect(response.headers.get("x-ratelimit-limit")).toBe("10");
    expect(response.headers.get("x-request-id")).not.toBe("req_upstream");
    expect(response.headers.get("content-type")).toBe("text/event-stream");
    expect(response.headers.get("content-length")).toBe("5");
    expect(await response.text()).toBe("data:");
  });

  test("several cookies stay several", async () => {
    const { app } = guarded((c) => {
      c.header("set-cookie", "a=1", { append: true });
      c.header("set-cookie", "b=2", { append: true });
      return c.text("x");
    });
    expect((await app.request("/")).headers.getSetCookie()).toEqual(["a=1", "b=2"]);
  });
});

describe("every way an answer ends, exactly once", () => {
  /** What the guard did after the admission. */
  async function endings(calls: readonly string[]): Promise<readonly string[]> {
    await tick();
    return calls.slice(calls.indexOf("admit") + 1);
  }

  test.each<[string, Handler, string]>([
    ["without a body", () => new Response(null, { status: 204 }), "settle"],
    ["a redirect", (c) => c.redirect("/elsewhere"), "settle"],
    ["399", () => new Response(null, { status: 399 }), "settle"],
    ["400", () => new Response(null, { status: 400 }), "void"],
    ["an error with a body", (c) => c.json({}, 502), "void"],
    ["not found", (c) => c.notFound(), "void"],
    ["a throw", () => Promise.reject(new Error("x")), "void"],
  ])("%s", async (_, handler, ending) => {
    const { app, calls } = guarded(handler);
    await app.request("/");
    expect(await endings(calls)).toEqual([ending]);
  });

  test("a throw that the app answers with 200 still gives everything back", async () => {
    const { app, calls } = guarded(() => Promise.reject(new Error("x")));
    app.onError((_, c) => c.text("all is well"));
    expect((await app.request("/")).status).toBe(200);
    expect(await endings(calls)).toEqual(["void"]);
  });

  test("a throw of something that is no Error, which Hono does not answer", async () => {
    const { app, calls } = guarded(() => Promise.reject("just text"));
    await expect(app.request("/")).rejects.toBe("just text");
    expect(await endings(calls)).toEqual(["void"]);
  });

  test("a throw because the client went away books what was observed", async () => {
    for (const reason of [undefined, "Client connection prematurely closed."]) {
      const { app, calls } = guarded((c) => {
        const { signal } = c.req.raw;
        return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
      });
      const client = new AbortController();
      const answer = Promise.resolve(app.request("/", { signal: client.signal })).catch(() => {});
      await tick();
      client.abort(reason);
      await answer;
      expect(await endings(calls)).toEqual(["settle"]);
    }
  });

  test("a handler that forgets to answer", async () => {
    const { app, calls } = guarded((() => undefined) as unknown as Handler);
    expect((await app.request("/")).status).toBe(500);
    expect(await endings(calls)).toEqual(["void"]);
  });

  test("a body that somebody else has begun to read", async () => {
    const { gate, calls } = scriptedGate();
    const app = new Hono();
    app.use(keystile(gate));
    app.use(async (c, next) => {
      await next();
      c.res.body?.getReader();
    });
    app.get("/", (c) => c.text("taken"));
    await app.request("/");
    expect(await endings(calls)).toEqual(["settle"]);
  });

  test("no handler", async () => {
    const { gate, calls } = scriptedGate();
    const app = new Hono();
    app.use(keystile(gate));
    expect((await app.request("/")).status).toBe(404);
    expect(await endings(calls)).toEqual(["void"]);
  });

  test("a plain body: at its end, not before", async () => {
    const { app, calls } = guarded(ok);
    const response = await app.request("/");
    expect(await endings(calls)).toEqual([]);
    expect(await response.json()).toEqual({ ok: true });
    expect(await endings(calls)).toEqual(["settle"]);
  });

  test("an empty body that is there", async () => {
    const { app, calls } = guarded((c) => c.body(""));
    expect(await (await app.request("/")).text()).toBe("");
    expect(await endings(calls)).toEqual(["settle"]);
  });

  test("a stream read to its end", async () => {
    const { app, calls } = guarded(() => new Response(streamed(3, "close").body));
    expect(await (await app.request("/")).text()).toBe("chunk 1;chunk 2;chunk 3;");
    expect(await endings(calls)).toEqual(["settle"]);
  });

  test.each([0, 2])("a stream that breaks after %i chunks", async (chunks) => {
    const { app, calls } = guarded(() => new Response(streamed(chunks, "error").body));
    const response = await app.request("/");
    await expect(response.text()).rejects.toThrow("upstream broke");
    expect(await endings(calls)).toEqual(["settle"]);
  });

  test("a client that goes in the middle of a stream", async () => {
    const { seen, body } = streamed(2, "silence");
    const { app, calls } = guarded(() => new Response(body));
    const reader = (await app.request("/")).body?.getReader();
    await reader?.read();
    expect(await endings(calls)).toEqual([]);
    await reader?.cancel();
    expect(await endings(calls)).toEqual(["settle"]);
    expect(seen.cancelled).toBe(true);
  });

  test("a client that goes before the first byte is asked for", async () => {
    const { seen, body } = streamed(2, "silence");
    const { app, calls } = guarded(() => new Response(body));
    await (await app.request("/")).body?.cancel();
    expect(await endings(calls)).toEqual(["settle"]);
    expect(seen.cancelled).toBe(true);
  });

  test("a stream that never ends keeps its hold", async () => {
    const { app, calls } = guarded(() => new Response(streamed(1, "silence").body));
    const reader = (await app.request("/")).body?.getReader();
    await reader?.read();
    expect(await endings(calls)).toEqual([]);
  });

  test("HEAD, whose body nobody reads", async () => {
    const { app, calls } = guarded(() => new Response(streamed(2, "silence").body));
    expect((await app.request("/", { method: "HEAD" })).body).toBeNull();
    expect(await endings(calls)).toEqual(["settle"]);
  });

  test("a handler that ends the decision itself comes first", async () => {
    const { app, calls } = guarded(async (c) => {
      c.get("keystile").observe(3);
      await c.get("keystile").settle(7);
      return c.text("failed", 500);
    });
    await app.request("/");
    expect((await endings(calls)).slice(0, 2)).toEqual(["observe 3", "settle 7"]);
  });

  test("the answer neither waits for the end nor fails with it", async () => {
    const never = guarded(ok, { end: () => new Promise(() => {}) });
    expect(await (await never.app.request("/")).json()).toEqual({ ok: true });
    const unwritten = (): Promise<void> => Promise.reject(new KeystileError("store_unavailable", "down"));
    for (const handler of [ok, () => new Response(null), () => new Response(null, { status: 500 })]) {
      const failing = guarded(handler, { end: unwritten });
      const response = await failing.app.request("/");
      await response.text();
      expect(await endings(failing.calls)).toHaveLength(1);
    }
  });

  test("an inner middleware that replaces the answer", async () => {
    const { gate, calls } = scriptedGate();
    const app = new Hono();
    app.use(keystile(gate));
    app.use(async (c, next) => {
      await next();
      c.res = new Response("replaced");
    });
    app.get("/", (c) => c.text("original"));
    const response = await app.request("/");
    expect(await response.text()).toBe("replaced");
    expect(await endings(calls)).toEqual(["settle"]);
  });

  test("an outer middleware that answers first, while the handler is still at work", async () => {
    const { gate, calls } = scriptedGate();
    const app = new Hono();
    app.use(timeout(1));
    app.use(keystile(gate));
    app.get("/", async () => {
      await new Promise((resolve) => setTimeout(resolve, 20));
      return new Response(streamed(2, "silence").body);
    });
    const response = await app.request("/");
    expect(response.status).toBe(504);
    await response.text();
    expect(await endings(calls)).toEqual([]);
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(await endings(calls)).toEqual(["void"]);
  });

  test("a sub-app with a guard and an error handler of its own", async () => {
    const { gate, calls } = scriptedGate();
    const inner = new Hono();
    inner.onError((_, c) => c.text("inner", 200));
    inner.use(keystile(gate));
    inner.get("/throw", () => Promise.reject(new Error("x")));
    inner.get("/ok", (c) => c.text("ok"));
    const app = new Hono().route("/inner", inner);
    expect(await (await app.request("/inner/ok")).text()).toBe("ok");
    expect(await endings(calls)).toEqual(["settle"]);
    calls.length = 0;
    expect(await (await app.request("/inner/throw")).text()).toBe("inner");
    expect(await endings(calls)).toEqual(["void"]);
  });

  test("where processes sleep between requests, the end is flushed and waited for", async () => {
    const { app, calls } = guarded(() => new Response(streamed(2, "close").body));
    const waited: Promise<unknown>[] = [];
    const context = {
      waitUntil: (work: Promise<unknown>) => void waited.push(work),
      passThroughOnException() {},
      props: {},
    };
    const response = await app.request("/", {}, {}, context);
    expect(waited).toHaveLength(1);
    expect(await endings(calls)).toEqual([]);
    await response.text();
    await Promise.all(waited);
    expect(await endings(calls)).toEqual(["settle", "flush"]);
  });
});

describe("with prices", () => {
  const prices = tokenPrices({
    models: { "gpt-x": { input: 1_000_000, output: 3_000_000, maxOutputTokens: 100 } },
    otherModels: { input: 0, output: 0 },
  });
  const question = post({ model: "gpt-x" });
  const length = String(question.body).length;
  const usage = { prompt_tokens: 10, completion_tokens: 5 };
  const answer: Handler = (c) => c.json({ model: "gpt-x", usage });

  /** What the guard did after the admission. */
  async function endings(calls: readonly string[]): Promise<readonly string[]> {
    await tick();
    return calls.slice(calls.indexOf("admit") + 1);
  }

  test("a request is admitted at its estimate, and booked at what its answer tells, at the end", async () => {
    const { app, admissions, calls } = guarded(answer, {}, { prices });
    const response = await app.request("/v1/chat/completions", question);
    expect(admissions).toEqual([{ model: "gpt-x", cost: length + 300, tokens: length + 100 }]);
    expect(await endings(calls)).toEqual([]);
    expect(await response.json()).toEqual({ model: "gpt-x", usage });
    expect(await endings(calls)).toEqual(["settle 25 for 10 and 5 tokens"]);
  });

  test.each<[string, RequestInit, number]>([
    ["a body within the bound", post("x".repeat(20)), 20],
    ["one beyond it", post("x".repeat(21)), 20],
    ["one that is much longer than it", { ...post(""), headers: { "content-length": "500" } }, 500],
    ["one that is compressed", { ...post("x"), headers: { "content-encoding": "gzip" } }, 20],
    ["none", { method: "POST" }, 0],
    ["GET", {}, 0],
    [
      "GET that says it has some, for a handler of all methods",
      { headers: { "content-length": "500" } },
      500,
    ],
  ])("the bytes of %s", async (_, init, bodyBytes) => {
    const asked: unknown[] = [];
    const noting: Prices = {
      ...prices,
      estimate(request) {
        asked.push(request.bodyBytes);
        return prices.estimate(request);
      },
    };
    const { app } = guarded(answer, {}, { prices: noting, maxBodyBytes: 20 });
    await app.request("/v1/chat/completions", init);
    expect(asked).toEqual([bodyBytes]);
  });

  test.each([
    ["estimate", length + 300],
    ["input", length],
    ["nothing", 0],
  ] as const)("an answer that tells no usage is unknown: %s", async (onUnknownUsage, cost) => {
    for (const handler of [ok, () => new Response(null, { status: 204 }), (c: Context) => c.redirect("/")]) {
      const { app, calls } = guarded(handler, {}, { prices, onUnknownUsage });
      await (await app.request("/", question)).text();
      expect(await endings(calls)).toEqual([`settleUnknown ${cost}`]);
    }
  });

  test("an error, and a throw, give everything back whatever they tell", async () => {
    for (const handler of [(c: Context) => c.json({ usage }, 500), () => Promise.reject(new Error("x"))]) {
      const { app, calls } = guarded(handler, {}, { prices });
      await (await app.request("/", question)).text();
      expect(await endings(calls)).toEqual(["void"]);
    }
  });

  test("a list of models costs nothing, and nothing is missing", async () => {
    const { app, admissions, calls } = guarded(ok, {}, { prices });
    await (await app.request("/v1/models")).text();
    expect(admissions).toEqual([{ model: undefined, cost: 0, tokens: 0 }]);
    expect(await endings(calls)).toEqual(["settle"]);
  });

  test("prices and readers that throw change nothing about the answer", async () => {
    const fail = (): never => {
      throw new Error("a bug");
    };
    for (const options of [{ prices: { ...prices, cost: fail } }, { prices, readUsage: fail }]) {
      const { app, calls } = guarded(answer, {}, options);
      expect(await (await app.request("/", question)).json()).toEqual({ model: "gpt-x", usage });
      expect(await endings(calls)).toEqual([`settleUnknown ${length + 300}`]);
    }
  });

  test("an estimate that throws, or is none, goes to the error handler, and nothing is held", async () => {
    const wrong = { cost: 1, inputCost: 1, tokens: 1, inputTokens: Number.NaN };
    const fail = (): never => {
      throw new Error("a bug");
    };
    for (const estimate of [fail, () => wrong]) {
      const { app, calls } = guarded(answer, {}, { prices: { ...prices, estimate } });
      expect((await app.request("/", question)).status).toBe(500);
      expect(calls).toEqual(["identify"]);
    }
  });
});
