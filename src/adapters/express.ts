import type { Allowed } from "../decision.js";
import { type NodeRequest, type NodeResponse, passExchange, peekBody } from "../exchange.js";
import { createGuard, type ReadBody } from "../guard.js";
import type { GuardOptions } from "../guard-options.js";
import type { Keystile } from "../keystile.js";
import { parseJsonBody } from "../strict-json.js";

export type { Allowed } from "../decision.js";
export { filterModelList, stripCredentials, stripCredentialUrl } from "../forwarding.js";
export type { GuardOptions } from "../guard-options.js";

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
 * `declare global { namespace Express { interface Request { keystile: Allowed } } }`; or use `decisionOf(req)`.
 *
 * @throws KeystileError `invalid_options`
 */
export function keystile<R extends GuardedRequest = GuardedRequest>(
  gate: Keystile,
  options: GuardOptions<R> = {},
): (request: R, response: NodeResponse, next: (error?: unknown) => void) => void {
  const guard = createGuard(gate, options);

  return function guardRequest(request, response, next) {
    const { method = "", originalUrl: url, rawHeaders: headers, socket } = request;
    const address = socket.remoteAddress;
    const read = (maxBytes: number): Promise<ReadBody> => readBody(request, maxBytes);
    passExchange(guard, { request, method, url, headers, address, incoming: request, response, read }).then(
      (decision) => {
        if (decision === undefined) return;
        request.keystile = decision;
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

async function readBody(request: GuardedRequest, maxBytes: number): Promise<ReadBody> {
  const { rawHeaders: headers, rawBody } = request;
  if (rawBody instanceof Uint8Array) return { bytes: rawBody };
  if (request.readableDidRead) return asParsed(request.body);
  const bytes = await peekBody(request, maxBytes);
  if (bytes === undefined) return { bytes };
  request.rawBody = bytes;
  const value = parseJsonBody(headers, bytes);
  if (value === undefined) return { bytes };
  request.body ??= value;
  return { bytes, value };
}

/** Handlers see nothing else of a body that was read, so what was parsed is judged as if it had been sent. */
function asParsed(body: unknown): ReadBody {
  if (body === undefined || body instanceof Uint8Array) return { bytes: body };
  const text = textOf(body);
  if (text === undefined) return { bytes: undefined, value: body };
  return {
    bytes: new TextEncoder().encode(text),
    headers: { "content-type": "application/json" },
    value: body,
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
