/**
 * A gateway on `node:http` and nothing else: callers bring keys of ours, the provider sees only its own.
 *
 * PORT             where to listen on 127.0.0.1 (default 8787; 0: any free port)
 * UPSTREAM_URL     the provider; without it, a small model server is started along
 * UPSTREAM_API_KEY the gateway's own key for the provider
 */
import { once } from "node:events";
import {
  createServer,
  type IncomingMessage,
  request as requestUpstream,
  type ServerResponse,
} from "node:http";
import { request as requestUpstreamSecurely } from "node:https";
import type { AddressInfo } from "node:net";
import { pipeline } from "node:stream/promises";
import { createKeystile } from "keystile";
import { memoryStore } from "keystile/memory";
import { filterModelList, keystile, stripCredentials, stripCredentialUrl } from "keystile/node";
import { startModelServer } from "../gateway/model-server.ts";

const apiKey = process.env["UPSTREAM_API_KEY"] ?? "no-key-configured";
const upstream = process.env["UPSTREAM_URL"] ?? (await startModelServer({ apiKey })).url;

const message = "The provider did not answer.";
const NO_ANSWER = JSON.stringify({ error: { message, type: "server_error", param: null, code: null } });

const gate = createKeystile({ store: memoryStore() });
const { secret } = await gate.keys.issue({ owner: "demo", quota: 100, allowedModels: ["gpt-*"] });
const paid = keystile(gate);
const free = keystile(gate, { cost: 0, model: () => null });

const server = createServer((request, response) => {
  handle(request, response).catch((error: unknown) => {
    console.error(error);
    // What has begun can only be broken off, so that nobody takes half an answer for a whole one.
    if (response.headersSent) response.destroy();
    else response.writeHead(502, { "content-type": "application/json" }).end(NO_ANSWER);
  });
});

async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const isModelList = request.method === "GET" && request.url === "/v1/models";
  const decision = await (isModelList ? free : paid)(request, response);
  if (decision === undefined) return;
  const answer = await forward(request, response);
  const { connection: _, "content-length": length, ...headers } = answer.headers;
  if (isModelList && answer.statusCode === 200) {
    const list: unknown = await new Response(answer as AsyncIterable<Uint8Array> as never).json();
    response.writeHead(200, headers);
    response.end(JSON.stringify(filterModelList(list, decision)));
    return;
  }
  response.writeHead(
    answer.statusCode ?? 502,
    length === undefined ? headers : { ...headers, "content-length": length },
  );
  await pipeline(answer, response);
}

/** Sends the request on as it came, and gives up when the client does. */
async function forward(request: IncomingMessage, response: ServerResponse): Promise<IncomingMessage> {
  // They belong to this hop; the provider is another host. Of its answer nothing is to be changed on the way.
  const { host: _, connection: __, cookie: ___, ...headers } = stripCredentials(request.headers);
  const send = upstream.startsWith("https:") ? requestUpstreamSecurely : requestUpstream;
  // Given as a path, not resolved as a URL: `//elsewhere/v1` would name another host.
  const outgoing = send(upstream, {
    ...{ method: request.method, path: stripCredentialUrl(request.url ?? "/") },
    headers: { ...headers, authorization: `Bearer ${apiKey}` },
  });
  response.on("close", () => outgoing.destroy());
  const [[answer]] = await Promise.all([
    once(outgoing, "response") as Promise<[IncomingMessage]>,
    pipeline(request, outgoing),
  ]);
  return answer;
}

server.listen(Number(process.env["PORT"] ?? 8787), "127.0.0.1");
await once(server, "listening");
const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
console.log(`
  export API_KEY=${secret}

  curl ${url}/v1/chat/completions -H "Authorization: Bearer $API_KEY" \\
    -H "Content-Type: application/json" \\
    -d '{"model":"gpt-demo","messages":[{"role":"user","content":"Hello"}]}'

  curl ${url}/v1/models -H "x-api-key: $API_KEY"

  curl -i ${url}/v1/chat/completions -H "Authorization: Bearer $API_KEY" \\
    -H "Content-Type: application/json" -d '{"model":"research-demo","messages":[]}'
`);
