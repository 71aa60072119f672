/** Decisions in process, over the memory store: what a whole one costs beside its floor, and beside others. */
import { hash } from "node:crypto";
import { type Documents, decide, type KeyRecord, type KeystileOptions, settle } from "keystile";
import { memoryStore } from "keystile/memory";
import { ADDRESS, bearer, keyDocumentId, MODEL, makeKeys, openGate, passing, secretOf } from "./gate.ts";
import { peer } from "./peer.ts";
import type { Entry } from "./rounds.ts";
import { ask, repeat, type Subject, type Subjects } from "./subject.ts";

const KEYS = 10_000;

export const subjects: Subjects = {
  floor: async () => hashAndLookUp(),
  rules: rulesAlone,
  keystile: async () => decisions(),
  leased: async () => decisions({ leases: true }),
  unknown: async () => refusals((n) => secretOf("unknown", n)),
  malformed: async () => refusals((n) => `sk-${n} is no secret`),
  "better-auth": async () => peer("better-auth", "memory"),
  "rate-limiter-flexible": async () => peer("rate-limiter-flexible", "memory"),
};

export function entries(): readonly Entry[] {
  const part = "core";
  const scenario = "core";
  const many = { keys: KEYS, callers: 64 };
  return [
    { part, scenario, contender: "floor", subject: "floor", load: { keys: KEYS, callers: 1 } },
    { part, scenario, contender: "its rules alone", subject: "rules", load: { keys: KEYS, callers: 1 } },
    { part, scenario, contender: "keystile", subject: "keystile", load: many },
    {
      part,
      scenario,
      contender: "keystile, one caller",
      subject: "keystile",
      load: { keys: KEYS, callers: 1 },
    },
    { part, scenario, contender: "keystile, one key", subject: "keystile", load: { keys: 1, callers: 64 } },
    {
      part,
      scenario,
      contender: "keystile, one key, leased",
      subject: "leased",
      load: { keys: 1, callers: 64 },
    },
    { part, scenario, contender: "keystile, unknown", subject: "unknown", load: many },
    { part, scenario, contender: "keystile, malformed", subject: "malformed", load: many },
    { part, scenario, contender: "better-auth", subject: "better-auth", load: { keys: 1, callers: 1 } },
    {
      ...{ part, scenario, contender: "rate-limiter-flexible", subject: "rate-limiter-flexible" },
      load: { keys: KEYS, callers: 1 },
    },
  ];
}

/** What every check of a key comes to at least: one digest of the secret, and one look at a Map. */
function hashAndLookUp(): Subject {
  const secrets = Array.from({ length: KEYS }, (_, n) => secretOf("core", n));
  const known = new Map(secrets.map((secret, n) => [hash("sha256", secret), { n }]));
  return {
    measure: (load) => repeat(load, (turn) => known.get(hash("sha256", secrets[turn % KEYS] ?? ""))?.n ?? 0),
    close: async () => {},
  };
}

/**
 * The pure part of a decision: the floor, and `decide` and `settle` on what was found. Without a store that may refuse,
 * without anybody who waits, and nothing is cached, undone or told.
 */
async function rulesAlone(): Promise<Subject> {
  const store = memoryStore();
  const secrets = await makeKeys(store, KEYS, "core");
  const { documents } = await store.read(secrets.map(keyDocumentId));
  const now = Date.now();
  const known = new Map<string, Documents>();
  for (const { body } of documents) {
    const key = body as unknown as KeyRecord;
    known.set(key.secrets[0]?.digest ?? "", { key });
  }

  function pass(turn: number): number {
    const digest = hash("sha256", secrets[turn % KEYS] ?? "");
    const found = known.get(digest) as Documents;
    const facts = { address: ADDRESS, model: MODEL, digests: [digest] };
    const decided = decide(found, { facts, cost: 1 }, now);
    if (!decided.verdict.allowed) throw new Error(decided.verdict.refusal.message);
    const ending = { cost: 1, outcome: "settled", model: MODEL } as const;
    known.set(digest, settle(decided.documents, decided.verdict.reservation, ending, now));
    return decided.verdict.limits.length;
  }

  return { measure: (load) => repeat(load, pass), close: async () => {} };
}

async function decisions(options: Partial<KeystileOptions> = {}): Promise<Subject> {
  const store = memoryStore();
  const secrets = await makeKeys(store, KEYS, "core");
  const gate = openGate(store, options);
  return { measure: passing(gate, secrets), close: async () => void (await gate.close()) };
}

async function refusals(secretAt: (n: number) => string): Promise<Subject> {
  const store = memoryStore();
  await makeKeys(store, KEYS, "core");
  const headers = Array.from({ length: KEYS }, (_, n) => bearer(secretAt(n)));
  const gate = openGate(store);

  async function refused(key: number): Promise<void> {
    const request = { headers: headers[key] ?? {}, address: ADDRESS, model: MODEL, cost: 1 };
    const decision = await gate.authorize(request);
    if (decision.allowed) throw new Error("It was to be refused.");
  }

  return { measure: (load) => ask(load, refused), close: async () => void (await gate.close()) };
}
