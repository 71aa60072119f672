import { type HeaderSource, headerValues } from "./credential.js";
import type { LimitStatus } from "./limits.js";
import { type Refusal, refuse } from "./refusal.js";

/** An answer ready for any framework. Header values are printable ASCII; the body is under 2 KB of JSON. */
export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** How answers are put to clients: the realm of a 401, how much of a 403 is told, and which headers tell the limits. */
export interface Wire {
  readonly realm: string;
  readonly codes: "full" | "folded";
  /** Default `x`. */
  readonly rateLimitHeaders?: "x" | "ietf" | "both";
}

/** A longer wait is not left to clients: the official SDKs would sleep for it, up to a day and more. */
export const MAX_RETRY_SECONDS = 60;

/**
 * The form of an error body: `common` is one object that the OpenAI, Anthropic and Vercel SDKs all read correctly,
 * `gemini` what Google's clients expect, `problem` that of RFC 9457.
 */
export type ErrorForm = "common" | "gemini" | "problem";

/** The form for a request: problem details only for who asks for them by name, Google's on the paths of its API. */
export function errorForm(url: string, headers: HeaderSource): ErrorForm {
  const accepted = headerValues(headers, "accept").join(",");
  if (/(?:^|[\s,])application\/problem\+json(?:$|[\s;,])/i.test(accepted)) return "problem";
  return /^[^?#]*\/v1(?:alpha|beta)?\/(?:models|tunedModels)\/[^/?#]+:\w+(?:[?#]|$)/.test(url)
    ? "gemini"
    : "common";
}

/**
 * Renders a refusal (what `authorize` resolved with), also in answer to a request for a stream; `wire` is that of the
 * gate. Nothing in it comes from the request. With `folded` codes every 403 looks the same, so that a client does not
 * learn which rule refused it.
 */
export function renderRefusal(
  { refusal, limits }: { readonly refusal: Refusal; readonly limits: readonly LimitStatus[] },
  {
    requestId,
    wire,
    form,
  }: {
    readonly requestId: string;
    readonly wire: Wire;
    readonly form?: ErrorForm;
  },
): Answer {
  const isFolded = wire.codes === "folded" && refusal.status === 403;
  const { status, type, code, message, resetAtMs } = isFolded ? refuse("rule_refused") : refusal;
  const param = !isFolded && refusal.reason.startsWith("model_") ? "model" : null;
  const error = { status, message, type, param, code, resetAtMs };
  return renderError(error, requestId, form, {
    ...rateLimitHeaders(limits, wire.rateLimitHeaders),
    ...challenge(refusal, wire.realm),
    ...retryHeaders(refusal),
  });
}

/**
 * Renders the answer to every fault: 503. It takes no error, so nothing of one can reach a client, and a fault
 * is never a statement about the key.
 */
export function renderFault({
  requestId,
  form,
}: {
  readonly requestId: string;
  readonly form?: ErrorForm;
}): Answer {
  const message = "The service is temporarily unavailable. Try again shortly.";
  const error = { status: 503, message, type: "server_error", param: null, code: "service_unavailable" };
  return renderError(error, requestId, form, { "Retry-After": "1" });
}

/**
 * Where the limits stand. No limits, no headers.
 *
 * - `x`: `X-RateLimit-Limit`, `-Remaining` and `-Reset` (unix seconds, rounded up) of the tightest limit: the one with
 *   the least left in proportion, of several the one that is whole again last.
 * - `ietf`: `RateLimit-Policy` and `RateLimit` as in draft-ietf-httpapi-ratelimit-headers-11, with every limit. A policy
 *   is named after what it says, as in `"100-requests-60s";q=100;w=60`; of several that say the same, such as those of
 *   each model, the tightest is told. `t` is how long `r` lasts at the limit's own pace; with nothing left, how long it
 *   takes until there is.
 */
export function rateLimitHeaders(
  limits: readonly LimitStatus[],
  which: Wire["rateLimitHeaders"] = "x",
): Record<string, string> {
  if (which === "x") return tightestHeaders(limits);
  if (which === "ietf") return policyHeaders(limits);
  return { ...tightestHeaders(limits), ...policyHeaders(limits) };
}

/** The id of one request under the two names that SDKs look for: OpenAI's and Anthropic's. */
export function requestIdHeaders(requestId: string): Record<string, string> {
  return { "x-request-id": requestId, "request-id": requestId };
}

/** A new random id, to be given to the client and to the operator's log. */
export function newRequestId(): string {
  const id = globalThis.crypto.randomUUID();
  return `req_${id.slice(0, 8)}${id.slice(9, 13)}${id.slice(14, 18)}${id.slice(19, 23)}${id.slice(24)}`;
}

function tightestHeaders(limits: readonly LimitStatus[]): Record<string, string> {
  let [tightest] = limits;
  if (tightest === undefined) return {};
  for (const limit of limits) if (byTightness(limit, tightest) < 0) tightest = limit;
  return {
    "X-RateLimit-Limit": String(tightest.limit),
    "X-RateLimit-Remaining": String(tightest.remaining),
    "X-RateLimit-Reset": String(Math.ceil(tightest.resetAtMs / 1_000)),
  };
}

function byTightness(a: LimitStatus, b: LimitStatus): number {
  return shareLeft(a) - shareLeft(b) || b.resetAtMs - a.resetAtMs;
}

function shareLeft({ limit, remaining }: LimitStatus): number {
  return limit > 0 ? remaining / limit : 0;
}

function policyHeaders(limits: readonly LimitStatus[]): Record<string, string> {
  const policies = new Map<string, LimitStatus>();
  for (const status of limits) {
    const name = policyName(status);
    const other = policies.get(name);
    if (other === undefined || byTightness(status, other) < 0) policies.set(name, status);
  }
  if (policies.size === 0) return {};
  const items = [...policies];
  return {
    "RateLimit-Policy": items.map(([name, status]) => `"${name}"${policyParameters(status)}`).join(", "),
    RateLimit: items.map(([name, status]) => `"${name}"${serviceParameters(status)}`).join(", "),
  };
}

/** Tokens are no unit of the draft's registry. Without a unit they would be taken for requests. */
const QUOTA_UNITS = { requests: "requests", tokens: "tokens", inFlight: "concurrent-requests" } as const;

/** Of a structured field, which has room for 15 digits. */
const MAX_FIELD_INTEGER = 999_999_999_999_999;

function policyName(status: LimitStatus): string {
  const seconds = secondsFor(status.limit, status);
  const name = `${fieldInteger(status.limit)}-${QUOTA_UNITS[status.unit]}`;
  return seconds === undefined ? name : `${name}-${seconds}s`;
}

function policyParameters(status: LimitStatus): string {
  const unit = status.unit === "requests" ? "" : `;qu="${QUOTA_UNITS[status.unit]}"`;
  const seconds = secondsFor(status.limit, status);
  return `;q=${fieldInteger(status.limit)}${unit}${seconds === undefined ? "" : `;w=${seconds}`}`;
}

/** Told when a limit is whole again, clients would spend a nearly full one every second. */
function serviceParameters(status: LimitStatus): string {
  const { remaining, nextInMs } = status;
  const seconds = remaining > 0 ? secondsFor(remaining, status) : wholeSeconds(nextInMs);
  return `;r=${fieldInteger(remaining)}${seconds === undefined ? "" : `;t=${seconds}`}`;
}

/** How long so many take to come back. For all of a limit that is its window, unless it has a burst. */
function secondsFor(count: number, { windowMs, perWindow }: LimitStatus): number | undefined {
  if (windowMs === undefined || perWindow === undefined) return undefined;
  return wholeSeconds((count * windowMs) / perWindow);
}

/** Rounded as in a `Retry-After`, which the draft wants to be no earlier. */
function wholeSeconds(ms: number | undefined): number | undefined {
  return ms === undefined ? undefined : Math.max(1, Math.ceil(ms / 1_000));
}

function fieldInteger(value: number): number {
  return Math.min(value, MAX_FIELD_INTEGER);
}

interface WireError {
  readonly status: number;
  readonly message: string;
  readonly type: string;
  readonly param: string | null;
  readonly code: string;
  readonly resetAtMs?: number | undefined;
}

function renderError(
  error: WireError,
  requestId: string,
  form: ErrorForm = "common",
  headers: Readonly<Record<string, string>>,
): Answer {
  return {
    status: error.status,
    headers: {
      "Content-Type": form === "problem" ? "application/problem+json" : "application/json",
      "Cache-Control": "no-store",
      ...requestIdHeaders(requestId),
      ...headers,
    },
    body: JSON.stringify(FORMS[form](error, requestId)),
  };
}

const FORMS: Readonly<Record<ErrorForm, (error: WireError, requestId: string) => object>> = {
  /** The top-level `type` and `message` are for Anthropic's and Vercel's clients, `error` for OpenAI's. */
  common: ({ message, type, param, code, resetAtMs }, requestId) => ({
    type: "error",
    message,
    error: { message, type, param, code, details: { error_code: code, ...resetMember(resetAtMs) } },
    request_id: requestId,
  }),
  gemini: ({ status, message }) => ({
    error: { code: status, message, status: GEMINI_STATUS[status] ?? "UNKNOWN" },
  }),
  problem: ({ status, message, param, code, resetAtMs }, requestId) => ({
    type: "about:blank",
    title: TITLES[status] ?? "Error",
    status,
    detail: message,
    code,
    ...(param !== null && { param }),
    ...resetMember(resetAtMs),
    request_id: requestId,
  }),
};

/** Told in the body, where no SDK takes it for a time to sleep. */
function resetMember(resetAtMs: number | undefined): { readonly reset_at?: string } {
  return resetAtMs === undefined ? {} : { reset_at: new Date(resetAtMs).toISOString() };
}

/** The standard phrases of the statuses that are answered here. */
export const TITLES: Readonly<Record<number, string>> = {
  401: "Unauthorized",
  402: "Payment Required",
  403: "Forbidden",
  429: "Too Many Requests",
  503: "Service Unavailable",
};

const GEMINI_STATUS: Readonly<Record<number, string>> = {
  401: "UNAUTHENTICATED",
  402: "FAILED_PRECONDITION",
  403: "PERMISSION_DENIED",
  429: "RESOURCE_EXHAUSTED",
  503: "UNAVAILABLE",
};

/** RFC 6750: no error code for a request that brought no credential. */
function challenge({ status, reason }: Refusal, realm: string): Record<string, string> {
  if (status !== 401) return {};
  const error = reason === "credential_missing" ? "" : ', error="invalid_token"';
  return { "WWW-Authenticate": `Bearer realm="${quotable(realm)}"${error}` };
}

/** What a quoted string may hold without escapes. Node refuses to send most of what is left out. */
function quotable(text: string): string {
  return text.replace(/[^ -~]|["\\]/g, "");
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
