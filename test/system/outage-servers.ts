/** Real servers that may be treated badly: each has its own data, and keeps what it has acknowledged through a crash. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Redis } from "ioredis";
import { Pool } from "pg";
import { createClient } from "redis";
import type { Store } from "../../src/store.js";
import { postgresStore } from "../../src/stores/postgres.js";
import { redisStore } from "../../src/stores/redis.js";
import { newPostgresFolder } from "../setup/postgres-server.js";
import { cli, startRedis } from "../setup/redis-server.js";

export interface OpenStore {
  readonly store: Store & { setup(): Promise<void> };
  close(): Promise<void>;
}

export interface OutageServer {
  readonly port: number;
  /** A store over a client of its own, by the port of the server or of a proxy. Clients differ by `n`. */
  open(port: number, n: number): Promise<OpenStore>;
  /** Ends it as a power cut would and starts it again on its data. */
  restart(): Promise<void>;
  /** Ends the connections of all clients, from within. */
  endConnections(): Promise<void>;
  setReadOnly(isReadOnly: boolean): Promise<void>;
  /** Absent where a server has no such state. */
  setOutOfMemory?(isFull: boolean): Promise<void>;
  forgetScripts?(): Promise<void>;
  stop(): Promise<void>;
}

export async function startOutageRedis(): Promise<OutageServer> {
  const server = await startRedis({ appendonly: "yes", appendfsync: "always" });
  const { port } = server;
  return {
    port,
    async open(port, n) {
      // Both clients send again what was not answered when a connection ended, so that it may arrive twice.
      if (n % 2 === 0) {
        const client = new Redis({ port, host: "127.0.0.1", retryStrategy: () => 50 });
        client.on("error", () => {});
        return { store: redisStore(client), close: async () => client.disconnect() };
      }
      const client = createClient({ socket: { port, host: "127.0.0.1", reconnectStrategy: 50 } });
      client.on("error", () => {});
      await client.connect();
      return { store: redisStore(client), close: async () => client.destroy() };
    },
    restart: server.restart,
    async endConnections() {
      cli(port, "client", "kill", "type", "normal");
    },
    async setReadOnly(isReadOnly) {
      // Of a primary that is not there, so that nothing of its data is ever taken over.
      cli(port, "replicaof", ...(isReadOnly ? ["127.0.0.1", "1"] : ["no", "one"]));
    },
    async setOutOfMemory(isFull) {
      cli(port, "config", "set", "maxmemory", isFull ? "1" : "0");
    },
    async forgetScripts() {
      cli(port, "script", "flush");
    },
    stop: server.stop,
  };
}

/** Where initdb and postgres are, by a server that runs on this machine. undefined: it runs on another one. */
export async function postgresFolder(url: string | undefined): Promise<string | undefined> {
  if (url === undefined) return undefined;
  const pool = new Pool({ connectionString: url });
  try {
    const { rows } = await pool.query("SELECT setting FROM pg_config() WHERE name = 'BINDIR'");
    const folder = String(rows[0]?.setting);
    return existsSync(join(folder, "initdb")) ? folder : undefined;
  } finally {
    await pool.end();
  }
}

export async function startOutagePostgres(binaries: string): Promise<OutageServer> {
  const { folder, data, port, options } = await newPostgresFolder(binaries);
  const settings = ["-c", "listen_addresses=127.0.0.1", "-c", `unix_socket_directories=${folder}`];
  let server = await start();

  async function start(): Promise<ChildProcess> {
    const line = ["-D", data, "-p", String(port), ...settings];
    for (;;) {
      const child = spawn(join(binaries, "postgres"), line, {
        ...options,
        stdio: ["ignore", "ignore", "pipe"],
      });
      // What the server before has left behind goes when the last of its processes has noticed that it is gone.
      if (await isReady(child)) return child;
      await sleep(50);
    }
  }

  async function end(): Promise<void> {
    const gone = once(server, "exit");
    server.kill("SIGKILL");
    await gone;
  }

  async function ask(statement: string): Promise<void> {
    const pool = new Pool({ host: "127.0.0.1", port, user: "postgres", database: "postgres", max: 1 });
    try {
      await pool.query(statement);
    } finally {
      await pool.end();
    }
  }

  return {
    port,
    async open(port) {
      const pool = new Pool({
        ...{ host: "127.0.0.1", port, user: "postgres", database: "postgres" },
        max: 4,
      });
      pool.on("error", () => {});
      return { store: postgresStore(pool), close: () => pool.end() };
    },
    async restart() {
      await end();
      server = await start();
    },
    endConnections: () =>
      ask(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
      ),
    async setReadOnly(isReadOnly) {
      await ask(`ALTER SYSTEM SET default_transaction_read_only = ${isReadOnly ? "on" : "off"}`);
      await ask("SELECT pg_reload_conf()");
    },
    async stop() {
      await end();
      rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

/** Whether it takes connections; false when it has ended instead. */
function isReady(child: ChildProcess): Promise<boolean> {
  const kill = (): void => void child.kill("SIGKILL");
  process.once("exit", kill);
  return new Promise((resolve) => {
    child.stderr?.on("data", (text: Buffer) => {
      if (text.includes("ready to accept connections")) resolve(true);
    });
    child.once("exit", () => {
      process.off("exit", kill);
      resolve(false);
    });
  });
}
