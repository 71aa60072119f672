import { Hono } from "hono";
import { expect, test } from "vitest";
import { keystile } from "../../src/adapters/hono.js";
import { createKeystile } from "../../src/keystile.js";
import { tokenPrices } from "../../src/prices.js";
import { memoryStore } from "../../src/stores/memory.js";

const prices = tokenPrices({
  models: { "gpt-big": { input: 30_000_000, output: 30_000_000, maxOutputTokens: 1_000 } },
  otherModels: { input: 200_000, output: 200_000, maxOutputTokens: 1_000 },
});

async function bench(quota: number) {
  const gate = createKeystile({ store: memoryStore(), modelAliases: { latest: "gpt-big" } });
  const { secret, key } = await gate.keys.issue({ quota });
  const app = new Hono().use(keystile(gate, { prices })).all("*", (c) => c.json({}));
  const headers = { authorization: `Bearer ${secret}`, "content-type": "application/json" };
  const used = async () => {
    await gate.flush();
    return (await gate.keys.get(key.id))?.quota.used;
  };
  return { app, headers, used };
}

test("another name of a model is held at the price of the model", async () => {
  const { app, headers, used } = await bench(10_000);
  for (const model of ["gpt-big", "latest"]) {
    const body = JSON.stringify({ model, max_tokens: 1_000, messages: [] });
    const response = await app.request("/v1/chat/completions", { method: "POST", headers, body });
    expect(response.status).toBe(402);
  }
  expect(await used()).toBe(0);
});

test.each([
  ["GET", "/v1/models/gpt-big"],
  ["HEAD", "/v1beta/models/gpt-big"],
  ["DELETE", "/v1/models/gpt-big"],
  ["POST", "/v1/messages/count_tokens"],
  ["POST", "/v1beta/models/gpt-big:countTokens?alt=json"],
])("%s %s generates nothing, and costs nothing", async (method, path) => {
  const { app, headers, used } = await bench(10);
  const body = method === "POST" ? { body: JSON.stringify({ model: "gpt-big", messages: [] }) } : {};
  const response = await app.request(path, { method, headers, ...body });
  expect(response.status).toBe(200);
  expect(await used()).toBe(0);
});

const CHAT = JSON.stringify({ model: "gpt-big", max_tokens: 1_000, messages: [] });

test.each([
  ["POST", "/v1/chat/completions?a=/count_tokens"],
  ["POST", "/v1/chat/completions?:countTokens"],
  ["POST", "/v1/chat/completions?a?/input_tokens?"],
  ["POST", "/v1/chat/completions;/count_tokens"],
  ["PUT", "/v1/chat/completions"],
  ["PATCH", "/v1/chat/completions"],
  ["PROPFIND", "/v1/chat/completions"],
  ["PUT", "/v1/messages/count_tokens"],
  ["DELETE", "/v1/chat/completions"],
])("%s %s with a body is held as what it may be", async (method, path) => {
  const { app, headers, used } = await bench(10_000);
  const response = await app.request(path, {
    method,
    headers,
    body: CHAT,
  });
  expect(response.status).toBe(402);
  expect(await used()).toBe(0);
});

test("a GET with a declared body, which is not read, is held as the longest there may be", async () => {
  const { app, headers } = await bench(10_000);
  const response = await app.request("/v1/chat/completions", {
    headers: { ...headers, "content-length": `${CHAT.length}` },
  });
  expect(response.status).toBe(402);
});

test("what not everyone reads alike is held as the longest there may be", async () => {
  const { app, headers, used } = await bench(1_000_000);
  const twice = CHAT.replace("{", '{"n":128,"n":1,');
  for (const body of [twice, CHAT.replace("[]", "[],"), `\ufeff${CHAT}`]) {
    const response = await app.request("/v1/chat/completions", { method: "POST", headers, body });
    expect(response.status).toBe(402);
  }
  expect(await used()).toBe(0);
});
