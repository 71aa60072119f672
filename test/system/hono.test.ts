import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import { createAdaptorServer } from "@hono/node-server";
import { type Context, Hono } from "hono";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { type KeystileEnv, keystile, stripCredentials } from "../../src/adapters/hono.js";
import { createKeystile, type Keystile, type KeyView } from "../../src/index.js";
import { memoryStore } from "../../src/stores/memory.js";

/*
 * The guard over real sockets, with the real gate behind it: a proxy in front of an upstream that does whatever the
 * path says. After every kind of end the key's numbers are exact: used what was spent, held nothing.
 */

const unhandled: unknown[] = [];
const noteUnhandled = (reason: unknown): void => void unhandled.push(reason);

let upstream: Server;
let upstreamUrl: string;
/** What the upstream saw: one entry for each request, with what became of it. */
let arrived: { readonly headers: IncomingMessage["headers"]; body: string; gone: boolean }[] = [];
let gate: Keystile;
let server: Server;
let port: number;
let secret: string;
let keyId: string;

beforeAll(async () => {
  process.on("unhandledRejection", noteUnhandled);
  upstream = createServer(answerAsAsked);
  upstreamUrl = await listen(upstream);
});

afterAll(() => {
  process.off("unhandledRejection", noteUnhandled);
  return stop(upstream);
});

beforeEach(async () => {
  // The server prints every body that breaks.
  vi.spyOn(console, "error").mockImplementation(() => {});
  arrived = [];
  gate = createKeystile({ store: memoryStore(), drainMs: 0 });
  const issued = await gate.keys.issue({ quota: 1_000, allowedIps: ["127.0.0.1"] });
  secret = issued.secret;
  keyId = issued.key.id;
  server = createAdaptorServer({ fetch: guardedProxy(gate).fetch }) as Server;
  port = Number(new URL(await listen(server)).port);
});

afterEach(async () => {
  await stop(server);
  expect(await gate.close()).toEqual({ unwritten: 0 });
  expect(unhandled.splice(0)).toEqual([]);
  vi.restoreAllMocks();
});

function guardedProxy(keys: Keystile): Hono<KeystileEnv> {
  const app = new Hono<KeystileEnv>();
  app.onError((error, c) => c.text(error.message, 500));
  app.use(keystile(keys));
  app.all("/throw", () => {
    throw new Error("thrown");
  });
  app.all("/wait-for-client", async (c) => {
    await once(c.req.raw.signal, "abort");
    return c.text("too late");
  });
  app.all("*", async (c) => {
    const observed = c.req.query("observe");
    if (observed !== undefined) c.get("keystile").observe(Number(observed));
    const { method, body, signal, headers } = c.req.raw;
    const url = new URL(c.req.path + new URL(c.req.url).search, upstreamUrl);
    const stripped = stripCredentials(headers);
    const init = {
      method,
      body,
      signal,
      headers: stripped,
      ...(body !== null && { duplex: "half" as const }),
    };
    return fetch(url, init);
  });
  return app;
}

/** `/<status>?chunks=n&end=close|break|never`, or `/no-answer`. */
async function answerAsAsked(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const entry = { headers: request.headers, body: "", gone: false };
  arrived.push(entry);
  response.on("close", () => {
    entry.gone = !response.writableEnded;
  });
  for await (const chunk of request.setEncoding("utf8")) entry.body += chunk;
  const { pathname, searchParams } = new URL(request.url ?? "", "http://upstream");
  if (pathname === "/no-answer") return;
  response.writeHead(Number(pathname.slice(1)), { "content-type": "text/plain" });
  response.flushHeaders();
  for (let chunk = 0; chunk < Number(searchParams.get("chunks") ?? 1); chunk++) {
    response.write(`chunk ${chunk};`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  const end = searchParams.get("end") ?? "close";
  if (end === "close") response.end();
  if (end === "break") response.destroy();
}

async function listen(starting: Server): Promise<string> {
  starting.listen(0, "127.0.0.1");
  await once(starting, "listening");
  return `http://127.0.0.1:${(starting.address() as AddressInfo).port}`;
}

async function stop(stopping: Server): Promise<void> {
  stopping.closeAllConnections();
  stopping.close();
  await once(stopping, "close");
}

function call(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = { authorization: `Bearer ${secret}`, ...init.headers };
  return fetch(`http://127.0.0.1:${port}${path}`, { ...init, headers });
}

/** A request on a bare socket, which can be cut at any byte. */
function rawCall(path: string, lines: readonly string[] = [], body = ""): Socket {
  const socket = connect(port, "127.0.0.1");
  socket.on("error", () => {});
  const head = [`POST ${path} HTTP/1.1`, "Host: localhost", `Authorization: Bearer ${secret}`, ...lines];
  socket.write(`${head.join("\r\n")}\r\n\r\n${body}`);
  return socket;
}

async function quota(): Promise<{ used: number; held: number }> {
  const { used, held } = ((await gate.keys.get(keyId)) as KeyView).quota;
  return { used, held };
}

/** The adapter does not wait for the end to be stored, so this does. */
async function expectQuota(used: number, held = 0): Promise<void> {
  await vi.waitFor(async () => expect(await quota()).toEqual({ used, held }), {
    timeout: 5_000,
    interval: 5,
  });
  // Nothing may come after it: an end is booked once.
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(await quota()).toEqual({ used, held });
}

describe("ends that are booked", () => {
  test("an answer with a body", async () => {
    const response = await call("/200");
    expect(await response.text()).toBe("chunk 0;");
    await expectQuota(1);
  });

  test("an answer without a body", async () => {
    expect((await call("/204?chunks=0")).status).toBe(204);
    await expectQuota(1);
  });

  test("HEAD", async () => {
    expect((await call("/200", { method: "HEAD" })).status).toBe(200);
    await expectQuota(1);
  });

  test("what the handler observed, instead of the estimate", async () => {
    await (await call("/200?observe=0")).text();
    await expectQuota(0);
    await (await call("/200?observe=7")).text();
    await expectQuota(7);
  });

  test("a stream that the upstream ends: held until then, booked after", async () => {
    const response = await call("/200?chunks=20");
    const reader = response.body?.getReader();
    await reader?.read();
    expect(await quota()).toEqual({ used: 0, held: 1 });
    while (!(await reader?.read())?.done);
    await expectQuota(1);
  });

  test.each([0, 3])("a stream that the upstream breaks after %i chunks", async (chunks) => {
    const response = await call(`/200?chunks=${chunks}&end=break&observe=3`);
    await expect(response.text()).rejects.toThrow();
    await expectQuota(3);
  });

  test("a stream that never ends stays held, until its client goes; then the upstream is let go too", async () => {
    const client = new AbortController();
    const response = await call("/200?chunks=2&end=never&observe=5", { signal: client.signal });
    await response.body?.getReader().read();
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(await quota()).toEqual({ used: 0, held: 1 });
    client.abort();
    await expectQuota(5);
    await vi.waitFor(() => expect(arrived[0]?.gone).toBe(true));
  });

  test("a client that is cut off in the middle of a stream", async () => {
    const socket = rawCall("/200?chunks=1000&observe=4", ["Content-Length: 0"]);
    await once(socket, "data");
    socket.destroy();
    await expectQuota(4);
    await vi.waitFor(() => expect(arrived[0]?.gone).toBe(true));
  });

  test("a client that goes after the head, before the first byte of the body", async () => {
    const socket = rawCall("/200?chunks=0&end=never", ["Content-Length: 0"]);
    await once(socket, "data");
    socket.destroy();
    await expectQuota(1);
  });

  test("a client that goes before the upstream has answered", async () => {
    const socket = rawCall("/no-answer", ["Content-Length: 0"]);
    await vi.waitFor(() => expect(arrived).toHaveLength(1));
    socket.destroy();
    await expectQuota(1);
    await vi.waitFor(() => expect(arrived[0]?.gone).toBe(true));
  });

  test("a client that goes while the handler works, and the handler answers nobody", async () => {
    const socket = rawCall("/wait-for-client", ["Content-Length: 0"]);
    await vi.waitFor(async () => expect(await quota()).toEqual({ used: 0, held: 1 }));
    socket.destroy();
    await expectQuota(1);
  });
});

describe("ends that give everything back", () => {
  test.each(["/400", "/404", "/500?chunks=3", "/502?end=break"])(
    "an error of the upstream: %s",
    async (path) => {
      await (await call(path)).text().catch(() => {});
      await expectQuota(0);
    },
  );

  test("a handler that throws", async () => {
    const response = await call("/throw");
    expect([response.status, await response.text()]).toEqual([500, "thrown"]);
    expect(response.headers.get("x-request-id")).toMatch(/^req_/);
    await expectQuota(0);
  });

  test("an upstream that cannot be reached", async () => {
    const url = upstreamUrl;
    upstreamUrl = "http://127.0.0.1:1";
    expect((await call("/200")).status).toBe(500);
    upstreamUrl = url;
    await expectQuota(0);
  });

  test("a client that goes while it sends its body was never admitted", async () => {
    const socket = rawCall("/200", ["Content-Type: application/json", "Content-Length: 1000"], '{"model":');
    await new Promise((resolve) => setTimeout(resolve, 50));
    socket.destroy();
    await expectQuota(0);
    expect(arrived).toEqual([]);
  });
});

describe("on the wire", () => {
  test("a body arrives at the upstream as it was sent, without the credential", async () => {
    const body = `{ "model": "m",\n "text": "${"ä🔑".repeat(50_000)}" }`;
    const headers = { "content-type": "application/json", "x-api-key": "sk-another" };
    await (await call("/200", { method: "POST", body, headers })).text();
    expect(arrived[0]?.body === body).toBe(true);
    expect(arrived[0]?.headers).toMatchObject({ "content-type": "application/json" });
    expect(Object.keys(arrived[0]?.headers ?? {})).not.toContain("authorization");
    expect(Object.keys(arrived[0]?.headers ?? {})).not.toContain("x-api-key");
  });

  test("the socket's peer is judged, whatever a header says", async () => {
    const elsewhere = await gate.keys.issue({ allowedIps: ["203.0.113.7"] });
    const headers = { authorization: `Bearer ${elsewhere.secret}`, "x-forwarded-for": "203.0.113.7" };
    const response = await call("/200", { headers });
    expect(response.status).toBe(403);
    expect(await response.json()).toMatchObject({ error: { code: "ip_not_allowed" } });
  });

  test.each([
    ["two Authorization fields", ["Authorization: Bearer sk-other"]],
    ["two of them, the second empty", ["Authorization:"]],
  ])("%s are one too many", async (_, lines) => {
    const socket = rawCall("/200", [...lines, "Content-Length: 0", "Connection: close"]);
    const [first] = (await once(socket, "data")) as [Buffer];
    expect(first.toString()).toMatch(/^HTTP\/1\.1 401 /);
    socket.destroy();
    expect(arrived).toEqual([]);
  });

  test("a refusal from the headers alone while a large body is still coming", async () => {
    const response = await fetch(`http://127.0.0.1:${port}/200`, {
      method: "POST",
      body: new Uint8Array(20_000_000),
      headers: { "content-type": "application/json" },
    });
    expect(response.status).toBe(401);
    expect(await response.json()).toMatchObject({ error: { code: "missing_api_key" } });
    await expectQuota(0);
  });

  test("an answer of the upstream keeps its type and its bytes", async () => {
    const response = await call("/200?chunks=3");
    expect(response.headers.get("content-type")).toBe("text/plain");
    expect(await response.text()).toBe("chunk 0;chunk 1;chunk 2;");
  });
});

describe("a body that was judged", () => {
  const READS: Readonly<Record<string, (c: Context) => Promise<string>>> = {
    "as text": (c) => c.req.text(),
    "as JSON": async (c) => JSON.stringify(await c.req.json()),
    "as bytes": async (c) => new TextDecoder().decode(await c.req.arrayBuffer()),
    "from the request": (c) => c.req.raw.text(),
    "from its stream": (c) => new Response(c.req.raw.body).text(),
    "from a copy": (c) => c.req.raw.clone().text(),
    "from another request": (c) => new Request(c.req.raw).text(),
  };
  const BEFORE: Readonly<Record<string, (c: Context) => unknown>> = {
    "that nobody has touched": () => {},
    "that was looked at": (c) => c.req.raw.body,
    "that was copied": (c) => c.req.raw.clone().text(),
    "of a request made anew": (c) => {
      c.req.raw = new Request(c.req.raw);
    },
  };

  async function serve(
    before: (c: Context) => unknown,
    read: (c: Context) => Promise<string>,
    maxBodyBytes = 2_000_000,
  ): Promise<string> {
    const app = new Hono();
    app.use(async (c, next) => {
      await before(c);
      await next();
    });
    app.use(keystile(gate, { maxBodyBytes }));
    app.post("*", async (c) => c.text(await read(c)));
    await stop(server);
    server = createAdaptorServer({ fetch: app.fetch }) as Server;
    return listen(server);
  }

  async function post(url: string, body: string | ReadableStream, key = secret): Promise<Response> {
    const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
    return fetch(url, { method: "POST", headers, body, duplex: "half" } as RequestInit);
  }

  const every = Object.keys(BEFORE).flatMap((before) =>
    Object.keys(READS).map((read) => [before, read] as const),
  );
  test.each(every)("%s is read %s, short or long, at once or in pieces", async (before, read) => {
    const url = await serve(BEFORE[before] as (typeof BEFORE)[string], READS[read] as (typeof READS)[string]);
    for (const length of [1, 300_000]) {
      const body = JSON.stringify({ model: "gpt-5", text: "ä".repeat(length) });
      expect((await (await post(url, body)).text()) === body).toBe(true);
      expect((await (await post(url, new Blob([body]).stream())).text()) === body).toBe(true);
    }
  });

  test.each(Object.keys(READS))("beyond the bound is still read %s", async (read) => {
    const url = await serve(() => {}, READS[read] as (typeof READS)[string], 1_000);
    const body = JSON.stringify({ text: "ä".repeat(100_000) });
    expect((await (await post(url, body)).text()) === body).toBe(true);
    expect((await (await post(url, new Blob([body]).stream())).text()) === body).toBe(true);
  });

  test("is the one that handlers get, whatever was sent", async () => {
    const listed = await gate.keys.issue({ allowedModels: ["gpt-*"] });
    const url = await serve(
      (c) => {
        c.req.raw = new Request(c.req.raw, { body: '{"model":"claude-5"}' });
      },
      (c) => c.req.text(),
    );
    const response = await post(url, '{"model":"gpt-5"}', listed.secret);
    expect(response.status).toBe(403);
    expect(await response.json()).toMatchObject({ error: { code: "model_access_denied" } });
  });
});

test("300 requests at once that end in every way: the sum is exact", async () => {
  const ways: readonly [path: string, leave: boolean, booked: number][] = [
    ["/200?chunks=3&observe=2", false, 2],
    ["/204?chunks=0", false, 1],
    ["/500?observe=9", false, 0],
    ["/throw", false, 0],
    ["/200?chunks=3&end=break&observe=2", false, 2],
    ["/200?chunks=2&end=never&observe=4", true, 4],
  ];
  let expected = 0;
  const calls = Array.from({ length: 300 }, async (_, at) => {
    const [path, leave, booked] = ways[at % ways.length] as (typeof ways)[number];
    expected += booked;
    const client = new AbortController();
    const response = await call(path, { signal: client.signal });
    if (leave) {
      await response.body?.getReader().read();
      client.abort();
    } else {
      await response.text().catch(() => {});
    }
  });
  await Promise.all(calls);
  await expectQuota(expected);
});
