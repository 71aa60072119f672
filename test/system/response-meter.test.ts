import { createServer, type Server, type ServerResponse } from "node:http";
import {
  connect as connectHttp2,
  createServer as createHttp2Server,
  type Http2ServerResponse,
} from "node:http2";
import type { AddressInfo } from "node:net";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGzip, gunzipSync } from "node:zlib";
import express, { type RequestHandler } from "express";
// @ts-expect-error There are types of one version only.
import express4 from "express4";
import fastify from "fastify";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { keystile as expressKeystile } from "../../src/adapters/express.js";
import { keystile as fastifyKeystile } from "../../src/adapters/fastify.js";
import { keystile as nodeKeystile } from "../../src/adapters/node.js";
import { createKeystile, type Keystile, type KeyView } from "../../src/index.js";
import { tokenPrices } from "../../src/prices.js";
import { memoryStore } from "../../src/stores/memory.js";
import { exchange, listen, stop } from "./adapters-servers.js";

/*
 * Node lets a handler write an answer in many ways. Whatever it does, a metered response does the same on the wire and
 * to its handler as one that is not metered, and what it told is booked.
 */

const prices = tokenPrices({
  models: { "gpt-5": { input: 1_000_000, output: 3_000_000, maxOutputTokens: 100 } },
  otherModels: { input: 1_000_000, output: 3_000_000, maxOutputTokens: 100 },
});
const BODY = '{"model":"gpt-5","stream":true}';
const ESTIMATE = BODY.length + 300;

const usage = { prompt_tokens: 10, completion_tokens: 5 };
const ANSWER = JSON.stringify({ model: "gpt-5", text: "Hällo", usage });
const [HEAD, TAIL] = [ANSWER.slice(0, 20), ANSWER.slice(20)];
const EVENT = `data: ${JSON.stringify({ choices: [{ delta: { content: "Hi" } }] })}\n\n`;
const USAGE_CHUNK = `data: ${JSON.stringify({ choices: [], usage })}\n\n`;
const JSON_TYPE = "application/json";
const json = { "content-type": JSON_TYPE };
const stream = { "content-type": "text/event-stream" };

let gate: Keystile;
let secret: string;
let keyId: string;
const servers: Server[] = [];

beforeEach(async () => {
  gate = createKeystile({ store: memoryStore(), drainMs: 0 });
  const issued = await gate.keys.issue({ quota: 100_000 });
  [secret, keyId] = [issued.secret, issued.key.id];
});

afterEach(async () => {
  await Promise.all(servers.splice(0).map(stop));
  await gate.close();
});

async function serve(server: Server): Promise<number> {
  servers.push(server);
  return listen(server);
}

async function expectUsed(used: number): Promise<void> {
  await vi.waitFor(async () => {
    const { quota } = (await gate.keys.get(keyId)) as KeyView;
    expect({ used: quota.used, held: quota.held }).toEqual({ used, held: 0 });
  });
}

function ask(port: number, method = "POST") {
  const body = method === "POST" ? BODY : "";
  const fields = [
    "Host: x",
    `Authorization: Bearer ${secret}`,
    "Content-Type: application/json",
    "Connection: close",
  ];
  const head = [`${method} /v1/chat/completions HTTP/1.1`, ...fields, `Content-Length: ${body.length}`];
  return exchange(port, `${head.join("\r\n")}\r\n\r\n${body}`);
}

/** Writes an answer; what it returns is what its handler got to see. */
type Writer = (response: ServerResponse) => unknown;

function called(write: (callback: () => void) => unknown): Promise<unknown> {
  return new Promise((resolve) => {
    const result: unknown = write(() => resolve(typeof result === "boolean" ? result : "itself"));
  });
}

function codeOf(run: () => unknown): unknown {
  try {
    return typeof run();
  } catch (error) {
    return (error as { code: string }).code;
  }
}

const WRITERS: Readonly<Record<string, readonly [used: number, Writer, method?: string]>> = {
  "setHeader and end": [25, (response) => response.setHeader("Content-Type", JSON_TYPE).end(ANSWER)],
  "writeHead with an object": [
    25,
    (response) => response.writeHead(200, { "Content-TYPE": JSON_TYPE }).end(ANSWER),
  ],
  "writeHead with a reason": [25, (response) => response.writeHead(201, "Fine", json).end(ANSWER)],
  "writeHead with a list": [
    25,
    (response) => response.writeHead(200, ["X-A", "1", "Content-Type", JSON_TYPE]).end(ANSWER),
  ],
  "writeHead over setHeader": [
    25,
    (response) => response.setHeader("content-type", "text/plain").writeHead(200, json).end(ANSWER),
  ],
  "setHeader over nothing": [
    ESTIMATE,
    (response) => response.setHeader("content-type", "text/plain").writeHead(200, { "x-a": "1" }).end(ANSWER),
  ],
  "writeHead that is wrong, then another": [
    25,
    (response) => {
      const wrong = codeOf(() => response.writeHead(99, stream));
      response.writeHead(200, json).end(ANSWER);
      return wrong;
    },
  ],
  "a status in a member": [
    0,
    (response) => {
      response.statusCode = 503;
      response.setHeader("content-type", JSON_TYPE).end(ANSWER);
    },
  ],
  "flushHeaders first": [
    25,
    (response) => {
      response.setHeader("content-type", JSON_TYPE);
      response.flushHeaders();
      response.end(ANSWER);
    },
  ],
  "text, and text as UTF-8": [
    25,
    async (response) => {
      response.writeHead(200, json);
      const first = await called((callback) => response.write(HEAD, callback));
      const second = await called((callback) => response.write(TAIL, "utf8", callback));
      return [first, second, await called((callback) => response.end(callback))];
    },
  ],
  "bytes, and callbacks": [
    25,
    async (response) => {
      response.writeHead(200, json);
      const first = await called((callback) => response.write(Buffer.from(HEAD), callback));
      return [first, await called((callback) => response.end(new TextEncoder().encode(TAIL), callback))];
    },
  ],
  "text as Latin-1": [
    25,
    (response) => {
      response.writeHead(200, json);
      response.write(Buffer.from(HEAD).toString("latin1"), "latin1");
      return called((callback) => response.end(Buffer.from(TAIL).toString("binary"), "binary", callback));
    },
  ],
  "text in another encoding": [
    ESTIMATE,
    (response) => {
      response.writeHead(200, json);
      response.write(HEAD);
      response.write(Buffer.from(TAIL).toString("base64"), "base64");
      response.end("20", "hex");
    },
  ],
  "no bytes among them": [
    25,
    (response) => {
      response.writeHead(200, json);
      const results = [response.write(""), response.write(new Uint8Array()), response.write(HEAD)];
      response.end(TAIL);
      return results;
    },
  ],
  "what cannot be written": [
    25,
    (response) => {
      response.writeHead(200, json);
      const codes = [null, undefined, 7, {}].map((wrong) => codeOf(() => response.write(wrong as never)));
      response.end(ANSWER);
      return codes;
    },
  ],
  "more than allowed: after the end, and the end twice": [
    25,
    async (response) => {
      response.on("error", () => {});
      response.writeHead(200, json).end(ANSWER);
      const late = codeOf(() => response.write(ANSWER));
      const head = codeOf(() => response.writeHead(500));
      return [late, head, codeOf(() => response.end()), codeOf(() => response.end(() => {}))];
    },
  ],
  "a pipe": [
    25,
    (response) => {
      response.writeHead(200, json);
      Readable.from([HEAD, Buffer.from(TAIL)], { objectMode: false }).pipe(response);
    },
  ],
  "a pipeline": [
    25,
    (response) => {
      response.writeHead(200, json);
      return pipeline(Readable.from([Buffer.from(HEAD), Buffer.from(TAIL)]), response);
    },
  ],
  corked: [
    25,
    (response) => {
      response.writeHead(200, json);
      response.cork();
      response.write(HEAD);
      response.uncork();
      response.end(TAIL);
    },
  ],
  "a body to HEAD": [0, (response) => response.writeHead(200, json).end(ANSWER), "HEAD"],
  "a body with 304": [ESTIMATE, (response) => response.writeHead(304, json).end(ANSWER)],
  "a stream": [
    25,
    (response) => {
      response.writeHead(200, stream);
      response.write(EVENT + USAGE_CHUNK.slice(0, 9));
      response.end(USAGE_CHUNK.slice(9));
    },
  ],
};

describe("a metered response is as one that is not", () => {
  async function run(writer: Writer, method: string | undefined, options: object) {
    const guard = nodeKeystile(gate, options);
    let seen: unknown;
    const port = await serve(
      createServer(async (request, response) => {
        if ((await guard(request, response)) === undefined) return;
        seen = await writer(response);
        seen = seen === response ? "itself" : seen;
      }),
    );
    const { headers, ...rest } = await ask(port, method);
    const { date, "x-request-id": _, "request-id": __, ...fields } = headers;
    expect(date).toBeDefined();
    return { answer: { ...rest, fields }, seen };
  }

  test.each(Object.entries(WRITERS))("%s", async (_, [used, writer, method]) => {
    const plain = await run(writer, method, { cost: 0 });
    await expectUsed(0);
    const metered = await run(writer, method, { prices });
    expect(metered).toEqual(plain);
    await expectUsed(used);
    const stripped = await run(writer, method, { prices, stripUsageChunk: true });
    const body = plain.answer.body.replace(USAGE_CHUNK, "");
    expect(stripped).toEqual({ ...plain, answer: { ...plain.answer, body } });
    await expectUsed(2 * used);
  });
});

describe("what is stripped", () => {
  const LENGTH = Buffer.byteLength(EVENT + USAGE_CHUNK);

  test.each<[string, string, Writer]>([
    ["of one end", EVENT, (response) => response.writeHead(200, stream).end(EVENT + USAGE_CHUNK)],
    [
      "of chunks, whose callbacks are called, and whose results are those of the response",
      EVENT,
      async (response) => {
        response.writeHead(200, stream);
        const results = [
          await called((callback) => response.write(EVENT, callback)),
          await called((callback) => response.write(USAGE_CHUNK, callback)),
          await called((callback) => response.write(USAGE_CHUNK.slice(0, 5), "utf8", callback)),
          await called((callback) => response.end(USAGE_CHUNK.slice(5), "utf8", callback)),
        ];
        expect(results).toEqual([true, true, true, "itself"]);
      },
    ],
    [
      "but what was held before text that cannot be read",
      `data: {${EVENT}`,
      (response) => {
        response.writeHead(200, stream);
        response.write("data: {");
        response.write(Buffer.from(EVENT).toString("base64"), "base64");
        response.end();
      },
    ],
    [
      "but what was held before such a text as the end",
      `data: {${EVENT}`,
      (response) => {
        response.writeHead(200, stream);
        response.write("data: {");
        response.end(Buffer.from(EVENT).toString("base64"), "base64");
      },
    ],
    [
      "but a body whose length was announced",
      EVENT + USAGE_CHUNK,
      (response) => response.writeHead(200, { ...stream, "Content-Length": LENGTH }).end(EVENT + USAGE_CHUNK),
    ],
    [
      "but a body whose length was set before",
      EVENT + USAGE_CHUNK,
      (response) =>
        response
          .setHeader("content-length", LENGTH)
          .writeHead(200, stream)
          .end(EVENT + USAGE_CHUNK),
    ],
  ])("%s", async (_, expected, writer) => {
    const guard = nodeKeystile(gate, { prices, stripUsageChunk: true });
    const faults: unknown[] = [];
    const port = await serve(
      createServer(async (request, response) => {
        if ((await guard(request, response)) === undefined) return;
        await Promise.resolve(writer(response)).catch((error: unknown) => faults.push(error));
      }),
    );
    expect((await ask(port)).body).toBe(expected);
    expect(faults).toEqual([]);
  });
});

test("a handler may ask for the usage in the very body that was judged", async () => {
  const guard = expressKeystile(gate, { prices, stripUsageChunk: true });
  const handler: RequestHandler = (request, response) => {
    request.body.stream_options = { include_usage: true };
    response.writeHead(200, stream).end(EVENT + USAGE_CHUNK);
  };
  const answer = await ask(await serve(createServer(express().use(guard, handler))));
  expect(answer.body).toBe(EVENT);
  await expectUsed(25);
});

describe("HTTP/2", () => {
  const writers: Readonly<Record<string, (response: Http2ServerResponse) => unknown>> = {
    "end alone": (response) => {
      response.setHeader("content-type", JSON_TYPE);
      response.end(ANSWER);
    },
    "writeHead, write and end": (response) => {
      response.writeHead(200, json);
      response.write(HEAD);
      response.end(Buffer.from(TAIL));
    },
    "a pipe": (response) => {
      response.writeHead(200, json);
      Readable.from([Buffer.from(HEAD), Buffer.from(TAIL)]).pipe(response);
    },
  };

  test.each(Object.entries(writers))("%s: every byte is read once", async (_, writer) => {
    const guard = nodeKeystile(gate, { prices });
    const server = createHttp2Server(async (request, response) => {
      if ((await guard(request, response)) !== undefined) writer(response);
    });
    const port = await serve(server as unknown as Server).catch(() => 0);
    expect(port).toBe((server.address() as AddressInfo).port);
    servers.pop();
    const client = connectHttp2(`http://127.0.0.1:${port}`);
    const request = client.request({
      ":method": "POST",
      ":path": "/v1/chat/completions",
      authorization: `Bearer ${secret}`,
      "content-type": JSON_TYPE,
    });
    request.end(BODY);
    let text = "";
    for await (const piece of request.setEncoding("utf8")) text += piece;
    expect(text).toBe(ANSWER);
    await expectUsed(25);
    client.close();
    server.close();
  });
});

/** As the package of that name has it: it wraps the methods it finds, and adds a field as soon as the head is written. */
const compression: RequestHandler = (_request, response, next) => {
  const { writeHead, write, end } = response;
  const gzip = createGzip();
  let isBegun = false;
  gzip.on("data", (piece: Buffer) => {
    if (write.call(response, piece, "utf8") === false) gzip.pause();
  });
  gzip.on("end", () => end.call(response, undefined, "utf8"));
  response.on("drain", () => gzip.resume());
  response.writeHead = ((...parts: unknown[]) => {
    response.setHeader("content-encoding", "gzip");
    response.removeHeader("content-length");
    return writeHead.apply(response, parts as never);
  }) as typeof writeHead;
  function begin(): void {
    if (!isBegun && !response.headersSent) response.writeHead(response.statusCode);
    isBegun = true;
  }
  response.write = ((piece: Buffer, encoding: BufferEncoding) => {
    begin();
    return gzip.write(piece, typeof encoding === "string" ? encoding : "utf8");
  }) as typeof write;
  response.end = ((piece?: Buffer) => {
    begin();
    gzip.end(piece);
    return response;
  }) as typeof end;
  next();
};

describe.each([
  ["express 5", express],
  ["express 4", express4 as typeof express],
])("%s", (_, createApp) => {
  const handlers: Readonly<Record<string, RequestHandler>> = {
    "res.json": (_request, response) => void response.json(JSON.parse(ANSWER)),
    "res.send": (_request, response) => void response.type("json").send(ANSWER),
    "res.writeHead and two writes": (_request, response) => {
      response.writeHead(200, json);
      response.write(HEAD);
      response.end(TAIL);
    },
  };

  test.each(Object.entries(handlers))("%s, alone and compressed", async (_, handler) => {
    const guard = expressKeystile(gate, { prices });
    expect((await ask(await serve(createServer(createApp().use(guard, handler))))).status).toBe(200);
    await expectUsed(25);

    const before = await ask(await serve(createServer(createApp().use(compression, guard, handler))));
    expect(before.headers["content-encoding"]).toBe("gzip");
    expect(gunzipSync(Buffer.from(before.body, "latin1")).toString()).toBe(ANSWER);
    await expectUsed(50);

    const behind = await ask(await serve(createServer(createApp().use(guard, compression, handler))));
    expect(gunzipSync(Buffer.from(behind.body, "latin1")).toString()).toBe(ANSWER);
    await expectUsed(50 + ESTIMATE);
  });
});

describe("fastify", () => {
  test.each<[string, (reply: import("fastify").FastifyReply) => unknown]>([
    ["a value", () => JSON.parse(ANSWER)],
    ["text", (reply) => reply.type(JSON_TYPE).send(ANSWER)],
    ["bytes", (reply) => reply.type(JSON_TYPE).send(Buffer.from(ANSWER))],
    [
      "a stream",
      (reply) => reply.type(JSON_TYPE).send(Readable.from([Buffer.from(HEAD), Buffer.from(TAIL)])),
    ],
    ["a web stream", (reply) => reply.type(JSON_TYPE).send(new Response(ANSWER).body)],
    ["a response", () => new Response(ANSWER, { headers: json })],
  ])("%s, over a socket and injected", async (_, handler) => {
    const app = fastify({ forceCloseConnections: true });
    await app.register(fastifyKeystile, { gate, prices });
    app.post("/*", async (_request, reply) => handler(reply));
    await app.ready();
    const answer = await ask(await serve(app.server));
    expect(Buffer.from(answer.body, "latin1").toString()).toBe(ANSWER);
    await expectUsed(25);
    const headers = { authorization: `Bearer ${secret}`, "content-type": JSON_TYPE };
    const injected = await app.inject({ method: "POST", url: "/v1/x", headers, payload: BODY });
    expect(injected.body).toBe(ANSWER);
    await expectUsed(50);
  });
});
