/** An API on Hono, guarded route by route. PORT: where to listen on 127.0.0.1 (default 8787; 0: any free port). */
import { serve } from "@hono/node-server";
import { Hono } from "hono";
import { createKeystile } from "keystile";
import { filterModelList, type KeystileEnv, keystile } from "keystile/hono";
import { memoryStore } from "keystile/memory";

const gate = createKeystile({ store: memoryStore() });
const { secret } = await gate.keys.issue({ owner: "demo", quota: 1_000, allowedModels: ["gpt-*"] });

const app = new Hono<KeystileEnv>();
// A list of models costs nothing and asks for none. Everything else holds 50, and costs the words that it answers.
app.get("/v1/models", keystile(gate, { cost: 0, model: () => null }), (c) => {
  const data = ["gpt-demo", "gpt-demo-mini", "claude-demo"].map((id) => ({ id, object: "model" }));
  return c.json(filterModelList({ object: "list", data }, c.get("keystile")));
});
app.use(keystile(gate, { cost: 50 }));
app.post("/v1/chat/completions", (c) => {
  const decision = c.get("keystile");
  const content = `${decision.key.owner} asked ${String(decision.model)}.`;
  decision.observe(content.split(" ").length);
  return c.json({
    object: "chat.completion",
    choices: [{ index: 0, message: { role: "assistant", content } }],
  });
});

serve({ fetch: app.fetch, hostname: "127.0.0.1", port: Number(process.env["PORT"] ?? 8787) }, ({ port }) => {
  const url = `http://127.0.0.1:${port}`;
  console.log(`
  export API_KEY=${secret}

  curl ${url}/v1/chat/completions -H "Authorization: Bearer $API_KEY" \\
    -H "Content-Type: application/json" -d '{"model":"gpt-demo"}'

  curl ${url}/v1/models -H "x-api-key: $API_KEY"

  curl -i ${url}/v1/chat/completions -H "Authorization: Bearer $API_KEY" \\
    -H "Content-Type: application/json" -d '{"model":"claude-demo"}'
`);
});
