import { KeystileError } from "../errors.js";
import { notSetUp } from "./sql.js";

/** How long a call waits for the locks of other processes before it is given up, certainly not written. */
const LOCK_WAIT_MS = 5_000;

/**
 * Tries again while another process holds a lock. It waits here rather than in the engine, whose own waiting
 * would stop every other request of this process.
 */
export async function patiently<T>(attempt: () => T): Promise<T> {
  const giveUpAt = performance.now() + LOCK_WAIT_MS;
  for (;;) {
    try {
      return attempt();
    } catch (error) {
      if (!isLocked(error) || performance.now() > giveUpAt) throw toFault(error);
    }
    await new Promise((resolve) => setTimeout(resolve, 1 + Math.random() * 9));
  }
}

/** By the engine's own words: what codes an error carries differs between the handles. */
export function isLocked(error: unknown): boolean {
  return error instanceof Error && /^database (table |schema )?is locked/.test(error.message);
}

function toFault(error: unknown): KeystileError {
  if (error instanceof KeystileError) return error;
  const { message } = error as Error;
  if (message.startsWith("no such table: keystile_")) return notSetUp();
  return new KeystileError("store_unavailable", `SQLite: ${message}`, {
    mayHaveHappened: false,
    cause: error,
  });
}
