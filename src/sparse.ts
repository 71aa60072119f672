/*
 * Sets and maps of which there is one for every document in memory, and which hardly any of them ever needs: until then
 * all share one that is empty. They are changed through here only, and whoever holds one takes over what is returned.
 */

export const NO_IDS: ReadonlySet<string> = new Set<string>();

export const NO_ENTRIES: ReadonlyMap<string, never> = new Map<string, never>();

export function withId(ids: ReadonlySet<string>, id: string): ReadonlySet<string> {
  if (ids === NO_IDS) return new Set([id]);
  (ids as Set<string>).add(id);
  return ids;
}

export function withoutId(ids: ReadonlySet<string>, id: string): ReadonlySet<string> {
  if (ids.size === 0) return NO_IDS;
  (ids as Set<string>).delete(id);
  return ids;
}

export function withItem<T>(items: ReadonlyMap<string, T>, id: string, item: T): ReadonlyMap<string, T> {
  if (items === NO_ENTRIES) return new Map([[id, item]]);
  (items as Map<string, T>).set(id, item);
  return items;
}

export function withoutItem<T>(items: ReadonlyMap<string, T>, id: string): ReadonlyMap<string, T> {
  if (items.size === 0) return NO_ENTRIES;
  (items as Map<string, T>).delete(id);
  return items;
}
