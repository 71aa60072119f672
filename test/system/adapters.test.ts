import type { Server } from "node:http";
import { connect } from "node:net";
import { gzipSync } from "node:zlib";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import WebSocket, { WebSocketServer } from "ws";
import { guardUpgrade } from "../../src/adapters/node.js";
import { createKeystile, type Keystile, type KeyView } from "../../src/index.js";
import { memoryStore } from "../../src/stores/memory.js";
import {
  type Common,
  exchange,
  listen,
  parseAnswer,
  SERVERS,
  stop,
  type WireAnswer,
} from "./adapters-servers.js";
import { breakable } from "./breakable-store.js";

/*
 * One table of behaviour for all adapters, over real sockets: the same bytes get the same answer, whatever the framework.
 */

const NAMES = Object.keys(SERVERS);
const unhandled: unknown[] = [];
const noteUnhandled = (reason: unknown): void => void unhandled.push(reason);

let gate: Keystile;
let storeIsDown = false;
let ports: Map<string, number>;
const servers: Server[] = [];
const secrets: Record<string, string> = {};

beforeAll(async () => {
  process.on("unhandledRejection", noteUnhandled);
  process.on("uncaughtException", noteUnhandled);
  vi.spyOn(console, "error").mockImplementation(() => {});
  gate = createKeystile({
    store: breakable(memoryStore(), () => storeIsDown),
    drainMs: 0,
    trustedProxies: ["127.0.0.0/8"],
    credentials: ["bearer", "x-api-key", "websocket-protocol"],
  });
  const listed = { allowedModels: ["gpt-*"] };
  secrets["OPEN"] = (await gate.keys.issue({ limits: [{ requests: 1_000_000, windowMs: 60_000 }] })).secret;
  secrets["LISTED"] = (await gate.keys.issue(listed)).secret;
  secrets["THERE"] = (await gate.keys.issue({ allowedIps: ["203.0.113.7"] })).secret;
  secrets["SPENT"] = (await gate.keys.issue({ quota: 0 })).secret;
  ports = await start();
});

afterEach(() => {
  expect(unhandled.splice(0)).toEqual([]);
});

afterAll(async () => {
  await Promise.all(servers.map(stop));
  await gate.close();
  process.off("unhandledRejection", noteUnhandled);
  process.off("uncaughtException", noteUnhandled);
});

async function start(options?: Common): Promise<Map<string, number>> {
  const started = NAMES.map(async (name) => {
    const server = (await SERVERS[name]?.(gate, options)) as Server;
    servers.push(server);
    return [name, await listen(server)] as const;
  });
  return new Map(await Promise.all(started));
}

interface Row {
  readonly line?: string;
  /** Fields of the head. `$OPEN` and the like stand for secrets. Default: a key that may do anything. */
  readonly fields?: readonly string[];
  readonly body?: string | Uint8Array;
  /** 200 with what the handler saw of the request, or a refusal with its public code. */
  readonly answer: readonly [status: number, seen?: unknown];
  readonly headers?: Readonly<Record<string, unknown>>;
}

const OPEN = "Authorization: Bearer $OPEN";
const LISTED = "Authorization: Bearer $LISTED";
const JSON_TYPE = "Content-Type: application/json";
const ok = [200, { model: "gpt-5" }] as const;
const invalid = [401, "invalid_api_key"] as const;
const undetermined = [403, "model_access_denied"] as const;

/** A JSON body of a key with a list of models. */
function listed(body: string | Uint8Array, answer: Row["answer"], ...fields: readonly string[]): Row {
  return { line: "POST /v1/chat/completions", fields: [LISTED, JSON_TYPE, ...fields], body, answer };
}

const multipart = [
  '--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\0\r\n',
  '--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nNAME\r\n--b--\r\n',
].join("");
const asMultipart = "Content-Type: multipart/form-data; boundary=b";

const TABLE: Readonly<Record<string, Row>> = {
  // The table of credentials.
  "no credential": {
    fields: [],
    answer: [401, "missing_api_key"],
    headers: { "www-authenticate": 'Bearer realm="api"', "cache-control": "no-store" },
  },
  "Bearer and x-api-key: Bearer is judged": { fields: [OPEN, "x-api-key: sk-other"], answer: [200] },
  "Bearer and x-api-key: even if it is bad": {
    fields: ["Authorization: Bearer x", "x-api-key: $OPEN"],
    answer: invalid,
  },
  "Basic, with a good x-api-key": {
    fields: ["Authorization: Basic eDp5", "x-api-key: $OPEN"],
    answer: invalid,
  },
  "an empty Authorization, with a good x-api-key": {
    fields: ["Authorization:", "x-api-key: $OPEN"],
    answer: invalid,
  },
  "three parts": { fields: ["Authorization: Bearer $OPEN x"], answer: invalid },
  "two Authorization fields": { fields: [OPEN, LISTED], answer: invalid },
  "two Authorization fields, alike": { fields: [OPEN, OPEN], answer: invalid },
  "two Authorization fields, the first empty": { fields: ["Authorization:", OPEN], answer: invalid },
  "two Authorization fields, the second empty": { fields: [OPEN, "Authorization:"], answer: invalid },
  "two Authorization fields, in another case": {
    fields: [OPEN, "AUTHORIZATION: Bearer $OPEN"],
    answer: invalid,
  },
  "two joined in one": { fields: ["Authorization: Bearer $OPEN, Bearer $OPEN"], answer: invalid },
  "two x-api-key fields": { fields: ["x-api-key: $OPEN", "X-Api-Key: $OPEN"], answer: invalid },
  "a comma in x-api-key": { fields: ["x-api-key: $OPEN,"], answer: invalid },
  "only x-api-key": { fields: ["x-api-key: $OPEN"], answer: [200] },
  "a name with an underscore": { fields: ["x_api_key: $OPEN"], answer: [401, "missing_api_key"] },
  bearer: { fields: ["authorization: bearer $OPEN"], answer: [200] },
  "BEARER and eight spaces": { fields: ["AUTHORIZATION: BEARER        $OPEN"], answer: [200] },
  "nine spaces": { fields: ["Authorization: Bearer         $OPEN"], answer: invalid },
  "a tab": { fields: ["Authorization: Bearer\t$OPEN"], answer: invalid },
  "blanks around the value": { fields: ["Authorization: \t Bearer $OPEN \t "], answer: [200] },
  "a byte beyond ASCII": { fields: ["Authorization: Bearer $OPEN\u00e9"], answer: invalid },
  "NBSP after the key": { fields: ["Authorization: Bearer $OPEN\u00a0"], answer: invalid },
  "a spent key": {
    fields: ["Authorization: Bearer $SPENT"],
    answer: [402, "quota_exceeded"],
    headers: { "x-should-retry": "false" },
  },

  // Bodies, on a key that may use gpt-* only.
  "a model on the list": listed('{"model":"gpt-5"}', ok),
  "a model not on the list": listed('{"model":"claude-5"}', undetermined, "Accept: text/event-stream"),
  "a model on the list, on an odd route": {
    ...listed('{"model":"gpt-5"}', undetermined),
    line: "POST //V1/%76%31",
  },
  "model twice": listed('{"model":"claude-5","model":"gpt-5"}', undetermined),
  "model twice, once escaped": listed('{"\\u006dodel":"claude-5","model":"gpt-5"}', undetermined),
  "model in another case": listed('{"model":"gpt-5","Model":"claude-5"}', undetermined),
  "another member twice": listed('{"model":"gpt-5","n":1,"n":2}', undetermined),
  "an escaped name": listed('{"\\u006dodel":"gpt-5"}', ok),
  "a member __proto__": listed('{"model":"gpt-5","__proto__":{"a":1}}', ok),
  gzip: listed(gzipSync('{"model":"gpt-5"}'), undetermined, "Content-Encoding: gzip"),
  "UTF-16": listed(Buffer.from('{"model":"gpt-5"}', "utf16le"), undetermined),
  "UTF-16 that says so": {
    ...listed(Buffer.from('{"model":"gpt-5"}', "utf16le"), undetermined),
    fields: [LISTED, "Content-Type: application/json; charset=utf-16"],
  },
  "a byte order mark": listed('\ufeff{"model":"gpt-5"}', undetermined),
  "bytes that are not UTF-8": listed(Buffer.from('{"model":"gpt-5","a":"\xff"}', "latin1"), undetermined),
  "no content type": { ...listed('{"model":"gpt-5"}', undetermined), fields: [LISTED] },
  "text/plain": {
    ...listed('{"model":"gpt-5"}', undetermined),
    fields: [LISTED, "Content-Type: text/plain"],
  },
  "two content types": listed('{"model":"gpt-5"}', undetermined, "Content-Type: text/plain"),
  "+json": { ...listed('{"model":"gpt-5"}', ok), fields: [LISTED, "Content-Type: application/x+json"] },
  "no body": { line: "POST /v1/chat", fields: [LISTED, JSON_TYPE], answer: undetermined },
  "an empty body": listed("", undetermined),
  "JSON that is not": listed("{model:gpt-5}", undetermined),
  "a top-level string": listed('"gpt-5"', undetermined),
  "multipart, the model after the file": {
    ...listed(multipart.replace("NAME", "gpt-5"), ok),
    fields: [LISTED, asMultipart],
  },
  "multipart, a model not on the list": {
    ...listed(multipart.replace("NAME", "claude-5"), undetermined),
    fields: [LISTED, asMultipart],
  },
  "beyond the bound": listed(JSON.stringify({ model: "gpt-5", text: "x".repeat(11_000_000) }), undetermined),
  "beyond the bound, without a list": {
    line: "POST /v1/big?chunks=1",
    fields: [OPEN, JSON_TYPE],
    body: "x".repeat(11_000_000),
    answer: [200],
  },
  "at half a megabyte": listed(JSON.stringify({ model: "gpt-5", text: "x".repeat(500_000) }), ok),
  "GET with a body": { ...listed('{"model":"gpt-5"}', undetermined), line: "GET /v1/chat/completions" },
  "the model of an Azure path": {
    ...listed("{}", ok),
    line: "POST /openai/deployments/gpt-5/chat/completions?api-version=1",
  },
  "a path that climbs": {
    ...listed("{}", undetermined),
    line: "POST /openai/deployments/gpt-5/../claude-5/chat/completions",
  },
  "a path that climbs in disguise": {
    ...listed("{}", undetermined),
    line: "POST /openai/deployments/gpt-5/%2e%2e/claude-5/chat/completions",
  },
  "the model of a Gemini path": { ...listed("{}", ok), line: "POST /v1beta/models/gpt-5:generateContent" },
  "the model of a realtime query": { line: "GET /v1/realtime?model=gpt-5", fields: [LISTED], answer: ok },
  "a body of a key without lists, as it was sent": {
    ...listed('{ "model":"a", "model":"b",\n"n":1.0 }', [
      200,
      { body: '{ "model":"a", "model":"b",\n"n":1.0 }' },
    ]),
    fields: [OPEN, JSON_TYPE],
  },

  // Paths and methods: no spelling goes around the guard.
  ...Object.fromEntries(
    [
      "//v1/chat",
      "/V1/chat",
      "/%76%31/chat",
      "/v1%2fchat",
      "/./v1/chat",
      "/x/../v1/chat",
      "/v1;a=b/chat",
    ].flatMap((path) => [
      [`${path} without a key`, { line: `GET ${path}`, fields: [], answer: [401, "missing_api_key"] }],
      [`${path} with one`, { line: `GET ${path}`, answer: [200] }],
    ]),
  ),
  ...Object.fromEntries(
    ["HEAD", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"].map((method) => [
      `${method} without a key`,
      {
        line: `${method} /v1/chat`,
        fields: [],
        answer: [401, method === "HEAD" ? undefined : "missing_api_key"],
      },
    ]),
  ),
  "HEAD with a key": { line: "HEAD /v1/chat", answer: [200] },
  preflight: {
    line: "OPTIONS /v1/chat",
    fields: ["Origin: https://app.example", "Access-Control-Request-Method: POST"],
    answer: [204],
  },
  "half a preflight": {
    line: "OPTIONS /",
    fields: ["Origin: https://app.example"],
    answer: [401, "missing_api_key"],
  },

  // Proxies: the peer is one that is trusted.
  "a proxy that says nothing": { fields: ["Authorization: Bearer $THERE"], answer: [403, "ip_not_allowed"] },
  ...Object.fromEntries(
    (
      [
        ["the client, by a trusted proxy", ["203.0.113.7"], true],
        ["a forged hop before another client", ["203.0.113.7, 198.51.100.1"], false],
        ["a forged field before that of the proxy", ["203.0.113.7", "198.51.100.1"], false],
        ["two trusted hops in two fields", ["6.6.6.6, 203.0.113.7", "127.0.0.9"], true],
        ["a hop that is no address", ["203.0.113.7, unknown"], false],
        ["a hop with a port", ["203.0.113.7:5555"], false],
      ] as const
    ).map(([name, forwarded, passes]) => [
      name,
      {
        fields: ["Authorization: Bearer $THERE", ...forwarded.map((value) => `X-Forwarded-For: ${value}`)],
        answer: passes ? [200] : [403, "ip_not_allowed"],
      },
    ]),
  ),

  // Forms of refusals.
  "a Gemini path": {
    line: "POST /v1beta/models/claude-5:generateContent",
    fields: [LISTED, JSON_TYPE],
    body: "{}",
    answer: [403, { code: 403, status: "PERMISSION_DENIED" }],
    headers: { "content-type": "application/json" },
  },
  "problem details, asked for": {
    fields: ["Accept: application/problem+json, application/json"],
    answer: [401, "missing_api_key"],
    headers: { "content-type": "application/problem+json" },
  },
  "anything else, accepted": { fields: ["Accept: */*"], answer: [401, "missing_api_key"] },

  // Answers.
  "a stream": { line: "GET /?chunks=5", answer: [200, "chunk 0;chunk 1;chunk 2;chunk 3;chunk 4;"] },
  "an error of the handler": { line: "GET /?status=418&chunks=1", answer: [418, "chunk 0;"] },
  "a throw of the handler": { line: "GET /?throw", answer: [500, "thrown"] },
  "an upgrade without a listener": {
    line: "GET /v1/realtime?model=x",
    fields: ["Connection: Upgrade", "Upgrade: websocket"],
    answer: [401, "missing_api_key"],
  },
};

function bytesOf({ line = "GET /v1/chat", fields = [OPEN], body = "" }: Row): Buffer {
  const content = typeof body === "string" ? Buffer.from(body) : body;
  const length =
    content.length === 0 && !line.startsWith("POST") ? [] : [`Content-Length: ${content.length}`];
  const close = fields.some((field) => field.startsWith("Connection:")) ? [] : ["Connection: close"];
  const head = [`${line} HTTP/1.1`, "Host: localhost", ...fields, ...length, ...close, "", ""].join("\r\n");
  const named = head.replace(/\$([A-Z]+)/g, (_, name: string) => secrets[name] ?? "");
  return Buffer.concat([Buffer.from(named, "latin1"), content]);
}

/** What has to be alike: the body but for the id, and every field that is ours. */
function comparable({ status, headers, body }: WireAnswer): object {
  const requestId = headers["x-request-id"] ?? "";
  expect(requestId).toMatch(/^req_[0-9a-f]{32}$/);
  expect(headers["request-id"]).toBe(requestId);
  const names = ["content-type", "cache-control", "www-authenticate", "retry-after", "x-should-retry"];
  const limits = Object.keys(headers).filter((name) => name.startsWith("x-ratelimit"));
  const ours = names.map((name) => [name, headers[name]?.replace(/; ?charset.*/i, "")] as const);
  return { status, ours: status === 500 ? [] : ours, limits, body: body.replaceAll(requestId, "req") };
}

function seen({ body }: WireAnswer): unknown {
  try {
    const { error, code, ...rest } = JSON.parse(body) as { error?: { code?: unknown }; code?: unknown };
    if (typeof error?.code === "number") return error;
    return error?.code ?? code ?? rest;
  } catch {
    return body;
  }
}

describe("the same bytes, the same answer", () => {
  test.each(Object.entries(TABLE))("%s", async (_, row) => {
    const answers = await Promise.all(
      NAMES.map(async (name) => [name, await exchange(ports.get(name) as number, bytesOf(row))] as const),
    );
    const [status, what] = row.answer;
    for (const [name, answer] of answers) {
      expect({ name, status: answer.status }).toEqual({ name, status });
      const got = seen(answer);
      if (typeof what === "object") expect(got).toMatchObject(what as object);
      else if (what !== undefined) expect(got).toBe(what);
      if (row.headers !== undefined) expect(answer.headers).toMatchObject(row.headers);
    }
    const first = comparable((answers[0] as (typeof answers)[number])[1]);
    for (const [name, answer] of answers) expect({ name, ...comparable(answer) }).toEqual({ name, ...first });
  });

  test("whoever proved to hold a key is told the limits, allowed or not", async () => {
    for (const port of ports.values()) {
      const { headers } = await exchange(port, bytesOf({ answer: [200] }));
      expect(headers).toMatchObject({ "x-ratelimit-limit": "1000000" });
      expect(Number(headers["x-ratelimit-remaining"])).toBeLessThan(1_000_000);
    }
  });

  test("a fault is a 503", async () => {
    storeIsDown = true;
    try {
      const answers = await Promise.all(
        [...ports.values()].map((port) =>
          exchange(port, bytesOf({ fields: [`Authorization: Bearer sk-${"u".repeat(48)}`], answer: [503] })),
        ),
      );
      for (const answer of answers) {
        expect(answer.status).toBe(503);
        expect(answer.headers["retry-after"]).toBe("1");
        expect(comparable(answer)).toEqual(comparable(answers[0] as WireAnswer));
      }
    } finally {
      storeIsDown = false;
    }
  });

  test("a body in many packets, chunked, with and without an end of its own", async () => {
    const head = bytesOf({
      line: "PUT /v1/x",
      fields: [LISTED, JSON_TYPE, "Transfer-Encoding: chunked"],
      answer: [200],
    });
    for (const port of ports.values()) {
      const answer = await exchange(port, head, '8\r\n{"model"\r\n', '9\r\n:"gpt-5"}\r\n', "0\r\n", "\r\n");
      expect(seen(answer)).toEqual({ model: "gpt-5", estimate: 1, body: '{"model":"gpt-5"}' });
    }
  });

  test("two requests on one connection, the first refused with its body unread", async () => {
    const refused = bytesOf({
      line: "POST /v1/x",
      fields: [LISTED, JSON_TYPE, "Connection: keep-alive"],
      body: JSON.stringify({ model: "claude-5", text: "x".repeat(300_000) }),
      answer: [403],
    });
    const second = bytesOf({ line: "GET /v1/second", answer: [200] });
    for (const port of ports.values()) {
      const socket = connect(port, "127.0.0.1");
      let text = "";
      socket.on("data", (chunk) => {
        text += chunk.toString("latin1");
      });
      socket.write(refused);
      await vi.waitFor(() => expect(text).toMatch(/^HTTP\/1.1 403 /));
      text = "";
      socket.write(second);
      await vi.waitFor(() => expect(text).toMatch(/^HTTP\/1.1 200 /), 3_000);
      socket.destroy();
    }
  });
});

describe("options", () => {
  test("cost and scopes, bounds and routes without a model", async () => {
    const perTest = await start({
      cost: (_, body) => (body as { n: number }).n,
      model: () => null,
      maxBodyBytes: 30,
    });
    const row = { line: "POST /v1/x", fields: [LISTED, JSON_TYPE], body: '{"n":7}', answer: [200] } as const;
    for (const port of perTest.values()) {
      expect(seen(await exchange(port, bytesOf(row)))).toMatchObject({ estimate: 7, model: null });
      const beyond = await exchange(port, bytesOf({ ...row, body: `{"n":7,"text":"${"x".repeat(30)}"}` }));
      expect([beyond.status, beyond.body.includes("undefined")]).toEqual([500, true]);
    }
    for (const scopes of [["admin"], () => ["admin"]]) {
      for (const port of (await start({ scopes })).values()) {
        expect(seen(await exchange(port, bytesOf({ answer: [403] })))).toBe("access_denied");
      }
    }
    const partly = await start({ model: (_, body, named) => (body === undefined ? null : named()) });
    for (const port of partly.values()) {
      expect(seen(await exchange(port, bytesOf({ ...row, body: "" })))).toMatchObject({ model: null });
      const model = seen(await exchange(port, bytesOf({ ...row, body: '{"model":"gpt-5"}' })));
      expect(model).toMatchObject({ model: "gpt-5" });
    }
  });
});

describe.each(NAMES)("%s: every way an answer ends, exactly once", (name) => {
  let secret: string;
  let keyId: string;

  async function fresh(): Promise<void> {
    const issued = await gate.keys.issue({ quota: 100 });
    secret = issued.secret;
    keyId = issued.key.id;
  }

  async function expectQuota(used: number, held = 0): Promise<void> {
    const quota = async () => {
      const view = ((await gate.keys.get(keyId)) as KeyView).quota;
      return { used: view.used, held: view.held };
    };
    await vi.waitFor(async () => expect(await quota()).toEqual({ used, held }), {
      timeout: 3_000,
      interval: 5,
    });
    await new Promise((resolve) => setTimeout(resolve, 15));
    expect(await quota()).toEqual({ used, held });
  }

  /** Sends a request on a socket that can be cut, and resolves when the first bytes of an answer are there. */
  async function open(path: string, fields: readonly string[] = [], body = "") {
    const socket = connect(ports.get(name) as number, "127.0.0.1");
    socket.on("error", () => {});
    const head = [`POST ${path} HTTP/1.1`, "Host: x", `Authorization: Bearer ${secret}`, ...fields, "", body];
    socket.write(head.join("\r\n"));
    return socket;
  }

  function call(path: string, init: RequestInit = {}): Promise<Response> {
    const headers = { authorization: `Bearer ${secret}` };
    return fetch(`http://127.0.0.1:${ports.get(name)}${path}`, { headers, ...init });
  }

  test.each([
    ["an answer", "/", 1],
    ["an empty answer", "/?status=204", 1],
    ["a stream", "/?chunks=20", 1],
    ["what was observed", "/?observe=7&chunks=2", 7],
    ["nothing observed", "/?observe=0", 0],
    ["a stream that breaks", "/?chunks=3&end=break&observe=3", 3],
    ["a redirect", "/?status=302", 1],
    ["an error", "/?status=400", 0],
    ["an error that breaks", "/?status=502&chunks=2&end=break", 0],
    ["a throw", "/?throw&observe=5", 0],
  ])("%s", async (_, path, used) => {
    await fresh();
    await (await call(path, { redirect: "manual" })).text().catch(() => {});
    await expectQuota(used);
  });

  test("HEAD", async () => {
    await fresh();
    expect((await call("/", { method: "HEAD" })).status).toBe(200);
    await expectQuota(1);
  });

  test("a body that the handler never reads", async () => {
    await fresh();
    await (await call("/", { method: "POST", body: "x".repeat(1_000_000) })).text();
    await expectQuota(1);
  });

  test("a client that goes in the middle of a stream that never ends: held until then", async () => {
    await fresh();
    const client = new AbortController();
    const response = await call("/?chunks=2&end=never&observe=5", { signal: client.signal });
    await response.body?.getReader().read();
    await expectQuota(0, 1);
    client.abort();
    await expectQuota(5);
  });

  test("a client that goes while it sends its body was never admitted", async () => {
    await fresh();
    const socket = await open("/", ["Content-Type: application/json", "Content-Length: 1000"], '{"model":');
    await new Promise((resolve) => setTimeout(resolve, 40));
    socket.destroy();
    await new Promise((resolve) => setTimeout(resolve, 40));
    await expectQuota(0);
  });

  test("a client that goes at once", async () => {
    await fresh();
    (await open("/?end=never", ["Content-Length: 0"])).destroy();
    await new Promise((resolve) => setTimeout(resolve, 40));
    const { held } = ((await gate.keys.get(keyId)) as KeyView).quota;
    expect(held).toBe(0);
  });

  test("60 at once in every way: the sum is exact", async () => {
    await fresh();
    const ways = [
      ["/?chunks=3&observe=2", 2],
      ["/?status=500&observe=9", 0],
      ["/?throw", 0],
      ["/?chunks=2&end=break&observe=2", 2],
    ] as const;
    const all = Array.from({ length: 60 }, async (_, at) => {
      const [path, cost] = ways[at % ways.length] as (typeof ways)[number];
      await (await call(path)).text().catch(() => {});
      return cost as number;
    });
    const costs = await Promise.all(all);
    await expectQuota(costs.reduce((sum, cost) => sum + cost, 0));
  });
});

describe.each(NAMES)("%s: upgrades with a listener", (name) => {
  test("are judged by it alone, and end with the socket", async () => {
    const server = (await SERVERS[name]?.(gate)) as Server;
    servers.push(server);
    const sockets = new WebSocketServer({
      noServer: true,
      handleProtocols: (offered) => (offered.has("realtime") ? "realtime" : false),
    });
    const faults: unknown[] = [];
    server.on(
      "upgrade",
      guardUpgrade(
        gate,
        (request, socket, head, decision) => {
          if (request.url?.includes("throw")) throw new Error("thrown");
          if (request.url?.includes("reject")) return Promise.reject(new Error("rejected"));
          return sockets.handleUpgrade(request as never, socket as never, head as never, (client) => {
            client.on("message", (text) => {
              decision.observe(Number(String(text)));
              client.send(String(decision.model));
            });
          });
        },
        { onError: (error) => faults.push((error as Error).message) },
      ),
    );
    const port = await listen(server);
    const { secret, key } = await gate.keys.issue({ quota: 100, allowedModels: ["gpt-*"] });
    const quota = async () => ((await gate.keys.get(key.id)) as KeyView).quota;
    const url = (path: string): string => `ws://127.0.0.1:${port}${path}`;
    const authorization = { headers: { authorization: `Bearer ${secret}` } };

    const ask = (path: string, ...fields: string[]) =>
      exchange(
        port,
        [
          `GET ${path} HTTP/1.1`,
          "Host: x",
          "Connection: Upgrade",
          "Upgrade: websocket",
          ...fields,
          "",
          "",
        ].join("\r\n"),
      );
    const refused = await ask("/v1/realtime?model=gpt-5");
    expect(refused.status).toBe(401);
    expect(refused.headers).toMatchObject({ connection: "close", "www-authenticate": 'Bearer realm="api"' });
    expect(seen(refused)).toBe("missing_api_key");
    for (const path of [
      "/v1/realtime?model=claude-5",
      "/v1/realtime",
      "/v1/realtime?model=gpt-5&model=claude-5",
    ]) {
      const answer = await ask(path, `Authorization: Bearer ${secret}`);
      expect([answer.status, seen(answer)]).toEqual([403, "model_access_denied"]);
    }

    const address = url("/v1/realtime?model=gpt-5");
    const ways = [
      () => new WebSocket(address, ["realtime", `openai-insecure-api-key.${secret}`]),
      () => new WebSocket(address, authorization),
    ];
    for (const [at, connectClient] of ways.entries()) {
      const client = connectClient();
      const before = (await quota()).used;
      const said = new Promise((resolve) => client.on("message", (text) => resolve(String(text))));
      await new Promise((resolve) => client.on("open", resolve));
      expect((await quota()).held).toBe(1);
      client.send("7");
      expect(await said).toBe("gpt-5");
      // The item with the key is never the one that is answered.
      expect(client.protocol).toBe(at === 0 ? "realtime" : "");
      client.terminate();
      await vi.waitFor(async () => expect(await quota()).toMatchObject({ used: before + 7, held: 0 }));
    }

    for (const way of ["throw", "reject"]) {
      const cut = new WebSocket(url(`/v1/realtime?model=gpt-5&${way}`), authorization);
      await new Promise((resolve) => cut.on("error", resolve));
    }
    expect(faults).toEqual(["thrown", "rejected"]);
    await vi.waitFor(async () => expect(await quota()).toMatchObject({ used: 14, held: 0 }));
    sockets.close();
  });
});

test("an answer is read as it is on the wire", () => {
  expect(
    parseAnswer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n").body,
  ).toBe("abc");
});
