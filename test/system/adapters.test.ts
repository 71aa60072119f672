import type { Server } from "node:http";
import { type ClientHttp2Session, connect as connectHttp2, constants } from "node:http2";
import { connect } from "node:net";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import WebSocket, { WebSocketServer } from "ws";
import { guardUpgrade } from "../../src/adapters/node.js";
import { createKeystile, type Keystile, type KeyView } from "../../src/index.js";
import { memoryStore } from "../../src/stores/memory.js";
import {
  type Common,
  exchange,
  HTTP2_SERVERS,
  listen,
  parseAnswer,
  planOf,
  SERVERS,
  stop,
  type WireAnswer,
} from "./adapters-servers.js";
import { breakable } from "./breakable-store.js";
import { comparable, JSON_TYPE, LISTED, packetsOf, type Request, seen } from "./wire-requests.js";

/* How all adapters behave over real sockets: faults, options, and how answers end. What they answer is in `wire.test.ts`. */

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

function bytesOf(request: Request): Buffer {
  return Buffer.concat(packetsOf(request, secrets));
}

describe("every adapter", () => {
  test("whoever proved to hold a key is told the limits, allowed or not", async () => {
    for (const port of ports.values()) {
      const { headers } = await exchange(port, bytesOf({}));
      expect(headers).toMatchObject({ "x-ratelimit-limit": "1000000" });
      expect(Number(headers["x-ratelimit-remaining"])).toBeLessThan(1_000_000);
    }
  });

  test("a fault is a 503", async () => {
    storeIsDown = true;
    try {
      const answers = await Promise.all(
        [...ports.values()].map((port) =>
          exchange(port, bytesOf({ fields: [`Authorization: Bearer sk-${"u".repeat(48)}`] })),
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
    });
    const second = bytesOf({ line: "GET /v1/second" });
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
    const row = { line: "POST /v1/x", fields: [LISTED, JSON_TYPE], body: '{"n":7}' } as const;
    for (const port of perTest.values()) {
      expect(seen(await exchange(port, bytesOf(row)))).toMatchObject({ estimate: 7, model: null });
      const beyond = await exchange(port, bytesOf({ ...row, body: `{"n":7,"text":"${"x".repeat(30)}"}` }));
      expect([beyond.status, beyond.body.includes("undefined")]).toEqual([500, true]);
    }
    for (const scopes of [["admin"], () => ["admin"]]) {
      for (const port of (await start({ scopes })).values()) {
        expect(seen(await exchange(port, bytesOf({})))).toBe("access_denied");
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

describe.each([
  ["HTTP/1.1", SERVERS],
  ["HTTP/2", HTTP2_SERVERS],
] as const)("a client that goes, over %s", (version, kinds) => {
  /** Sends a head and some of its body; calls back at the first byte of an answer. Returns what gives it up. */
  function begin(
    port: number,
    secret: string,
    path: string,
    body: string,
    isWhole: boolean,
    onData: () => void,
  ) {
    const fields = { authorization: `Bearer ${secret}`, "content-type": "application/json" };
    if (version === "HTTP/1.1") {
      const socket = connect(port, "127.0.0.1")
        .on("error", () => {})
        .on("data", onData);
      const lines = Object.entries(fields).map(([name, value]) => `${name}: ${value}`);
      const length = `Content-Length: ${isWhole ? body.length : 100}`;
      socket.write([`POST ${path} HTTP/1.1`, "Host: x", ...lines, length, "", body].join("\r\n"));
      return () => void socket.destroy();
    }
    const session = connectHttp2(`http://127.0.0.1:${port}`);
    sessions.push(session);
    const stream = session.request({ ":method": "POST", ":path": path, ...fields });
    stream.on("error", () => {}).on("data", onData);
    if (isWhole) stream.end(body);
    else stream.write(body);
    // To close a stream also ends its body properly, so half of one takes the connection along.
    return () => (isWhole ? stream.close(constants.NGHTTP2_CANCEL) : session.destroy());
  }

  const sessions: ClientHttp2Session[] = [];
  const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

  afterAll(() => {
    for (const session of sessions) session.destroy();
  });

  async function open(name: string) {
    const store = memoryStore();
    let onWrite = (): void => {};
    let held = Promise.resolve();
    const write: typeof store.write = async (groups) => {
      onWrite();
      await held;
      return store.write(groups);
    };
    /** From now on a write waits, until `release`; `begun` is when one does. */
    function hold() {
      let release = (): void => {};
      const begun = new Promise<void>((resolve) => {
        onWrite = resolve;
      });
      held = new Promise((resolve) => {
        release = resolve;
      });
      return { begun, release };
    }
    const own = createKeystile({ store: { ...store, write }, drainMs: 0 });
    const handler = vi.fn(planOf);
    const server = (await kinds[name]?.(own, {}, handler)) as Server;
    servers.push(server);
    const port = await listen(server);
    const { secret, key } = await own.keys.issue({ quota: 100 });
    const expectEnd = (runs: number, used: number): Promise<void> =>
      vi.waitFor(async () => {
        const { quota } = (await own.keys.get(key.id)) as KeyView;
        const end = { runs: handler.mock.calls.length, used: quota.used, held: quota.held };
        expect(end).toEqual({ runs, used, held: 0 });
      });
    return { port, secret, hold, expectEnd };
  }

  describe.each(Object.keys(kinds))("%s", (name) => {
    test("while it sends its body: the handler does not run, nothing is charged", async () => {
      const { port, secret, expectEnd } = await open(name);
      const giveUp = begin(port, secret, "/", '{"model":', false, () => {});
      await pause(60);
      giveUp();
      await pause(150);
      await expectEnd(0, 0);
    });

    test("while it is judged: the handler does not run, nothing is charged", async () => {
      const { port, secret, hold, expectEnd } = await open(name);
      const { begun, release } = hold();
      const giveUp = begin(port, secret, "/", '{"model":"a"}', true, () => {});
      await begun;
      giveUp();
      await pause(150);
      release();
      await pause(50);
      await expectEnd(0, 0);
    });

    test("in the middle of a stream: what was observed is charged", async () => {
      const { port, secret, expectEnd } = await open(name);
      let giveUp = (): void => {};
      await new Promise<void>((resolve) => {
        giveUp = begin(port, secret, "/?chunks=2&end=never&observe=5", "{}", true, resolve);
      });
      giveUp();
      await expectEnd(1, 5);
    });
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
