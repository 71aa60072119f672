/* What needs more than the core: servers of Node's kind, its SQLite, and `require`. */
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { createAdaptorServer } from "@hono/node-server";
import express from "express";
import fastify from "fastify";
import { Hono } from "hono";
import { createKeystile, KeystileError } from "keystile";
import { decisionOf, keystile as expressGuard } from "keystile/express";
import { keystile as fastifyGuard } from "keystile/fastify";
import { keystile as honoGuard } from "keystile/hono";
import { memoryStore } from "keystile/memory";
import { keystile as nodeGuard } from "keystile/node";
import { sqliteStore } from "keystile/sqlite";
import { storeConformance } from "keystile/testing";
import { guarded } from "./core.mjs";

export const SERVERS = [
  [
    "servers: Express",
    served((gate) => {
      const app = express();
      app.use(expressGuard(gate, { cost: 2 }), express.json());
      app.post("/v1/chat/completions", (req, res) => res.json({ key: decisionOf(req).key.id, ...req.body }));
      return createServer(app);
    }),
  ],
  [
    "servers: Fastify",
    served(async (gate) => {
      const app = fastify();
      await app.register(fastifyGuard, { gate, cost: 2 });
      app.post("/v1/chat/completions", async (request) => ({
        key: request.keystile.key.id,
        ...request.body,
      }));
      await app.ready();
      return app.server;
    }),
  ],
  [
    "servers: Hono",
    served((gate) => {
      const app = new Hono();
      app.use(honoGuard(gate, { cost: 2 }));
      app.post("/v1/chat/completions", async (c) =>
        c.json({ key: c.get("keystile").key.id, ...(await c.req.json()) }),
      );
      return createAdaptorServer({ fetch: app.fetch });
    }),
  ],
  [
    "servers: node:http",
    served((gate) => {
      const guard = nodeGuard(gate, { cost: 2 });
      return createServer(async (request, response) => {
        const decision = await guard(request, response);
        if (decision === undefined) return;
        let body = "";
        for await (const chunk of request) body += chunk;
        response.setHeader("content-type", "application/json");
        response.end(JSON.stringify({ key: decision.key.id, ...JSON.parse(body) }));
      });
    }),
  ],
  [
    "require: is the same module as import",
    () => {
      const required = createRequire(import.meta.url)("keystile");
      assert.equal(required.KeystileError, KeystileError);
      assert.equal(typeof required.createKeystile({ store: memoryStore() }).authorize, "function");
    },
  ],
  ...storeConformance({ open: openSqlite }).map(({ clause, name, run }) => [
    `sqlite: ${clause} ${name}`,
    run,
  ]),
];

async function openSqlite() {
  const store = sqliteStore(":memory:");
  await store.setup();
  return store;
}

function served(open) {
  return async () => {
    const gate = createKeystile({ store: memoryStore() });
    const { secret, key } = await gate.keys.issue({ quota: 5, allowedModels: ["gpt-*"] });
    const server = await open(gate);
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    const origin = `http://127.0.0.1:${server.address().port}`;
    try {
      await guarded(
        (path, init) => fetch(origin + path, { ...init, headers: { ...init.headers, connection: "close" } }),
        secret,
        key.id,
      );
    } finally {
      await new Promise((resolve) => server.close(resolve));
      await gate.close();
    }
  };
}
