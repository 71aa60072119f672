import { KeystileError } from "../errors.js";
import { hashOfId } from "../id-hash.js";
import type { Write } from "../store.js";

/**
 * What a hash tag may be: the first two digits of the place in an id, or else of a hash of the id. Few enough that a
 * list can ask all of them, and enough to spread over any cluster.
 */
export const TAGS: readonly string[] = Array.from({ length: 256 }, (_, n) => n.toString(16).padStart(2, "0"));

export function tagOf(id: string): string {
  const place = /^[^:]*:([0-9a-f]{2})[0-9a-f]\./.exec(id)?.[1];
  if (place !== undefined) return place;
  return TAGS[hashOfId(id) % TAGS.length] as string;
}

export function byTag(ids: readonly string[]): ReadonlyMap<string, readonly string[]> {
  const found = new Map<string, string[]>();
  for (const id of ids) append(found, tagOf(id), id);
  return found;
}

/** Which groups go together. One that is in several tags has no node that could write it whole. */
export function partsByTag(groups: readonly (readonly Write[])[]): readonly (readonly number[])[] {
  const parts = new Map<string, number[]>();
  for (const [g, group] of groups.entries()) {
    const ids = group.map(({ id }) => id);
    const [tag = "00", another] = byTag(ids).keys();
    if (another !== undefined) {
      throw new KeystileError(
        "invalid_options",
        `on a cluster the ids of a group must share their place: received ${ids.join(", ")}`,
      );
    }
    append(parts, tag, g);
  }
  return parts.size === 0 ? [[]] : [...parts.values()];
}

function append<T>(lists: Map<string, T[]>, name: string, item: T): void {
  const list = lists.get(name);
  if (list === undefined) lists.set(name, [item]);
  else list.push(item);
}
