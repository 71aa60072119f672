import { describe, expect, test } from "vitest";
import { type BodyEnd, followBody, joinBytes, readBytes } from "../../src/body.js";

describe("readBytes", () => {
  function post(body: RequestInit["body"], headers = {}): Request {
    const init = { method: "POST", body, headers, duplex: "half" };
    return new Request("http://localhost/", init as RequestInit);
  }

  test("reads the bytes as they were sent, and leaves them for the handler", async () => {
    for (const bytes of [[], [0], [0xff, 0xfe, 0, 1, 2]]) {
      const request = post(Uint8Array.from(bytes));
      expect(await readBytes(request, 1_000)).toEqual(Uint8Array.from(bytes));
      expect(new Uint8Array(await request.arrayBuffer())).toEqual(Uint8Array.from(bytes));
    }
  });

  test("no body has no bytes", async () => {
    expect(await readBytes(post(null), 0)).toEqual(new Uint8Array());
  });

  test("a declared length beyond the bound is not read at all", async () => {
    const request = post("{}", { "content-length": "1001" });
    expect(await readBytes(request, 1_000)).toBeUndefined();
    expect(await request.text()).toBe("{}");
  });

  test("a body that was read by somebody before is not known", async () => {
    const request = post("{}");
    await request.text();
    expect(await readBytes(request, 1_000)).toBeUndefined();
  });

  test("a request whose body cannot be had has none that is known", async () => {
    const request = Object.defineProperty(post("{}"), "body", {
      get: () => {
        throw new TypeError("Request cannot be constructed from a URL that includes credentials");
      },
    });
    expect(await readBytes(request, 1_000)).toBeUndefined();
  });

  test("the bound is exact, and at it the body is still there for the handler", async () => {
    const at = post("x".repeat(98));
    expect((await readBytes(at, 98))?.length).toBe(98);
    const above = post("x".repeat(98));
    expect(await readBytes(above, 97)).toBeUndefined();
    expect(await above.text()).toBe("x".repeat(98));
  });

  test("an endless body is read up to the bound only, and the rest on demand", async () => {
    let pulled = 0;
    let cancelled = false;
    const body = new ReadableStream({
      pull(controller) {
        pulled += 1;
        controller.enqueue(new Uint8Array(100).fill(0x20));
      },
      cancel() {
        cancelled = true;
      },
    });
    const request = post(body);
    expect(await readBytes(request, 1_000)).toBeUndefined();
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(pulled).toBeLessThan(15);
    const reader = request.body?.getReader();
    for (let chunk = 0; chunk < 20; chunk++) expect((await reader?.read())?.value?.length).toBe(100);
    // Only when nobody holds on to the other half: it would collect all that is read here.
    await reader?.cancel();
    expect(cancelled).toBe(true);
  });

  test("a body that breaks throws", async () => {
    const body = new ReadableStream({
      pull(controller) {
        controller.error(new Error("reset"));
      },
    });
    await expect(readBytes(post(body), 1_000)).rejects.toThrow("reset");
  });
});

test("joinBytes keeps the order, and copies a single array not at all", () => {
  const [a, b] = [Uint8Array.of(1, 2), Uint8Array.of(3)];
  expect(joinBytes([])).toEqual(new Uint8Array());
  expect(joinBytes([a])).toBe(a);
  expect(joinBytes([a, new Uint8Array(), b])).toEqual(Uint8Array.of(1, 2, 3));
});

describe("followBody", () => {
  const chunk = new Uint8Array([1, 2, 3]);

  function source(...steps: (Uint8Array | Error)[]) {
    const seen = { pulls: 0, cancelled: undefined as unknown };
    const body = new ReadableStream<Uint8Array>(
      {
        pull(controller) {
          seen.pulls += 1;
          const step = steps.shift();
          if (step === undefined) controller.close();
          else if (step instanceof Error) controller.error(step);
          else controller.enqueue(step);
        },
        cancel(reason) {
          seen.cancelled = reason;
        },
      },
      { highWaterMark: 0 },
    );
    return { seen, body };
  }

  async function howEnded(ended: Promise<BodyEnd>): Promise<BodyEnd | "not yet"> {
    await new Promise((resolve) => setImmediate(resolve));
    return Promise.race([ended, new Promise<"not yet">((resolve) => setImmediate(resolve, "not yet"))]);
  }

  /** A meter that holds every second byte back, and notes what was asked of it. */
  function meter() {
    const calls: string[] = [];
    let held: Uint8Array = new Uint8Array();
    return {
      calls,
      push(bytes: Uint8Array): Uint8Array {
        calls.push(`push ${bytes}`);
        const passed = joinBytes([held, bytes]);
        held = passed.slice(passed.length - (passed.length % 2));
        return passed.slice(0, passed.length - held.length);
      },
      end(): Uint8Array {
        calls.push("end");
        return held;
      },
    };
  }

  test("passes the bytes on, and is over at the end and not before", async () => {
    const { body, ended } = followBody(source(chunk, chunk).body);
    const reader = body.getReader();
    expect((await reader.read()).value).toBe(chunk);
    expect((await reader.read()).value).toBe(chunk);
    expect(await howEnded(ended)).toBe("not yet");
    expect((await reader.read()).done).toBe(true);
    expect(await howEnded(ended)).toBe("complete");
  });

  test("reads nothing ahead", async () => {
    const { body, seen } = source(chunk);
    const { ended } = followBody(body);
    expect(await howEnded(ended)).toBe("not yet");
    expect(seen.pulls).toBe(0);
  });

  test("is over when the source breaks, and passes the error on", async () => {
    const { body, ended } = followBody(source(chunk, new Error("broken")).body);
    const reader = body.getReader();
    await reader.read();
    await expect(reader.read()).rejects.toThrow("broken");
    expect(await howEnded(ended)).toBe("cut");
  });

  test("is over when the reader gives up, before or after the first byte, and ends the source", async () => {
    for (const reads of [0, 1]) {
      const { body: from, seen } = source(chunk, chunk);
      const { body, ended } = followBody(from);
      const reader = body.getReader();
      for (let read = 0; read < reads; read++) await reader.read();
      await reader.cancel("gone");
      expect(seen.cancelled).toBe("gone");
      expect(await howEnded(ended)).toBe("cut");
    }
  });

  test("is over when the reader gives up while the source is silent", async () => {
    const silent = new ReadableStream<Uint8Array>({ pull: () => new Promise(() => {}) });
    const { body, ended } = followBody(silent);
    const reader = body.getReader();
    const pending = reader.read();
    await reader.cancel("gone");
    expect((await pending).done).toBe(true);
    expect(await howEnded(ended)).toBe("cut");
  });

  test("through a meter, waits for bytes to pass on, and passes on at the end what was held", async () => {
    const metering = meter();
    const { body: from, seen } = source(Uint8Array.of(1), Uint8Array.of(2), Uint8Array.of(3));
    const { body, ended } = followBody(from, metering);
    const reader = body.getReader();
    expect((await reader.read()).value).toEqual(Uint8Array.of(1, 2));
    expect(seen.pulls).toBe(2);
    expect((await reader.read()).value).toEqual(Uint8Array.of(3));
    expect((await reader.read()).done).toBe(true);
    expect(await howEnded(ended)).toBe("complete");
    expect(metering.calls).toEqual(["push 1", "push 2", "push 3", "end"]);
  });

  test("through a meter, passes on what was held before it breaks", async () => {
    const metering = meter();
    const { body, ended } = followBody(source(Uint8Array.of(1), new Error("broken")).body, metering);
    const reader = body.getReader();
    expect((await reader.read()).value).toEqual(Uint8Array.of(1));
    await expect(reader.read()).rejects.toThrow("broken");
    expect(await howEnded(ended)).toBe("cut");
    expect(metering.calls).toEqual(["push 1", "end"]);
  });

  test("ends its meter once, before it tells, when the reader gives up at any time", async () => {
    for (const reads of [0, 1, 2]) {
      const metering = meter();
      const { body, ended } = followBody(source(chunk).body, metering);
      const told = ended.then(() => metering.calls.push("told"));
      const reader = body.getReader();
      for (let read = 0; read < reads; read++) await reader.read();
      await reader.cancel("gone");
      await told;
      expect(metering.calls).toEqual([...(reads > 0 ? ["push 1,2,3"] : []), "end", "told"]);
    }
  });

  test("what is no bytes passes the meter by", async () => {
    const metering = meter();
    const { body } = followBody(source("text" as never, chunk).body, metering);
    expect((await body.getReader().read()).value).toBe("text");
    expect(metering.calls).toEqual([]);
  });
});
