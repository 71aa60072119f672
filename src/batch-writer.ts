import type { KeystileError } from "./errors.js";
import { confirmedOf, type LiveGroup, type Surroundings, unknownOf } from "./live-group.js";
import type { LiveGroups } from "./live-groups.js";
import type { WriteResult } from "./store.js";
import type { Attempt } from "./unanswered.js";

/** One write for groups that have chosen their documents. One that is lost or unreadable holds up no other. */
export function batchWriter(
  { session, runtime }: Pick<Surroundings, "session" | "runtime">,
  groups: LiveGroups,
): (batch: readonly { readonly group: LiveGroup }[]) => Promise<void> {
  async function writeBatch(batch: readonly { readonly group: LiveGroup }[]): Promise<void> {
    const isStale = session.isStale();
    const toRead = new Map<LiveGroup, readonly string[]>();
    for (const { group } of batch) {
      const ids = isStale ? group.chosen : unknownOf(group);
      if (ids.length > 0) toRead.set(group, ids);
    }
    const unreadable = toRead.size === 0 ? toRead : await refresh(toRead);
    const timeMs = runtime.monotonicMs();
    const tried: LiveGroup[] = [];
    const attempts: Attempt[] = [];
    const writes: Attempt["writes"][] = [];
    for (const { group } of batch) {
      const attempt = unreadable.has(group) ? undefined : prepare(group, timeMs);
      if (attempt === undefined) continue;
      tried.push(group);
      attempts.push(attempt);
      writes.push(attempt.writes);
    }
    if (attempts.length === 0) return;

    let results: readonly WriteResult[];
    try {
      results = await session.write(writes);
    } catch (error) {
      for (const [at, group] of tried.entries())
        groups.failed(group, attempts[at] as Attempt, error as KeystileError);
      return;
    }
    const heardAtMs = runtime.monotonicMs();
    for (let at = 0; at < tried.length; at += 1) {
      const group = tried[at] as LiveGroup;
      const attempt = attempts[at] as Attempt;
      const result = results[at];
      if (result?.written) groups.written(group, attempt, result.versions, heardAtMs);
      else groups.lost(group, attempt, result?.current ?? [], heardAtMs);
    }
  }

  function prepare(group: LiveGroup, timeMs: number): Attempt | undefined {
    try {
      return groups.prepare(group, timeMs);
    } catch (error) {
      groups.unreadable(group, error);
      return undefined;
    }
  }

  /** Brings documents up to date with one read; returns the groups of which nothing reliable is known. */
  async function refresh(toRead: ReadonlyMap<LiveGroup, readonly string[]>): Promise<ReadonlySet<LiveGroup>> {
    const versions = new Map([...toRead].map(([group, ids]) => [group, versionsOf(group, ids)]));
    try {
      const found = await session.read([...toRead.values()].flat());
      const timeMs = runtime.monotonicMs();
      for (const [group, ids] of toRead)
        groups.adopt(group, ids, found, versions.get(group) ?? new Map(), timeMs);
      return new Set();
    } catch (error) {
      for (const group of toRead.keys()) groups.unreadable(group, error);
      return new Set(toRead.keys());
    }
  }

  return writeBatch;
}

/** The versions of documents as they are confirmed; 0: not there, as far as is known. */
export function versionsOf(group: LiveGroup, ids: readonly string[]): ReadonlyMap<string, number> {
  return new Map(ids.map((id) => [id, confirmedOf(group, id)?.version ?? 0]));
}
