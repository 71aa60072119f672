import type { Document, Write, WriteResult } from "../store.js";
import { toJson } from "./json-text.js";

/** 1 and the versions, or 0 and the documents, null where there is none. */
export type Outcome = readonly (number | string | null)[];

export function toResult(group: readonly Write[], [written, ...members]: Outcome): WriteResult {
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
    ...(owner === "" ? {} : { owner: String(toJson(owner)) }),
    body: toJson(text.slice(version.length + owner.length + 2)),
  };
}
