/** The servers of the bench, started by it and ended with it, and what keeps its files. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startPostgres } from "../test/setup/postgres-server.ts";
import { startRedis } from "../test/setup/redis-server.ts";

export interface Place {
  /** A URL, or the path of a file that does not exist yet. */
  readonly address: string;
  stop(): Promise<void>;
}

/** By kind of store. Postgres and SQLite acknowledge what survives a power cut; Redis keeps what it has in memory. */
export const places: Readonly<Record<"postgres" | "redis" | "sqlite", () => Promise<Place>>> = {
  async postgres() {
    const server = await startPostgres([]);
    if (server === undefined) throw new Error("There is no Postgres: `npm install` brings it.");
    return { address: server.url, stop: server.stop };
  },
  async redis() {
    const server = await startRedis();
    return { address: server.url, stop: server.stop };
  },
  async sqlite() {
    const folder = mkdtempSync(join(tmpdir(), "keystile-bench-"));
    const stop = async (): Promise<void> => rmSync(folder, { recursive: true, force: true });
    return { address: join(folder, "keys.db"), stop };
  },
};
