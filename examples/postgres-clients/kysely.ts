/** [Kysely](https://kysely.dev): `storeOnKysely(db, CompiledQuery)`, both from its package. */
import { type PostgresStore, postgresStore } from "keystile/postgres";

/** A `Kysely` and its `CompiledQuery`, as far as they are used; `Q` is what the one makes for the other. */
interface Kysely<Q> {
  executeQuery(query: Q): Promise<{ readonly rows: readonly unknown[] }>;
}
interface CompiledQuery<Q> {
  raw(text: string, values: unknown[]): Q;
}

export function storeOnKysely<Q>(db: Kysely<Q>, compiled: CompiledQuery<Q>): PostgresStore {
  return postgresStore({ query: (text, values) => db.executeQuery(compiled.raw(text, values)) });
}
