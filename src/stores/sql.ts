/** What the stores on SQL databases have in common: what a row is, where a list begins and ends, what is told. */

import { KeystileError } from "../errors.js";
import type { Document, ListQuery } from "../store.js";
import { toJson } from "./json-text.js";

/** A document as a column each. Whole numbers come as whatever the client makes of them. */
export interface Row {
  readonly version: number | bigint | string;
  readonly owner: string | null;
  readonly body: string;
}

export function documentOf(id: string, { version, owner, body }: Row): Document {
  return { id, version: Number(version), ...(owner === null ? {} : { owner }), body: toJson(body) };
}

/** In the order of UTF-8 bytes a page lies at or after both of the first two and before the third. */
export function boundsOf({ kind, after }: ListQuery): readonly [string, string, string] {
  // No id lies between `after` and itself with a NUL, and all ids of a kind lie between `kind:` and `kind;`.
  return [`${kind}:`, after === undefined ? "" : `${after}\0`, `${kind};`];
}

/** One more document than asked for tells whether there is a next page. */
export function pageOf(
  found: readonly Document[],
  limit: number,
): { readonly documents: readonly Document[]; readonly next?: string } {
  const documents = found.slice(0, limit);
  const next = found.length > limit ? documents.at(-1)?.id : undefined;
  return { documents, ...(next === undefined ? {} : { next }) };
}

/** @throws KeystileError `format_newer` */
export function refuseNewer(schema: number, known: number): void {
  if (schema <= known) return;
  throw new KeystileError(
    "format_newer",
    `the database was set up by a newer version of this package: schema ${schema}, known here is ${known}`,
  );
}

export function notSetUp(): KeystileError {
  return new KeystileError(
    "invalid_options",
    "the database has no Keystile tables: call `await store.setup()` first",
  );
}
