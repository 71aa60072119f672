import type { Allowed } from "../decision.js";
import { type NodeRequest, type NodeResponse, passExchange, peekBody } from "../exchange.js";
import { createGuard, type ReadBody, type ReadsBody } from "../guard.js";
import type { GuardOptions, ObservingOptions } from "../guard-options.js";
import type { Keystile } from "../keystile.js";
import type { Judged } from "../observing.js";
import { parseJsonBody } from "../strict-json.js";

export type { Allowed } from "../decision.js";
export { filterModelList, stripCredentials, stripCredentialUrl } from "../forwarding.js";
export type { GuardOptions, ObservingOptions } from "../guard-options.js";
export type { Judged } from "../observing.js";

/** What the guard uses of a request of Express, 5 or 4, and what it adds to it. */
export interface GuardedRequest extends NodeRequest {
  readonly originalUrl: string;
  readonly readableDidRead: boolean;
  /** Set to the value of a JSON body that everyone reads alike, unless a parser has set it. */
  body?: unknown;
  /** Set to the bytes of the body as they were received, if they are not beyond `maxBodyBytes`. */
  rawBody?: unknown;
  /** Set to the decision that let the request pass. */
  keystile?: Allowed;
  /** Set instead by a guard that only observes: what it would have done. */
  keystileJudged?: Judged;
}

/**
 * Guards every route behind it: `app.use(keystile(gate))`. Mount it once, on the whole app, behind `cors()`.
 *
 * The key is judged before the body is read; then the model, the limits and the quota are, in one step. The handler
 * runs only when all of them pass. Refusals, and faults as 503, are answered here; a CORS preflight, which carries no
 * credential, gets an empty 204. What a function in the options throws goes to the error handler, and nothing is held.
 *
 * Before any body parser is the best place: the body is judged as the bytes that were sent, and put back, so parsers,
 * uploads and proxies behind work as without the guard. Behind a parser the parsed body is judged, which is all that a
 * handler can get then; if a `verify` keeps the bytes, let it keep them as `rawBody`, and they are judged.
 *
 * When the answer is over, what it cost is made final: when it is sent, when it breaks, and when the client goes. With
 * `prices` that is by the usage it told; else what the handler observed, or the estimate. An answer of 400 and above
 * gives everything back instead. A handler that ended the decision itself comes first.
 *
 * `req.keystile` is the decision. Its type is declared by whoever wants it: in TypeScript, once,
 * `declare global { namespace Express { interface Request { keystile: Allowed } } }`; or use `decisionOf(req)`. With
 * `mode: "observe"` everything passes, the request is left as it is but for `req.keystileJudged`; see `judgedOf(req)`.
 *
 * @throws KeystileError `invalid_options`
 */
export function keystile<R extends GuardedRequest = GuardedRequest>(
  gate: Keystile,
  options: GuardOptions<R> | ObservingOptions<R> = {},
): (request: R, response: NodeResponse, next: (error?: unknown) => void) => void {
  const guard = createGuard(gate, options);

  return function guardRequest(request, response, next) {
    const { method = "", originalUrl: url, rawHeaders: headers, socket } = request;
    const address = socket.remoteAddress;
    const read: ReadsBody = async (maxBytes, signal) => {
      const body = await readBody(request, maxBytes, signal);
      return options.mode === "observe" ? body : kept(request, body);
    };
    passExchange(guard, { request, method, url, headers, address, incoming: request, response, read }).then(
      (marks) => {
        if (marks === undefined) return;
        Object.assign(request, marks);
        next();
      },
      next,
    );
  };
}

/** The decision that let a request pass. @throws TypeError for one that no guard has seen */
export function decisionOf(request: object): Allowed {
  const { keystile: decision } = request as Partial<GuardedRequest>;
  if (decision === undefined) throw new TypeError("There is no guard of keystile in front of this handler.");
  return decision;
}

/** What a guard would have done that let this request pass because it only observes. @throws TypeError for any other */
export function judgedOf(request: object): Judged {
  const { keystileJudged: judged } = request as Partial<GuardedRequest>;
  if (judged === undefined)
    throw new TypeError("There is no observing guard of keystile in front of this handler.");
  return judged;
}

async function readBody(
  request: GuardedRequest,
  maxBytes: number,
  signal: AbortSignal | undefined,
): Promise<ReadBody & { readonly isPeeked?: boolean }> {
  const { rawHeaders: headers, rawBody } = request;
  if (rawBody instanceof Uint8Array) return { bytes: rawBody };
  if (request.readableDidRead) return asParsed(request.body);
  const bytes = await peekBody(request, maxBytes, signal);
  if (bytes === undefined) return { bytes };
  const value = parseJsonBody(headers, bytes);
  return value === undefined ? { bytes, isPeeked: true } : { bytes, value, isPeeked: true };
}

/** Leaves to the handlers what was read of the stream. */
function kept(request: GuardedRequest, body: Awaited<ReturnType<typeof readBody>>): ReadBody {
  if (body.isPeeked === true) {
    request.rawBody = body.bytes;
    if (body.value !== undefined) request.body ??= body.value;
  }
  return body;
}

/** Handlers see nothing else of a body that was read, so what was parsed is judged as if it had been sent. */
function asParsed(body: unknown): ReadBody {
  if (body === undefined || body instanceof Uint8Array) return { bytes: body };
  const text = textOf(body);
  if (text === undefined) return { bytes: undefined, value: body, isLenient: true };
  return {
    bytes: new TextEncoder().encode(text),
    headers: { "content-type": "application/json" },
    value: body,
    isLenient: true,
  };
}

/** Undefined for one that is nested deeper than the stack. */
function textOf(body: unknown): string | undefined {
  try {
    return JSON.stringify(body);
  } catch {
    return undefined;
  }
}
