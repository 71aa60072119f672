import { decide, familiesOf, type Standing } from "./decide.js";
import { voidingStep } from "./decision.js";
import type { Cost, Documents, KeyRecord, Limit } from "./documents.js";
import type { GroupCommit, KeyStep, KeySubject } from "./group-commit.js";
import { NO_SLICE, plus, type Slice, sliceOf, times } from "./lease.js";
import { type LeaseGrant, type LiveLease, liveLease } from "./live-lease.js";
import type { LeaseSettings } from "./options.js";
import { evaluatePolicy, type Facts, type Rule } from "./policy.js";
import { isPerModel, isRateLimit } from "./rates.js";
import type { Runtime } from "./runtime.js";
import { type Ending, sweep } from "./settle.js";
import type { StoreSession } from "./store-session.js";
import { cycleEnd, judgeSubscription } from "./subscription.js";

/** A request whose first phase has passed. */
export interface Asked {
  readonly subject: KeySubject;
  /** The documents by which that was judged. */
  readonly documents: Documents;
  readonly facts: Facts;
  readonly cost: Cost;
  readonly tokens: number;
}

/** A request that was let in without asking the store. */
export interface Leased {
  /** Where limits and quota stand, as far as this process knows. */
  readonly standing: Standing;
  /** Ends it, once. Resolves when that is stored. */
  end(ending: Ending): Promise<void>;
}

/**
 * Lets requests of hot keys in by what this process holds for them already.
 *
 * A lease is a reservation like any other, for more than one request: the kernel decides it, one write holds it, and it
 * expires with its process. What its requests came to is booked together, at least twice in each `revalidateMs`. After
 * that time nobody is let in by it: the next request asks the store, and for another lease in the same write. So what
 * was changed elsewhere is seen after `revalidateMs` at the latest.
 */
export interface Leases {
  /** undefined: the store has to be asked. Nobody is refused here. What a lease has left that is over is given back. */
  admit(asked: Asked): Leased | undefined;
  /** Has a key that turns out to be hot get a lease. For requests that ask the store, once they are in line. */
  warm(asked: Asked): void;
  /**
   * For a request that was refused: gives back what is not spent, so that it may have it. False: nothing was held since
   * it came.
   */
  giveBack(subject: KeySubject, sinceMs: number): Promise<boolean>;
  /** Has all that is known written, and gives back what is not spent. */
  close(): Promise<void>;
}

/** The traffic of one key in this process. */
interface Traffic {
  /** What was asked for since the last lease began. */
  asked: Slice;
  sinceMs: number;
  /** Resolves when the lease that was asked for has begun, or will not. */
  asking: Promise<void> | undefined;
  /** Until then it gets no lease. */
  coldUntilMs: number;
  lease: LiveLease | undefined;
  endedAtMs: number;
}

/** A lease is for so many times what its time would bring if all went on like before, and for no more than that much. */
const MARGIN = 1.5;
const MAX_GROWTH = 4;

export function leases(
  { revalidateMs, sharePercent, keys }: LeaseSettings,
  {
    runtime,
    session,
    commit,
    rules,
    cacheSize,
  }: {
    readonly runtime: Runtime;
    readonly session: StoreSession;
    readonly commit: GroupCommit;
    readonly rules: readonly Rule[];
    /** Keys whose traffic is known. */
    readonly cacheSize: number;
  },
): Leases {
  const traffics = new Map<string, Traffic>();
  const unposted = new Set<LiveLease>();
  let cancelTick: (() => void) | undefined;

  function admit({ subject, documents, facts, cost, tokens }: Asked): Leased | undefined {
    const traffic = traffics.get(subject.keyId);
    const lease = traffic?.lease;
    if (traffic === undefined || lease === undefined || typeof cost !== "number") return undefined;
    const { grant } = lease;
    if (!isSameModels(grant, facts)) return undefined;
    const now = session.now();
    const request = { requests: 1, cost, tokens };
    if (!isValid(lease) || !isSameTerms(grant, documents) || !isPaid(documents, now) || !lease.has(request)) {
      endLease(traffic);
      return undefined;
    }
    if (!evaluatePolicy(documents, facts, now, rules).allowed) return undefined;
    lease.admit(request);
    traffic.asked = plus(traffic.asked, request);
    return { standing: lease.standing(), end: (ending) => lease.end(request, ending) };
  }

  function isValid({ grant }: LiveLease): boolean {
    return runtime.monotonicMs() < grant.grantedAtMs + revalidateMs;
  }

  function warm({ subject, documents, facts, cost, tokens }: Asked): void {
    if (typeof cost !== "number" || !isLeasable(documents)) return;
    const time = runtime.monotonicMs();
    const traffic = trafficOf(subject.keyId, time);
    if (time - traffic.sinceMs > 2 * revalidateMs) Object.assign(traffic, { sinceMs: time, asked: NO_SLICE });
    traffic.asked = plus(traffic.asked, { requests: 1, cost, tokens });
    // One request alone says nothing.
    const isHot = traffic.asked.requests > 1 && time >= traffic.coldUntilMs;
    if (isHot && traffic.asking === undefined && traffic.lease === undefined)
      traffic.asking = ask(traffic, subject, facts, time);
  }

  function isLeasable(documents: Documents): boolean {
    // How many requests are in flight is known to all processes together only.
    return limitsOfBoth(documents).every(isRateLimit) && isChosen(documents.key);
  }

  /** What throws chooses nothing: a request beside it is decided already, and would be held without an end. */
  function isChosen(key: KeyRecord): boolean {
    try {
      return keys === undefined || keys(key);
    } catch {
      return false;
    }
  }

  function trafficOf(keyId: string, time: number): Traffic {
    const known = traffics.get(keyId);
    if (known !== undefined) return known;
    const [oldest] = traffics;
    if (traffics.size >= cacheSize && oldest !== undefined) {
      endLease(oldest[1]);
      traffics.delete(oldest[0]);
    }
    const traffic = {
      asked: NO_SLICE,
      sinceMs: time,
      asking: undefined,
      coldUntilMs: 0,
      lease: undefined,
      endedAtMs: -1,
    };
    traffics.set(keyId, traffic);
    startTicking();
    return traffic;
  }

  async function ask(traffic: Traffic, subject: KeySubject, facts: Facts, time: number): Promise<void> {
    const growth = Math.min(MAX_GROWTH, (MARGIN * revalidateMs) / Math.max(1, time - traffic.sinceMs));
    const wanted = times(traffic.asked, growth);
    Object.assign(traffic, { sinceMs: time, asked: NO_SLICE });
    try {
      const grant = await commit.decide(subject, leaseStep(subject, facts, wanted), undoing);
      if (grant === undefined || grant === "too little") traffic.coldUntilMs = time + revalidateMs;
      else start(traffic, grant);
    } catch {
      // Requests beside it are told of the fault; it may be over when the next one comes.
    } finally {
      traffic.asking = undefined;
    }
  }

  function start(traffic: Traffic, grant: LeaseGrant): void {
    const lease = liveLease(grant, commit, () => {
      unposted.add(lease);
      startTicking();
    });
    traffic.lease = lease;
    // Meanwhile the traffic may have been forgotten, or all leases been closed.
    if (traffics.get(grant.subject.keyId) !== traffic) endLease(traffic);
  }

  function leaseStep(subject: KeySubject, facts: Facts, wanted: Slice): KeyStep<LeaseGrant | "too little"> {
    return (records, { node, now, holdUntilMs }) => {
      const swept = sweep(records, now);
      const families = hasModelLimits(swept) ? familiesOf(facts) : undefined;
      const slice = sliceOf(swept, { wanted, families: families ?? [], sharePercent }, now);
      if (slice === undefined) return { records, outcome: "too little" };
      const { requests: places, cost, tokens } = slice;
      const request = { facts, cost, tokens, places, rules, node, holdUntilMs };
      const { documents, verdict } = decide(records, request, now);
      if (!verdict.allowed) return { records, outcome: "too little" };
      const grant = { subject, verdict, documents, slice, families, grantedAtMs: runtime.monotonicMs() };
      return { records: documents, outcome: grant };
    };
  }

  function endLease(traffic: Traffic): boolean {
    const { lease } = traffic;
    if (lease === undefined) return false;
    traffic.lease = undefined;
    traffic.endedAtMs = runtime.monotonicMs();
    lease.close();
    postOne(lease);
    return true;
  }

  function postOne(lease: LiveLease): void {
    unposted.delete(lease);
    lease.post();
  }

  function startTicking(): void {
    cancelTick ??= runtime.setTimer(tick, revalidateMs / 2, true);
  }

  function tick(): void {
    cancelTick = undefined;
    const time = runtime.monotonicMs();
    for (const [keyId, traffic] of traffics) {
      if (traffic.lease !== undefined && !isValid(traffic.lease)) endLease(traffic);
      const isIdle = traffic.lease === undefined && traffic.asking === undefined;
      if (isIdle && time - traffic.sinceMs > 4 * revalidateMs && time >= traffic.coldUntilMs)
        traffics.delete(keyId);
    }
    for (const lease of [...unposted]) postOne(lease);
    if (traffics.size > 0) startTicking();
  }

  return {
    admit,
    warm,
    async giveBack({ keyId }, sinceMs) {
      const traffic = traffics.get(keyId);
      await traffic?.asking;
      if (traffic === undefined || (!endLease(traffic) && traffic.endedAtMs < sinceMs)) return false;
      traffic.coldUntilMs = runtime.monotonicMs() + revalidateMs;
      return true;
    },
    async close() {
      const asking = [...traffics.values()].map((traffic) => traffic.asking);
      for (const traffic of traffics.values()) endLease(traffic);
      traffics.clear();
      for (const lease of [...unposted]) postOne(lease);
      await Promise.all(asking);
      if (traffics.size > 0 || unposted.size > 0) return;
      cancelTick?.();
      cancelTick = undefined;
    },
  };
}

function undoing(grant: LeaseGrant | "too little"): KeyStep<void> | undefined {
  return grant === "too little" ? undefined : voidingStep(grant.verdict.reservation);
}

/** Whether a lease was made on the terms that hold for a request. */
function isSameTerms({ documents }: LeaseGrant, { key, account }: Documents): boolean {
  return (
    key.policyVersion === documents.key.policyVersion &&
    account?.policyVersion === documents.account?.policyVersion
  );
}

/** Whether limits per model count a request where the lease holds places. */
function isSameModels({ families }: LeaseGrant, facts: Facts): boolean {
  if (families === undefined) return true;
  const wanted = familiesOf(facts);
  return families.length === wanted.length && families.every((family, at) => family === wanted[at]);
}

function hasModelLimits(documents: Documents): boolean {
  return limitsOfBoth(documents).some(isPerModel);
}

function limitsOfBoth({ key, account }: Documents): readonly Limit[] {
  return [...key.policy.limits, ...(account?.policy.limits ?? [])];
}

/** Whether a subscription lets requests in, in the cycle in which it was last seen. */
function isPaid({ key, account }: Documents, now: number): boolean {
  if (key.account?.pays !== "subscription" || account === undefined) return true;
  const { subscription } = account;
  return (
    judgeSubscription(account, now) === undefined &&
    subscription !== undefined &&
    now < cycleEnd(subscription)
  );
}
