import { compileRanges, type Ranges } from "./address.js";
import type { Thresholds } from "./alerts.js";
import { type CredentialSource, DEFAULT_SOURCES } from "./credential.js";
import { DAY_MS, type KeyRecord, type Policy, type RequestLimit } from "./documents.js";
import { invalid, parseOptions } from "./invalid-options.js";
import type { Rule } from "./policy.js";
import { assertCountable, MAX_WINDOW_MS, rateOf } from "./rates.js";
import type { Runtime } from "./runtime.js";
import { DEFAULT_PREFIXES, isSecretPrefix, type Pepper, type SecretPrefixes } from "./secret.js";
import {
  entries,
  functions,
  int,
  isFunction,
  list,
  object,
  oneOf,
  optional,
  orElse,
  text,
  that,
} from "./shapes.js";
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
   * Other names of models, resolved before anything is matched: `{ "gpt-latest": "gpt-5" }`. The decision's `model` is
   * the resolved one. At most 1,024, names up to 512 characters. Default none.
   */
  readonly modelAliases?: Readonly<Record<string, string>>;
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
   * How clients are told where their limits stand: `x` by `X-RateLimit-*` of the tightest one, `ietf` by `RateLimit`
   * and `RateLimit-Policy` of the IETF's draft for all of them, or `both`. Default `x`.
   */
  readonly rateLimitHeaders?: "x" | "ietf" | "both";
  /**
   * When `quota.low` and `balance.low` are told: at so many percent left of a quota, an allowance or a cap (integers from
   * 0 to 99, default 20, 10 and 0), and at so much left of a balance, in your unit (default 0). At most 16 each.
   */
  readonly alerts?: Partial<Thresholds>;
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
  /**
   * Decides requests of hot keys without asking the store: each process holds a slice more than it needs and asks again
   * after `revalidateMs`. What was changed elsewhere, `revoke()` too, is seen that much later. `true` is for all keys.
   * Keys with limits on requests in flight, and requests with prices by fund, always ask. Default `false`.
   */
  readonly leases?: boolean | LeaseOptions;
  /** How many keys are kept in memory beyond those in use. 1 to 1,000,000. Default 10,000. */
  readonly cacheSize?: number;
  /** Monotonic time, timers and randomness, for tests. Default those of the process. */
  readonly runtime?: Runtime;
}

/** How requests are decided without asking the store. */
export interface LeaseOptions {
  /** For how long a lease lets requests in. 100 ms to 10 s, less than half of `holdMs`. Default 1 s. */
  readonly revalidateMs?: number;
  /**
   * The most that all processes together hold of what is left of a quota or a limit when one of them takes a lease, in
   * percent: so much earlier may somebody be refused. 1 to 50. Default 10.
   */
  readonly sharePercent?: number;
  /** Which keys; it must be pure and must not throw. Default all. */
  readonly keys?: (key: KeyRecord) => boolean;
}

/** Leases as they are made. */
export interface LeaseSettings {
  readonly revalidateMs: number;
  readonly sharePercent: number;
  readonly keys: ((key: KeyRecord) => boolean) | undefined;
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
  readonly modelAliases: Readonly<Record<string, string>>;
  readonly modelFamily: ((model: string) => string) | undefined;
  readonly rules: readonly Rule[];
  readonly realm: string;
  readonly codes: "full" | "folded";
  readonly rateLimitHeaders: "x" | "ietf" | "both";
  readonly thresholds: Thresholds;
  readonly onCrash: Policy["onCrash"];
  readonly holdMs: number;
  readonly storeTimeoutMs: number;
  readonly drainMs: number;
  readonly requestTimeoutMs: number;
  /** undefined: every request asks the store. */
  readonly leases: LeaseSettings | undefined;
  readonly cacheSize: number;
  readonly runtime: Runtime | undefined;
}

const prefix = text(1, 32, isSecretPrefix, "1 to 32 of A-Z a-z 0-9 _ - that end in - or _");
const pepper = object<Pepper>({
  id: text(1, 256),
  secret: text(32, 1_024, isVaried, "random text of 32 to 1024 characters"),
});
const modelName = text(1, 512);
const rule = that<Rule>(
  (value) => isFunction((value as Partial<Rule> | null)?.allows) && (value as Rule).name !== "",
  "a rule: an object with a name and the function allows",
);

const thresholds = object<Thresholds>({
  percentLeft: orElse(list(int(0, 99), 0, 16), [20, 10, 0]),
  balanceLeft: orElse(list(int(0), 0, 16), [0]),
});

const leaseOptions = object({
  revalidateMs: orElse(int(100, 10_000), 1_000),
  sharePercent: orElse(int(1, 50), 10),
  keys: optional(that<(key: KeyRecord) => boolean>(isFunction, "a function")),
});

const addressLimit = object<Omit<RequestLimit, "per">>({
  requests: int(1),
  windowMs: int(1_000, MAX_WINDOW_MS),
  burst: optional(int(1)),
});

const keystileOptions = object({
  store: functions<Store>("read", "write", "list", "close"),
  prefixes: optional(object({ standard: optional(prefix), subscription: optional(prefix) })),
  checksum: orElse(oneOf("off", "require"), "off"),
  peppers: orElse(list(pepper, 0, 8), []),
  credentials: orElse(
    list(oneOf("bearer", "x-api-key", "api-key", "x-goog-api-key", "websocket-protocol", "query"), 1),
    DEFAULT_SOURCES,
  ),
  trustedProxies: orElse(list(text()), []),
  clientAddressHeader: optional(text(1, 64, (name) => /^[\w-]+$/.test(name), "the name of a header")),
  addressLimit: optional(addressLimit),
  modelAliases: orElse(entries(modelName, 1_024, modelName), {}),
  modelFamily: optional(that<(model: string) => string>(isFunction, "a function")),
  rules: orElse(list(rule, 0, 64), []),
  codes: orElse(oneOf("full", "folded"), "full"),
  rateLimitHeaders: orElse(oneOf("x", "ietf", "both"), "x"),
  realm: orElse(
    text(
      1,
      128,
      (realm) => /^[\x20\x21\x23-\x5b\x5d-\x7e]+$/.test(realm),
      "1 to 128 of printable ASCII without quotes and backslashes",
    ),
    "api",
  ),
  alerts: (value: unknown) => thresholds(value === undefined ? {} : value),
  onCrash: orElse(oneOf("charge", "release"), "charge"),
  holdMs: orElse(int(1_000, DAY_MS), 60_000),
  storeTimeoutMs: orElse(int(10, 60_000), 5_000),
  drainMs: orElse(int(0, 600_000), 10_000),
  requestTimeoutMs: orElse(int(1_000, DAY_MS), 3_600_000),
  leases: (value: unknown) => (value ? leaseOptions(value === true ? {} : value) : undefined),
  cacheSize: orElse(int(1, 1_000_000), 10_000),
  runtime: optional(functions<Runtime>("monotonicMs", "setTimer", "random", "randomBytes")),
});

/** @throws KeystileError `invalid_options` naming the path, what was received and what would be right. */
export function parseKeystileOptions(options: KeystileOptions): Settings {
  const { alerts: thresholds, ...parsed } = parseOptions(keystileOptions, options, "options");
  const { trustedProxies, peppers, holdMs, storeTimeoutMs, addressLimit, leases } = parsed;
  const prefixes = { ...DEFAULT_PREFIXES, ...parsed.prefixes } as SecretPrefixes;
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
  if (leases !== undefined && 2 * leases.revalidateMs >= holdMs) {
    throw invalid(
      "options.leases.revalidateMs",
      `expected less than half of holdMs (${holdMs}), received ${leases.revalidateMs}`,
    );
  }
  if (addressLimit !== undefined) assertCountable(rateOf(addressLimit), "options.addressLimit");
  return Object.freeze({
    ...parsed,
    prefixes,
    leases: leases && { ...leases, keys: leases.keys },
    thresholds,
    runtime: parsed.runtime,
    clientAddressHeader: parsed.clientAddressHeader?.toLowerCase(),
    addressLimit,
    modelFamily: parsed.modelFamily,
    trustedProxies:
      trustedProxies.length === 0 ? undefined : compileRanges(trustedProxies, "options.trustedProxies"),
  });
}

function isVaried(secret: string): boolean {
  return new Set(secret).size >= 8;
}
