import { Hono } from "hono";
import { afterEach, beforeEach, expect, test } from "vitest";
import { keystile } from "../../src/adapters/hono.js";
import type { GuardOptions } from "../../src/guard-options.js";
import { createKeystile } from "../../src/keystile.js";
import type { Prices } from "../../src/prices.js";
import { memoryStore } from "../../src/stores/memory.js";

const unhandled: unknown[] = [];
const noteUnhandled = (reason: unknown): void => void unhandled.push(reason);

beforeEach(() => void process.on("unhandledRejection", noteUnhandled));
afterEach(() => void process.off("unhandledRejection", noteUnhandled));

async function rejects(): Promise<never> {
  throw new Error("rejected");
}

test.each(["model", "scopes", "address"])(
  "options.%s that is asynchronous by mistake lets nobody in, and its rejection ends nothing",
  async (name) => {
    const gate = createKeystile({ store: memoryStore() });
    const { secret, key } = await gate.keys.issue({ quota: 10 });
    const errors: Error[] = [];
    const app = new Hono()
      .use(keystile(gate, { [name]: rejects } as GuardOptions<unknown>))
      .post("*", (c) => c.text("in"));
    app.onError((error, c) => {
      errors.push(error);
      return c.text("", 500);
    });
    const response = await app.request("/", { method: "POST", headers: { "x-api-key": secret }, body: "{}" });
    await gate.flush();
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(response.status).toBe(500);
    expect(errors).toEqual([new TypeError(`options.${name} must not be asynchronous.`)]);
    expect((await gate.keys.get(key.id))?.quota).toMatchObject({ used: 0, held: 0 });
    expect(unhandled.splice(0)).toEqual([]);
    await gate.close();
  },
);

test.each(["cost", "readUsage"])("%s that is asynchronous by mistake has told nothing", async (name) => {
  const gate = createKeystile({ store: memoryStore() });
  const { secret, key } = await gate.keys.issue({ quota: 100 });
  const prices: Prices = {
    estimate: () => ({ cost: 7, tokens: 0, inputCost: 0, inputTokens: 0 }),
    cost: name === "cost" ? (rejects as never) : () => 3,
  };
  const options = name === "cost" ? { prices } : { prices, readUsage: rejects as never };
  const app = new Hono()
    .use(keystile(gate, options))
    .post("*", (c) => c.json({ usage: { prompt_tokens: 1, completion_tokens: 1 } }));
  const body = JSON.stringify({ model: "m" });
  const headers = { "x-api-key": secret, "content-type": "application/json" };
  const response = await app.request("/", { method: "POST", headers, body });
  await response.text();
  await new Promise((resolve) => setTimeout(resolve, 5));
  await gate.flush();
  expect((await gate.keys.get(key.id))?.quota).toMatchObject({ used: 7, held: 0 });
  expect(unhandled.splice(0)).toEqual([]);
  await gate.close();
});
