/** better-auth's plugin for API keys: one key with a rate limit and a number of uses, checked and counted. */
import { apiKey } from "@better-auth/api-key";
import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { getMigrations } from "better-auth/db/migration";
import Sqlite from "better-sqlite3";
import { Pool } from "pg";
import { ask, type Subject } from "../subject.ts";

export async function open(kind: string, address: string): Promise<Subject> {
  const { database, close } = databaseOf(kind, address);
  const options = {
    database,
    secret: "3kL9vQ2xT7mB5nR8wZ1cY6pF4hJ0sDgA",
    baseURL: "http://127.0.0.1:3000",
    telemetry: { enabled: false },
    emailAndPassword: { enabled: true },
    plugins: [apiKey({ rateLimit: { enabled: true, timeWindow: 60_000, maxRequests: 100_000_000 } })],
  };
  if (kind !== "memory") await (await getMigrations(options)).runMigrations();
  const auth = betterAuth(options);
  const { user } = await auth.api.signUpEmail({
    body: { email: "bench@example.com", password: "a password of the bench", name: "bench" },
  });
  const { key } = await auth.api.createApiKey({
    body: { userId: user.id, name: "bench", remaining: 1_000_000_000 },
  });

  async function check(): Promise<void> {
    const { valid, error } = await auth.api.verifyApiKey({ body: { key } });
    if (!valid) throw new Error(JSON.stringify(error));
  }

  return { measure: (load) => ask({ ...load, keys: 1 }, check), close };
}

function databaseOf(kind: string, address: string) {
  if (kind === "postgres") {
    const database = new Pool({ connectionString: address });
    return { database, close: () => database.end() };
  }
  if (kind === "sqlite") {
    const database = new Sqlite(`${address}.better-auth`);
    database.pragma("journal_mode = WAL");
    database.pragma("synchronous = FULL");
    return { database, close: async () => void database.close() };
  }
  const tables = { user: [], session: [], account: [], verification: [], apikey: [] };
  return { database: memoryAdapter(tables), close: async () => {} };
}
