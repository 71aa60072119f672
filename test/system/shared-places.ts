import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { inject } from "vitest";
import { hasRedis, startRedis } from "../setup/redis-server.js";
import { newDatabase } from "./postgres-database.js";

/** Where processes meet: an address for `openStore`. */
export interface Place {
  readonly url: string;
  drop(): Promise<void>;
}

const server = inject("postgresUrl");

/** Makes one of each kind. Undefined where there is no server. */
export const places: Readonly<Record<"sqlite" | "postgres" | "redis", (() => Promise<Place>) | undefined>> = {
  sqlite: newFile,
  postgres: server === undefined ? undefined : () => newDatabase(server),
  redis: hasRedis ? newRedis : undefined,
};

/** Where nobody waits for a disk, if there is such a folder: what tests end are processes, not the machine. */
export const quickFolder: string = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();

async function newFile(): Promise<Place> {
  const directory = mkdtempSync(join(quickFolder, "keystile-shared-"));
  return { url: join(directory, "keys.db"), drop: async () => rmSync(directory, { recursive: true }) };
}

async function newRedis(): Promise<Place> {
  const { url, stop } = await startRedis();
  return { url, drop: stop };
}
