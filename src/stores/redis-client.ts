/** The part of a client of ioredis (`Redis` or `Cluster`) that is used. */
export interface IoredisClient {
  readonly isCluster?: boolean;
  eval(script: string, keyCount: number, ...keysAndInput: string[]): Promise<unknown>;
  evalsha(digest: string, keyCount: number, ...keysAndInput: string[]): Promise<unknown>;
  pipeline(commands: (string | number)[][]): { exec(): Promise<[Error | null, unknown][] | null> };
}

/** The part of a client of node-redis (`createClient` or `createCluster`) that is used. */
export interface NodeRedisClient {
  eval(script: string, input: { keys: string[]; arguments: string[] }): Promise<unknown>;
  evalSha(digest: string, input: { keys: string[]; arguments: string[] }): Promise<unknown>;
  multi(): unknown;
}

export type RedisClient = IoredisClient | NodeRedisClient;

export interface ScriptCall {
  readonly script: string;
  /** At least one: on a cluster it decides which node is asked. */
  readonly keys: readonly string[];
  readonly input: readonly string[];
  /** A command to follow on the same connection, whose reply is then the second of two. */
  readonly follow?: readonly string[] | undefined;
}

/** A way to run scripts on any of the clients. */
export interface ScriptRunner {
  readonly isCluster: boolean;
  /** What the script returns after the number of the call, which is its first argument and its first answer. */
  run(call: ScriptCall): Promise<unknown>;
}

/** How often a pair of commands is sent after a slot that moves. What a client knows may be out of date again. */
const MAX_TRIES = 4;

/** One count for all stores: they may share a client. */
let calls = 0;

/** Sends a script, or its digest, and what follows. Rejects with the error of whichever fails first. */
type Send = (
  method: "eval" | "evalsha",
  script: string,
  call: Omit<ScriptCall, "script">,
) => Promise<unknown>;

/**
 * Runs scripts by their digest, and whole where the server does not have them: it forgets all of them when it
 * restarts or fails over, and whenever somebody says `SCRIPT FLUSH`.
 */
export function scriptRunner(client: RedisClient): ScriptRunner {
  const digests = new Map<string, Promise<string>>();
  const send = "evalSha" in client ? sendByNodeRedis(client) : sendByIoredis(client);

  async function runOnce(call: ScriptCall): Promise<unknown> {
    const digest = digests.get(call.script) ?? sha1(call.script);
    digests.set(call.script, digest);
    calls += 1;
    const number = String(calls);
    const numbered = { ...call, input: [number, ...call.input] };
    try {
      return answerOf(await send("evalsha", await digest, numbered), number, call);
    } catch (error) {
      if (!/^NOSCRIPT/.test((error as Error).message)) throw error;
      return answerOf(await send("eval", call.script, numbered), number, call);
    }
  }

  return {
    isCluster: "evalSha" in client ? "masters" in client : client.isCluster === true,
    async run(call) {
      for (let tries = 1; ; tries += 1) {
        try {
          return await runOnce(call);
        } catch (error) {
          // Clients send a lone command on to where a slot has moved, and then know the way, but not a pair of them.
          const hasMoved = /^(MOVED|ASK) /.test((error as Error).message);
          if (call.follow === undefined || !hasMoved || tries === MAX_TRIES) throw error;
          await send("eval", "return 0", { keys: call.keys, input: [] });
        }
      }
    },
  };
}

/**
 * The reply without its number. A connection that has lost count of its replies, as may happen where something between
 * has repeated or swallowed one, tells of a write that was lost that it was written.
 */
function answerOf(reply: unknown, number: string, { follow }: ScriptCall): unknown {
  const [first, ...rest] = (follow === undefined ? reply : (reply as unknown[])[0]) as unknown[];
  if (first !== number) throw new Error(`call ${number} got the reply to call ${first}`);
  return follow === undefined ? rest : [rest, (reply as unknown[])[1]];
}

function sendByIoredis(client: IoredisClient): Send {
  return async (method, script, { keys, input, follow }) => {
    if (follow === undefined) return client[method](script, keys.length, ...keys, ...input);
    const pair = [
      [method, script, keys.length, ...keys, ...input],
      ["call", ...follow],
    ];
    const replies = (await client.pipeline(pair).exec()) ?? [];
    return replies.map(([error, reply]) => {
      if (error !== null) throw error;
      return reply;
    });
  };
}

/** A queue of commands of node-redis. On a cluster, commands say by key where they belong. */
interface Queue {
  eval(script: string, input: { keys: string[]; arguments: string[] }): Queue;
  evalSha(digest: string, input: { keys: string[]; arguments: string[] }): Queue;
  addCommand(...parameters: unknown[]): Queue;
  execAsPipeline(): Promise<unknown[]>;
}

function sendByNodeRedis(client: NodeRedisClient): Send {
  return async (method, script, { keys, input, follow }) => {
    const name = method === "eval" ? "eval" : "evalSha";
    const scriptInput = { keys: [...keys], arguments: [...input] };
    if (follow === undefined) return client[name](script, scriptInput);
    const queue = (client.multi() as Queue)[name](script, scriptInput);
    const followed =
      "masters" in client ? queue.addCommand(keys[0], false, [...follow]) : queue.addCommand([...follow]);
    return followed.execAsPipeline();
  };
}

async function sha1(text: string): Promise<string> {
  const bytes = await crypto.subtle.digest("SHA-1", new TextEncoder().encode(text));
  return Array.from(new Uint8Array(bytes), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
