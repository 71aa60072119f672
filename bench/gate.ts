/** The gate that is measured: every kind of policy is on, and as many keys as wanted. */
import { hash } from "node:crypto";
import {
  createKeystile,
  type Json,
  type Keystile,
  type KeystileOptions,
  type PolicyInput,
  type Store,
} from "keystile";
import { sampleKey } from "keystile/testing";
import { ask, type Subject } from "./subject.ts";

/** Nothing of it is ever reached: what is measured is requests that pass. */
export const POLICY: PolicyInput = {
  expiresAt: "2100-01-01T00:00:00Z",
  allowedIps: ["10.0.0.0/8", "127.0.0.1", "2001:db8::/32"],
  allowedModels: ["gpt-*", "claude-*", "openai/**"],
  limits: [
    { requests: 100_000_000, windowMs: 60_000 },
    { requests: 100_000_000, windowMs: 60_000, per: "model" },
  ],
  quota: 1_000_000_000_000,
};

export const ADDRESS = "127.0.0.1";
export const MODEL = "gpt-5";

/** How many documents are written in one call when keys are made. */
const DOCUMENTS_PER_WRITE = 1_000;

/**
 * Puts keys into a store as `keys.issue` would, but many in one call, and returns their secrets. The same `tag` means the
 * same keys, so that another process can have their secrets without making them (`secretsOf`).
 */
export async function makeKeys(
  store: Store,
  count: number,
  tag: string,
  policy: PolicyInput = POLICY,
): Promise<string[]> {
  const { now } = await store.read([]);
  const record = sampleKey(policy, now);
  const secrets = secretsOf(tag, count);
  for (let from = 0; from < count; from += DOCUMENTS_PER_WRITE / 2) {
    const groups = secrets.slice(from, from + DOCUMENTS_PER_WRITE / 2).flatMap((secret) => {
      const digest = hash("sha256", secret);
      const keyId = keyIdOf(secret);
      const body = { ...record, secrets: [{ digest, hint: secret.slice(-4), endsAtMs: null }] };
      return [
        [{ id: keyDocumentId(secret), expected: 0, set: body as unknown as Json }],
        [{ id: `secret:${digest}`, expected: 0, set: { format: record.format, keyId } }],
      ];
    });
    await store.write(groups);
  }
  return secrets;
}

export function secretsOf(tag: string, count: number): string[] {
  return Array.from({ length: count }, (_, n) => secretOf(tag, n));
}

export function secretOf(tag: string, n: number): string {
  return `sk-${hash("sha256", `${tag} ${n}`).slice(0, 48)}`;
}

function keyIdOf(secret: string): string {
  const random = hash("sha256", `id ${secret}`).slice(0, 24);
  return `${random.slice(0, 3)}.${random}`;
}

export function keyDocumentId(secret: string): string {
  return `key:${keyIdOf(secret)}`;
}

export function bearer(secret: string): Record<string, string> {
  return { authorization: `Bearer ${secret}` };
}

/**
 * As the package comes; `options` for what a contender is about. Only its patience is greater, so that a machine that is
 * busy with something else makes a figure worse and does not end the run.
 */
export function openGate(store: Store, options: Partial<KeystileOptions> = {}): Keystile {
  return createKeystile({ store, storeTimeoutMs: 60_000, holdMs: 600_000, ...options });
}

/**
 * Callers of which each sends one request after the other. As adapters do, nobody waits until a cost is booked: that rides
 * in a later write. What is still to be booked at the end belongs to the time that was taken.
 */
export function passing(gate: Keystile, secrets: readonly string[]): Subject["measure"] {
  const headers = secrets.map(bearer);
  return (load) =>
    ask(
      load,
      (key) => pass(gate, headers[key] ?? {}),
      () => gate.flush(),
    );
}

/** A request that passes: decided and held, and on its way to be booked. @throws Error when it is refused */
export async function pass(gate: Keystile, headers: Record<string, string>): Promise<void> {
  const decision = await gate.authorize({ headers, address: ADDRESS, model: MODEL, cost: 1 });
  if (!decision.allowed) throw new Error(decision.refusal.message);
  void decision.settle();
}
