import { z } from "zod";
import { defined } from "./copies.js";
import { type Cycle, isTimeZone } from "./cycle.js";
import { DAY_MS, type Limit, type PayAsYouGo, type Plan, type Terms } from "./documents.js";
import { parse } from "./input-parsing.js";
import { assertSize, checkLimits, limitsShape, metadataShape, text } from "./input-shapes.js";
import { invalid } from "./invalid-options.js";
import { isTime } from "./policy.js";

/** The terms of an account, as they are written. */
export interface AccountInput {
  /** For people. 1 to 256 characters. */
  readonly label?: string;
  /** Limits that all keys of the account share, as the `limits` of a key. Default none. */
  readonly limits?: readonly Limit[];
  /**
   * Whether what exceeds a subscription is paid from the balance. `null`: no (the default). `{ capPerCycle: n }`: at most n
   * in each cycle, an integer from 0; `{ capPerCycle: null }`: up to the whole balance.
   */
  readonly payAsYouGo?: PayAsYouGo | null;
  /** As the option of `createKeystile`, for what is held of this account. */
  readonly onCrash?: Terms["onCrash"];
  /** Up to 32 members, names up to 64 and values up to 512 characters; with all other terms at most 8 KiB. */
  readonly metadata?: Readonly<Record<string, string>>;
}

export interface OpenInput extends AccountInput {
  /** Who the account belongs to. 1 to 256 characters. Cannot be changed later. */
  readonly owner?: string;
  /**
   * The name under which its owner has one account, to be found by (`accounts.find`): 1 to 64 of `A-Z a-z 0-9 _ -`.
   * Cannot be changed later. Default: none.
   */
  readonly name?: string;
}

/** A plan, as it is written. */
export interface PlanInput {
  /** 1 to 64 characters. */
  readonly name: string;
  /** How much may be used in each cycle: an integer from 0 in your unit. */
  readonly allowance: number;
  /**
   * By how much the limits of the keys that pay from it are multiplied, not those of the account: 0.01 to 100, at most two
   * decimals. Default 1.
   */
  readonly rateMultiplier?: number;
}

/**
 * When the allowance is renewed. Boundaries count from the anchor, the day clamped to the length of the month; `zone` is
 * an IANA time zone, `UTC` by default.
 */
export type CycleInput =
  | { readonly kind: "never" }
  | {
      readonly kind: "anniversary";
      /** Default `month`. */
      readonly unit?: "day" | "month";
      /** 1 to 1,000. Default 1. */
      readonly every?: number;
      /** A `Date`, integer milliseconds, or ISO 8601 with `Z` or an offset. Default: now. */
      readonly anchor?: Date | number | string;
      readonly zone?: string;
    }
  | { readonly kind: "calendar"; readonly unit: "day" | "week" | "month"; readonly zone?: string };

export interface SubscribeInput {
  readonly plan: PlanInput;
  /** Default: monthly from now, in UTC. */
  readonly cycle?: CycleInput;
  /** When the subscription's term ends. It cuts the last cycle. Default null: it goes on. */
  readonly endsAt?: Date | number | string | null;
}

const instant = z.union([z.date(), z.int(), z.iso.datetime({ offset: true })], {
  error: "expected a Date, integer milliseconds, or ISO 8601 with Z or an offset",
});
const zone = z.string().refine(isTimeZone, "expected an IANA time zone such as Europe/Berlin").default("UTC");

const accountShape = {
  label: text.optional(),
  limits: limitsShape,
  payAsYouGo: z
    .strictObject({ capPerCycle: z.int().min(0).nullable() })
    .readonly()
    .nullable()
    .optional(),
  onCrash: z.enum(["charge", "release"]).optional(),
  metadata: metadataShape,
};
const accountInput = z.strictObject(accountShape);
const name = z.string().regex(/^[\w-]{1,64}$/, "expected 1 to 64 of A-Z a-z 0-9 _ -");
const openInput = z.strictObject({ ...accountShape, owner: text.optional(), name: name.optional() });
const accountName = z.strictObject({ owner: text.optional(), name });

const planInput = z.strictObject({
  name: z.string().min(1).max(64),
  allowance: z.int().min(0),
  rateMultiplier: z.number().min(0.01).max(100).multipleOf(0.01).default(1),
});
const cycleInput = z.union(
  [
    z.strictObject({ kind: z.literal("never") }),
    z.strictObject({
      kind: z.literal("anniversary"),
      unit: z.enum(["day", "month"]).default("month"),
      every: z.int().min(1).max(1_000).default(1),
      anchor: instant.optional(),
      zone,
    }),
    z.strictObject({ kind: z.literal("calendar"), unit: z.enum(["day", "week", "month"]), zone }),
  ],
  {
    error:
      "expected { kind: 'never' }, { kind: 'anniversary', unit?, every?, anchor?, zone? } or { kind: 'calendar', unit, zone? } with an IANA time zone",
  },
);
const subscribeInput = z.strictObject({
  plan: planInput,
  cycle: cycleInput.prefault({ kind: "anniversary" }),
  endsAt: instant.nullable().default(null),
});

const entryInput = z.strictObject({
  id: z.string().regex(/^[\x21-\x7e]{1,128}$/, "expected 1 to 128 printable ASCII characters without spaces"),
  amount: z.int().min(1),
});

/** Several funds of many processes need more of the document than a key's one quota does. */
const MAX_TERMS_BYTES = 8_192;

const MAX_GRACE_MS = 365 * DAY_MS;
const graceOptions = z.strictObject({ graceMs: z.int().min(0).max(MAX_GRACE_MS).default(0) });
const cancelOptions = z.strictObject({ at: z.enum(["period_end", "now"]).default("period_end") });

const BLANK: Terms = { state: "active", limits: [], payAsYouGo: null, onCrash: "charge" };

/** @throws KeystileError `invalid_options` */
export function parseAccountName(query: unknown): {
  readonly owner?: string | undefined;
  readonly name: string;
} {
  const named = parse(accountName, query, "query");
  assertOwnName(named.owner, named.name, "query.name");
  return named;
}

/** Ids of accounts of an owner end like that: without one, such a name may be the id of somebody's account. */
function assertOwnName(owner: string | undefined, name: string | undefined, path: string): void {
  if (owner === undefined && name !== undefined && /-[0-9a-f]{24}$/.test(name))
    throw invalid(path, "expected a name that does not end in - and 24 of 0-9 a-f, or an owner");
}

/** @throws KeystileError `invalid_options` */
export function parseOpenInput(
  input: OpenInput,
  defaults: Pick<Terms, "onCrash">,
): { readonly owner: string | undefined; readonly name: string | undefined; readonly policy: Terms } {
  const { owner, name, ...fields } = parse(openInput, input, "account");
  assertOwnName(owner, name, "account.name");
  return { owner, name, policy: withTerms({ ...BLANK, ...defaults }, fields, "account") };
}

/** A change of terms, checked before it is needed. @throws KeystileError `invalid_options` */
export function parseAccountPatch(patch: AccountInput): (terms: Terms) => Terms {
  const fields = parse(accountInput, patch, "patch");
  withTerms(BLANK, fields, "patch");
  return (terms) => withTerms(terms, fields, "patch");
}

/** @throws KeystileError `invalid_options` */
export function parseSubscribeInput(
  input: SubscribeInput,
  now: number,
): { readonly plan: Plan; readonly cycle: Cycle; readonly endsAtMs: number | null } {
  const { plan, cycle, endsAt } = parse(subscribeInput, input, "subscription");
  const endsAtMs = endsAt === null ? null : new Date(endsAt).getTime();
  if (endsAtMs !== null && !(endsAtMs > now)) {
    throw invalid("subscription.endsAt", "expected a time in the future");
  }
  return { plan: planOf(plan), cycle: cycleOf(cycle, now), endsAtMs };
}

/** @throws KeystileError `invalid_options` */
export function parsePlan(input: PlanInput): Plan {
  return planOf(parse(planInput, input, "plan"));
}

/** @throws KeystileError `invalid_options` */
export function parseEntry(input: unknown): { readonly id: string; readonly amount: number } {
  return parse(entryInput, input, "entry");
}

/** @throws KeystileError `invalid_options` */
export function parseGrace(options: unknown): { readonly graceMs: number } {
  return parse(graceOptions, options, "options");
}

/** @throws KeystileError `invalid_options` */
export function parseCancel(options: unknown): { readonly at: "period_end" | "now" } {
  return parse(cancelOptions, options, "options");
}

function withTerms(terms: Terms, fields: z.infer<typeof accountInput>, path: string): Terms {
  const { label, ...rest } = fields;
  if (rest.limits) checkLimits(rest.limits, `${path}.limits`);
  const changed = { ...terms, ...defined(rest), ...(label !== undefined && { name: label }) };
  assertSize(changed, path, MAX_TERMS_BYTES);
  return Object.freeze(changed);
}

/** Documents hold integers alone. */
function planOf({ name, allowance, rateMultiplier }: z.infer<typeof planInput>): Plan {
  return { name, allowance, ratePercent: Math.round(rateMultiplier * 100) };
}

function cycleOf(cycle: z.infer<typeof cycleInput>, now: number): Cycle {
  if (cycle.kind !== "anniversary") return cycle;
  const { anchor = now, ...rest } = cycle;
  const anchorMs = new Date(anchor).getTime();
  if (!isTime(anchorMs)) throw invalid("subscription.cycle.anchor", "expected a time that a Date can hold");
  return { ...rest, anchorMs };
}
