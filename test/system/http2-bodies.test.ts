import type { Server } from "node:http";
import { type ClientHttp2Session, connect } from "node:http2";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createKeystile, type Keystile, tokenPrices } from "../../src/index.js";
import { memoryStore } from "../../src/stores/memory.js";
import { HTTP2_SERVERS, listen, stop } from "./adapters-servers.js";

/* Over HTTP/2 a request need not declare its body, not even one of GET, and a handler may read it all the same. */

let gate: Keystile;
let listed: string;
let poor: string;
let session: ClientHttp2Session;
let server: Server;

beforeEach(async () => {
  gate = createKeystile({ store: memoryStore(), drainMs: 0 });
  listed = (await gate.keys.issue({ allowedModels: ["gpt-*"] })).secret;
  poor = (await gate.keys.issue({ quota: 100 })).secret;
});

afterEach(async () => {
  session.destroy();
  await stop(server);
  await gate.close();
});

async function ask(secret: string, path: string, body: string | undefined, type = "application/json") {
  const headers = { ":path": path, authorization: `Bearer ${secret}`, "content-type": type };
  const stream = session.request({ ":method": "GET", ...headers }, { endStream: body === undefined });
  if (body !== undefined) stream.end(body);
  const status = new Promise((resolve) => {
    stream.on("response", (fields) => resolve(fields[":status"]));
  });
  stream.resume();
  return status;
}

describe.each(["node:http2", "fastify 5"])("%s: a GET with a body that it does not declare", (name) => {
  test("names the models in it", async () => {
    server = await (HTTP2_SERVERS[name] as (typeof HTTP2_SERVERS)[string])(gate, { maxBodyBytes: 100 });
    session = connect(`http://127.0.0.1:${await listen(server)}`);
    expect(await ask(listed, "/v1/models/gpt-x", undefined)).toBe(200);
    expect(await ask(listed, "/v1/models/gpt-x", "")).toBe(200);
    expect(await ask(listed, "/v1/models/gpt-x", '{"model":"gpt-y"}')).toBe(200);
    expect(await ask(listed, "/v1/models/gpt-x", '{"model":"other"}')).toBe(403);
    expect(await ask(listed, "/v1/models/gpt-x", "no text", "image/png")).toBe(403);
    expect(await ask(listed, "/v1/models/gpt-x", JSON.stringify({ model: "gpt-y".padEnd(200) }))).toBe(403);
  });

  test("has a price", async () => {
    const rates = { input: 1_000_000, output: 1_000_000, maxOutputTokens: 1_000 };
    const prices = tokenPrices({ models: {}, otherModels: rates });
    server = await (HTTP2_SERVERS[name] as (typeof HTTP2_SERVERS)[string])(gate, { prices });
    session = connect(`http://127.0.0.1:${await listen(server)}`);
    expect(await ask(poor, "/v1/models/gpt-x", undefined)).toBe(200);
    expect(await ask(poor, "/v1/chat/completions", '{"model":"gpt-x","messages":[]}')).toBe(402);
  });
});
