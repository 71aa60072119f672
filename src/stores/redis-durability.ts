import { KeystileError } from "../errors.js";

export interface RedisDurability {
  /** Replicas that must have the write, in memory or, with `fsync`, on disk. Default 0. */
  readonly replicas?: number;
  /** Whether the primary must have it on disk. Needs an append-only file and Redis 7.2 or Valkey. Default false. */
  readonly fsync?: boolean;
  /** After so long the call throws; the write has happened and may yet be kept or lost. Default 1,000. */
  readonly timeoutMs?: number;
}

/** What follows a write on its connection. */
export interface Barrier {
  readonly command: readonly string[];
  /** @throws KeystileError when the reply says that a write is not as safe as it should be. */
  check(reply: unknown): void;
}

/** @throws KeystileError `invalid_options` */
export function barrierOf(durability: RedisDurability): Barrier | undefined {
  const { replicas = 0, fsync = false, timeoutMs = 1_000 } = durability;
  for (const [name, value, least] of [
    ["replicas", replicas, 0] as const,
    ["timeoutMs", timeoutMs, 1] as const,
  ]) {
    if (!Number.isSafeInteger(value) || value < least) {
      throw new KeystileError(
        "invalid_options",
        `durability.${name} must be an integer of at least ${least}: received ${value}`,
      );
    }
  }
  if (replicas === 0 && !fsync) return undefined;
  const rest = [String(replicas), String(timeoutMs)];
  return {
    command: fsync ? ["WAITAOF", "1", ...rest] : ["WAIT", ...rest],
    check(reply) {
      const [own, others] = fsync ? (reply as [unknown, unknown]) : [1, reply];
      if (Number(own) >= 1 && Number(others) >= replicas) return;
      const where = fsync
        ? `${own} of 1 primary and ${others} of ${replicas} replicas on disk`
        : `${others} of ${replicas} replicas`;
      throw new KeystileError(
        "store_unavailable",
        `Redis: after ${timeoutMs} ms a write had reached ${where}`,
      );
    },
  };
}
