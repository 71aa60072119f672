import { once } from "node:events";
import { createServer, type Server } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import express from "express";
import { afterEach, expect, test } from "vitest";
import { keystile as expressGuard, type GuardedRequest } from "../../src/adapters/express.js";
import { guardUpgrade, keystile as nodeGuard } from "../../src/adapters/node.js";
import { createKeystile } from "../../src/keystile.js";
import { memoryStore } from "../../src/stores/memory.js";

const servers: Server[] = [];

afterEach(() => {
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    server.close();
  }
});

async function listening(server: Server): Promise<number> {
  servers.push(server);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return (server.address() as AddressInfo).port;
}

test("a refused upgrade leaves no socket open, even to a client that never ends its half", async () => {
  const gate = createKeystile({ store: memoryStore() });
  const server = createServer();
  server.on(
    "upgrade",
    guardUpgrade(gate, () => {}),
  );
  const port = await listening(server);
  const upgrade = "GET /v1/realtime HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
  const clients = Array.from({ length: 20 }, (): Socket => {
    const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
    socket.write(upgrade);
    socket.resume();
    return socket;
  });
  await Promise.all(clients.map((socket) => once(socket, "end")));
  const open = await new Promise<number>((resolve) => {
    setImmediate(() => server.getConnections((_, count) => resolve(count)));
  });
  for (const socket of clients) socket.destroy();
  expect(open).toBe(0);
});

test("a parsed body nested deeper than the stack cannot be told, and is no crash", async () => {
  const gate = createKeystile({ store: memoryStore() });
  const listed = await gate.keys.issue({ allowedModels: ["gpt-*"] });
  const app = express();
  app.use(express.json());
  app.use(expressGuard<GuardedRequest & express.Request>(gate));
  app.post("/", (_, response) => void response.json({ ok: true }));
  const port = await listening(createServer(app));
  const body = "[".repeat(40_000) + "]".repeat(40_000);
  const headers = { "content-type": "application/json", "x-api-key": listed.secret };
  const response = await fetch(`http://127.0.0.1:${port}/`, { method: "POST", headers, body });
  expect(response.status).toBe(403);
});

test("a body that somebody has read before the guard cannot be told", async () => {
  const gate = createKeystile({ store: memoryStore() });
  const { secret } = await gate.keys.issue({ allowedModels: ["gpt-*"] });
  const guard = nodeGuard(gate);
  const server = createServer(async (request, response) => {
    for await (const _ of request);
    if ((await guard(request, response)) !== undefined) response.end("passed");
  });
  const port = await listening(server);
  const url = `http://127.0.0.1:${port}/openai/deployments/gpt-5/chat/completions`;
  const headers = { "content-type": "application/json", "x-api-key": secret };
  const response = await fetch(url, { method: "POST", headers, body: '{"model":"claude-5"}' });
  expect(response.status).toBe(403);
});
