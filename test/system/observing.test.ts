import { once } from "node:events";
import { createServer, type IncomingMessage, type Server } from "node:http";
import { connect } from "node:net";
import express, { type Request, type Response } from "express";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import WebSocket, { WebSocketServer } from "ws";
import * as expressGuard from "../../src/adapters/express.js";
import * as nodeGuard from "../../src/adapters/node.js";
import {
  createKeystile,
  fixedPrice,
  type Keystile,
  type KeystileEvent,
  tokenPrices,
} from "../../src/index.js";
import type { Judged } from "../../src/observing.js";
import { memoryStore } from "../../src/stores/memory.js";
import { exchange, listen, type Plan, SERVERS, startOpen, stop } from "./adapters-servers.js";

/*
 * `mode: "observe"`, on every framework: the answer is byte for byte that of the same server without a guard, whatever the
 * guard thinks of the request, and whatever becomes of the store; and what it thinks is told.
 */

const NAMES = Object.keys(SERVERS);
const unhandled: unknown[] = [];
const noteUnhandled = (reason: unknown): void => void unhandled.push(reason);
const servers: Server[] = [];

/** How the store behaves, call by call. */
let store: "up" | "down" | "hanging" = "up";
let release: (() => void)[] = [];
let gate: Keystile;
let events: KeystileEvent[] = [];
let judged: (Judged | undefined)[] = [];
const secrets: Record<string, string> = {};
let openId = "";

beforeAll(async () => {
  process.on("unhandledRejection", noteUnhandled);
  process.on("uncaughtException", noteUnhandled);
  vi.spyOn(console, "error").mockImplementation(() => {});
  const memory = memoryStore();
  async function behave(): Promise<void> {
    if (store === "down") throw new Error("connect ECONNREFUSED 10.1.2.3:5432");
    if (store === "hanging") await new Promise<void>((resolve) => release.push(resolve));
  }
  gate = createKeystile({
    store: {
      ...memory,
      read: (ids) => behave().then(() => memory.read(ids)),
      write: (groups) => behave().then(() => memory.write(groups)),
    },
    drainMs: 0,
  });
  gate.on("*", (event) => events.push(event));
  const open = await gate.keys.issue({ limits: [{ requests: 1_000_000, windowMs: 60_000 }] });
  secrets["OPEN"] = open.secret;
  openId = open.key.id;
  secrets["LISTED"] = (await gate.keys.issue({ allowedModels: ["gpt-*"] })).secret;
  secrets["SPENT"] = (await gate.keys.issue({ quota: 0 })).secret;
});

beforeEach(() => {
  store = "up";
  release = [];
  events = [];
  judged = [];
});

afterEach(async () => {
  expect(unhandled.splice(0)).toEqual([]);
  await Promise.all(servers.splice(0).map(stop));
});

afterAll(async () => {
  await gate.close();
  process.off("unhandledRejection", noteUnhandled);
  process.off("uncaughtException", noteUnhandled);
});

/** What the application does, guarded or not: it tells how it was asked, with a status out of the path. */
function plan(url: string, found: Judged | undefined, body: string): Plan {
  judged.push(found);
  if (url.includes("throw")) throw new Error("thrown");
  const status = Number(/status=(\d+)/.exec(url)?.[1] ?? 200);
  return {
    status,
    chunks: [`asked ${url}`, ` with ${body.length} bytes: ${body.slice(0, 100)}`],
    end: "close",
  };
}

async function start(
  name: string,
  guarded: Keystile | undefined,
  options: Parameters<typeof startOpen>[2] = {},
): Promise<number> {
  const server = await startOpen(name, guarded, options, plan);
  servers.push(server);
  return listen(server);
}

function bytesOf(line: string, fields: readonly string[] = [], body = ""): string {
  const length = body === "" ? [] : [`Content-Length: ${body.length}`];
  const head = [`${line} HTTP/1.1`, "Host: localhost", ...fields, ...length, "Connection: close", "", body];
  return head.join("\r\n").replace(/\$([A-Z]+)/g, (_, name: string) => secrets[name] ?? "");
}

function told(type: KeystileEvent["type"]): readonly object[] {
  return events.filter((event) => event.type === type);
}

const OPEN = "Authorization: Bearer $OPEN";
const JSON_TYPE = "Content-Type: application/json";
const CHAT = "POST /v1/chat/completions";
const preflight = ["Origin: https://app.example", "Access-Control-Request-Method: POST"];

/** A request, and what the guard would have done with it. */
const TABLE: Readonly<Record<string, readonly [bytes: () => string, would: object]>> = {
  "a good key": [() => bytesOf("GET /x", [OPEN]), { would: "pass" }],
  "a good key, and an error of the handler": [() => bytesOf("GET /status=418", [OPEN]), { would: "pass" }],
  "a good key, and a throw of the handler": [() => bytesOf("GET /throw", [OPEN]), { would: "pass" }],
  "HEAD with a good key": [() => bytesOf("HEAD /x", [OPEN]), { would: "pass" }],
  "a good key and a body": [
    () => bytesOf(CHAT, ["x-api-key: $LISTED", JSON_TYPE], '{"model":"gpt-5" }'),
    { would: "pass" },
  ],
  "a good key and a long body": [
    () =>
      bytesOf(CHAT, ["x-api-key: $LISTED", JSON_TYPE], `{"model":"gpt-5","text":"${"x".repeat(500_000)}"}`),
    { would: "pass" },
  ],
  "no key": [() => bytesOf("GET /x"), { would: "refuse", status: 401, reason: "credential_missing" }],
  "no key, and a body": [
    () => bytesOf(CHAT, [JSON_TYPE], '{"model":"gpt-5"}'),
    { would: "refuse", status: 401, reason: "credential_missing" },
  ],
  "a key of the other check": [
    () => bytesOf("GET /x", ["Authorization: Bearer eyJhbGciOi.eyJzdWIi.c2ln"]),
    { would: "refuse", status: 401, reason: "credential_malformed" },
  ],
  "an unknown key": [
    () => bytesOf("GET /x", [`Authorization: Bearer sk-${"u".repeat(48)}`]),
    { would: "refuse", status: 401, reason: "key_unknown" },
  ],
  "two credentials": [
    () => bytesOf("GET /x", [OPEN, OPEN]),
    { would: "refuse", status: 401, reason: "credential_ambiguous" },
  ],
  "a model that is not on the list": [
    () => bytesOf(CHAT, ["x-api-key: $LISTED", JSON_TYPE], '{"model":"claude-5"}'),
    { would: "refuse", status: 403, reason: "model_not_allowed" },
  ],
  "a body that is no JSON": [
    () => bytesOf(CHAT, ["x-api-key: $LISTED", JSON_TYPE], "{model:"),
    { would: "refuse", status: 403, reason: "model_undetermined" },
  ],
  "a spent key": [
    () => bytesOf("GET /x", ["x-api-key: $SPENT"]),
    { would: "refuse", status: 402, reason: "key_quota_exhausted" },
  ],
  "a preflight": [() => bytesOf("OPTIONS /x", preflight), { would: "answer" }],
};

describe("the answer is that of a server without a guard, and the judgement is told", () => {
  test.each(Object.entries(TABLE))("%s", async (_, [bytes, would]) => {
    for (const name of NAMES) {
      const [bare, observed] = [await start(name, undefined), await start(name, gate)];
      const expected = await exchange(bare, bytes());
      judged = [];
      const answer = await exchange(observed, bytes());
      expect({ name, ...answer }).toEqual({ name, ...expected, headers: dated(expected, answer) });
      expect(judged).toEqual([expect.objectContaining({ would: (would as { would: string }).would })]);
      expect({ name, last: told("request.judged").at(-1) }).toMatchObject({ name, last: would });
    }
    expect(told("request.judged")).toHaveLength(NAMES.length);
  });

  test("a store that is down", async () => {
    store = "down";
    for (const name of NAMES) {
      const answer = await exchange(await start(name, gate), bytesOf("GET /x", ["x-api-key: $LISTED"]));
      expect([name, answer.status]).toEqual([name, 200]);
      expect(judged.at(-1)).toMatchObject({ would: "fail", code: "store_unavailable" });
      expect(told("request.judged").at(-1)).toMatchObject({ would: "fail", code: "store_unavailable" });
      expect(told("request.faulted").at(-1)).toMatchObject({ code: "store_unavailable" });
    }
  });

  test("an option that throws, and a cost that is none", async () => {
    const options = [
      { cost: () => Promise.reject(new Error("no price")) },
      { cost: () => -1 },
      {
        model: () => undefined as never,
        scopes: () => {
          throw new Error("no scopes");
        },
      },
    ];
    for (const option of options) {
      for (const name of NAMES) {
        const answer = await exchange(await start(name, gate, option), bytesOf("GET /x", [OPEN]));
        expect([name, answer.status]).toEqual([name, 200]);
        expect(judged.at(-1)).toMatchObject({ would: "fail", code: "threw" });
      }
    }
  });

  test("a store that hangs: the request waits no longer than it is told to, and nothing stays held", async () => {
    const { secret, key } = await gate.keys.issue({ quota: 100 });
    for (const name of NAMES) {
      const port = await start(name, gate, { maxWaitMs: 40 });
      store = "hanging";
      const answer = await exchange(port, bytesOf("GET /x", [`x-api-key: ${secret}`]));
      expect([name, answer.status, judged.at(-1)]).toMatchObject([
        name,
        200,
        { would: "fail", code: "late" },
      ]);
      store = "up";
      for (const go of release.splice(0)) go();
    }
    await vi.waitFor(async () => {
      for (const go of release.splice(0)) go();
      expect((await gate.keys.get(key.id))?.quota).toMatchObject({ used: 0, held: 0 });
    });
  });

  test("a body that takes longer: the handler gets all of it, in order", async () => {
    for (const name of NAMES) {
      const port = await start(name, gate, { maxWaitMs: 30 });
      const head = bytesOf(CHAT, ["x-api-key: $LISTED", JSON_TYPE, "Content-Length: 40"]);
      const socket = connect(port, "127.0.0.1");
      let text = "";
      socket.on("data", (chunk) => {
        text += String(chunk);
      });
      socket.write(`${head}{"model":"gpt-5","a`);
      await vi.waitFor(() => expect(told("request.judged").at(-1)).toMatchObject({ code: "late" }));
      socket.write('":"1234567890123456"}');
      await once(socket, "close");
      expect([name, text]).toEqual([
        name,
        expect.stringContaining('with 40 bytes: {"model":"gpt-5","a":"1234567890123456"}'),
      ]);
      events = [];
    }
  });

  test("what would pass is booked as ever: an answer once, an error not", async () => {
    for (const name of NAMES) {
      const { secret, key } = await gate.keys.issue({ quota: 100 });
      const port = await start(name, gate, { cost: 7 });
      await exchange(port, bytesOf("GET /x", [`x-api-key: ${secret}`]));
      await exchange(port, bytesOf("GET /status=500", [`x-api-key: ${secret}`]));
      const quota = async () => (await gate.keys.get(key.id))?.quota;
      await vi.waitFor(async () => expect(await quota()).toMatchObject({ used: 7, held: 0 }));
    }
  });

  test("with prices the answer is read and not touched", async () => {
    const prices = tokenPrices({ models: {}, otherModels: { input: 1_000_000, output: 1_000_000 } });
    const usage = { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 };
    const said = JSON.stringify({ object: "chat.completion", model: "gpt-5", choices: [], usage });
    for (const name of NAMES) {
      const { secret, key } = await gate.keys.issue({ quota: 1_000_000 });
      const server = await startOpen(name, gate, { prices }, () => ({
        ...{ status: 200, type: "application/json", chunks: [said], end: "close" },
      }));
      servers.push(server);
      const asked = bytesOf(CHAT, [`x-api-key: ${secret}`, JSON_TYPE], '{"model":"gpt-5","max_tokens":9}');
      expect((await exchange(await listen(server), asked)).body).toBe(said);
      const quota = async () => (await gate.keys.get(key.id))?.quota;
      await vi.waitFor(async () => expect(await quota()).toMatchObject({ used: 7, held: 0 }));
    }
  });

  test("a client that goes while its body is read: the handler runs, as without a guard", async () => {
    const server = createServer();
    servers.push(server);
    const guard = nodeGuard.keystile<IncomingMessage>(gate, { mode: "observe" });
    const ran = new Promise<Judged>((resolve) => {
      server.on("request", async (request, response) => resolve(await guard(request, response)));
    });
    const socket = connect(await listen(server), "127.0.0.1");
    socket.write(`${bytesOf(CHAT, [OPEN, JSON_TYPE, "Content-Length: 40"])}{"mod`);
    await new Promise((resolve) => setTimeout(resolve, 20));
    socket.destroy();
    expect(await ran).toMatchObject({ would: "fail", code: "gone" });
  });
});

test("express: the request is left as it was, but for the judgement", async () => {
  const app = express();
  app.use(expressGuard.keystile<expressGuard.GuardedRequest & Request>(gate, { mode: "observe" }));
  app.use((request: Request, response: Response) => {
    const { body, rawBody, keystile } = request as unknown as expressGuard.GuardedRequest;
    const { would } = expressGuard.judgedOf(request);
    expect(() => expressGuard.decisionOf(request)).toThrow(TypeError);
    response.json({ would, left: [body, rawBody, keystile].map((value) => typeof value) });
  });
  const server = createServer(app);
  servers.push(server);
  const asked = bytesOf(CHAT, ["x-api-key: $LISTED", JSON_TYPE], '{"model":"gpt-5"}');
  const { body } = await exchange(await listen(server), asked);
  expect(JSON.parse(body)).toEqual({ would: "pass", left: ["undefined", "undefined", "undefined"] });
  expect(() => expressGuard.judgedOf({})).toThrow(TypeError);
});

test("an upgrade is handed over whatever is thought of it, and what would pass ends with the socket", async () => {
  const sockets = new WebSocketServer({ noServer: true });
  const server = createServer();
  servers.push(server);
  server.on(
    "upgrade",
    nodeGuard.guardUpgrade(
      gate,
      (request, socket, head, found: Judged) =>
        sockets.handleUpgrade(request as never, socket as never, head as never, (client) =>
          client.send(found.would),
        ),
      { mode: "observe" },
    ),
  );
  const url = `ws://127.0.0.1:${await listen(server)}/v1/realtime?model=gpt-5`;
  async function ask(headers: Record<string, string>): Promise<string> {
    const client = new WebSocket(url, { headers });
    const [text] = (await once(client, "message")) as [Buffer];
    client.terminate();
    return String(text);
  }
  expect(await ask({})).toBe("refuse");
  expect(await ask({ authorization: `Bearer ${secrets["OPEN"]}` })).toBe("pass");
  store = "down";
  expect(await ask({ "x-api-key": secrets["SPENT"] as string })).toBe("fail");
  store = "up";
  await vi.waitFor(async () => expect((await gate.keys.get(openId))?.quota.held).toBe(0));
  sockets.close();
});

describe("it is not left on unseen", () => {
  test("to listeners that come in the same breath", async () => {
    const watched = createKeystile({ store: memoryStore() });
    const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
    nodeGuard.keystile(watched, { mode: "observe" });
    const heard: unknown[] = [];
    watched.on("guard.observing", (event) => heard.push(event));
    await Promise.resolve();
    expect([heard, warn.mock.calls]).toEqual([[{ type: "guard.observing" }], []]);
    warn.mockRestore();
    await watched.close();
  });

  test("to the console, if nobody listens; and nothing is said of a guard that enforces", async () => {
    const watched = createKeystile({ store: memoryStore() });
    const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
    nodeGuard.keystile(watched, { mode: "enforce" });
    await Promise.resolve();
    expect(warn).not.toHaveBeenCalled();
    nodeGuard.keystile(watched, { mode: "observe" });
    await Promise.resolve();
    expect(warn.mock.calls).toEqual([[expect.stringContaining('mode "observe" lets every request through')]]);
    warn.mockRestore();
    await watched.close();
  });

  test.each([
    [{ mode: "observed" }, 'expected "enforce" or "observe"'],
    [{ mode: true }, 'expected "enforce" or "observe"'],
    [{ mode: "observe", maxWaitMs: 0 }, "expected an integer from 1 to 60000"],
    [{ mode: "observe", maxWaitMs: 60_001 }, "expected an integer from 1 to 60000"],
    [{ maxWaitMs: 5 }, 'expected nothing without options.mode "observe"'],
    [{ mode: "observe", prices: fixedPrice(1), stripUsageChunk: true }, "leaves answers as they are"],
  ])("%j throws when the guard is made", (options, message) => {
    expect(() => nodeGuard.keystile(gate, options as never)).toThrow(message);
  });
});

test("a guard that enforces tells its faults by the id that the client was told", async () => {
  store = "down";
  const server = (await SERVERS["hono"]?.(gate)) as Server;
  servers.push(server);
  const answer = await exchange(await listen(server), bytesOf("GET /x", ["x-api-key: $LISTED"]));
  const requestId = answer.headers["x-request-id"];
  expect(told("request.faulted")).toEqual([
    { type: "request.faulted", requestId, code: "store_unavailable" },
  ]);
});

/** The headers that are to be expected, with the date of the answer. */
function dated(
  { headers }: { readonly headers: Readonly<Record<string, string>> },
  answer: { readonly headers: Readonly<Record<string, string>> },
): object {
  return headers["date"] === undefined ? headers : { ...headers, date: answer.headers["date"] };
}
