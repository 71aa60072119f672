import { type Context, Hono } from "hono";
import { proxy } from "hono/proxy";
import {
  askForUsage,
  isKeystileError,
  type Keystile,
  newRequestId,
  type Prices,
  renderFault,
} from "keystile";
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
  /** What a request is held for before, and what its answer costs after. */
  readonly prices: Prices;
}

/**
 * A gateway for the chat APIs of OpenAI and Anthropic: callers bring keys of ours, the provider sees only its own.
 *
 * The guards stand on the routes themselves, so there is no spelling of a path that reaches a handler around them.
 */
export function createGateway({ keystile: gate, upstream, prices }: GatewayOptions): Hono<KeystileEnv> {
  const app = new Hono<KeystileEnv>();

  // The most that a request can cost is held before it is sent on. What it did cost is read out of the answer, as it
  // passes; the chunk that tells it is taken out of streams whose client had not asked for it.
  const paid = keystile(gate, { prices, stripUsageChunk: true });
  const free = keystile(gate, { cost: 0, model: () => null });

  app.post("/v1/chat/completions", paid, chat);
  app.post("/v1/messages", paid, (c) => forward(c, { "x-api-key": upstream.apiKey }));
  app.get("/v1/models", free, listModels);
  // No guard in front: a key that is used up or has expired must still learn why. Mind that it answers a guess, too:
  // put a limit per address in front of it, as in front of every login.
  app.get("/v1/key", describe);

  /** OpenAI's streams tell their usage only if asked to. */
  async function chat(c: Context): Promise<Response> {
    const { body } = askForUsage((await c.req.raw.clone().json()) as object);
    return forward(c, { authorization: `Bearer ${upstream.apiKey}` }, JSON.stringify(body));
  }

  /** What a key may still do: its limits, what is left of its quota, and when that begins anew. */
  async function describe(c: Context): Promise<Response> {
    const bearer = c.req.header("authorization")?.match(/^Bearer +(\S+)$/i)?.[1];
    const standing = await gate.describe(bearer ?? c.req.header("x-api-key") ?? "");
    c.header("Cache-Control", "no-store");
    if (standing !== undefined) return c.json(standing);
    return c.json(errorBody("The API key is not valid.", "authentication_error", "invalid_api_key"), 401);
  }

  /** Sends the request on as it came, streams included, and gives up when the client does. */
  function forward(c: Context, credential: Record<string, string>, changed?: string): Promise<Response> {
    const headers = stripCredentials(c.req.raw.headers);
    // They belong to this hop; the provider is another host.
    for (const name of ["host", "cookie", "expect", "content-length"]) headers.delete(name);
    for (const [name, value] of Object.entries(credential)) headers.set(name, value);
    const { method, signal } = c.req.raw;
    const body = changed ?? c.req.raw.body;
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
    // A store that is down is no statement about a key, here as in the guard.
    if (isKeystileError(error)) {
      const { status, headers, body } = renderFault({ requestId: newRequestId() });
      return new Response(body, { status, headers });
    }
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
