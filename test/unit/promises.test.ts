import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { renderRefusal } from "../../src/http.js";
import { createKeystile, type Keystile } from "../../src/keystile.js";
import type { KeystileOptions } from "../../src/options.js";
import { digestSecret, generateSecret } from "../../src/secret.js";
import type { Json } from "../../src/store.js";
import { memoryStore } from "../../src/stores/memory.js";
import { addTask, taskLine } from "../../src/task-line.js";
import { type FaultyStore, faultyStore } from "./faulty-store.js";

/* Promises of SECURITY.md that are about the whole, and so have no other place. */

const ROOT = join(import.meta.dirname, "../..");
const SOURCE = join(ROOT, "src");
const pepper = { id: "a", secret: "0123456789abcdefghijklmnopqrstuv" };

function open(options: Partial<KeystileOptions> = {}): {
  readonly gate: Keystile;
  readonly store: FaultyStore;
} {
  const store = faultyStore(Date.now);
  return { gate: createKeystile({ store, drainMs: 0, ...options }), store };
}

function ask(gate: Keystile, secret: string, model?: string) {
  return gate.authorize({ headers: { authorization: `Bearer ${secret}` }, model });
}

/** Every text in a value, member names included. */
function textsIn(value: Json | undefined): readonly string[] {
  if (typeof value === "string") return [value];
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([name, member]) => [name, ...textsIn(member as Json)]);
}

describe("a copy of the store", () => {
  test.each([
    ["without a pepper", []],
    ["with one", [pepper]],
  ])("%s lets nobody in, whatever of it is presented", async (_, peppers) => {
    const { gate, store } = open({ peppers, credentials: ["bearer", "x-api-key"] });
    const { secret } = await gate.keys.issue({ owner: "ann", name: "one", metadata: { plan: "pro" } });
    const documents = await store.documents();
    const found = documents.flatMap(({ id, body }) => [id, ...id.split(/[:.]/), ...textsIn(body)]);
    expect(found.length).toBeGreaterThan(10);
    const forms = found.flatMap((text) => [text, `sk-${text}`, Buffer.from(text, "hex").toString("latin1")]);
    for (const presented of new Set(forms)) {
      expect({ presented, allowed: (await ask(gate, presented)).allowed }).toEqual({
        presented,
        allowed: false,
      });
    }
    expect((await ask(gate, secret)).allowed).toBe(true);
  });
});

describe("who can write to the store", () => {
  /** Makes a secret of one's own lead to a key that exists, and lists its digest there. */
  async function forge({ store }: ReturnType<typeof open>, keyId: string, digest: string): Promise<void> {
    const [document] = (await store.read([`key:${keyId}`])).documents;
    const body = document?.body as { secrets: Json[] };
    const [first] = body.secrets as { digest: string }[];
    const forged = { ...body, secrets: [...body.secrets, { ...first, digest, endsAtMs: null }] };
    await store.write([[{ id: `key:${keyId}`, expected: document?.version ?? 0, set: forged }]]);
    const [secret] = (await store.documents()).filter(({ id }) => id.startsWith("secret:"));
    await store.write([[{ id: `secret:${digest}`, expected: 0, set: secret?.body ?? null }]]);
  }

  test("cannot make a secret that works, without the pepper; without peppers it could", async () => {
    const mine = generateSecret("sk-", (size) => crypto.getRandomValues(new Uint8Array(size)));
    for (const [peppers, allowed] of [
      [[pepper], false],
      [[], true],
    ] as const) {
      const bench = open({ peppers });
      const { key } = await bench.gate.keys.issue({});
      await forge(bench, key.id, digestSecret(mine));
      expect((await ask(bench.gate, mine)).allowed).toBe(allowed);
    }
  });
});

describe("what a client learns of a key that does not work", () => {
  test("unknown, disabled and revoked are the same bytes", async () => {
    const { gate } = open();
    const never = generateSecret("sk-", (size) => crypto.getRandomValues(new Uint8Array(size)));
    const disabled = await gate.keys.issue({});
    await gate.keys.disable(disabled.key.id);
    const revoked = await gate.keys.issue({ limits: [{ requests: 5, windowMs: 60_000 }] });
    await gate.keys.revoke(revoked.key.id);
    const answers = [];
    for (const secret of [never, disabled.secret, revoked.secret]) {
      const decision = await ask(gate, secret);
      if (decision.allowed) throw new Error("It was let in.");
      answers.push(renderRefusal(decision, { requestId: "req_1", wire: gate.wire }));
    }
    expect(answers[1]).toEqual(answers[0]);
    expect(answers[2]).toEqual(answers[0]);
  });

  test("folded, nor does it learn which rule of a key refused", async () => {
    const { gate } = open({ codes: "folded" });
    const keys = [
      await gate.keys.issue({ allowedIps: ["10.0.0.0/8"] }),
      await gate.keys.issue({ allowedModels: ["gpt-*"] }),
      await gate.keys.issue({ deniedModels: ["claude-*"] }),
    ];
    const bodies = new Set<string>();
    for (const { secret } of keys) {
      const decision = await ask(gate, secret, "claude-5");
      if (decision.allowed) throw new Error("It was let in.");
      bodies.add(renderRefusal(decision, { requestId: "req_1", wire: gate.wire }).body);
    }
    expect(bodies.size).toBe(1);
  });
});

test("a key in a query, a cookie, a subprotocol or under another name is none, unless configured", async () => {
  const { gate } = open();
  const { secret } = await gate.keys.issue({});
  const carriers = [
    { headers: {}, url: `/v1/models?key=${secret}` },
    { headers: { cookie: `key=${secret}` } },
    { headers: { "sec-websocket-protocol": `openai-insecure-api-key.${secret}` } },
    { headers: { "api-key": secret } },
    { headers: { "x-goog-api-key": secret } },
    { headers: { "proxy-authorization": `Bearer ${secret}` } },
  ];
  for (const carrier of carriers) {
    expect(await gate.authorize(carrier)).toMatchObject({ refusal: { reason: "credential_missing" } });
  }
});

test("a store that never answers makes no endless queue: beyond 16,384 operations of a key it is a fault", async () => {
  const line = taskLine();
  const step = () => ({ records: undefined, outcome: undefined });
  const add = (isFact: boolean) => addTask(line, { keyId: "000.x" }, step as never, { isFact }, 5_000);
  for (let n = 0; n < 16_384; n++) void add(false);
  expect(line.waiting.length).toBe(16_384);
  await expect(add(false)).rejects.toMatchObject({ code: "overloaded" });
  // What has happened has to be written, however many wait.
  void add(true);
  expect(line.waiting.length).toBe(16_385);
});

describe("the source", () => {
  const files = readdirSync(SOURCE, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts"))
    .map((name) => [name.replaceAll("\\", "/"), readFileSync(join(SOURCE, name), "utf8")] as const);

  /** A secret, a digest or what was presented on either side of an equality, but for lengths and absence. */
  const EQUALITY =
    /(?:\b|\.)\w*(?:[dD]igest|[sS]ecret|presented)(?!\w)\s*[!=]==?(?!=)\s*(?![\s"]|undefined|null)|[!=]==?\s*[\w.]*(?:[dD]igest|[sS]ecret|presented)\b(?!s|\.length)/;

  test("compares no secret and no digest by ===", () => {
    const found = files.flatMap(([name, text]) =>
      text
        .split("\n")
        .filter((line) => EQUALITY.test(line))
        .map((line) => `${name}: ${line.trim()}`),
    );
    expect(found).toEqual([]);
  });

  test("which this would notice", () => {
    for (const line of [
      "if (digest === other) {",
      "return record.secret == given",
      "x !== key.digest)",
      "presented === mine",
    ]) {
      expect(line).toMatch(EQUALITY);
    }
    for (const line of ["digest === undefined", "a.secrets.length === 1", 'typeof secret === "string"']) {
      expect(line).not.toMatch(EQUALITY);
    }
  });

  /** Caches of what is pure, the same for everybody, whoever asked first; and numbers of calls to a store. */
  const KNOWN = [
    "cycle.ts: formatters",
    "policy.ts: compiled",
    "rates.ts: workedOut",
    "stores/json-text.ts: known",
    "stores/postgres.ts: calls",
    "stores/redis-client.ts: calls",
  ];

  test("keeps nothing of requests in variables of modules", () => {
    const state = files.flatMap(([name, text]) =>
      [
        ...text.matchAll(
          /^(?:export )?(?:(?:let|var) (\w+)|const (\w+)(?::(?! Readonly| readonly)[^=\n]+)? = (?:new (?:Weak)?(?:Map|Set)(?:<.*>)?\(\)|\[\]))/gm,
        ),
      ].map(([, changing, constant]) => `${name}: ${changing ?? constant}`),
    );
    expect(state.toSorted()).toEqual(KNOWN);
  });
});

test("an empty store lets nobody in", async () => {
  const gate = createKeystile({ store: memoryStore() });
  for (const secret of ["", "sk-", "undefined", "null", `sk-${"0".repeat(48)}`]) {
    expect((await ask(gate, secret)).allowed).toBe(false);
  }
  expect((await gate.authorize({ headers: {} })).allowed).toBe(false);
  await gate.close();
});
