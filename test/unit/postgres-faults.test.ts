import { describe, expect, test } from "vitest";
import { postgresStore } from "../../src/stores/postgres.js";

/** The errors of clients, in the shapes in which they are thrown; real ones are in `test/system/postgres.test.ts`. */
function failing(error: unknown): ReturnType<typeof postgresStore> {
  return postgresStore({
    async query(text) {
      if (text.includes(".meta")) return { rows: [{ schema: 1 }] };
      throw error;
    },
  });
}

const change = [[{ id: "key:1", expected: 0, set: 1 }]];
const check = [[{ id: "key:1", expected: 0 }]];

function errorOf(details: object): Error {
  return Object.assign(new Error("down"), details);
}

const CERTAIN: readonly (readonly [string, unknown])[] = [
  ["a refused connection", errorOf({ code: "ECONNREFUSED" })],
  ["a host without address", errorOf({ code: "ENOTFOUND" })],
  ["too many connections", errorOf({ code: "53300" })],
  ["no memory for locks", errorOf({ code: "53200" })],
  ["a server that is starting", errorOf({ code: "57P03" })],
  ["no such database", errorOf({ code: "3D000" })],
  ["no right", errorOf({ code: "42501" })],
  ["a wrong password", errorOf({ code: "28P01" })],
  ["a cancelled statement", errorOf({ code: "57014" })],
  ["a lock that was not to be had", errorOf({ code: "55P03" })],
  ["a replica", errorOf({ code: "25006" })],
  ["the server's error wrapped once", errorOf({ cause: errorOf({ code: "42501" }) })],
  ["the server's error beside a client's own code", errorOf({ code: "P2010", meta: { code: "42501" } })],
];

const UNKNOWN: readonly (readonly [string, unknown])[] = [
  ["a lost connection", errorOf({ code: "ECONNRESET" })],
  ["a connection that was ended", new Error("Connection terminated unexpectedly")],
  ["a server that shuts down", errorOf({ code: "57P01" })],
  ["a server that crashed", errorOf({ code: "57P02" })],
  ["a commit of which nothing is known", errorOf({ code: "08007" })],
  ["a completion of which nothing is known", errorOf({ code: "40003" })],
  ["a full disk", errorOf({ code: "53100" })],
  ["a client's own code that only looks like one of the server", errorOf({ code: "P2010" })],
  ["a string", "down"],
  ["an error that wraps itself", wrapsItself()],
];

function wrapsItself(): Error {
  const error = errorOf({});
  return Object.assign(error, { cause: error });
}

describe("a call that fails", () => {
  test.each(CERTAIN)("by %s has certainly written nothing", async (_, error) => {
    const fault = { code: "store_unavailable", mayHaveHappened: false, cause: error };
    await expect(failing(error).write(change)).rejects.toMatchObject(fault);
  });

  test.each(UNKNOWN)("by %s may have written", async (_, error) => {
    const fault = { code: "store_unavailable", mayHaveHappened: true, cause: error };
    await expect(failing(error).write(change)).rejects.toMatchObject(fault);
  });

  test.each([...CERTAIN, ...UNKNOWN])("by %s and only reads has written nothing", async (_, error) => {
    const fault = { code: "store_unavailable", mayHaveHappened: false };
    await expect(failing(error).write(check)).rejects.toMatchObject(fault);
    await expect(failing(error).read(["key:1"])).rejects.toMatchObject(fault);
    await expect(failing(error).list({ kind: "key", limit: 1 })).rejects.toMatchObject(fault);
  });
});

describe("a race that the engine decided", () => {
  test.each([
    ["a serialization failure", errorOf({ code: "40001" })],
    ["a deadlock", errorOf({ code: "40P01" })],
    ["a deadlock that a client has wrapped", errorOf({ code: "P2010", meta: { code: "40P01" } })],
  ])("by %s is lost, with the documents as they are", async (_, error) => {
    const calls: string[] = [];
    const store = postgresStore({
      async query(text, [, , , , bodies, call]) {
        if (text.includes(".meta")) return { rows: [{ schema: 1 }] };
        calls.push(String(bodies));
        if (calls.length === 1) throw error;
        const document = { version: "7", owner: null, body: '{"by":"them"}' };
        return { rows: [{ member: 1, written: null, ...document, clock: "1700000000000", call }] };
      },
    });
    expect(await store.write(change)).toEqual({
      results: [{ written: false, current: [{ id: "key:1", version: 7, body: { by: "them" } }] }],
      now: 1_700_000_000_000,
    });
    expect(calls, "the second call changes nothing").toEqual(["1", ""]);
  });

  test("and then an outage has certainly written nothing", async () => {
    const errors = [errorOf({ code: "40P01" }), errorOf({ code: "ECONNRESET" })];
    const store = postgresStore({
      async query(text) {
        if (text.includes(".meta")) return { rows: [{ schema: 1 }] };
        throw errors.shift();
      },
    });
    const fault = { code: "store_unavailable", mayHaveHappened: false, cause: { code: "ECONNRESET" } };
    await expect(store.write(change)).rejects.toMatchObject(fault);
  });
});

test("a store that could not ask for the schema asks again", async () => {
  let isDown = true;
  const store = postgresStore({
    async query(text, values) {
      const call = values.at(-1);
      if (isDown) throw errorOf({ code: "ECONNRESET" });
      return { rows: text.includes(".meta") ? [{ schema: 1 }] : [{ member: null, clock: 5, call }] };
    },
  });
  await expect(store.write(change)).rejects.toMatchObject({
    code: "store_unavailable",
    mayHaveHappened: false,
  });
  isDown = false;
  expect(await store.read([])).toEqual({ documents: [], now: 5 });
});

test("a reply to another call is not believed", async () => {
  const replies: object[] = [];
  const store = postgresStore({
    async query(text, values) {
      if (text.includes(".meta")) return { rows: [{ schema: 1 }] };
      replies.push({ member: null, written: "7", clock: "5", call: values.at(-1) });
      // As over a connection on which the first one came twice.
      return { rows: [replies[Math.max(0, replies.length - 2)]] };
    },
  });
  expect((await store.write(change)).results).toEqual([{ written: true, versions: [7] }]);
  const fault = { code: "store_unavailable", mayHaveHappened: true };
  await expect(store.write(change)).rejects.toMatchObject(fault);
  await expect(store.read(["key:1"])).rejects.toMatchObject({ ...fault, mayHaveHappened: false });
});
