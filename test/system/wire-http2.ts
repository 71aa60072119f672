import { once } from "node:events";
import { type ClientHttp2Session, type ClientHttp2Stream, connect, constants } from "node:http2";
import { connect as connectSocket } from "node:net";
import { Duplex } from "node:stream";
import type { WireAnswer } from "./adapters-servers.js";

/** Name and value as they go onto the wire, in this order, pseudo-fields included. */
export type Fields = readonly (readonly [name: string, value: string])[];

const PREFACE_LENGTH = 24;
const FRAME_HEAD = 9;
const HEADERS_FRAME = 1;
const END_STREAM = 1;
const END_HEADERS = 4;

/**
 * Sends one request over HTTP/2 with the fields exactly as given, and reads its answer. Status 0: the server refused
 * the stream or the connection.
 *
 * Node's own client sends nothing that is odd. So it sends something harmless, and its fields are replaced on the way;
 * one request to a connection, so that nobody misses the compression tables.
 */
export async function exchangeHttp2(
  port: number,
  fields: Fields,
  body: Uint8Array = new Uint8Array(),
): Promise<WireAnswer> {
  const socket = connectSocket(port, "127.0.0.1");
  const rewrite = replacingFields(encode(fields));
  const wire = new Duplex({
    read() {},
    write(chunk: Buffer, _encoding, done) {
      const bytes = rewrite(chunk);
      if (bytes.length > 0 && !socket.destroyed) socket.write(bytes);
      done();
    },
    destroy(error, done) {
      socket.destroy();
      done(error);
    },
  });
  socket.on("data", (chunk) => wire.push(chunk));
  socket.on("close", () => wire.push(null));
  socket.on("error", () => wire.push(null));
  const session = connect("http://localhost", { createConnection: () => wire });
  session.on("error", () => {});
  try {
    const method = fields.find(([name]) => name === ":method")?.[1] === "HEAD" ? "HEAD" : "POST";
    const stream = session.request({ ":method": method, ":path": "/" }, { endStream: body.length === 0 });
    if (body.length > 0) stream.end(body);
    return await answerOf(session, stream);
  } finally {
    session.destroy();
    wire.destroy();
  }
}

async function answerOf(session: ClientHttp2Session, stream: ClientHttp2Stream): Promise<WireAnswer> {
  let answer: WireAnswer = { status: 0, headers: {}, body: "" };
  let body = "";
  stream.on("error", () => {});
  stream.on("response", (received) => {
    const { ":status": status = 0, ...rest } = received;
    const headers = Object.fromEntries(Object.entries(rest).map(([name, value]) => [name, String(value)]));
    answer = { status, headers, body: "" };
  });
  stream.on("data", (chunk: Buffer) => {
    body += chunk.toString("latin1");
  });
  await Promise.race([once(stream, "end"), once(stream, "close"), once(session, "close")]).catch(() => {});
  const isReset = stream.rstCode !== undefined && stream.rstCode !== constants.NGHTTP2_NO_ERROR;
  return isReset && answer.status === 0 ? answer : { ...answer, body };
}

/** Passes bytes on, with the fields of the first request replaced. */
function replacingFields(block: Buffer): (chunk: Buffer) => Buffer {
  let rest: Buffer = Buffer.alloc(0);
  let isReplaced = false;
  return (chunk) => {
    if (isReplaced) return chunk;
    rest = Buffer.concat([rest, chunk]);
    for (let at = PREFACE_LENGTH; at + FRAME_HEAD <= rest.length; ) {
      const end = at + FRAME_HEAD + rest.readUIntBE(at, 3);
      if (rest[at + 3] === HEADERS_FRAME && end <= rest.length) {
        isReplaced = true;
        return Buffer.concat([
          rest.subarray(0, at),
          withBlock(rest.subarray(at, end), block),
          rest.subarray(end),
        ]);
      }
      at = end;
    }
    return Buffer.alloc(0);
  };
}

function withBlock(frame: Buffer, block: Buffer): Buffer {
  const head = Buffer.from(frame.subarray(0, FRAME_HEAD));
  head.writeUIntBE(block.length, 0, 3);
  head[4] = END_HEADERS | ((frame[4] as number) & END_STREAM);
  return Buffer.concat([head, block]);
}

/** HPACK at its plainest: every field a literal with a new name, neither indexed nor Huffman-coded. */
function encode(fields: Fields): Buffer {
  return Buffer.concat(
    fields.flatMap(([name, value]) => [Buffer.of(0), ...[name, value].flatMap((text) => literal(text))]),
  );
}

function literal(text: string): Buffer[] {
  const bytes = Buffer.from(text, "latin1");
  return [lengthOf(bytes.length), bytes];
}

/** An integer with a prefix of seven bits. */
function lengthOf(length: number): Buffer {
  if (length < 127) return Buffer.of(length);
  const octets = [127];
  let rest = length - 127;
  for (; rest >= 128; rest = Math.floor(rest / 128)) octets.push((rest % 128) + 128);
  return Buffer.from([...octets, rest]);
}
