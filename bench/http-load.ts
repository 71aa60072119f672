/**
 * Asks a server from a process of its own: connections that are kept, each with one request at a time under way. On bare
 * sockets, so that asking takes less time than answering.
 */
import { once } from "node:events";
import { connect, type Socket } from "node:net";

export interface LoadTask {
  readonly port: number;
  readonly connections: number;
  readonly seconds: number;
  readonly path: string;
  /** Sent with POST when there is one. */
  readonly body?: string | undefined;
  readonly secrets: readonly string[];
}

export interface LoadReport {
  readonly answered: number;
}

process.on("message", (task: LoadTask) => void run(task));

async function run(task: LoadTask): Promise<void> {
  const requests = task.secrets.map((secret) => requestOf(task, secret));
  const sockets = await Promise.all(
    Array.from({ length: task.connections }, async () => {
      const socket = connect({ port: task.port, host: "127.0.0.1", noDelay: true });
      await once(socket, "connect");
      return socket;
    }),
  );
  const endsAtMs = performance.now() + task.seconds * 1_000;
  let turns = 0;
  const answered = await Promise.all(
    sockets.map((socket) =>
      converse(socket, () => {
        return performance.now() < endsAtMs ? requests[turns++ % requests.length] : undefined;
      }),
    ),
  );
  process.send?.({ answered: answered.reduce((sum, count) => sum + count, 0) } satisfies LoadReport);
}

function requestOf({ port, path, body }: LoadTask, secret: string): Buffer {
  const head = [
    `${body === undefined ? "GET" : "POST"} ${path} HTTP/1.1`,
    `Host: 127.0.0.1:${port}`,
    `Authorization: Bearer ${secret}`,
    "Accept: application/json",
    "User-Agent: bench",
    ...(body === undefined
      ? []
      : ["Content-Type: application/json", `Content-Length: ${Buffer.byteLength(body)}`]),
  ];
  return Buffer.from(`${head.join("\r\n")}\r\n\r\n${body ?? ""}`);
}

/** Sends the next request whenever one was answered, until there is none; how many were. @throws Error if not with 200 */
function converse(socket: Socket, next: () => Buffer | undefined): Promise<number> {
  return new Promise((resolve, reject) => {
    let answered = 0;
    let text = "";

    function send(): void {
      const request = next();
      if (request !== undefined) return void socket.write(request);
      socket.destroy();
      resolve(answered);
    }

    socket.setEncoding("latin1");
    socket.on("error", reject);
    socket.on("data", (part: string) => {
      text += part;
      const length = lengthOf(text);
      if (length === undefined || text.length < length) return;
      if (!text.startsWith("HTTP/1.1 200 ")) return reject(new Error(text));
      text = text.slice(length);
      answered += 1;
      send();
    });
    send();
  });
}

/** How long an answer is, once its head is there. */
function lengthOf(text: string): number | undefined {
  const end = text.indexOf("\r\n\r\n");
  if (end < 0) return undefined;
  const length = /\r\ncontent-length: *(\d+)/i.exec(text)?.[1];
  if (length === undefined || text.lastIndexOf("\r\n", end) < 0) throw new Error(`No length: ${text}`);
  return end + 4 + Number(length);
}
