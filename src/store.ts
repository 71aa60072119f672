/**
 * The contract between Keystile and whatever keeps its documents. Types only; the exported suite
 * `storeConformance()` of `keystile/testing` holds a case for every clause id below.
 */

/** Plain JSON, with numbers restricted to safe integers. */
export type Json =
  | null
  | boolean
  | number
  | string
  | readonly Json[]
  | { readonly [name: string]: Json | undefined };

/** One document: the unit of reading, comparing and writing. */
export interface Document {
  /** 1 to 512 UTF-16 units, any Unicode but lone surrogates; compared byte by byte, case-sensitively. */
  readonly id: string;
  /** A positive safe integer, higher than any version this id ever had. */
  readonly version: number;
  readonly owner?: string;
  readonly body: Json;
}

/**
 * One member of a group: written (or checked) only if the document's version still is `expected`.
 *
 * `expected: 0` says the document must not exist. Without `set` the write only checks; `set: null` deletes; any
 * other `set` replaces body and owner.
 */
export interface Write {
  readonly id: string;
  readonly expected: number;
  readonly set?: Json;
  readonly owner?: string;
}

/** What became of one group. */
export type WriteResult =
  /** All of it; `versions` in the order of the group: the new version, or 0 where the document is now absent. */
  | { readonly written: true; readonly versions: readonly number[] }
  /** None of it; `current` holds the group's documents that exist, read after the conflict. */
  | { readonly written: false; readonly current: readonly Document[] };

/** A page of documents. `kind` is the part of the id before the first colon. */
export interface ListQuery {
  readonly kind: string;
  readonly owner?: string;
  /** The `next` of the page before. */
  readonly after?: string;
  /** 1 to 1,000. */
  readonly limit: number;
}

/**
 * Keeps documents for Keystile.
 *
 * - S1 `read` sees every acknowledged write. No replicas, no eventual reads.
 * - S2 `read` leaves out documents that do not exist; order is free; an id occurs at most once in a call.
 * - S3 A group is written whole or not at all, whatever else is in the call and whoever else writes.
 * - S4 A group is written only if every member's version is the expected one, a member that only checks
 *   included. Two groups of which each would void the other's check cannot both be written.
 * - S5 Absence is a version: `expected: 0` holds only while there is no document.
 * - S6 A lost race is a result, not an error, and brings the documents as they are after the conflict. So is a
 *   serialization failure or a deadlock of the engine.
 * - S7 A version never repeats for an id, not even after the document was deleted and made again.
 * - S8 Groups of one call are independent: one may be written while another is not. An id occurs in at most one.
 * - S9 Every reply carries the store's own clock in milliseconds, taken after any lock was obtained.
 * - S10 A body comes back deeply equal to what was written: up to 64 KiB, 2^53-1, any Unicode, member names
 *   such as `__proto__`; but a member that is undefined is absent, as in JSON text. What was given is never changed afterwards, so it may be kept as it is; what was
 *   returned is the reader's: changing it changes nothing stored.
 * - S11 Ids are data: quotes, wildcards, NUL, letter case and normalisation never make two ids one.
 * - S12 `list` is in ascending order of id by UTF-8 bytes, per kind and (when given) owner; following `next`
 *   returns each document that stayed exactly once; `next` is absent on the last page.
 * - S13 An error is thrown only when the outcome is unknown or the engine is out of order. A `KeystileError`
 *   `store_unavailable` with `mayHaveHappened: false` says that certainly nothing was written.
 * - S14 `close()` ends what the store opened itself, never a client it was handed. Calling it twice is harmless.
 */
export interface Store {
  read(ids: readonly string[]): Promise<{ readonly documents: readonly Document[]; readonly now: number }>;
  write(
    groups: readonly (readonly Write[])[],
  ): Promise<{ readonly results: readonly WriteResult[]; readonly now: number }>;
  list(query: ListQuery): Promise<{ readonly documents: readonly Document[]; readonly next?: string }>;
  close(): Promise<void>;
}
