import type { Context, MiddlewareHandler } from "hono";
import { type BodyEnd, bodyOf, followBody, readBytes } from "../body.js";
import type { Allowed } from "../decision.js";
import { CLIENT_GONE, followResponse, type NodeRequest, type NodeResponse, peekBody } from "../exchange.js";
import { type Answered, createGuard, type Passed } from "../guard.js";
import type { GuardOptions, ObservingOptions } from "../guard-options.js";
import type { Answer } from "../http.js";
import type { Keystile } from "../keystile.js";
import type { Judged } from "../observing.js";

export type { Allowed } from "../decision.js";
export { filterModelList, stripCredentials, stripCredentialUrl } from "../forwarding.js";
export type { GuardOptions, ObservingOptions } from "../guard-options.js";
export type { Judged } from "../observing.js";

/** What the guard adds to a Hono app: `c.get("keystile")` is the decision that let the request pass. */
export type KeystileEnv = { Variables: { keystile: Allowed } };

/** What a guard that only observes adds: `c.get("keystileJudged")` is what it would have done. */
export type ObservingEnv = { Variables: { keystileJudged: Judged } };

/**
 * Guards every route it is mounted on: `app.use(keystile(gate))`. Mount it once per route, behind `cors()` and before
 * anything that reads the body.
 *
 * The key is judged before the body is read; then the model, the limits and the quota are, in one step. The handler
 * runs only when all of them pass, and can still read or forward `c.req.raw`. Refusals, and faults as 503, are
 * answered here; a CORS preflight, which carries no credential, gets an empty 204. What a function in the options
 * throws goes to the error handler, and nothing is held.
 *
 * When the answer is over, what it cost is made final: at the end of the body, when it breaks, and when the client
 * goes. With `prices` that is by the usage it told; else what the handler observed, or the estimate. An answer of 400
 * and above, and a handler that throws, give everything back instead, unless the client had gone. The answer waits for
 * none of this, and a handler that ended the decision itself comes first. A middleware outside of this one that replaces
 * the answer must cancel the body it drops, or the hold lasts until the request times out.
 *
 * The peer is that of `@hono/node-server`; elsewhere it is unknown, which keys with an address list refuse: pass the
 * runtime's `getConnInfo` as `address`.
 *
 * With `mode: "observe"` everything passes, and `c.get("keystileJudged")` says what would have become of it.
 *
 * @throws KeystileError `invalid_options`
 */
export function keystile(gate: Keystile, options?: GuardOptions<Context>): MiddlewareHandler<KeystileEnv>;
export function keystile(gate: Keystile, options: ObservingOptions<Context>): MiddlewareHandler<ObservingEnv>;
export function keystile(
  gate: Keystile,
  options: GuardOptions<Context> | ObservingOptions<Context> = {},
): MiddlewareHandler {
  const guard = createGuard(gate, options);

  return async function guardRequest(c, next) {
    const { raw } = c.req;
    const { incoming } = bindingsOf(c);
    const url = incoming?.url ?? raw.url.slice(raw.url.indexOf("/", "https://".length));
    const address = incoming?.socket.remoteAddress;
    const arriving = { request: c, method: raw.method, url, headers: raw.headers, address };
    let passed: Answered | Passed;
    try {
      passed = await guard.pass(arriving, async (maxBytes, signal) => ({
        bytes: await readBody(raw, incoming, maxBytes, signal),
      }));
    } catch (error) {
      if (error === CLIENT_GONE) return answerNobody();
      throw error;
    }
    if (passed.answer !== undefined) return respond(passed.answer);
    const isGone = incoming?.aborted === true || incoming?.socket.destroyed === true;
    if (isGone && passed.marks.keystile !== undefined) {
      // The client went while it was judged; over HTTP/2 what it had sent of a body seems to be all.
      passed.end?.("failed");
      return answerNobody();
    }

    for (const [name, value] of Object.entries(passed.marks)) c.set(name, value);
    let answered = false;
    try {
      await next();
      answered = c.error === undefined && c.finalized && c.res.status < 400;
    } finally {
      // Also on what an error handler answered. Headers set earlier would make Hono copy every answer.
      if (c.finalized) setHeaders(c, passed.headers);
      finish(c, gate, passed, answered);
    }
    return undefined;
  };
}

/** The bytes of a body, which handlers can still read and forward. */
async function readBody(
  raw: Request,
  incoming: Bindings["incoming"],
  maxBytes: number,
  signal: AbortSignal | undefined,
): Promise<Uint8Array | undefined> {
  if (incoming === undefined || !isUntouched(raw, incoming)) return readBytes(raw, maxBytes, signal);
  let bytes: Uint8Array | undefined;
  try {
    // A `Request` that is made and divided for this would cost more than the decision.
    bytes = await peekBody(incoming, maxBytes, signal);
  } finally {
    // A stream that somebody has read from is given to handlers in a `Request` only.
    if (bytes === undefined) bodyOf(raw);
  }
  if (bytes === undefined) return undefined;
  // Where the server looks for a body that was read before.
  incoming.rawBody = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  incoming.resume();
  return bytes;
}

/** Whether a request of `@hono/node-server` is as it came: it stands for that of Node, and no `Request` was made of it. */
function isUntouched(raw: Request, incoming: NonNullable<Bindings["incoming"]>): boolean {
  const parts = Object.getOwnPropertySymbols(raw).map(
    (name) => (raw as unknown as Record<symbol, unknown>)[name],
  );
  const isAsItCame = parts.includes(incoming) && !parts.some((part) => part instanceof Request);
  return isAsItCame && !raw.bodyUsed && incoming.rawBody === undefined && !incoming.readableDidRead;
}

/** The client is gone: nobody reads this. */
function answerNobody(): Response {
  return new Response(null, { status: 400 });
}

/** Sets headers, also of an answer that was fetched, which itself cannot be changed. */
function setHeaders(c: Context, headers: Passed["headers"]): void {
  const entries = Object.entries(headers);
  try {
    for (const [name, value] of entries) c.res.headers.set(name, value);
  } catch {
    c.res = new Response(c.res.body, c.res);
    for (const [name, value] of entries) c.res.headers.set(name, value);
  }
}

/** Ends the decision when the answer is over. */
function finish(c: Context, gate: Keystile, passed: Passed, answered: boolean): void {
  const { end = ignore, meter } = passed;
  const { incoming, outgoing } = bindingsOf(c);
  // Without a copy of the answer, which costs more than all the rest.
  if (answered && incoming !== undefined && outgoing !== undefined && meter === undefined) {
    followResponse({ incoming, response: outgoing }, end);
    return;
  }
  const ended = answered ? answerEnd(c, passed).catch(() => "cut" as const) : unanswered(c);
  const done = Promise.resolve(ended).then(end);
  // Where processes are put to sleep between requests there is no request of Node; Hono throws if asked elsewhere.
  const context = incoming === undefined ? executionContext(c) : undefined;
  context?.waitUntil(done.then(() => gate.flush()).catch(ignore));
}

/** What a handler had spent when the client went away, and it failed for that, is spent. */
function unanswered(c: Context): BodyEnd | "failed" {
  return c.req.raw.signal.aborted ? "cut" : "failed";
}

async function answerEnd(c: Context, { meter }: Passed): Promise<BodyEnd> {
  // Hono drops the body of an answer to HEAD without reading it.
  if (c.res.body === null || c.req.method === "HEAD") return "complete";
  const { status, headers } = c.res;
  const { body, ended } = followBody(
    c.res.body,
    meter?.(status, (name) => headers.get(name)),
  );
  c.res = new Response(body, c.res);
  return ended;
}

function respond({ status, headers, body }: Answer): Response {
  return new Response(body === "" ? null : body, { status, headers });
}

/** What `@hono/node-server` has under a request; its request alone has the URL as it was received. */
interface Bindings {
  readonly incoming?: NodeRequest & { readonly readableDidRead?: boolean; rawBody?: Uint8Array };
  readonly outgoing?: NodeResponse;
}

function bindingsOf(c: Context): Bindings {
  return (c.env as Bindings | undefined) ?? {};
}

/** Only where processes are put to sleep between requests; Hono throws elsewhere. */
function executionContext(c: Context): Context["executionCtx"] | undefined {
  try {
    return c.executionCtx;
  } catch {
    return undefined;
  }
}

function ignore(): void {}
