import { joinBytes } from "./body.js";
import type { Answered, Arriving, Guard, Marks, Passed, ReadsBody } from "./guard.js";
import type { Answer } from "./http.js";
import type { AnswerEnd } from "./metering.js";
import { meterResponse } from "./response-meter.js";

/** What is used of a request of Node's `http`: no type of a framework, so that none has to be installed. */
export interface NodeRequest {
  readonly method?: string | undefined;
  readonly url?: string | undefined;
  readonly rawHeaders: readonly string[];
  readonly headers: { readonly "content-length"?: string | undefined };
  readonly socket: Connection;
  /** The client went before all of the request was read. */
  readonly aborted?: boolean;
  /** Missing in requests that are injected in tests. */
  readonly complete?: boolean;
  readonly destroyed: boolean;
  readonly readableEnded: boolean;
  readonly readableLength: number;
  readonly readableEncoding?: string | null;
  readonly stream?: Http2Stream | undefined;
  read(): unknown;
  unshift(chunk: Uint8Array): void;
  resume(): unknown;
  on(event: string, listener: () => void): unknown;
  off(event: string, listener: () => void): unknown;
}

/** What is used of the connection. Those of injected requests have little of it. */
interface Connection {
  readonly remoteAddress?: string | undefined;
  readonly destroyed?: boolean;
  on?(event: string, listener: () => void): unknown;
  off?(event: string, listener: () => void): unknown;
  setMaxListeners?(count: number): unknown;
}

/** What is used of its response. */
export interface NodeResponse {
  statusCode: number;
  readonly headersSent: boolean;
  readonly destroyed: boolean;
  /** Null while responses to earlier requests of the connection are still to be sent. */
  readonly socket?: unknown;
  readonly stream?: Http2Stream | undefined;
  getHeader(name: string): unknown;
  setHeader(name: string, value: string): unknown;
  writeHead(status: number): unknown;
  write(bytes: Uint8Array): boolean;
  end(body: string): unknown;
  on(event: string, listener: () => void): unknown;
}

/** What both have over HTTP/2. It alone tells of a client that went: what it sent and was sent seems to be complete. */
export interface Http2Stream {
  /** False: there is a body, declared or not. */
  readonly endAfterHeaders?: boolean;
  readonly aborted: boolean;
  readonly destroyed: boolean;
}

/** How an adapter hands in one request of a Node server. */
export interface Exchange<R> extends Arriving<R> {
  readonly incoming: NodeRequest;
  readonly response: NodeResponse;
  /** Reads the body where not just the bytes of the socket count. */
  readonly read?: ReadsBody;
  /** Gives the answer, and sets headers, where the framework wants to know of them. */
  readonly send?: (answer: Answer) => unknown;
  readonly setHeader?: (name: string, value: string) => unknown;
}

/** Where it is seen how an answer ends. */
interface Answering {
  readonly incoming: Pick<NodeRequest, "aborted" | "socket">;
  readonly response: NodeResponse;
}

/** What reading a body rejects with. */
export const CLIENT_GONE: unique symbol = Symbol("The client went away while its body was read.");

/**
 * Takes a request of a Node server through a guard. What the handler is to find, if it is to run; the end of the decision
 * is seen to. Else there is nothing left to do: the answer was given, or the client went away.
 *
 * @throws what the functions in the options throw; nothing is held then
 */
export async function passExchange<R>(guard: Guard<R>, exchange: Exchange<R>): Promise<Marks | undefined> {
  const { incoming, response, send, setHeader } = exchange;
  const read: ReadsBody =
    exchange.read ?? (async (maxBytes, signal) => ({ bytes: await peekBody(incoming, maxBytes, signal) }));
  // What nobody has read by then would keep the next request on this connection waiting.
  response.on("close", () => void incoming.resume());

  const arriving = incoming.stream?.endAfterHeaders === false ? { ...exchange, isBodied: true } : exchange;
  let passed: Answered | Passed;
  try {
    passed = await guard.pass(arriving, read);
  } catch (error) {
    if (error === CLIENT_GONE) return undefined;
    throw error;
  }
  if (passed.answer !== undefined) {
    if (isTaken(exchange)) return undefined;
    await (send === undefined ? respond(response, passed.answer) : send(passed.answer));
    return undefined;
  }
  const { marks, headers, meter, end } = passed;
  if (isTaken(exchange)) {
    end?.("failed");
    // Without a guard the handler would have run by now.
    return marks.keystileJudged && marks;
  }
  for (const name of Object.keys(headers)) {
    const value = headers[name] as string;
    if (setHeader === undefined) response.setHeader(name, value);
    else setHeader(name, value);
  }
  if (end === undefined) return marks;
  let endMeter: (() => void) | undefined;
  followResponse(exchange, (how) => {
    endMeter?.();
    end(how);
  });
  endMeter = meter && meterResponse(response, meter);
  return marks;
}

/** Tells how the answer ends, also if it is over already; possibly more than once, of which the first counts. */
export function followResponse({ incoming, response }: Answering, end: (how: AnswerEnd) => void): void {
  const isError = noteHead({ incoming, response });
  const over = (how: AnswerEnd): void => {
    forget?.();
    end(isError() ? "failed" : how);
  };
  response.on("finish", () => over(isAborted(response) ? "cut" : "complete"));
  response.on("close", () => over("cut"));
  const forget = response.socket === null ? whenLost(incoming.socket, () => over("cut")) : undefined;
  if (isGone({ incoming, response })) over("cut");
}

/**
 * Tells whether an error was sent. Noted when its head is: a status that is set when an answer breaks is told to nobody,
 * and an error that a handler has for a client that went says nothing about what was spent until then.
 */
function noteHead({ incoming, response }: Answering): () => boolean {
  const { writeHead } = response;
  let isError = false;
  response.writeHead = function (...parts) {
    const isFirst = !response.headersSent;
    const result = writeHead.apply(this, parts);
    if (isFirst && response.headersSent) isError = response.statusCode >= 400 && incoming.aborted !== true;
    return result;
  };
  return () => isError;
}

/**
 * Calls back when a connection is lost. Node does not tell this to a response that waits for those before it. Returns
 * what makes it forget that. A client may send any number of requests ahead, so the number of listeners is no leak.
 */
function whenLost(socket: Connection, callBack: () => void): () => void {
  socket.setMaxListeners?.(0);
  socket.on?.("close", callBack);
  return () => void socket.off?.("close", callBack);
}

/**
 * Reads a body and puts it back, so that whoever comes next finds the stream as it was: a parser, an upload, a proxy.
 * `undefined` when it is longer than `maxBytes`; not much more than that is ever kept.
 */
export function peekBody(
  incoming: NodeRequest,
  maxBytes: number,
  signal?: AbortSignal,
): Promise<Uint8Array | undefined> {
  return new Promise((resolve, reject) => {
    const chunks: Uint8Array[] = [];
    let size = 0;
    let isListening = false;
    let isOver = false;

    function stop(): void {
      isOver = true;
      if (!isListening) return;
      incoming.off("readable", onReadable);
      incoming.off("end", onEnd);
      incoming.off("close", onClose);
      signal?.removeEventListener("abort", onAbort);
    }
    /**
     * Before the stream notices that it is empty: from its `end` on nothing can be put back. In one piece, since each
     * of many would cost as much as there are: a client that sends single bytes could stop the process for minutes.
     */
    function putBack(isWhole: boolean): void {
      stop();
      const bytes = joinBytes(chunks);
      if (bytes.length > 0) incoming.unshift(bytes);
      resolve(isWhole ? bytes : undefined);
    }
    function onAbort(): void {
      reject(signal?.reason);
      putBack(false);
    }
    function onReadable(): void {
      // Asked first, because to read of nothing lets a stream end.
      while (incoming.readableLength > 0) {
        const chunk = incoming.read() as Uint8Array | null;
        if (chunk === null) return;
        chunks.push(chunk);
        size += chunk.byteLength;
      }
      if (isAborted(incoming)) onClose();
      else if (size > maxBytes) putBack(false);
      else if (isReceived(incoming)) putBack(true);
    }
    /** Only if the end comes as a surprise: then the bytes are known, but cannot be put back. */
    function onEnd(): void {
      stop();
      if (isAborted(incoming)) reject(CLIENT_GONE);
      else resolve(joinBytes(chunks));
    }
    function onClose(): void {
      stop();
      reject(CLIENT_GONE);
    }

    if ((incoming.destroyed && !incoming.readableEnded) || isAborted(incoming)) return reject(CLIENT_GONE);
    // Somebody has read it.
    if (incoming.readableEnded) return resolve(undefined);
    if (isReceived(incoming) && incoming.readableLength === 0) return resolve(new Uint8Array());
    if (Number(incoming.headers["content-length"]) > maxBytes) return resolve(undefined);
    // Somebody has it decoded: what is read then is text, not what was sent.
    if (incoming.readableEncoding) return resolve(undefined);
    // As most bodies that are short: then there is nothing to listen to.
    if (incoming.stream === undefined && isReceived(incoming)) onReadable();
    if (isOver) return;
    isListening = true;
    incoming.on("end", onEnd);
    incoming.on("close", onClose);
    incoming.on("readable", onReadable);
    signal?.addEventListener("abort", onAbort);
  });
}

/**
 * Whether nothing more will come, though it may not have been read. HTTP/2, and requests that are injected in tests,
 * tell it by their stream only.
 */
function isReceived(incoming: NodeRequest): boolean {
  const { _readableState: state } = incoming as { readonly _readableState?: { readonly ended?: boolean } };
  return incoming.complete === true || state?.ended === true;
}

/** Whether the client is gone, or somebody else has answered, as a timeout in front of the guard may do. */
function isTaken(exchange: Answering): boolean {
  return exchange.response.headersSent || isGone(exchange);
}

function isGone({ incoming, response }: Answering): boolean {
  return response.destroyed || response.stream?.destroyed === true || incoming.socket.destroyed === true;
}

function isAborted({ stream }: NodeRequest | NodeResponse): boolean {
  return stream?.aborted === true;
}

function respond(response: NodeResponse, { status, headers, body }: Answer): void {
  response.statusCode = status;
  for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
  response.end(body);
}
