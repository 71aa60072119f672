import { z } from "zod";
import { defined } from "./copies.js";
import { parseKeyRecord, parseUsageRecord } from "./document-schemas.js";
import { DAY_MS, type DayTally, dateOf, keyDocumentId, type Outcome, usageDocumentId } from "./documents.js";
import { isKeyId } from "./ids.js";
import { parse } from "./input-parsing.js";
import { text } from "./input-shapes.js";
import { invalid } from "./invalid-options.js";
import type { Document } from "./store.js";
import type { StoreSession } from "./store-session.js";

/** Which days of which keys are asked for. Days are UTC, written `2026-11-23`. */
export interface UsageQuery {
  /** One key, on one page. Of a purged key the closed days are still there, for whoever knows its id. Default: all keys. */
  readonly keyId?: string;
  /** Whose keys; with `keyId`, nothing unless that key is theirs. 1 to 256 characters. Default: everybody's. */
  readonly owner?: string;
  /** The first day. Default: 29 days before `to`. */
  readonly from?: string;
  /** The last day, included; at most 366 days in all. Default: today by the store's clock. */
  readonly to?: string;
  /** The `next` of the page before, together with its `from` and `to`: today may be another day by now. */
  readonly after?: string;
  /**
   * Keys on one page: 1 to 1,000, as long as keys times days are at most 4,000. Default 100, or as many as that allows.
   */
  readonly limit?: number;
}

export interface UsageCounts {
  readonly requests: number;
  /** Sum of booked cost in your unit, from all funds. */
  readonly cost: number;
  /**
   * Of the cost, what was paid from the balance of the account. Charges of holds that expired are in `cost` alone where
   * the key pays from a subscription, until their process comes back and settles them: nobody else knows how they were
   * split.
   */
  readonly paid: number;
  readonly inputTokens: number;
  readonly outputTokens: number;
}

/**
 * What came of one key's requests for one model on one day. A row of `expired` may be negative: it takes back what was
 * counted on an earlier day, when the process of those requests was believed dead and came back.
 */
export interface UsageRow extends UsageCounts {
  readonly day: string;
  readonly keyId: string;
  readonly owner?: string;
  /** The account whose money the key spends. */
  readonly accountId?: string;
  /** null: none, or not known. Beyond 64 models of a key and day: `other`. */
  readonly model: string | null;
  readonly outcome: Outcome;
}

export interface UsagePage {
  /** In order of day, key, model (null first) and outcome, each by its characters. */
  readonly rows: readonly UsageRow[];
  /** The first and the last day that were asked for. */
  readonly from: string;
  readonly to: string;
  /** Absent on the last page. A page without rows may be followed by others. */
  readonly next?: string;
  /** Keys whose document (or, with `day`, whose counters of that day) are corrupt or of a newer format. */
  readonly unreadable?: readonly UnreadableUsage[];
}

export interface UnreadableUsage {
  readonly keyId: string;
  readonly day?: string;
}

/** Reads the counters that are kept in the same writes as the money. */
export interface UsageReports {
  /**
   * Usage by day, key, model and outcome, of all keys that are not purged. Each page is a page of keys with all their
   * days, read in at most 12 calls of the store. A day that ends meanwhile is neither lost nor counted twice. Requests in
   * flight are in no row yet. Refused and free ones come with the next write of their key, on the day of that write
   * (`flush()` makes one). Sums stop at 2^53 - 1.
   *
   * @throws KeystileError `invalid_options`; `store_unavailable`
   */
  query(query?: UsageQuery): Promise<UsagePage>;
}

const MAX_DAYS = 366;
const DEFAULT_DAYS = 30;
const DEFAULT_KEYS = 100;

/** Days of keys on one page, which are as many documents. */
const MAX_KEY_DAYS = 4_000;

/** Ids in one read. */
const READ_BATCH = 400;

const day = z.iso.date({ error: "expected a day in UTC such as 2026-11-23" }).optional();
const usageQuery = z.strictObject({
  keyId: z.string().refine(isKeyId, "expected the id of a key").optional(),
  owner: text.optional(),
  from: day,
  to: day,
  after: z.string().max(512).optional(),
  limit: z.int().min(1).max(1_000).optional(),
});

type Asked = z.infer<typeof usageQuery>;

/** Days since 1970-01-01. */
interface Range {
  readonly first: number;
  readonly last: number;
}

/** A key of the page, as it was before its days were read. A purged one has no document. */
interface Listed {
  readonly keyId: string;
  readonly document: Document | undefined;
}

interface Found {
  readonly rows: readonly UsageRow[];
  readonly unreadable: readonly UnreadableUsage[];
}

export function usageReports(session: StoreSession): UsageReports {
  async function query(input: UsageQuery = {}): Promise<UsagePage> {
    const asked = parseQuery(input);
    const range = rangeOf(asked, Math.floor((await session.freshTime()) / DAY_MS));
    // The keys before their days: a day that is closed in between is found in both, and its document is the newer one.
    // The other way round it might be found in neither.
    const { keys, next } = await keysOf(asked, pageSize(asked, range));
    const closed = await closedDays(keys, range, asked);
    const current = currentDays(keys, range, asked, closed.ids);
    const unreadable = [...current.unreadable, ...closed.unreadable];
    return {
      rows: [...closed.rows, ...current.rows].sort(inOrder),
      from: dateOf(range.first),
      to: dateOf(range.last),
      ...(next !== undefined && { next }),
      ...(unreadable.length > 0 && { unreadable }),
    };
  }

  async function keysOf(
    { keyId, owner, after }: Asked,
    limit: number,
  ): Promise<{ readonly keys: readonly Listed[]; readonly next?: string | undefined }> {
    if (keyId !== undefined) {
      return { keys: [{ keyId, document: await session.fetch(keyDocumentId(keyId)) }] };
    }
    const { documents, next } = await session.list({ kind: "key", limit, ...defined({ owner, after }) });
    return {
      keys: documents.map((document) => ({ keyId: document.id.slice("key:".length), document })),
      next,
    };
  }

  async function closedDays(
    keys: readonly Listed[],
    { first, last }: Range,
    asked: Asked,
  ): Promise<Found & { readonly ids: ReadonlySet<string> }> {
    const wanted = new Map<string, { readonly keyId: string; readonly day: number }>();
    for (const { keyId } of keys) {
      for (let day = first; day <= last; day += 1) wanted.set(usageDocumentId(keyId, day), { keyId, day });
    }
    const rows: UsageRow[] = [];
    const unreadable: UnreadableUsage[] = [];
    const found = new Set<string>();
    const ids = [...wanted.keys()];
    for (let at = 0; at < ids.length; at += READ_BATCH) {
      for (const [id, document] of await session.read(ids.slice(at, at + READ_BATCH))) {
        const named = wanted.get(id);
        if (named === undefined || !isAskedFor(document, asked)) continue;
        found.add(id);
        try {
          const record = parseUsageRecord(document);
          rows.push(...rowsOf({ ...named, owner: document.owner, accountId: record.accountId }, record));
        } catch {
          unreadable.push({ keyId: named.keyId, day: dateOf(named.day) });
        }
      }
    }
    return { rows, unreadable, ids: found };
  }

  return { query };
}

/** @throws KeystileError `invalid_options` */
function parseQuery(input: UsageQuery): Asked {
  const asked = parse(usageQuery, input, "query");
  const { keyId, after, limit } = asked;
  if (keyId !== undefined && (after !== undefined || limit !== undefined)) {
    throw invalid("query", "expected neither after nor limit with keyId, which is one page");
  }
  return asked;
}

/** @throws KeystileError `invalid_options` for no day at all, or too many. */
function rangeOf({ from, to }: Asked, today: number): Range {
  const last = to === undefined ? today : dayNumber(to);
  const first = from === undefined ? last - DEFAULT_DAYS + 1 : dayNumber(from);
  const days = last - first + 1;
  if (days < 1) {
    throw invalid("query.from", `expected a day up to ${dateOf(last)} (query.to), received ${from}`);
  }
  if (days > MAX_DAYS) {
    throw invalid(
      "query.from",
      `expected at most ${MAX_DAYS} days up to ${dateOf(last)} (query.to), received ${days}`,
    );
  }
  return { first, last };
}

/** @throws KeystileError `invalid_options` for more than one page may read. */
function pageSize({ limit }: Asked, { first, last }: Range): number {
  const days = last - first + 1;
  const most = Math.floor(MAX_KEY_DAYS / days);
  if (limit === undefined) return Math.min(DEFAULT_KEYS, most);
  if (limit <= most) return limit;
  throw invalid("query.limit", `expected at most ${most} keys a page for ${days} days, received ${limit}`);
}

function dayNumber(date: string): number {
  return Date.parse(date) / DAY_MS;
}

/** What is still counted in the keys themselves: today, or an earlier day after which nothing was written. */
function currentDays(
  keys: readonly Listed[],
  { first, last }: Range,
  asked: Asked,
  closed: ReadonlySet<string>,
): Found {
  const rows: UsageRow[] = [];
  const unreadable: UnreadableUsage[] = [];
  for (const { keyId, document } of keys) {
    if (document === undefined || !isAskedFor(document, asked)) continue;
    try {
      const { tally, account } = parseKeyRecord(document);
      if (tally === undefined || tally.day < first || tally.day > last) continue;
      const { day } = tally;
      if (!closed.has(usageDocumentId(keyId, day)))
        rows.push(...rowsOf({ keyId, owner: document.owner, accountId: account?.id, day }, tally));
    } catch {
      unreadable.push({ keyId });
    }
  }
  return { rows, unreadable };
}

function isAskedFor(document: Document, { owner }: Asked): boolean {
  return owner === undefined || document.owner === owner;
}

interface KeyDay {
  readonly keyId: string;
  readonly owner: string | undefined;
  readonly accountId: string | undefined;
  readonly day: number;
}

/** A row for everything of which something is left: what was taken back on the same day left nothing. */
function rowsOf({ keyId, owner, accountId, day }: KeyDay, { models }: DayTally): readonly UsageRow[] {
  return Object.entries(models).flatMap(([model, outcomes]) =>
    Object.entries(outcomes).flatMap(([outcome, tally]): readonly UsageRow[] => {
      if (tally === undefined || tally.every((count) => count === 0)) return [];
      const [requests, cost, inputTokens, outputTokens, paid] = tally;
      return [
        {
          day: dateOf(day),
          keyId,
          ...defined({ owner, accountId }),
          model: model === "" ? null : model,
          outcome: outcome as Outcome,
          ...{ requests, cost, paid, inputTokens, outputTokens },
        },
      ];
    }),
  );
}

function inOrder(a: UsageRow, b: UsageRow): number {
  for (const name of ["day", "keyId", "model", "outcome"] as const) {
    const [one, other] = [a[name] ?? "", b[name] ?? ""];
    if (one !== other) return one < other ? -1 : 1;
  }
  return 0;
}
