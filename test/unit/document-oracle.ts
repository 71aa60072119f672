import { z } from "zod";
import { isTimeZone } from "../../src/cycle.js";
import { FORMAT } from "../../src/documents.js";

/* What documents are, said a second time, by a library: what the source reads and refuses is compared with it. */

// The schemas are loose: members of a later version survive a write.
const format = z.literal(FORMAT);
const count = z.int().min(0);
const amounts = z.record(z.string(), z.int());
/** Less than nothing would be more than was granted, and a time before all others that it has drained or expired. */
const counts = z.record(z.string(), count);
const pastMs = z.int().min(0);
/** What a Date can hold. */
const time = z.int().min(-8_640_000_000_000_000).max(8_640_000_000_000_000);
const onCrash = z.enum(["charge", "release"]);

// Frozen, because views and decisions show parts of a policy to callers.
const names = z.array(z.string()).readonly();
const metadata = z.record(z.string(), z.string()).readonly().optional();
const window = {
  windowMs: z.int().min(1),
  burst: z.int().min(1).optional(),
  per: z.literal("model").optional(),
};
const limits = z
  .array(
    z.union([
      z.looseObject({ requests: z.int().min(1), ...window }).readonly(),
      z.looseObject({ tokens: z.int().min(1), ...window }).readonly(),
      z.looseObject({ inFlight: z.int().min(1) }).readonly(),
    ]),
  )
  .readonly();

const policy = z
  .looseObject({
    name: z.string().optional(),
    state: z.enum(["active", "disabled", "revoked"]),
    expiresAtMs: z.unknown(),
    allowedIps: names.optional(),
    allowedModels: names.optional(),
    // Neither is ever written: what denies nothing was something else.
    deniedModels: z.array(z.string().min(1)).min(1).readonly().optional(),
    scopes: names.optional(),
    limits,
    quota: count.nullable(),
    onCrash,
    metadata,
  })
  .readonly();

const ledger = {
  used: counts,
  levels: z.record(z.string(), z.looseObject({ level: count, atMs: pastMs })),
  nodes: z.record(z.string(), z.looseObject({ seq: count, open: count, renewByMs: pastMs, held: counts })),
  collected: z.record(
    z.string(),
    z.looseObject({ seq: count, collectedAtMs: z.int(), mode: onCrash, collected: amounts }),
  ),
  forgottenMs: z.int(),
  latestMs: time,
  alerts: amounts.optional(),
};

const tally = z.tuple([z.int(), z.int(), z.int(), z.int(), z.int()]).readonly();
const dayTally = {
  day: z.int().min(-100_000_000).max(100_000_000),
  models: z.record(
    z.string(),
    z.object({
      settled: tally.optional(),
      voided: tally.optional(),
      expired: tally.optional(),
      refused: tally.optional(),
    }),
  ),
};

const keyRecord = z.looseObject({
  format,
  owner: z.string().optional(),
  prefix: z.string(),
  account: z.looseObject({ id: z.string(), pays: z.enum(["balance", "subscription"]) }).optional(),
  createdAtMs: time,
  policyVersion: z.int().min(1),
  policy,
  secrets: z
    .array(z.looseObject({ digest: z.string(), hint: z.string(), endsAtMs: z.int().nullable() }))
    .min(1)
    .max(3),
  tally: z.looseObject(dayTally).optional(),
  ...ledger,
});

const zone = z.string().refine(isTimeZone, "expected a time zone that is known here");

const cycle = z.union([
  z.looseObject({ kind: z.literal("never") }),
  z.looseObject({
    kind: z.literal("anniversary"),
    every: z.int().min(1),
    unit: z.enum(["day", "month"]),
    anchorMs: time,
    zone,
  }),
  z.looseObject({ kind: z.literal("calendar"), unit: z.enum(["day", "week", "month"]), zone }),
]);
const plan = z.looseObject({ name: z.string(), allowance: count, ratePercent: z.int().min(1) });

const accountRecord = z.looseObject({
  format,
  owner: z.string().optional(),
  createdAtMs: time,
  policyVersion: z.int().min(1),
  policy: z
    .looseObject({
      name: z.string().optional(),
      state: z.enum(["active", "suspended"]),
      limits,
      payAsYouGo: z.looseObject({ capPerCycle: count.nullable() }).readonly().nullable(),
      onCrash,
      metadata,
    })
    .readonly(),
  credited: z.int(),
  subscription: z
    .looseObject({
      serial: z.int().min(1),
      plan,
      nextPlan: plan.optional(),
      cycle,
      current: z.looseObject({ index: z.int(), startsAtMs: time, endsAtMs: time, allowance: count }),
      startedAtMs: time,
      endsAtMs: time.nullable(),
      unpaidFromMs: time.nullable(),
    })
    .optional(),
  closed: amounts,
  ...ledger,
});

const entryRecord = z.looseObject({ format, amount: z.int(), atMs: z.int() });

const usageRecord = z.looseObject({
  format,
  keyId: z.string(),
  accountId: z.string().optional(),
  ...dayTally,
});

const secretRecord = z.looseObject({
  format,
  keyId: z.string(),
  accountId: z.string().optional(),
});

const RECORDS = {
  key: keyRecord,
  account: accountRecord,
  entry: entryRecord,
  usage: usageRecord,
  secret: secretRecord,
} as const;

/** The record in a body, or undefined where it is corrupt. */
export function oracleOf(kind: keyof typeof RECORDS, body: unknown): unknown {
  return RECORDS[kind].safeParse(bare(body)).data;
}

/** A copy of JSON without prototypes, or a schema would take what a polluted one has for members of a document. */
function bare(json: unknown): unknown {
  if (Array.isArray(json)) return json.map(bare);
  if (typeof json !== "object" || json === null) return json;
  const copy = Object.create(null) as Record<string, unknown>;
  for (const name of Object.keys(json)) copy[name] = bare((json as Record<string, unknown>)[name]);
  return copy;
}
