import { KeystileError } from "../errors.js";
import { FORMAT } from "./redis-scripts.js";

/** @throws KeystileError when the server may evict keys, or does not tell whether it may. */
export function refuseEviction(policy: string, allowUnknown: boolean): void {
  if (policy === "noeviction" || (policy === "unknown" && allowUnknown)) return;
  const remedy =
    policy === "unknown"
      ? "the server does not tell its maxmemory-policy; make sure that it is noeviction, then set allowUnknownEviction"
      : `the server may evict keys: its maxmemory-policy is ${policy} and must be noeviction`;
  throw new KeystileError("invalid_options", remedy);
}

export function formatNewer(format: string, mayHaveHappened = false): KeystileError {
  return new KeystileError(
    "format_newer",
    `the database was set up by a newer version of this package: format ${format}, known here is ${FORMAT}`,
    { mayHaveHappened },
  );
}

/** All replies, once every call has ended: what is still under way when a call throws could yet be written. */
export async function together(calls: readonly Promise<unknown>[]): Promise<unknown[]> {
  const settled = await Promise.allSettled(calls);
  const errors = settled.flatMap((one) => (one.status === "rejected" ? [one.reason as Error] : []));
  const [error] = errors;
  if (error === undefined) return settled.map((one) => (one as PromiseFulfilledResult<unknown>).value);
  const isCertain = errors.length === settled.length && errors.every(({ message }) => REFUSED.test(message));
  throw toFault(error, !isCertain);
}

/**
 * Errors of a server that has not begun, or of a script that was stopped at its first write: it is not stopped later.
 * None of them can be that of a command that follows. Up to Redis 6 the error of a script is the middle of another one.
 */
const REFUSED =
  /(?:^|-)(?:READONLY|OOM|MISCONF|NOREPLICAS|LOADING|MASTERDOWN|CLUSTERDOWN|CROSSSLOT|TRYAGAIN|MOVED|ASK|NOSCRIPT|NOAUTH|KEYSTILE) /;

function toFault(error: Error, mayHaveHappened: boolean): KeystileError {
  const { message } = error;
  const [, format] = /^KEYSTILE (\S+)/.exec(message) ?? [];
  if (format === "missing") {
    return new KeystileError(
      "invalid_options",
      "Redis has nothing of Keystile under this prefix: call `await store.setup()` first. If that was done, it has lost its data.",
      { mayHaveHappened },
    );
  }
  if (format !== undefined) return formatNewer(format, mayHaveHappened);
  if (/WAITAOF/.test(message)) {
    return new KeystileError(
      "invalid_options",
      `durability.fsync needs Redis 7.2 or Valkey, and appendonly yes: the server says ${message}`,
      { mayHaveHappened, cause: error },
    );
  }
  return new KeystileError("store_unavailable", `Redis: ${message}`, { mayHaveHappened, cause: error });
}
