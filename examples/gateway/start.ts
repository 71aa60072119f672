/**
 * What `npm start` runs: a gateway on this machine with one key to try it.
 *
 * KEYSTILE_DB      the file the keys live in (default keystile.db)
 * PORT             where to listen on 127.0.0.1 (default 8787; 0: any free port)
 * UPSTREAM_URL     the provider; without it, a small model server is started along with the gateway
 * UPSTREAM_API_KEY the gateway's own key for the provider
 */
import { once } from "node:events";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { createAdaptorServer } from "@hono/node-server";
import { createKeystile, type IssuedKey, type Keystile } from "keystile";
import { sqliteStore } from "keystile/sqlite";
import { createGateway } from "./gateway.ts";
import { startModelServer } from "./model-server.ts";

const OWNER = "demo";
const DAY_MS = 86_400_000;

const file = process.env["KEYSTILE_DB"] ?? "keystile.db";
const store = sqliteStore(file);
await store.setup();
// Whoever presses Ctrl+C does not wait long for streams that are still open.
const keystile = createKeystile({ store, drainMs: 2_000 });

const apiKey = process.env["UPSTREAM_API_KEY"] ?? "no-key-configured";
const providerUrl = process.env["UPSTREAM_URL"];
const modelServer = providerUrl === undefined ? await startModelServer({ apiKey }) : undefined;
const upstream = { url: providerUrl ?? modelServer?.url ?? "", apiKey };

const server = createAdaptorServer({ fetch: createGateway({ keystile, upstream }).fetch }) as Server;
server.listen(Number(process.env["PORT"] ?? 8787), "127.0.0.1");
await once(server, "listening");
const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

const { secret, key, renewed } = await demoKey(keystile);
console.log(`
Gateway   ${url}
Provider  ${providerUrl ?? "a small model server, started along"}
Keys      ${file}

${renewed ? "The key in this file got a new secret; the one before it works for another day." : "A new key."}
It may use ${key.allowedModels?.join(", ")}, from ${key.allowedIps?.join(", ")}, until ${key.expiresAt?.slice(0, 10)};
${key.quota.remaining} of ${key.quota.limit} requests are left. Its secret is shown this once:

  export API_KEY=${secret}

OpenAI's API, then Anthropic's, then a stream, then a model that the key may not use:

  curl ${url}/v1/chat/completions -H "Authorization: Bearer $API_KEY" \\
    -H "Content-Type: application/json" \\
    -d '{"model":"gpt-demo","messages":[{"role":"user","content":"Hello"}]}'

  curl ${url}/v1/messages -H "x-api-key: $API_KEY" -H "anthropic-version: 2023-06-01" \\
    -H "Content-Type: application/json" \\
    -d '{"model":"claude-demo","max_tokens":64,"messages":[{"role":"user","content":"Hello"}]}'

  curl -N ${url}/v1/chat/completions -H "Authorization: Bearer $API_KEY" \\
    -H "Content-Type: application/json" \\
    -d '{"model":"gpt-demo","stream":true,"messages":[{"role":"user","content":"Hello"}]}'

  curl -i ${url}/v1/chat/completions -H "Authorization: Bearer $API_KEY" \\
    -H "Content-Type: application/json" \\
    -d '{"model":"research-demo","messages":[{"role":"user","content":"Hello"}]}'

Stop with Ctrl+C.`);

await Promise.race([once(process, "SIGINT"), once(process, "SIGTERM")]);
server.close();
const { unwritten } = await keystile.close();
server.closeAllConnections();
modelServer?.close();
const { limit, used, held } = (await keystile.keys.get(key.id))?.quota ?? key.quota;
await store.close();
console.log(`\nStopped. ${used} of ${limit} requests used, ${held} held, ${unwritten} not written.`);
process.exitCode = unwritten === 0 ? 0 : 1;

/**
 * One key per file, however often this is started. A secret cannot be shown again, so the key that is there gets a new
 * one and keeps its counters; a key that is of no more use is replaced.
 */
async function demoKey({ keys }: Keystile): Promise<IssuedKey & { readonly renewed: boolean }> {
  const existing = (await keys.list({ owner: OWNER })).keys.filter(({ state }) => state !== "revoked");
  const usable = existing.find(({ state, quota }) => state === "active" && quota.remaining !== 0);
  if (usable !== undefined) return { ...(await keys.rotate(usable.id, { graceMs: DAY_MS })), renewed: true };
  for (const { id } of existing) await keys.revoke(id);
  const issued = await keys.issue({
    owner: OWNER,
    name: "Demo key",
    quota: 100,
    limits: [{ requests: 60, windowMs: 60_000 }],
    allowedModels: ["gpt-*", "claude-*"],
    allowedIps: ["127.0.0.0/8", "::1"],
    expiresAt: Date.now() + 30 * DAY_MS,
  });
  return { ...issued, renewed: false };
}
