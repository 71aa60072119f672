import type { FastifyInstance, FastifyRequest } from "fastify";
import type { Allowed } from "../decision.js";
import { passExchange } from "../exchange.js";
import { createGuard, type Guard } from "../guard.js";
import type { GuardOptions, ObservingOptions } from "../guard-options.js";
import type { Keystile } from "../keystile.js";
import type { Judged } from "../observing.js";

export type { Allowed } from "../decision.js";
export { filterModelList, stripCredentials, stripCredentialUrl } from "../forwarding.js";
export type { GuardOptions, ObservingOptions } from "../guard-options.js";
export type { Judged } from "../observing.js";

declare module "fastify" {
  interface FastifyRequest {
    /** The decision that let the request pass. */
    keystile: Allowed;
    /** What a guard that only observes would have done, where there is one; `keystile` is null then. */
    keystileJudged: Judged | null;
  }
}

/** Options of the plugin: the gate, and how requests are read. */
export interface PluginOptions extends GuardOptions<FastifyRequest> {
  readonly gate: Keystile;
}

/** The same for a guard that only observes. */
export interface ObservingPluginOptions extends ObservingOptions<FastifyRequest> {
  readonly gate: Keystile;
}

/**
 * Guards every route of the instance it is registered on, and of all inside: `app.register(keystile, { gate })`.
 * Register it once, on the root, behind `@fastify/cors`.
 *
 * The key is judged before the body is read; then the model, the limits and the quota are, in one step and before
 * anything is parsed, so that a body gets the same answer as behind any other guard of this package. It is put back
 * for the parsers. The handler runs only when all of them pass. Refusals, and faults as 503, are answered here; a CORS
 * preflight, which carries no credential, gets an empty 204. What a function in the options throws goes to the error
 * handler, and nothing is held.
 *
 * When the answer is over, what it cost is made final: when it is sent, when it breaks, and when the client goes. With
 * `prices` that is by the usage it told; else what the handler observed, or the estimate. An answer of 400 and above
 * gives everything back instead. A handler that ended the decision itself comes first.
 *
 * With `mode: "observe"` everything passes, and `request.keystileJudged` says what would have become of it.
 *
 * @throws KeystileError `invalid_options`
 */
export function keystile(
  app: FastifyInstance,
  { gate, ...options }: PluginOptions | ObservingPluginOptions,
  done: (error?: Error) => void,
): void {
  let guard: Guard<FastifyRequest>;
  try {
    guard = createGuard(gate, options);
  } catch (error) {
    // Thrown, it would end the process.
    done(error as Error);
    return;
  }
  app.decorateRequest("keystile", null as unknown as Allowed);
  app.decorateRequest("keystileJudged", null);

  app.addHook("onRequest", async (request, reply) => {
    const { raw: incoming, originalUrl: url } = request;
    const { method = "", rawHeaders: headers, socket } = incoming;
    const marks = await passExchange(guard, {
      request,
      method,
      url,
      headers,
      address: socket.remoteAddress,
      incoming,
      response: reply.raw,
      setHeader: (name, value) => reply.header(name, value),
      // As bytes, because Fastify completes the content type of text.
      send: ({ status, headers, body }) =>
        reply
          .code(status)
          .headers(headers)
          .send(body === "" ? undefined : new TextEncoder().encode(body)),
    });
    // Where nobody is left to be answered: without this the handler would run.
    if (marks !== undefined) Object.assign(request, marks);
    else if (!reply.sent) reply.hijack();
  });
  done();
}

// Without it the guard would be only for the routes of its own encapsulation, of which there are none.
Object.assign(keystile, {
  [Symbol.for("skip-override")]: true,
  [Symbol.for("fastify.display-name")]: "keystile",
});
