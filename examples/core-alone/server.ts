/**
 * A gateway from the core alone: what the guards of this package do, spelled out on `node:http`. For a framework or a
 * runtime that has no guard here. It answers from a small model server that is started along.
 *
 * PORT where to listen on 127.0.0.1 (default 8787; 0: any free port)
 */
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import {
  type Allowed,
  type Answer,
  createKeystile,
  isKeystileError,
  newRequestId,
  rateLimitHeaders,
  renderFault,
  renderRefusal,
  requestedModels,
  requestIdHeaders,
} from "keystile";
import { memoryStore } from "keystile/memory";
import { startModelServer } from "../gateway/model-server.ts";

const MAX_BODY_BYTES = 1_048_576;
const apiKey = "provider-key";
const provider = await startModelServer({ apiKey });
const gate = createKeystile({ store: memoryStore() });
const { secret } = await gate.keys.issue({ owner: "demo", quota: 100, allowedModels: ["gpt-*"] });

async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const requestId = newRequestId();
  const { rawHeaders: headers, method = "", url = "", socket } = request;
  let decision: Allowed | undefined;
  try {
    // Before the body is read: who is it, and from where?
    const identified = await gate.identify({ headers, method, url, address: socket.remoteAddress });
    if (!identified.allowed) {
      return send(response, renderRefusal(identified, { requestId, wire: gate.wire }));
    }
    // Then what it asks for: judged again, and its cost held, in one write.
    const body = await readBody(request);
    const admitted = await identified.admit({
      model: requestedModels({ method, url, headers, body }),
      cost: 1,
    });
    if (!admitted.allowed) return send(response, renderRefusal(admitted, { requestId, wire: gate.wire }));
    decision = admitted;

    const answer = await askProvider(url, body);
    const told = { ...rateLimitHeaders(decision.limits), ...requestIdHeaders(requestId) };
    send(response, { status: answer.status, headers: told, body: await answer.text() });
    // Not awaited: until it is stored the cost stays held, so nothing can be lost.
    void (answer.ok ? decision.settle() : decision.void());
  } catch (error) {
    void decision?.void();
    if (!isKeystileError(error)) console.error(error);
    send(response, renderFault({ requestId }));
  }
}

/** Undefined for one that is too long: a key with a list of models is refused then. */
async function readBody(request: IncomingMessage): Promise<Uint8Array | undefined> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    // Read to its end all the same: giving up here would close the connection before the answer.
    size += chunk.byteLength;
    if (size <= MAX_BODY_BYTES) chunks.push(chunk);
  }
  return size <= MAX_BODY_BYTES ? new Uint8Array(Buffer.concat(chunks)) : undefined;
}

function askProvider(path: string, body: Uint8Array | undefined): Promise<Response> {
  const headers = { authorization: `Bearer ${apiKey}`, "content-type": "application/json" };
  return fetch(new URL(path, provider.url), {
    method: "POST",
    headers,
    body: body === undefined ? null : Buffer.from(body),
  });
}

function send(response: ServerResponse, { status, headers, body }: Answer): void {
  response.writeHead(status, { "content-type": "application/json", ...headers }).end(body);
}

const server = createServer((request, response) => void handle(request, response));
server.listen(Number(process.env["PORT"] ?? 8787), "127.0.0.1");
await once(server, "listening");
const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
console.log(`
  export API_KEY=${secret}

  curl ${url}/v1/chat/completions -H "Authorization: Bearer $API_KEY" \\
    -H "Content-Type: application/json" \\
    -d '{"model":"gpt-demo","messages":[{"role":"user","content":"Hello"}]}'

  curl -i ${url}/v1/chat/completions -H "Authorization: Bearer $API_KEY" \\
    -H "Content-Type: application/json" -d '{"model":"research-demo","messages":[]}'
`);
