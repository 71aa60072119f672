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
import type { GuardOptions, ObservingOptions } from "../../src/guard-options.js";
import type { Allowed, Keystile } from "../../src/index.js";
import type { Judged } from "../../src/observing.js";

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

/** What is found on a request that was let in: nothing of it where there is no guard. */
export type Found = Allowed | Judged | undefined;

/** Makes the plan for a request that was let in. */
export type Planner<F = Allowed> = (url: string, found: F, body: string) => Plan;

/** Options that every guard has. */
export type Common = Omit<GuardOptions<unknown>, "address">;

export type StartServer = (gate: Keystile, options?: Common, planner?: Planner) => Promise<Server>;

/** How all of them are started: also with a guard that only observes, or without any. */
type AnyOptions = Common | Omit<ObservingOptions<unknown>, "address">;
type StartAny = (gate: Keystile | undefined, options: AnyOptions, planner: Planner<Found>) => Promise<Server>;

/** Starts a server whose guard, if there is one, lets everything through. */
export function startOpen(
  name: string,
  gate: Keystile | undefined,
  options: Omit<ObservingOptions<unknown>, "address" | "mode">,
  planner: Planner<Judged | undefined>,
): Promise<Server> {
  return (STARTS[name] as StartAny)(gate, { ...options, mode: "observe" }, planner as Planner<Found>);
}

const STARTS: Readonly<Record<string, StartAny>> = {
  "node:http": async (gate, options, planner) => createServer(nodeListener(gate, options, planner)),

  "express 5": async (gate, options, planner) => createServer(expressApp(express(), gate, options, planner)),

  "express 4": async (gate, options, planner) =>
    createServer(expressApp(express4() as unknown as ReturnType<typeof express>, gate, options, planner)),

  "fastify 5": async (gate, options, planner) =>
    fastifyServer(fastify({ bodyLimit: 50_000_000, forceCloseConnections: true }), gate, options, planner),

  hono: async (gate, options, planner) =>
    createAdaptorServer({ fetch: honoApp(gate, options, planner).fetch }) as Server,
};

export const SERVERS: Readonly<Record<string, StartServer>> = Object.fromEntries(
  Object.entries(STARTS).map(([name, start]) => [
    name,
    (gate, options = {}, planner = planOf) => start(gate, options, planner as Planner<Found>),
  ]),
);

/** The same over HTTP/2 without TLS, where a framework serves it. */
export const HTTP2_SERVERS: Readonly<Record<string, StartServer>> = {
  "node:http2": async (gate, options = {}, planner = planOf) =>
    createHttp2Server(nodeListener(gate, options, planner as Planner<Found>) as never) as unknown as Server,

  "fastify 5": async (gate, options = {}, planner = planOf) => {
    const app = fastify({ http2: true, bodyLimit: 50_000_000 }) as unknown as FastifyInstance;
    return fastifyServer(app, gate, options, planner as Planner<Found>);
  },

  hono: async (gate, options = {}, planner = planOf) => {
    const { fetch } = honoApp(gate, options, planner as Planner<Found>);
    return createAdaptorServer({ fetch, createServer: createHttp2Server }) as unknown as Server;
  },
};

function nodeListener(
  gate: Keystile | undefined,
  options: AnyOptions,
  planner: Planner<Found>,
): RequestListener {
  const guard = gate && nodeGuard.keystile(gate, options as Common);
  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const decision = await guard?.(request, response);
    if (guard !== undefined && decision === undefined) return;
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
  gate: Keystile | undefined,
  options: AnyOptions,
  planner: Planner<Found>,
): Promise<Server> {
  if (gate !== undefined) await app.register(fastifyGuard.keystile, { gate, ...options });
  // As a proxy has it: whatever comes, as bytes.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", { parseAs: "buffer" }, (_request, body, done) => done(null, body));
  app.setErrorHandler((error: Error & { statusCode?: number }, _request, reply) =>
    reply.code(error.statusCode ?? 500).send(error.message),
  );
  app.all("*", async (request, reply) => {
    const plan = planner(
      request.originalUrl,
      request.keystile ?? request.keystileJudged ?? undefined,
      String(request.body ?? ""),
    );
    reply.hijack();
    for (const [name, value] of Object.entries(reply.getHeaders())) reply.raw.setHeader(name, String(value));
    await play(plan, reply.raw);
  });
  await app.ready();
  return app.server;
}

function honoApp(
  gate: Keystile | undefined,
  options: AnyOptions,
  planner: Planner<Found>,
): Hono<honoGuard.KeystileEnv & honoGuard.ObservingEnv> {
  const app = new Hono<honoGuard.KeystileEnv & honoGuard.ObservingEnv>();
  app.onError((error, c) => c.text(error.message, 500));
  if (gate !== undefined) app.use(honoGuard.keystile(gate, options as Common));
  app.all("*", async (c) => {
    const url = (c.env as { incoming: IncomingMessage }).incoming.url ?? "";
    const plan = planner(url, c.get("keystile") ?? c.get("keystileJudged"), await c.req.text());
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
  gate: Keystile | undefined,
  options: AnyOptions,
  planner: Planner<Found>,
): typeof app {
  if (gate !== undefined) app.use(expressGuard.keystile(gate, options));
  const find = options.mode === "observe" ? expressGuard.judgedOf : expressGuard.decisionOf;
  app.use(async (request: Request, response, next) => {
    try {
      const found = gate && find(request);
      await play(planner(request.originalUrl, found, await textOf(request)), response);
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
