/** An API on Express, guarded as a whole, with a WebSocket beside it. PORT: default 8787; 0: any free port. */
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import express from "express";
import { createKeystile } from "keystile";
import { type Allowed, filterModelList, keystile } from "keystile/express";
import { memoryStore } from "keystile/memory";
import { guardUpgrade } from "keystile/node";
import { WebSocketServer } from "ws";

declare global {
  namespace Express {
    interface Request {
      keystile: Allowed;
    }
  }
}

const gate = createKeystile({ store: memoryStore() });
const { secret } = await gate.keys.issue({ owner: "demo", quota: 1_000, allowedModels: ["gpt-*"] });

const app = express();
// A list of models costs nothing and asks for none. Everything else holds 50, and costs the words that it answers.
app.get("/v1/models", keystile(gate, { cost: 0, model: () => null }), (request, response) => {
  const data = ["gpt-demo", "gpt-demo-mini", "claude-demo"].map((id) => ({ id, object: "model" }));
  response.json(filterModelList({ object: "list", data }, request.keystile));
});
app.use(keystile(gate, { cost: 50 }));
app.use(express.json());
app.post("/v1/chat/completions", (request, response) => {
  const content = `${request.keystile.key.owner} asked ${String(request.keystile.model)}.`;
  request.keystile.observe(content.split(" ").length);
  response.json({
    object: "chat.completion",
    choices: [{ index: 0, message: { role: "assistant", content } }],
  });
});

const server = createServer(app);
const sockets = new WebSocketServer({ noServer: true });
server.on(
  "upgrade",
  guardUpgrade(gate, (request, socket, head, decision) => {
    sockets.handleUpgrade(request, socket, head, (client) => {
      let words = 0;
      client.on("message", (text) => {
        words += String(text).split(" ").length;
        decision.observe(words);
        client.send(`${decision.model}: ${text}`);
      });
    });
  }),
);

server.listen(Number(process.env["PORT"] ?? 8787), "127.0.0.1");
await once(server, "listening");
const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
console.log(`
  export API_KEY=${secret}

  curl ${url}/v1/chat/completions -H "Authorization: Bearer $API_KEY" \\
    -H "Content-Type: application/json" -d '{"model":"gpt-demo"}'

  curl ${url}/v1/models -H "x-api-key: $API_KEY"

  curl -i ${url}/v1/chat/completions -H "Authorization: Bearer $API_KEY" \\
    -H "Content-Type: application/json" -d '{"model":"claude-demo"}'
`);
