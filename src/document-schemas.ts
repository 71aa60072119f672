import { inShape } from "./copies.js";
import { type Cycle, isTimeZone } from "./cycle.js";
import {
  type AccountRecord,
  accountDocumentId,
  type DayTally,
  type EntryRecord,
  FORMAT,
  type InFlightLimit,
  isKey,
  type KeyRecord,
  type Limit,
  type Policy,
  type RequestLimit,
  type SecretRecord,
  type Tally,
  type TokenLimit,
  type UsageRecord,
} from "./documents.js";
import { KeystileError } from "./errors.js";
import {
  copied,
  entries,
  fit,
  frozen,
  int,
  list,
  misfit,
  nullable,
  object,
  oneOf,
  optional,
  type Shape,
  type Shapes,
  text,
  that,
} from "./shapes.js";
import type { Document } from "./store.js";

// Members of a later version are kept: they survive a write.
const kept = <T>(members: Shapes<T>): Shape<T> => object(members, "kept");
/** A record as it is stored: what a later version wrote stands among its members. */
type Stored<R> = Omit<R, "later">;

const format = oneOf(FORMAT);
const integer = int();
/** Less than nothing would be more than was granted, and a time before all others that it has drained or expired. */
const count = int(0);
const positive = int(1);
const amounts = entries(integer);
const counts = entries(count);
/** What a Date can hold. */
const time = int(-8_640_000_000_000_000, 8_640_000_000_000_000);
const onCrash = oneOf("charge", "release");
const words = text();
const owner = optional(words);

// Frozen, because views and decisions show parts of a policy to callers.
const names = optional(frozen(list(words)));
const metadata = optional(frozen(entries(words)));
const window = { windowMs: positive, burst: optional(positive), per: optional(oneOf("model")) };
const requestLimit = kept<RequestLimit>({ requests: positive, ...window });
const tokenLimit = kept<TokenLimit>({ tokens: positive, ...window });
const inFlightLimit = kept<InFlightLimit>({ inFlight: positive });
const limits = frozen(list(frozen(limit)));

function limit(value: unknown): Limit {
  const has = (name: string): boolean =>
    typeof value === "object" && value !== null && Object.hasOwn(value, name);
  if (has("requests")) return requestLimit(value);
  return has("tokens") ? tokenLimit(value) : inFlightLimit(value);
}

/** Judged when it is used, whatever it is. */
function present(value: unknown): unknown {
  if (value === undefined) throw misfit("a time or null", value);
  return copied(value);
}

const policy = frozen(
  kept<Policy>({
    name: owner,
    state: oneOf("active", "disabled", "revoked"),
    expiresAtMs: present,
    allowedIps: names,
    allowedModels: names,
    // Neither is ever written: what denies nothing was something else.
    deniedModels: optional(frozen(list(text(1), 1))),
    scopes: names,
    limits,
    quota: nullable(count),
    onCrash,
    metadata,
  }),
);

const ledger = {
  used: counts,
  levels: entries(kept({ level: count, atMs: count })),
  nodes: entries(kept({ seq: count, open: count, renewByMs: count, held: counts })),
  collected: entries(kept({ seq: count, collectedAtMs: integer, mode: onCrash, collected: amounts })),
  forgottenMs: integer,
  latestMs: time,
  alerts: optional(amounts),
};

const tally = optional(frozen(list(integer, 5, 5))) as Shape<unknown> as Shape<Tally | undefined>;
const dayTally: Shapes<DayTally> = {
  day: int(-100_000_000, 100_000_000),
  models: entries(object({ settled: tally, voided: tally, expired: tally, refused: tally }, "dropped")),
};

const keyRecord = kept<Stored<KeyRecord>>({
  format,
  owner,
  prefix: words,
  account: optional(kept({ id: words, pays: oneOf("balance", "subscription") })),
  createdAtMs: time,
  policyVersion: positive,
  policy,
  secrets: list(kept({ digest: words, hint: words, endsAtMs: nullable(integer) }), 1, 3),
  tally: optional(kept(dayTally)),
  ...ledger,
});

const zone = that<string>(
  (value) => typeof value === "string" && isTimeZone(value),
  "a time zone that is known here",
);
const CYCLES: { readonly [K in Cycle["kind"]]: Shape<Cycle & { readonly kind: K }> } = {
  never: kept({ kind: oneOf("never") }),
  anniversary: kept({
    kind: oneOf("anniversary"),
    every: positive,
    unit: oneOf("day", "month"),
    anchorMs: time,
    zone,
  }),
  calendar: kept({ kind: oneOf("calendar"), unit: oneOf("day", "week", "month"), zone }),
};
const cycleKind = kept({ kind: oneOf("never", "anniversary", "calendar") });
const cycle = (value: unknown): Cycle => CYCLES[cycleKind(value).kind](value);
const plan = kept({ name: words, allowance: count, ratePercent: positive });

const accountRecord = kept<Stored<AccountRecord>>({
  format,
  owner,
  createdAtMs: time,
  policyVersion: positive,
  policy: frozen(
    kept({
      name: owner,
      state: oneOf("active", "suspended"),
      limits,
      payAsYouGo: nullable(frozen(kept({ capPerCycle: nullable(count) }))),
      onCrash,
      metadata,
    }),
  ),
  credited: integer,
  subscription: optional(
    kept({
      serial: positive,
      plan,
      nextPlan: optional(plan),
      cycle,
      current: kept({ index: integer, startsAtMs: time, endsAtMs: time, allowance: count }),
      startedAtMs: time,
      endsAtMs: nullable(time),
      unpaidFromMs: nullable(time),
    }),
  ),
  closed: amounts,
  ...ledger,
});

const entryRecord = kept<EntryRecord>({ format, amount: integer, atMs: integer });
const usageRecord = kept<UsageRecord>({ format, keyId: words, accountId: owner, ...dayTally });
const secretRecord = kept<SecretRecord>({ format, keyId: words, accountId: owner });

/** Reads a key record out of a stored document. @throws KeystileError `document_invalid`, `format_newer` */
export function parseKeyRecord(document: Document): KeyRecord {
  return inShape<KeyRecord>(parse(keyRecord, document));
}

/** As `parseKeyRecord`, of an account. */
export function parseAccountRecord(document: Document): AccountRecord {
  return inShape<AccountRecord>(parse(accountRecord, document));
}

/** As `parseKeyRecord`, of a credit or a debit. */
export function parseEntryRecord(document: Document): EntryRecord {
  return parse(entryRecord, document);
}

/** As `parseKeyRecord`, of a closed day. */
export function parseUsageRecord(document: Document): UsageRecord {
  return parse(usageRecord, document);
}

/** As `parseKeyRecord`, of a secret. */
export function parseSecretRecord(document: Document): SecretRecord {
  return parse(secretRecord, document);
}

/** A record of any kind but a secret's, by what the id of its document begins with. */
export type AnyRecord = KeyRecord | AccountRecord | EntryRecord | UsageRecord;

const PARSERS: Readonly<Record<string, (document: Document) => AnyRecord>> = {
  key: parseKeyRecord,
  account: parseAccountRecord,
  entry: parseEntryRecord,
  usage: parseUsageRecord,
};

/** As `parseKeyRecord`, of any kind, and of the documents that are decided together with an account, or a key alone. */
export function parseMember(document: Document, anchorId: string): AnyRecord {
  const parseKind = PARSERS[kindOf(document.id)] ?? parseKeyRecord;
  const record = parseKind(document);
  if (isKey(record) && anchorOf(document.id, record) !== anchorId) {
    throw new KeystileError(
      "document_invalid",
      "A key's record names another account than what leads to it.",
    );
  }
  return record;
}

function anchorOf(id: string, { account }: KeyRecord): string {
  return account === undefined ? id : accountDocumentId(account.id);
}

function parse<T>(shape: Shape<T>, { id, body }: Document): T {
  const format = (body as { format?: unknown } | null)?.format;
  if (typeof format === "number" && format > FORMAT) {
    throw new KeystileError(
      "format_newer",
      `A ${kindOf(id)} document has format ${format}; this version of keystile reads up to ${FORMAT}. Upgrade it.`,
    );
  }
  const fitted = fit(shape, body);
  if (fitted.fits) return fitted.value;
  const { path, expected } = fitted.misfit;
  throw new KeystileError(
    "document_invalid",
    `A ${kindOf(id)} document is corrupt at "${path.join(".")}": expected ${expected}.`,
  );
}

/** Ids of secret documents contain digests, which belong in no message. */
function kindOf(id: string): string {
  return id.slice(0, id.indexOf(":"));
}
