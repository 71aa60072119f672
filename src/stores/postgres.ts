import { KeystileError } from "../errors.js";
import type { Document, Store, Write, WriteResult } from "../store.js";
import { textOfBody } from "./json-text.js";
import { isLostRace, toFault } from "./postgres-faults.js";
import { SCHEMA, setupOf } from "./postgres-schema.js";
import { boundsOf, documentOf, pageOf, type Row, refuseNewer } from "./sql.js";

/**
 * The part of a client that is used. A `Pool` of pg, PGlite and Neon fit as they are; what has another name for
 * it is wrapped in a line. Every query stands alone: none is prepared by name, none needs the connection of the
 * one before.
 */
export interface PostgresClient {
  query(text: string, values: (string | null)[]): Promise<{ readonly rows: readonly unknown[] }>;
}

export interface PostgresStoreOptions {
  /** The schema that holds everything: lower case letters, digits and `_`, at most 63. Default `keystile`. */
  readonly schema?: string;
}

export interface PostgresStore extends Store {
  /**
   * Creates the schema, its tables and its functions where they are missing. Until it was called once per
   * database, every other call is a fault. Any number of processes may call it at any time.
   *
   * @throws KeystileError `format_newer` when a newer version of this package has set the database up.
   */
  setup(): Promise<void>;
}

/** A write as the function takes it. `body` is JSON text, so that `null` deletes; nothing checks. */
interface Member {
  readonly id: string;
  readonly expected: number;
  readonly owner: string | undefined;
  readonly body: string;
}

/** What the function answers: a document as it is, or would be, of a group that was not written. */
interface Answer extends Row {
  /** Its place in the call, from 1; null: there is no such group. */
  readonly member: number | null;
  /** The version of all that was written. */
  readonly written: number | bigint | string | null;
  readonly clock: number | bigint | string;
  /** The number of the call. */
  readonly call: string;
}

/** One count for all stores: they may share a client. */
let calls = 0;

/** A version that no document has: a group that expects it is a read. */
const NONE = -1;

/**
 * Keeps documents in a Postgres database (15 or later, encoded in UTF-8) that any number of processes share.
 *
 * Every call is one statement: a batch of any size is one round trip. It works through a pooler in transaction
 * mode. Sessions must be READ COMMITTED, which is the default; others are refused. The client must not be inside
 * a transaction of yours, or what was acknowledged could still be rolled back. It is never closed.
 *
 * @example
 * const store = postgresStore(new Pool({ connectionString }));
 * await store.setup();
 */
export function postgresStore(client: PostgresClient, options: PostgresStoreOptions = {}): PostgresStore {
  const { schema = "keystile" } = options;
  if (typeof schema !== "string" || !/^[a-z_][a-z0-9_]{0,62}$/.test(schema)) {
    throw new KeystileError(
      "invalid_options",
      `schema: must be 1 to 63 of a-z, 0-9 and _, not beginning with a digit; received ${JSON.stringify(schema)}`,
    );
  }
  const statement = `SELECT *, $6::text AS call FROM "${schema}".exchange(
    $1::text::integer[], $2::text::text[], $3::text::bigint[], $4::text::text[], $5)`;
  let ready: Promise<void> | undefined;

  async function run<T>(text: string, values: (string | null)[], changes = false): Promise<readonly T[]> {
    try {
      return (await client.query(text, values)).rows as readonly T[];
    } catch (error) {
      throw toFault(error, changes);
    }
  }

  async function checkSchema(): Promise<void> {
    const [row] = await run<{ schema: number }>(`SELECT schema FROM "${schema}".meta`, []);
    refuseNewer(Number(row?.schema ?? 0), SCHEMA);
  }

  /** Once, before the first use. */
  function getReady(): Promise<void> {
    ready ??= checkSchema().catch((error: unknown) => {
      ready = undefined;
      throw error;
    });
    return ready;
  }

  async function exchange(groups: readonly (readonly Member[])[]): ReturnType<Store["write"]> {
    const members = groups.flat();
    const changes = members.some(({ body }) => body !== "");
    await getReady();
    // A connection that has lost count of its replies tells of a write that was lost that it was written.
    calls += 1;
    const number = String(calls);
    const lists = [
      groups.flatMap((group, g) => group.map(() => g)),
      members.map(({ id }) => quoted(id)),
      members.map(({ expected }) => expected),
      members.map(({ owner }) => (owner === undefined ? "NULL" : quoted(owner))),
    ].map((list) => `{${list.join()}}`);
    const bodies = members.map(({ body }) => body).join("\n");
    const rows = await run<Answer>(statement, [...lists, bodies, number], changes);
    if (rows[0]?.call !== number) {
      const problem = new Error(`call ${number} got the reply to call ${rows[0]?.call}`);
      throw toFault(problem, changes);
    }
    return { results: resultsOf(groups, rows), now: Number(rows[0]?.clock) };
  }

  async function read(ids: readonly string[]): ReturnType<Store["read"]> {
    const { results, now } = await exchange(membersOf([ids.map((id) => ({ id, expected: NONE }))]));
    return { documents: results.flatMap((result) => (result.written ? [] : result.current)), now };
  }

  return {
    async setup() {
      await run(setupOf(schema), []);
      // Also of what was there before, which a newer version may have set up.
      await checkSchema();
    },

    read,

    async write(groups) {
      // Made text before the first wait, so that the caller may change what was given.
      const members = membersOf(groups);
      try {
        return await exchange(members);
      } catch (error) {
        if (!isLostRace(error)) throw error;
      }
      return exchange(members.map((group) => group.map((one) => ({ ...one, expected: NONE, body: "" }))));
    },

    async list(query) {
      await getReady();
      const [from, after, until] = boundsOf(query).map(toStored) as [string, string, string];
      const owner = query.owner === undefined ? null : toStored(query.owner);
      const rows = await run<Row & { readonly id: string }>(
        `SELECT * FROM "${schema}".list(greatest($1::text COLLATE "C", $2::text), $3, $4, $5::text::integer)`,
        [from, after, until, owner, String(query.limit + 1)],
      );
      return pageOf(rows.map(toDocument), query.limit);
    },

    // What was handed in is not ours to end.
    async close() {},
  };
}

function membersOf(groups: readonly (readonly Write[])[]): readonly (readonly Member[])[] {
  return groups.map((writes) =>
    writes.map(({ id, expected, set, owner }) => {
      const body = set === undefined ? "" : textOfBody(set);
      return { id: toStored(id), expected, owner: owner === undefined ? undefined : toStored(owner), body };
    }),
  );
}

function resultsOf(groups: readonly (readonly Member[])[], rows: readonly Answer[]): readonly WriteResult[] {
  const version = Number(rows[0]?.written);
  const answers = new Map(rows.map((row) => [row.member, row]));
  let place = 0;
  return groups.map((group) => {
    const found = group.map(({ id }) => ({ ...(answers.get(++place) as Answer), id }));
    if (found.some(({ clock }) => clock !== undefined)) {
      return { written: false, current: found.filter((row) => row.version !== null).map(toDocument) };
    }
    const versions = group.map(({ body, expected }) =>
      body === "" ? expected : body === "null" ? 0 : version,
    );
    return { written: true, versions };
  });
}

/** As an item of a list in the text that every client can send. */
function quoted(text: string): string {
  return `"${text.replace(/["\\]/g, "\\$&")}"`;
}

/** The order of bytes stays as it is. Postgres keeps any text but one with a NUL. */
function toStored(text: string): string {
  return text.replaceAll("\u0001", "\u0001\u0002").replaceAll("\0", "\u0001\u0001");
}

function toGiven(text: string): string {
  return text.replaceAll("\u0001\u0001", "\0").replaceAll("\u0001\u0002", "\u0001");
}

function toDocument(row: Row & { readonly id: string }): Document {
  const owner = row.owner === null ? null : toGiven(row.owner);
  return documentOf(toGiven(row.id), { ...row, owner });
}
