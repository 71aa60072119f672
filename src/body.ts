/**
 * Reads a JSON body of a request that stays readable for whoever comes next.
 *
 * What cannot be told plainly is `undefined`: no body, one already read, a media type that is not JSON in UTF-8, a
 * compressed body, more than `maxBytes` (no more than that is ever kept), bytes that are not UTF-8, text that is not
 * JSON, and a top-level member that occurs twice, also in another case: another parser may take the other one.
 *
 * @throws whatever the body's stream throws when it breaks.
 */
export async function readJsonBody(request: Request, maxBytes: number): Promise<unknown> {
  const declaredBytes = Number(request.headers.get("content-length"));
  if (!isPlainJson(request.headers) || declaredBytes > maxBytes) return undefined;
  if (request.bodyUsed || request.body === null) return undefined;
  const body = request.clone().body;
  const text = body === null ? undefined : await readText(body.getReader(), maxBytes);
  return text === undefined ? undefined : parseJson(text);
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

function isPlainJson(headers: Headers): boolean {
  const encoding = headers.get("content-encoding") ?? "identity";
  const type = headers.get("content-type") ?? "";
  return (
    encoding.toLowerCase() === "identity" &&
    /^application\/(?:[\w.-]+\+)?json[ \t]*(?:;[ \t]*charset="?utf-8"?[ \t]*)?$/i.test(type)
  );
}

/** The whole text, unless it is too long or not UTF-8. A byte order mark stays, and is then no JSON. */
async function readText(
  reader: ReadableStreamDefaultReader<Uint8Array>,
  maxBytes: number,
): Promise<string | undefined> {
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
  try {
    const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    return chunks.map((chunk) => decoder.decode(chunk, { stream: true })).join("") + decoder.decode();
  } catch {
    return undefined;
  }
}

function parseJson(text: string): unknown {
  try {
    const value: unknown = JSON.parse(text);
    return repeatsMember(text) ? undefined : value;
  } catch {
    return undefined;
  }
}

/** Whether an object, known to be valid JSON, has a member twice. Reads every character at most three times. */
function repeatsMember(text: string): boolean {
  const names = new Set<string>();
  const colon = /[ \t\r\n]*:/y;
  let depth = 0;
  for (let at = 0; at < text.length; at++) {
    const character = text[at];
    if (character === "{" || character === "[") depth++;
    else if (character === "}" || character === "]") depth--;
    else if (character === '"') {
      const end = closingQuote(text, at) + 1;
      colon.lastIndex = end;
      if (depth === 1 && colon.test(text)) {
        const name = String(JSON.parse(text.slice(at, end))).toLowerCase();
        if (names.has(name)) return true;
        names.add(name);
      }
      at = end - 1;
    }
  }
  return false;
}

function closingQuote(text: string, opening: number): number {
  for (let at = opening + 1; ; at++) {
    at = text.indexOf('"', at);
    let backslashes = 0;
    while (text[at - 1 - backslashes] === "\\") backslashes++;
    if (backslashes % 2 === 0) return at;
  }
}
