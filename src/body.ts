import type { UsageMeter } from "./usage-meter.js";

/**
 * Reads the bytes of a request's body, which stays readable for whoever comes next. `undefined` when somebody has
 * read it already, when it is longer than `maxBytes` (no more than that is ever kept), or when it cannot be had.
 *
 * @throws whatever the body's stream throws when it breaks; the reason of `signal` when it is aborted.
 */
export async function readBytes(
  request: Request,
  maxBytes: number,
  signal?: AbortSignal,
): Promise<Uint8Array | undefined> {
  const source = bodyOf(request);
  if (source === null) return new Uint8Array();
  if (source === undefined || request.bodyUsed || Number(request.headers.get("content-length")) > maxBytes)
    return undefined;
  const reader = (request.clone().body as ReadableStream<Uint8Array>).getReader();
  // Not awaited: half of a divided stream is given up for good only when the other half is.
  const giveUp = (): void => void reader.cancel().catch(() => {});
  signal?.addEventListener("abort", giveUp);
  const chunks: Uint8Array[] = [];
  let size = 0;
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    size += read.value.byteLength;
    if (size > maxBytes) {
      giveUp();
      return undefined;
    }
    chunks.push(read.value);
  }
  signal?.throwIfAborted();
  return joinBytes(chunks);
}

/** `undefined` where there is no telling: servers make a `Request` late, and cannot of every URL, as with user info. */
export function bodyOf(request: Request): Request["body"] | undefined {
  try {
    return request.body;
  } catch {
    return undefined;
  }
}

/** One array of bytes out of many. */
export function joinBytes(chunks: readonly Uint8Array[]): Uint8Array {
  const [only] = chunks;
  if (chunks.length === 1 && only !== undefined) return only;
  const joined = new Uint8Array(chunks.reduce((size, chunk) => size + chunk.byteLength, 0));
  let at = 0;
  for (const chunk of chunks) {
    joined.set(chunk, at);
    at += chunk.byteLength;
  }
  return joined;
}

/** Read to its end; or broken, or given up by its reader. */
export type BodyEnd = "complete" | "cut";

/**
 * Passes a body on, through a meter if there is one, and tells how it ended, which may happen before the first byte. The
 * meter has been ended then. Nothing is read ahead; a reader that gives up also ends the source.
 */
export function followBody(
  source: ReadableStream<Uint8Array>,
  meter?: Pick<UsageMeter, "push" | "end">,
): { readonly body: ReadableStream<Uint8Array>; readonly ended: Promise<BodyEnd> } {
  const reader = source.getReader();
  let isOver = false;
  let tell: (how: BodyEnd) => void;
  const ended = new Promise<BodyEnd>((resolve) => {
    tell = resolve;
  });

  /** Returns the bytes that the meter held back. */
  function end(how: BodyEnd): Uint8Array {
    if (isOver) return NONE;
    isOver = true;
    const held = meter?.end() ?? NONE;
    tell(how);
    return held;
  }

  async function pull(controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> {
    try {
      let passed: Uint8Array = NONE;
      while (passed.length === 0 && !isOver) {
        const { done, value } = await reader.read();
        passed = done ? end("complete") : pass(value, meter);
      }
      if (passed.length > 0) controller.enqueue(passed);
      if (isOver) controller.close();
    } catch (error) {
      const held = end("cut");
      if (held.length > 0) controller.enqueue(held);
      throw error;
    }
  }

  function cancel(reason: unknown): Promise<void> {
    end("cut");
    return reader.cancel(reason);
  }

  return { body: new ReadableStream({ pull, cancel }, { highWaterMark: 0 }), ended };
}

/** Some servers also take text for bytes; what a meter cannot read passes it by. */
function pass(chunk: Uint8Array, meter: Pick<UsageMeter, "push"> | undefined): Uint8Array {
  return meter === undefined || !(chunk instanceof Uint8Array) ? chunk : meter.push(chunk);
}

const NONE = new Uint8Array();
