/** An API on Fastify, guarded as a whole. PORT: where to listen on 127.0.0.1 (default 8787; 0: any free port). */
import fastify, { type FastifyRequest } from "fastify";
import { createKeystile } from "keystile";
import { filterModelList, keystile } from "keystile/fastify";
import { memoryStore } from "keystile/memory";

const gate = createKeystile({ store: memoryStore() });
const { secret } = await gate.keys.issue({ owner: "demo", quota: 1_000, allowedModels: ["gpt-*"] });

const app = fastify();
// A list of models costs nothing and asks for none. Everything else holds 50, and costs the words that it answers.
const isList = (request: FastifyRequest): boolean => request.routeOptions.url === "/v1/models";
await app.register(keystile, {
  gate,
  cost: (request) => (isList(request) ? 0 : 50),
  model: (request, _body, named) => (isList(request) ? null : named()),
});
app.get("/v1/models", (request) => {
  const data = ["gpt-demo", "gpt-demo-mini", "claude-demo"].map((id) => ({ id, object: "model" }));
  return filterModelList({ object: "list", data }, request.keystile);
});
app.post("/v1/chat/completions", (request) => {
  const content = `${request.keystile.key.owner} asked ${String(request.keystile.model)}.`;
  request.keystile.observe(content.split(" ").length);
  return { object: "chat.completion", choices: [{ index: 0, message: { role: "assistant", content } }] };
});

const url = await app.listen({ port: Number(process.env["PORT"] ?? 8787), host: "127.0.0.1" });
console.log(`
  export API_KEY=${secret}

  curl ${url}/v1/chat/completions -H "Authorization: Bearer $API_KEY" \\
    -H "Content-Type: application/json" -d '{"model":"gpt-demo"}'

  curl ${url}/v1/models -H "x-api-key: $API_KEY"

  curl -i ${url}/v1/chat/completions -H "Authorization: Bearer $API_KEY" \\
    -H "Content-Type: application/json" -d '{"model":"claude-demo"}'
`);
