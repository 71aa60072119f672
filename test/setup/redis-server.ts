/** Real Redis servers on loopback, each with a new folder and a free port of its own. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

export interface RedisServer {
  readonly port: number;
  readonly url: string;
  /** Ends it as a power cut would, without a chance to write anything more, and starts it again on its folder. */
  restart(): Promise<void>;
  /** Ends it and removes its folder. */
  stop(): Promise<void>;
}

const BINARY = findBinary();

/** False where there is no server to test with; then it is an error if the environment requires all tests. */
export const hasRedis: boolean = BINARY !== undefined;

if (!hasRedis) {
  const remedy = "apt-get install -y redis-server brings it.";
  if (process.env["KEYSTILE_TEST_REQUIRE_ALL"] === "1")
    throw new Error(`There is no redis-server: ${remedy}`);
  console.warn(`Redis is skipped. ${remedy}`);
}

/** Starts a server. Settings are those of `redis.conf`: `{ appendonly: "yes" }`. */
export async function startRedis(settings: Readonly<Record<string, string>> = {}): Promise<RedisServer> {
  const folder = mkdtempSync(join(tmpdir(), "keystile-redis-"));
  const port = await freePort();
  const all = { port: String(port), bind: "127.0.0.1", dir: folder, save: "", ...settings };
  const line = Object.entries(all).flatMap(([name, value]) => [`--${name}`, value]);
  let server = await start(line);

  async function end(): Promise<void> {
    const ended = new Promise((resolve) => server.once("exit", resolve));
    if (server.exitCode === null && server.signalCode === null) {
      server.kill("SIGKILL");
      await ended;
    }
  }

  return {
    port,
    url: `redis://127.0.0.1:${port}`,
    async restart() {
      await end();
      server = await start(line);
    },
    async stop() {
      await end();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

export interface RedisClusterServers {
  readonly ports: readonly number[];
  stop(): Promise<void>;
}

/** Starts a cluster of three primaries without replicas; resolves once all of them say that it is up. */
export async function startRedisCluster(): Promise<RedisClusterServers> {
  const servers = await Promise.all(
    [0, 1, 2].map(() => startRedis({ "cluster-enabled": "yes", "cluster-node-timeout": "2000" })),
  );
  const ports = servers.map(({ port }) => port);
  const [first = 0] = ports;
  const bounds = [0, 5_461, 10_923, 16_384];
  ports.forEach((port, n) => {
    cli(port, "cluster", "addslotsrange", String(bounds[n]), String((bounds[n + 1] ?? 0) - 1));
    cli(port, "config", "set", "cluster-require-full-coverage", "no");
    if (port !== first) cli(port, "cluster", "meet", "127.0.0.1", String(first));
  });
  for (const port of ports) await untilKnown(port, ports.length);
  return {
    ports,
    async stop() {
      await Promise.all(servers.map((server) => server.stop()));
    },
  };
}

/** What `redis-cli` prints. */
export function cli(port: number, ...words: readonly string[]): string {
  return execFileSync("redis-cli", ["-p", String(port), ...words], { encoding: "utf8" }).trim();
}

async function start(line: readonly string[]): Promise<ChildProcess> {
  const server = spawn(BINARY ?? "redis-server", line, { stdio: ["ignore", "pipe", "inherit"] });
  // Whatever becomes of this process, the server does not outlive it.
  const kill = (): void => void server.kill("SIGKILL");
  process.once("exit", kill);
  server.once("exit", () => process.off("exit", kill));
  const lines = createInterface({ input: server.stdout as NonNullable<typeof server.stdout> });
  await new Promise<void>((resolve, reject) => {
    lines.on("line", (text) => {
      if (/Ready to accept connections/.test(text)) resolve();
    });
    server.once("exit", (code) => reject(new Error(`redis-server ended with ${code}`)));
  });
  return server;
}

/** Until a node sees the whole cluster. Nodes tell each other once a second, and tell nobody else. */
async function untilKnown(port: number, nodes: number): Promise<void> {
  for (;;) {
    const info = cli(port, "cluster", "info");
    const isUp = info.includes("cluster_state:ok") && info.includes("cluster_slots_ok:16384");
    if (isUp && info.includes(`cluster_known_nodes:${nodes}`)) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** A port that is free, and with it the one 10,000 above, over which the nodes of a cluster talk. */
async function freePort(): Promise<number> {
  for (;;) {
    const port = await portOf(0);
    if (port < 55_000 && (await portOf(port + 10_000).catch(() => 0)) !== 0) return port;
  }
}

function portOf(wanted: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once("error", reject);
    probe.listen(wanted, "127.0.0.1", () => {
      const { port } = probe.address() as { port: number };
      probe.close(() => resolve(port));
    });
  });
}

function findBinary(): string | undefined {
  const named = process.env["KEYSTILE_TEST_REDIS_SERVER"];
  const names = named === undefined ? ["redis-server", "valkey-server"] : [named];
  return names.find((name) => {
    try {
      execFileSync(name, ["--version"], { stdio: "ignore" });
      return true;
    } catch {
      return false;
    }
  });
}
