import type { Admission, Arrival } from "./authorizer.js";
import { headerValues } from "./credential.js";
import type { Allowed, Refused } from "./decision.js";
import { isKeystileError, KeystileError } from "./errors.js";
import {
  type Answer,
  type ErrorForm,
  errorForm,
  newRequestId,
  rateLimitHeaders,
  renderFault,
  renderRefusal,
  requestIdHeaders,
} from "./http.js";
import type { Keystile } from "./keystile.js";
import { noSuchName } from "./nearest-name.js";
import { requestedModels } from "./request-models.js";
import { parseJsonBody } from "./strict-json.js";

/** How a guard reads a request. A function that throws is left to the framework's error handling; nothing is held then. */
export interface GuardOptions<R> {
  /**
   * The peer of the socket, for keys with an address list; never a header, which anybody can write (`trustedProxies`
   * of `createKeystile` reads those of proxies). Default: what the server knows of the socket.
   */
  readonly address?: (request: R) => string | undefined;
  /**
   * The models asked for, for keys with model lists. Default: every place where the known APIs name one, in body,
   * path and query. `null` declares that the route has no model; `undefined` says that it could not be told, which
   * such keys refuse. `body` is the parsed JSON body, or undefined where not everyone reads it alike; `named` gives
   * what the default would, for a function that has something to say about some routes only.
   */
  readonly model?: (request: R, body: unknown, named: () => Admission["model"]) => Admission["model"];
  /** What the request is estimated to cost, in the unit of the quota: an integer from 0. Default 1. */
  readonly cost?: number | ((request: R, body: unknown) => number | Promise<number>);
  /** Scopes that a key needs here. Default none. */
  readonly scopes?: readonly string[] | ((request: R) => readonly string[]);
  /** The longest body that is read for `model` and `cost`, in bytes. Default 10 MiB, at most 100 MiB. */
  readonly maxBodyBytes?: number;
}

/** A request as it came in: the first phase judges it before its body is read. */
export interface Arriving<R> {
  readonly request: R;
  readonly method: string;
  /** Path and query as received. */
  readonly url: string;
  readonly headers: Arrival["headers"];
  readonly address: string | undefined;
}

/** A body that was read: its bytes, and the headers that say what they are where those of the request do not. */
export interface ReadBody {
  readonly bytes: Uint8Array | undefined;
  readonly headers?: Arrival["headers"];
  /** The value of a JSON body, where it was parsed already. */
  readonly value?: unknown;
}

/** The answer to give instead of running the handler. */
export interface Answered {
  readonly answer: Answer;
}

/** The second phase, still to come. */
export interface Arrived {
  readonly answer?: undefined;
  /** Judges model and money. `read` is called at most once, and never for a GET or HEAD, whose bodies some hide. */
  admit(read: (maxBytes: number) => Promise<ReadBody>): Promise<Answered | Admitted>;
}

/** The request may pass. Whoever got this must call `end`, once the answer is over. */
export interface Admitted {
  readonly answer?: undefined;
  readonly decision: Allowed;
  /** For whatever is answered: where the limits stand, and the id of the request. */
  readonly headers: Readonly<Record<string, string>>;
  /**
   * Ends the decision, unless the handler did: `done` books what was observed (else the estimate), `failed` gives it
   * back. An answer that broke or whose client went is `done`: what was spent is spent. Only the first call counts.
   */
  end(outcome: "done" | "failed"): void;
}

export interface Guard<R> {
  arrive(arriving: Arriving<R>): Promise<Answered | Arrived>;
}

const MEBIBYTE = 1_048_576;

const OPTIONS: Readonly<
  Record<keyof GuardOptions<never>, readonly [holds: (value: unknown) => boolean, expected: string]>
> = {
  address: [isFunction, "a function"],
  model: [isFunction, "a function"],
  cost: [(value) => isFunction(value) || isInteger(value), "an integer from 0, or a function"],
  scopes: [(value) => isFunction(value) || isTexts(value), "a list of texts, or a function"],
  maxBodyBytes: [(value) => isInteger(value) && value <= 100 * MEBIBYTE, "an integer from 0 to 104857600"],
};

/**
 * The path of a request through a guard, for every framework: preflight, first phase, body, second phase, answer.
 * Refusals and faults are answers; whatever else is thrown comes from the functions in the options.
 *
 * @throws KeystileError `invalid_options`
 */
export function createGuard<R>(gate: Keystile, options: GuardOptions<R>): Guard<R> {
  checkOptions(options);
  const { cost = 1, maxBodyBytes = 10 * MEBIBYTE } = options;

  async function arrive(arriving: Arriving<R>): Promise<Answered | Arrived> {
    const { request, method, url, headers } = arriving;
    const requestId = newRequestId();
    if (isPreflight(arriving)) {
      return { answer: { status: 204, headers: requestIdHeaders(requestId), body: "" } };
    }
    const form = errorForm(url, headers);
    const address = options.address === undefined ? arriving.address : options.address(request);
    const scopes = typeof options.scopes === "function" ? options.scopes(request) : options.scopes;

    function refused(refusal: Refused): Answered {
      return { answer: renderRefusal(refusal, { requestId, wire: gate.wire, form }) };
    }

    return orFault({ requestId, form }, async () => {
      const identified = await gate.identify({ headers, method, url, address, scopes });
      if (!identified.allowed) return refused(identified);
      return {
        admit: (read) =>
          orFault({ requestId, form }, async () => {
            const body = isBodiless(method) ? { bytes: undefined } : await read(maxBodyBytes);
            const decision = await identified.admit(await admissionOf(arriving, body));
            if (!decision.allowed) return refused(decision);
            const told = { ...rateLimitHeaders(decision.limits), ...requestIdHeaders(requestId) };
            return { decision, headers: told, end: endingOf(decision) };
          }),
      };
    });
  }

  async function admissionOf(arriving: Arriving<R>, read: ReadBody): Promise<Admission> {
    const { request, method, url } = arriving;
    const { bytes: body, headers = arriving.headers } = read;
    const isAsked = options.model !== undefined || typeof cost === "function";
    const value = isAsked && body !== undefined ? (read.value ?? parseJsonBody(headers, body)) : undefined;
    const named = (): Admission["model"] => requestedModels({ method, url, headers, body });
    const model = options.model === undefined ? named() : options.model(request, value, named);
    return { model, cost: typeof cost === "function" ? await cost(request, value) : cost };
  }

  return { arrive };
}

async function orFault<T>(
  about: { readonly requestId: string; readonly form: ErrorForm },
  run: () => Promise<T>,
): Promise<T | Answered> {
  try {
    return await run();
  } catch (error) {
    if (!isKeystileError(error)) throw error;
    return { answer: renderFault(about) };
  }
}

/** What cannot be written now is kept by the gate, tried again, and reported by its `close()`. */
function endingOf(decision: Allowed): Admitted["end"] {
  let ended = false;
  return (outcome) => {
    if (ended) return;
    ended = true;
    (outcome === "done" ? decision.settle() : decision.void()).catch(() => {});
  };
}

function isPreflight({ method, headers }: Arriving<unknown>): boolean {
  const has = (name: string): boolean => headerValues(headers, name).length > 0;
  return method === "OPTIONS" && has("origin") && has("access-control-request-method");
}

function isBodiless(method: string): boolean {
  return method === "GET" || method === "HEAD";
}

function checkOptions(options: object): void {
  for (const [name, value] of Object.entries(options)) {
    if (!Object.hasOwn(OPTIONS, name)) {
      const problem = noSuchName(name.slice(0, 64), Object.keys(OPTIONS));
      throw new KeystileError("invalid_options", `options: ${problem}`);
    }
    const [holds, expected] = OPTIONS[name as keyof typeof OPTIONS];
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

function isTexts(value: unknown): boolean {
  return Array.isArray(value) && value.every((member) => typeof member === "string");
}
