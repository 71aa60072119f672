/** [Drizzle](https://orm.drizzle.team) over pg, Neon or PGlite keeps what it was made of, and that fits as it is. */
import { type PostgresClient, type PostgresStore, postgresStore } from "keystile/postgres";

/** What `drizzle(…)` returns, as far as it is used. */
interface Drizzle {
  readonly $client: PostgresClient;
}

export function storeOnDrizzle(db: Drizzle): PostgresStore {
  return postgresStore(db.$client);
}
