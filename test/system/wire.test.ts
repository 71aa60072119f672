import type { Server } from "node:http";
import { connect } from "node:net";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { createKeystile, type Keystile } from "../../src/index.js";
import { memoryStore } from "../../src/stores/memory.js";
import { randomFrom } from "../model/random.js";
import {
  exchange,
  HTTP2_SERVERS,
  listen,
  type Planner,
  parseAnswer,
  planOf,
  SERVERS,
  stop,
  type WireAnswer,
} from "./adapters-servers.js";
import { BODIES } from "./wire-bodies.js";
import { ANSWERS, CREDENTIALS, FRAMES, PROXIES, ROUTES } from "./wire-heads.js";
import { exchangeHttp2 } from "./wire-http2.js";
import { ODD_FIELDS } from "./wire-http2-fields.js";
import { composeRequest } from "./wire-random.js";
import { comparable, http2Of, isHeard, packetsOf, type Request, type Row, seen } from "./wire-requests.js";

/*
 * The same bytes get the same answer, whatever the framework: one table for all adapters, over real sockets, and random
 * requests out of its pieces. No handler runs unless the gate has allowed exactly that.
 */

const TABLE: Readonly<Record<string, Row>> = {
  ...CREDENTIALS,
  ...FRAMES,
  ...ROUTES,
  ...PROXIES,
  ...BODIES,
  ...ANSWERS,
};

const SEED = Number(process.env["KEYSTILE_SEED"] ?? 1);
const RANDOM_REQUESTS = Number(process.env["KEYSTILE_WIRE_REQUESTS"] ?? 200);

const unhandled: unknown[] = [];
const noteUnhandled = (reason: unknown): void => void unhandled.push(reason);
const secrets: Record<string, string> = {};
const servers: Server[] = [];
const ports = new Map<string, number>();
const http2Ports = new Map<string, number>();
const handled = new Map<string, number>();
let gate: Keystile;
let allowed = 0;

beforeAll(async () => {
  process.on("unhandledRejection", noteUnhandled);
  process.on("uncaughtException", noteUnhandled);
  vi.spyOn(console, "error").mockImplementation(() => {});
  gate = createKeystile({
    store: memoryStore(),
    drainMs: 0,
    trustedProxies: ["127.0.0.0/8"],
    credentials: ["bearer", "x-api-key", "websocket-protocol"],
  });
  gate.on("request.allowed", () => {
    allowed += 1;
  });
  const issued = {
    OPEN: { limits: [{ requests: 1_000_000, windowMs: 60_000 }] },
    LISTED: { allowedModels: ["gpt-*"] },
    THERE: { allowedIps: ["203.0.113.7"] },
    SPENT: { quota: 0 },
  };
  for (const [name, policy] of Object.entries(issued)) secrets[name] = (await gate.keys.issue(policy)).secret;
  await start(SERVERS, ports);
  await start(HTTP2_SERVERS, http2Ports);
});

afterEach(() => {
  expect(unhandled.splice(0)).toEqual([]);
});

afterAll(async () => {
  await Promise.all(servers.map(stop));
  await gate.close();
  process.off("unhandledRejection", noteUnhandled);
  process.off("uncaughtException", noteUnhandled);
});

async function start(kinds: typeof SERVERS, at: Map<string, number>): Promise<void> {
  for (const [name, startServer] of Object.entries(kinds)) {
    const counted: Planner = (url, decision, body) => {
      handled.set(name, (handled.get(name) ?? 0) + 1);
      expect(decision).toMatchObject({ allowed: true });
      return planOf(url, decision, body);
    };
    const server = await startServer(gate, {}, counted);
    servers.push(server);
    at.set(name, await listen(server));
  }
}

interface Told extends WireAnswer {
  readonly name: string;
  /** How often the handler has run for it. */
  readonly runs: number;
}

/** One request to every server, and what each of them answered. */
async function ask(at: Map<string, number>, send: (port: number) => Promise<WireAnswer>): Promise<Told[]> {
  handled.clear();
  allowed = 0;
  const answers = await Promise.all([...at].map(async ([name, port]) => ({ name, ...(await send(port)) })));
  const told = answers.map((answer) => ({ ...answer, runs: handled.get(answer.name) ?? 0 }));
  // Fewer only where the client went in between.
  expect(told.reduce((sum, { runs }) => sum + runs, 0)).toBeLessThanOrEqual(allowed);
  return told;
}

async function askAll(row: Request): Promise<Told[]> {
  const packets = packetsOf(row, secrets);
  return ask(ports, (port) => (row.pace === "cut" ? cutOff(port, packets) : exchange(port, ...packets)));
}

/** Sends what there is, ends its half of the connection, and reads whatever still comes. */
async function cutOff(port: number, packets: readonly Buffer[]): Promise<WireAnswer> {
  const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
  let text = "";
  socket.on("data", (chunk) => {
    text += chunk.toString("latin1");
  });
  socket.end(Buffer.concat(packets));
  await new Promise<void>((resolve) => {
    socket.on("close", () => resolve());
    socket.on("end", () => socket.destroy());
    socket.on("error", () => {});
  });
  return parseAnswer(text);
}

function expectAnswers(
  told: readonly Told[],
  { answer: [status, what], headers = {}, unheard = [] }: Row,
): void {
  const isUnheard = ({ name }: Told): boolean => unheard === "everywhere" || unheard.includes(name);
  for (const answer of told.filter(isUnheard)) {
    const { name, runs } = answer;
    const expected = unheard === "everywhere" ? status : 400;
    expect({ name, status: answer.status, runs, heard: isHeard(answer) }).toEqual({
      ...{ name, status: expected, runs: 0, heard: false },
    });
  }
  const heard = told.filter((answer) => !isUnheard(answer));
  for (const answer of heard) {
    expect({ name: answer.name, status: answer.status }).toEqual({ name: answer.name, status });
    const got = seen(answer);
    if (typeof what === "object") expect(got).toMatchObject(what as object);
    else if (what !== undefined) expect(got).toBe(what);
    expect(answer.headers).toMatchObject(headers);
    const isRefused = status >= 400 && status < 500 && status !== 418;
    expect({ name: answer.name, runs: answer.runs }).toEqual({
      ...{ name: answer.name, runs: isRefused || status === 204 ? 0 : 1 },
    });
  }
  const [first] = heard;
  if (first === undefined) return;
  for (const answer of heard) {
    expect({ name: answer.name, runs: answer.runs, ...comparable(answer) }).toEqual({
      name: answer.name,
      runs: first.runs,
      ...comparable(first),
    });
  }
}

describe("the same bytes, the same answer", () => {
  test.each(Object.entries(TABLE))("%s", async (_, row) => {
    expectAnswers(await askAll(row), row);
  });
});

describe("the same request over HTTP/2", () => {
  // What a framework or a parser refuses there by itself has a table of its own.
  const said = Object.entries(TABLE).filter(
    ([, row]) => http2Of(row, {}) !== undefined && row.unheard === undefined,
  );

  test.each(said)("%s", async (_, row) => {
    const { fields, body } = http2Of(row, secrets) as NonNullable<ReturnType<typeof http2Of>>;
    expectAnswers(await ask(http2Ports, (port) => exchangeHttp2(port, fields, body)), row);
  });
});

describe("over HTTP/2 alone", () => {
  test.each(Object.entries(ODD_FIELDS))("%s", async (_, { fields, body, ...row }) => {
    const said = fields.map(
      ([name, value]) => [name, value.replace("$OPEN", secrets["OPEN"] ?? "")] as const,
    );
    const told = await ask(http2Ports, (port) => exchangeHttp2(port, said, Buffer.from(body ?? "")));
    expectAnswers(told, row);
  });
});

describe(`random requests, seed ${SEED}`, () => {
  /** What a request may come to at best, by the keys that are in it: nothing else lets anything in. */
  function expectWarranted(told: readonly Told[], row: Request): void {
    const holds = (name: string): boolean => JSON.stringify(row).includes(`$${name}`);
    for (const { status, body, runs } of told) {
      expect(status).not.toBe(500);
      if (runs === 0 || body === "") continue;
      const { model } = JSON.parse(body) as { model: unknown };
      const models = [model].flat();
      const isListed = models.every((name) => typeof name === "string" && name.startsWith("gpt-"));
      expect(holds("OPEN") || (holds("LISTED") && isListed) || holds("THERE")).toBe(true);
    }
  }

  /** Frameworks differ in whose bodies they read: of a GET, or of no type. */
  function withoutBody(answer: Told): Told {
    const body = answer.runs === 0 ? answer.body : answer.body.replace(/"body":".*"/s, "");
    return { ...answer, body };
  }

  function expectAlike(told: readonly Told[]): void {
    // What a framework refuses, before its guard or after it, runs no handler.
    const isForeign = (answer: Told): boolean =>
      !isHeard(answer) || (answer.runs === 0 && [400, 404, 415].includes(answer.status));
    for (const { name, status, runs } of told.filter(isForeign)) {
      const refused = status === 0 || status >= 400;
      expect({ name, runs, refused }).toEqual({ name, runs: 0, refused: true });
    }
    const heard = told.filter((answer) => !isForeign(answer));
    const alike = heard.map((answer) => ({ runs: answer.runs, ...comparable(withoutBody(answer)) }));
    for (const answer of alike) expect(answer).toEqual(alike[0]);
  }

  test("get one answer from all", async () => {
    const random = randomFrom(SEED);
    const statuses = new Map<number, number>();
    for (let at = 0; at < RANDOM_REQUESTS; at++) {
      const row = composeRequest(random.fork());
      try {
        const told = await askAll(row);
        expectAlike(told);
        expectWarranted(told, row);
        const onHttp2 = http2Of(row, secrets);
        if (onHttp2 !== undefined) {
          const { fields, body } = onHttp2;
          const again = await ask(http2Ports, (port) => exchangeHttp2(port, fields, body));
          expectWarranted(again, row);
          expectAlike([...told, ...again]);
        }
        for (const { status } of told) statuses.set(status, (statuses.get(status) ?? 0) + 1);
      } catch (error) {
        const found = (error as Error).message;
        throw new Error(`KEYSTILE_SEED=${SEED}, request ${at}: ${JSON.stringify(row)}: ${found}`, {
          cause: error,
        });
      }
    }
    // Else it tries nothing.
    for (const status of [200, 400, 401, 403])
      expect(statuses.get(status)).toBeGreaterThan(RANDOM_REQUESTS / 50);
  });
});

test(`bytes changed at random, seed ${SEED}: never a failure, and nothing without a key`, async () => {
  const random = randomFrom(SEED);
  const requests = Object.values({ ...CREDENTIALS, ...FRAMES, ...ROUTES, ...PROXIES, ...BODIES })
    .map((row) => Buffer.concat(packetsOf(row, secrets)))
    .filter((bytes) => bytes.length < 5_000);
  const statuses = new Set<number>();
  for (let at = 0; at < RANDOM_REQUESTS; at++) {
    const bytes = Buffer.from(random.pick(requests));
    for (let changes = random.between(1, 4); changes > 0; changes--) {
      bytes[random.between(0, bytes.length - 1)] = random.between(0, 255);
    }
    const told = await ask(ports, (port) => cutOff(port, [bytes]));
    const hasKey = Object.values(secrets).some((secret) => bytes.includes(secret));
    for (const { name, status, runs } of told) {
      statuses.add(status);
      const found = { name, failed: status === 500, runs: hasKey ? 0 : runs };
      expect(found, `KEYSTILE_SEED=${SEED}, request ${at}: ${bytes.toString("latin1")}`).toEqual({
        ...{ name, failed: false, runs: 0 },
      });
    }
  }
  for (const status of [200, 400, 401, 403]) expect(statuses).toContain(status);
});
