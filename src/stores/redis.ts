import { KeystileError } from "../errors.js";
import { compareIds } from "../id-order.js";
import type { Document, Json, Store, Write, WriteResult } from "../store.js";
import { type RedisClient, type ScriptCall, scriptRunner } from "./redis-client.js";
import { FORMAT, formatNewer, refuseEviction, together } from "./redis-faults.js";
import { COMMIT, RANGE, SETUP } from "./redis-scripts.js";

export type { IoredisClient, NodeRedisClient, RedisClient } from "./redis-client.js";

export interface RedisStoreOptions {
  /** What the name of every key begins with, without braces. Default `keystile:`. */
  readonly prefix?: string;
  /** Whether the server is sharded. Default: whether the client is one for Redis Cluster. */
  readonly cluster?: boolean;
  /** Makes `setup()` accept a server that does not tell its `maxmemory-policy`. Default false. */
  readonly allowUnknownEviction?: boolean;
  /** What a write waits for before it is acknowledged. Default: that the primary has it in memory. */
  readonly durability?: RedisDurability;
}

export interface RedisDurability {
  /** Replicas that must have the write, in memory or, with `fsync`, on disk. Default 0. */
  readonly replicas?: number;
  /** Whether the primary must have it on disk. Needs an append-only file and Redis 7.2 or Valkey. Default false. */
  readonly fsync?: boolean;
  /** After so long the call throws; the write has happened and may yet be kept or lost. Default 1,000. */
  readonly timeoutMs?: number;
}

export interface RedisStore extends Store {
  /**
   * Marks the database as one of Keystile; until then every other call is a fault, as it is after the server has
   * lost its data. Call it whenever a process starts: any number may at any time.
   *
   * @throws KeystileError `invalid_options` when the server may evict keys, does not tell whether it may, or cannot
   * wait as `durability` demands; `format_newer` when a newer version of this package has set the database up.
   */
  setup(): Promise<void>;
}

/**
 * What a hash tag may be: the first two digits of the place in an id, or else of a hash of the id. Few enough that a
 * list can ask all of them, and enough to spread over any cluster.
 */
const TAGS: readonly string[] = Array.from({ length: 256 }, (_, n) => n.toString(16).padStart(2, "0"));

/** How many ids a list takes from each tag at a time. */
const STRIDE = 128;

/** No document has it, so a group that expects it only brings what there is. */
const NEVER = -1;

/**
 * Keeps documents in Redis (6.2 or later) or Valkey, alone or in a cluster, through a client of ioredis or node-redis
 * that is handed in and never closed.
 *
 * What was acknowledged is as safe as the server makes it, which by default is not very: a crash may lose the last
 * second, a failover the last writes, and with them money that was spent and keys that were revoked. `durability`
 * and the page `docs/redis.md` say what can be done about it.
 *
 * @example
 * const store = redisStore(new Redis(url));
 * await store.setup();
 */
export function redisStore(client: RedisClient, options: RedisStoreOptions = {}): RedisStore {
  const { prefix = "keystile:", allowUnknownEviction = false } = options;
  if (/[{}]/.test(prefix)) {
    throw new KeystileError(
      "invalid_options",
      `prefix must have no braces: received ${JSON.stringify(prefix)}`,
    );
  }
  const barrier = barrierOf(options.durability ?? {});
  const runner = scriptRunner(client);
  const isSharded = options.cluster ?? runner.isCluster;

  const metaKey = (tag: string): string => `${prefix}{${tag}}.meta`;
  const indexKey = (tag: string): string => `${prefix}{${tag}}.index`;
  const documentKey = (id: string): string => `${prefix}{${tagOf(id)}}:${id}`;

  /** Writes groups by one call of the script, or on a cluster by one for each tag. */
  async function commit(
    groups: readonly (readonly Write[])[],
  ): Promise<{ results: WriteResult[]; now: number }> {
    const parts = isSharded ? partsByTag(groups) : [groups.map((_, g) => g)];
    const calls = parts.map((part) => commitCall(part.map((g) => groups[g] ?? [])));
    const replies = await together(calls.map((call) => runner.run(call)));
    let now = 0;
    const results: WriteResult[] = [];
    for (const [p, part] of parts.entries()) {
      const waits = calls[p]?.follow !== undefined;
      const [reply, waited] = (waits ? replies[p] : [replies[p]]) as [[number, ...Outcome[]], unknown?];
      const [time, ...outcomes] = reply;
      now = Math.max(now, Number(time));
      for (const [n, g] of part.entries()) results[g] = toResult(groups[g] ?? [], outcomes[n] ?? []);
      const hasWritten = part.some((g) => results[g]?.written);
      if (hasWritten && waits) barrier?.check(waited);
    }
    return { results, now };
  }

  function commitCall(groups: readonly (readonly Write[])[]): ScriptCall {
    const ids = groups.flat().map(({ id }) => id);
    // Without any document it is asked for the time alone.
    const tags = ids.length === 0 ? ["00"] : [...new Set(ids.map(tagOf))];
    const input = groups.flatMap((group) => [
      String(group.length),
      ...group.flatMap(({ id, expected, owner, set }) => [
        String(tags.indexOf(tagOf(id)) + 1),
        id,
        String(expected),
        owner === undefined ? "" : JSON.stringify(owner),
        set === undefined ? "" : JSON.stringify(set),
      ]),
    ]);
    const onlyChecks = groups.every((group) => group.every(({ set }) => set === undefined));
    return {
      script: COMMIT,
      keys: [...tags.flatMap((tag) => [metaKey(tag), indexKey(tag)]), ...ids.map(documentKey)],
      input: [FORMAT, String(tags.length), ...input],
      follow: onlyChecks ? undefined : barrier?.command,
    };
  }

  async function read(ids: readonly string[]): Promise<{ documents: Document[]; now: number }> {
    const groups = isSharded ? [...byTag(ids).values()] : [ids];
    const { results, now } = await commit(
      groups.map((group) => group.map((id) => ({ id, expected: NEVER }))),
    );
    return { documents: results.flatMap((result) => (result.written ? [] : result.current)), now };
  }

  /** Runs a script over one key of every tag; the replies to one call each, or on a cluster to one for each tag. */
  function runEverywhere(
    script: string,
    keyOf: (tag: string) => string,
    input: string[],
    follow?: readonly string[],
  ): Promise<unknown[]> {
    const parts = isSharded ? TAGS.map((tag) => [tag]) : [TAGS];
    return together(parts.map((tags) => runner.run({ script, keys: tags.map(keyOf), input, follow })));
  }

  /** The first ids after a bound, in order: at least one, unless there is none. */
  async function nextIds(
    owner: string,
    from: string,
    kind: string,
    wanted: number,
  ): Promise<[string[], boolean]> {
    const stride = Math.min(wanted, STRIDE);
    const bounds = [`${from[0]}${owner}${from.slice(1)}`, `(${owner}${kind};`];
    const replies = (await runEverywhere(RANGE, indexKey, [...bounds, String(stride)])) as string[][][];
    const ranges = replies.flat().map((members) => members.map((member) => member.slice(owner.length)));
    const ids = ranges.flat().sort(compareIds);
    // A full range may go on, and what follows the first one to end may be out of order with what it would bring.
    const ends = ranges.filter(({ length }) => length === stride).map((range) => range.at(-1) ?? "");
    const [end] = ends.sort(compareIds);
    const sure = end === undefined ? ids : ids.slice(0, ids.indexOf(end) + 1);
    return [sure.slice(0, wanted), end === undefined && sure.length <= wanted];
  }

  return {
    async setup() {
      const found = (await runEverywhere(SETUP, metaKey, [])) as [string, ...(string | null)[]][];
      for (const [policy, ...formats] of found) {
        refuseEviction(policy, allowUnknownEviction);
        for (const format of formats) if (format !== null && format !== FORMAT) throw formatNewer(format);
      }
      await runEverywhere(SETUP, metaKey, [FORMAT], barrier?.command);
    },
    read,
    write: commit,

    async list({ kind, owner, after, limit }) {
      const prefixed = owner === undefined ? ":" : JSON.stringify(owner);
      const documents: Document[] = [];
      const isWithin = after !== undefined && compareIds(after, `${kind}:`) >= 0;
      let from = isWithin ? `(${after}` : `[${kind}:`;
      for (;;) {
        // One more than asked for tells whether there is a next page.
        const [ids, isLast] = await nextIds(prefixed, from, kind, limit + 1 - documents.length);
        const found = new Map((await read(ids)).documents.map((document) => [document.id, document]));
        for (const id of ids) {
          const document = found.get(id);
          // It may have gone, or changed hands, since its id was listed.
          if (document !== undefined && (owner === undefined || document.owner === owner))
            documents.push(document);
        }
        const page = documents.slice(0, limit);
        const next = documents.length > limit ? page.at(-1)?.id : undefined;
        if (isLast || next !== undefined) return { documents: page, ...(next === undefined ? {} : { next }) };
        from = `(${ids.at(-1)}`;
      }
    },

    async close() {},
  };
}

function tagOf(id: string): string {
  const place = /^[^:]*:([0-9a-f]{2})[0-9a-f]\./.exec(id)?.[1];
  if (place !== undefined) return place;
  let hash = 0x811c9dc5;
  for (let at = 0; at < id.length; at += 1) hash = Math.imul(hash ^ id.charCodeAt(at), 0x01000193);
  return TAGS[(hash >>> 0) % TAGS.length] as string;
}

function byTag(ids: readonly string[]): ReadonlyMap<string, readonly string[]> {
  const found = new Map<string, string[]>();
  for (const id of ids) found.set(tagOf(id), [...(found.get(tagOf(id)) ?? []), id]);
  return found;
}

/** Which groups go together. One that is in several tags has no node that could write it whole. */
function partsByTag(groups: readonly (readonly Write[])[]): readonly (readonly number[])[] {
  const parts = new Map<string, number[]>();
  for (const [g, group] of groups.entries()) {
    const tags = [...byTag(group.map(({ id }) => id)).keys()];
    if (tags.length > 1) {
      throw new KeystileError(
        "invalid_options",
        `on a cluster the ids of a group must share their place: received ${group.map(({ id }) => id).join(", ")}`,
      );
    }
    parts.set(tags[0] ?? "00", [...(parts.get(tags[0] ?? "00") ?? []), g]);
  }
  return parts.size === 0 ? [[]] : [...parts.values()];
}

/** 1 and the versions, or 0 and the documents, null where there is none. */
type Outcome = readonly (number | string | null)[];

function toResult(group: readonly Write[], [written, ...members]: Outcome): WriteResult {
  if (Number(written) === 1) return { written: true, versions: members.map(Number) };
  return {
    written: false,
    current: group.flatMap(({ id }, m) => (members[m] ? [toDocument(id, String(members[m]))] : [])),
  };
}

function toDocument(id: string, text: string): Document {
  const [version = "", owner = ""] = text.split("\n", 2);
  return {
    id,
    version: Number(version),
    ...(owner === "" ? {} : { owner: JSON.parse(owner) as string }),
    body: toJson(text.slice(version.length + owner.length + 2)),
  };
}

/** What is not JSON is no document of ours. As null it is refused by whoever reads it, and by nobody else. */
function toJson(text: string): Json {
  try {
    return JSON.parse(text) as Json;
  } catch {
    return null;
  }
}

interface Barrier {
  readonly command: readonly string[];
  /** @throws KeystileError when the reply says that a write is not as safe as it should be. */
  check(reply: unknown): void;
}

function barrierOf({ replicas = 0, fsync = false, timeoutMs = 1_000 }: RedisDurability): Barrier | undefined {
  for (const [name, value, least] of [
    ["replicas", replicas, 0] as const,
    ["timeoutMs", timeoutMs, 1] as const,
  ]) {
    if (!Number.isSafeInteger(value) || value < least) {
      throw new KeystileError(
        "invalid_options",
        `durability.${name} must be an integer of at least ${least}: received ${value}`,
      );
    }
  }
  if (replicas === 0 && !fsync) return undefined;
  const rest = [String(replicas), String(timeoutMs)];
  return {
    command: fsync ? ["WAITAOF", "1", ...rest] : ["WAIT", ...rest],
    check(reply) {
      const [own, others] = fsync ? (reply as [unknown, unknown]) : [1, reply];
      if (Number(own) >= 1 && Number(others) >= replicas) return;
      const where = fsync
        ? `${own} of 1 primary and ${others} of ${replicas} replicas on disk`
        : `${others} of ${replicas} replicas`;
      throw new KeystileError(
        "store_unavailable",
        `Redis: after ${timeoutMs} ms a write had reached ${where}`,
      );
    },
  };
}
