/** [Neon](https://neon.com/docs/serverless/serverless-driver) over HTTP. Its `Pool` fits as it is, like that of pg. */
import { type PostgresStore, postgresStore } from "keystile/postgres";

/** What `neon(url)` returns, as far as it is used. */
interface NeonQueryFunction {
  query(text: string, values: unknown[]): Promise<Record<string, unknown>[]>;
}

export function storeOnNeon(sql: NeonQueryFunction): PostgresStore {
  return postgresStore({ query: async (text, values) => ({ rows: await sql.query(text, values) }) });
}
