import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer, type RequestListener, type Server } from "node:http";
import { connect as connectHttp2, createServer as createHttp2Server } from "node:http2";
import { connect } from "node:net";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import express, { type RequestHandler } from "express";
// @ts-expect-error There are types of one version only.
import express4 from "express4";
import fastify from "fastify";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { decisionOf, keystile as expressKeystile } from "../../src/adapters/express.js";
import { keystile as fastifyKeystile } from "../../src/adapters/fastify.js";
import { keystile as nodeKeystile } from "../../src/adapters/node.js";
import { createKeystile, isKeystileError, type Keystile, type KeyView } from "../../src/index.js";
import { memoryStore } from "../../src/stores/memory.js";
import { listen, stop } from "./adapters-servers.js";

/* What is particular to a framework: parsers in front of and behind the guard, plugins, and errors. */

let gate: Keystile;
let open: { secret: string; id: string };
let listed: { secret: string; id: string };
let delayMs = 0;
const servers: Server[] = [];

beforeEach(async () => {
  delayMs = 0;
  const store = memoryStore();
  const write: typeof store.write = async (groups) => {
    await new Promise((resolve) => setTimeout(resolve, delayMs));
    return store.write(groups);
  };
  gate = createKeystile({ store: { ...store, write }, drainMs: 0 });
  const issue = async (allowedModels?: string[]) => {
    const { secret, key } = await gate.keys.issue({ quota: 100, ...(allowedModels && { allowedModels }) });
    return { secret, id: key.id };
  };
  open = await issue();
  listed = await issue(["gpt-*"]);
});

afterEach(async () => {
  await Promise.all(servers.splice(0).map(stop));
  await gate.close();
});

async function serve(app: RequestListener | Server): Promise<number> {
  const server = typeof app === "function" ? createServer(app) : app;
  servers.push(server);
  return listen(server);
}

interface Sending {
  readonly key?: { readonly secret: string };
  readonly path?: string;
  readonly body?: string | Uint8Array<ArrayBuffer>;
  readonly headers?: Record<string, string>;
}

function post(
  port: number,
  { key = listed, path = "/v1/x", body = "", headers }: Sending,
): Promise<Response> {
  return fetch(`http://127.0.0.1:${port}${path}`, {
    ...{ method: "POST", body },
    headers: { "content-type": "application/json", authorization: `Bearer ${key.secret}`, ...headers },
  });
}

async function expectQuota({ id }: { id: string }, used: number, held = 0): Promise<void> {
  await vi.waitFor(async () => {
    const { quota } = (await gate.keys.get(id)) as KeyView;
    expect({ used: quota.used, held: quota.held }).toEqual({ used, held });
  });
}

const twice = '{"model":"claude-5","model":"gpt-5"}';

describe.each([
  ["express 5", express],
  ["express 4", express4 as typeof express],
])("%s", (_, createApp) => {
  const tell: RequestHandler = (request, response) => {
    const { rawBody } = request as { rawBody?: Uint8Array };
    const raw = rawBody === undefined ? null : Buffer.from(rawBody).toString();
    response.json({ body: request.body ?? null, raw, model: decisionOf(request).model ?? null });
  };

  test("without any parser the body is there, parsed and as bytes", async () => {
    const port = await serve(createApp().use(expressKeystile(gate)).use(tell));
    const answer = await post(port, { body: '{ "model":"gpt-5" }' });
    expect(await answer.json()).toEqual({
      body: { model: "gpt-5" },
      raw: '{ "model":"gpt-5" }',
      model: "gpt-5",
    });
    const doubtful = await post(port, { key: open, body: twice });
    expect(await doubtful.json()).toEqual({ body: null, raw: twice, model: null });
    await expectQuota(listed, 1);
  });

  test("parsers behind it work as without it, with their own bounds and errors", async () => {
    const verified: string[] = [];
    const verify = (_request: unknown, _response: unknown, bytes: Buffer): void => {
      verified.push(String(bytes));
    };
    const app = createApp().use(expressKeystile(gate));
    app.use(
      createApp.json({ limit: 100, verify }),
      createApp.text(),
      createApp.urlencoded({ extended: false }),
    );
    const port = await serve(app.use(tell));
    expect(await (await post(port, { body: '{"model":"gpt-5"}' })).json()).toMatchObject({
      body: { model: "gpt-5" },
    });
    expect(verified).toEqual(['{"model":"gpt-5"}']);
    expect(await (await post(port, { key: open, body: twice })).json()).toMatchObject({
      body: { model: "gpt-5" },
    });
    const text = await post(port, { key: open, body: "text", headers: { "content-type": "text/plain" } });
    expect(await text.json()).toMatchObject({ body: "text" });
    const gzip = { body: gzipSync('{"a":1}'), headers: { "content-encoding": "gzip" } };
    expect(await (await post(port, { key: open, ...gzip })).json()).toMatchObject({ body: { a: 1 } });
    await expectQuota(open, 3);
    expect((await post(port, { key: open, body: "{" })).status).toBe(400);
    expect((await post(port, { key: open, body: `"${"x".repeat(200)}"` })).status).toBe(413);
    expect((await post(port, { key: open, body: "" })).status).toBe(200);
    await expectQuota(open, 4);
  });

  test("behind a parser, what it parsed is judged: it is all that a handler can get", async () => {
    const port = await serve(createApp().use(createApp.json()).use(expressKeystile(gate)).use(tell));
    expect(await (await post(port, { body: '{"model":"gpt-5"}' })).json()).toMatchObject({ model: "gpt-5" });
    expect((await post(port, { body: '{"model":"claude-5"}' })).status).toBe(403);
    expect(await (await post(port, { body: twice })).json()).toMatchObject({
      body: { model: "gpt-5" },
      model: "gpt-5",
    });
    const gzip = { body: gzipSync('{"model":"gpt-5"}'), headers: { "content-encoding": "gzip" } };
    expect(await (await post(port, gzip)).json()).toMatchObject({ model: "gpt-5" });
    const unparsed = { body: '{"model":"gpt-5"}', headers: { "content-type": "text/plain" } };
    expect((await post(port, unparsed)).status).toBe(403);
  });

  test("behind a parser that keeps the bytes, those are judged", async () => {
    const verify = (request: object, _response: unknown, rawBody: Buffer): void => {
      Object.assign(request, { rawBody });
    };
    const port = await serve(
      createApp().use(createApp.json({ verify })).use(expressKeystile(gate)).use(tell),
    );
    expect((await post(port, { body: '{"model":"gpt-5"}' })).status).toBe(200);
    expect((await post(port, { body: twice })).status).toBe(403);
    const raw = await serve(
      createApp()
        .use(createApp.raw({ type: "*/*" }))
        .use(expressKeystile(gate))
        .use(tell),
    );
    expect((await post(raw, { body: '{"model":"gpt-5"}' })).status).toBe(200);
    expect((await post(raw, { body: twice })).status).toBe(403);
  });

  test("under a path the whole URL is judged, and twice on one route it is judged twice", async () => {
    const app = createApp().use("/openai/deployments", expressKeystile(gate), expressKeystile(gate), tell);
    const answer = await post(await serve(app), {
      path: "/openai/deployments/gpt-5/chat/completions",
      body: "{}",
    });
    expect(await answer.json()).toMatchObject({ model: "gpt-5" });
    await expectQuota(listed, 2);
  });

  test("an error of an option, a cost that is none, and a throw go to the error handler; nothing is held", async () => {
    for (const cost of [() => Promise.reject(new Error("no price")), () => Number.NaN]) {
      const app = createApp().use(expressKeystile(gate, { cost })).use(tell);
      app.use(((error, _request, response, _next) => {
        response.status(500).send(error.message);
      }) satisfies express.ErrorRequestHandler);
      const answer = await post(await serve(app), { key: open, body: "{}" });
      expect(answer.status).toBe(500);
      expect(await answer.text()).toMatch(/no price|NaN|cost/);
      await expectQuota(open, 0);
    }
  });

  test("a client that goes while its request is judged: the handler does not run, nothing is charged", async () => {
    delayMs = 80;
    const handled = vi.fn();
    const port = await serve(createApp().use(expressKeystile(gate)).use(handled));
    const socket = connect(port, "127.0.0.1");
    socket.write(`GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${open.secret}\r\n\r\n`);
    await new Promise((resolve) => setTimeout(resolve, 40));
    socket.destroy();
    await new Promise((resolve) => setTimeout(resolve, 150));
    expect(handled).not.toHaveBeenCalled();
    await expectQuota(open, 0);
  });

  test("somebody in front of it who answers first: the handler does not run, nothing is charged", async () => {
    delayMs = 80;
    const handled = vi.fn();
    const app = createApp().use((_request, response, next) => {
      setTimeout(() => response.status(504).end(), 30);
      next();
    });
    const port = await serve(app.use(expressKeystile(gate)).use(handled));
    expect((await post(port, { key: open, body: "{}" })).status).toBe(504);
    await new Promise((resolve) => setTimeout(resolve, 150));
    expect(handled).not.toHaveBeenCalled();
    await expectQuota(open, 0);
  });

  test("decisionOf a request that no guard has seen", () => {
    expect(() => decisionOf({})).toThrow(TypeError);
  });
});

describe("fastify", () => {
  async function app(options = {}) {
    const instance = fastify(options);
    await instance.register(fastifyKeystile, { gate });
    return instance;
  }

  test("its parsers get the body; what they refuse is given back", async () => {
    const instance = await app({ bodyLimit: 100 });
    instance.post("/*", (request) => ({ body: request.body, model: request.keystile.model ?? null }));
    await instance.ready();
    const port = await serve(instance.server);
    const answer = await post(port, { body: '{"model":"gpt-5"}' });
    expect(await answer.json()).toEqual({ body: { model: "gpt-5" }, model: "gpt-5" });
    expect((await post(port, { body: twice })).status).toBe(403);
    await expectQuota(listed, 1);
    expect((await post(port, { key: open, body: "{" })).status).toBe(400);
    expect((await post(port, { key: open, body: `"${"x".repeat(200)}"` })).status).toBe(413);
    const type = { "content-type": "application/x-unknown" };
    expect((await post(port, { key: open, body: "x", headers: type })).status).toBe(415);
    await expectQuota(open, 0);
  });

  test("it guards every route: of plugins, with a prefix, and those that do not exist", async () => {
    const instance = await app();
    const handled = vi.fn(async () => "x");
    instance.register(
      (inner, _options, done) => {
        inner.get("/inner", handled);
        done();
      },
      { prefix: "/v1" },
    );
    instance.get("/outer", handled);
    await instance.ready();
    const port = await serve(instance.server);
    for (const path of ["/v1/inner", "/outer", "/nowhere"]) {
      expect((await fetch(`http://127.0.0.1:${port}${path}`)).status).toBe(401);
    }
    expect((await fetch(`http://127.0.0.1:${port}/%zz`)).status).toBe(400);
    expect(handled).not.toHaveBeenCalled();
  });

  test("inject, asynchronous hooks and an error handler", async () => {
    const instance = await app();
    instance.addHook("onSend", async (_request, reply, payload) => {
      await new Promise((resolve) => setTimeout(resolve, 5));
      reply.header("x-hook", "ran");
      return payload;
    });
    const handled = vi.fn(async () => ({ ok: true }));
    instance.post("/", handled);
    instance.post("/throw", async () => {
      throw new Error("thrown");
    });
    const headers = { authorization: `Bearer ${open.secret}` };
    const refused = await instance.inject({ method: "POST", url: "/" });
    expect([refused.statusCode, refused.headers["x-hook"]]).toEqual([401, "ran"]);
    expect(handled).not.toHaveBeenCalled();
    const allowed = await instance.inject({ method: "POST", url: "/", headers, payload: { model: "m" } });
    expect([allowed.statusCode, allowed.json()]).toEqual([200, { ok: true }]);
    expect(allowed.headers["x-request-id"]).toMatch(/^req_/);
    await expectQuota(open, 1);
    expect((await instance.inject({ method: "POST", url: "/throw", headers })).statusCode).toBe(500);
    await expectQuota(open, 1);
  });

  test("wrong options stop it from starting", async () => {
    const instance = fastify();
    const wrong = { gate, cost: -1 };
    const starting = Promise.resolve(instance.register(fastifyKeystile, wrong)).then(() => instance.ready());
    await expect(starting).rejects.toSatisfy(isKeystileError);
  });

  test("an error of an option goes to the error handler", async () => {
    const instance = fastify();
    instance.register(fastifyKeystile, { gate, cost: () => Promise.reject(new Error("no price")) });
    instance.post("/", async () => "x");
    const headers = { authorization: `Bearer ${open.secret}` };
    const answer = await instance.inject({ method: "POST", url: "/", headers, payload: {} });
    expect([answer.statusCode, answer.json()]).toMatchObject([500, { message: "no price" }]);
    await expectQuota(open, 0);
  });

  test("a client that goes while its request is judged: the handler does not run", async () => {
    delayMs = 80;
    const instance = await app();
    const handled = vi.fn(async () => "x");
    instance.get("/", handled);
    await instance.ready();
    const socket = connect(await serve(instance.server), "127.0.0.1");
    socket.write(`GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${open.secret}\r\n\r\n`);
    await new Promise((resolve) => setTimeout(resolve, 40));
    socket.destroy();
    await new Promise((resolve) => setTimeout(resolve, 150));
    expect(handled).not.toHaveBeenCalled();
    await expectQuota(open, 0);
  });
});

test("node:http2: a body is judged; what came of it ends as elsewhere", async () => {
  const guard = nodeKeystile(gate);
  const server = createHttp2Server(async (request, response) => {
    const decision = await guard(request, response);
    if (decision !== undefined) response.end(String(decision.model));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const client = connectHttp2(`http://127.0.0.1:${(server.address() as { port: number }).port}`);
  async function send(body: string): Promise<[unknown, string]> {
    const stream = client.request({
      ":method": "POST",
      ":path": "/v1/x",
      "content-type": "application/json",
      authorization: `Bearer ${listed.secret}`,
    });
    let status: unknown;
    stream.on("response", (headers) => {
      status = headers[":status"];
    });
    stream.end(body);
    let text = "";
    for await (const chunk of stream) text += String(chunk);
    return [status, text];
  }
  expect(await send('{"model":"gpt-5"}')).toEqual([200, "gpt-5"]);
  expect((await send('{"model":"claude-5"}'))[0]).toBe(403);
  expect((await send(""))[0]).toBe(403);
  await expectQuota(listed, 1);
  client.close();
  server.close();
});

test.each(["express", "fastify", "hono", "node-http"])(
  "the lines that examples/%s prints do as they say",
  async (name) => {
    const program = join(import.meta.dirname, `../../examples/${name}/server.ts`);
    const child = spawn(process.execPath, [program], { env: { ...process.env, PORT: "0" } });
    try {
      let printed = "";
      child.stdout.on("data", (text) => {
        printed += text;
      });
      await vi.waitFor(() => expect(printed).toContain("curl -i"), 10_000);
      const secret = /API_KEY=(\S+)/.exec(printed)?.[1] ?? "";
      const calls =
        printed
          .replaceAll("\\\n", " ")
          .replaceAll("$API_KEY", secret)
          .match(/curl .*/g) ?? [];
      const answers = await Promise.all(
        calls.map(async (line) => {
          const [, url = ""] = /(http:\S+)/.exec(line) ?? [];
          const body = /-d '(.*)'/.exec(line)?.[1];
          const fields = [...line.matchAll(/-H "([^:]+): ([^"]+)"/g)].map(([, field = "", value = ""]) => [
            field,
            value,
          ]);
          const headers = Object.fromEntries(fields) as Record<string, string>;
          const response = await fetch(url, { headers, ...(body !== undefined && { method: "POST", body }) });
          return [response.status, (await response.json()) as { data?: { id: string }[] }] as const;
        }),
      );
      expect(answers.map(([status]) => status)).toEqual([200, 200, 403]);
      expect(answers[0]?.[1]).toMatchObject({ choices: [{ message: { role: "assistant" } }] });
      expect(answers[1]?.[1].data?.map(({ id }) => id)).toEqual(["gpt-demo", "gpt-demo-mini"]);
      expect(answers[2]?.[1]).toMatchObject({ error: { code: "model_access_denied" } });
    } finally {
      child.kill("SIGKILL");
    }
  },
);
