import { describe, expect, test } from "vitest";
import { followBody, joinBytes, readBytes } from "../../src/body.js";

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

  async function isOver(ended: Promise<void>): Promise<boolean> {
    await new Promise((resolve) => setTimeout(resolve, 0));
    return Promise.race([
      ended.then(() => true),
      new Promise<boolean>((resolve) => setTimeout(resolve, 0, false)),
    ]);
  }

  test("passes the bytes on, and is over at the end and not before", async () => {
    const { body, ended } = followBody(source(chunk, chunk).body);
    const reader = body.getReader();
    expect((await reader.read()).value).toBe(chunk);
    expect((await reader.read()).value).toBe(chunk);
    expect(await isOver(ended)).toBe(false);
    expect((await reader.read()).done).toBe(true);
    expect(await isOver(ended)).toBe(true);
  });

  test("reads nothing ahead", async () => {
    const { body, seen } = source(chunk);
    const { ended } = followBody(body);
    expect(await isOver(ended)).toBe(false);
    expect(seen.pulls).toBe(0);
  });

  test("is over when the source breaks, and passes the error on", async () => {
    const { body, ended } = followBody(source(chunk, new Error("broken")).body);
    const reader = body.getReader();
    await reader.read();
    await expect(reader.read()).rejects.toThrow("broken");
    expect(await isOver(ended)).toBe(true);
  });

  test("is over when the reader gives up, before or after the first byte, and ends the source", async () => {
    for (const reads of [0, 1]) {
      const { body: from, seen } = source(chunk, chunk);
      const { body, ended } = followBody(from);
      const reader = body.getReader();
      for (let read = 0; read < reads; read++) await reader.read();
      await reader.cancel("gone");
      expect(seen.cancelled).toBe("gone");
      expect(await isOver(ended)).toBe(true);
    }
  });

  test("is over when the reader gives up while the source is silent", async () => {
    const silent = new ReadableStream<Uint8Array>({ pull: () => new Promise(() => {}) });
    const { body, ended } = followBody(silent);
    const reader = body.getReader();
    const pending = reader.read();
    await reader.cancel("gone");
    expect((await pending).done).toBe(true);
    expect(await isOver(ended)).toBe(true);
  });
});
