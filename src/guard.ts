import type { Admission, Arrival, Identified } from "./authorizer.js";
import { headerValues } from "./credential.js";
import type { Allowed, Refused } from "./decision.js";
import { isKeystileError, KeystileError } from "./errors.js";
import { gathering } from "./gathering.js";
import { checkGuardOptions, type GuardOptions, type ObservingOptions } from "./guard-options.js";
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
import {
  type AnswerEnd,
  answerMeter,
  type Booking,
  bookingOf,
  estimateOf,
  leavesUsageOut,
} from "./metering.js";
import { type Judged, observing } from "./observing.js";
import type { Estimate } from "./prices.js";
import { mayHaveBody, modelsWith, requestedModels } from "./request-models.js";
import { parseJsonBody } from "./strict-json.js";
import type { UsageMeter } from "./usage-meter.js";

/** A request as it came in: the first phase judges it before its body is read. */
export interface Arriving<R> {
  readonly request: R;
  readonly method: string;
  /** Path and query as received. */
  readonly url: string;
  readonly headers: Arrival["headers"];
  readonly address: string | undefined;
  /** The connection tells of a body, which then is read whatever the method. */
  readonly isBodied?: boolean;
}

/** A body that was read: its bytes, and the headers that say what they are where those of the request do not. */
export interface ReadBody {
  readonly bytes: Uint8Array | undefined;
  readonly headers?: Arrival["headers"];
  /** The value of a JSON body, where it was parsed already. */
  readonly value?: unknown;
  /** It was not parsed by `parseJsonBody`, which goes by what all readers understand alike. */
  readonly isLenient?: boolean;
}

/**
 * Called at most once, and for a GET or HEAD, whose bodies some hide, only if it is bodied. Gives up when `signal` is
 * aborted, and has put back by then what was read.
 */
export type ReadsBody = (maxBytes: number, signal?: AbortSignal) => Promise<ReadBody>;

/** The answer to give instead of running the handler, and what it says. */
export interface Answered {
  readonly answer: Answer;
  readonly judged: Judged;
}

/** What handlers find, by the name under which they find it: a decision, or what a guard that only observes thinks. */
export type Marks =
  | { readonly keystile: Allowed; readonly keystileJudged?: undefined }
  | { readonly keystile?: undefined; readonly keystileJudged: Judged };

/** The request may pass: the handler runs, with these marks. Whoever got this must call `end`, once the answer is over. */
export interface Passed {
  readonly answer?: undefined;
  readonly marks: Marks;
  /** For whatever is answered: where the limits stand, and the id of the request. */
  readonly headers: Readonly<Record<string, string>>;
  /**
   * Where there are prices: a meter for the body of an answer with this status and these header fields, asked for by
   * name in lower case. Undefined if there is nothing to read. Its `end` comes before `end`.
   */
  readonly meter: ((status: number, field: (name: string) => unknown) => UsageMeter | undefined) | undefined;
  /**
   * Ends the decision, unless the handler did: gives back for an answer that `failed`, else books what it came to. An
   * answer that broke or whose client went is `cut`: what was spent is spent. Only the first call counts. Where the guard
   * only observes, there may be nothing to end.
   */
  readonly end: ((how: AnswerEnd) => void) | undefined;
}

export interface Guard<R> {
  /** Both phases. A guard that only observes has no answers, and never rejects. */
  pass(arriving: Arriving<R>, read: ReadsBody): Promise<Answered | Passed>;
}

/**
 * The path of a request through a guard, for every framework: preflight, first phase, body, second phase, answer.
 * Refusals and faults are answers; whatever else is thrown comes from the functions in the options.
 *
 * @throws KeystileError `invalid_options`
 */
export function createGuard<R>(gate: Keystile, options: GuardOptions<R> | ObservingOptions<R>): Guard<R> {
  if (typeof (gate as Partial<Keystile> | undefined)?.identify !== "function") {
    throw new KeystileError("invalid_options", "gate: expected what createKeystile() returned.");
  }
  checkGuardOptions(options);
  const gathered = gathering();
  const { prices, stripUsageChunk = false, maxBodyBytes = 10_485_760 } = options as GuardOptions<R>;

  async function pass(
    arriving: Arriving<R>,
    read: ReadsBody,
    signal?: AbortSignal,
  ): Promise<Answered | Passed> {
    const { request, method, url, headers } = arriving;
    const requestId = newRequestId();
    if (isPreflight(arriving)) {
      const answer = { status: 204, headers: requestIdHeaders(requestId), body: "" };
      return { answer, judged: { would: "answer" } };
    }
    const about = { requestId, form: errorForm(url, headers), gate };
    const address =
      options.address === undefined ? arriving.address : atOnce("address", options.address(request));
    const scopes =
      typeof options.scopes === "function" ? atOnce("scopes", options.scopes(request)) : options.scopes;
    await gathered();
    try {
      const identified = await gate.identify({ headers, method, url, address, scopes });
      if (!identified.allowed) return refused(identified, about);
      signal?.throwIfAborted();
      const isUnread = isBodiless(method) && arriving.isBodied !== true;
      const body = isUnread ? UNREAD : await read(maxBodyBytes);
      const judged = judge(arriving, body, identified);
      const asked = judged instanceof Promise ? await judged : judged;
      const decision = await identified.admit(asked.admission);
      if (!decision.allowed) return refused(decision, about);
      const told = rateLimitHeaders(decision.limits, gate.wire.rateLimitHeaders);
      told["x-request-id"] = requestId;
      told["request-id"] = requestId;
      const { meter, end } = answering(method, decision, asked, options);
      return { marks: { keystile: decision }, headers: told, meter, end };
    } catch (error) {
      return faulted(error, about);
    }
  }

  function judge(arriving: Arriving<R>, read: ReadBody, { resolve }: Identified): Asked | Promise<Asked> {
    const { request, method, url } = arriving;
    const { bytes: body, headers = arriving.headers } = read;
    const { cost = 1, tokens = 0 } = options;
    const isCounting = typeof cost === "function" || typeof tokens === "function";
    const isAsked = prices !== undefined || isCounting || typeof options.model === "function";
    const parsed = read.value ?? (isAsked && body !== undefined ? parseJsonBody(headers, body) : undefined);
    const value = isAsked && body !== undefined ? parsed : undefined;
    const isUnread = body === undefined && arriving.isBodied === true;
    const parts = { method, url, headers, body: isUnread ? NO_TEXT : body };
    // At once where it is parsed: whoever is asked for the model may change that.
    const known =
      parsed === undefined || read.isLenient === true ? undefined : { models: modelsWith(parts, parsed) };
    const named = (): Admission["model"] => (known === undefined ? requestedModels(parts) : known.models);
    const model =
      options.model === undefined ? named() : atOnce("model", options.model(request, value, named));
    if (prices === undefined) {
      return isCounting ? counted(request, value, model) : { admission: { model, cost, tokens } };
    }
    // What nothing is generated for costs nothing but a price per request, however the path names a model.
    const isBrought = isUnread || (body?.byteLength ?? 0) > 0 || mayHaveBody(method, arriving.headers);
    const priced = generatesNothing(arriving, isBrought)
      ? { model: null, bytes: NO_BYTES, body: undefined }
      : { model: resolve(model), bytes: isBrought ? body : NO_BYTES, body: value };
    const estimate = estimateOf(prices, { ...priced, headers, maxBodyBytes });
    const admission = { model, cost: estimate.cost, tokens: estimate.tokens };
    // Asked now: the handler may change what was parsed.
    return { admission, estimate, strips: stripUsageChunk && leavesUsageOut(value) };
  }

  async function counted(request: R, value: unknown, model: Admission["model"]): Promise<Asked> {
    const { cost = 1, tokens = 0 } = options;
    const admission = {
      model,
      cost: typeof cost === "function" ? await cost(request, value) : cost,
      tokens: typeof tokens === "function" ? await tokens(request, value) : tokens,
    };
    return { admission };
  }

  if (options.mode === "observe") return { pass: observing(gate, pass, options.maxWaitMs ?? 1_000) };
  return { pass };
}

/** A request as it is admitted, and with prices, what has to be remembered of it until its answer ends. */
interface Asked {
  readonly admission: Admission;
  readonly estimate?: Estimate;
  readonly strips?: boolean;
}

/** What an answer to a request is made of, besides the decision. */
interface About {
  readonly requestId: string;
  readonly form: ErrorForm;
  readonly gate: Keystile;
}

function refused(decision: Refused, { requestId, form, gate }: About): Answered {
  const answer = renderRefusal(decision, { requestId, wire: gate.wire, form });
  return { answer, judged: { would: "refuse", decision } };
}

/** @throws what was thrown, unless it is a fault */
function faulted(error: unknown, about: About): Answered {
  if (!isKeystileError(error)) throw error;
  const { code } = error;
  about.gate.emit({ type: "request.faulted", requestId: about.requestId, code });
  return { answer: renderFault(about), judged: { would: "fail", code, error } };
}

/** How the answer to a request is metered, and its decision ended. */
function answering(
  method: string,
  decision: Allowed,
  { estimate, strips = false }: Asked,
  { prices, onUnknownUsage = "estimate", readUsage }: GuardOptions<never> | ObservingOptions<never>,
): Pick<Passed, "meter"> & { readonly end: NonNullable<Passed["end"]> } {
  const pricing = prices && estimate && { prices, estimate, asked: decision.model, onUnknownUsage };
  let meter: UsageMeter | undefined;
  let isEnded = false;

  function meterAnswer(status: number, field: (name: string) => unknown): UsageMeter | undefined {
    meter = answerMeter(method, { status, field }, { readUsage, strips });
    return meter;
  }

  function end(how: AnswerEnd): void {
    if (isEnded) return;
    isEnded = true;
    // What cannot be written now is kept by the gate, tried again, and reported by its `close()`.
    book(decision, bookingOf(how, pricing, meter?.observed())).catch(() => {});
  }

  return { meter: pricing && meterAnswer, end };
}

function book(decision: Allowed, booking: Booking): Promise<void> {
  if (booking.call === "void") return decision.void();
  if (booking.call === "settle") return decision.settle(booking.cost, booking.usage);
  return decision.settleUnknown(booking.cost);
}

/** A function that is asynchronous by mistake must not be taken for one that cannot tell, nor end the process when it rejects. */
function atOnce<T>(name: string, told: T): T {
  if (!(told instanceof Promise)) return told;
  told.catch(() => {});
  throw new TypeError(`options.${name} must not be asynchronous.`);
}

function isPreflight({ method, headers }: Arriving<unknown>): boolean {
  const has = (name: string): boolean => headerValues(headers, name).length > 0;
  return method === "OPTIONS" && has("origin") && has("access-control-request-method");
}

/**
 * Without a body nothing is generated, but by a socket; and nothing by a POST that counts tokens. A handler may serve
 * every method, so none is free for its name. The path alone tells: after `?`, `#` or `;` anybody may write anything.
 */
function generatesNothing({ method, url, headers }: Arriving<unknown>, isBrought: boolean): boolean {
  if (!isBrought) return headerValues(headers, "upgrade").length === 0;
  return method === "POST" && /^[^?#;]*(?:\/count_tokens|\/input_tokens|:countTokens)(?:[?#]|$)/.test(url);
}

const UNREAD: ReadBody = { bytes: undefined };
const NO_BYTES = new Uint8Array();

/** Stands for a body that is there, declared nowhere, and was not read. */
const NO_TEXT = Uint8Array.of(0xff);

function isBodiless(method: string): boolean {
  return method === "GET" || method === "HEAD";
}
