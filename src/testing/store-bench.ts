import type { Document, Json, ListQuery, Store, Write, WriteResult } from "../store.js";

/** A case of the conformance suite, not yet bound to a store. */
export interface StoreCase {
  readonly clause: string;
  readonly name: string;
  readonly check: (bench: Bench) => Promise<void>;
}

/** What a case works on. */
export interface Bench {
  readonly store: Store;
  readonly open: () => Promise<Store>;
  /** Letters and digits that no other case and no other run uses. */
  readonly kind: string;
  /** An id of that kind. */
  readonly id: (rest: string | number) => string;
}

/** Of one run of one case alone, so that what other runs and cases left behind is not in the way. */
export function newKind(index: number): string {
  return `t${Date.now().toString(36)}${Math.random().toString(36).slice(2, 8)}n${index}`;
}

export function sets(id: string, expected: number, set: Json, owner?: string): Write {
  return { id, expected, set, ...(owner === undefined ? {} : { owner }) };
}

export function deletes(id: string, expected: number): Write {
  return { id, expected, set: null };
}

export function checks(id: string, expected: number): Write {
  return { id, expected };
}

export async function attempt(store: Store, ...group: Write[]): Promise<WriteResult> {
  const { results } = await store.write([group]);
  const [result] = results;
  if (result === undefined || results.length !== 1) throw new Error(`one group, ${results.length} results`);
  return result;
}

/** Writes a group that nothing stands against. */
export async function written(store: Store, ...group: Write[]): Promise<readonly number[]> {
  const result = await attempt(store, ...group);
  if (!result.written) throw new Error(`refused although everything is as expected: ${show(group)}`);
  same(result.versions.length, group.length, "how many versions the result of a group has");
  return result.versions;
}

/** Writes one document that nothing stands against. */
export async function put(store: Store, write: Write): Promise<number> {
  return (await written(store, write))[0] ?? 0;
}

/** Tries to write a group that must lose. */
export async function lost(store: Store, ...group: Write[]): Promise<readonly Document[]> {
  const result = await attempt(store, ...group);
  if (result.written) throw new Error(`written although not everything is as expected: ${show(group)}`);
  return result.current;
}

export async function get(store: Store, id: string): Promise<Document | undefined> {
  return (await store.read([id])).documents[0];
}

/** Reads in one call; in the order of ids, since the order of a reply is free. */
export async function getAll(store: Store, ids: readonly string[]): Promise<Document[]> {
  return byId((await store.read(ids)).documents);
}

/** Follows `next` to the end. */
export async function listAll(store: Store, query: ListQuery): Promise<Document[]> {
  const documents: Document[] = [];
  for (let after: string | undefined; ; ) {
    const page = await store.list({ ...query, ...(after === undefined ? {} : { after }) });
    ensure(page.documents.length <= query.limit, "a page is no longer than its limit");
    documents.push(...page.documents);
    if (page.next === undefined) return documents;
    ensure(page.documents.length > 0, "a page that is not the last holds something");
    ensure(after === undefined || byBytes(page.next, after) > 0, "a page begins after the one before");
    after = page.next;
  }
}

export async function together(count: number, run: (n: number) => Promise<void>): Promise<void> {
  await Promise.all(Array.from({ length: count }, (_, n) => run(n)));
}

export function upTo(count: number): number[] {
  return Array.from({ length: count }, (_, n) => n);
}

/** The same ids, beginning with another. */
export function rotated(ids: readonly string[], by: number): string[] {
  const at = by % ids.length;
  return [...ids.slice(at), ...ids.slice(0, at)];
}

export function byId(documents: readonly Document[]): Document[] {
  return [...documents].sort((a, b) => byBytes(a.id, b.id));
}

export function byBytes(a: string, b: string): number {
  const [x, y] = [utf8.encode(a), utf8.encode(b)];
  const at = x.findIndex((byte, n) => byte !== y[n]);
  return at < 0 ? x.length - y.length : (x[at] ?? 0) - (y[at] ?? -1);
}

const utf8 = new TextEncoder();

export function ensure(holds: boolean, what: string): void {
  if (!holds) throw new Error(`this does not hold: ${what}`);
}

export function same(actual: unknown, expected: unknown, what: string): void {
  if (!isDeepEqual(actual, expected)) throw new Error(`${what}: ${show(actual)}, expected ${show(expected)}`);
}

function isDeepEqual(a: unknown, b: unknown): boolean {
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return Object.is(a, b);
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  const names = Object.keys(a);
  return (
    names.length === Object.keys(b).length &&
    names.every((name) => Object.hasOwn(b, name) && isDeepEqual(own(a, name), own(b, name)))
  );
}

/** A member as it is: `object.__proto__` would ask the prototype chain where there is no such member. */
function own(of: object, name: string): unknown {
  return Object.getOwnPropertyDescriptor(of, name)?.value;
}

function show(value: unknown): string {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > 300 ? `${text.slice(0, 300)}…` : text;
}
