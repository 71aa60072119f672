import type { Document, Write, WriteResult } from "../store.js";
import { toJson } from "./json-text.js";

/** Of what was written its version; else head and body of each document, or nulls. */
export type Outcome = number | string | readonly (string | null)[];

export function toResult(group: readonly Write[], outcome: Outcome): WriteResult {
  if (Array.isArray(outcome)) return { written: false, current: documentsOf(group, outcome) };
  const version = Number(outcome);
  return {
    written: true,
    versions: group.map(({ set, expected }) => (set === undefined ? expected : set === null ? 0 : version)),
  };
}

function documentsOf(group: readonly Write[], found: readonly (string | null)[]): readonly Document[] {
  return group.flatMap(({ id }, m) => {
    const head = found[2 * m];
    return typeof head === "string" ? [toDocument(id, head, String(found[2 * m + 1]))] : [];
  });
}

/** What stands before a body: the version, a space, and the owner as JSON, if any. */
export function headOf({ expected, owner }: Write): string {
  return owner === undefined ? `${expected} ` : `${expected} ${JSON.stringify(owner)}`;
}

function toDocument(id: string, head: string, body: string): Document {
  const at = head.indexOf(" ");
  const owner = head.slice(at + 1);
  return {
    id,
    version: Number(head.slice(0, at)),
    ...(owner === "" ? {} : { owner: String(toJson(owner)) }),
    body: toJson(body),
  };
}
