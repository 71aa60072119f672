/**
 * Servers of three frameworks: bare, with what is usually put in front of them, and with Keystile and everything on. A
 * process for each, and another that asks it.
 */
import { fork } from "node:child_process";
import { hash } from "node:crypto";
import { once } from "node:events";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { getRequestListener } from "@hono/node-server";
import express, { type Express } from "express";
import fastify, { type FastifyInstance } from "fastify";
import { Hono } from "hono";
import { keystile as expressGuard } from "keystile/express";
import { keystile as fastifyGuard } from "keystile/fastify";
import { keystile as honoGuard } from "keystile/hono";
import { memoryStore } from "keystile/memory";
import { MODEL, makeKeys, openGate, secretOf } from "./gate.ts";
import type { LoadReport, LoadTask } from "./http-load.ts";
import { fileOfPeers } from "./peer.ts";
import type { Entry } from "./rounds.ts";
import { type Load, type OpenSubject, type Sample, type Subject, type Subjects, timed } from "./subject.ts";

/** Of Keystile. What is usual has one key, and bare servers have none. */
const KEYS = 100;
const CONNECTIONS = 64;

const GET_PATH = "/v1/echo";
const POST_PATH = "/v1/chat/completions";
const BODY = JSON.stringify({
  model: MODEL,
  messages: [{ role: "user", content: "What goes through a turnstile, one at a time?" }],
});
const ANSWER = { object: "echo", ok: true };

/** `least`: what no gate can do without, and nothing else (`leastOf`). */
type Guarding = "bare" | "least" | "usual" | "keystile";

interface Middleware {
  guardExpress(app: Express, secret: string): void;
  guardFastify(app: FastifyInstance, secret: string): Promise<void>;
  guardHono(app: Hono, secret: string): void;
}

const FRAMEWORKS: Readonly<Record<string, (guarding: Guarding) => Promise<Server>>> = {
  Express: expressServer,
  Fastify: fastifyServer,
  Hono: honoServer,
};

/** Requests without a body, where the model is known by the route, and with one, which a guard has to read first. */
const METHODS: Readonly<Record<string, readonly Guarding[]>> = {
  GET: ["bare", "least", "usual", "keystile"],
  POST: ["bare", "keystile"],
};

export const subjects: Subjects = Object.fromEntries(
  Object.keys(FRAMEWORKS).flatMap((framework) =>
    Object.entries(METHODS).flatMap(([method, guardings]) =>
      guardings.map((guarding) => [
        `${framework} ${guarding} ${method}`,
        served(framework, guarding, method),
      ]),
    ),
  ),
);

export function entries(): readonly Entry[] {
  return Object.keys(FRAMEWORKS).flatMap((framework) =>
    Object.entries(METHODS).flatMap(([method, guardings]) =>
      guardings.map((guarding) => ({
        part: "http",
        scenario: method === "GET" ? `http, ${framework}` : `http, ${framework}, POST`,
        contender: guarding,
        subject: `${framework} ${guarding} ${method}`,
        load: { keys: guarding === "keystile" || guarding === "least" ? KEYS : 1, callers: CONNECTIONS },
      })),
    ),
  );
}

function served(framework: string, guarding: Guarding, method: string): OpenSubject {
  return async () => {
    const server = await (FRAMEWORKS[framework] as (guarding: Guarding) => Promise<Server>)(guarding);
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return askedFromOutside(server, method);
  };
}

function askedFromOutside(server: Server, method: string): Subject {
  const { port } = server.address() as AddressInfo;
  const asking = fork(join(import.meta.dirname, "http-load.ts"));
  process.once("exit", () => asking.kill("SIGKILL"));

  async function measure({ keys, callers, seconds }: Load): Promise<Sample> {
    const delay = monitorEventLoopDelay({ resolution: 1 });
    const sample = await timed(async () => {
      delay.enable();
      asking.send({
        ...{ port, seconds, connections: callers, path: method === "GET" ? GET_PATH : POST_PATH },
        ...{ body: method === "GET" ? undefined : BODY },
        secrets: Array.from({ length: keys }, (_, n) => secretOf("http", n)),
      } satisfies LoadTask);
      const [report] = (await once(asking, "message")) as [LoadReport];
      delay.disable();
      return report.answered;
    }, seconds);
    const busy = sample.cpuSeconds / sample.seconds;
    return { ...sample, figures: { delayP99Ms: delay.percentile(99) / 1e6, busy } };
  }

  async function close(): Promise<void> {
    asking.disconnect();
    server.closeAllConnections();
    server.close();
  }

  return { measure, close };
}

async function gateWithKeys() {
  const store = memoryStore();
  await makeKeys(store, KEYS, "http");
  return openGate(store);
}

/** Where nothing of a request names a model, the route is what tells it. */
function model(_: unknown, __: unknown, named: () => string | null | undefined | readonly string[]) {
  return named() ?? MODEL;
}

/** Looks a secret up by its digest, as every gate has to, and tells what Keystile tells of limits and of the request. */
function leastOf(authorization: string | undefined): Readonly<Record<string, string>> {
  const known = KNOWN.get(hash("sha256", authorization?.slice("Bearer ".length) ?? ""));
  if (known === undefined) throw new Error("It was to be known.");
  const id = `req_${globalThis.crypto.randomUUID()}`;
  return { ...known, "x-request-id": id, "request-id": id };
}

const KNOWN: ReadonlyMap<string, Readonly<Record<string, string>>> = new Map(
  Array.from({ length: KEYS }, (_, n) => [
    hash("sha256", secretOf("http", n)),
    { "X-RateLimit-Limit": "100000000", "X-RateLimit-Remaining": "99999999", "X-RateLimit-Reset": `${n}` },
  ]),
);

async function expressServer(guarding: Guarding): Promise<Server> {
  const app = express();
  if (guarding === "usual") {
    (await fileOfPeers<Middleware>("middleware")).guardExpress(app, secretOf("http", 0));
  }
  if (guarding === "least") {
    app.use((request, response, next) => {
      response.set(leastOf(request.headers.authorization));
      next();
    });
  }
  if (guarding === "keystile") app.use(expressGuard(await gateWithKeys(), { model }));
  app.get(GET_PATH, (_, response) => void response.json(ANSWER));
  app.post(POST_PATH, express.json(), (request, response) => void response.json(answerTo(request.body)));
  return createServer(app);
}

async function fastifyServer(guarding: Guarding): Promise<Server> {
  const app = fastify();
  if (guarding === "usual") {
    await (await fileOfPeers<Middleware>("middleware")).guardFastify(app, secretOf("http", 0));
  }
  if (guarding === "least") {
    app.addHook("onRequest", async (request, reply) => {
      reply.headers(leastOf(request.headers.authorization));
    });
  }
  if (guarding === "keystile") await app.register(fastifyGuard, { gate: await gateWithKeys(), model });
  app.get(GET_PATH, async () => ANSWER);
  app.post(POST_PATH, async (request) => answerTo(request.body));
  await app.ready();
  return app.server;
}

async function honoServer(guarding: Guarding): Promise<Server> {
  const app = new Hono();
  if (guarding === "usual") {
    (await fileOfPeers<Middleware>("middleware")).guardHono(app, secretOf("http", 0));
  }
  if (guarding === "least") {
    app.use(async (c, next) => {
      const headers = leastOf(c.req.header("authorization"));
      await next();
      for (const [name, value] of Object.entries(headers)) c.res.headers.set(name, value);
    });
  }
  if (guarding === "keystile") app.use(honoGuard(await gateWithKeys(), { model }));
  app.get(GET_PATH, (c) => c.json(ANSWER));
  app.post(POST_PATH, async (c) => c.json(answerTo(await c.req.json())));
  return createServer(getRequestListener(app.fetch));
}

function answerTo(body: unknown) {
  return { object: "chat.completion", model: (body as { readonly model: string }).model, choices: [] };
}
