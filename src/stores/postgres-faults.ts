import { KeystileError } from "../errors.js";
import { WRONG_SESSION } from "./postgres-schema.js";
import { notSetUp } from "./sql.js";

/** After these of the server's own errors, or with no connection made at all, nothing of the call remains. */
const CERTAIN =
  /^(?:0A|22|23|25|28|3D|3F|42|54|55|P0)...$|^(?:40001|40P01|53[234]00|57014|57P03|KS001|ECONNREFUSED|ENOTFOUND|EAI_AGAIN)$/;
const LOST_RACE = /^(?:40001|40P01)$/;
const NOT_SET_UP = /^(?:42P01|42883|3F000)$/;

/** Whether the engine gave the call up for the sake of another. */
export function isLostRace(error: unknown): boolean {
  return error instanceof KeystileError && codesOf(error).some((code) => LOST_RACE.test(code));
}

export function toFault(error: unknown, changes: boolean): KeystileError {
  const codes = codesOf(error);
  if (codes.some((code) => NOT_SET_UP.test(code))) return notSetUp();
  if (codes.includes(WRONG_SESSION)) {
    return new KeystileError(
      "invalid_options",
      "postgresStore needs sessions that are READ COMMITTED, on the primary and not on a replica: see " +
        "default_transaction_isolation of the role and of the database",
      { cause: error },
    );
  }
  const isCertain = codes.some((code) => CERTAIN.test(code));
  const message = error instanceof Error ? error.message : String(error);
  return new KeystileError("store_unavailable", `Postgres: ${message}`, {
    mayHaveHappened: changes && !isCertain,
    cause: error,
  });
}

/** Of an error and of what it wraps: clients of clients put the server's own further down. */
function codesOf(error: unknown, depth = 0): readonly string[] {
  if (typeof error !== "object" || error === null || depth > 4) return [];
  const { code, meta, cause } = error as { code?: unknown; meta?: unknown; cause?: unknown };
  return [
    ...(typeof code === "string" ? [code] : []),
    ...codesOf(meta, depth + 1),
    ...codesOf(cause, depth + 1),
  ];
}
