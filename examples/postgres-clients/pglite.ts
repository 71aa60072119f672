/** [PGlite](https://pglite.dev), Postgres within the process, fits as it is: for tests, or kept in a folder. */
import { PGlite } from "@electric-sql/pglite";
import { postgresStore } from "keystile/postgres";

const database = new PGlite();
export const store = postgresStore(database);
