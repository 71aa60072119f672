/**
 * One gateway process, of which `run.ts` starts three: the example gateway, at a price of 1 per request. It shares
 * nothing with the others but the store. Tells its parent the port it listens on, and ends when the parent hangs up.
 */
import { once } from "node:events";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { createAdaptorServer } from "@hono/node-server";
import { createKeystile, fixedPrice } from "keystile";
import { createGateway } from "../gateway/gateway.ts";
import { openStore } from "./stores.ts";

const [address = "", providerUrl = "", apiKey = "", port = "0"] = process.argv.slice(2);

const { store, close } = await openStore(address);
// What a process that was killed holds is charged after so little time that the audit need not wait long for it.
const keystile = createKeystile({ store, holdMs: 3_000, storeTimeoutMs: 2_000 });
const app = createGateway({ keystile, upstream: { url: providerUrl, apiKey }, prices: fixedPrice(1) });
const server = createAdaptorServer({ fetch: app.fetch }) as Server;
server.listen(Number(port), "127.0.0.1");
await once(server, "listening");
process.send?.((server.address() as AddressInfo).port);

await once(process, "disconnect");
server.close();
// What the last requests cost is stored before the store is let go.
await keystile.close();
server.closeAllConnections();
await close();
