import { z } from "zod";
import { compileRanges } from "./address.js";
import { defined } from "./copies.js";
import { DAY_MS, type Limit, type Policy } from "./documents.js";
import type { KeystileError } from "./errors.js";
import { parse } from "./input-parsing.js";
import { assertSize, checkLimits, limitsShape, metadataShape, text } from "./input-shapes.js";
import { invalid } from "./invalid-options.js";
import { checkModelPatterns } from "./models.js";
import { isTime } from "./policy.js";
import type { SecretPrefixes } from "./secret.js";

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
   * or (`per: "model"`) for each model; `{ tokens, windowMs, burst?, per? }`: tokens likewise; `{ inFlight }`: requests
   * at a time. At most 16, each window once for the key and once per model. Default none.
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
  /**
   * The id of the account whose money it spends, bounded by its own quota: a `standard` key the balance, a `subscription`
   * key the allowance and then, where pay-as-you-go is on, the balance. Default none. Cannot be changed later.
   */
  readonly account?: string;
  /** Who the key belongs to. 1 to 256 characters. Default: whom its account belongs to. Cannot be changed later. */
  readonly owner?: string;
  /** Which prefix the secret gets, and which fund of its account the key spends. Default `standard`. */
  readonly kind?: keyof SecretPrefixes;
  /**
   * A secret made elsewhere, taken over as it is: one of the configured prefixes, then 32 to 512 of `A-Z a-z 0-9`.
   * `kind` is that of its prefix then. Default: a new one.
   */
  readonly secret?: string;
}

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
  limits: limitsShape,
  quota: z.int().min(0).nullable().optional(),
  onCrash: z.enum(["charge", "release"]).optional(),
  metadata: metadataShape,
};

const policyInput = z.strictObject(policyShape);
const issueInput = z.strictObject({
  ...policyShape,
  owner: text.optional(),
  kind: z.enum(["standard", "subscription"]).default("standard"),
  secret: z.string().optional(),
  account: z.string().optional(),
});

/** What a policy is before anything is said. */
const BLANK: Policy = { state: "active", expiresAtMs: null, limits: [], quota: null, onCrash: "charge" };

/** A new key's owner, prefix and policy. @throws KeystileError `invalid_options` */
export function parseIssueInput(
  input: IssueInput,
  defaults: Pick<Policy, "onCrash">,
  now: number,
): {
  readonly owner: string | undefined;
  readonly kind: keyof SecretPrefixes;
  readonly secret: string | undefined;
  readonly accountId: string | undefined;
  readonly policy: Policy;
} {
  const { owner, kind, secret, account: accountId, ...fields } = parse(issueInput, input, "key");
  if (kind === "subscription" && accountId === undefined) throw accountNeeded();
  return {
    owner,
    kind,
    secret,
    accountId,
    policy: applyPolicy({ ...BLANK, ...defaults }, fields, now, "key"),
  };
}

/** A key of a subscription without an account would be one that nothing bounds. */
export function accountNeeded(): KeystileError {
  return invalid("key.account", "expected the id of the account whose subscription the key spends");
}

/** A change of a policy, checked before it is needed; `null` takes a rule away. @throws KeystileError `invalid_options` */
export function parsePolicyPatch(patch: PolicyInput, now: number): (policy: Policy) => Policy {
  const fields = parse(policyInput, patch, "patch");
  applyPolicy(BLANK, fields, now, "patch");
  return (policy) => applyPolicy(policy, fields, now, "patch");
}

const MAX_GRACE_MS = 365 * DAY_MS;

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

function applyPolicy(
  policy: Policy,
  fields: z.infer<typeof policyInput>,
  now: number,
  path: "key" | "patch",
): Policy {
  const { expiresAt, ...rest } = fields;
  if (rest.allowedIps) compileRanges(rest.allowedIps, `${path}.allowedIps`);
  if (rest.allowedModels) checkModelPatterns(rest.allowedModels, `${path}.allowedModels`);
  if (rest.deniedModels) checkModelPatterns(rest.deniedModels, `${path}.deniedModels`);
  if (rest.limits) checkLimits(rest.limits, `${path}.limits`);
  const expiresAtMs =
    expiresAt === undefined ? policy.expiresAtMs : expiryMs(expiresAt, now, `${path}.expiresAt`);
  const merged: Record<string, unknown> = { ...policy, ...defined(rest), expiresAtMs };
  for (const list of ["allowedIps", "allowedModels", "deniedModels", "scopes"])
    if (merged[list] === null) delete merged[list];
  assertSize(merged, path);
  return Object.freeze(merged) as unknown as Policy;
}

/** Year 2000 in milliseconds: numbers below it are seconds, or a mistake. */
const EARLIEST_MS = 946_684_800_000;

function expiryMs(expiresAt: Date | number | string | null, now: number, path: string): number | null {
  if (expiresAt === null) return null;
  const ms = typeof expiresAt === "number" ? expiresAt : new Date(expiresAt).getTime();
  if (!isTime(ms)) throw invalid(path, `expected a time that a Date can hold, received ${ms}`);
  if (ms < EARLIEST_MS)
    throw invalid(path, `expected milliseconds, received ${ms}, which looks like seconds`);
  if (ms <= now) throw invalid(path, `expected a time in the future, received ${new Date(ms).toISOString()}`);
  return ms;
}
