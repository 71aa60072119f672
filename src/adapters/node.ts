import type { Allowed } from "../decision.js";
import { type NodeRequest, type NodeResponse, passExchange } from "../exchange.js";
import { createGuard } from "../guard.js";
import type { GuardOptions, ObservingOptions } from "../guard-options.js";
import { type Answer, TITLES } from "../http.js";
import type { Keystile } from "../keystile.js";
import type { Judged } from "../observing.js";

export type { Allowed } from "../decision.js";
export { filterModelList, stripCredentials, stripCredentialUrl } from "../forwarding.js";
export type { GuardOptions, ObservingOptions } from "../guard-options.js";
export type { Judged } from "../observing.js";

/**
 * A guard for a server of `node:http`: `const decision = await guard(request, response)`. Without a decision the
 * request was answered, or its client is gone, and the handler returns.
 *
 * The key is judged before the body is read; then the model, the limits and the quota are, in one step. The body is
 * put back: the request can be read or piped as if nobody had. A CORS preflight gets an empty 204. When the answer is
 * over, what it cost is made final: by `prices`, if it tells its usage; else what was observed, or the estimate. An
 * answer of 400 and above gives everything back.
 *
 * With `mode: "observe"` it returns what would have become of the request (`Judged`), and the handler goes on always.
 *
 * @throws KeystileError `invalid_options`; the guard itself what the functions in the options throw
 */
export function keystile<R extends NodeRequest = NodeRequest>(
  gate: Keystile,
  options?: GuardOptions<R>,
): (request: R, response: NodeResponse) => Promise<Allowed | undefined>;
export function keystile<R extends NodeRequest = NodeRequest>(
  gate: Keystile,
  options: ObservingOptions<R>,
): (request: R, response: NodeResponse) => Promise<Judged>;
export function keystile<R extends NodeRequest = NodeRequest>(
  gate: Keystile,
  options: GuardOptions<R> | ObservingOptions<R> = {},
): (request: R, response: NodeResponse) => Promise<Allowed | Judged | undefined> {
  const guard = createGuard(gate, options);
  return async (request, response) => {
    const marks = await passExchange(
      guard,
      Object.assign(arrivingOf(request), { incoming: request, response }),
    );
    return marks?.keystile ?? marks?.keystileJudged;
  };
}

/** What is used of the socket of an upgrade. */
export interface UpgradeSocket {
  readonly destroyed: boolean;
  end(text: string): unknown;
  destroy(): unknown;
  on(event: string, listener: () => void): unknown;
}

/**
 * Guards WebSockets: `server.on("upgrade", guardUpgrade(gate, (request, socket, head, decision) => …))`. As soon as a
 * server has an upgrade listener, no middleware of any framework sees upgrades; this must be the only one.
 *
 * The model is read from path and query, the credential also from `Sec-WebSocket-Protocol` if `credentials` of
 * `createKeystile` says so; answer with another of the items then, never that one. Refusals and faults are answered
 * as HTTP. What was observed (else the estimate) is made final when the socket closes: with `prices`, as usage that is
 * unknown, since nobody reads messages here. If a function in the options or `onAllowed` throws or rejects, nothing
 * stays held, the socket is closed, and `onError` is told.
 *
 * With `mode: "observe"` every upgrade is handed over, with what would have become of it (`Judged`) for a decision.
 *
 * @throws KeystileError `invalid_options`
 */
export function guardUpgrade<
  R extends NodeRequest = NodeRequest,
  S extends UpgradeSocket = UpgradeSocket,
  H extends Uint8Array = Uint8Array,
>(
  gate: Keystile,
  onAllowed: (request: R, socket: S, head: H, decision: Allowed) => unknown,
  options?: GuardOptions<R> & { readonly onError?: (error: unknown) => void },
): (request: R, socket: S, head: H) => void;
export function guardUpgrade<
  R extends NodeRequest = NodeRequest,
  S extends UpgradeSocket = UpgradeSocket,
  H extends Uint8Array = Uint8Array,
>(
  gate: Keystile,
  onJudged: (request: R, socket: S, head: H, judged: Judged) => unknown,
  options: ObservingOptions<R> & { readonly onError?: (error: unknown) => void },
): (request: R, socket: S, head: H) => void;
export function guardUpgrade<R extends NodeRequest, S extends UpgradeSocket, H extends Uint8Array>(
  gate: Keystile,
  onPassed: (request: R, socket: S, head: H, decision: Allowed & Judged) => unknown,
  options: (GuardOptions<R> | ObservingOptions<R>) & { readonly onError?: (error: unknown) => void } = {},
): (request: R, socket: S, head: H) => void {
  const { onError = () => {}, ...guardOptions } = options;
  const guard = createGuard(gate, guardOptions);

  async function judge(request: R, socket: S, head: H): Promise<void> {
    const passed = await guard.pass(arrivingOf(request), async () => ({ bytes: undefined }));
    if (passed.answer !== undefined) {
      // No time-out of the server counts here any more, and a client may keep its half open.
      socket.on("finish", () => socket.destroy());
      return void socket.end(renderHttp(passed.answer));
    }
    const { marks, end } = passed;
    if (socket.destroyed) return end?.("failed");
    socket.on("close", () => end?.("cut"));
    try {
      await onPassed(request, socket, head, (marks.keystile ?? marks.keystileJudged) as Allowed & Judged);
    } catch (error) {
      end?.("failed");
      throw error;
    }
  }

  return (request, socket, head) => {
    // Without a listener a client that goes away while it is judged would end the process.
    socket.on("error", () => {});
    judge(request, socket, head).catch((error: unknown) => {
      socket.destroy();
      onError(error);
    });
  };
}

function arrivingOf<R extends NodeRequest>(request: R) {
  const { method = "", url = "", rawHeaders: headers, socket } = request;
  return { request, method, url, headers, address: socket.remoteAddress };
}

/** An answer on a bare socket, which is closed after it. */
function renderHttp({ status, headers, body }: Answer): string {
  const fields = Object.entries({
    ...headers,
    Connection: "close",
    "Content-Length": new TextEncoder().encode(body).byteLength,
  });
  const lines = fields.map(([name, value]) => `${name}: ${value}`);
  return [`HTTP/1.1 ${status} ${TITLES[status] ?? ""}`, ...lines, "", body].join("\r\n");
}
