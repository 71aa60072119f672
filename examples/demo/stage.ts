import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { createAdaptorServer } from "@hono/node-server";
import {
  createKeystile,
  fixedPrice,
  type IssueInput,
  type Keystile,
  type KeystileOptions,
  type OpenInput,
  type Prices,
  type SubscribeInput,
} from "keystile";
import { sqliteStore } from "keystile/sqlite";
import { manualClock } from "keystile/testing";
import { createGateway } from "../gateway/gateway.ts";
import { createModelServer } from "../gateway/model-server.ts";
import { demoPrices } from "../gateway/prices.ts";

/** The key of a scene. Its secrets are never shown, only the hint. */
export interface SceneKey {
  readonly id: string;
  readonly hint: string;
  readonly secret: string;
  newSecret?: string;
}

/** A subscription of a scene: what its account is opened with, what is credited to it, and what is subscribed to. */
export interface SceneSubscription extends OpenInput {
  readonly credited: number;
  readonly subscribed: SubscribeInput;
}

/** One thing that happens in a scene; what it returns came back. */
export type Step = (key: SceneKey) => Promise<string | undefined>;

interface Sending {
  /** Which gateway is asked. Default the first. */
  readonly at?: keyof Gateways;
  readonly path?: string;
  /** What carries the credential. Default: the scene's secret as Bearer. */
  readonly headers?: (key: SceneKey) => Readonly<Record<string, string>>;
  readonly body?: object;
  /** What to tell of an answer that is 200. */
  readonly show?: (text: string) => string;
}

/**
 * Two gateways whose requests cost 1 each, one that soon gives up on its store, and one that charges for tokens. They
 * share nothing but the file.
 */
type Gateways = Readonly<Record<"first" | "second" | "hasty" | "metered", Gateway>>;

interface Gateway {
  readonly url: string;
  readonly keystile: Keystile;
  close(): Promise<void>;
}

const PROVIDER_KEY = "the-gateways-own-key";

export function bearer(secret = ""): Record<string, string> {
  return { authorization: `Bearer ${secret}` };
}

/**
 * Gateways, the provider behind them, and the file with the keys: everything a scene needs, on this machine alone.
 *
 * Nobody waits for an hour to pass: the store's clock stands still until a scene moves it. It may only go forward,
 * because a key that has seen a much later time than the store's is a fault.
 */
export async function openStage() {
  const startMs = Date.now();
  const clock = manualClock(startMs);
  const folder = await mkdtemp(join(tmpdir(), "keystile-demo-"));
  const file = join(folder, "keys.db");
  const provider = await openProvider();
  let gateways = await openGateways();
  let passed = 0;

  async function openGateways(): Promise<Gateways> {
    const perRequest = fixedPrice(1);
    return {
      first: await openGateway(perRequest),
      second: await openGateway(perRequest),
      hasty: await openGateway(perRequest, { storeTimeoutMs: 1_000 }),
      metered: await openGateway(demoPrices),
    };
  }

  async function openGateway(prices: Prices, options: Partial<KeystileOptions> = {}): Promise<Gateway> {
    const store = sqliteStore(file, { clock: clock.now });
    await store.setup();
    const keystile = createKeystile({ store, ...options });
    const upstream = { url: provider.url, apiKey: PROVIDER_KEY };
    const { url, close } = await listen(createGateway({ keystile, upstream, prices }).fetch);
    return {
      url,
      keystile,
      async close() {
        // What the last requests cost is stored before the file is let go.
        await keystile.close();
        close();
        await store.close();
      },
    };
  }

  async function closeGateways(): Promise<void> {
    for (const gateway of Object.values(gateways)) await gateway.close();
  }

  /** A key for a scene; without a policy, one that nobody was given. */
  async function issue(policy: IssueInput | undefined): Promise<SceneKey> {
    if (policy === undefined) return { id: "", hint: "none", secret: `sk-${"Nobody".repeat(8)}` };
    const { secret, key } = await gateways.first.keystile.keys.issue(policy);
    return { id: key.id, hint: `…${key.hint}`, secret };
  }

  /** A key of a subscription. */
  async function subscribe({ credited, subscribed, ...opened }: SceneSubscription): Promise<SceneKey> {
    const { accounts } = gateways.first.keystile;
    const { id } = await accounts.open(opened);
    if (credited > 0) await accounts.credit(id, { id: "first", amount: credited });
    const { secret, key } = await accounts.subscribe(id, subscribed);
    return { id: key.id, hint: `…${key.hint}`, secret };
  }

  function send(sending: Sending = {}): Step {
    const { at = "first", path = "/v1/chat/completions", show } = sending;
    return async (key) => {
      const response = await fetch(gateways[at].url + path, {
        method: "POST",
        headers: {
          "content-type": "application/json",
          ...(sending.headers?.(key) ?? bearer(key.secret)),
        },
        body: JSON.stringify({
          model: "gpt-demo",
          messages: [{ role: "user", content: "Hello" }],
          ...sending.body,
        }),
      });
      const text = await response.text();
      if (response.status === 200) {
        passed += 1;
        return show === undefined ? "200" : `200 ${show(text)}`;
      }
      const wait = response.headers.get("retry-after");
      const { error } = JSON.parse(text) as { readonly error: { readonly code: string } };
      return `${response.status} ${error.code}${wait === null ? "" : ` (Retry-After ${wait})`}`;
    };
  }

  /**
   * Time passes, for the store and for whoever asks it: a second more than it says, because between two replies of
   * the store a gateway counts on by itself, and may be ahead by that.
   */
  function pass(ms: number): Step {
    return async () => {
      clock.advance(ms + 1_000);
      return undefined;
    };
  }

  /** The second request is sent when the first has reached the provider, which answers it only then. */
  async function twoAtOnce(key: SceneKey): Promise<string> {
    const { arrived, proceed } = provider.holdNext();
    const slow = send()(key);
    // Were it refused, it would never arrive.
    await Promise.race([arrived, slow]);
    const other = await send()(key);
    proceed();
    return `${await slow}, ${other}`;
  }

  async function revokeElsewhere({ id }: SceneKey): Promise<undefined> {
    await gateways.second.keystile.keys.revoke(id);
  }

  function rotate(graceMs: number): Step {
    return async (key) => {
      key.newSecret = (await gateways.first.keystile.keys.rotate(key.id, { graceMs })).secret;
      return undefined;
    };
  }

  /** Another program keeps the file locked. The time-out that then passes is the only wait there is. */
  function whileLocked(step: Step): Step {
    return async (key) => {
      const other = new DatabaseSync(file);
      other.exec("BEGIN IMMEDIATE");
      try {
        return await step(key);
      } finally {
        other.close();
      }
    };
  }

  /** What the key's requests were billed, when all of it is stored. */
  async function billed({ id }: SceneKey): Promise<string> {
    await gateways.metered.keystile.flush();
    const { rows } = await gateways.metered.keystile.usage.query({ keyId: id });
    return rows.map(({ model, cost }) => `${model} ${cost}`).join(", ");
  }

  /** What the holder of the key may know of it. */
  async function left({ secret }: SceneKey): Promise<string> {
    const response = await fetch(`${gateways.first.url}/v1/key`, { headers: bearer(secret) });
    const { quota } = (await response.json()) as {
      readonly quota: { readonly remaining: number };
    };
    return `${quota.remaining} left`;
  }

  /** Closes all that has the file open and opens it again. Every answer of 200 must be in it, and nothing held. */
  async function restart(): Promise<string> {
    await closeGateways();
    gateways = await openGateways();
    const { keys, usage } = gateways.first.keystile;
    const { rows } = await usage.query({ from: new Date(startMs).toISOString().slice(0, 10) });
    const booked = rows
      .filter(({ outcome }) => outcome === "settled")
      .reduce((sum, row) => sum + row.requests, 0);
    const held = (await keys.list()).keys.reduce((sum, { quota }) => sum + quota.held, 0);
    return booked === passed && held === 0
      ? "all booked"
      : `${booked} booked, ${held} held, ${passed} answered`;
  }

  async function close(): Promise<void> {
    await closeGateways();
    provider.close();
    await rm(folder, { recursive: true });
  }

  return {
    now: clock.now,
    issue,
    subscribe,
    send,
    pass,
    twoAtOnce,
    revokeElsewhere,
    rotate,
    whileLocked,
    billed,
    left,
    restart,
    close,
  };
}

/** The example's model server, which can be made to keep one request waiting. */
async function openProvider() {
  const { fetch } = createModelServer({ apiKey: PROVIDER_KEY });
  let onArrival = async (): Promise<void> => {};
  const server = await listen(async (request) => {
    await onArrival();
    return fetch(request);
  });

  function holdNext(): { readonly arrived: Promise<void>; readonly proceed: () => void } {
    let proceed = (): void => {};
    const turn = new Promise<void>((resolve) => {
      proceed = resolve;
    });
    const arrived = new Promise<void>((resolve) => {
      onArrival = () => {
        // Whoever comes after it is answered at once.
        onArrival = async () => {};
        resolve();
        return turn;
      };
    });
    return { arrived, proceed: () => proceed() };
  }
  return { ...server, holdNext };
}

async function listen(fetch: (request: Request) => Response | Promise<Response>) {
  const server = createAdaptorServer({ fetch }) as Server;
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close() {
      server.close();
      server.closeAllConnections();
    },
  };
}
