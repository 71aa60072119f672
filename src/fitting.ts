import { countOf } from "./copies.js";
import { type AccountRecord, isKey, type KeyRecord, type Ledger } from "./documents.js";
import { KeystileError } from "./errors.js";
import { mergeModels } from "./tally.js";

/** The most that a document may have, as UTF-8 JSON. Every store takes that much. */
export const MAX_DOCUMENT_BYTES = 65_536;

/** To what length a document may get by requests that are let in. The rest is for their ends, and for its operator. */
export const MAX_BYTES_OF_DECISIONS: number = MAX_DOCUMENT_BYTES - 8_192;

/** With so few entries a document is never that long, so it need not be measured. */
const FEW_ENTRIES = 64;

/**
 * A record that is not longer than a document may be: where it would be, what is least missed goes first. The counters of
 * the day are no longer told by model; then what is remembered of processes that are gone is forgotten, as it is by time.
 *
 * @param mostBytes asked for only if the record may be that long
 * @throws KeystileError `document_full` when all of it is needed.
 */
export function fitted<R extends KeyRecord | AccountRecord>(
  record: R,
  mostBytes: () => number = () => MAX_DOCUMENT_BYTES,
): R {
  if (countEntries(record) <= FEW_ENTRIES) return record;
  const most = mostBytes();
  if (isWithin(record, most)) return record;
  const plain = isKey(record) && record.tally ? { ...record, tally: mergeModels(record.tally) } : record;
  if (isWithin(plain, most)) return plain;
  const forgetful = forget(plain);
  if (isWithin(forgetful, most)) return forgetful;
  throw new KeystileError(
    "document_full",
    `A key or account has more in flight than its document of ${MAX_DOCUMENT_BYTES} bytes can hold.`,
  );
}

function isWithin(record: object, mostBytes: number): boolean {
  return new TextEncoder().encode(JSON.stringify(record)).byteLength <= mostBytes;
}

/** Everything in a record of which there may be many. */
function countEntries(record: KeyRecord | AccountRecord): number {
  const { levels, nodes, collected } = record;
  let entries = countOf(levels);
  for (const node in nodes) if (Object.hasOwn(nodes, node)) entries += 1 + countOf(nodes[node]?.held ?? {});
  for (const node in collected)
    if (Object.hasOwn(collected, node)) entries += 1 + countOf(collected[node]?.collected ?? {});
  if (isKey(record) && record.tally) entries += countOf(record.tally.models);
  return entries;
}

/** As if the memory were over. */
function forget<R extends Ledger>(record: R): R {
  const times = Object.values(record.collected).map(({ collectedAtMs }) => collectedAtMs);
  return { ...record, collected: {}, forgottenMs: Math.max(record.forgottenMs, ...times) };
}
