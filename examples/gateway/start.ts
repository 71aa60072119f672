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
import { type AccountView, createKeystile, type IssuedKey, type Keystile } from "keystile";
import { sqliteStore } from "keystile/sqlite";
import { createGateway } from "./gateway.ts";
import { startModelServer } from "./model-server.ts";
import { DOLLAR, demoPrices as prices } from "./prices.ts";

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

const server = createAdaptorServer({ fetch: createGateway({ keystile, upstream, prices }).fetch }) as Server;
server.listen(Number(process.env["PORT"] ?? 8787), "127.0.0.1");
await once(server, "listening");
const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

const { secret, key, account, renewed } = await demoKey(keystile);
const { quota, payAsYouGo } = account.subscription ?? {};
console.log(`
Gateway   ${url}
Provider  ${providerUrl ?? "a small model server, started along"}
Keys      ${file}

${renewed ? "The key in this file got a new secret; the one before it works for another day." : "A new key."}
It may use ${key.allowedModels?.join(", ")}, from ${key.allowedIps?.join(", ")}. Its subscription allows
${dollars(quota?.limit)} a day, ${dollars(quota?.remaining)} of it are left; then up to ${dollars(payAsYouGo?.limit)} a day are paid
from a balance of ${dollars(account.balance.remaining)}. Its secret is shown this once:

  export API_KEY=${secret}

OpenAI's API, then Anthropic's, then a stream, then a model that the key may not use, then what is left:

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

  curl ${url}/v1/key -H "Authorization: Bearer $API_KEY"

Stop with Ctrl+C.`);

await Promise.race([once(process, "SIGINT"), once(process, "SIGTERM")]);
server.close();
const { unwritten } = await keystile.close();
server.closeAllConnections();
modelServer?.close();
const { balance, subscription } = (await keystile.accounts.get(account.id)) ?? account;
await store.close();
console.log(`
Stopped. ${dollars(subscription?.quota.used)} of the day's allowance used, ${dollars(balance.used)} paid from the balance,
${dollars((subscription?.quota.held ?? 0) + balance.held)} held, ${unwritten} not written.`);
process.exitCode = unwritten === 0 ? 0 : 1;

/**
 * One account and one key per file, however often this is started. A secret cannot be shown again, so the key that is
 * there gets a new one and keeps its counters.
 */
async function demoKey({
  keys,
  accounts,
}: Keystile): Promise<IssuedKey & { readonly account: AccountView; readonly renewed: boolean }> {
  const [account] = (await accounts.list({ owner: OWNER })).accounts;
  const [existing] = (await keys.list({ owner: OWNER })).keys;
  if (account !== undefined && existing !== undefined) {
    return { ...(await keys.rotate(existing.id, { graceMs: DAY_MS })), account, renewed: true };
  }
  const { id } = await accounts.open({
    owner: OWNER,
    name: "main",
    payAsYouGo: { capPerCycle: 0.05 * DOLLAR },
  });
  await accounts.credit(id, { id: "welcome", amount: 1 * DOLLAR });
  const subscribed = await accounts.subscribe(id, {
    plan: { name: "demo", allowance: 0.1 * DOLLAR },
    cycle: { kind: "calendar", unit: "day" },
    key: {
      name: "Demo key",
      limits: [
        { requests: 60, windowMs: 60_000 },
        { tokens: 100_000, windowMs: 60_000 },
      ],
      allowedModels: ["gpt-*", "claude-*"],
      allowedIps: ["127.0.0.0/8", "::1"],
    },
  });
  return { ...subscribed, renewed: false };
}

function dollars(amount: number | null | undefined): string {
  return `$${((amount ?? 0) / DOLLAR).toFixed(6)}`;
}
