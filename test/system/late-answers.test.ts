import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { connect } from "node:net";
import { setTimeout as pause } from "node:timers/promises";
import express from "express";
import fastify from "fastify";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { keystile as expressKeystile } from "../../src/adapters/express.js";
import { keystile as fastifyKeystile } from "../../src/adapters/fastify.js";
import { keystile as nodeKeystile } from "../../src/adapters/node.js";
import { createKeystile, type Keystile, type KeyView } from "../../src/index.js";
import { memoryStore } from "../../src/stores/memory.js";
import { listen, stop } from "./adapters-servers.js";

/* What a request comes to that is answered too late, or never: the client has gone, or has half of the answer already. */

type Handler = (request: IncomingMessage, response: ServerResponse) => void;
type Serve = (gate: Keystile, handler: Handler) => Promise<Server>;

const SERVERS: Readonly<Record<string, Serve>> = {
  "node:http": async (gate, handler) => {
    const guard = nodeKeystile(gate, { cost: 5 });
    return createServer(async (request, response) => {
      if (await guard(request, response)) handler(request, response);
    });
  },
  "express 5": async (gate, handler) =>
    createServer(
      express()
        .use(expressKeystile(gate, { cost: 5 }))
        .use((request, response) => handler(request, response)),
    ),
  "fastify 5": async (gate, handler) => {
    const app = fastify({ forceCloseConnections: true });
    await app.register(fastifyKeystile, { gate, cost: 5 });
    app.removeAllContentTypeParsers();
    app.addContentTypeParser("*", (_request, _body, done) => done(null));
    app.post("/*", (request, reply) => {
      reply.hijack();
      handler(request.raw, reply.raw);
    });
    await app.ready();
    return app.server;
  },
};

const unhandled: unknown[] = [];
const noteUnhandled = (reason: unknown): void => void unhandled.push(reason);

let gate: Keystile;
let secret: string;
let keyId: string;
const servers: Server[] = [];

beforeEach(async () => {
  process.on("unhandledRejection", noteUnhandled);
  process.on("uncaughtException", noteUnhandled);
  process.on("warning", noteUnhandled);
  gate = createKeystile({ store: memoryStore(), drainMs: 0 });
  const issued = await gate.keys.issue({ quota: 1_000 });
  [secret, keyId] = [issued.secret, issued.key.id];
});

afterEach(async () => {
  await Promise.all(servers.splice(0).map(stop));
  await gate.close();
  process.off("unhandledRejection", noteUnhandled);
  process.off("uncaughtException", noteUnhandled);
  process.off("warning", noteUnhandled);
  expect(unhandled.splice(0)).toEqual([]);
});

async function open(serve: Serve, handler: Handler) {
  const server = await serve(gate, handler);
  servers.push(server);
  return connect(await listen(server), "127.0.0.1").on("error", () => {});
}

function post(path: string, length = 2): string {
  const head = [`POST ${path} HTTP/1.1`, "Host: x", `Authorization: Bearer ${secret}`];
  return `${[...head, `Content-Length: ${length}`, "", ""].join("\r\n")}${"{}".slice(0, length)}`;
}

async function quota(): Promise<{ used: number; held: number }> {
  const { quota } = (await gate.keys.get(keyId)) as KeyView;
  return { used: quota.used, held: quota.held };
}

describe.each(Object.entries(SERVERS))("%s", (_, serve) => {
  test("a status set after the head was sent gives nothing back", async () => {
    const socket = await open(serve, (_request, response) => {
      response.writeHead(200).write("half of it");
      setTimeout(() => {
        response.statusCode = 500;
        response.end();
      }, 10);
    });
    socket.resume().write(post("/"));
    await vi.waitFor(async () => expect(await quota()).toEqual({ used: 5, held: 0 }));
  });

  test("an error for a client that had gone gives nothing back", async () => {
    const socket = await open(serve, (request, response) => {
      request.on("aborted", () => {
        response.statusCode = 499;
        response.end();
      });
      setTimeout(() => socket.destroy(), 10);
    });
    socket.write(post("/"));
    await vi.waitFor(async () => expect(await quota()).toEqual({ used: 5, held: 0 }));
  });

  test("an error for a client that went later gives everything back", async () => {
    const socket = await open(serve, (_request, response) => {
      response.writeHead(429).write("too");
      setTimeout(() => socket.destroy(), 10);
    });
    socket.write(post("/"));
    await pause(30);
    await vi.waitFor(async () => expect(await quota()).toEqual({ used: 0, held: 0 }));
  });

  test("requests sent ahead end with the connection, answered or not", async () => {
    const paths: unknown[] = [];
    const socket = await open(serve, ({ url }, response) => {
      paths.push(url);
      if (url === "/quick") response.end("{}");
    });
    const ahead = Array.from({ length: 20 }, (_, at) => post(at % 2 === 0 ? "/quick" : "/never"));
    socket.write(post("/never") + ahead.join(""));
    await vi.waitFor(() => expect(paths).toHaveLength(21));
    expect(await quota()).toEqual({ used: 0, held: 105 });
    socket.destroy();
    await vi.waitFor(async () => expect(await quota()).toEqual({ used: 105, held: 0 }));
  });

  test("requests sent ahead are answered in order, and end once", async () => {
    const waiting: ServerResponse[] = [];
    const socket = await open(serve, (_request, response) => {
      waiting.push(response);
      if (waiting.length === 3) for (const each of waiting.reverse()) each.end("{}");
    });
    let text = "";
    socket.on("data", (bytes) => {
      text += bytes;
    });
    socket.write(post("/").repeat(3));
    await vi.waitFor(() => expect(text.match(/HTTP\/1.1 200/g)).toHaveLength(3));
    await vi.waitFor(async () => expect(await quota()).toEqual({ used: 15, held: 0 }));
    socket.destroy();
    await pause(20);
    expect(await quota()).toEqual({ used: 15, held: 0 });
  });
});

test("a body that somebody has decoded is not read, and does not end the process", async () => {
  const guard = nodeKeystile(gate, { cost: 5 });
  let told = "";
  const decoding: Serve = async () =>
    createServer(async (request, response) => {
      request.setEncoding("utf8");
      if ((await guard(request, response)) === undefined) return;
      for await (const text of request) told += text;
      response.end("{}");
    });
  const socket = await open(decoding, () => {});
  socket.resume().write(post("/", 6));
  await pause(20);
  socket.write("äb");
  await pause(20);
  socket.write("!");
  await vi.waitFor(async () => expect(await quota()).toEqual({ used: 5, held: 0 }));
  expect(told).toBe("{}äb!");
});

test("what was read in many pieces is put back in one", async () => {
  const guard = nodeKeystile(gate, { cost: 5 });
  let pieces = 0;
  let told = "";
  const counting: Serve = async () =>
    createServer(async (request, response) => {
      const { unshift } = request;
      request.unshift = (chunk: unknown) => {
        pieces++;
        return unshift.call(request, chunk);
      };
      if ((await guard(request, response)) === undefined) return;
      for await (const text of request) told += text;
      response.end("{}");
    });
  const socket = await open(counting, () => {});
  socket.resume().setNoDelay(true);
  socket.write(post("/", 6).slice(0, -2));
  for (const byte of "abcdef") {
    await pause(5);
    socket.write(byte);
  }
  await vi.waitFor(async () => expect(await quota()).toEqual({ used: 5, held: 0 }));
  expect({ pieces, told }).toEqual({ pieces: 1, told: "abcdef" });
});
