import { idsOf } from "./attempt.js";
import { parseSecretRecord } from "./document-schemas.js";
import { secretDocumentId } from "./documents.js";
import type { KeySubject } from "./group-commit.js";
import type { StoreSession } from "./store-session.js";

/** Where secrets lead. That seldom changes, so it is remembered, to be confirmed; absence never is. */
export interface SecretLookup {
  remembered(digests: readonly string[]): KeySubject | undefined;
  find(digests: readonly string[]): Promise<KeySubject | undefined>;
  forget(digests: readonly string[]): void;
}

export function secretLookup(session: StoreSession, cacheSize: number): SecretLookup {
  const subjects = new Map<string, KeySubject>();

  return {
    remembered(digests) {
      for (const digest of digests) {
        const subject = subjects.get(digest);
        if (subject !== undefined) return subject;
      }
      return undefined;
    },

    async find(digests) {
      const ids = digests.map(secretDocumentId);
      // Of most secrets there is one digest, and a list of promises costs more than the promise.
      const found =
        ids.length === 1
          ? [await session.fetch(ids[0] as string)]
          : await Promise.all(ids.map((id) => session.fetch(id)));
      for (let at = 0; at < found.length; at += 1) {
        const document = found[at];
        if (document === undefined) continue;
        const { keyId, accountId } = parseSecretRecord(document);
        const subject = { keyId, accountId, ids: idsOf({ keyId, accountId }) };
        remember(subjects, digests[at] as string, subject, cacheSize);
        return subject;
      }
      return undefined;
    },

    forget(digests) {
      for (const digest of digests) subjects.delete(digest);
    },
  };
}

/** A bounded cache: the oldest goes first. */
function remember<T>(cache: Map<string, T>, name: string, value: T, size: number): void {
  cache.set(name, value);
  if (cache.size > size) cache.delete(cache.keys().next().value as string);
}
