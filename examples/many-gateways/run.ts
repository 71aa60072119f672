/**
 * What `npm run demo:many` runs: real servers on this machine, three gateway processes before one model server, and a
 * load that wants more than there is from another process. In the middle one gateway is killed and started again. Ends
 * with an audit; the exit code is 1 if something in it is off, and 2 if a store was left out for want of a server.
 *
 *   node examples/many-gateways/run.ts [postgres | redis-cluster] [requests]
 *
 * Without a name both stores are run. At least so many requests are sent, 600 or more (default 1500).
 */
import { type ChildProcess, fork } from "node:child_process";
import { on, once } from "node:events";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { createKeystile } from "keystile";
import { startModelServer } from "../gateway/model-server.ts";
import { printAudit } from "./audit.ts";
import { type Fund, openFunds, type Standing } from "./funds.ts";
import type { LoadReport, LoadTask } from "./load.ts";
import { openStore, STORES, type StoreName, startServers } from "./stores.ts";

const PROVIDER_KEY = "provider-key";
const GATEWAYS = 3;
const CALLERS = 64;
/** Far more than the holds of a killed process live. */
const PATIENCE_MS = 10_000;

const children = new Set<ChildProcess>();

const [first, ...rest] = process.argv.slice(2);
const names = STORES.filter((name) => name === first);
const requests = Number((names.length === 0 ? first : rest[0]) ?? 1_500);
if (!Number.isSafeInteger(requests) || requests < 600) {
  throw new TypeError(`Expected one of ${STORES.join(", ")}, or a number of requests from 600.`);
}
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, endChildren);
const codes: number[] = [];
for (const name of names.length === 0 ? STORES : names) codes.push(await run(name));
process.exitCode = codes.includes(1) ? 1 : Math.max(...codes);

/** Runs one store and returns the exit code. */
async function run(name: StoreName): Promise<number> {
  const startedMs = performance.now();
  const servers = await startServers(name);
  if (servers === undefined) {
    console.warn(`\n${name}: LEFT OUT, there is no server on this machine (see CONTRIBUTING.md).`);
    return 2;
  }
  const { store, close } = await openStore(servers.address);
  const modelServer = await startModelServer({ apiKey: PROVIDER_KEY });
  const keystile = createKeystile({ store });
  try {
    const funds = await openFunds(keystile, requests);
    console.log(`\n${name}: ${GATEWAYS} gateways, ${CALLERS} callers, ${requests} requests or more`);
    const report = await drive(funds, [servers.address, modelServer.url, PROVIDER_KEY]);
    const standings = await settled(funds);
    const seconds = ((performance.now() - startedMs) / 1_000).toFixed(1);
    console.log(`after ${report.answered} requests and ${seconds} s everything has ended:\n`);
    const rows = funds.map((fund, n) => ({
      fund,
      tally: report.tallies[fund.name] ?? { requested: 0, outcomes: {} },
      standing: standings[n] as Standing,
    }));
    return printAudit(rows) ? 0 : 1;
  } finally {
    endChildren();
    await keystile.close();
    modelServer.close();
    await close();
    await servers.stop();
  }
}

/** The whole drama; all processes are gone when it resolves with what the callers have counted. */
async function drive(funds: readonly Fund[], environment: readonly string[]): Promise<LoadReport> {
  const gateways = await Promise.all(Array.from({ length: GATEWAYS }, () => startGateway(environment)));
  const load = startProcess("load.ts");
  const keys = funds.flatMap(({ name, secrets }) => secrets.map((secret) => ({ fund: name, secret })));
  const urls = gateways.map(({ port }) => `http://127.0.0.1:${port}`);
  load.send({ gateways: urls, keys, callers: CALLERS } satisfies LoadTask);

  // While there is something left to spend, so that it dies with requests half done.
  const before = await reportOf(load, ({ answered }) => answered >= requests / 4);
  const [victim, ...others] = gateways as [Gateway, ...Gateway[]];
  await ended(victim.child, () => victim.child.kill("SIGKILL"));
  console.log(`after ${before.answered} requests one gateway is killed (SIGKILL)`);
  const successor = await startGateway(environment, victim.port);
  const { answered } = await reportOf(load, () => true);
  console.log(`after ${answered} requests it is back`);
  await reportOf(load, (report) => report.answered >= Math.max(requests, answered + requests / 4));

  load.send("stop");
  const last = await reportOf(load, ({ isLast }) => isLast);
  for (const child of [load, ...[successor, ...others].map(({ child }) => child)]) {
    await ended(child, () => child.disconnect());
  }
  return last;
}

interface Gateway {
  readonly child: ChildProcess;
  readonly port: number;
}

async function startGateway(environment: readonly string[], port = 0): Promise<Gateway> {
  const child = startProcess("gateway.ts", ...environment, String(port));
  for await (const [listening] of on(child, "message", { close: ["exit"] }))
    return { child, port: listening };
  throw new Error("A gateway did not start.");
}

/** With the Node that runs this. It ends with this process, because nobody is left to talk to it. */
function startProcess(file: string, ...args: readonly string[]): ChildProcess {
  const child = fork(join(import.meta.dirname, file), args);
  children.add(child);
  child.once("exit", () => children.delete(child));
  return child;
}

/** Those that something has kept from ending by themselves; whoever waits for them fails, and the servers are stopped. */
function endChildren(): void {
  for (const child of children) child.kill("SIGKILL");
}

/** The first report from now on that is as it should be. */
async function reportOf(load: ChildProcess, isWanted: (report: LoadReport) => boolean): Promise<LoadReport> {
  for await (const [report] of on(load, "message", { close: ["exit"] })) if (isWanted(report)) return report;
  throw new Error("The load ended early.");
}

async function ended(child: ChildProcess, end: () => void): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) throw new Error("A process has ended by itself.");
  const gone = once(child, "exit");
  end();
  await gone;
}

/** What the funds say when nothing is held any more, or when it should long have been so. */
async function settled(funds: readonly Fund[]): Promise<readonly Standing[]> {
  for (const deadline = performance.now() + PATIENCE_MS; ; await sleep(100)) {
    const standings = await Promise.all(funds.map((fund) => fund.standing()));
    const isOver = performance.now() > deadline;
    if (isOver || standings.every(({ held }) => held === 0)) return standings;
  }
}
