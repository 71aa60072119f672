import { expect } from "vitest";
import type { WireAnswer } from "./adapters-servers.js";
import type { Fields } from "./wire-http2.js";

/** One request as data. */
export interface Request {
  readonly line?: string;
  /** Default: HTTP/1.1. */
  readonly version?: string;
  /** Fields of the head. `$OPEN` and the like stand for secrets. Default: a key that may do anything. */
  readonly fields?: readonly string[];
  readonly body?: string | Uint8Array;
  /** The whole request instead, where not even its frame is as it should be. */
  readonly raw?: string;
  /** How the body comes: a byte at a time; or its first half, and then no more. Default: with the head. */
  readonly pace?: "slow" | "cut";
}

/** A request, and what every server must answer to it. */
export interface Row extends Request {
  /** 200 with what the handler saw of the request, or a refusal with its public code. */
  readonly answer: readonly [status: number, seen?: unknown];
  readonly headers?: Readonly<Record<string, unknown>>;
  /** Refused before any guard is asked: by the parser that all servers share, or by these frameworks alone. */
  readonly unheard?: "everywhere" | readonly string[];
}

export const OPEN = "Authorization: Bearer $OPEN";
export const LISTED = "Authorization: Bearer $LISTED";
export const THERE = "Authorization: Bearer $THERE";
export const JSON_TYPE = "Content-Type: application/json";
export const CHUNKED = "Transfer-Encoding: chunked";
export const ok = [200, { model: "gpt-5" }] as const;
export const missing = [401, "missing_api_key"] as const;
export const invalid = [401, "invalid_api_key"] as const;
export const elsewhere = [403, "ip_not_allowed"] as const;
export const undetermined = [403, "model_access_denied"] as const;

export type Secrets = Readonly<Record<string, string>>;

/** The request in the packets it is sent in. */
export function packetsOf(request: Request, secrets: Secrets): readonly Buffer[] {
  const { line = "GET /v1/chat", version = "HTTP/1.1", fields = [OPEN], raw } = request;
  if (raw !== undefined) return [Buffer.from(named(raw, secrets), "latin1")];
  const content = contentOf(request);
  const isFramed = fields.some((field) => /^(?:transfer-encoding|content-length) *:/i.test(field));
  const isBare = content.length === 0 && !line.startsWith("POST");
  const length = isFramed || isBare ? [] : [`Content-Length: ${content.length}`];
  const close = fields.some((field) => field.startsWith("Connection:")) ? [] : ["Connection: close"];
  const host = fields.some((field) => field.startsWith("Host:")) ? [] : ["Host: localhost"];
  const head = [`${line} ${version}`, ...host, ...fields, ...length, ...close, "", ""].join("\r\n");
  const bytes = Buffer.from(named(head, secrets), "latin1");
  if (request.pace === "slow") return [bytes, ...Array.from(content, (byte) => Buffer.of(byte))];
  if (request.pace === "cut") return [Buffer.concat([bytes, content.subarray(0, content.length / 2)])];
  return [Buffer.concat([bytes, content])];
}

/** The same request over HTTP/2; undefined where it cannot be said there, or means something else. */
export function http2Of(
  request: Request,
  secrets: Secrets,
): { readonly fields: Fields; readonly body: Buffer } | undefined {
  const { line = "GET /v1/chat", version, fields = [OPEN], raw, pace } = request;
  const [method = "", path = ""] = line.split(" ");
  const isOdd = fields.some((field) => /^(?:connection|upgrade|transfer-encoding|host|expect):/i.test(field));
  // A blank at an end, and a byte that is none of a field, make a field invalid there, and nobody gets to see it.
  const isInvalid = fields.some((field) => /: [ \t]|:\t|[ \t]$/.test(field));
  if (isOdd || isInvalid || raw !== undefined || pace !== undefined || version !== undefined)
    return undefined;
  // There a body need not be declared, and that of a GET is nobody's business; `get` is one to some frameworks.
  const isUndeclared = /^(?:GET|HEAD)$/i.test(method) && contentOf(request).length > 0;
  if (!path.startsWith("/") || isUndeclared) return undefined;
  const pseudo = [
    [":method", method],
    [":scheme", "http"],
    [":authority", "localhost"],
    [":path", path],
  ] as const;
  const said = fields.map((field): [string, string] => {
    const colon = field.indexOf(":");
    const value = field.slice(colon + 1).replace(/^ /, "");
    return [field.slice(0, colon).toLowerCase(), named(value, secrets)];
  });
  return { fields: [...pseudo, ...said], body: contentOf(request) };
}

/** Whether a guard has answered, or let a handler answer: frameworks and parsers have no id for a request. */
export function isHeard({ headers }: WireAnswer): boolean {
  return headers["x-request-id"] !== undefined;
}

/** What has to be alike: the body but for the id, and every field that is ours. */
export function comparable({ status, headers, body }: WireAnswer): object {
  const requestId = headers["x-request-id"] ?? "";
  expect(requestId).toMatch(/^req_[0-9a-f]{32}$/);
  expect(headers["request-id"]).toBe(requestId);
  const names = ["content-type", "cache-control", "www-authenticate", "retry-after", "x-should-retry"];
  const limits = Object.keys(headers).filter((name) => name.startsWith("x-ratelimit"));
  const ours = names.map((name) => [name, headers[name]?.replace(/; ?charset.*/i, "")] as const);
  return { status, ours: status === 500 ? [] : ours, limits, body: body.replaceAll(requestId, "req") };
}

/** What an answer says: the public code of a refusal, or what the handler saw. */
export function seen({ body }: WireAnswer): unknown {
  try {
    const { error, code, ...rest } = JSON.parse(body) as { error?: { code?: unknown }; code?: unknown };
    if (typeof error?.code === "number") return error;
    return error?.code ?? code ?? rest;
  } catch {
    return body;
  }
}

function contentOf({ body = "" }: Request): Buffer {
  return Buffer.from(body as Uint8Array);
}

function named(text: string, secrets: Secrets): string {
  return text.replace(/\$([A-Z]+)/g, (_, name: string) => secrets[name] ?? name);
}
