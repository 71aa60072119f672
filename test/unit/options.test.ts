import { describe, expect, test } from "vitest";
import { isKeystileError } from "../../src/errors.js";
import { createKeystile } from "../../src/keystile.js";
import { type KeystileOptions, parseKeystileOptions } from "../../src/options.js";
import {
  type IssueInput,
  parseIssueInput,
  parseListQuery,
  parsePolicyPatch,
  parseRotateOptions,
  parseUpdateCondition,
} from "../../src/policy-input.js";
import { systemRuntime } from "../../src/runtime.js";
import { memoryStore } from "../../src/stores/memory.js";

const T0 = Date.UTC(2025, 0, 15, 12);
const LATEST_TIME = 8_640_000_000_000_000;
const store = memoryStore();
const pepperA = { id: "a", secret: "0123456789abcdefghijklmnopqrstuv" };
const pepperB = { id: "b", secret: "zyxwvutsrqponmlkjihgfedcba987654" };
const peppers = (count: number) =>
  Array.from({ length: count }, (_, at) => ({ id: `${at}`, secret: `${pepperA.secret}${at}` }));
const addresses = (count: number) => Array.from({ length: count }, (_, at) => `10.0.${at >> 8}.${at & 255}`);
const words = (count: number) => Array.from({ length: count }, (_, at) => `model-${at}`);
const members = (count: number) => Object.fromEntries(words(count).map((name) => [name, "x"]));
const windows = (count: number) =>
  Array.from({ length: count }, (_, at) => ({ requests: 1, windowMs: 1_000 + at }));

test("every option but the store has a default", () => {
  expect(parseKeystileOptions({ store })).toEqual({
    store,
    prefixes: { standard: "sk-", subscription: "sk-sub-" },
    checksum: "off",
    peppers: [],
    credentials: ["bearer", "x-api-key"],
    trustedProxies: undefined,
    addressLimit: undefined,
    clientAddressHeader: undefined,
    modelAliases: {},
    modelFamily: undefined,
    rules: [],
    codes: "full",
    rateLimitHeaders: "x",
    realm: "api",
    thresholds: { percentLeft: [20, 10, 0], balanceLeft: [0] },
    onCrash: "charge",
    holdMs: 60_000,
    storeTimeoutMs: 5_000,
    drainMs: 10_000,
    requestTimeoutMs: 3_600_000,
    cacheSize: 10_000,
    runtime: undefined,
  });
});

test.each<[string, Partial<KeystileOptions>]>([
  ["holdMs", { holdMs: 1_000, storeTimeoutMs: 999 }],
  ["holdMs", { holdMs: 86_400_000 }],
  ["holdMs", { holdMs: 5_001 }],
  ["storeTimeoutMs", { storeTimeoutMs: 10 }],
  ["storeTimeoutMs", { storeTimeoutMs: 60_000, holdMs: 60_001 }],
  ["drainMs", { drainMs: 0 }],
  ["drainMs", { drainMs: 600_000 }],
  ["requestTimeoutMs", { requestTimeoutMs: 1_000 }],
  ["requestTimeoutMs", { requestTimeoutMs: 86_400_000 }],
  ["cacheSize", { cacheSize: 1 }],
  ["cacheSize", { cacheSize: 1_000_000 }],
  ["realm", { realm: "a" }],
  ["realm", { realm: "~ !#[]".padEnd(128, "x") }],
  ["checksum", { checksum: "require" }],
  ["rateLimitHeaders", { rateLimitHeaders: "ietf" }],
  ["rateLimitHeaders", { rateLimitHeaders: "both" }],
  ["onCrash", { onCrash: "release" }],
  ["credentials", { credentials: ["x-goog-api-key", "api-key", "x-api-key", "bearer"] }],
  ["peppers", { peppers: [] }],
  ["peppers", { peppers: peppers(8) }],
  ["peppers", { peppers: [{ id: "x".repeat(256), secret: pepperA.secret }] }],
  ["peppers", { peppers: [{ id: "a", secret: "12345678".padEnd(32, "8") }] }],
  ["runtime", { runtime: systemRuntime }],
])("takes %s at its edge: %j", (name, options) => {
  expect(parseKeystileOptions({ store, ...options })).toMatchObject({ [name]: options[name as "holdMs"] });
});

test.each([
  [{}, { percentLeft: [20, 10, 0], balanceLeft: [0] }],
  [{ percentLeft: [] }, { percentLeft: [], balanceLeft: [0] }],
  [{ percentLeft: [0, 99], balanceLeft: [Number.MAX_SAFE_INTEGER] }, undefined],
  [{ percentLeft: Array(16).fill(5), balanceLeft: Array(16).fill(5) }, undefined],
])("takes thresholds of alerts at their edge: %j", (alerts, thresholds) => {
  expect(parseKeystileOptions({ store, alerts }).thresholds).toEqual(thresholds ?? alerts);
});

test("takes prefixes one by one, and ranges of proxies up to 256", () => {
  const { prefixes } = parseKeystileOptions({ store, prefixes: { standard: "acme_" } });
  expect(prefixes).toEqual({ standard: "acme_", subscription: "sk-sub-" });
  expect(parseKeystileOptions({ store, trustedProxies: addresses(256) }).trustedProxies?.v4).toHaveLength(
    256,
  );
  expect(parseKeystileOptions({ store, trustedProxies: [] }).trustedProxies).toBeUndefined();
});

const wrongOptions: readonly (readonly [path: string, options: unknown])[] = [
  ["options", undefined],
  ["options", null],
  ["options", "sk-"],
  ["options.store", {}],
  ["options.store", { store: null }],
  ["options.store", { store: { read() {}, write() {}, list() {} } }],
  ["options.prefixes", { store, prefixes: "sk-" }],
  ["options.prefixes", { store, prefixes: { standard: "sk-sub-" } }],
  ["options.prefixes.standard", { store, prefixes: { standard: "sk" } }],
  ["options.prefixes.standard", { store, prefixes: { standard: "" } }],
  ["options.prefixes.subscription", { store, prefixes: { subscription: `${"x".repeat(32)}-` } }],
  ["options.checksum", { store, checksum: "on" }],
  ["options.checksum", { store, checksum: true }],
  ["options.peppers", { store, peppers: pepperA.secret }],
  ["options.peppers", { store, peppers: peppers(9) }],
  ["options.peppers", { store, peppers: [pepperA, { ...pepperB, id: "a" }] }],
  ["options.peppers", { store, peppers: [pepperA, { ...pepperA, id: "b" }] }],
  ["options.peppers.0", { store, peppers: [pepperA.secret] }],
  ["options.peppers.0.id", { store, peppers: [{ ...pepperA, id: "" }] }],
  ["options.peppers.0.id", { store, peppers: [{ ...pepperA, id: "x".repeat(257) }] }],
  ["options.peppers.0.secret", { store, peppers: [{ id: "a", secret: pepperA.secret.slice(1) }] }],
  ["options.peppers.0.secret", { store, peppers: [{ id: "a", secret: "a".repeat(64) }] }],
  ["options.peppers.0.secret", { store, peppers: [{ id: "a", secret: "1234567".padEnd(64, "7") }] }],
  ["options.peppers.1.secret", { store, peppers: [pepperA, { id: "b", secret: "short" }] }],
  ["options.peppers.0.secret", { store, peppers: [{ id: "a", secret: 12_345 }] }],
  ["options.credentials", { store, credentials: [] }],
  ["options.credentials.0", { store, credentials: ["Authorization"] }],
  ["options.credentials", { store, credentials: "bearer" }],
  ["options.trustedProxies", { store, trustedProxies: true }],
  ["options.trustedProxies", { store, trustedProxies: 1 }],
  ["options.trustedProxies", { store, trustedProxies: "10.0.0.1" }],
  ["options.trustedProxies", { store, trustedProxies: addresses(257) }],
  ["options.trustedProxies[1]", { store, trustedProxies: ["10.0.0.1", "0.0.0.0/0"] }],
  ["options.trustedProxies[0]", { store, trustedProxies: ["10.0.0.1/8"] }],
  ["options.rateLimitHeaders", { store, rateLimitHeaders: "none" }],
  ["options.rateLimitHeaders", { store, rateLimitHeaders: true }],
  ["options.realm", { store, realm: "" }],
  ["options.realm", { store, realm: "x".repeat(129) }],
  ["options.realm", { store, realm: 'a"b' }],
  ["options.realm", { store, realm: "a\\b" }],
  ["options.realm", { store, realm: "a\nb" }],
  ["options.realm", { store, realm: "Ä" }],
  ["options.onCrash", { store, onCrash: "forget" }],
  ["options.alerts", { store, alerts: [20, 10] }],
  ["options.alerts.percentLeft", { store, alerts: { percentLeft: Array(17).fill(1) } }],
  ["options.alerts.percentLeft.0", { store, alerts: { percentLeft: [100] } }],
  ["options.alerts.percentLeft.1", { store, alerts: { percentLeft: [0, -1] } }],
  ["options.alerts.balanceLeft", { store, alerts: { balanceLeft: Array(17).fill(1) } }],
  ["options.alerts.balanceLeft.0", { store, alerts: { balanceLeft: [-1] } }],
  ["options.alerts.balanceLeft.0", { store, alerts: { balanceLeft: [0.5] } }],
  ["options.holdMs", { store, holdMs: 999, storeTimeoutMs: 10 }],
  ["options.holdMs", { store, holdMs: 86_400_001 }],
  ["options.holdMs", { store, holdMs: 5_000 }],
  ["options.holdMs", { store, storeTimeoutMs: 60_000 }],
  ["options.holdMs", { store, holdMs: "60000" }],
  ["options.storeTimeoutMs", { store, storeTimeoutMs: 9 }],
  ["options.storeTimeoutMs", { store, storeTimeoutMs: 60_001 }],
  ["options.storeTimeoutMs", { store, storeTimeoutMs: Number.NaN }],
  ["options.storeTimeoutMs", { store, storeTimeoutMs: null }],
  ["options.drainMs", { store, drainMs: -1 }],
  ["options.drainMs", { store, drainMs: 600_001 }],
  ["options.drainMs", { store, drainMs: Number.POSITIVE_INFINITY }],
  ["options.requestTimeoutMs", { store, requestTimeoutMs: 999 }],
  ["options.requestTimeoutMs", { store, requestTimeoutMs: 86_400_001 }],
  ["options.cacheSize", { store, cacheSize: 0 }],
  ["options.cacheSize", { store, cacheSize: 1_000_001 }],
  ["options.cacheSize", { store, cacheSize: 1.5 }],
  ["options.runtime", { store, runtime: {} }],
  ["options.runtime", { store, runtime: { ...systemRuntime, random: 4 } }],
];

test.each(wrongOptions)("throws at start, naming %s: %j", (path, options) => {
  const { message } = faultOf(() => createKeystile(options as KeystileOptions));
  expect(message.startsWith(`${path}: `), message).toBe(true);
});

test("no message shows a pepper, whatever is wrong with the options", () => {
  const secrets = [pepperA.secret, pepperB.secret, "a".repeat(64), "1234567".padEnd(64, "7"), "short"];
  const wrongElsewhere = wrongOptions.map(([, options]) => ({
    peppers: [pepperA, pepperB],
    ...(options as object),
  }));
  const misplaced = [
    { store, pepper: pepperA.secret },
    { store, peppers: [[pepperA.secret]] },
    { store, peppers: [{ ...pepperA, pepper: pepperA.secret }] },
    { store, peppers: [{ id: pepperA, secret: "short" }] },
    { store, peppers: new Map([["a", pepperA.secret]]) },
    { store, peppers: [{ id: "a", secret: [pepperA.secret] }] },
  ];
  for (const options of [...wrongOptions.map(([, options]) => options), ...wrongElsewhere, ...misplaced]) {
    const fault = faultOf(() => createKeystile(options as KeystileOptions));
    for (const secret of secrets) {
      expect(fault.message).not.toContain(secret);
      expect(String(fault.stack)).not.toContain(secret);
    }
    expect(fault.cause).toBeUndefined();
  }
});

test.each([
  ["storeTimeout", "storeTimeoutMs"],
  ["holdms", "holdMs"],
  ["pepper", "peppers"],
  ["trustProxies", "trustedProxies"],
  ["cache_size", "cacheSize"],
  ["prefix", "prefixes"],
  ["oncrash", "onCrash"],
  ["STORE", "store"],
])("names the nearest option to %s: %s", (unknown, nearest) => {
  const { message } = faultOf(() => createKeystile({ store, [unknown]: 1 } as never));
  expect(message).toContain(`options: there is no "${unknown}"; did you mean "${nearest}"?`);
});

test.each(["logger", "x", ""])("names none for an option %j that is like no other", (unknown) => {
  const { message } = faultOf(() => createKeystile({ store, [unknown]: 1 } as never));
  expect(message).toBe(`options: there is no "${unknown}".`);
});

test("names the nearest member inside an option, too", () => {
  const inPrefixes = faultOf(() => createKeystile({ store, prefixes: { standart: "sk-" } } as never));
  expect(inPrefixes.message).toContain('options.prefixes: there is no "standart"; did you mean "standard"?');
  const inPeppers = faultOf(() => createKeystile({ store, peppers: [{ ...pepperA, secrets: "" }] } as never));
  expect(inPeppers.message).toContain('options.peppers.0: there is no "secrets"; did you mean "secret"?');
  const inLimits = faultOf(() => issued({ limits: [{ requests: 1, windowMS: 1_000 }] as never }));
  expect(inLimits.message).toContain('key.limits.0: there is no "windowMS"; did you mean "windowMs"?');
});

test.each([
  [7, /^key\.limits\.0: expected \{ requests.* \{ tokens.* \{ inFlight.*, received 7\.$/],
  [{ tokens: 1 }, /^key\.limits\.0\.windowMs: /],
  [{ characters: 1 }, /^key\.limits\.0: there is no "characters"/],
])("a limit that is no limit is told what it should be: %j", (limit, expected) => {
  const { message } = faultOf(() => issued({ limits: [limit] as never }));
  expect(message).toMatch(expected);
});

test("leaves frozen options as they are, and keeps no hold on them", () => {
  const given = deepFreeze({
    store: { ...store },
    prefixes: { standard: "acme-" },
    peppers: [{ ...pepperA }],
    credentials: ["bearer" as const],
    trustedProxies: ["10.0.0.0/8"],
  });
  const before = JSON.stringify(given);
  const settings = parseKeystileOptions(given);
  expect(JSON.stringify(given)).toBe(before);
  expect(Object.isFrozen(settings)).toBe(true);
  expect(settings.peppers).not.toBe(given.peppers);
  expect(settings.credentials).not.toBe(given.credentials);
});

test("a policy that says nothing allows everything and counts it", () => {
  expect(issued({})).toEqual({
    owner: undefined,
    kind: "standard",
    policy: { state: "active", expiresAtMs: null, limits: [], quota: null, onCrash: "charge" },
  });
  expect(parseIssueInput({}, { onCrash: "release" }, T0).policy.onCrash).toBe("release");
});

test.each<[keyof IssueInput, IssueInput]>([
  ["name", { name: "x" }],
  ["name", { name: "x".repeat(256) }],
  ["allowedIps", { allowedIps: addresses(256) }],
  ["allowedIps", { allowedIps: ["10.0.0.0/8", "2001:db8::/32", "::1"] }],
  ["allowedModels", { allowedModels: words(256) }],
  ["allowedModels", { allowedModels: ["x".repeat(256), "*"] }],
  ["deniedModels", { deniedModels: ["gpt-*"] }],
  ["limits", { limits: [] }],
  ["limits", { limits: [{ requests: 1, windowMs: 1_000 }] }],
  ["limits", { limits: [{ requests: 1, windowMs: 2_678_400_000 }] }],
  ["limits", { limits: [{ requests: 9, windowMs: 1_000, burst: 1 }, { inFlight: 1 }] }],
  ["limits", { limits: windows(16) }],
  ["limits", { limits: [{ requests: 1, windowMs: 69_431, burst: Number.MAX_SAFE_INTEGER / 69_431 }] }],
  ["limits", { limits: [{ requests: Number.MAX_SAFE_INTEGER, windowMs: 1_000, burst: 1 }] }],
  ["limits", { limits: [{ tokens: 1, windowMs: 1_000, per: "model" }] }],
  ["limits", { limits: [{ tokens: 1, windowMs: 2_678_400_000, burst: 3_362_830 }] }],
  [
    "limits",
    {
      limits: [
        { tokens: 1, windowMs: 1_000 },
        { tokens: 1, windowMs: 1_000, per: "model" },
        { requests: 1, windowMs: 1_000 },
      ],
    },
  ],
  ["limits", { limits: [{ inFlight: Number.MAX_SAFE_INTEGER }] }],
  ["quota", { quota: 0 }],
  ["quota", { quota: Number.MAX_SAFE_INTEGER }],
  ["quota", { quota: null }],
  ["onCrash", { onCrash: "release" }],
  ["metadata", { metadata: {} }],
  ["metadata", { metadata: members(32) }],
  ["metadata", { metadata: { ["x".repeat(64)]: "y".repeat(512), empty: "" } }],
])("a policy takes %s at its edge: %j", (name, input) => {
  expect(issued(input).policy).toMatchObject({ [name]: input[name] });
});

test("an owner and a kind are no part of the policy", () => {
  const { owner, kind, policy } = issued({
    owner: "x".repeat(256),
    kind: "subscription",
    account: "000.a",
  });
  expect({ owner, kind }).toEqual({ owner: "x".repeat(256), kind: "subscription" });
  expect(policy).not.toHaveProperty("owner");
  expect(policy).not.toHaveProperty("kind");
});

test.each<[string, unknown]>([
  ["key", null],
  ["key", "a"],
  ["key.name", { name: "" }],
  ["key.name", { name: "x".repeat(257) }],
  ["key.name", { name: 7 }],
  ["key.owner", { owner: "" }],
  ["key.owner", { owner: "x".repeat(257) }],
  ["key.kind", { kind: "sk-sub-" }],
  ["key.allowedIps", { allowedIps: "10.0.0.1" }],
  ["allowedIps", { allowedIps: [] }],
  ["allowedIps", { allowedIps: addresses(257) }],
  ["allowedIps[1]", { allowedIps: ["10.0.0.1", "10.0.0.1/8"] }],
  ["allowedIps[0]", { allowedIps: ["0.0.0.0/0"] }],
  ["allowedIps[0]", { allowedIps: ["::ffff:10.0.0.0/8"] }],
  ["allowedIps[0]", { allowedIps: ["012.0.0.1"] }],
  ["key.allowedIps.0", { allowedIps: [1] }],
  ["key.allowedModels", { allowedModels: "gpt-5" }],
  ["allowedModels", { allowedModels: [] }],
  ["allowedModels", { allowedModels: words(257) }],
  ["allowedModels[0]", { allowedModels: [""] }],
  ["allowedModels[1]", { allowedModels: ["a", "x".repeat(257)] }],
  ["deniedModels", { deniedModels: [] }],
  ["key.limits", { limits: null }],
  ["key.limits", { limits: windows(17) }],
  ["key.limits.0.requests", { limits: [{ requests: 0, windowMs: 1_000 }] }],
  ["key.limits.0.requests", { limits: [{ requests: "1000", windowMs: 1_000 }] }],
  ["key.limits.0.requests", { limits: [{ requests: 2 ** 53, windowMs: 1_000 }] }],
  ["key.limits.0.windowMs", { limits: [{ requests: 1, windowMs: 999 }] }],
  ["key.limits.0.windowMs", { limits: [{ requests: 1, windowMs: 2_678_400_001 }] }],
  ["key.limits.0.windowMs", { limits: [{ requests: 1, windowMs: 1_000.5 }] }],
  ["key.limits.0.burst", { limits: [{ requests: 1, windowMs: 1_000, burst: 0 }] }],
  ["key.limits.0.tokens", { limits: [{ tokens: 0, windowMs: 1_000 }] }],
  ["key.limits.0.windowMs", { limits: [{ tokens: 1, windowMs: 999 }] }],
  ["key.limits.0.burst", { limits: [{ tokens: 1, windowMs: 1_000, burst: 1.5 }] }],
  ["limits", { limits: [{ tokens: 9_007_199_254_741, windowMs: 1_000 }] }],
  [
    "limits",
    {
      limits: [
        { tokens: 1, windowMs: 1_000 },
        { tokens: 2, windowMs: 1_000 },
      ],
    },
  ],
  ["key.limits.1.inFlight", { limits: [{ requests: 1, windowMs: 1_000 }, { inFlight: 0 }] }],
  ["key.limits.0", { limits: [{ requests: 1, windowMs: 1_000, inFlight: 1 }] }],
  [
    "limits",
    {
      limits: [
        { requests: 1, windowMs: 1_000 },
        { requests: 2, windowMs: 1_000 },
      ],
    },
  ],
  ["limits", { limits: [{ inFlight: 1 }, { inFlight: 2 }] }],
  ["limits", { limits: [{ requests: 1, windowMs: 1_000, burst: 9_007_199_254_741 }] }],
  ["limits", { limits: [{ requests: 9_007_199_254_741, windowMs: 1_000 }] }],
  ["key.quota", { quota: -1 }],
  ["key.quota", { quota: 0.5 }],
  ["key.quota", { quota: 2 ** 53 }],
  ["key.quota", { quota: "100" }],
  ["key.quota", { quota: Number.POSITIVE_INFINITY }],
  ["key.onCrash", { onCrash: null }],
  ["key.metadata", { metadata: members(33) }],
  ["key.metadata", { metadata: "x" }],
  ["key.metadata", { metadata: { "": "x" } }],
  ["key.metadata", { metadata: { ["x".repeat(65)]: "x" } }],
  ["key.metadata.a", { metadata: { a: "x".repeat(513) } }],
  ["key.metadata.a", { metadata: { a: 1 } }],
])("a policy is refused when it is written, naming %s: %j", (path, input) => {
  const { message } = faultOf(() => issued(input as IssueInput));
  const at = path.startsWith("key") ? path : `key.${path}`;
  expect(message.startsWith(at), message).toBe(true);
  expect(message.slice(at.length)).toMatch(/^(\.|: )/);
});

test.each([
  ["expires", "expiresAt"],
  ["allowedIPs", "allowedIps"],
  ["allowed_models", "allowedModels"],
  ["rateLimits", "limits"],
  ["quotas", "quota"],
  ["Metadata", "metadata"],
])("names the nearest member of a policy to %s: %s", (unknown, nearest) => {
  const { message } = faultOf(() => issued({ [unknown]: 1 } as never));
  expect(message).toContain(`there is no "${unknown}"; did you mean "${nearest}"?`);
});

describe("expiresAt", () => {
  test.each<[IssueInput["expiresAt"], number | null]>([
    [null, null],
    [T0 + 1, T0 + 1],
    [LATEST_TIME, LATEST_TIME],
    [new Date(T0 + 1), T0 + 1],
    ["2025-01-15T12:00:00.001Z", T0 + 1],
    ["2025-01-15T13:00:00+00:30", T0 + 1_800_000],
    ["2025-01-15T12:00:00-00:30", T0 + 1_800_000],
    ["2028-02-29T00:00:00Z", Date.UTC(2028, 1, 29)],
  ])("takes %s", (expiresAt, expiresAtMs) => {
    expect(issued({ expiresAt: expiresAt as number }).policy.expiresAtMs).toBe(expiresAtMs);
  });

  test.each<[string, unknown]>([
    ["local time", "2030-01-01T00:00:00"],
    ["a date only", "2030-01-01"],
    ["a year only", "2030"],
    ["a time only", "12:00:00Z"],
    ["an impossible date", "2030-02-30T00:00:00Z"],
    ["no leap year", "2030-02-29T00:00:00Z"],
    ["a month 13", "2030-13-01T00:00:00Z"],
    ["an hour 24", "2030-01-01T24:00:00Z"],
    ["an offset of a day", "2030-01-01T00:00:00+24:00"],
    ["English", "Tue, 01 Jan 2030 00:00:00 GMT"],
    ["blanks", " 2030-01-01T00:00:00Z"],
    ["digits", "1893456000000"],
    ["nothing", ""],
    ["seconds", 1_893_456_000],
    ["0", 0],
    ["before the year 2000", Date.UTC(1999, 11, 31)],
    ["the past", T0 - 1],
    ["now", T0],
    ["now, as text", "2025-01-15T12:00:00Z"],
    ["a Date in the past", new Date(T0 - 1)],
    ["a Date that is none", new Date(Number.NaN)],
    ["fractions", T0 + 1.5],
    ["NaN", Number.NaN],
    ["Infinity", Number.POSITIVE_INFINITY],
    ["after the last date there is", LATEST_TIME + 1],
    ["the largest integer", Number.MAX_SAFE_INTEGER],
    ["a bigint", 1_893_456_000_000n],
    ["true", true],
    ["an object", {}],
  ])("refuses %s: %s", (_, expiresAt) => {
    const { message } = faultOf(() => issued({ expiresAt } as IssueInput));
    expect(message).toMatch(/^(key\.)?expiresAt: /);
  });

  test("tells seconds from milliseconds in so many words", () => {
    const { message } = faultOf(() => issued({ expiresAt: 1_893_456_000 }));
    expect(message).toContain("looks like seconds");
  });
});

describe("a patch", () => {
  const before = issued({
    name: "a",
    expiresAt: T0 + 1,
    allowedIps: ["10.0.0.1"],
    allowedModels: ["a"],
    deniedModels: ["b"],
    limits: [{ inFlight: 1 }],
    quota: 5,
    metadata: { a: "b" },
  }).policy;

  test("changes what it names and leaves the rest", () => {
    expect(parsePolicyPatch({ quota: 7 }, T0)(before)).toEqual({ ...before, quota: 7 });
    expect(parsePolicyPatch({}, T0)(before)).toEqual(before);
    expect(parsePolicyPatch({ name: undefined } as never, T0)(before)).toEqual(before);
  });

  test("null takes a list, the expiry and the quota away", () => {
    const patch = { allowedIps: null, allowedModels: null, deniedModels: null, expiresAt: null, quota: null };
    const after = parsePolicyPatch(patch, T0)(before);
    expect(after).toEqual({
      state: "active",
      onCrash: "charge",
      name: "a",
      expiresAtMs: null,
      limits: [{ inFlight: 1 }],
      quota: null,
      metadata: { a: "b" },
    });
  });

  test("keeps members of a later version, and a stored expiry that makes no sense", () => {
    const later = { ...before, scopes: ["chat"], expiresAtMs: "junk" };
    expect(parsePolicyPatch({ quota: 7 }, T0)(later)).toEqual({ ...later, quota: 7 });
  });

  test("is checked before there is a policy to apply it to", () => {
    expect(faultOf(() => parsePolicyPatch({ allowedIps: [] }, T0)).message).toMatch(/^patch\.allowedIps: /);
    expect(faultOf(() => parsePolicyPatch({ expiresAt: T0 }, T0)).message).toMatch(/^patch\.expiresAt: /);
    for (const unknown of ["owner", "kind", "state"]) {
      expect(faultOf(() => parsePolicyPatch({ [unknown]: "x" }, T0)).message).toContain(`"${unknown}"`);
    }
  });
});

test("leaves a frozen policy as it is, and keeps no hold on it", () => {
  const given = {
    allowedIps: ["10.0.0.1"],
    allowedModels: ["a"],
    limits: [{ requests: 1, windowMs: 1_000 }],
    metadata: { a: "b" },
    expiresAt: new Date(T0 + 1),
  };
  const { policy } = issued(deepFreeze(structuredClone(given)));
  const kept = issued(given).policy;
  given.allowedIps.push("10.0.0.2");
  given.limits.length = 0;
  given.metadata.a = "c";
  given.expiresAt.setTime(0);
  expect(kept).toEqual(policy);
});

test("small options have defaults", () => {
  expect(parseUpdateCondition({})).toEqual({});
  expect(parseRotateOptions({})).toEqual({ graceMs: 0 });
  expect(parseListQuery({})).toEqual({ limit: 100 });
});

test.each<[(value: unknown) => unknown, object]>([
  [parseUpdateCondition, { ifPolicyVersion: 1 }],
  [parseUpdateCondition, { ifPolicyVersion: Number.MAX_SAFE_INTEGER }],
  [parseRotateOptions, { graceMs: 0 }],
  [parseRotateOptions, { graceMs: 31_536_000_000 }],
  [parseListQuery, { limit: 1, owner: "x", after: "" }],
  [parseListQuery, { limit: 1_000, owner: "x".repeat(256), after: "x".repeat(512) }],
])("%o takes %j at its edge", (parse, value) => {
  expect(parse(deepFreeze(value))).toEqual(value);
});

test.each<[(value: unknown) => unknown, string, unknown]>([
  [parseUpdateCondition, "condition", null],
  [parseUpdateCondition, "condition", 1],
  [parseUpdateCondition, "condition", { ifPolicyversion: 1 }],
  [parseUpdateCondition, "condition.ifPolicyVersion", { ifPolicyVersion: 0 }],
  [parseUpdateCondition, "condition.ifPolicyVersion", { ifPolicyVersion: "1" }],
  [parseRotateOptions, "options", 60_000],
  [parseRotateOptions, "options", { grace: 60_000 }],
  [parseRotateOptions, "options.graceMs", { graceMs: -1 }],
  [parseRotateOptions, "options.graceMs", { graceMs: 31_536_000_001 }],
  [parseRotateOptions, "options.graceMs", { graceMs: null }],
  [parseListQuery, "query", { ownr: "x" }],
  [parseListQuery, "query.limit", { limit: 0 }],
  [parseListQuery, "query.limit", { limit: 1_001 }],
  [parseListQuery, "query.limit", { limit: "5" }],
  [parseListQuery, "query.owner", { owner: "" }],
  [parseListQuery, "query.owner", { owner: "x".repeat(257) }],
  [parseListQuery, "query.after", { after: "x".repeat(513) }],
])("%o throws, naming %s: %j", (parse, path, value) => {
  const { message } = faultOf(() => parse(value));
  expect(message.startsWith(`${path}: `), message).toBe(true);
});

function issued(input: IssueInput): ReturnType<typeof parseIssueInput> {
  return parseIssueInput(input, { onCrash: "charge" }, T0);
}

/** The `invalid_options` fault that a call must throw. */
function faultOf(call: () => unknown): Error {
  try {
    call();
  } catch (error) {
    if (isKeystileError(error) && error.code === "invalid_options") return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

function deepFreeze<T>(value: T): T {
  if (typeof value !== "object" || value === null) return value;
  for (const inner of Object.values(value)) deepFreeze(inner);
  return Object.freeze(value);
}
