import { describe, expect, test } from "vitest";
import { followBody, readJsonBody } from "../../src/body.js";

describe("readJsonBody", () => {
  const json = "application/json";
  const bytes = (...values: number[]): Uint8Array<ArrayBuffer> => Uint8Array.from(values);

  function post(
    body: string | Uint8Array<ArrayBuffer> | null,
    type: string | null = json,
    headers = {},
  ): Request {
    const request = new Request("http://localhost/", { method: "POST", body, headers });
    if (type === null) request.headers.delete("content-type");
    else request.headers.set("content-type", type);
    return request;
  }

  test.each([
    ['{"model":"a"}', json, { model: "a" }],
    ['{"model":"a"}', "Application/JSON; charset=UTF-8", { model: "a" }],
    ['{"model":"a"}', 'application/json;charset="utf-8"', { model: "a" }],
    ['{"model":"a"}', "application/vnd.api+json", { model: "a" }],
    ['{"model":"ä🔑"}', json, { model: "ä🔑" }],
    [
      '{"a":{"x":1},"b":{"x":1},"c":[{"x":1},{"x":1}]}',
      json,
      { a: { x: 1 }, b: { x: 1 }, c: [{ x: 1 }, { x: 1 }] },
    ],
    ['{"a":"b","b":"a","c":"\\"c\\":","d":"\\\\"}', json, { a: "b", b: "a", c: '"c":', d: "\\" }],
    ['["a","a"]', json, ["a", "a"]],
    ["null", json, null],
  ])("reads %s as %s", async (text, type, value) => {
    const request = post(text, type);
    expect(await readJsonBody(request, 1_000)).toEqual(value);
    expect(await request.text()).toBe(text);
  });

  test.each([
    ["no body", post(null)],
    ["an empty body", post("")],
    ["another media type", post('{"model":"a"}', "text/plain")],
    ["no media type", post('{"model":"a"}', null)],
    ["a form", post("model=a", "application/x-www-form-urlencoded")],
    ["another charset", post('{"model":"a"}', "application/json; charset=utf-16")],
    ["two media types", post('{"model":"a"}', "application/json, text/plain")],
    ["a compressed body", post('{"model":"a"}', json, { "content-encoding": "gzip" })],
    ["text that is not JSON", post("{model:'a'}")],
    ["more after the JSON", post('{"model":"a"}{"model":"b"}')],
    ["bytes that are not UTF-8", post(bytes(0x22, 0xff, 0x22))],
    ["a sequence cut short", post(bytes(0x22, 0xc3))],
    ["a byte order mark", post(bytes(0xef, 0xbb, 0xbf, 0x7b, 0x7d))],
    ["a member twice", post('{"model":"a","stream":true,"model":"b"}')],
    ["a member twice, the first deep", post('{"model":{"model":"a"},"x":[{}], "model" \n:"b"}')],
    ["a member twice, once escaped", post('{"model":"a","mod\\u0065l":"b"}')],
    ["a member twice, in another case", post('{"model":"a","Model":"b"}')],
    ["a declared length beyond the bound", post("{}", json, { "content-length": "1001" })],
    ["a body beyond the bound", post(`{"a":"${"x".repeat(1_000)}"}`)],
  ])("%s is undetermined", async (_, request) => {
    expect(await readJsonBody(request, 1_000)).toBeUndefined();
  });

  test("a body that was read by somebody before is undetermined", async () => {
    const request = post("{}");
    await request.text();
    expect(await readJsonBody(request, 1_000)).toBeUndefined();
  });

  test("the bound is exact, and at it the body is still there for the handler", async () => {
    const text = JSON.stringify({ model: "m".repeat(86) });
    expect(text.length).toBe(98);
    const at = post(text);
    expect(await readJsonBody(at, 98)).toEqual(JSON.parse(text));
    const above = post(text);
    expect(await readJsonBody(above, 97)).toBeUndefined();
    expect(await above.text()).toBe(text);
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
    const init = { method: "POST", body, duplex: "half", headers: { "content-type": json } };
    const request = new Request("http://localhost/", init as RequestInit);
    expect(await readJsonBody(request, 1_000)).toBeUndefined();
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
    const init = { method: "POST", body, duplex: "half", headers: { "content-type": json } };
    await expect(readJsonBody(new Request("http://localhost/", init as RequestInit), 1_000)).rejects.toThrow(
      "reset",
    );
  });

  test("a hostile body takes linear time", async () => {
    const quotes = '\\"'.repeat(500_000);
    const started = performance.now();
    expect(
      await readJsonBody(post(`{"a":"${quotes}","b":${"[".repeat(4_000)}${"]".repeat(4_000)}}`), 2e6),
    ).toBeDefined();
    expect(await readJsonBody(post(`{"a"${" ".repeat(1_000_000)}:1}`), 2e6)).toEqual({ a: 1 });
    expect(performance.now() - started).toBeLessThan(2_000);
  });
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
