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
      const found = await Promise.all(digests.map((digest) => session.fetch(secretDocumentId(digest))));
      for (const [index, document] of found.entries()) {
        if (document === undefined) continue;
        const { keyId, accountId } = parseSecretRecord(document);
        const subject = { keyId, accountId, ids: idsOf({ keyId, accountId }) };
        remember(subjects, digests[index] as string, subject, cacheSize);
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
