import { z } from "zod";
import { compileRanges, type Ranges } from "./address.js";
import { type CredentialSource, DEFAULT_SOURCES } from "./credential.js";
import type { Limit, Policy, RequestLimit } from "./documents.js";
import { invalid, parse } from "./invalid-options.js";
import { bucketName, capacity, isRequestLimit } from "./limits.js";
import { checkModelPatterns } from "./models.js";
import { isTime, type Rule } from "./policy.js";
import type { Runtime } from "./runtime.js";
import { DEFAULT_PREFIXES, isSecretPrefix, type Pepper, type SecretPrefixes } from "./secret.js";
import type { Store } from "./store.js";

/** Options of `createKeystile`. Parsed once, copied and frozen; a wrong one throws there. */
export interface KeystileOptions {
  /** Where the documents are kept. Nothing is created in it and it is never closed: that is yours to do. */
  readonly store: Store;
  /** What secrets begin with. Each 1 to 32 of `A-Z a-z 0-9 _ -`, ending in `-` or `_`. Default `sk-` and `sk-sub-`. */
  readonly prefixes?: Partial<SecretPrefixes>;
  /**
   * `require` refuses secrets without a valid checksum before the store is asked, for operators all of whose keys
   * were made here. Default `off`: keys made elsewhere work. It is never evidence that a key is genuine.
   */
  readonly checksum?: "off" | "require";
  /**
   * Keys of the HMAC under which secrets are digested, so that a copy of the store is useless. The first signs, all
   * verify. Each 32 to 1,024 characters, 8 of them different; at most 8 peppers. Default none: plain SHA-256.
   */
  readonly peppers?: readonly Pepper[];
  /**
   * Where a credential is read, in order of precedence: `bearer`, `x-api-key`, `api-key`, `x-goog-api-key`,
   * `websocket-protocol`, `query` (`?key=`, which ends up in logs). Default `bearer`, then `x-api-key`.
   */
  readonly credentials?: readonly CredentialSource[];
  /**
   * A limit per client address, in this process alone, before anything is looked up: `{ requests, windowMs, burst? }`.
   * Windows of 1 s to 31 days; 10,000 addresses are counted one by one. Default none.
   */
  readonly addressLimit?: Omit<RequestLimit, "per">;
  /**
   * What limits `per: "model"` count a model as, so that variants share one bucket. Pure; where it throws or returns no
   * text, the model counts as itself. Names beyond 64 characters share one bucket. Default: the model itself.
   */
  readonly modelFamily?: (model: string) => string;
  /** Rules of your own, judged for every key after scopes and before models. At most 64. Default none. */
  readonly rules?: readonly Rule[];
  /** Addresses and ranges of proxies whose `X-Forwarded-For` is believed. At most 256. Default none. */
  readonly trustedProxies?: readonly string[];
  /**
   * A header of trusted proxies with the client's address alone, such as `cf-connecting-ip`, to be read instead of
   * `X-Forwarded-For`. 1 to 64 characters. Default none.
   */
  readonly clientAddressHeader?: string;
  /** The realm named in a 401. Printable ASCII without quotes, at most 128 characters. Default `api`. */
  readonly realm?: string;
  /** `folded` tells clients no more of a 403 than `access_denied`. Default `full`. */
  readonly codes?: "full" | "folded";
  /**
   * What happens to the reservations of a process that died: `charge` them (the money was probably spent) or
   * `release` them (outside the promise that nothing is overspent). Default of the keys issued here. Default `charge`.
   */
  readonly onCrash?: Policy["onCrash"];
  /**
   * How long the reservations of a process live if it says nothing more; renewed in the background while requests
   * run. More than `storeTimeoutMs`, 1 s to 24 h. Default 60 s.
   */
  readonly holdMs?: number;
  /** How long one call to the store may take before the answer is 503. 10 ms to 60 s. Default 5 s. */
  readonly storeTimeoutMs?: number;
  /** How long `close()` waits for requests in flight. 0 to 10 min. Default 10 s. */
  readonly drainMs?: number;
  /** A request that ends neither way is settled at what was observed after this time. 1 s to 24 h. Default 1 h. */
  readonly requestTimeoutMs?: number;
  /** How many keys are kept in memory beyond those in use. 1 to 1,000,000. Default 10,000. */
  readonly cacheSize?: number;
  /** Monotonic time, timers and randomness, for tests. Default those of the process. */
  readonly runtime?: Runtime;
}

/** What a key may do, as it is written. Wrong policies throw here, not when a request comes. */
export interface PolicyInput {
  /** For people. 1 to 256 characters. */
  readonly name?: string;
  /** A `Date`, integer milliseconds, or ISO 8601 with `Z` or an offset, in the future. Default `null`: never. */
  readonly expiresAt?: Date | number | string | null;
  /** Addresses and ranges, at most 256. `null` or left out: any. */
  readonly allowedIps?: readonly string[] | null;
  /** Exact names or patterns: `*` within a segment, `**` across `/`. At most 256. `null` or left out: all. */
  readonly allowedModels?: readonly string[] | null;
  /** As `allowedModels`; wins over it. */
  readonly deniedModels?: readonly string[] | null;
  /** What the key may be used for, where a route requires it. At most 64, each 1 to 64 characters. Default none. */
  readonly scopes?: readonly string[] | null;
  /**
   * `{ requests, windowMs, burst?, per? }`: requests per window, leaky bucket, windows of 1 s to 31 days, for the key
   * or (`per: "model"`) for each model; `{ inFlight }`: requests at a time. At most 16, each window once for the key and
   * once per model. Default none.
   */
  readonly limits?: readonly Limit[];
  /** How much may ever be used, an integer up to 2^53 - 1 in your unit. Default `null`: unlimited, but counted. */
  readonly quota?: number | null;
  /** As the option of `createKeystile`, for this key. */
  readonly onCrash?: Policy["onCrash"];
  /** Up to 32 members, names up to 64 and values up to 512 characters. Shown with every decision. */
  readonly metadata?: Readonly<Record<string, string>>;
}

export interface IssueInput extends PolicyInput {
  /** Who the key belongs to. 1 to 256 characters. Cannot be changed later. */
  readonly owner?: string;
  /** Which prefix the secret gets. Default `standard`. */
  readonly kind?: keyof SecretPrefixes;
  /**
   * A secret made elsewhere, taken over as it is: one of the configured prefixes, then 32 to 512 of `A-Z a-z 0-9`.
   * `kind` is that of its prefix then. Default: a new one.
   */
  readonly secret?: string;
}

/** The options of a running instance: complete, compiled. */
export interface Settings {
  readonly store: Store;
  readonly prefixes: SecretPrefixes;
  readonly checksum: "off" | "require";
  readonly peppers: readonly Pepper[];
  readonly credentials: readonly CredentialSource[];
  readonly trustedProxies: Ranges | undefined;
  readonly clientAddressHeader: string | undefined;
  readonly addressLimit: RequestLimit | undefined;
  readonly modelFamily: ((model: string) => string) | undefined;
  readonly rules: readonly Rule[];
  readonly realm: string;
  readonly codes: "full" | "folded";
  readonly onCrash: Policy["onCrash"];
  readonly holdMs: number;
  readonly storeTimeoutMs: number;
  readonly drainMs: number;
  readonly requestTimeoutMs: number;
  readonly cacheSize: number;
  readonly runtime: Runtime | undefined;
}

const text = z.string().min(1).max(256);
const DAY_MS = 86_400_000;
const MAX_WINDOW_MS = 31 * DAY_MS;

const prefix = z.string().refine(isSecretPrefix, "expected 1 to 32 of A-Z a-z 0-9 _ - that end in - or _");
const pepper = z.strictObject({
  id: text,
  secret: z.string().min(32).max(1_024).refine(isVaried, "expected random text"),
});

function methods<T>(...names: readonly string[]): z.ZodType<T> {
  return z.custom<T>(
    (value) => names.every((name) => typeof (value as Record<string, unknown> | null)?.[name] === "function"),
    `expected an object with the functions ${names.join(", ")}`,
  );
}

const requestLimit = z.strictObject({
  requests: z.int().min(1),
  windowMs: z.int().min(1_000).max(MAX_WINDOW_MS),
  burst: z.int().min(1).optional(),
});

const limit = z.union(
  [
    requestLimit.extend({ per: z.literal("model").optional() }).readonly(),
    z.strictObject({ inFlight: z.int().min(1) }).readonly(),
  ],
  { error: "expected { requests, windowMs, burst?, per? } or { inFlight }" },
);

const keystileOptions = z.strictObject({
  store: methods<Store>("read", "write", "list", "close"),
  prefixes: z.strictObject({ standard: prefix.optional(), subscription: prefix.optional() }).optional(),
  checksum: z.enum(["off", "require"]).default("off"),
  peppers: z.array(pepper).max(8).default([]),
  credentials: z
    .array(z.enum(["bearer", "x-api-key", "api-key", "x-goog-api-key", "websocket-protocol", "query"]))
    .min(1)
    .default([...DEFAULT_SOURCES]),
  trustedProxies: z.array(z.string()).default([]),
  clientAddressHeader: z
    .string()
    .max(64)
    .regex(/^[\w-]+$/, "expected the name of a header")
    .toLowerCase()
    .optional(),
  addressLimit: requestLimit.optional(),
  modelFamily: z.custom<(model: string) => string>(isFunction, "expected a function").optional(),
  rules: z
    .array(methods<Rule>("allows").refine(({ name }) => name !== "", "expected a rule with a name"))
    .max(64)
    .default([]),
  codes: z.enum(["full", "folded"]).default("full"),
  realm: z
    .string()
    .max(128)
    .regex(/^[\x20\x21\x23-\x5b\x5d-\x7e]+$/, "expected printable ASCII without quotes and backslashes")
    .default("api"),
  onCrash: z.enum(["charge", "release"]).default("charge"),
  holdMs: z.int().min(1_000).max(DAY_MS).default(60_000),
  storeTimeoutMs: z.int().min(10).max(60_000).default(5_000),
  drainMs: z.int().min(0).max(600_000).default(10_000),
  requestTimeoutMs: z.int().min(1_000).max(DAY_MS).default(3_600_000),
  cacheSize: z.int().min(1).max(1_000_000).default(10_000),
  runtime: methods<Runtime>("monotonicMs", "setTimer", "random", "randomBytes").optional(),
});

// Frozen, because views and decisions show parts of a policy to callers.
const names = z.array(z.string()).readonly().nullable().optional();

const policyShape = {
  name: text.optional(),
  expiresAt: z
    .union([z.date(), z.int(), z.iso.datetime({ offset: true }), z.null()], {
      error: "expected a Date, integer milliseconds, ISO 8601 with Z or an offset, or null",
    })
    .optional(),
  allowedIps: names,
  allowedModels: names,
  deniedModels: names,
  scopes: z.array(z.string().min(1).max(64)).max(64).readonly().nullable().optional(),
  limits: z.array(limit).max(16).readonly().optional(),
  quota: z.int().min(0).nullable().optional(),
  onCrash: z.enum(["charge", "release"]).optional(),
  metadata: z
    .record(z.string().min(1).max(64), z.string().max(512))
    .refine((members) => Object.keys(members).length <= 32, "expected at most 32 members")
    .readonly()
    .optional(),
};

const policyInput = z.strictObject(policyShape);
const issueInput = z.strictObject({
  ...policyShape,
  owner: text.optional(),
  kind: z.enum(["standard", "subscription"]).default("standard"),
  secret: z.string().optional(),
});

/** @throws KeystileError `invalid_options` naming the path, what was received and what would be right. */
export function parseKeystileOptions(options: KeystileOptions): Settings {
  const parsed = parse(keystileOptions, options, "options");
  const { trustedProxies, peppers, holdMs, storeTimeoutMs } = parsed;
  const prefixes = { ...DEFAULT_PREFIXES, ...defined(parsed.prefixes ?? {}) };
  if (prefixes.standard === prefixes.subscription)
    throw invalid("options.prefixes", "expected two different prefixes");
  if (new Set(peppers.map(({ id }) => id)).size < peppers.length)
    throw invalid("options.peppers", "an id is repeated");
  if (new Set(peppers.map(({ secret }) => secret)).size < peppers.length) {
    throw invalid("options.peppers", "a secret is repeated");
  }
  if (holdMs <= storeTimeoutMs) {
    throw invalid(
      "options.holdMs",
      `expected more than storeTimeoutMs (${storeTimeoutMs}), received ${holdMs}`,
    );
  }
  if (parsed.addressLimit !== undefined) checkLimits([parsed.addressLimit]);
  return Object.freeze({
    ...parsed,
    prefixes,
    runtime: parsed.runtime,
    clientAddressHeader: parsed.clientAddressHeader,
    addressLimit: parsed.addressLimit,
    modelFamily: parsed.modelFamily,
    trustedProxies:
      trustedProxies.length === 0 ? undefined : compileRanges(trustedProxies, "options.trustedProxies"),
  });
}

/** A new key's owner, prefix and policy. @throws KeystileError `invalid_options` */
export function parseIssueInput(
  input: IssueInput,
  defaults: Pick<Policy, "onCrash">,
  now: number,
): {
  readonly owner: string | undefined;
  readonly kind: keyof SecretPrefixes;
  readonly secret: string | undefined;
  readonly policy: Policy;
} {
  const { owner, kind, secret, ...fields } = parse(issueInput, input, "key");
  const blank: Policy = { state: "active", expiresAtMs: null, limits: [], quota: null, ...defaults };
  return { owner, kind, secret, policy: applyPolicy(blank, fields, now) };
}

/** A change of a policy, checked before it is needed; `null` takes a rule away. @throws KeystileError `invalid_options` */
export function parsePolicyPatch(patch: PolicyInput, now: number): (policy: Policy) => Policy {
  const fields = parse(policyInput, patch, "patch");
  applyPolicy(
    { state: "active", expiresAtMs: null, limits: [], quota: null, onCrash: "charge" },
    fields,
    now,
  );
  return (policy) => applyPolicy(policy, fields, now);
}

const MAX_GRACE_MS = 365 * DAY_MS;

/** A document is 64 KiB at most, and the rest of it is for counters. */
const MAX_POLICY_BYTES = 24_576;

const updateCondition = z.strictObject({ ifPolicyVersion: z.int().min(1).optional() });
const rotateOptions = z.strictObject({ graceMs: z.int().min(0).max(MAX_GRACE_MS).default(0) });
const listQuery = z.strictObject({
  owner: text.optional(),
  after: z.string().max(512).optional(),
  limit: z.int().min(1).max(1_000).default(100),
});

/** @throws KeystileError `invalid_options` */
export function parseUpdateCondition(condition: unknown): { readonly ifPolicyVersion?: number | undefined } {
  return parse(updateCondition, condition, "condition");
}

/** @throws KeystileError `invalid_options` */
export function parseRotateOptions(options: unknown): { readonly graceMs: number } {
  return parse(rotateOptions, options, "options");
}

/** @throws KeystileError `invalid_options` */
export function parseListQuery(query: unknown): {
  readonly owner?: string | undefined;
  readonly after?: string | undefined;
  readonly limit: number;
} {
  return parse(listQuery, query, "query");
}

function applyPolicy(policy: Policy, fields: z.infer<typeof policyInput>, now: number): Policy {
  const { expiresAt, ...rest } = fields;
  if (rest.allowedIps) compileRanges(rest.allowedIps, "allowedIps");
  if (rest.allowedModels) checkModelPatterns(rest.allowedModels, "allowedModels");
  if (rest.deniedModels) checkModelPatterns(rest.deniedModels, "deniedModels");
  if (rest.limits) checkLimits(rest.limits);
  const expiresAtMs = expiresAt === undefined ? policy.expiresAtMs : expiryMs(expiresAt, now);
  const merged: Record<string, unknown> = { ...policy, ...defined(rest), expiresAtMs };
  for (const list of ["allowedIps", "allowedModels", "deniedModels", "scopes"])
    if (merged[list] === null) delete merged[list];
  const bytes = new TextEncoder().encode(JSON.stringify(merged)).byteLength;
  if (bytes > MAX_POLICY_BYTES) {
    throw invalid(
      "policy",
      `expected at most ${MAX_POLICY_BYTES} bytes of JSON, received ${bytes}; shorten its lists`,
    );
  }
  return Object.freeze(merged) as unknown as Policy;
}

function checkLimits(limits: readonly Limit[]): void {
  const requestLimits = limits.filter(isRequestLimit) as readonly RequestLimit[];
  if (new Set(requestLimits.map(bucketName)).size < requestLimits.length) {
    throw invalid("limits", "two limits have the same windowMs and per; keep the tighter one");
  }
  if (limits.length - requestLimits.length > 1) throw invalid("limits", "expected at most one inFlight");
  for (const requestLimit of requestLimits) {
    if (!Number.isSafeInteger(capacity(requestLimit))) {
      throw invalid(
        "limits",
        `burst * windowMs must stay within 2^53 - 1, received ${capacity(requestLimit)}`,
      );
    }
  }
}

/** Year 2000 in milliseconds: numbers below it are seconds, or a mistake. */
const EARLIEST_MS = 946_684_800_000;

function expiryMs(expiresAt: Date | number | string | null, now: number): number | null {
  if (expiresAt === null) return null;
  const ms = typeof expiresAt === "number" ? expiresAt : new Date(expiresAt).getTime();
  if (!isTime(ms)) throw invalid("expiresAt", `expected a time that a Date can hold, received ${ms}`);
  if (ms < EARLIEST_MS)
    throw invalid("expiresAt", `expected milliseconds, received ${ms}, which looks like seconds`);
  if (ms <= now)
    throw invalid("expiresAt", `expected a time in the future, received ${new Date(ms).toISOString()}`);
  return ms;
}

function isFunction(value: unknown): boolean {
  return typeof value === "function";
}

function isVaried(secret: string): boolean {
  return new Set(secret).size >= 8;
}

/** Members that are there and undefined say nothing. */
function defined<T extends object>(members: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined)) as never;
}
