/** [Postgres.js](https://github.com/porsager/postgres), whose tagged template has a plain function beside it. */
import { type PostgresStore, postgresStore } from "keystile/postgres";

/** What `postgres(url)` returns, as far as it is used. */
interface Sql {
  unsafe(text: string, values: (string | null)[]): PromiseLike<readonly Record<string, unknown>[]>;
}

export function storeOnPostgresJs(sql: Sql): PostgresStore {
  return postgresStore({ query: async (text, values) => ({ rows: await sql.unsafe(text, values) }) });
}
