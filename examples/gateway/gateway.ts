import { type Context, Hono } from "hono";
import { proxy } from "hono/proxy";
import type { Keystile } from "keystile";
import {
  filterModelList,
  type KeystileEnv,
  keystile,
  stripCredentials,
  stripCredentialUrl,
} from "keystile/hono";

export interface GatewayOptions {
  readonly keystile: Keystile;
  /** The provider behind the gateway: where it is, and the gateway's own key for it. */
  readonly upstream: { readonly url: string; readonly apiKey: string };
}

/**
 * A gateway for the chat APIs of OpenAI and Anthropic: callers bring keys of ours, the provider sees only its own.
 *
 * The guards stand on the routes themselves, so there is no spelling of a path that reaches a handler around them.
 */
export function createGateway({ keystile: gate, upstream }: GatewayOptions): Hono<KeystileEnv> {
  const app = new Hono<KeystileEnv>();

  // Every request costs 1, so a quota counts requests. To count tokens or money, give an estimate as `cost`
  // and tell the decision what it really was: `c.get("keystile").observe(cost)`.
  const paid = keystile(gate);
  const free = keystile(gate, { cost: 0, model: () => null });

  app.post("/v1/chat/completions", paid, (c) => forward(c, { authorization: `Bearer ${upstream.apiKey}` }));
  app.post("/v1/messages", paid, (c) => forward(c, { "x-api-key": upstream.apiKey }));
  app.get("/v1/models", free, listModels);

  /** Sends the request on as it came, streams included, and gives up when the client does. */
  function forward(c: Context, credential: Record<string, string>): Promise<Response> {
    const headers = stripCredentials(c.req.raw.headers);
    // They belong to this hop; the provider is another host.
    for (const name of ["host", "cookie", "expect"]) headers.delete(name);
    for (const [name, value] of Object.entries(credential)) headers.set(name, value);
    const { method, body, signal } = c.req.raw;
    const init = { method, headers, body, signal, ...(body !== null && { duplex: "half" as const }) };
    const target = new URL(c.req.path, upstream.url);
    target.search = new URL(stripCredentialUrl(c.req.url)).search;
    return proxy(new Request(target, init));
  }

  /** The provider's models, without those the key may not use. */
  async function listModels(c: Context<KeystileEnv>): Promise<Response> {
    const response = await forward(c, { authorization: `Bearer ${upstream.apiKey}` });
    if (!response.ok) return response;
    const list = (await response.json()) as { readonly data: readonly unknown[] };
    return c.json(filterModelList(list, c.get("keystile")));
  }

  app.notFound((c) => c.json(errorBody("There is no such route.", "not_found_error", "not_found"), 404));
  app.onError((error, c) => {
    console.error(error);
    return c.json(errorBody("The provider did not answer.", "server_error", "upstream_failed"), 502);
  });
  return app;
}

/** An error in the one form that the clients of both APIs read. */
function errorBody(message: string, type: string, code: string): object {
  const details = { error_code: code };
  return { type: "error", message, error: { message, type, param: null, code, details } };
}
