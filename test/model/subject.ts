import type { Store } from "../../src/store.js";

/**
 * What the simulator drives, by its shape alone: the package itself, a deliberately broken copy of it, or anything
 * else that makes the same promises.
 */
export type CreateSubject = (options: SubjectOptions) => Subject;

export interface SubjectOptions {
  readonly store: Store;
  readonly runtime: SubjectRuntime;
  readonly holdMs: number;
  readonly storeTimeoutMs: number;
  readonly drainMs: number;
  readonly requestTimeoutMs: number;
  readonly cacheSize: number;
  readonly leases?: { readonly revalidateMs: number; readonly sharePercent: number };
}

export interface SubjectRuntime {
  monotonicMs(): number;
  setTimer(run: () => void, ms: number): () => void;
  random(): number;
  randomBytes(size: number): Uint8Array;
}

export interface Subject {
  readonly keys: {
    issue(input: SubjectPolicy): Promise<SubjectSecret>;
    update(id: string, patch: SubjectPolicy): Promise<unknown>;
    disable(id: string): Promise<unknown>;
    enable(id: string): Promise<unknown>;
    revoke(id: string): Promise<unknown>;
    rotate(id: string, options: { readonly graceMs?: number }): Promise<SubjectSecret>;
  };
  authorize(request: {
    readonly headers: { readonly authorization: string };
    readonly cost: number;
  }): Promise<SubjectDecision>;
  flush(timeoutMs?: number): Promise<number>;
  close(): Promise<{ readonly unwritten: number }>;
}

export interface SubjectSecret {
  readonly secret: string;
  readonly key: { readonly id: string };
}

export interface SubjectPolicy {
  readonly name?: string;
  readonly quota?: number | null;
  readonly limits?: readonly SubjectLimit[];
  readonly expiresAt?: number | null;
  readonly onCrash?: "charge" | "release";
}

export type SubjectLimit =
  | { readonly requests: number; readonly windowMs: number; readonly burst?: number }
  | { readonly inFlight: number };

export type SubjectDecision =
  | {
      readonly allowed: true;
      settle(cost?: number): Promise<void>;
      void(): Promise<void>;
    }
  | { readonly allowed: false; readonly refusal: SubjectRefusal };

export interface SubjectRefusal {
  readonly reason: string;
  readonly status: number;
  readonly retryAfterMs?: number;
  readonly held?: boolean;
}

export function isRequestLimit(limit: SubjectLimit): limit is Extract<SubjectLimit, { requests: number }> {
  return "requests" in limit;
}
