/*
 * What must be the same wherever the core runs: over the memory store, with nothing of Node but what all runtimes have.
 * A case throws when something is wrong.
 */
import assert from "node:assert/strict";
import { Hono } from "hono";
import { createKeystile, isKeystileError, redact, usageMeter } from "keystile";
import { keystile as honoGuard } from "keystile/hono";
import { memoryStore } from "keystile/memory";
import { manualClock, storeConformance } from "keystile/testing";

const bearer = (secret) => ({ authorization: `Bearer ${secret}` });

export const CORE = [
  ["a key is issued, admitted, settled and refused", lifecycle],
  ["a hundred requests at once spend no more than there is", concurrency],
  ["addresses, models and rates are judged", policy],
  ["a subscription turns at midnight of its time zone", cycles],
  ["peppers and checksums give the digests they give elsewhere", digests],
  ["a store that is down is a fault, never a refusal", outage],
  ["a secret is masked and usage is read out of a stream", streams],
  ["Hono is guarded", hono],
  ...storeConformance({ open: () => memoryStore() }).map(({ clause, name, run }) => [
    `memory ${clause} ${name}`,
    run,
  ]),
];

async function lifecycle() {
  const gate = createKeystile({ store: memoryStore() });
  const { secret, key } = await gate.keys.issue({ quota: 10 });
  assert.match(secret, /^sk-[0-9A-Za-z]{48}$/);

  const first = await gate.authorize({ headers: new Headers(bearer(secret)), cost: 6 });
  assert.deepEqual([first.allowed, first.quota.remaining], [true, 4]);
  await first.settle(3);
  assert.deepEqual(await refusal(gate, secret, { cost: 8 }), [402, "quota_exceeded"]);
  assert.deepEqual(await refusal(gate, `sk-${"x".repeat(48)}`), [401, "invalid_api_key"]);
  assert.deepEqual(await refusal(gate, "nonsense"), [401, "invalid_api_key"]);

  const { secret: newer } = await gate.keys.rotate(key.id);
  assert.deepEqual(await refusal(gate, secret), [401, "invalid_api_key"]);
  await gate.keys.revoke(key.id);
  assert.deepEqual(await refusal(gate, newer), [401, "invalid_api_key"]);
  assert.deepEqual((await gate.keys.get(key.id)).quota, {
    limit: 10,
    used: 3,
    held: 0,
    remaining: 7,
    unlimited: false,
  });
  assert.deepEqual(await gate.close(), { unwritten: 0 });
}

async function concurrency() {
  const gate = createKeystile({ store: memoryStore() });
  const { secret } = await gate.keys.issue({ quota: 40 });
  const decisions = await Promise.all(
    Array.from({ length: 100 }, () => gate.authorize({ headers: bearer(secret), cost: 1 })),
  );
  const admitted = decisions.filter(({ allowed }) => allowed);
  assert.equal(admitted.length, 40);
  await Promise.all(admitted.map((decision) => decision.settle()));
  await gate.close();
}

async function policy() {
  const clock = manualClock();
  const gate = createKeystile({ store: memoryStore({ clock: clock.now }), trustedProxies: ["10.0.0.0/8"] });
  const { secret } = await gate.keys.issue({
    allowedIps: ["192.0.2.0/24", "2001:db8::/32"],
    allowedModels: ["gpt-*"],
    limits: [{ requests: 2, windowMs: 60_000 }],
  });
  const from = (address, model = "gpt-5") => refusal(gate, secret, { address, model });
  assert.deepEqual(await from("192.0.3.1"), [403, "ip_not_allowed"]);
  assert.deepEqual(await from("::ffff:192.0.3.1"), [403, "ip_not_allowed"]);
  assert.deepEqual(await from("192.0.2.1", "claude"), [403, "model_access_denied"]);
  assert.equal(await from("::ffff:192.0.2.1"), undefined);
  assert.equal(await from("2001:DB8:0::1"), undefined);
  assert.deepEqual(await from("192.0.2.1"), [429, "rate_limit_exceeded"]);
  await gate.close();
}

async function cycles() {
  const clock = manualClock(Date.parse("2026-03-28T22:59:59.000Z"));
  const gate = createKeystile({ store: memoryStore({ clock: clock.now }), runtime: moved(clock) });
  const { id } = await gate.accounts.open({ owner: "ann" });
  const { secret } = await gate.accounts.subscribe(id, {
    plan: { name: "daily", allowance: 1 },
    cycle: { kind: "calendar", unit: "day", zone: "Europe/Berlin" },
  });
  assert.equal(await refusal(gate, secret, { cost: 1 }), undefined);
  assert.deepEqual(await refusal(gate, secret, { cost: 1 }), [402, "quota_exceeded"]);
  clock.advance(1_000); // 2026-03-29T00:00 in Berlin, the day the clocks are put forward
  assert.equal(await refusal(gate, secret, { cost: 1 }), undefined);
  clock.set(Date.parse("2026-03-29T21:59:59.999Z"));
  assert.deepEqual(await refusal(gate, secret, { cost: 1 }), [402, "quota_exceeded"]);
  clock.advance(1);
  assert.equal(await refusal(gate, secret, { cost: 1 }), undefined);
  await gate.close();
}

async function digests() {
  const store = memoryStore();
  const ids = [];
  const spied = {
    ...store,
    write(groups) {
      ids.push(...groups.flat().map(({ id }) => id));
      return store.write(groups);
    },
  };
  const peppers = [{ id: "2026", secret: "an example pepper of thirty-two characters" }];
  const gate = createKeystile({ store: spied, peppers, checksum: "require" });
  // Documented examples: of the format, and of a typing error in it.
  const secret = "sk-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef1W1e6b";
  await gate.keys.issue({ secret });
  const digest = "92c56e76846bd634a54dd97ef9812b74b1654874b701513f7352324536798f5d"; // by OpenSSL
  assert.ok(ids.includes(`secret:${digest}`), ids.join());
  assert.equal(await refusal(gate, secret), undefined);
  assert.deepEqual(await refusal(gate, secret.replace("0", "O")), [401, "invalid_api_key"]);
  await gate.close();
}

async function outage() {
  const store = memoryStore();
  const down = async () => {
    throw new Error("down");
  };
  const gate = createKeystile({ store: { ...store, read: down }, storeTimeoutMs: 200 });
  await assert.rejects(gate.authorize({ headers: bearer(`sk-${"x".repeat(48)}`) }), isKeystileError);
  await gate.close();
}

async function streams() {
  const gate = createKeystile({ store: memoryStore() });
  const { secret } = await gate.keys.issue();
  const error = redact(new Error(`refused ${secret}`, { cause: { headers: new Headers(bearer(secret)) } }));
  assert.ok(!`${error.stack}${error.message}${JSON.stringify([...error.cause.headers])}`.includes(secret));
  const meter = usageMeter({ contentType: "text/event-stream" });
  const text = 'data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":7}}\n\ndata: [DONE]\n\n';
  for (const byte of new TextEncoder().encode(text)) meter.push(Uint8Array.of(byte));
  meter.end();
  const { usage } = meter.observed();
  assert.deepEqual([usage.inputTokens, usage.outputTokens], [11, 7]);
  await gate.close();
}

async function hono() {
  const gate = createKeystile({ store: memoryStore() });
  const { secret, key } = await gate.keys.issue({ quota: 5, allowedModels: ["gpt-*"] });
  const app = new Hono();
  app.use(honoGuard(gate, { cost: 2 }));
  app.post("/v1/chat/completions", async (c) =>
    c.json({ key: c.get("keystile").key.id, ...(await c.req.json()) }),
  );
  await guarded((path, init) => app.request(path, init), secret, key.id);
  await gate.close();
}

/** What every adapter answers, however requests get to it. The key has a quota of 5 and its requests cost 2. */
export async function guarded(fetch, secret, keyId) {
  const post = (headers, body) =>
    fetch("/v1/chat/completions", {
      method: "POST",
      headers: { ...headers, "content-type": "application/json" },
      body: JSON.stringify(body),
    });
  const allowed = await post(bearer(secret), { model: "gpt-5" });
  assert.deepEqual([allowed.status, await allowed.json()], [200, { key: keyId, model: "gpt-5" }]);
  const expected = [
    [bearer("sk-no"), "gpt-5", 401, "invalid_api_key"],
    [{}, "gpt-5", 401, "missing_api_key"],
    [{ "x-api-key": secret }, "claude", 403, "model_access_denied"],
    [{ "x-api-key": secret }, "gpt-5", 200, undefined],
    [{ "x-api-key": secret }, "gpt-5", 402, "quota_exceeded"],
  ];
  for (const [headers, model, status, code] of expected) {
    const answer = await post(headers, { model });
    assert.deepEqual([answer.status, (await answer.json()).error?.code], [status, code]);
  }
}

/** Asks once and gives the cost back: the status and the code of a refusal, or undefined. */
async function refusal(gate, secret, request = {}) {
  const decision = await gate.authorize({ headers: bearer(secret), ...request });
  if (!decision.allowed) return [decision.refusal.status, decision.refusal.code];
  await decision.settle(request.cost);
  return undefined;
}

/** The surroundings as they are, on a clock that is moved. */
function moved(clock) {
  return {
    monotonicMs: clock.now,
    setTimer: () => () => {},
    random: Math.random,
    randomBytes: (size) => crypto.getRandomValues(new Uint8Array(size)),
  };
}
