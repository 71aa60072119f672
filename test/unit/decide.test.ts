import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Decided, type DecideRequest, decide } from "../../src/decide.js";
import { parseKeyRecord } from "../../src/document-schemas.js";
import { type KeyRecord, type NodeEntry, type Policy, recordWrite } from "../../src/documents.js";
import { evaluatePolicy, type Facts } from "../../src/policy.js";
import type { IssueInput } from "../../src/policy-input.js";
import type { Reason } from "../../src/refusal.js";
import { sampleKey } from "../../src/testing/sample-key.js";

const T0 = Date.UTC(2025, 0, 15, 12);
const LATEST_TIME = 8_640_000_000_000_000;
const digestA = "a".repeat(64);
const digestB = "b".repeat(64);
const digestC = "c".repeat(64);

interface Case {
  readonly record: KeyRecord;
  readonly facts: Facts;
}

/** One way for each reason to apply, in the order of the refusal table. They can be combined. */
const defects: readonly (readonly [Reason, (to: Case) => Case])[] = [
  ["key_unknown", ({ record, facts }) => ({ record, facts: { ...facts, digests: [digestB] } })],
  ["key_revoked", withPolicy({ state: "revoked" })],
  ["key_disabled", withPolicy({ state: "disabled" })],
  ["key_expired", withPolicy({ expiresAtMs: T0 })],
  ["address_not_allowed", ({ record, facts }) => ({ record, facts: { ...facts, address: "10.0.0.2" } })],
  ["model_not_allowed", ({ record, facts }) => ({ record, facts: { ...facts, model: "gpt-5" } })],
  ["model_undetermined", ({ record, facts }) => ({ record, facts: { ...facts, model: undefined } })],
  [
    "rate_limited",
    ({ record, facts }) => ({
      record: { ...record, levels: { "requests/1000": { level: 5_000, atMs: T0 } } },
      facts,
    }),
  ],
  ["concurrency_limited", ({ record, facts }) => ({ record: withNode(record, { open: 2 }), facts })],
  ["key_quota_exhausted", ({ record, facts }) => ({ record: { ...record, used: { "key@0": 10 } }, facts })],
];

const exclusive = new Set(["key_revoked+key_disabled", "model_not_allowed+model_undetermined"]);

const pairs = defects.flatMap(([first, breakFirst], at) =>
  defects
    .slice(at + 1)
    .filter(([second]) => !exclusive.has(`${first}+${second}`))
    .map(([second, breakSecond]) => [first, second, breakFirst, breakSecond] as const),
);

describe("the order of the refusal table", () => {
  test("the sample on which it is tried is allowed", () => {
    expect(outcomeOf(soundCase())).toBe("allowed");
  });

  test.each(defects)("%s alone", (reason, breakIt) => {
    expect(outcomeOf(breakIt(soundCase()))).toBe(reason);
  });

  test.each(pairs)("%s goes before %s", (first, _, breakFirst, breakSecond) => {
    expect(outcomeOf(breakSecond(breakFirst(soundCase())))).toBe(first);
    expect(outcomeOf(breakFirst(breakSecond(soundCase())))).toBe(first);
  });

  test("with everything wrong at once the first one is named", () => {
    const isOpposite = ([reason]: (typeof defects)[number]) =>
      reason === "key_revoked" || reason === "model_not_allowed";
    const all = defects.filter((defect) => !isOpposite(defect));
    expect(outcomeOf(all.reduce((to, [, breakIt]) => breakIt(to), soundCase()))).toBe("key_unknown");
  });

  test.each([
    ["key_unknown", 401, "authentication_error", "invalid_api_key"],
    ["key_revoked", 401, "authentication_error", "invalid_api_key"],
    ["key_disabled", 401, "authentication_error", "invalid_api_key"],
    ["key_expired", 401, "authentication_error", "expired_api_key"],
    ["address_not_allowed", 403, "permission_error", "ip_not_allowed"],
    ["model_not_allowed", 403, "permission_error", "model_access_denied"],
    ["model_undetermined", 403, "permission_error", "model_access_denied"],
    ["rate_limited", 429, "rate_limit_error", "rate_limit_exceeded"],
    ["concurrency_limited", 429, "rate_limit_error", "rate_limit_exceeded"],
    ["key_quota_exhausted", 402, "billing_error", "quota_exceeded"],
  ])("%s is answered %i %s %s", (reason, status, type, code) => {
    const { verdict } = decided(defectOf(reason)(soundCase()));
    expect(verdict).toMatchObject({ allowed: false, refusal: { reason, status, type, code } });
  });
});

describe("a refusal", () => {
  test.each(defects)("for %s returns the very documents it was given", (_, breakIt) => {
    const { record, facts } = breakIt(soundCase());
    const documents = deepFreeze({ key: record });
    expect(decide(documents, { facts }, T0).documents).toBe(documents);
  });

  test("shows what is left as it stands, with holds that have expired given back", () => {
    const record = withNode(sampleKey({ quota: 10, onCrash: "release" }), {
      open: 1,
      held: { "key@0": 4 },
      renewByMs: T0,
    });
    const documents = { key: record };
    const late = decide(documents, { facts: {}, cost: 11 }, T0);
    expect(late.verdict).toMatchObject({ refusal: { held: false }, quota: { held: 0, remaining: 10 } });
    expect(late.documents).toBe(documents);
    const early = decide(documents, { facts: {}, cost: 7 }, T0 - 1);
    expect(early.verdict).toMatchObject({ refusal: { held: true }, quota: { held: 4, remaining: 6 } });
  });

  test("says when the same request fits", () => {
    const record = { ...sampleKey({ limits: [{ requests: 2, windowMs: 1_000 }] }) };
    const full = { ...record, levels: { "requests/1000": { level: 2_000, atMs: T0 } } };
    expect(decide({ key: full }, { facts: {} }, T0).verdict).toMatchObject({
      refusal: { reason: "rate_limited", retryAfterMs: 500 },
      limits: [{ unit: "requests", limit: 2, remaining: 0, resetAtMs: T0 + 1_000 }],
    });
  });
});

describe("an allowance", () => {
  test("holds the cost and counts against every limit", () => {
    const key = sampleKey({ quota: 10, limits: [{ requests: 2, windowMs: 1_000 }, { inFlight: 3 }] });
    const request = { facts: {}, cost: 4, node: "me", holdUntilMs: T0 + 5 };
    const { documents, verdict } = decide({ key }, request, T0);
    expect(documents).toEqual({
      key: {
        ...key,
        levels: { "requests/1000": { level: 1_000, atMs: T0 } },
        nodes: { me: { seq: 0, open: 1, renewByMs: T0 + 5, held: { "key@0": 4 } } },
      },
    });
    expect(verdict).toEqual({
      allowed: true,
      reservation: { node: "me", key: { "key@0": 4 }, account: {} },
      limits: [
        {
          unit: "requests",
          limit: 2,
          remaining: 1,
          resetAtMs: T0 + 500,
          windowMs: 1_000,
          perWindow: 2,
          nextInMs: 500,
        },
        { unit: "inFlight", limit: 3, remaining: 2, resetAtMs: T0 + 1_000 },
      ],
      quota: { limit: 10, used: 0, held: 4, remaining: 6, unlimited: false },
    });
  });

  test("without a cost, a node or a time holds 1 for a minute", () => {
    const { documents } = decide({ key: sampleKey() }, { facts: {} }, T0);
    expect(documents.key.nodes).toEqual({
      local: { seq: 0, open: 1, renewByMs: T0 + 60_000, held: { "key@0": 1 } },
    });
  });

  test("of cost 0 without limits counts nothing, so it changes nothing", () => {
    const documents = { key: sampleKey({ quota: 0 }) };
    const free = decide(documents, { facts: {}, cost: 0 }, T0);
    expect(free.documents).toBe(documents);
    expect(free.verdict).toMatchObject({ allowed: true, reservation: { node: null, key: {}, account: {} } });
  });

  test("of cost 0 under a limit is counted by it", () => {
    const key = sampleKey({ quota: 0, limits: [{ inFlight: 1 }] });
    const first = decide({ key }, { facts: {}, cost: 0 }, T0);
    expect(first.verdict.allowed).toBe(true);
    expect(decide(first.documents, { facts: {}, cost: 0 }, T0).verdict).toMatchObject({
      refusal: { reason: "concurrency_limited", retryAfterMs: 1_000 },
    });
  });

  test("collects what a dead process held and gives its place to others", () => {
    const key = withNode(sampleKey({ quota: 10, limits: [{ inFlight: 1 }] }), {
      open: 1,
      held: { "key@0": 4 },
      renewByMs: T0,
    });
    expect(decide({ key }, { facts: {} }, T0 - 1).verdict.allowed).toBe(false);
    expect(decide({ key }, { facts: {}, cost: 7 }, T0).verdict).toMatchObject({
      refusal: { reason: "key_quota_exhausted", held: false },
    });
    const { documents, verdict } = decide({ key }, { facts: {}, cost: 6 }, T0);
    expect(verdict).toMatchObject({ allowed: true, quota: { used: 4, held: 6, remaining: 0 } });
    expect(documents.key.collected).toHaveProperty("other");
  });

  test("keeps members it does not know", () => {
    const body = JSON.parse(JSON.stringify({ ...sampleKey(), refunds: [20, 10], later: "on" }));
    body.policy.regions = ["eu"];
    const key = parseKeyRecord({ id: "key:a.b", version: 1, body });
    const after = recordWrite("key:a.b", 1, decide({ key }, { facts: {} }, T0).documents.key).set;
    expect(JSON.parse(JSON.stringify(after))).toMatchObject({
      refunds: [20, 10],
      later: "on",
      policy: { regions: ["eu"] },
      nodes: { local: { open: 1 } },
    });
  });
});

describe("cost", () => {
  test.each([
    ["1"],
    [1.5],
    [-1],
    [Number.NaN],
    [Number.POSITIVE_INFINITY],
    [2 ** 53],
    [null],
    [1n],
    [true],
    [{}],
    [[1]],
  ])("%s is a mistake of the program, for a key that would be refused too", (cost) => {
    const request = { facts: {}, cost } as unknown as DecideRequest;
    const revoked = withPolicy({ state: "revoked" })({ record: sampleKey(), facts: {} }).record;
    for (const key of [sampleKey(), revoked]) {
      expect(() => decide(deepFreeze({ key }), request, T0)).toThrow(TypeError);
    }
  });

  test.each([[0], [1], [Number.MAX_SAFE_INTEGER]])("%i is a cost", (cost) => {
    expect(decide({ key: sampleKey() }, { facts: {}, cost }, T0).verdict.allowed).toBe(true);
  });
});

describe("expiry", () => {
  test.each([
    ["never", null, T0, true],
    ["a millisecond before", T0, T0 - 1, true],
    ["at the instant", T0, T0, false],
    ["after it", T0, T0 + 1, false],
    ["the last instant there is", LATEST_TIME, T0, true],
  ])("%s", (_, expiresAtMs, now, allowed) => {
    expect(evaluatePolicy({ key: expiring(expiresAtMs) }, {}, now).allowed).toBe(allowed);
  });

  test.each([
    [undefined],
    ["2999-01-01T00:00:00Z"],
    ["32472144000000"],
    [""],
    [Number.NaN],
    [Number.POSITIVE_INFINITY],
    [T0 + 0.5],
    [2 ** 53],
    [LATEST_TIME + 1],
    [0],
    [-1],
    [true],
    [false],
    [{}],
    [[]],
    [new Date(T0 + 1)],
  ])("%s in a stored policy means expired, never without end", (expiresAtMs) => {
    expect(evaluatePolicy({ key: expiring(expiresAtMs) }, {}, T0)).toMatchObject({
      refusal: { reason: "key_expired" },
    });
  });

  test("is not undone by a clock that steps back", () => {
    const seen = { ...expiring(T0), latestMs: T0 };
    expect(evaluatePolicy({ key: seen }, {}, T0 - 1)).toMatchObject({ refusal: { reason: "key_expired" } });
    expect(evaluatePolicy({ key: { ...seen, latestMs: T0 - 1 } }, {}, T0 - 2).allowed).toBe(true);
  });

  test.each([
    [300_000, "judged"],
    [300_001, "fault"],
  ])("a document %i ms ahead of the store is %s", (aheadMs, outcome) => {
    const ahead = { ...sampleKey(), latestMs: T0 + aheadMs };
    const judge = () => evaluatePolicy({ key: ahead }, {}, T0).allowed;
    if (outcome === "judged") expect(judge()).toBe(true);
    else expect(judge).toThrow(expect.objectContaining({ code: "document_invalid" }));
  });
});

describe("secrets", () => {
  const rotated = {
    ...sampleKey(),
    secrets: [
      { digest: digestA, hint: "aaaa", endsAtMs: null },
      { digest: digestB, hint: "bbbb", endsAtMs: T0 },
      { digest: digestC, hint: "cccc", endsAtMs: 0 },
    ],
  };

  test.each([
    ["the current one", [digestA], T0, "allowed"],
    ["the previous one in its last millisecond", [digestB], T0 - 1, "allowed"],
    ["the previous one from its end on", [digestB], T0, "key_unknown"],
    ["the one before", [digestC], T0 - 1, "key_unknown"],
    ["the current one under the second pepper", [digestC, digestA], T0, "allowed"],
    ["none", [], T0, "key_unknown"],
    ["an unknown one", ["d".repeat(64)], T0, "key_unknown"],
    ["a beginning of one", [digestA.slice(1)], T0, "key_unknown"],
    ["other letter case", [digestA.toUpperCase()], T0, "key_unknown"],
    ["left out, in a test of the policy alone", undefined, T0, "allowed"],
  ])("%s", (_, digests, now, expected) => {
    const facts = digests === undefined ? {} : { digests };
    expect(outcomeOf({ record: rotated, facts }, now)).toBe(expected);
  });

  test("an ended one is not revived by a clock that steps back", () => {
    const record = { ...rotated, latestMs: T0 };
    expect(outcomeOf({ record, facts: { digests: [digestB] } }, T0 - 1)).toBe("key_unknown");
  });

  test("an empty digest in a damaged record is nobody's", () => {
    const record = { ...rotated, secrets: [{ digest: "", hint: "", endsAtMs: null }] };
    expect(outcomeOf({ record, facts: { digests: [""] } })).toBe("key_unknown");
  });
});

describe("addresses", () => {
  test.each([
    [["10.0.0.1"], "10.0.0.1", true],
    [["10.0.0.1"], "10.0.0.2", false],
    [["10.0.0.1"], "::ffff:10.0.0.1", true],
    [["10.0.0.0/8"], "10.255.0.1", true],
    [["10.0.0.0/8"], "11.0.0.1", false],
    [["10.0.0.0/8"], "010.0.0.1", false],
    [["2001:db8::/32"], "2001:db8::1", true],
    [["2001:db8::/32"], "10.0.0.1", false],
    [["10.0.0.1"], undefined, false],
    [["10.0.0.1"], "", false],
    [["10.0.0.1"], "unix:", false],
    [undefined, undefined, true],
    [undefined, "nonsense", true],
    // What could not have been written narrows a list and never opens it.
    [[], "10.0.0.1", false],
    [["0.0.0.0/0"], "10.0.0.1", false],
    [["nonsense", "10.0.0.1"], "10.0.0.1", true],
  ])("a list %j and the address %s: %s", (allowedIps, address, allowed) => {
    const record = withPolicy({ allowedIps })({ record: sampleKey(), facts: {} }).record;
    expect(evaluatePolicy({ key: record }, { address }, T0).allowed).toBe(allowed);
  });

  test("a refusal names neither the list nor the address", () => {
    const record = sampleKey({ allowedIps: ["10.0.0.1"] });
    const text = JSON.stringify(evaluatePolicy({ key: record }, { address: "10.9.8.7" }, T0));
    expect(text).not.toMatch(/10\./);
  });
});

describe("models", () => {
  test.each([
    [{}, undefined, "allowed"],
    [{}, "any", "allowed"],
    [{ allowedModels: ["gpt-4o*"] }, "gpt-4o-mini", "allowed"],
    [{ allowedModels: ["gpt-4o*"] }, "gpt-5", "model_not_allowed"],
    [{ allowedModels: ["gpt-4o*"] }, ["gpt-4o", "gpt-4o-mini"], "allowed"],
    [{ allowedModels: ["gpt-4o*"] }, ["gpt-4o", "gpt-5"], "model_not_allowed"],
    [{ allowedModels: ["gpt-4o*"] }, undefined, "model_undetermined"],
    [{ allowedModels: ["gpt-4o*"] }, [], "model_undetermined"],
    [{ allowedModels: ["gpt-4o*"] }, null, "allowed"],
    [{ deniedModels: ["gpt-5"] }, "gpt-5", "model_not_allowed"],
    [{ deniedModels: ["gpt-5"] }, "gpt-4o", "allowed"],
    [{ deniedModels: ["gpt-5"] }, undefined, "model_undetermined"],
    [{ allowedModels: ["**"], deniedModels: ["gpt-5"] }, "gpt-5", "model_not_allowed"],
  ])("%j and %j: %s", (policy: IssueInput, model, expected) => {
    expect(outcomeOf({ record: sampleKey(policy), facts: { model } })).toBe(expected);
  });

  test("a stored list that is empty allows none", () => {
    const record = withPolicy({ allowedModels: [] })({ record: sampleKey(), facts: {} }).record;
    expect(outcomeOf({ record, facts: { model: "gpt-5" } })).toBe("model_not_allowed");
  });
});

const request = fc.record({
  cost: fc.nat(12),
  address: fc.constantFrom("10.0.0.1", "10.0.0.2", undefined),
  model: fc.constantFrom("a", "b", ["a", "b"], null, undefined),
  digests: fc.constantFrom([digestA], [digestB], [digestB, digestA]),
  node: fc.constantFrom("me", "other"),
  laterMs: fc.nat(3_000),
});

const situation = fc.record({
  quota: fc.constantFrom(null, 0, 5, 10),
  used: fc.nat(8),
  held: fc.nat(4),
  level: fc.nat(4_000),
  expiresAt: fc.constantFrom(null, T0 + 1_500),
  endsAtMs: fc.constantFrom(0, T0 + 1_000),
  onCrash: fc.constantFrom("charge" as const, "release" as const),
  limits: fc.constantFrom([], [{ requests: 3, windowMs: 1_000 }], [{ inFlight: 2 }]),
});

/** Each takes something away, and nothing else. */
const restrictions: Readonly<Record<string, Partial<Policy>>> = {
  disabled: { state: "disabled" },
  "a list of addresses": { allowedIps: ["10.0.0.1"] },
  "a list of models": { allowedModels: ["a"] },
  "a denied model": { deniedModels: ["b"] },
  "an earlier end": { expiresAtMs: T0 + 500 },
  "a smaller quota": { quota: 0 },
  "a tighter limit": { limits: [{ requests: 1, windowMs: 1_000 }, { inFlight: 1 }] },
};

describe("whatever the documents, the request and the time", () => {
  test("the answer is the same again, nothing given is changed, and a refusal consumes nothing", () => {
    fc.assert(
      fc.property(situation, request, (situation, { cost, node, laterMs, ...facts }) => {
        const documents = deepFreeze({ key: recordOf(situation) });
        const asked = deepFreeze({ facts, cost, node });
        const first = decide(documents, asked, T0 + laterMs);
        expect(decide(documents, asked, T0 + laterMs)).toEqual(first);
        const copy = structuredClone(documents);
        expect(decide(copy, asked, T0 + laterMs)).toEqual(first);
        if (!first.verdict.allowed) expect(first.documents).toBe(documents);
      }),
      { numRuns: 200 },
    );
  });

  test.each(Object.entries(restrictions))("%s never allows what was refused without it", (_, restriction) => {
    fc.assert(
      fc.property(situation, request, (situation, { cost, node, laterMs, ...facts }) => {
        const record = recordOf(situation);
        const narrowed = withPolicy(restriction)({ record, facts }).record;
        const without = decide({ key: record }, { facts, cost, node }, T0 + laterMs).verdict;
        const within = decide({ key: narrowed }, { facts, cost, node }, T0 + laterMs).verdict;
        if (within.allowed) expect(without.allowed).toBe(true);
      }),
      { numRuns: 150 },
    );
  });
});

function recordOf({
  used,
  held,
  level,
  endsAtMs,
  ...input
}: Omit<IssueInput, "expiresAt"> & {
  readonly expiresAt: number | null;
  readonly used: number;
  readonly held: number;
  readonly level: number;
  readonly endsAtMs: number;
}): KeyRecord {
  const record = {
    ...sampleKey(input),
    used: used === 0 ? {} : { "key@0": used },
    levels: { "requests/1000": { level, atMs: T0 } },
    secrets: [
      { digest: digestA, hint: "aaaa", endsAtMs: null },
      { digest: digestB, hint: "bbbb", endsAtMs },
    ],
  };
  return withNode(record, { open: 1, held: held === 0 ? {} : { "key@0": held }, renewByMs: T0 + 2_000 });
}

/** A key with every kind of rule, and a request that all of them let pass. */
function soundCase(): Case {
  const record = sampleKey({
    expiresAt: T0 + 1,
    allowedIps: ["10.0.0.1"],
    allowedModels: ["gpt-4o"],
    limits: [{ requests: 5, windowMs: 1_000 }, { inFlight: 2 }],
    quota: 10,
  });
  const secrets = [{ digest: digestA, hint: "aaaa", endsAtMs: null }];
  return {
    record: { ...record, secrets },
    facts: { digests: [digestA], address: "10.0.0.1", model: "gpt-4o" },
  };
}

function defectOf(reason: string): (to: Case) => Case {
  const found = defects.find(([name]) => name === reason);
  if (found === undefined) throw new Error(`no defect ${reason}`);
  return found[1];
}

function withPolicy(change: Partial<Policy>): (to: Case) => Case {
  return ({ record, facts }) => ({ record: { ...record, policy: { ...record.policy, ...change } }, facts });
}

function withNode(record: KeyRecord, entry: Partial<NodeEntry>): KeyRecord {
  const blank = { seq: 1, open: 0, renewByMs: T0 + 60_000, held: {} };
  return { ...record, nodes: { ...record.nodes, other: { ...blank, ...entry } } };
}

function expiring(expiresAtMs: unknown): KeyRecord {
  return withPolicy({ expiresAtMs })({ record: sampleKey(), facts: {} }).record;
}

function decided({ record, facts }: Case, now = T0): Decided {
  return decide(deepFreeze({ key: record }), { facts }, now);
}

function outcomeOf(of: Case, now = T0): Reason | "allowed" {
  const { verdict } = decided(of, now);
  return verdict.allowed ? "allowed" : verdict.refusal.reason;
}

function deepFreeze<T>(value: T): T {
  if (typeof value !== "object" || value === null) return value;
  for (const inner of Object.values(value)) deepFreeze(inner);
  return Object.freeze(value);
}
