import type { LimitStatus } from "./limits.js";
import type { Refusal } from "./refusal.js";

/** An answer ready for any framework. Header values are printable ASCII; the body is under 2 KB of JSON. */
export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** A longer wait is not left to clients: the official SDKs would sleep for it, up to a day and more. */
export const MAX_RETRY_SECONDS = 60;

/** How much of a realm is shown. */
export const MAX_REALM_LENGTH = 128;

/**
 * Renders a refusal as one JSON object that the OpenAI, Anthropic and Vercel SDKs all read correctly, also in
 * answer to a request for a stream. Nothing in it comes from the request.
 */
export function renderRefusal(
  { refusal, limits }: { readonly refusal: Refusal; readonly limits: readonly LimitStatus[] },
  { requestId, realm }: { readonly requestId: string; readonly realm: string },
): Answer {
  const { status, type, code, message } = refusal;
  const param = refusal.reason.startsWith("model_") ? "model" : null;
  return {
    status,
    headers: {
      ...errorHeaders(requestId),
      ...rateLimitHeaders(limits),
      ...challenge(refusal, realm),
      ...retryHeaders(refusal),
    },
    body: renderBody({ message, type, param, code }, requestId),
  };
}

/**
 * Renders the answer to every fault: 503. It takes no error, so nothing of one can reach a client, and a fault
 * is never a statement about the key.
 */
export function renderFault({ requestId }: { readonly requestId: string }): Answer {
  const message = "The service is temporarily unavailable. Try again shortly.";
  return {
    status: 503,
    headers: { ...errorHeaders(requestId), "Retry-After": "1" },
    body: renderBody({ message, type: "server_error", param: null, code: "service_unavailable" }, requestId),
  };
}

/**
 * The headers of the tightest limit: the one with the least left in proportion, of several the one that is whole
 * again last. `X-RateLimit-Reset` is in unix seconds, rounded up. No limits, no headers.
 */
export function rateLimitHeaders(limits: readonly LimitStatus[]): Record<string, string> {
  const [tightest] = limits.toSorted((a, b) => shareLeft(a) - shareLeft(b) || b.resetAtMs - a.resetAtMs);
  if (tightest === undefined) return {};
  return {
    "X-RateLimit-Limit": String(tightest.limit),
    "X-RateLimit-Remaining": String(tightest.remaining),
    "X-RateLimit-Reset": String(Math.ceil(tightest.resetAtMs / 1_000)),
  };
}

/** The id of one request under the two names that SDKs look for: OpenAI's and Anthropic's. */
export function requestIdHeaders(requestId: string): Record<string, string> {
  return { "x-request-id": requestId, "request-id": requestId };
}

/** A new random id, to be given to the client and to the operator's log. */
export function newRequestId(): string {
  return `req_${globalThis.crypto.randomUUID().replaceAll("-", "")}`;
}

/**
 * A copy of a request's headers without `Authorization` and `x-api-key`, for a proxy: the caller's secret is no
 * business of the upstream's. Both go, because a client may send both and only one was judged.
 */
export function stripCredentials(headers: Headers): Headers {
  const stripped = new Headers(headers);
  stripped.delete("authorization");
  stripped.delete("x-api-key");
  return stripped;
}

function shareLeft({ limit, remaining }: LimitStatus): number {
  return limit > 0 ? remaining / limit : 0;
}

function errorHeaders(requestId: string): Record<string, string> {
  return {
    "Content-Type": "application/json",
    "Cache-Control": "no-store",
    ...requestIdHeaders(requestId),
  };
}

/** The top-level `type` and `message` are for Anthropic's and Vercel's clients, `error` for OpenAI's. */
function renderBody(
  error: {
    readonly message: string;
    readonly type: string;
    readonly param: string | null;
    readonly code: string;
  },
  requestId: string,
): string {
  return JSON.stringify({
    type: "error",
    message: error.message,
    error: { ...error, details: { error_code: error.code } },
    request_id: requestId,
  });
}

/** RFC 6750: no error code for a request that brought no credential. */
function challenge({ status, reason }: Refusal, realm: string): Record<string, string> {
  if (status !== 401) return {};
  const error = reason === "credential_missing" ? "" : ', error="invalid_token"';
  return { "WWW-Authenticate": `Bearer realm="${quotable(realm)}"${error}` };
}

/** What a quoted string may hold without escapes. Node refuses to send most of what is left out. */
function quotable(text: string): string {
  return text.replace(/[^ -~]|["\\]/g, "").slice(0, MAX_REALM_LENGTH);
}

/**
 * When and whether to try again. SDKs retry a 429 by themselves and a 402 or 403 never, unless told; so only those
 * that will pass soon are left to them, and those that wait for other requests are pointed out.
 */
function retryHeaders({ status, retryAfterMs, held }: Refusal): Record<string, string> {
  if (status === 401) return {};
  if (held) return { "Retry-After": "1", "x-should-retry": "true" };
  if (status !== 429) return { "x-should-retry": "false" };
  const seconds = Math.max(1, Math.ceil((retryAfterMs ?? 0) / 1_000));
  return {
    "Retry-After": String(seconds),
    ...(seconds > MAX_RETRY_SECONDS ? { "x-should-retry": "false" } : {}),
  };
}

/**
 * Reads a JSON body of a request that stays readable for whoever comes next.
 *
 * What cannot be told plainly is `undefined`: no body, one already read, a media type that is not JSON in UTF-8, a
 * compressed body, more than `maxBytes` (no more than that is ever kept), bytes that are not UTF-8, text that is not
 * JSON, and a top-level member that occurs twice, also in another case: another parser may take the other one.
 *
 * @throws whatever the body's stream throws when it breaks.
 */
export async function readJsonBody(request: Request, maxBytes: number): Promise<unknown> {
  if (!isPlainJson(request.headers) || Number(request.headers.get("content-length")) > maxBytes)
    return undefined;
  if (request.bodyUsed || request.body === null) return undefined;
  const body = request.clone().body;
  const text = body === null ? undefined : await readText(body.getReader(), maxBytes);
  return text === undefined ? undefined : parseJson(text);
}

/**
 * Passes a body on and tells when it is over: read to its end, broken, or given up by its reader, which may happen
 * before the first byte. Nothing is read ahead; a reader that gives up also ends the source.
 */
export function followBody(source: ReadableStream<Uint8Array>): {
  readonly body: ReadableStream<Uint8Array>;
  readonly ended: Promise<void>;
} {
  const reader = source.getReader();
  let end: () => void;
  const ended = new Promise<void>((resolve) => {
    end = resolve;
  });
  const pull = async (controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> => {
    try {
      const { done, value } = await reader.read();
      if (!done) return controller.enqueue(value);
      end();
      controller.close();
    } catch (error) {
      end();
      throw error;
    }
  };
  const cancel = (reason: unknown): Promise<void> => {
    end();
    return reader.cancel(reason);
  };
  return { body: new ReadableStream({ pull, cancel }, { highWaterMark: 0 }), ended };
}

function isPlainJson(headers: Headers): boolean {
  const encoding = headers.get("content-encoding") ?? "identity";
  const type = headers.get("content-type") ?? "";
  return (
    encoding.toLowerCase() === "identity" &&
    /^application\/(?:[\w.-]+\+)?json[ \t]*(?:;[ \t]*charset="?utf-8"?[ \t]*)?$/i.test(type)
  );
}

/** The whole text, unless it is too long or not UTF-8. A byte order mark stays, and is then no JSON. */
async function readText(
  reader: ReadableStreamDefaultReader<Uint8Array>,
  maxBytes: number,
): Promise<string | undefined> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    size += read.value.byteLength;
    if (size > maxBytes) {
      // Not awaited: half of a divided stream is given up for good only when the other half is.
      reader.cancel().catch(() => {});
      return undefined;
    }
    chunks.push(read.value);
  }
  try {
    const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    return chunks.map((chunk) => decoder.decode(chunk, { stream: true })).join("") + decoder.decode();
  } catch {
    return undefined;
  }
}

function parseJson(text: string): unknown {
  try {
    const value: unknown = JSON.parse(text);
    return repeatsMember(text) ? undefined : value;
  } catch {
    return undefined;
  }
}

/** Whether an object, known to be valid JSON, has a member twice. Reads every character at most three times. */
function repeatsMember(text: string): boolean {
  const names = new Set<string>();
  const colon = /[ \t\r\n]*:/y;
  let depth = 0;
  for (let at = 0; at < text.length; at++) {
    const character = text[at];
    if (character === "{" || character === "[") depth++;
    else if (character === "}" || character === "]") depth--;
    else if (character === '"') {
      const end = closingQuote(text, at) + 1;
      colon.lastIndex = end;
      if (depth === 1 && colon.test(text)) {
        const name = String(JSON.parse(text.slice(at, end))).toLowerCase();
        if (names.has(name)) return true;
        names.add(name);
      }
      at = end - 1;
    }
  }
  return false;
}

function closingQuote(text: string, opening: number): number {
  for (let at = opening + 1; ; at++) {
    at = text.indexOf('"', at);
    let backslashes = 0;
    while (text[at - 1 - backslashes] === "\\") backslashes++;
    if (backslashes % 2 === 0) return at;
  }
}
