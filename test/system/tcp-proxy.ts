import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import type { Random } from "../model/random.js";

/** What the way to the server is like. Every part that passes by, in either direction, is judged on its own. */
export interface Weather {
  /** How likely a reply is lost: the server has done what was asked, and the client is never told. */
  readonly lossOfReplies: number;
  /** How likely a part of a request or of a reply breaks off in the middle. */
  readonly breaks: number;
  /** How likely a part of a reply arrives twice. */
  readonly repeats: number;
  /** New connections ask everything of the server once more, on a way of their own, and nobody hears those replies. */
  readonly asksTwice: boolean;
  /** How long a connection stays open and silent once it has lost something; 0 ends it at once. */
  readonly silenceMs: number;
  /** The most by which a reply is late. */
  readonly delayMs: number;
  /** Connections end as they come. */
  readonly isClosed: boolean;
}

const CALM: Weather = {
  lossOfReplies: 0,
  breaks: 0,
  repeats: 0,
  asksTwice: false,
  silenceMs: 0,
  delayMs: 0,
  isClosed: false,
};

export interface TcpProxy {
  readonly port: number;
  /** Holds for connections there are, too. */
  setWeather(weather: Partial<Weather>): void;
  /** Ends every connection. */
  cut(): void;
  /** How many replies were lost, how many parts broke off, and how many came twice. */
  count(): { readonly lost: number; readonly broken: number; readonly repeated: number };
  stop(): Promise<void>;
}

/** A way to a server on this machine which loses, delays, repeats and breaks off what it carries. It never changes the order. */
export async function startTcpProxy(serverPort: number, random: Random): Promise<TcpProxy> {
  const open = new Set<Socket>();
  let weather = CALM;
  let [lost, broken, repeated] = [0, 0, 0];

  const server = createServer((client) => {
    if (weather.isClosed) {
      client.destroy();
      return;
    }
    const upstream = connect(serverPort, "127.0.0.1");
    const echo = weather.asksTwice ? connect(serverPort, "127.0.0.1") : undefined;
    const all = echo === undefined ? [client, upstream] : [client, upstream, echo];
    function end(): void {
      for (const socket of all) socket.destroy();
    }
    for (const socket of all) {
      open.add(socket);
      socket.setNoDelay();
      socket.on("error", () => {});
      socket.on("close", () => {
        open.delete(socket);
        end();
      });
    }
    carry(client, upstream, end, false);
    if (echo !== undefined) {
      client.on("data", (part) => void echo.write(part));
      echo.on("data", () => {
        repeated += 1;
      });
    }
    carry(upstream, client, end, true);
  });

  function carry(from: Socket, to: Socket, end: () => void, areReplies: boolean): void {
    let isOver = false;
    let last = Promise.resolve();
    from.on("data", (part) => {
      if (isOver) return;
      const { lossOfReplies, breaks, repeats, silenceMs, delayMs } = weather;
      const isLost = areReplies && random.chance(lossOfReplies);
      const isBroken = !isLost && random.chance(breaks);
      const rest = isLost ? part.subarray(0, 0) : isBroken ? part.subarray(0, part.length >> 1) : part;
      const isRepeated = areReplies && !isLost && !isBroken && random.chance(repeats);
      if (isLost) lost += 1;
      if (isBroken) broken += 1;
      if (isRepeated) repeated += 1;
      isOver = isLost || isBroken;
      const doomed = isOver;
      const ripe = areReplies && delayMs > 0 ? wait(random.between(0, delayMs)) : undefined;
      last = last.then(async () => {
        await ripe;
        if (rest.length > 0 && !to.destroyed) to.write(rest);
        if (isRepeated && !to.destroyed) to.write(rest);
        if (doomed) setTimeout(end, silenceMs);
      });
    });
  }

  server.listen(0, "127.0.0.1");
  await once(server, "listening");

  function cut(): void {
    for (const socket of open) socket.destroy();
  }

  return {
    port: (server.address() as AddressInfo).port,
    setWeather(change) {
      weather = { ...CALM, ...change };
    },
    cut,
    count: () => ({ lost, broken, repeated }),
    async stop() {
      cut();
      server.close();
      await once(server, "close");
    },
  };
}

function wait(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
