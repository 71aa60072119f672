import { once } from "node:events";
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerResponse,
} from "node:http";
import { createServer as createHttp2Server } from "node:http2";
import { type AddressInfo, connect } from "node:net";
import { createAdaptorServer } from "@hono/node-server";
import express, { type Request } from "express";
// @ts-expect-error There are types of one version only.
import express4 from "express4";
import fastify, { type FastifyInstance } from "fastify";
import { Hono } from "hono";
import * as expressGuard from "../../src/adapters/express.js";
import * as fastifyGuard from "../../src/adapters/fastify.js";
import * as honoGuard from "../../src/adapters/hono.js";
import * as nodeGuard from "../../src/adapters/node.js";
import type { GuardOptions } from "../../src/guard-options.js";
import type { Allowed, Keystile } from "../../src/index.js";

/** What one application does on every framework: it tells what was judged and received, or ends as the path says. */
export interface Plan {
  readonly status: number;
  /** Default: plain text. */
  readonly type?: string;
  readonly chunks: Iterable<string | Uint8Array> | AsyncIterable<string | Uint8Array>;
  readonly end: "close" | "break" | "never";
  /** Default: some time passes between two chunks. */
  readonly isQuick?: boolean;
}

/** Makes the plan for a request that was let in. */
export type Planner = (url: string, decision: Allowed, body: string) => Plan;

/** Options that every guard has. */
export type Common = Omit<GuardOptions<unknown>, "address">;

export type StartServer = (gate: Keystile, options?: Common, planner?: Planner) => Promise<Server>;

export const SERVERS: Readonly<Record<string, StartServer>> = {
  "node:http": async (gate, options = {}, planner = planOf) =>
    createServer(nodeListener(gate, options, planner)),

  "express 5": async (gate, options = {}, planner = planOf) =>
    createServer(expressApp(express(), gate, options, planner)),

  "express 4": async (gate, options = {}, planner = planOf) =>
    createServer(expressApp(express4() as unknown as ReturnType<typeof express>, gate, options, planner)),

  "fastify 5": async (gate, options = {}, planner = planOf) =>
    fastifyServer(fastify({ bodyLimit: 50_000_000, forceCloseConnections: true }), gate, options, planner),

  hono: async (gate, options = {}, planner = planOf) =>
    createAdaptorServer({ fetch: honoApp(gate, options, planner).fetch }) as Server,
};

/** The same over HTTP/2 without TLS, where a framework serves it. */
export const HTTP2_SERVERS: Readonly<Record<string, StartServer>> = {
  "node:http2": async (gate, options = {}, planner = planOf) =>
    createHttp2Server(nodeListener(gate, options, planner) as never) as unknown as Server,

  "fastify 5": async (gate, options = {}, planner = planOf) => {
    const app = fastify({ http2: true, bodyLimit: 50_000_000 }) as unknown as FastifyInstance;
    return fastifyServer(app, gate, options, planner);
  },

  hono: async (gate, options = {}, planner = planOf) => {
    const { fetch } = honoApp(gate, options, planner);
    return createAdaptorServer({ fetch, createServer: createHttp2Server }) as unknown as Server;
  },
};

function nodeListener(gate: Keystile, options: Common, planner: Planner): RequestListener {
  const guard = nodeGuard.keystile(gate, options);
  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const decision = await guard(request, response);
    if (decision === undefined) return;
    const plan = planner(request.url ?? "", decision, await textOf(request));
    await play(plan, response);
  }
  return (request, response) => {
    handle(request, response).catch((error: Error) => {
      response.statusCode = 500;
      response.end(error.message);
    });
  };
}

async function fastifyServer(
  app: FastifyInstance,
  gate: Keystile,
  options: Common,
  planner: Planner,
): Promise<Server> {
  await app.register(fastifyGuard.keystile, { gate, ...options });
  // As a proxy has it: whatever comes, as bytes.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", { parseAs: "buffer" }, (_request, body, done) => done(null, body));
  app.setErrorHandler((error: Error & { statusCode?: number }, _request, reply) =>
    reply.code(error.statusCode ?? 500).send(error.message),
  );
  app.all("*", async (request, reply) => {
    const plan = planner(request.originalUrl, request.keystile, String(request.body ?? ""));
    reply.hijack();
    for (const [name, value] of Object.entries(reply.getHeaders())) reply.raw.setHeader(name, String(value));
    await play(plan, reply.raw);
  });
  await app.ready();
  return app.server;
}

function honoApp(gate: Keystile, options: Common, planner: Planner): Hono<honoGuard.KeystileEnv> {
  const app = new Hono<honoGuard.KeystileEnv>();
  app.onError((error, c) => c.text(error.message, 500));
  app.use(honoGuard.keystile(gate, options));
  app.all("*", async (c) => {
    const url = (c.env as { incoming: IncomingMessage }).incoming.url ?? "";
    const plan = planner(url, c.get("keystile"), await c.req.text());
    const { status, type = "text/plain", end } = plan;
    const steps = stepsOf(plan);
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        const { value, done } = await steps.next();
        if (!done) return controller.enqueue(value);
        if (end === "break") return controller.error(new Error("broken"));
        if (end === "close") return controller.close();
        return new Promise(() => {});
      },
    });
    return new Response(status === 204 ? null : body, {
      status,
      headers: { "content-type": type },
    });
  });
  return app;
}

function expressApp(
  app: ReturnType<typeof express>,
  gate: Keystile,
  options: Common,
  planner: Planner,
): typeof app {
  app.use(expressGuard.keystile(gate, options));
  app.use(async (request: Request, response, next) => {
    try {
      await play(
        planner(request.originalUrl, expressGuard.decisionOf(request), await textOf(request)),
        response,
      );
    } catch (error) {
      next(error);
    }
  });
  app.use((error: Error, _request: Request, response: ServerResponse, _next: unknown) => {
    response.statusCode = 500;
    response.end(error.message);
  });
  return app;
}

/** `…?status=500&chunks=3&end=break&observe=7`, `…?throw`; else it tells what it got. */
export function planOf(url: string, decision: Allowed, body: string): Plan {
  const query = new URLSearchParams(url.split("?")[1] ?? "");
  const observed = query.get("observe");
  if (observed !== null) decision.observe(Number(observed));
  if (query.has("throw")) throw new Error("thrown");
  const said = JSON.stringify({ model: decision.model ?? null, estimate: decision.estimate, body });
  const chunks = query.has("chunks")
    ? Array.from({ length: Number(query.get("chunks")) }, (_, at) => `chunk ${at};`)
    : [said];
  const end = (query.get("end") ?? "close") as Plan["end"];
  return { status: Number(query.get("status") ?? 200), chunks, end };
}

async function play(plan: Plan, response: ServerResponse): Promise<void> {
  const { status, type = "text/plain", end } = plan;
  response.writeHead(status, { "content-type": type });
  response.flushHeaders();
  if (status !== 204) {
    for await (const chunk of stepsOf(plan)) {
      if (!response.write(chunk)) await Promise.race([once(response, "drain"), once(response, "close")]);
    }
  }
  if (end === "close") response.end();
  if (end === "break") response.destroy();
}

async function* stepsOf({ chunks, isQuick = false }: Plan): AsyncGenerator<Uint8Array, void> {
  for await (const chunk of chunks) {
    yield typeof chunk === "string" ? new TextEncoder().encode(chunk) : chunk;
    await (isQuick ? nextTurn() : pause());
  }
}

function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 2));
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

async function textOf(stream: AsyncIterable<unknown>): Promise<string> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of stream) chunks.push(chunk as Uint8Array);
  return Buffer.concat(chunks).toString();
}

export async function listen(server: Server): Promise<number> {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return (server.address() as AddressInfo).port;
}

export async function stop(server: Server): Promise<void> {
  server.close();
  // Only those of HTTP/1.1 can do this; sessions of HTTP/2 end with their clients.
  server.closeAllConnections?.();
  if (server.listening) await once(server, "close");
}

/** An answer as it was on the wire. Names of fields in lower case; the body without its chunks. */
export interface WireAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** Sends bytes on a socket of its own, in several packets if there are several, and reads one whole answer. */
export async function exchange(
  port: number,
  ...packets: readonly (string | Uint8Array)[]
): Promise<WireAnswer> {
  const socket = connect(port, "127.0.0.1");
  let text = "";
  const answered = new Promise<void>((resolve) => {
    socket.on("error", () => resolve());
    socket.on("close", () => resolve());
    socket.on("data", (chunk) => {
      text += chunk.toString("latin1");
      if (isWhole(text, String(packets[0]).startsWith("HEAD "))) resolve();
    });
  });
  for (const packet of packets) {
    socket.write(packet);
    if (packets.length > 1) await new Promise((resolve) => setTimeout(resolve, 15));
  }
  await answered;
  socket.destroy();
  return parseAnswer(text);
}

function isWhole(text: string, isHead: boolean): boolean {
  const divide = endOfHead(text);
  if (divide === -1) return false;
  const head = text.slice(0, divide);
  const length = /^content-length: (\d+)$/im.exec(head)?.[1];
  if (isHead || / 204 /.test(head.slice(0, 14))) return true;
  return length === undefined ? text.endsWith("0\r\n\r\n") : text.length >= divide + 4 + Number(length);
}

/** What a server says of a body that it is still to be sent. */
const INTERIM = /^HTTP\/1\.1 100 Continue\r\n\r\n/;

function endOfHead(text: string): number {
  return text.indexOf("\r\n\r\n", INTERIM.exec(text)?.[0].length ?? 0);
}

export function parseAnswer(text: string): WireAnswer {
  const divide = endOfHead(text);
  const [statusLine = "", ...lines] = text.slice(0, divide).replace(INTERIM, "").split("\r\n");
  const headers = Object.fromEntries(
    lines.map((line) => {
      const colon = line.indexOf(":");
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()] as const;
    }),
  );
  const raw = text.slice(divide + 4);
  const body = headers["transfer-encoding"] === "chunked" ? unchunk(raw) : raw;
  return { status: Number(statusLine.split(" ")[1] ?? 0), headers, body };
}

function unchunk(raw: string): string {
  const end = raw.indexOf("\r\n");
  const size = Number.parseInt(raw.slice(0, end), 16);
  if (!(size > 0)) return "";
  return raw.slice(end + 2, end + 2 + size) + unchunk(raw.slice(end + 4 + size));
}
