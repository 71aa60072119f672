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
