import type { Context, MiddlewareHandler } from "hono";
import type { Admission, Allowed, Decision } from "../authorizer.js";
import { followBody, readJsonBody } from "../body.js";
import { isKeystileError, KeystileError } from "../errors.js";
import {
  type Answer,
  newRequestId,
  rateLimitHeaders,
  renderFault,
  renderRefusal,
  requestIdHeaders,
} from "../http.js";
import type { Keystile } from "../keystile.js";

export { stripCredentials } from "../http.js";

/** What the guard adds to a Hono app: `c.get("keystile")` is the decision that let the request pass. */
export type KeystileEnv = { Variables: { keystile: Allowed } };

/** How the guard reads a request. A function that throws is answered by Hono's error handler; nothing is held then. */
export interface GuardOptions {
  /**
   * The peer of the socket, for keys with an address list; never a header, which anybody can write. Default: that
   * of `@hono/node-server`. Elsewhere it is unknown, which such keys refuse: pass the runtime's `getConnInfo`.
   */
  readonly address?: (c: Context) => string | undefined;
  /**
   * The models asked for, for keys with model lists. Default: `model` of the JSON body and nothing else, so an
   * upstream that reads further names elsewhere needs a function of its own. `null` declares that the route has no
   * model; `undefined` says that it could not be told, which such keys refuse. `body` is the parsed JSON body, or
   * undefined where it could not be read plainly.
   */
  readonly model?: (c: Context, body: unknown) => string | readonly string[] | null | undefined;
  /** What the request is estimated to cost, in the unit of the quota: an integer from 0. Default 1. */
  readonly cost?: number | ((c: Context, body: unknown) => number | Promise<number>);
  /** The longest body that is read for `model` and `cost`, in bytes. Default 10 MiB, at most 100 MiB. */
  readonly maxBodyBytes?: number;
}

const MEBIBYTE = 1_048_576;

const OPTIONS: Readonly<
  Record<keyof GuardOptions, readonly [holds: (value: unknown) => boolean, expected: string]>
> = {
  address: [isFunction, "a function"],
  model: [isFunction, "a function"],
  cost: [(value) => isFunction(value) || isInteger(value), "an integer from 0, or a function"],
  maxBodyBytes: [(value) => isInteger(value) && value <= 100 * MEBIBYTE, "an integer from 0 to 104857600"],
};

/**
 * Guards every route it is mounted on: `app.use(keystile(gate))`. Mount it once per route, behind `cors()` and before
 * anything that reads the body.
 *
 * The key is judged before the body is read; then the model, the limits and the quota are, in one step. The handler
 * runs only when all of them pass, and can still read or forward `c.req.raw`. Refusals, and faults as 503, are
 * answered here; a CORS preflight, which carries no credential, gets an empty 204.
 *
 * When the answer is over, what the handler observed (else the estimate) is made final: at the end of the body, when
 * it breaks, and when the client goes. An answer of 400 and above, and a handler that throws, give everything back
 * instead, unless the client had gone. The answer waits for none of this, and a handler that ended the decision
 * itself comes first. A middleware outside of this one that replaces the answer must cancel the body it drops, or the
 * hold lasts until the request times out.
 *
 * @throws KeystileError `invalid_options`
 */
export function keystile(gate: Keystile, options: GuardOptions = {}): MiddlewareHandler<KeystileEnv> {
  checkOptions(options);
  const { address = peerAddress, model = bodyModel, cost = 1, maxBodyBytes = 10 * MEBIBYTE } = options;

  async function decide(c: Context): Promise<Decision> {
    const identified = await gate.identify({ headers: c.req.raw.headers, address: address(c) });
    if (!identified.allowed) return identified;
    const body = await readJsonBody(c.req.raw, maxBodyBytes);
    const estimate = typeof cost === "number" ? cost : await cost(c, body);
    return identified.admit({ model: model(c, body), cost: estimate });
  }

  return async function guard(c, next) {
    if (isPreflight(c.req.raw)) return new Response(null, { status: 204 });
    const requestId = newRequestId();
    let decision: Decision;
    try {
      decision = await decide(c);
    } catch (error) {
      if (!isKeystileError(error)) throw error;
      return respond(renderFault({ requestId }));
    }
    if (!decision.allowed) return respond(renderRefusal(decision, { requestId, realm: gate.realm }));

    c.set("keystile", decision);
    // Set before the handler runs, so that they are on whatever it or an error handler answers.
    const headers = { ...rateLimitHeaders(decision.limits), ...requestIdHeaders(requestId) };
    for (const [name, value] of Object.entries(headers)) c.res.headers.set(name, value);
    let answered = false;
    try {
      await next();
      answered = c.error === undefined && c.finalized && c.res.status < 400;
    } finally {
      const ended = finish(c, gate, decision, answered).catch(ignore);
      executionContext(c)?.waitUntil(ended);
    }
    return undefined;
  };
}

/** Ends the decision when the answer is over, and resolves when nothing is left to do before a process sleeps. */
async function finish(c: Context, gate: Keystile, decision: Allowed, answered: boolean): Promise<void> {
  if (answered) await answerEnd(c).catch(ignore);
  // What a handler had spent when the client went away, and it failed for that, is spent.
  const spent = answered || c.req.raw.signal.aborted;
  // What cannot be written now is kept by the gate, tried again, and reported by its `close()`.
  (spent ? decision.settle() : decision.void()).catch(ignore);
  if (executionContext(c) !== undefined) await gate.flush();
}

async function answerEnd(c: Context): Promise<void> {
  // Hono drops the body of an answer to HEAD without reading it.
  if (c.res.body === null || c.req.method === "HEAD") return;
  const { body, ended } = followBody(c.res.body);
  c.res = new Response(body, c.res);
  return ended;
}

function respond({ body, ...init }: Answer): Response {
  return new Response(body, init);
}

function isPreflight({ method, headers }: Request): boolean {
  return method === "OPTIONS" && headers.has("origin") && headers.has("access-control-request-method");
}

function bodyModel(_c: Context, body: unknown): Admission["model"] {
  const model = (body as { model?: unknown } | null | undefined)?.model;
  return typeof model === "string" ? model : undefined;
}

/** Read when the request arrives: once the peer has gone, the socket no longer knows it. */
function peerAddress(c: Context): string | undefined {
  const env = c.env as { incoming?: { socket?: { remoteAddress?: string } } } | undefined;
  return env?.incoming?.socket?.remoteAddress;
}

/** Only where processes are put to sleep between requests; Hono throws elsewhere. */
function executionContext(c: Context): Context["executionCtx"] | undefined {
  try {
    return c.executionCtx;
  } catch {
    return undefined;
  }
}

function checkOptions(options: GuardOptions): void {
  for (const [name, value] of Object.entries(options)) {
    const [holds, expected] = OPTIONS[name as keyof GuardOptions] ?? [() => false, "no such option"];
    if (value === undefined || holds(value)) continue;
    throw new KeystileError(
      "invalid_options",
      `options.${name}: expected ${expected}, received ${String(value)}.`,
    );
  }
}

function isFunction(value: unknown): boolean {
  return typeof value === "function";
}

function isInteger(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function ignore(): void {}
