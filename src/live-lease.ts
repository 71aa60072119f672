import type { Granted, Standing } from "./decide.js";
import { endingStep } from "./decision.js";
import type { Documents } from "./documents.js";
import type { GroupCommit, KeyStep, KeySubject } from "./group-commit.js";
import { cut, isWithin, least, NO_SLICE, plus, type Slice } from "./lease.js";
import { book, type Ending } from "./settle.js";
import { withResolvers } from "./store-session.js";
import type { Count } from "./tally.js";

/** What a lease was granted by: the kernel's answer, and when this process asked. */
export interface LeaseGrant {
  readonly subject: KeySubject;
  readonly verdict: Granted;
  readonly documents: Documents;
  /** What its reservation is made of. */
  readonly slice: Slice;
  /** What limits per model count its requests by; undefined: there are none. */
  readonly families: readonly string[] | undefined;
  /** By the process's own clock. */
  readonly grantedAtMs: number;
}

/** One reservation for several requests, and those that were let in by it. */
export interface LiveLease {
  readonly grant: LeaseGrant;
  /** Whether enough is left for a request. */
  has(request: Slice): boolean;
  /** Lets a request in. */
  admit(request: Slice): void;
  /** Ends a request that was let in. Resolves when that is stored. */
  end(request: Slice, ending: Ending): Promise<void>;
  /** Where limits and quota stand, as far as this process knows. */
  standing(): Standing;
  /** Gives back what is not spent with the next `post`, and lets nobody in any more. */
  close(): void;
  /** Has what is known by now written: in the next write of its key. */
  post(): void;
}

/** @param onChange called when there is something to post. */
export function liveLease(grant: LeaseGrant, commit: GroupCommit, onChange: () => void): LiveLease {
  const { subject, verdict, slice } = grant;
  /** What the store holds for it, once all that was posted is written. */
  let reservation = verdict.reservation;
  let held = slice;
  /** Promised to requests in flight. Requests themselves take their place when they are let in. */
  let open = NO_SLICE;
  /** Taken, and not posted. */
  let used = NO_SLICE;
  /** Taken since the lease began. */
  let spent = NO_SLICE;
  let counts = new Map<string, Count>();
  let stored: ReturnType<typeof withResolvers<void>> | undefined;
  let isClosed = false;
  /** All of it was given back. */
  let isOver = false;

  function take(amounts: Slice): void {
    used = plus(used, amounts);
    spent = plus(spent, amounts);
  }

  function left(): Slice {
    return plus(plus(held, { ...open, requests: 0 }, -1), used, -1);
  }

  function admit(request: Slice): void {
    open = plus(open, request);
    take({ ...NO_SLICE, requests: 1 });
    onChange();
  }

  function end(request: Slice, ending: Ending): Promise<void> {
    open = plus(open, request, -1);
    onChange();
    if (typeof ending.cost !== "number") return endAlone(request, ending);
    const { cost, outcome, model = null, inputTokens = 0, outputTokens = 0 } = ending;
    const { tokens = inputTokens + outputTokens } = ending;
    take({ requests: 0, cost, tokens });
    const name = `${outcome}/${model}`;
    const known = counts.get(name) ?? { model, outcome, ...NO_COUNT };
    counts.set(name, {
      ...known,
      requests: known.requests + 1,
      cost: safeSum(known.cost, cost),
      inputTokens: safeSum(known.inputTokens, inputTokens),
      outputTokens: safeSum(known.outputTokens, outputTokens),
    });
    stored ??= withResolvers();
    return stored.promise;
  }

  /** Prices by fund are paid whole by one of them, so they are not added to others. */
  function endAlone(request: Slice, ending: Ending): Promise<void> {
    const { part, rest } = cut(reservation, { ...request, requests: 0 });
    reservation = rest;
    held = plus(held, { ...request, requests: 0 }, -1);
    return commit.post(subject, endingStep(part, ending));
  }

  function post(): void {
    if (isOver) return;
    const isLast = isClosed && open.requests === 0;
    const free = plus(held, { ...open, requests: 0 }, -1);
    const given = isClosed ? free : least(used, free);
    const { part, rest } = cut(reservation, given);
    const { cost, tokens, requests: places } = used;
    const told = [...counts.values()];
    const waiting = stored;
    reservation = rest;
    held = plus(held, given, -1);
    [used, counts, stored, isOver] = [NO_SLICE, new Map(), undefined, isLast];
    const ended = { ...part, isWhole: isLast };
    const step: KeyStep<void> = (documents, { now }) => ({
      records: book(documents, ended, {
        ...{ cost, tokens, places, now },
        counts: (_, paid) => withPaid(told, paid),
      }),
      outcome: undefined,
    });
    void commit.post(subject, step).then(waiting?.resolve);
  }

  function standing(): Standing {
    const { quota, limits } = verdict;
    const more = plus(plus(slice, { ...open, requests: 0 }, -1), spent, -1);
    const { remaining } = quota;
    return {
      quota: {
        ...quota,
        used: quota.used + spent.cost,
        held: quota.held - slice.cost + open.cost,
        remaining: remaining === null ? null : Math.max(0, remaining + more.cost),
      },
      limits: limits.map((limit) => {
        const room = limit.unit === "tokens" ? more.tokens : more.requests;
        return { ...limit, remaining: Math.max(0, limit.remaining + room) };
      }),
    };
  }

  return {
    grant,
    has: (request) => isWithin(request, left()),
    admit,
    end,
    standing,
    close() {
      isClosed = true;
      onChange();
    },
    post,
  };
}

const NO_COUNT = { requests: 0, cost: 0, inputTokens: 0, outputTokens: 0, paid: 0 } as const;

/** What the balance paid of several requests is told of the first ones, as far as they cost that much. */
function withPaid(counts: readonly Count[], paid: number): readonly Count[] {
  let rest = paid;
  return counts.map((counted) => {
    const part = Math.min(rest, counted.cost);
    rest -= part;
    return { ...counted, paid: part };
  });
}

function safeSum(a: number, b: number): number {
  return Math.min(a + b, Number.MAX_SAFE_INTEGER);
}
