import { brotliCompressSync, deflateSync, gzipSync } from "node:zlib";
import { CHUNKED, JSON_TYPE, LISTED, OPEN, ok, type Row, undetermined } from "./wire-requests.js";

const MODEL = '{"model":"gpt-5"}';
const LINE = "POST /v1/chat/completions";

/** A JSON body of a key with a list of models. */
function listed(body: string | Uint8Array, answer: Row["answer"], ...fields: readonly string[]): Row {
  return { line: LINE, fields: [LISTED, JSON_TYPE, ...fields], body, answer };
}

/** The same with another type. */
function typed(type: string, body: string | Uint8Array, answer: Row["answer"], ...more: string[]): Row {
  return { line: LINE, fields: [LISTED, `Content-Type: ${type}`, ...more], body, answer };
}

function part(name: string, value: string, more = ""): string {
  return `--b\r\nContent-Disposition: form-data; name="${name}"${more}\r\n\r\n${value}\r\n`;
}

const FILE = part("file", "RIFF\0", '; filename="a.wav"');

function multipart(body: string, answer: Row["answer"], type = "multipart/form-data; boundary=b"): Row {
  return typed(type, body, answer);
}

const form = "application/x-www-form-urlencoded";

/** What a body says of models, on a key that may use gpt-* only: where two readers could differ, it is refused. */
export const BODIES: Readonly<Record<string, Row>> = {
  "a model on the list": listed(MODEL, ok),
  "a model not on the list": listed('{"model":"claude-5"}', undetermined, "Accept: text/event-stream"),
  "a model on the list, on an odd route": { ...listed(MODEL, undetermined), line: "POST //V1/%76%31" },

  "model twice": listed('{"model":"claude-5","model":"gpt-5"}', undetermined),
  "model twice, alike": listed('{"model":"gpt-5","model":"gpt-5"}', undetermined),
  "model twice, once escaped": listed('{"\\u006dodel":"claude-5","model":"gpt-5"}', undetermined),
  "model in another case": listed('{"model":"gpt-5","Model":"claude-5"}', undetermined),
  "another member twice": listed('{"model":"gpt-5","n":1,"n":2}', undetermined),
  "a member twice, deep inside": listed('{"model":"gpt-5","a":[{"b":{"c":1,"c":2}}]}', undetermined),
  "an escaped name": listed('{"\\u006dodel":"gpt-5"}', ok),
  "an escaped value": listed('{"model":"\\u0067pt-5"}', ok),
  "a member __proto__": listed('{"model":"gpt-5","__proto__":{"a":1}}', ok),
  "a model of the prototype": listed('{"__proto__":{"model":"gpt-5"}}', undetermined),
  "a fallback that is not allowed": listed(
    '{"model":"gpt-5","fallbacks":[{"model":"claude-5"}]}',
    undetermined,
  ),
  "one of several models that is not allowed": listed('{"models":["gpt-5","claude-5"]}', undetermined),
  "the model of a session": listed('{"session":{"model":"gpt-5"}}', ok),
  "two models that are allowed": listed('{"model":"gpt-5","session":{"model":"gpt-4"}}', [
    200,
    { model: ["gpt-5", "gpt-4"] },
  ]),
  "a model that is a list": listed('{"model":["gpt-5"]}', undetermined),
  "a model that is null": listed('{"model":null}', undetermined),
  "a model with a NUL": listed('{"model":"gpt-5\\u0000"}', undetermined),
  "a model with half a surrogate": listed('{"model":"gpt-\\ud800"}', undetermined),
  "a model with a blank": listed('{"model":" gpt-5"}', undetermined),
  "a model in other letters": listed('{"model":"gp\u0442-5"}', undetermined),
  "a model in the query as well": {
    ...listed(MODEL, undetermined),
    line: "POST /v1/chat/completions?model=claude-5",
  },

  "JSON that is not": listed("{model:gpt-5}", undetermined),
  "JSON with a comma too many": listed('{"model":"gpt-5",}', undetermined),
  "JSON with a comment": listed('{"model":"gpt-5"/**/}', undetermined),
  "JSON with NaN": listed('{"model":"gpt-5","n":NaN}', undetermined),
  "JSON, and more": listed(`${MODEL}{}`, undetermined),
  "JSON, and a NUL": listed(`${MODEL}\0`, undetermined),
  "JSON with blanks around": listed(` \n${MODEL}\t\r\n`, ok),
  "JSON with a form feed before": listed(`\f${MODEL}`, undetermined),
  "two lines of JSON": listed(`${MODEL}\n${MODEL}`, undetermined),
  "JSON, deeper than any stack": listed(
    `{"model":"gpt-5","a":${"[".repeat(100_000)}${"]".repeat(100_000)}}`,
    ok,
  ),
  "a number without an end": listed(`{"model":"gpt-5","n":1${"0".repeat(100_000)}}`, ok),
  "a top-level string": listed('"gpt-5"', undetermined),
  "a top-level list": listed(`[${MODEL}]`, undetermined),
  "no body": { line: "POST /v1/chat", fields: [LISTED, JSON_TYPE], answer: undetermined },
  "an empty body": listed("", undetermined),

  gzip: listed(gzipSync(MODEL), undetermined, "Content-Encoding: gzip"),
  deflate: listed(deflateSync(MODEL), undetermined, "Content-Encoding: deflate"),
  brotli: listed(brotliCompressSync(MODEL), undetermined, "Content-Encoding: br"),
  "gzip that is none": listed(MODEL, undetermined, "Content-Encoding: gzip"),
  "gzip that says nothing": listed(gzipSync(MODEL), undetermined),
  "identity, and gzip": listed(MODEL, undetermined, "Content-Encoding: identity", "Content-Encoding: gzip"),
  "an encoding nobody knows": listed(MODEL, undetermined, "Content-Encoding: x"),
  identity: listed(MODEL, ok, "Content-Encoding: identity"),
  "gzip by the transfer, which Node takes for nothing": {
    ...listed(`11\r\n${MODEL}\r\n0\r\n\r\n`, undetermined),
    fields: [LISTED, JSON_TYPE, "Transfer-Encoding: gzip, chunked"],
  },

  "UTF-16": listed(Buffer.from(MODEL, "utf16le"), undetermined),
  "UTF-16 that says so": typed(
    "application/json; charset=utf-16",
    Buffer.from(MODEL, "utf16le"),
    undetermined,
  ),
  "UTF-8 that says UTF-16": typed("application/json; charset=utf-16", MODEL, undetermined),
  "UTF-8 that says Latin-1": typed("application/json; charset=iso-8859-1", MODEL, undetermined),
  "UTF-8 that says UTF-7": typed("application/json; charset=utf-7", MODEL, undetermined),
  "UTF-8 that says so": typed("application/json; charset=utf-8", MODEL, ok),
  "UTF-8 that says so, in quotes": typed('Application/JSON;Charset="UTF-8"', MODEL, ok),
  "two charsets": typed("application/json; charset=utf-8; charset=utf-16", MODEL, undetermined),
  "a byte order mark": listed(`\ufeff${MODEL}`, undetermined),
  "bytes that are not UTF-8": listed(Buffer.from('{"model":"gpt-5","a":"\xff"}', "latin1"), undetermined),
  "an overlong slash": listed(Buffer.from('{"model":"gpt-5","a":"\xc0\xaf"}', "latin1"), undetermined),
  "no content type": { ...listed(MODEL, undetermined), fields: [LISTED] },
  "an empty content type": { ...listed(MODEL, undetermined), fields: [LISTED, "Content-Type:"] },
  "text/plain": typed("text/plain", MODEL, undetermined),
  "two content types": listed(MODEL, undetermined, "Content-Type: text/plain"),
  "two content types, alike": listed(MODEL, undetermined, JSON_TYPE),
  "two content types in one": typed("application/json, text/plain", MODEL, undetermined),
  "+json": typed("application/x+json", MODEL, ok),

  "multipart, the model after the file": multipart(`${FILE}${part("model", "gpt-5")}--b--\r\n`, ok),
  "multipart, the model before the file": multipart(`${part("model", "gpt-5")}${FILE}--b--\r\n`, ok),
  "multipart, a model not on the list": multipart(
    `${FILE}${part("model", "claude-5")}--b--\r\n`,
    undetermined,
  ),
  "multipart, two models": multipart(
    `${part("model", "gpt-5")}${FILE}${part("model", "claude-5")}--b--\r\n`,
    undetermined,
  ),
  "multipart, a model in a file": multipart(
    `${part("model", "gpt-5", '; filename="x"')}${FILE}--b--\r\n`,
    undetermined,
  ),
  "multipart, no model": multipart(`${FILE}--b--\r\n`, undetermined),
  "multipart, no end": multipart(`${FILE}${part("model", "gpt-5")}`, undetermined),
  "multipart, something before": multipart(`x\r\n${part("model", "gpt-5")}--b--\r\n`, undetermined),
  "multipart, something after": multipart(
    `${part("model", "gpt-5")}--b--\r\n${part("model", "claude-5")}--b--\r\n`,
    undetermined,
  ),
  "multipart, line feeds alone": multipart(
    `${part("model", "gpt-5")}--b--\r\n`.replaceAll("\r\n", "\n"),
    undetermined,
  ),
  "multipart, another name for the same": multipart(
    `--b\r\nContent-Disposition: form-data; name*=utf-8''model\r\n\r\ngpt-5\r\n--b--\r\n`,
    undetermined,
  ),
  "multipart, two boundaries": multipart(
    `${part("model", "gpt-5")}--b--\r\n`,
    undetermined,
    "multipart/form-data; boundary=b; boundary=c",
  ),
  "multipart, no boundary": multipart(
    `${part("model", "gpt-5")}--b--\r\n`,
    undetermined,
    "multipart/form-data",
  ),
  "multipart that is JSON": multipart(MODEL, undetermined),
  "a form": typed(form, "x=1&model=gpt-5", ok),
  "a form, percent-encoded": typed(form, "%6dodel=gpt%2d5", ok),
  "a form, twice": typed(form, "model=claude-5&model=gpt-5", undetermined),
  "a form that is JSON": typed(form, MODEL, undetermined),

  "beyond the bound": listed(JSON.stringify({ model: "gpt-5", text: "x".repeat(11_000_000) }), undetermined),
  "beyond the bound, without a list": {
    line: "POST /v1/big?chunks=1",
    fields: [OPEN, JSON_TYPE],
    body: "x".repeat(11_000_000),
    answer: [200],
  },
  "at half a megabyte": listed(JSON.stringify({ model: "gpt-5", text: "x".repeat(500_000) }), ok),
  "a byte at a time": { ...listed(MODEL, ok), pace: "slow" },
  "a byte at a time, in chunks": {
    ...listed(`11\r\n${MODEL}\r\n0\r\n\r\n`, ok),
    fields: [LISTED, JSON_TYPE, CHUNKED],
    pace: "slow",
  },
  "half of what was promised": { ...listed(MODEL, [400]), pace: "cut", unheard: "everywhere" },
  "half of what was promised, and no key": {
    ...listed(MODEL, [401, "missing_api_key"]),
    fields: [],
    pace: "cut",
  },
  "GET with a body": { ...listed(MODEL, undetermined), line: "GET /v1/chat/completions" },
  "DELETE with a body": { ...listed(MODEL, ok), line: "DELETE /v1/chat/completions" },
  "the model of an Azure path": {
    ...listed("{}", ok),
    line: "POST /openai/deployments/gpt-5/chat/completions?api-version=1",
  },
  "the model of an Azure path, and another": {
    ...listed('{"model":"claude-5"}', undetermined),
    line: "POST /openai/deployments/gpt-5/chat/completions?api-version=1",
  },
  "the model of an absolute URL": {
    ...listed("{}", ok),
    line: "POST http://localhost/openai/deployments/gpt-5/chat/completions",
  },
  "the model of another path than the one that is served": {
    ...listed("{}", undetermined),
    line: "POST /v1/x#/openai/deployments/gpt-5/chat/completions",
  },
  "a path that climbs": {
    ...listed("{}", undetermined),
    line: "POST /openai/deployments/gpt-5/../claude-5/chat/completions",
  },
  "a path that climbs in disguise": {
    ...listed("{}", undetermined),
    line: "POST /openai/deployments/gpt-5/%2e%2e/claude-5/chat/completions",
  },
  "the model of a Gemini path": { ...listed("{}", ok), line: "POST /v1beta/models/gpt-5:generateContent" },
  "the model of a realtime query": { line: "GET /v1/realtime?model=gpt-5", fields: [LISTED], answer: ok },
  "a body of a key without lists, as it was sent": {
    ...listed('{ "model":"a", "model":"b",\n"n":1.0 }', [
      200,
      { body: '{ "model":"a", "model":"b",\n"n":1.0 }' },
    ]),
    fields: [OPEN, JSON_TYPE],
  },
};
