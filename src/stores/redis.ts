import { KeystileError } from "../errors.js";
import { compareIds } from "../id-order.js";
import type { Document, Store, Write, WriteResult } from "../store.js";
import { textOfBody } from "./json-text.js";
import { type RedisClient, type ScriptCall, scriptRunner } from "./redis-client.js";
import { headOf, type Outcome, toResult } from "./redis-documents.js";
import { barrierOf, type RedisDurability } from "./redis-durability.js";
import { formatNewer, refuseEviction, together } from "./redis-faults.js";
import { COMMIT, FORMAT, RANGE, SETUP } from "./redis-scripts.js";
import { byTag, partsByTag, TAGS, tagOf } from "./redis-tags.js";

export type { IoredisClient, NodeRedisClient, RedisClient } from "./redis-client.js";
export type { RedisDurability } from "./redis-durability.js";

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
  const tagKeys = (tag: string): readonly string[] => [metaKey(tag), `${prefix}{${tag}}.index`];

  /** Writes groups by one call of the script, or on a cluster by one for each tag. */
  async function commit(
    groups: readonly (readonly Write[])[],
  ): Promise<{ results: WriteResult[]; now: number }> {
    const parts = isSharded ? partsByTag(groups) : [groups.map((_, g) => g)];
    const replies = await together(parts.map((part) => commitPart(part.map((g) => groups[g] ?? []))));
    let now = 0;
    const results: WriteResult[] = [];
    for (const [p, part] of parts.entries()) {
      const { outcomes, time, waited } = replies[p] as PartReply;
      now = Math.max(now, time);
      for (const [n, g] of part.entries()) results[g] = toResult(groups[g] ?? [], outcomes[n] ?? []);
      if (waited !== undefined && part.some((g) => results[g]?.written)) barrier?.check(waited);
    }
    return { results, now };
  }

  async function commitPart(groups: readonly (readonly Write[])[]): Promise<PartReply> {
    for (let knowsAll = false; ; knowsAll = true) {
      const call = commitCall(groups, knowsAll);
      const reply = await runner.run(call);
      const [[time, ...outcomes], waited] = (call.follow === undefined ? [reply] : reply) as [
        [(number | string)?, ...Outcome[]],
        unknown?,
      ];
      // Without it nothing was written: a document changes hands, which only the server could know.
      if (time !== undefined) return { outcomes, time: Number(time), waited };
    }
  }

  /** @param knowsAll also tells the indexes of what was there before. What is made or deleted needs them anyway. */
  function commitCall(groups: readonly (readonly Write[])[], knowsAll: boolean): ScriptCall {
    const keys: string[] = [];
    const bodies: string[] = [];
    let plan = "";
    let changes = false;
    for (const group of groups) {
      const isIndexed = knowsAll || group.some(({ expected, set }) => expected === 0 || set === null);
      plan += `${isIndexed ? -group.length : group.length}\n`;
      for (const write of group) {
        const tag = tagOf(write.id);
        if (keys.length === 0) keys.push(metaKey(tag));
        keys.push(`${prefix}{${tag}}:${write.id}`);
        if (isIndexed) keys.push(...tagKeys(tag));
        plan += `${headOf(write)}\n`;
        bodies.push(write.set === undefined ? "" : textOfBody(write.set));
        changes ||= write.set !== undefined;
      }
    }
    // Without any document it is asked for the time alone.
    if (keys.length === 0) keys.push(metaKey("00"));
    const follow = changes ? barrier?.command : undefined;
    return { script: COMMIT, keys, input: [FORMAT, plan, ...bodies], follow };
  }

  async function read(ids: readonly string[]): Promise<{ documents: Document[]; now: number }> {
    const groups = isSharded ? [...byTag(ids).values()] : [ids];
    const { results, now } = await commit(
      groups.map((group) => group.map((id) => ({ id, expected: NEVER }))),
    );
    return { documents: results.flatMap((result) => (result.written ? [] : result.current)), now };
  }

  /** Runs a script over all tags: by one call, or on a cluster by one for each. */
  function runEverywhere(
    script: string,
    keysOf: (tag: string) => readonly string[],
    input: readonly string[],
    follow?: readonly string[],
  ): Promise<unknown[]> {
    const parts = isSharded ? TAGS.map((tag) => [tag]) : [TAGS];
    return together(parts.map((tags) => runner.run({ script, keys: tags.flatMap(keysOf), input, follow })));
  }

  /** The first ids of a list from a bound on, in order; at least one if there is any. */
  async function nextIds(
    { head, from, until }: IdRange,
    wanted: number,
  ): Promise<{ ids: readonly string[]; isLast: boolean }> {
    const stride = Math.min(wanted, STRIDE);
    const bounds = [`${from[0]}${head}${from.slice(1)}`, `(${head}${until}`];
    const replies = await runEverywhere(RANGE, tagKeys, [FORMAT, ...bounds, String(stride)]);
    const ranges = (replies as string[][][])
      .flat()
      .map((members) => members.map((member) => member.slice(head.length)));
    // A range as long as it may be goes on, perhaps before what others have further down.
    const ends = ranges.filter(({ length }) => length === stride).map((range) => range.at(-1) ?? "");
    const [end] = ends.sort(compareIds);
    const isSure = (id: string): boolean => end === undefined || compareIds(id, end) <= 0;
    const sure = ranges.flat().filter(isSure).sort(compareIds);
    return { ids: sure.slice(0, wanted), isLast: end === undefined && sure.length <= wanted };
  }

  return {
    async setup() {
      const metaKeys = (tag: string): readonly string[] => [metaKey(tag)];
      const found = (await runEverywhere(SETUP, metaKeys, [])) as [string, ...(string | null)[]][];
      for (const [policy, ...formats] of found) {
        refuseEviction(policy, allowUnknownEviction);
        for (const format of formats) if (format !== null && format !== FORMAT) throw formatNewer(format);
      }
      await runEverywhere(SETUP, metaKeys, [FORMAT], barrier?.command);
    },
    read,
    write: commit,

    async list({ kind, owner, after, limit }) {
      const isWithin = after !== undefined && compareIds(after, `${kind}:`) >= 0;
      const range = { head: owner === undefined ? ":" : JSON.stringify(owner), until: `${kind};` };
      const documents: Document[] = [];
      for (let from = isWithin ? `(${after}` : `[${kind}:`; ; ) {
        // One more than asked for tells whether there is a next page.
        const { ids, isLast } = await nextIds({ ...range, from }, limit + 1 - documents.length);
        // A document may have gone, or changed hands, since its id was found.
        const found = (await read(ids)).documents.filter((one) => owner === undefined || one.owner === owner);
        documents.push(...found.sort((a, b) => compareIds(a.id, b.id)));
        if (documents.length > limit) {
          const page = documents.slice(0, limit);
          return { documents: page, next: page.at(-1)?.id ?? "" };
        }
        if (isLast) return { documents };
        from = `(${ids.at(-1)}`;
      }
    },

    async close() {},
  };
}

interface PartReply {
  readonly outcomes: readonly Outcome[];
  readonly time: number;
  /** What the barrier's command said, if it was sent. */
  readonly waited: unknown;
}

/** The members of the indexes that begin alike and whose ids lie between two bounds. */
interface IdRange {
  readonly head: string;
  /** `[` or `(`, and the id from which on, or after which. */
  readonly from: string;
  /** The id before which. */
  readonly until: string;
}
