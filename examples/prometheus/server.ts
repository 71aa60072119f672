/**
 * An API on Hono whose gate is watched by Prometheus. The metrics have a port of their own, which clients do not reach.
 *
 * PORT         where the API listens on 127.0.0.1 (default 8787; 0: any free port)
 * METRICS_PORT where Prometheus asks (default 9464; 0: any free port)
 */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { serve } from "@hono/node-server";
import { Hono } from "hono";
import { createKeystile } from "keystile";
import { type KeystileEnv, keystile } from "keystile/hono";
import { memoryStore } from "keystile/memory";
import { gateMetrics } from "./metrics.ts";

const gate = createKeystile({ store: memoryStore() });
const metrics = gateMetrics(gate, ["gpt-demo"]);
const { secret } = await gate.keys.issue({ owner: "demo", quota: 1_000, allowedModels: ["gpt-*"] });

const app = new Hono<KeystileEnv>();
app.use(keystile(gate));
app.post("/v1/chat/completions", (c) => c.json({ object: "chat.completion", choices: [] }));

const scraped = createServer(async (_request, response) => {
  response.setHeader("content-type", metrics.contentType);
  response.end(await metrics.metrics());
});

const { PORT = 8787, METRICS_PORT = process.env["PORT"] === "0" ? 0 : 9464 } = process.env;
serve({ fetch: app.fetch, hostname: "127.0.0.1", port: Number(PORT) }, ({ port }) => {
  const url = `http://127.0.0.1:${port}`;
  scraped.listen(Number(METRICS_PORT), "127.0.0.1", () => {
    console.log(`
  export API_KEY=${secret}

  curl ${url}/v1/chat/completions -H "Authorization: Bearer $API_KEY" \\
    -H "Content-Type: application/json" -d '{"model":"gpt-demo"}'

  curl http://127.0.0.1:${(scraped.address() as AddressInfo).port}/metrics
`);
  });
});
