import fc from "fast-check";
import { createKeystile, type KeystileEvent } from "keystile";
import { memoryStore } from "keystile/memory";
import { keystile } from "keystile/node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { logEvents, logLine } from "./log.ts";

const SEED = Number(process.env["KEYSTILE_SEED"] ?? Date.now() % 1_000_000_007);
const RUNS = Number(process.env["KEYSTILE_LOG_RUNS"] ?? 1_000);
const options = { seed: SEED, numRuns: RUNS };

/** What somebody would write who wants a line of their own in the log. */
const poison = fc.constantFrom(
  ...[
    "\n",
    "\r\n",
    "\u2028",
    "\u2029",
    "\u0085",
    "\v",
    "\f",
    "\0",
    "\u001b[2K\u001b[1A",
    "\u009b31m",
    "\u007f",
  ],
  ...[
    "\u202e",
    "\ufeff",
    "\ud800",
    '"',
    "\\",
    '"}',
    '"}\n{"type":"key.revoked"}',
    '","type":"key.issued","a":"',
  ],
  ...["__proto__", "type", "time", "\\u000a", "%0a", "$'$(id)`id`"],
);
const text = fc
  .array(fc.oneof(poison, fc.string({ unit: "binary" })), { maxLength: 8 })
  .map((parts) => parts.join(""));

const gate = createKeystile({ store: memoryStore(), drainMs: 0 });
const lines: string[] = [];
const events: KeystileEvent[] = [];
let secret: string;

beforeAll(async () => {
  ({ secret } = await gate.keys.issue({}));
  gate.on("*", (event) => events.push(event));
  logEvents(gate, (line) => lines.push(line));
});

afterAll(() => gate.close());

/** That there is one line for each event, which says what it says, and nothing else. */
function expectTrueLines(): void {
  const written = lines.splice(0).join("");
  const happened = events.splice(0);
  expect(written).toMatch(/^(?:[ -~]+\n)*$/);
  const read = written
    .split("\n")
    .slice(0, -1)
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  for (const line of read) expect(Object.keys(line)).toEqual(["time", "type", "about"]);
  const said = happened.map(({ type, ...about }) => ({ type, about: cut(about) }));
  expect(read.map(({ type, about }) => ({ type, about }))).toEqual(said);
}

/** An event as JSON has it, long text shortened. */
function cut(value: unknown): unknown {
  return JSON.parse(
    JSON.stringify(value, (_, member) =>
      typeof member === "string" && member.length > 128 ? `${member.slice(0, 128)}...` : member,
    ),
  );
}

describe(`whatever a client sends, the log has one true line for each event (seed ${SEED})`, () => {
  test("models, one or many", async () => {
    await fc.assert(
      fc.asyncProperty(fc.oneof(text, fc.array(text, { maxLength: 4 })), async (model) => {
        const decision = await gate.authorize({ headers: { authorization: `Bearer ${secret}` }, model });
        if (decision.allowed) await decision.void();
        expect(events.length).toBeGreaterThan(0);
        expectTrueLines();
      }),
      options,
    );
  });

  test("headers, paths, addresses, methods and ids of requests: nothing of them is in an event", async () => {
    await fc.assert(
      fc.asyncProperty(text, text, async (one, two) => {
        const marked = `MARK${one}`;
        const headers = [
          "authorization",
          marked,
          "x-request-id",
          marked,
          two || "a",
          marked,
          "x-api-key",
          two,
        ];
        await gate.authorize({ headers, url: `/${marked}`, method: marked, address: marked });
        expect(JSON.stringify(events)).not.toContain("MARK");
        expectTrueLines();
      }),
      options,
    );
  });

  test("through a guard, whose request ids are its own", async () => {
    const guard = keystile(gate);
    await fc.assert(
      fc.asyncProperty(text, async (name) => {
        const rawHeaders = ["x-request-id", name, "authorization", `Bearer ${secret}`];
        const { request, response, head } = fakeExchange(`/v1/models/${name}:generate`, rawHeaders);
        await guard(request, response);
        expect(head["x-request-id"]).toMatch(/^req_[0-9a-f]{32}$/);
        expectTrueLines();
      }),
      { ...options, numRuns: Math.ceil(RUNS / 4) },
    );
  });
});

test("a line that could be taken for two is noticed", () => {
  lines.push(`${logLine({ type: "guard.observing" }, new Date(0))}\n`, "\u2028\n");
  expect(expectTrueLines).toThrow();
});

/** As little of a request and a response of Node as a guard needs. */
function fakeExchange(url: string, rawHeaders: readonly string[]) {
  const head: Record<string, string> = {};
  const quiet = { on: () => {}, off: () => {}, resume: () => {}, read: () => null, unshift: () => {} };
  const request = {
    ...{ ...quiet, method: "GET", url, rawHeaders, headers: {}, socket: {} },
    ...{ destroyed: false, readableEnded: false, readableLength: 0 },
  };
  const response = {
    ...{ ...quiet, statusCode: 200, headersSent: false, destroyed: false },
    ...{ getHeader: () => undefined, writeHead: () => {}, write: () => true, end: () => {} },
    setHeader: (name: string, value: string) => void Object.assign(head, { [name]: value }),
  };
  return { request, response, head };
}
