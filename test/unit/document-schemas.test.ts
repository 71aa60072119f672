import { describe, expect, test } from "vitest";
import { inShape } from "../../src/copies.js";
import {
  parseAccountRecord,
  parseEntryRecord,
  parseKeyRecord,
  parseSecretRecord,
  parseUsageRecord,
} from "../../src/document-schemas.js";
import { isKeystileError } from "../../src/errors.js";
import type { Document, Json } from "../../src/store.js";
import { oracleOf } from "./document-oracle.js";

const T0 = Date.UTC(2025, 0, 15, 12);
const LAST = 8_640_000_000_000_000;

const ledger = {
  used: { "key@0": 5, "requests/1000": 0 },
  levels: { "requests/1000": { level: 3, atMs: T0, x: 1 } },
  nodes: { n: { seq: 1, open: 2, renewByMs: T0, held: { "key@0": 2 }, x: [1] } },
  collected: { o: { seq: 1, collectedAtMs: T0, mode: "charge", collected: { "key@0": -2 }, x: null } },
  forgottenMs: T0,
  latestMs: T0,
  alerts: { "key@0": 20 },
};
const limits = [
  { requests: 5, windowMs: 1_000, burst: 2, per: "model", x: {} },
  { tokens: 5, windowMs: 1_000, burst: 2, per: "model" },
  { inFlight: 1 },
];
const day = {
  day: 20_000,
  models: { "": { settled: [1, 2, 3, 4, 5], voided: [0, 0, 0, 0, 0] }, m: { expired: [-1, -2, -3, -4, -5] } },
};
const key = {
  format: 1,
  owner: "ann",
  prefix: "sk-",
  account: { id: "000.a", pays: "balance", x: 1 },
  createdAtMs: T0,
  policyVersion: 1,
  policy: {
    name: "one",
    state: "active",
    expiresAtMs: null,
    allowedIps: ["10.0.0.1"],
    allowedModels: ["a"],
    deniedModels: ["b"],
    scopes: ["chat"],
    limits,
    quota: 100,
    onCrash: "release",
    metadata: { plan: "pro" },
    x: { y: [1] },
  },
  secrets: [
    { digest: "d", hint: "abcd", endsAtMs: null, x: 1 },
    { digest: "e", hint: "abcd", endsAtMs: T0 },
  ],
  tally: { ...day, x: 1 },
  ...ledger,
  x: { y: { z: [1, { a: 1 }] } },
};
const plan = { name: "p", allowance: 5, ratePercent: 100, x: 1 };
const account = (cycle: object) => ({
  format: 1,
  owner: "ann",
  createdAtMs: T0,
  policyVersion: 1,
  policy: {
    name: "one",
    state: "suspended",
    limits,
    payAsYouGo: { capPerCycle: 5, x: 1 },
    onCrash: "charge",
    metadata: { a: "b" },
    x: 1,
  },
  credited: -5,
  subscription: {
    serial: 1,
    plan,
    nextPlan: plan,
    cycle,
    current: { index: -1, startsAtMs: T0, endsAtMs: T0, allowance: 5, x: 1 },
    startedAtMs: T0,
    endsAtMs: T0,
    unpaidFromMs: null,
    x: 1,
  },
  closed: { "1.4": 5 },
  ...ledger,
  x: 1,
});

const KINDS = {
  key,
  account: account({ kind: "never", x: 1 }),
  entry: { format: 1, amount: -5, atMs: T0, x: 1 },
  usage: { format: 1, keyId: "000.a", accountId: "000.b", ...day, x: 1 },
  secret: { format: 1, keyId: "000.a", accountId: "000.b", x: 1 },
} as const;

const CYCLES: readonly Json[] = [
  { kind: "anniversary", every: 1, unit: "month", anchorMs: T0, zone: "Europe/Berlin", x: 1 },
  { kind: "calendar", unit: "week", zone: "UTC", x: 1 },
];

const PARSERS = {
  key: parseKeyRecord,
  account: parseAccountRecord,
  entry: parseEntryRecord,
  usage: parseUsageRecord,
  secret: parseSecretRecord,
} as const;

/** What may stand where something else should. */
const OTHERS: readonly (Json | undefined)[] = [
  ...[undefined, null, true, false, "", "a", "active", "charge", "model", "UTC", "month", "never", "BST"],
  ...[0, -0, 1, -1, 5, 0.5, 1e300, 2 ** 53, -(2 ** 53), LAST, LAST + 1, -LAST, -LAST - 1, 100_000_001],
  ...[
    [],
    [1],
    [""],
    ["a", 1],
    [null],
    [{}],
    [1, 2, 3, 4, 5],
    [1, 2, 3, 4],
    [1, 2, 3, 4, "5"],
    Array(4).fill({}),
  ],
  ...[
    {},
    { a: 1 },
    { a: -1 },
    { a: "b" },
    { a: null },
    { a: {} },
    { requests: 1 },
    { inFlight: 0 },
    { kind: "never" },
  ],
  { requests: 0, tokens: 0, inFlight: 0 },
  JSON.parse('{"__proto__": 1}'),
  JSON.parse('{"__proto__": {"a": 1}}'),
  JSON.parse('{"constructor": 1, "toString": 2, "valueOf": 3}'),
];

function read(kind: keyof typeof PARSERS, body: Json): unknown {
  try {
    return PARSERS[kind]({ id: `${kind}:a`, version: 1, body } as Document);
  } catch (error) {
    if (isKeystileError(error) && error.code === "document_invalid") return undefined;
    throw error;
  }
}

/** A body with something else in one place of it, for every place and everything else. */
function* wrongBodies(body: Json): Generator<Json> {
  for (const other of OTHERS) if (other !== undefined) yield other;
  if (typeof body !== "object" || body === null) return;
  for (const [name, member] of Object.entries(body)) {
    const isList = Array.isArray(body);
    if (!isList) {
      const { [name]: _, ...rest } = body as Record<string, Json>;
      yield rest;
    }
    for (const wrong of wrongBodies(member as Json)) {
      yield isList ? body.with(Number(name), wrong) : { ...body, [name]: wrong };
    }
  }
}

describe.each(Object.keys(KINDS) as (keyof typeof KINDS)[])("a %s document", (kind) => {
  test("is read as it is", () => {
    const body: unknown = KINDS[kind];
    expect(read(kind, body as Json)).toEqual(expected(kind, body));
  });

  test("is read or refused as by a second description, whatever stands in whatever place of it", () => {
    let [refused, taken] = [0, 0];
    const cycles = kind === "account" ? CYCLES.flatMap((cycle) => [cycle, ...wrongBodies(cycle)]) : [];
    const bodies = cycles.map((cycle): unknown => account(cycle as object));
    for (const body of [...bodies, ...wrongBodies(KINDS[kind] as unknown as Json)] as Json[]) {
      const format = (body as { format?: unknown } | null)?.format;
      if (typeof format === "number" && format > 1) continue;
      const found = read(kind, body);
      const wanted = expected(kind, body);
      if (textOf(found) !== textOf(wanted)) expect({ body, found }).toEqual({ body, found: wanted });
      if (found === undefined) refused += 1;
      else taken += 1;
    }
    expect([refused > 50, taken > 5]).toEqual([true, true]);
  });
});

function expected(kind: keyof typeof KINDS, body: unknown): unknown {
  const record = oracleOf(kind, body);
  return record !== undefined && (kind === "key" || kind === "account") ? inShape(record as never) : record;
}

/** In one order of members. Cheaper than `toEqual`, which is for what differs. */
function textOf(value: unknown): string {
  const inOrder = (_: string, member: unknown): unknown =>
    typeof member !== "object" || member === null || Array.isArray(member)
      ? member
      : Object.entries(member).sort(([a], [b]) => (a < b ? -1 : 1));
  return JSON.stringify(value, inOrder) ?? "";
}

test("what callers are shown of a record is frozen, and shares nothing with the document", () => {
  const body = structuredClone(key) as unknown as Json;
  const record = parseKeyRecord({ id: "key:a", version: 1, body });
  const { policy } = record;
  const shown = [
    policy,
    ...[policy.allowedIps, policy.allowedModels, policy.deniedModels, policy.scopes, policy.metadata],
    ...[policy.limits, ...policy.limits],
  ];
  expect(shown.map((part) => Object.isFrozen(part))).toEqual(shown.map(() => true));
  const before = JSON.stringify(record);
  (body as { x: { y: { z: Json[] } } }).x.y.z.push(5);
  (body as { policy: { x: { y: Json[] } } }).policy.x.y.push(5);
  expect(JSON.stringify(record)).toBe(before);
});

test("a corrupt document is told by its place alone", () => {
  const body = { ...key, secrets: [{ digest: "0123456789abcdef", hint: 5, endsAtMs: null }] };
  expect(() => parseKeyRecord({ id: "key:a", version: 1, body: body as unknown as Json })).toThrow(
    'A key document is corrupt at "secrets.0.hint": expected text.',
  );
});
