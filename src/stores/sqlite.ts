import { KeystileError } from "../errors.js";
import type { Document, Store, WriteResult } from "../store.js";
import { textOfBody } from "./json-text.js";
import { boundsOf, documentOf, pageOf, type Row, refuseNewer } from "./sql.js";
import { isLocked, patiently } from "./sqlite-locks.js";
import {
  CREATE_META,
  CREATE_REST,
  DELETE,
  FIND,
  LIST_ALL,
  LIST_OWNED,
  NEXT_REVISION,
  SCHEMA,
  SELECT_SCHEMA,
  UPSERT,
} from "./sqlite-schema.js";

/** The part of a database handle that is used: that of better-sqlite3, `node:sqlite` and `bun:sqlite` fits. */
export interface SqliteDatabase {
  prepare(sql: string): SqliteStatement;
}

export interface SqliteStatement {
  get(...parameters: (string | number | null)[]): unknown;
  all(...parameters: (string | number | null)[]): unknown[];
  run(...parameters: (string | number | null)[]): unknown;
}

export interface SqliteStoreOptions {
  /** The store's clock in milliseconds: what every reply carries. Default `Date.now`. */
  readonly clock?: () => number;
}

export interface SqliteStore extends Store {
  /**
   * Creates the tables where they are missing and switches the file to write-ahead logging. Until it was
   * called once per file, every other call is a fault. Any number of processes may call it at any time.
   *
   * @throws KeystileError `format_newer` when a newer version of this package has set the file up.
   */
  setup(): Promise<void>;
}

interface Found extends Omit<Row, "owner"> {
  readonly owner: Uint8Array | null;
}

/**
 * Keeps documents in an SQLite file that any number of processes on one machine may share.
 *
 * Given a path it opens the file by `node:sqlite` (Node 22.13 or later) and creates it if missing. Given a
 * handle it uses that one, sets its `synchronous` to FULL and never closes it; the handle must not be inside
 * a transaction of yours while the store is called. What was acknowledged survives a crash and a power cut.
 *
 * A call waits for another process's lock without blocking this one, for at most five seconds; then it
 * throws `store_unavailable` and has certainly written nothing. (A handle with a busy timeout blocks that long.)
 *
 * @example
 * const store = sqliteStore("keystile.db");
 * await store.setup();
 */
export function sqliteStore(
  database: string | SqliteDatabase,
  options: SqliteStoreOptions = {},
): SqliteStore {
  const clock = options.clock ?? Date.now;
  const file = typeof database === "string" ? openFile(database) : undefined;
  const db = (file ?? database) as SqliteDatabase;
  const prepared = new Map<string, SqliteStatement>();
  let isReady = false;
  let isClosed = false;

  function sql(text: string): SqliteStatement {
    let statement = prepared.get(text);
    if (statement === undefined) {
      statement = db.prepare(text);
      prepared.set(text, statement);
    }
    return statement;
  }

  function find(id: string): Found | undefined {
    // better-sqlite3 and node:sqlite say undefined, bun:sqlite says null.
    return (sql(FIND).get(id) as Found | undefined | null) ?? undefined;
  }

  /** Runs from begin to end without a pause, so that calls sharing the handle cannot meet inside. */
  function transaction<T>(begin: "BEGIN" | "BEGIN IMMEDIATE", work: () => T): T {
    // When this throws, nothing of ours was begun, and what may be open on the handle is not ours to roll back.
    sql(begin).run();
    let isCommitting = false;
    try {
      const result = work();
      isCommitting = begin === "BEGIN IMMEDIATE";
      sql("COMMIT").run();
      return result;
    } catch (error) {
      try {
        sql("ROLLBACK").run();
      } catch {
        // The engine has rolled back by itself; the error that made it do so is the one to report.
      }
      // A commit that fails for want of a lock did nothing. One that fails on the disk may be there afterwards.
      if (!isCommitting || isLocked(error)) throw error;
      throw new KeystileError("store_unavailable", "SQLite could not say whether it has committed", {
        mayHaveHappened: true,
        cause: error,
      });
    }
  }

  /** Before the first use. It reads the file, so it may have to wait like any other call. */
  function getReady(): void {
    if (isReady) return;
    sql("PRAGMA synchronous = FULL").run();
    refuseNewer(schemaOf(sql(SELECT_SCHEMA).get()), SCHEMA);
    isReady = true;
  }

  return {
    async setup() {
      await patiently(() => db.prepare("PRAGMA journal_mode = WAL").get());
      await patiently(() =>
        transaction("BEGIN IMMEDIATE", () => {
          db.prepare(CREATE_META).run();
          refuseNewer(schemaOf(db.prepare(SELECT_SCHEMA).get()), SCHEMA);
          for (const text of CREATE_REST) db.prepare(text).run();
        }),
      );
    },

    async read(ids) {
      return patiently(() => {
        getReady();
        return transaction("BEGIN", () => {
          const documents = toDocuments(ids, ids.map(find));
          return { documents, now: clock() };
        });
      });
    },

    async write(groups) {
      // Made text before the first wait, so that the caller may change what was given.
      const plan = groups.map((group) =>
        group.map(({ id, expected, set, owner }) => {
          const text = set === undefined || set === null ? set : textOfBody(set);
          return { id, expected, text, owner: owner ?? null };
        }),
      );
      // A call that only checks reads one snapshot and need not queue for the one writer's place.
      const onlyChecks = plan.every((group) => group.every(({ text }) => text === undefined));

      return patiently(() => {
        getReady();
        return transaction(onlyChecks ? "BEGIN" : "BEGIN IMMEDIATE", () => {
          const found = plan.map((group) => group.map(({ id }) => find(id)));
          const now = clock();
          let revision: number | undefined;

          const results = plan.map((group, g): WriteResult => {
            const rows = found[g] ?? [];
            const holds = group.every(({ expected }, m) => Number(rows[m]?.version ?? 0) === expected);
            if (!holds) {
              const ids = group.map(({ id }) => id);
              return { written: false, current: toDocuments(ids, rows) };
            }
            const versions = group.map(({ id, expected, text, owner }) => {
              if (text === undefined) return expected;
              if (text === null) {
                sql(DELETE).run(id);
                return 0;
              }
              revision ??= Number((sql(NEXT_REVISION).get() as { revision: number | bigint }).revision);
              sql(UPSERT).run(id, revision, owner, text);
              return revision;
            });
            return { written: true, versions };
          });
          return { results, now };
        });
      });
    },

    async list(query) {
      const { owner, limit } = query;
      const bounds = boundsOf(query);
      return patiently(() => {
        getReady();
        const rows = (
          owner === undefined
            ? sql(LIST_ALL).all(...bounds, limit + 1)
            : sql(LIST_OWNED).all(...bounds, owner, limit + 1)
        ) as (Found & { readonly id: Uint8Array })[];
        const ids = rows.map(({ id }) => toText(id));
        return pageOf(toDocuments(ids, rows), limit);
      });
    },

    async close() {
      if (isClosed) return;
      isClosed = true;
      file?.close();
    },
  };
}

function openFile(path: string): SqliteDatabase & { close(): void } {
  // Asked for at run time: importing this module must work on a Node without it, and in a bundle.
  const sqlite = process.getBuiltinModule?.("node:sqlite");
  if (sqlite === undefined) {
    throw new KeystileError(
      "invalid_options",
      "sqliteStore(path) needs node:sqlite, which this runtime lacks (Node has it from 22.13); " +
        "pass an open handle of better-sqlite3 or bun:sqlite instead of the path",
    );
  }
  try {
    return new sqlite.DatabaseSync(path);
  } catch (cause) {
    throw new KeystileError("store_unavailable", `the SQLite file ${path} cannot be opened`, { cause });
  }
}

function schemaOf(row: unknown): number {
  return Number((row as { schema: number | bigint } | undefined | null)?.schema ?? SCHEMA);
}

/** The documents of those ids for which there is a row. */
function toDocuments(ids: readonly string[], rows: readonly (Found | undefined)[]): Document[] {
  return ids.flatMap((id, n) => {
    const row = rows[n];
    if (row === undefined) return [];
    return [documentOf(id, { ...row, owner: row.owner === null ? null : toText(row.owner) })];
  });
}

function toText(bytes: Uint8Array): string {
  return utf8.decode(bytes);
}

const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
