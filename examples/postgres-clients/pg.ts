/** A pool of [pg](https://node-postgres.com) fits as it is. */
import { postgresStore } from "keystile/postgres";
import { Pool } from "pg";

const pool = new Pool({ connectionString: process.env["DATABASE_URL"] });
export const store = postgresStore(pool);
