/**
 * A store that several processes share, by its address: the URL of a database, or the path of a SQLite file. From
 * the package as it is published.
 */
import { type PostgresStore, postgresStore } from "keystile/postgres";
import { type SqliteStore, sqliteStore } from "keystile/sqlite";
import { Pool } from "pg";

export interface SharedStore {
  readonly store: PostgresStore | SqliteStore;
  close(): Promise<void>;
}

export function openStore(address: string): SharedStore {
  if (!address.startsWith("postgres:")) {
    const store = sqliteStore(address);
    return { store, close: () => store.close() };
  }
  const pool = new Pool({ connectionString: address });
  return { store: postgresStore(pool), close: () => pool.end() };
}
