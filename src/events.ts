import type { Alert } from "./alerts.js";
import type { Amounts, Cost } from "./documents.js";
import type { FaultCode } from "./errors.js";
import type { Facts } from "./policy.js";
import type { Reason, RefusalStatus } from "./refusal.js";

/** What a key's operator did. */
export interface KeyEvent {
  readonly type: "key.issued" | "key.rotated" | "key.disabled" | "key.enabled" | "key.revoked";
  readonly keyId: string;
}

/** A request was let in: its estimate is held. */
export interface RequestAllowedEvent {
  readonly type: "request.allowed";
  readonly keyId: string;
  readonly model: Facts["model"];
  readonly estimate: Cost;
}

/** A request was refused. `keyId` is known from the moment the key was found. */
export interface RequestRefusedEvent {
  readonly type: "request.refused";
  readonly keyId?: string;
  readonly reason: Reason;
  readonly status: RefusalStatus;
}

/**
 * A guard could not decide about a request: it was answered 503, or went on where the guard only observes. Callers of
 * `authorize` are thrown the fault instead.
 */
export interface RequestFaultedEvent {
  readonly type: "request.faulted";
  /** What the client was told in `x-request-id`. */
  readonly requestId: string;
  readonly code: FaultCode;
}

/** Why a guard that only observes would have failed a request: a fault; or, without a 503 in it, what else went wrong. */
export type FailureCode =
  | FaultCode
  /** A function in the options threw, or gave what it may not. */
  | "threw"
  /** It took longer than `maxWaitMs`. */
  | "late"
  /** The body broke off, as when its client went away. */
  | "gone";

/**
 * What a guard with `mode: "observe"` would have done with a request, which went on all the same. The gate tells of it
 * as ever: `request.allowed` or `request.refused` were told before, and this says that they had no effect.
 */
export type RequestJudgedEvent = { readonly type: "request.judged" } & (
  | { readonly would: "pass"; readonly keyId: string }
  | {
      readonly would: "refuse";
      readonly keyId?: string;
      readonly reason: Reason;
      readonly status: RefusalStatus;
    }
  | { readonly would: "fail"; readonly code: FailureCode }
  /** A CORS preflight, which a guard answers itself. */
  | { readonly would: "answer" }
);

/** A guard with `mode: "observe"` was made: it lets everything through. Told when the code that made it has run. */
export interface GuardObservingEvent {
  readonly type: "guard.observing";
}

/**
 * A quota, an allowance or a pay-as-you-go cap has reached a threshold, in percent left. Told once per threshold and
 * cycle, by one process; of several thresholds at once only the lowest.
 */
export interface QuotaLowEvent {
  readonly type: "quota.low";
  readonly keyId?: string;
  readonly accountId?: string;
  readonly fund: Exclude<Alert["fund"], "balance">;
  readonly thresholdPercent: number;
  readonly limit: number;
  readonly left: number;
}

/**
 * A balance has reached a threshold. Told at most once per threshold until a credit, and not again if a listener fails:
 * go through `accounts.list` now and then. Requests are refused before 0 is reached, so choose thresholds that cover the
 * dearest one.
 */
export interface BalanceLowEvent {
  readonly type: "balance.low";
  readonly accountId: string;
  /** The same for the same threshold until a credit: `credit(accountId, { id, amount })` tops it up once. */
  readonly id: string;
  readonly threshold: number;
  /** Negative in debt. */
  readonly left: number;
}

/** A request ended without anybody knowing what it took; `cost` was booked. */
export interface UsageUnknownEvent {
  readonly type: "usage.unknown";
  readonly keyId: string;
  readonly model: Facts["model"];
  readonly cost: Cost;
}

/** A process stopped renewing what its requests held of a key or an account: it was charged or given back (`mode`). */
export interface HoldExpiredEvent {
  readonly type: "hold.expired";
  readonly keyId?: string;
  readonly accountId?: string;
  readonly mode: "charge" | "release";
  readonly held: Amounts;
}

/** What happened. Ids and reasons; never a secret, nor anything a client wrote but the model's name. */
export type KeystileEvent =
  | KeyEvent
  | RequestAllowedEvent
  | RequestRefusedEvent
  | RequestFaultedEvent
  | RequestJudgedEvent
  | GuardObservingEvent
  | QuotaLowEvent
  | BalanceLowEvent
  | UsageUnknownEvent
  | HoldExpiredEvent;

export type EventType = KeystileEvent["type"];
/** An event by its type: `EventOf<"request.refused">`. */
export type EventOf<T extends EventType> = Extract<KeystileEvent, { readonly type: T | EventType }> & {
  readonly type: T;
};

export interface Events {
  /**
   * Calls `listener` with every event of a type, or of all (`*`), that happens in this process. What it throws, or
   * rejects with, changes nothing. Returns a function that ends it.
   */
  on<T extends EventType | "*">(
    type: T,
    listener: (event: T extends EventType ? EventOf<T> : KeystileEvent) => unknown,
  ): () => void;
  /** Whether anybody listens, for events that are not worth making for nobody. */
  isHeard(type: EventType): boolean;
  /** Tells whoever listens; false if nobody does. */
  emit(event: KeystileEvent): boolean;
}

export function eventHub(): Events {
  const listeners = new Map<string, Set<(event: never) => unknown>>();

  function tell(type: string, event: KeystileEvent): void {
    for (const listener of listeners.get(type) ?? []) {
      try {
        const answer = listener(event as never);
        if (answer instanceof Promise) answer.catch(() => {});
      } catch {
        // Whoever listens has no say.
      }
    }
  }

  function isHeard(type: EventType): boolean {
    return (listeners.get(type)?.size ?? 0) + (listeners.get("*")?.size ?? 0) > 0;
  }

  return {
    on(type, listener) {
      const heard = listeners.get(type) ?? new Set();
      listeners.set(type, heard);
      heard.add(listener);
      return () => void heard.delete(listener);
    },
    isHeard,
    emit(event) {
      const heard = isHeard(event.type);
      tell(event.type, event);
      tell("*", event);
      return heard;
    },
  };
}
