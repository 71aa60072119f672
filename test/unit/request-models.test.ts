import fc from "fast-check";
import { afterEach, describe, expect, test } from "vitest";
import type { HeaderSource } from "../../src/credential.js";
import { MAX_PARTS } from "../../src/multipart.js";
import { MAX_NAMED_MODELS, requestedModels } from "../../src/request-models.js";
import { parseJsonBody } from "../../src/strict-json.js";

type Named = string | readonly string[] | undefined;

const JSON_TYPE = { "content-type": "application/json" };
const FORM_TYPE = { "content-type": "application/x-www-form-urlencoded" };

function utf8(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

function inText(text: string, headers: HeaderSource = JSON_TYPE, url = "/v1/responses"): Named {
  return requestedModels({ method: "POST", url, headers, body: utf8(text) });
}

function inJson(value: unknown, url?: string): Named {
  return inText(JSON.stringify(value), JSON_TYPE, url);
}

function inPath(url: string, method = "GET"): Named {
  const body = method === "GET" ? undefined : new Uint8Array();
  return requestedModels({ method, url, headers: {}, body });
}

const BOUNDARY = "----formdata-0451";

function form(...parts: readonly string[]): string {
  return `${parts.map((part) => `--${BOUNDARY}\r\n${part}\r\n`).join("")}--${BOUNDARY}--\r\n`;
}

function field(name: string, value: string, extra = ""): string {
  return `Content-Disposition: form-data; name="${name}"${extra}\r\n\r\n${value}`;
}

const FILE = `Content-Disposition: form-data; name="file"; filename="a.mp3"\r\nContent-Type: audio/mpeg\r\n\r\n\x01\r\n--\r\n`;

function inForm(text: string, contentType = `multipart/form-data; boundary=${BOUNDARY}`): Named {
  return inText(text, { "content-type": contentType });
}

describe("JSON bodies", () => {
  test.each<[string, unknown, Named]>([
    ["model", { model: "a" }, "a"],
    ["a model with other members", { stream: true, model: "a/b:free", input: [{ model: 5 }] }, "a/b:free"],
    ["session", { session: { type: "realtime", model: "a" } }, "a"],
    ["transcription", { session: { audio: { input: { transcription: { model: "a" } } } } }, "a"],
    [
      "older transcription",
      { session: { model: "a", input_audio_transcription: { model: "b" } } },
      ["a", "b"],
    ],
    ["transcription without a session", { input_audio_transcription: { model: "a" } }, "a"],
    ["a batch", { requests: [{ params: { model: "a" } }, { params: { model: "b" } }] }, ["a", "b"]],
    [
      "a batch with fallbacks",
      { requests: [{ params: { model: "a", fallbacks: [{ model: "b" }] } }] },
      ["a", "b"],
    ],
    ["requests", { requests: [{ model: "a" }, { model: "a" }] }, "a"],
    ["fallbacks", { model: "a", fallbacks: [{ model: "b" }, "c"] }, ["a", "b", "c"]],
    ["models", { models: ["a", "b"] }, ["a", "b"]],
    [
      "tools",
      { model: "a", tools: [{ type: "advisor_1", model: "b" }, { svg: { model: "c" } }] },
      ["a", "b", "c"],
    ],
    ["moderation", { model: "a", moderation: { model: "b" } }, ["a", "b"]],
    ["moderation as text", { model: "a", moderation: "low" }, "a"],
    ["absent containers", { model: "a", tools: null, session: null, fallbacks: null, moderation: null }, "a"],
    ["the schema of a tool", { model: "a", tools: [{ parameters: { properties: { Model: {} } } }] }, "a"],
    ["names that say more", { model: "a", model_id: "b", modelFamily: "c" }, "a"],
  ])("%s", (_, value, expected) => {
    expect(inJson(value)).toEqual(expected);
  });

  test.each<[string, unknown]>([
    ["no model", {}],
    ["a number", { model: 5 }],
    ["an object", { model: {} }],
    ["a list", { model: ["a"] }],
    ["null", { model: null }],
    ["true", { model: true }],
    ["an empty name", { model: "" }],
    ["space around a name", { model: " a" }],
    ["a line end behind a name", { model: "a\n" }],
    ["a NUL in a name", { model: "a\0b" }],
    ["a lone surrogate in a name", { model: "a\ud800" }],
    ["a byte order mark before a name", { model: "\ufeffa" }],
    ["default fallbacks", { model: "a", fallbacks: "default" }],
    ["a fallback without a model", { model: "a", fallbacks: [{ a: ["b"] }] }],
    ["a model among several that is none", { models: ["a", 5] }],
    ["models that are no list", { model: "a", models: "b" }],
    ["a tool's model that is none", { model: "a", tools: [{ model: 5 }] }],
    ["tools by name", { model: "a", tools: { 0: { model: "b" } } }],
    ["a list of sessions", { model: "a", session: [{ model: "b" }] }],
    ["a file of requests", { model: "a", input_file_id: "file-1" }],
    ["another case", { model: "a", Model: "b" }],
    ["another case alone, besides a path", { MODEL: "b" }],
    ["another case deeper", { model: "a", session: { Model: "b" } }],
    ["another case of a container", { model: "a", Tools: [{ model: "b" }] }],
    ["a long s", { model: "a", tool\u017f: [] }],
    ["a Kelvin sign", { model: "a", fallbac\u212as: [] }],
    ["a name cut at a NUL", { model: "a", "model\0": "b" }],
    ["a top-level list", [{ model: "a" }]],
    ["a top-level text", '{"model":"a"}'],
    ["null", null],
  ])("cannot tell: %s", (_, value) => {
    expect(inJson(value)).toBeUndefined();
    const url = "/openai/deployments/d/chat/completions";
    if (JSON.stringify(value) !== "{}") expect(inJson(value, url)).toBeUndefined();
  });

  test.each([
    ["a member twice", '{"model":"a","model":"b"}'],
    ["a member twice with the same value", '{"model":"a","model":"a"}'],
    ["an escaped member", '{"model":"a","\\u006dodel":"b"}'],
    ["twice in a session", '{"session":{"model":"a","model":"b"}}'],
    ["a session twice", '{"session":{"model":"a"},"session":{"model":"b"}}'],
    ["twice in a batch", '{"requests":[{"params":{"model":"a","model":"b"}}]}'],
    ["another member twice", '{"model":"a","x":[[{"y":1,"y":2}]]}'],
    ["__proto__ twice", '{"model":"a","__proto__":1,"__proto__":2}'],
    ["twice behind an escaped quote", '{"a\\\\":"\\"","model":"a","model":"b"}'],
    ["a byte order mark", '\ufeff{"model":"a"}'],
    ["a comment", '{"model":"a"/**/}'],
    ["two values", '{"model":"a"}{"model":"b"}'],
    ["not JSON", '{"model":"a"'],
    ["NaN", '{"model":"a","x":NaN}'],
    ["a single quote", "{'model':'a'}"],
  ])("cannot tell: %s", (_, text) => {
    expect(inText(text)).toBeUndefined();
  });

  test.each([
    ["colons and quotes in texts", '{"a":":\\":{}","b\\\\":":","model":"a"}'],
    ["an escaped member alone", '{"\\u006dodel":"a"}'],
    ["space everywhere", ' { "model" :\t"a" ,\r\n"b" : [ ] } '],
    ["the same member in two objects", '{"model":"a","x":[{"y":1},{"y":1}]}'],
    ["__proto__", '{"model":"a","__proto__":{"model":"b"}}'],
  ])("can tell: %s", (_, text) => {
    expect(inText(text)).toBe("a");
  });

  test.each<[string, HeaderSource, Named]>([
    ["+json", { "content-type": "application/vnd.api+json" }, "a"],
    ["a charset", { "Content-Type": 'Application/JSON; charset="UTF-8"' }, "a"],
    ["identity", { ...JSON_TYPE, "content-encoding": "identity" }, "a"],
    ["raw headers", ["Content-Type", "application/json"], "a"],
    ["fetch headers", new Headers(JSON_TYPE), "a"],
    ["gzip", { ...JSON_TYPE, "content-encoding": "gzip" }, undefined],
    ["chunks", { ...JSON_TYPE, "transfer-encoding": "Chunked" }, "a"],
    ["gzip of the transfer", { ...JSON_TYPE, "transfer-encoding": "gzip, chunked" }, undefined],
    ["gzip among others", { ...JSON_TYPE, "content-encoding": ["identity", "br"] }, undefined],
    ["UTF-16", { "content-type": "application/json; charset=utf-16" }, undefined],
    ["two charsets", { "content-type": "application/json; charset=utf-8; charset=utf-16" }, undefined],
    ["two types", ["content-type", "application/json", "Content-Type", "text/plain"], undefined],
    ["text", { "content-type": "text/plain" }, undefined],
    ["an unknown type", { "content-type": "application/jsonl" }, undefined],
    ["no type", {}, undefined],
  ])("content type: %s", (_, headers, expected) => {
    expect(inText('{"model":"a"}', headers)).toBe(expected);
  });

  test.each([
    ["UTF-8 that is broken", [0x22, 0xc3, 0x28, 0x22]],
    ["UTF-8 that is too long", [0x22, 0xc1, 0xa1, 0x22]],
    ["UTF-16", [...'{"model":"a"}'].flatMap((character) => [character.charCodeAt(0), 0])],
  ])("bytes that are no text: %s", (_, bytes) => {
    const body = Uint8Array.from(bytes);
    expect(requestedModels({ method: "POST", url: "/", headers: JSON_TYPE, body })).toBeUndefined();
  });

  test(`at most ${MAX_NAMED_MODELS} different models, however often they are named`, () => {
    const models = Array.from({ length: MAX_NAMED_MODELS }, (_, at) => `m${at}`);
    expect(inJson({ models })).toEqual(models);
    expect(inJson({ models: [...models, ...models] })).toEqual(models);
    expect(inJson({ model: "one more", models })).toBeUndefined();
  });

  test("nesting of any depth, and any number of quotes and backslashes, is read in linear time", () => {
    const startedAt = performance.now();
    for (const [open, close] of [
      ["[", "]"],
      ['{"a":', "}"],
    ] as const) {
      const nested = `${open.repeat(1_000_000)}1${close.repeat(1_000_000)}`;
      const named = inText(`{"model":"a","x":${nested}}`);
      expect([undefined, "a"]).toContain(named);
      expect(inText(open.repeat(1_000_000))).toBeUndefined();
    }
    expect(inText(`{"model":"a","x":"${"\\\\".repeat(1_000_000)}"}`)).toBe("a");
    expect(inText(`{"model":"a","x":"${'\\"'.repeat(1_000_000)}"}`)).toBe("a");
    expect(inText(`{"model":"a","x":[${'"",'.repeat(1_000_000)}1]}`)).toBe("a");
    expect(performance.now() - startedAt).toBeLessThan(10_000);
  });
});

describe("a polluted Object.prototype", () => {
  afterEach(() => {
    Reflect.deleteProperty(Object.prototype, "model");
    Reflect.deleteProperty(Object.prototype, "content-type");
  });

  test("names no model", () => {
    Object.assign(Object.prototype, { model: "polluted", "content-type": "application/json" });
    expect(inJson({})).toBeUndefined();
    expect(inJson({ model: "a", session: {}, fallbacks: ["b"] })).toEqual(["a", "b"]);
    expect(inText('{"model":"a"}', {})).toBeUndefined();
  });
});

describe("multipart bodies", () => {
  test.each<[string, string, Named]>([
    ["before the file", form(field("model", "a"), FILE), "a"],
    ["after the file", form(FILE, field("language", "en"), field("model", "a")), "a"],
    ["as text", form(field("model", "a", "\r\nContent-Type: text/plain; charset=utf-8")), "a"],
    ["beyond ASCII", form(field("model", "ä")), "ä"],
    ["svg", form(field("model", "a"), field("svg[model]", "b")), ["a", "b"]],
    ["an encoding that is told", form(field("_charset_", "UTF-8"), field("model", "a")), "a"],
    ["session", form(field("sdp", "v=0\r\n"), field("session", '{"model":"a"}')), "a"],
    ["a session as JSON", form(field("session", '{"model":"a"}', "\r\nContent-Type: application/json")), "a"],
    ["another field twice", form(field("include[]", "x"), field("include[]", "y"), field("model", "a")), "a"],
    ["no line end at the end", form(field("model", "a")).trimEnd(), "a"],
    [
      "a file with a name beyond ASCII",
      form(field("f", "", "; filename=\"ä\"; filename*=UTF-8''a"), field("model", "a")),
      "a",
    ],
    ["dashes in a file", form(FILE.replace("\x01", `x--${BOUNDARY}`), field("model", "a")), "a"],
  ])("%s", (_, text, expected) => {
    expect(inForm(text)).toEqual(expected);
  });

  test.each([
    ["no model", form(FILE)],
    ["no parts", `--${BOUNDARY}--\r\n`],
    ["a model twice", form(field("model", "a"), field("model", "a"))],
    ["a session twice", form(field("session", '{"model":"a"}'), field("session", '{"model":"b"}'))],
    ["an empty model", form(field("model", ""))],
    ["a line end behind a model", form(field("model", "a\r\n"))],
    ["a model as a file", form(field("model", "a", '; filename="a"'))],
    ["a model as a file by the other name", form(field("model", "a", "; filename*=UTF-8''a"))],
    ["another encoding of all fields", form(field("_charset_", "utf-7"), field("model", "a"))],
    ["a model in UTF-16", form(field("model", "a", "\r\nContent-Type: text/plain; charset=utf-16"))],
    ["a session with a model twice", form(field("session", '{"model":"a","model":"b"}'))],
    ["a session that is no object", form(field("model", "a"), field("session", '"b"'))],
    ["another case", form(field("model", "a"), field("Model", "b"))],
    ["a list", form(field("model", "a"), field("model[]", "b"))],
    ["models", form(field("model", "a"), field("models", "b"))],
    ["a session by fields", form(field("model", "a"), field("session[model]", "b"))],
    ["svg by a dot", form(field("model", "a"), field("svg.model", "b"))],
    ["a name with space", form(field("model", "a"), field(" model", "b"))],
    ["a name cut at a NUL", form(field("model", "a"), field("model\0", "b"))],
    ["an encoded name", form(field("model", "a"), field("%6dodel", "b"))],
    ["a quote in a name", form(field("model", "a"), field('x\\"; name=\\"model', "b"))],
    ["a name without quotes", form("Content-Disposition: form-data; name=model\r\n\r\na")],
    [
      "an extended name",
      form(field("model", "a"), "Content-Disposition: form-data; name*=utf-8''model\r\n\r\nb"),
    ],
    ["two names", form(field("x", "b", '; name="model"'), field("model", "a"))],
    [
      "two dispositions",
      form(field("x", "b", '\r\nContent-Disposition: form-data; name="model"'), field("model", "a")),
    ],
    ["no disposition", form(field("model", "a"), "Content-Type: text/plain\r\n\r\nb")],
    ["no headers", form(field("model", "a"), "\r\nb")],
    ["no empty line", form(field("model", "a"), 'Content-Disposition: form-data; name="x"')],
    ["a folded header", form(field("model", "a"), 'Content-Disposition: form-data;\r\n name="x"\r\n\r\nb')],
    ["base64", form(field("model", "YQ==", "\r\nContent-Transfer-Encoding: base64"))],
    ["a preamble", `x\r\n${form(field("model", "a"))}`],
    ["an epilogue", `${form(field("model", "a"))}x`],
    ["no end", form(field("model", "a")).slice(0, -4)],
    ["line ends without CR", form(field("model", "a")).replaceAll("\r\n", "\n")],
    [
      "a delimiter after LF alone",
      form(field("x", `1\n--${BOUNDARY}\r\n${field("model", "b")}`), field("model", "a")),
    ],
    [
      "a delimiter after CR alone",
      form(field("x", `1\r--${BOUNDARY}\r\n${field("model", "b")}`), field("model", "a")),
    ],
    [
      "a longer delimiter",
      form(field("x", `1\r\n--${BOUNDARY}1\r\n${field("model", "b")}`), field("model", "a")),
    ],
    ["space after a delimiter", form(field("model", "a")).replace("\r\n", " \r\n")],
    ["an early end", form(field("model", "a")) + form(field("model", "b"))],
    ["JSON", '{"model":"a"}'],
  ])("cannot tell: %s", (_, text) => {
    expect(inForm(text)).toBeUndefined();
  });

  test.each([
    ["quotes", `multipart/form-data; boundary="${BOUNDARY}"`, "a"],
    ["another case", `Multipart/Form-Data;Boundary=${BOUNDARY}`, "a"],
    ["none", "multipart/form-data", undefined],
    ["an empty one", "multipart/form-data; boundary=", undefined],
    ["two", `multipart/form-data; boundary=${BOUNDARY}; boundary=x`, undefined],
    ["another first", `multipart/form-data; boundary=x; boundary=${BOUNDARY}`, undefined],
    ["an open quote", `multipart/form-data; boundary="${BOUNDARY}`, undefined],
    ["another multipart", `multipart/mixed; boundary=${BOUNDARY}`, undefined],
  ])("the boundary: %s", (_, contentType, expected) => {
    expect(inForm(form(field("model", "a")), contentType)).toBe(expected);
  });

  test("what clients on this platform send", async () => {
    const data = new FormData();
    data.append("file", new Blob([new Uint8Array(1_000)]), 'ä"b.mp3');
    data.append("model", "a");
    const request = new Request("http://host/v1/audio/transcriptions", { method: "POST", body: data });
    const body = new Uint8Array(await request.clone().arrayBuffer());
    expect(requestedModels({ method: "POST", url: request.url, headers: request.headers, body })).toBe("a");
  });

  test("bounds: parts, and the headers of a part", () => {
    const parts = Array.from({ length: MAX_PARTS - 1 }, () => field("x", ""));
    expect(inForm(form(...parts, field("model", "a")))).toBe("a");
    expect(inForm(form(...parts, field("x", ""), field("model", "a")))).toBeUndefined();
    const head = (length: number): string => form(field("model", "a", `\r\nx: ${"y".repeat(length)}`));
    expect(inForm(head(4_000))).toBe("a");
    expect(inForm(head(4_100))).toBeUndefined();
  });

  test("takes linear time, whatever the boundary is and repeats", () => {
    const startedAt = performance.now();
    const boundary = `${"-".repeat(69)}x`;
    for (const piece of ["-", "\r\n", "\r\n--", `\r\n--${"-".repeat(69)}`, `\r\n${"-".repeat(60)}`]) {
      const text = `--${boundary}\r\n${field("x", piece.repeat(10_000_000 / piece.length))}\r\n--${boundary}--`;
      expect(inForm(text, `multipart/form-data; boundary=${boundary}`)).toBeUndefined();
    }
    const spaces = Array.from({ length: MAX_PARTS }, () => field("x", "", `\r\nx:${" ".repeat(4_000)}\x01`));
    expect(inForm(form(...spaces))).toBeUndefined();
    expect(performance.now() - startedAt).toBeLessThan(10_000);
  });
});

test.each<[string, Named]>([
  ["model=a", "a"],
  ["x=1&model=a%2Fb+c", "a/b c"],
  ["mod%65l=a", "a"],
  ["model=a&svg[model]=b", ["a", "b"]],
  ["model=a&model_id=b&=&&", "a"],
  ["model=a=b", "a=b"],
  ["model=a&model=b", undefined],
  ["model=a&model=a", undefined],
  ["model=a&Model=b", undefined],
  ["model=a&model[]=b", undefined],
  ["model=a&+model=b", undefined],
  ["model=a&models=b", undefined],
  ["model=a&mod%ffel=b", undefined],
  ["model=%ff", undefined],
  ["model=%", undefined],
  ["model", undefined],
  ["model=", undefined],
  ["model=a;b", undefined],
  ["x=1;model=a", undefined],
  ["x=1", undefined],
])("a URL-encoded form: %s", (text, expected) => {
  expect(inText(text, FORM_TYPE)).toEqual(expected);
  expect(inPath(`/v1/realtime?${text}`)).toEqual(text.includes("svg") ? undefined : expected);
});

describe("paths", () => {
  test.each<[string, string, Named]>([
    ["POST", "/openai/deployments/a/chat/completions?api-version=1", "a"],
    ["POST", "https://host/proxy/openai/deployments/a/chat/completions", "a"],
    ["POST", "/OpenAI/Deployments/a/chat/completions", "a"],
    ["POST", "/v1/engines/a/completions", "a"],
    ["POST", "/deployments/a/x/deployments/b/y", ["a", "b"]],
    ["POST", "/v1beta/models/a:generateContent", "a"],
    ["POST", "/v1/models/a:streamGenerateContent?alt=sse", "a"],
    ["POST", "/v1beta/%6dodels/a%3AgenerateContent", "a"],
    ["POST", "/v1beta/tunedModels/a:generateContent", "tunedModels/a"],
    ["GET", "/v1/models/a", "a"],
    ["DELETE", "/v1/models/ft:a:b::c", "ft:a:b::c"],
    ["GET", "/v1/models/a:free", "a:free"],
    ["GET", "/v1/models/a%2Fb", "a/b"],
    ["GET", "/v1/models/a/", "a"],
    ["GET", "/v1/models/%C3%A4", "ä"],
    ["GET", "/v1/models", undefined],
    ["GET", "/v1/models/", undefined],
    ["POST", "/openai/deployments", undefined],
    ["GET", "/v1/models/a/b", undefined],
    ["GET", "/v1/models/a%252Fb", undefined],
    ["GET", "/v1/models/a%2F..%2Fb", undefined],
    ["GET", "/v1/models/%2e%2e", undefined],
    ["GET", "/v1/models/..", undefined],
    ["GET", "/v1/models/%ff", undefined],
    ["GET", "/v1/models/a%", undefined],
    ["GET", "/v1/models/a%00", undefined],
    ["GET", "/v1/models/a%20", undefined],
    ["GET", "/v1/models/a%3Fb", undefined],
    ["GET", "/v1/models/a#b", undefined],
    ["GET", "v1/models/a", undefined],
    ["GET", "*", undefined],
    ["GET", "", undefined],
    ["POST", "/v1beta/models/a:b:generateContent", undefined],
    ["POST", "/v1beta/models/a:", undefined],
    ["POST", "/v1beta/models/:generateContent", undefined],
    ["POST", "/v1beta/models/a:generateContent/b", undefined],
    ["POST", "/models/a/models/b:generateContent", undefined],
  ])("%s %s", (method, url, expected) => {
    expect(inPath(url, method)).toEqual(expected);
  });

  test.each([
    "//v1/chat/completions",
    "/v1//chat/completions",
    "/v1/./chat/completions",
    "/v1/x/../chat/completions",
    "/v1%2fchat/completions",
    "/openai/deployments%2Fb/chat/completions",
    "/v1beta/models%2Fb:generateContent",
    "/v1;a=b/chat/completions",
    "/v1%00/chat/completions",
    "/v1\\chat/completions",
    "/v1%5cchat/completions",
    "/v1/%2576/chat",
    "/v1/chat#x",
    "/v1/%zz",
  ])("a path that is spelled oddly hides what the body says: %s", (url) => {
    expect(inJson({ model: "a" }, url)).toBeUndefined();
    expect(inJson({ model: "a" }, `http://host${url}`)).toBeUndefined();
  });

  test("path and body both count, and Gemini's longer name is the same model", () => {
    const azure = "/openai/deployments/a/chat/completions";
    expect(inJson({ model: "b" }, azure)).toEqual(["a", "b"]);
    expect(inJson({ model: "a" }, azure)).toBe("a");
    const gemini = "/v1beta/models/a:batchEmbedContents";
    expect(inJson({ requests: [{ model: "models/a" }, { model: "models/b" }] }, gemini)).toEqual(["a", "b"]);
    expect(inJson({ generateContentRequest: { model: "models/b" } }, gemini)).toEqual(["a", "b"]);
    const requests = { requests: [{ request: { model: "models/c" } }, { request: {} }] };
    for (const name of ["inputConfig", "input_config"]) {
      expect(inJson({ batch: { model: "models/b", [name]: { requests } } }, gemini)).toEqual(["a", "b", "c"]);
    }
    expect(inJson({ model: "models/a" })).toBe("models/a");
  });
});

describe("queries", () => {
  test.each<[string, string, Named]>([
    ["GET", "/v1/realtime?model=a", "a"],
    ["GET", "wss://host/v1/realtime?x&model=a&y=1", "a"],
    ["GET", "/v1/realtime?call_id=1", undefined],
    ["GET", "/v1/realtime", undefined],
    ["GET", "/v1/realtime?model=a&model=b", undefined],
    ["GET", "/v1/realtime?model=a%23b", "a#b"],
    ["GET", "/v1/realtime?model=a#b", undefined],
    ["GET", "/v1/realtime?model=a?b", "a?b"],
    ["GET", "/v1/responses?model=a", undefined],
    ["POST", "/v1/batches?model=a", undefined],
    ["POST", "/openai/deployments/a/x?model=b", ["a", "b"]],
    ["POST", "/openai/deployments/a/x?Model=b", undefined],
    ["POST", "/openai/deployments/a/x?api-version=2024-10-21&session=1", "a"],
  ])("%s %s", (method, url, expected) => {
    expect(inPath(url, method)).toEqual(expected);
  });

  test("a model in the query must be allowed besides that in the body", () => {
    expect(inJson({ model: "a" }, "/v1/chat/completions?model=b")).toEqual(["a", "b"]);
  });
});

describe("bodies that are not there", () => {
  const url = "/v1/models/a";

  test.each<[string, string, HeaderSource, Uint8Array | undefined, Named]>([
    ["none", "GET", {}, undefined, "a"],
    ["none, and declared so", "GET", { "content-length": "0" }, undefined, "a"],
    ["empty", "POST", {}, new Uint8Array(), "a"],
    ["not read", "GET", { "content-length": "9" }, undefined, undefined],
    ["not read, of unknown length", "DELETE", { "transfer-encoding": "chunked" }, undefined, undefined],
    ["perhaps not read", "POST", {}, undefined, undefined],
    ["a body of a GET", "GET", JSON_TYPE, utf8('{"model":"b"}'), ["a", "b"]],
    ["a body of a GET that cannot be told", "GET", {}, utf8('{"model":"b"}'), undefined],
  ])("%s", (_, method, headers, body, expected) => {
    expect(requestedModels({ method, url, headers, body })).toEqual(expected);
  });
});

describe("properties", () => {
  const name = fc.constantFrom("a", "b", "x/y:free", "ä");
  const json = fc.jsonValue({ maxDepth: 3 });
  const plantedIn = (...members: readonly string[]): fc.Arbitrary<Record<string, unknown>> =>
    fc.record(Object.fromEntries(members.map((member) => [member, name])), { requiredKeys: [] });
  const planted = fc.record(
    {
      model: name,
      models: fc.array(name),
      fallbacks: fc.array(plantedIn("model").filter((value) => "model" in value)),
      session: plantedIn("model"),
      requests: fc.array(fc.record({ params: plantedIn("model"), custom_id: json })),
      tools: fc.array(fc.record({ parameters: json, svg: plantedIn("model") }, { requiredKeys: [] })),
      moderation: plantedIn("model"),
      input: json,
      metadata: json,
    },
    { requiredKeys: [] },
  );

  interface Planted {
    model?: string;
    models?: string[];
    fallbacks?: Planted[];
    session?: Planted;
    requests?: { params: Planted }[];
    tools?: { svg?: Planted }[];
    moderation?: Planted;
  }

  const naive = (value: Planted): ReadonlySet<string> => {
    const all = [
      value.model,
      ...(value.models ?? []),
      ...(value.fallbacks ?? []).map((one) => one.model),
      value.session?.model,
      ...(value.requests ?? []).map((one) => one.params.model),
      ...(value.tools ?? []).map((one) => one.svg?.model),
      value.moderation?.model,
    ];
    return new Set(all.filter((one) => one !== undefined));
  };

  const asSet = (named: Named): ReadonlySet<string> =>
    new Set(named === undefined ? [] : typeof named === "string" ? [named] : named);

  test("JSON with planted models gives what a naive reader finds", () => {
    fc.assert(
      fc.property(planted, fc.constantFrom(0, 2), (value, indent) => {
        const named = inText(JSON.stringify(value, null, indent));
        expect(asSet(named)).toEqual(naive(value as Planted));
      }),
    );
  });

  test("nothing is told when a reader that takes the first of two members disagrees with one that takes the last", () => {
    const member = fc.tuple(fc.constantFrom("model", "mo\\u0064el", "models", "x", "__proto__"), name);
    fc.assert(
      fc.property(fc.array(member, { maxLength: 4 }), fc.boolean(), (members, isNested) => {
        const write = (all: typeof members): string => {
          const text = `{${all.map(([key, value]) => `"${key}":${key === "models" ? `["${value}"]` : `"${value}"`}`)}}`;
          return isNested ? `{"session":{"model":"s"},"requests":[{"params":${text}}]}` : text;
        };
        const named = inText(write(members));
        const backwards = inText(write(members.toReversed()));
        expect(asSet(named)).toEqual(asSet(backwards));
        const keys = members.map(([key]) => JSON.parse(`"${key}"`) as string);
        if (new Set(keys).size < keys.length) expect(named).toBeUndefined();
      }),
    );
  });

  test("never throws, and a name it gives is in the request", () => {
    const contentType = fc.constantFrom(
      "application/json",
      "application/x-www-form-urlencoded",
      "multipart/form-data; boundary=b",
      "multipart/form-data",
    );
    const text = fc
      .array(
        fc.constantFrom(
          ...[
            '{"',
            "model",
            '":',
            '"a"',
            "}",
            ",",
            "[",
            "]",
            "--b",
            "\r\n",
            "--",
            "=",
            "&",
            "%",
            ":",
            "\n\n",
          ],
          ...['Content-Disposition: form-data; name="model"', "\0", "\ud800", "/", "models", "tools", "null"],
        ),
      )
      .map((pieces) => pieces.join(""));
    const bytes = fc.oneof(fc.uint8Array(), text.map(utf8), fc.constant(undefined));
    const method = fc.constantFrom("GET", "POST", "delete", "");
    const url = fc.oneof(fc.string({ unit: "binary" }), fc.webUrl(), text, fc.webPath());
    fc.assert(
      fc.property(method, url, contentType, bytes, (...[aMethod, aUrl, type, body]) => {
        const named = requestedModels({
          method: aMethod,
          url: aUrl,
          headers: { "content-type": type },
          body,
        });
        for (const model of asSet(named)) expect(model).toBe(model.trim());
      }),
      { numRuns: 2_000 },
    );
  });

  test("a long URL of anything takes linear time", () => {
    const startedAt = performance.now();
    for (const piece of [
      "/",
      "?",
      "&",
      ";",
      "%",
      "%2F",
      ":",
      "a",
      "models/",
      "model=a&",
      "a:",
      ".",
      "=",
      "[model",
    ]) {
      for (const start of ["", "/", "/?", "/models/", "/realtime?"]) {
        inPath(start + piece.repeat(20_000));
        inPath(start + piece.repeat(20_000), "POST");
      }
    }
    expect(performance.now() - startedAt).toBeLessThan(4_000);
  });
});

test("a parsed body for the functions of a user: none that another parser may read differently", () => {
  const parse = (text: string, headers: HeaderSource = JSON_TYPE): unknown =>
    parseJsonBody(headers, utf8(text));
  expect(parse('{"a":{"b":1,"B":2}}')).toEqual({ a: { b: 1, B: 2 } });
  expect(parse('"text"')).toBe("text");
  expect(parse("null")).toBeNull();
  expect(parse('{"b":1,"B":2}')).toBeUndefined();
  expect(parse('{"b":1,"\\u0062":2}')).toBeUndefined();
  expect(parse("")).toBeUndefined();
  expect(parse("{}", {})).toBeUndefined();
  expect(parse("{}", { ...JSON_TYPE, "content-encoding": "gzip" })).toBeUndefined();
  expect(parseJsonBody(JSON_TYPE, Uint8Array.of(0xff))).toBeUndefined();
});
