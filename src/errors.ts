/**
 * Everything that can go wrong without being anybody's refusal. A fault is answered 503, never as a pass
 * and never as a statement about the key.
 */
export type FaultCode =
  /**
   * The store did not answer, answered too late, or could not say whether a write happened. Also when a part of the package
   * that is loaded when it is needed could not be.
   */
  | "store_unavailable"
  /** A stored document does not parse, is missing where one must exist, or went back in time. */
  | "document_invalid"
  /** A document, or the store's schema, was written by a newer version of this package. */
  | "format_newer"
  /** A document reached one of its stated bounds. */
  | "document_full"
  /** `close()` was called: no more requests are accepted. The keyring still works. */
  | "closed"
  /** More than 16,384 operations of one key, or as many look-ups, wait for the store. */
  | "overloaded"
  /** The key named in a call of the keyring does not exist. */
  | "key_not_found"
  /** A change that the key's state forbids, such as enabling a revoked key. */
  | "key_state"
  /** The account named in a call does not exist, or one of that name does already. */
  | "account_not_found"
  | "account_exists"
  /** A change that the account's state forbids, such as a second subscription. */
  | "account_state"
  /** The id of a credit or a debit stands for another amount. */
  | "entry_conflict"
  /** The policy was changed by somebody else since `ifPolicyVersion`. */
  | "policy_conflict"
  /** An option or a policy is wrong: the message names the path, what was received and what would be right. */
  | "invalid_options";

const BRAND = Symbol.for("keystile.error");

/**
 * The one error class of this package. Switch on `code`; `cause` keeps what a store or a runtime threw.
 * Use `isKeystileError` rather than `instanceof` where two copies of the package may be loaded.
 */
export class KeystileError extends Error {
  readonly code: FaultCode;
  /** Whether what was asked for may have happened all the same. Of `store_unavailable` assumed unless denied. */
  readonly mayHaveHappened: boolean;

  constructor(
    code: FaultCode,
    message: string,
    details: { readonly cause?: unknown; readonly mayHaveHappened?: boolean } = {},
  ) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = "KeystileError";
    this.code = code;
    this.mayHaveHappened = details.mayHaveHappened ?? code === "store_unavailable";
    Object.defineProperty(this, BRAND, { value: true });
  }
}

/** Whether a value is a `KeystileError`, also one of another copy of this package. */
export function isKeystileError(value: unknown): value is KeystileError {
  return value instanceof Error && (value as { [BRAND]?: unknown })[BRAND] === true;
}

/** A key that names an account is nothing without it. */
export function accountMissing(): KeystileError {
  return new KeystileError("document_invalid", "A key's account document is missing from the store.");
}

/** What was seen before must not be undone behind the back of a running process. */
export function versionFault(): KeystileError {
  return new KeystileError(
    "document_invalid",
    "A document has a version below one already seen. Was the store restored from a backup? Then restart.",
    { mayHaveHappened: true },
  );
}
