/**
 * Reads the bytes of a request's body, which stays readable for whoever comes next. `undefined` when somebody has
 * read it already, or when it is longer than `maxBytes`; no more than that is ever kept.
 *
 * @throws whatever the body's stream throws when it breaks.
 */
export async function readBytes(request: Request, maxBytes: number): Promise<Uint8Array | undefined> {
  if (request.body === null) return new Uint8Array();
  if (request.bodyUsed || Number(request.headers.get("content-length")) > maxBytes) return undefined;
  const reader = (request.clone().body as ReadableStream<Uint8Array>).getReader();
  const chunks: Uint8Array[] = [];
  let size = 0;
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    size += read.value.byteLength;
    if (size > maxBytes) {
      // Not awaited: half of a divided stream is given up for good only when the other half is.
      reader.cancel().catch(() => {});
      return undefined;
    }
    chunks.push(read.value);
  }
  return joinBytes(chunks);
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

/**
 * Passes a body on and tells when it is over: read to its end, broken, or given up by its reader, which may happen
 * before the first byte. Nothing is read ahead; a reader that gives up also ends the source.
 */
export function followBody(source: ReadableStream<Uint8Array>): {
  readonly body: ReadableStream<Uint8Array>;
  readonly ended: Promise<void>;
} {
  const reader = source.getReader();
  let end: () => void;
  const ended = new Promise<void>((resolve) => {
    end = resolve;
  });
  const pull = async (controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> => {
    try {
      const { done, value } = await reader.read();
      if (!done) return controller.enqueue(value);
      end();
      controller.close();
    } catch (error) {
      end();
      throw error;
    }
  };
  const cancel = (reason: unknown): Promise<void> => {
    end();
    return reader.cancel(reason);
  };
  return { body: new ReadableStream({ pull, cancel }, { highWaterMark: 0 }), ended };
}
