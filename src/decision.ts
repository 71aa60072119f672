import { assertCost, assertUsage, costOf } from "./cost.js";
import type { Granted, Standing } from "./decide.js";
import type { Cost, Documents } from "./documents.js";
import type { Events } from "./events.js";
import type { GroupCommit, KeyStep, KeySubject } from "./group-commit.js";
import type { LimitStatus } from "./limits.js";
import { isModelAllowed } from "./models.js";
import type { Facts } from "./policy.js";
import type { QuotaStatus } from "./quota.js";
import type { Refusal } from "./refusal.js";
import { enter, leave, newRoster, valuesOf } from "./roster.js";
import type { Runtime } from "./runtime.js";
import { type Ending, settle } from "./settle.js";
import type { Count } from "./tally.js";
import type { Usage } from "./usage.js";

/** Whose request it is. */
export interface KeyIdentity {
  readonly id: string;
  readonly owner?: string;
  /** The account whose money it spends. */
  readonly accountId?: string;
  readonly name?: string;
  readonly metadata: Readonly<Record<string, string>>;
}

/**
 * The request may pass, and its cost is held. End it with `settle`, `settleUnknown` or `void`: the first call decides,
 * and resolves when it is stored. Until then the estimate stays held, so a crash loses nothing. None need be awaited.
 */
export interface Allowed {
  readonly allowed: true;
  readonly key: KeyIdentity;
  /** What was judged; forward nothing else. */
  readonly model: Facts["model"];
  readonly estimate: Cost;
  readonly limits: readonly LimitStatus[];
  readonly quota: QuotaStatus;
  /** Whether the key's lists allow a model, for filtering a list of models or choosing a fallback. */
  canUseModel(model: string): boolean;
  /** Notes what it has cost so far: what is booked if nobody says more. @throws TypeError for a bad cost or usage */
  observe(cost: Cost, usage?: Usage): void;
  /**
   * Books the actual cost: `cost`, else what was observed, else the estimate. `usage` is for limits in tokens, which
   * count the estimate without it, and for reports. @throws TypeError for a bad cost
   */
  settle(cost?: Cost, usage?: Usage): Promise<void>;
  /**
   * Ends a request of which nobody learnt what it took: books what was observed, else `cost`, else the estimate. Unless
   * something was observed, `usage.unknown` is told. @throws TypeError for a bad cost
   */
  settleUnknown(cost?: Cost): Promise<void>;
  /** Gives everything back, for a request that came to nothing. */
  void(): Promise<void>;
}

/** The request may not pass. Nothing was consumed. */
export interface Refused {
  readonly allowed: false;
  readonly refusal: Refusal;
  readonly limits: readonly LimitStatus[];
  /** Known from the moment the key was found; for logs, not for the client. */
  readonly key?: KeyIdentity;
}

export type Decision = Allowed | Refused;

/** What was granted, and all that is needed to end it. */
export interface Grant {
  readonly subject: KeySubject;
  readonly documents: Documents;
  readonly model: Facts["model"];
  readonly cost: Cost;
  readonly tokens: number;
  /** Where limits and quota stand after it. */
  readonly standing: Standing;
  /** Books how it ended, once. Resolves when that is stored. */
  end(ending: Ending): Promise<void>;
}

/** The requests in flight of one process. */
export interface Decisions {
  allow(grant: Grant): Allowed;
  count(): number;
  /** Settles those that are older. */
  settleOlderThan(ageMs: number): void;
}

export function decisions(
  {
    runtime,
    events,
    aliases,
  }: {
    readonly runtime: Runtime;
    readonly events: Events;
    readonly aliases: ReadonlyMap<string, string>;
  },
  onEnd: () => void,
): Decisions {
  const open = newRoster<{ readonly decision: Allowed; readonly sinceMs: number }>();

  function allow(grant: Grant): Allowed {
    const { subject, documents, model, cost: estimate, tokens, standing } = grant;
    const { policy } = documents.key;
    let observed: { readonly cost: Cost; readonly usage?: Usage | undefined } | undefined;
    let ended: Promise<void> | undefined;

    function end(outcome: Ending["outcome"], given: Cost, usage?: Usage): Promise<void> {
      const cost = costOf(given);
      assertUsage(usage);
      if (ended === undefined) {
        leave(open, entry);
        onEnd();
        ended = grant.end(endingOf(outcome, cost, outcome === "voided" ? 0 : tokens, model, usage));
      }
      return ended;
    }

    const decision: Allowed = {
      allowed: true,
      key: identityOf(subject.keyId, documents),
      model,
      estimate,
      limits: standing.limits,
      quota: standing.quota,
      canUseModel: (name) =>
        isModelAllowed(aliases.get(name) ?? name, policy.allowedModels, policy.deniedModels),
      observe(given, usage) {
        const cost = costOf(given);
        assertUsage(usage);
        observed = { cost, usage };
      },
      settle: (cost, usage) =>
        cost === undefined && observed !== undefined
          ? end("settled", observed.cost, usage ?? observed.usage)
          : end("settled", cost ?? estimate, usage),
      settleUnknown(cost = estimate) {
        assertCost(cost);
        if (observed !== undefined) return end("settled", observed.cost, observed.usage);
        if (ended === undefined) events.emit({ type: "usage.unknown", keyId: subject.keyId, model, cost });
        return end("settled", cost);
      },
      void: () => end("voided", 0),
    };
    const entry = enter(open, { decision, sinceMs: runtime.monotonicMs() });
    return decision;
  }

  return {
    allow,
    count: () => open.size,
    settleOlderThan(ageMs) {
      const latest = runtime.monotonicMs() - ageMs;
      for (const { decision, sinceMs } of valuesOf(open)) if (sinceMs <= latest) void decision.settle();
    },
  };
}

/** Ends what was reserved for one request. Resolves when that is stored. */
export function endReservation(
  commit: GroupCommit,
  subject: KeySubject,
  reservation: Granted["reservation"],
  ending: Ending,
): Promise<void> {
  const isFree = reservation.node === null && (ending.cost === 0 || ending.outcome === "voided");
  if (!isFree) return commit.post(subject, endingStep(reservation, ending));
  commit.count(subject, freeCount(ending));
  return Promise.resolve();
}

/** A step that gives a reservation back; undefined: nothing is held. */
export function voidingStep(reservation: Granted["reservation"]): KeyStep<void> | undefined {
  return reservation.node === null ? undefined : endingStep(reservation, { cost: 0, outcome: "voided" });
}

/** A step that ends a reservation. */
export function endingStep(reservation: Granted["reservation"], ending: Ending): KeyStep<void> {
  return (documents, { now }) => ({
    records: settle(documents, reservation, ending, now),
    outcome: undefined,
  });
}

export function identityOf(id: string, { key }: Documents): KeyIdentity {
  const { owner, account, policy } = key;
  const { name, metadata = {} } = policy;
  const identity: { -readonly [K in keyof KeyIdentity]: KeyIdentity[K] } = { id, metadata };
  if (owner !== undefined) identity.owner = owner;
  if (account !== undefined) identity.accountId = account.id;
  if (name !== undefined) identity.name = name;
  return identity;
}

/** The model that a request is counted for: that of the answer, else the first it asked for. */
export function countedModel(model: Facts["model"]): string | null {
  const first: unknown = Array.isArray(model) ? model[0] : model;
  return typeof first === "string" ? first : null;
}

/** @param tokens what it was estimated to take: what counts where no usage is told. */
function endingOf(
  outcome: Ending["outcome"],
  cost: Cost,
  tokens: number,
  model: Facts["model"],
  usage: Usage | undefined,
): Ending {
  if (usage === undefined) {
    return { outcome, cost, tokens, model: countedModel(model), inputTokens: 0, outputTokens: 0 };
  }
  const { inputTokens, outputTokens } = usage;
  const told = { inputTokens, outputTokens, tokens: inputTokens + outputTokens };
  return { outcome, cost, model: usage.model ?? countedModel(model), ...told };
}

function freeCount({ outcome, model = null, inputTokens = 0, outputTokens = 0 }: Ending): Count {
  return { model, outcome, requests: 1, cost: 0, inputTokens, outputTokens, paid: 0 };
}
