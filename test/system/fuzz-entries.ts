import * as express from "../../src/adapters/express.js";
import * as fastify from "../../src/adapters/fastify.js";
import * as hono from "../../src/adapters/hono.js";
import * as node from "../../src/adapters/node.js";
import * as core from "../../src/index.js";
import * as memory from "../../src/stores/memory.js";
import { memoryStore } from "../../src/stores/memory.js";
import * as postgres from "../../src/stores/postgres.js";
import * as redis from "../../src/stores/redis.js";
import * as sqlite from "../../src/stores/sqlite.js";
import * as testing from "../../src/testing/index.js";

/** Everything the package exports, by subpath as in `package.json`. */
export const MODULES: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  ".": core,
  "./memory": memory,
  "./redis": redis,
  "./sqlite": sqlite,
  "./postgres": postgres,
  "./express": express,
  "./fastify": fastify,
  "./hono": hono,
  "./node": node,
  "./testing": testing,
};

/** A way to call a function as it is meant to be called; what is fuzzed is near to it, or anything at all. */
export interface Entry {
  readonly call: (...args: never[]) => unknown;
  readonly sample: readonly unknown[];
  /** Documented to throw nothing, whatever it is given. */
  readonly neverThrows?: true;
  /** Documented besides TypeError and KeystileError. */
  readonly alsoThrows?: typeof RangeError;
}

const NOW = 1_000;
const wire = { realm: "api", codes: "full" } as const;
const refusal = {
  allowed: false,
  refusal: { reason: "key_unknown", status: 401, type: "authentication_error" },
};
const row = {
  day: "2026-11-23",
  keyId: "k",
  owner: "o",
  model: "m",
  outcome: "settled",
  requests: 1,
  cost: 2,
};
const rates = { input: 1, output: 2, maxOutputTokens: 100 };
const usage = { inputTokens: 1, outputTokens: 2 };
const rule = { name: "r", allows: () => true };
const options = () => ({
  store: memoryStore(),
  peppers: [{ id: "1", secret: "0123456789abcdefghijklmnopqrstuv" }],
  credentials: ["bearer"],
  addressLimit: { requests: 1, windowMs: 1_000 },
  modelAliases: { a: "b" },
  trustedProxies: ["10.0.0.0/8"],
  alerts: { percentLeft: [10], balanceLeft: [1] },
  rules: [rule],
  holdMs: 60_000,
});
const policy = () => ({
  owner: "o",
  name: "n",
  expiresAt: "2099-01-01T00:00:00Z",
  allowedIps: ["10.0.0.0/8"],
  allowedModels: ["gpt-*"],
  deniedModels: ["x"],
  scopes: ["s"],
  limits: [{ requests: 5, windowMs: 1_000 }, { tokens: 5, windowMs: 1_000 }, { inFlight: 2 }],
  quota: 10,
  metadata: { a: "b" },
});
const cycle = { kind: "anniversary", every: 1, unit: "month", anchorMs: 0, zone: "UTC" } as const;
const plan = { name: "pro", allowance: 10 };
const subscribed = () => ({ plan, cycle: { kind: "calendar", unit: "month", zone: "UTC" } });
const facts = { digests: ["0".repeat(64)], address: "10.0.0.1", model: "gpt-5", scopes: ["s"] };

/** A stream and a meter are theirs who call; what is wrong with them is thrown where they are used. */
const stream = () => new Response('{"usage":{}}').body;

export const ENTRIES: Readonly<Record<string, Entry>> = {
  ". KeystileError": {
    call: (...args) => new core.KeystileError(...(args as unknown as [never, never])),
    sample: ["closed", "x", { cause: 1 }],
  },
  ". askForUsage": { call: core.askForUsage, sample: [{ model: "m", stream: true, messages: [] }] },
  ". createKeystile": { call: core.createKeystile, sample: [options()] },
  ". cycleAt": { call: core.cycleAt, sample: [cycle, NOW], alsoThrows: RangeError },
  ". decide": {
    call: core.decide,
    sample: [
      { key: testing.sampleKey(), account: testing.sampleAccount() },
      { facts, cost: 1, tokens: 1, rules: [rule], node: "n", holdUntilMs: NOW + 10 },
      NOW,
    ],
  },
  ". evaluatePolicy": {
    call: core.evaluatePolicy,
    sample: [{ key: testing.sampleKey() }, facts, NOW, [rule]],
  },
  ". filterModelList": {
    call: core.filterModelList,
    sample: [{ data: [{ id: "m" }] }, { canUseModel: () => true }],
  },
  ". fixedPrice": { call: core.fixedPrice, sample: [{ subscription: 1, balance: 2 }] },
  ". isKeystileError": { call: core.isKeystileError, sample: [new Error("x")], neverThrows: true },
  ". meterBody": {
    call: core.meterBody,
    sample: [stream(), core.usageMeter({ contentType: "application/json" } as never)],
  },
  ". newRequestId": { call: core.newRequestId, sample: [], neverThrows: true },
  ". perFund": {
    call: core.perFund,
    sample: [{ subscription: core.fixedPrice(1), balance: core.fixedPrice(2) }],
  },
  ". rateLimitHeaders": {
    call: core.rateLimitHeaders,
    sample: [[{ unit: "requests", limit: 2, remaining: 1, resetAtMs: NOW, windowMs: 1 }], "both"],
  },
  ". readUsage": {
    call: core.readUsage,
    sample: [{ usage: { prompt_tokens: 1 } }, undefined],
    neverThrows: true,
  },
  ". redact": { call: core.redact, sample: [{ a: `sk-${"x".repeat(40)}` }, ["my-"]] },
  ". renderFault": { call: core.renderFault, sample: [{ requestId: "req_1", form: "common" }] },
  ". renderRefusal": {
    call: core.renderRefusal,
    sample: [
      { ...refusal, limits: [] },
      { requestId: "req_1", wire, form: "gemini" },
    ],
  },
  ". requestIdHeaders": { call: core.requestIdHeaders, sample: ["req_1"] },
  ". requestedModels": {
    call: core.requestedModels,
    sample: [
      {
        method: "POST",
        url: "/v1/chat",
        headers: { "content-type": "application/json" },
        body: new Uint8Array(2),
      },
    ],
  },
  ". settle": {
    call: core.settle,
    sample: [
      { key: testing.sampleKey(), account: testing.sampleAccount() },
      { node: "n", key: { "key@0": 1 }, account: { "balance@0": 1 }, cycle: null },
      { cost: 1, outcome: "settled", model: "m", inputTokens: 1, outputTokens: 1 },
      NOW,
    ],
  },
  ". stripCredentialUrl": { call: core.stripCredentialUrl, sample: ["/v1?key=x&y=1"] },
  ". stripCredentials": {
    call: core.stripCredentials as never,
    sample: [{ authorization: "x", "sec-websocket-protocol": "a, b" }],
  },
  ". sumUsage": { call: core.sumUsage as never, sample: [[row], ["keyId"]] },
  ". tokenPrices": {
    call: core.tokenPrices,
    sample: [{ models: { "gpt-*": rates }, otherModels: rates, bytesPerToken: 4 }],
  },
  ". usageCsv": { call: core.usageCsv, sample: [[row]] },
  ". usageMeter": {
    call: core.usageMeter,
    sample: [{ contentType: "text/event-stream", stripUsageChunk: true }],
  },
  "./memory memoryStore": { call: memory.memoryStore, sample: [{ now: () => NOW }] },
  "./redis redisStore": { call: redis.redisStore, sample: [{ call: async () => null }, { prefix: "p" }] },
  "./sqlite sqliteStore": {
    // What names a file would be one.
    call: (path: unknown, ...rest: unknown[]) =>
      sqlite.sqliteStore((typeof path === "string" ? ":memory:" : path) as never, ...(rest as never[])),
    sample: [{ prepare: () => ({}), exec: () => {} }, { busyTimeoutMs: 10 }],
  },
  "./postgres postgresStore": {
    call: postgres.postgresStore,
    sample: [{ query: async () => ({ rows: [] }) }, { schema: "s" }],
  },
  "./express keystile": {
    call: express.keystile,
    sample: [gateway(), { cost: 1, model: () => null, scopes: ["s"], maxBodyBytes: 5 }],
  },
  "./express judgedOf": { call: express.judgedOf, sample: [{ keystileJudged: {} }] },
  "./express decisionOf": { call: express.decisionOf, sample: [{ keystile: {} }] },
  "./fastify keystile": {
    call: (app: unknown, given: unknown) =>
      fastify.keystile(app as never, given as never, (error) => {
        if (error !== undefined) throw error;
      }),
    sample: [
      { decorateRequest: () => {}, addHook: () => {} },
      { gate: gateway(), tokens: 1 },
    ],
  },
  "./hono keystile": { call: hono.keystile, sample: [gateway(), { cost: { subscription: 1, balance: 2 } }] },
  "./node keystile": {
    call: node.keystile,
    sample: [gateway(), { prices: core.fixedPrice(1), onUnknownUsage: "input" }],
  },
  "./node guardUpgrade": { call: node.guardUpgrade, sample: [gateway(), () => {}, { onError: () => {} }] },
  "./testing manualClock": { call: testing.manualClock, sample: [NOW] },
  "./testing sampleAccount": {
    call: testing.sampleAccount,
    sample: [{ credited: 5, subscription: subscribed() }, NOW],
  },
  "./testing sampleKey": { call: testing.sampleKey, sample: [policy(), NOW] },
  "./testing storeConformance": { call: testing.storeConformance, sample: [{ open: () => memoryStore() }] },
  "./testing storeDurability": { call: testing.storeDurability, sample: [{ open: () => memoryStore() }] },
};

for (const subpath of ["./express", "./fastify", "./hono", "./node"]) {
  for (const name of ["filterModelList", "stripCredentialUrl", "stripCredentials"]) {
    Object.assign(ENTRIES, { [`${subpath} ${name}`]: ENTRIES[`. ${name}`] });
  }
}

function gateway(): core.Keystile {
  return core.createKeystile({ store: memoryStore(), drainMs: 0 });
}

/** The methods of a turnstile and of what it gives, on objects of their own. */
export async function methodEntries(gate: core.Keystile): Promise<Readonly<Record<string, Entry>>> {
  const { key, secret } = await gate.keys.issue({ quota: 1_000_000 });
  const { key: doomed } = await gate.keys.issue();
  const account = await gate.accounts.open({ owner: "o", name: "fuzz" });
  const request = {
    headers: { authorization: `Bearer ${secret}` },
    method: "POST",
    url: "/v1",
    address: "::1",
  };
  const allowed = async () => (await gate.authorize(request)) as core.Allowed;
  const onAllowed =
    (call: (decision: core.Allowed, args: never[]) => unknown) =>
    async (...args: never[]) => {
      const decision = await allowed();
      try {
        return await call(decision, args);
      } finally {
        await decision.void();
      }
    };
  return {
    "keys.issue": { call: gate.keys.issue, sample: [policy()] },
    "keys.get": { call: gate.keys.get, sample: [key.id] },
    "keys.list": { call: gate.keys.list, sample: [{ owner: "o", limit: 5 }] },
    "keys.update": { call: gate.keys.update, sample: [doomed.id, policy(), { ifPolicyVersion: 1 }] },
    "keys.disable": { call: gate.keys.disable, sample: [doomed.id] },
    "keys.enable": { call: gate.keys.enable, sample: [doomed.id] },
    "keys.revoke": { call: gate.keys.revoke, sample: ["000.000000000000000000000000"] },
    "keys.rotate": { call: gate.keys.rotate, sample: [doomed.id, { graceMs: 5 }] },
    "keys.purge": { call: gate.keys.purge, sample: ["000.000000000000000000000000"] },
    "accounts.open": {
      call: gate.accounts.open,
      sample: [{ owner: "o", name: "n", payAsYouGo: { capPerCycle: 5 } }],
    },
    "accounts.get": { call: gate.accounts.get, sample: [account.id] },
    "accounts.find": { call: gate.accounts.find, sample: [{ owner: "o", name: "fuzz" }] },
    "accounts.list": { call: gate.accounts.list, sample: [{ owner: "o", limit: 5 }] },
    "accounts.update": { call: gate.accounts.update as never, sample: [account.id, { name: "x" }] },
    "accounts.suspend": { call: gate.accounts.suspend, sample: [account.id] },
    "accounts.resume": { call: gate.accounts.resume, sample: [account.id] },
    "accounts.credit": { call: gate.accounts.credit, sample: [account.id, { id: "c1", amount: 5 }] },
    "accounts.debit": { call: gate.accounts.debit, sample: [account.id, { id: "d1", amount: 5 }] },
    "accounts.subscribe": { call: gate.accounts.subscribe as never, sample: [account.id, subscribed()] },
    "accounts.changePlan": { call: gate.accounts.changePlan, sample: [account.id, plan] },
    "accounts.suspendSubscription": {
      call: gate.accounts.suspendSubscription,
      sample: [account.id, { graceMs: 5 }],
    },
    "accounts.resumeSubscription": { call: gate.accounts.resumeSubscription, sample: [account.id] },
    "accounts.cancelSubscription": { call: gate.accounts.cancelSubscription as never, sample: [account.id] },
    "accounts.resetCycle": { call: gate.accounts.resetCycle as never, sample: [account.id] },
    "usage.query": {
      call: gate.usage.query,
      sample: [{ keyId: key.id, from: "2026-11-01", to: "2026-11-23", limit: 5 }],
    },
    emit: { call: gate.emit as never, sample: [{ type: "key.issued", keyId: "a.b" }] },
    on: { call: gate.on as never, sample: ["key.issued", () => {}] },
    identify: { call: gate.identify, sample: [request] },
    authorize: { call: gate.authorize, sample: [{ ...request, model: "m", cost: 1, tokens: 1, scopes: [] }] },
    describe: { call: gate.describe as never, sample: [secret] },
    flush: {
      call: (ms: unknown) => gate.flush(typeof ms === "number" ? Math.min(ms, 5) : (ms as number)),
      sample: [5],
    },
    close: { call: (...args: never[]) => gateway().close(...(args as [])), sample: [] },
    "decision.canUseModel": {
      call: onAllowed((decision, args) => decision.canUseModel(...(args as unknown as [never]))),
      sample: ["m"],
    },
    "decision.observe": {
      call: onAllowed((decision, args) => decision.observe(...(args as unknown as [never]))),
      sample: [1, usage],
    },
    "decision.settle": { call: onAllowed((decision, args) => decision.settle(...args)), sample: [1, usage] },
    "decision.settleUnknown": {
      call: onAllowed((decision, args) => decision.settleUnknown(...args)),
      sample: [1],
    },
    "decision.void": {
      call: onAllowed((decision, args) => decision.void(...(args as unknown as []))),
      sample: [],
    },
  };
}

/** Every method of a turnstile and of what it allows, by name. */
export function methodsOf(gate: object, decision: object): readonly string[] {
  const own = Object.entries(gate).flatMap(([name, value]) => {
    if (typeof value === "function") return [name];
    const inner = typeof value === "object" && value !== null ? Object.entries(value) : [];
    return inner.filter(([, method]) => typeof method === "function").map(([method]) => `${name}.${method}`);
  });
  const onDecision = Object.entries(decision).filter(([, value]) => typeof value === "function");
  return [...own, ...onDecision.map(([name]) => `decision.${name}`)];
}
