import { hearAlert, type Told } from "./alerts.js";
import { createMoneyAuditor } from "./auditor.js";
import {
  type AccountTrack,
  boundsOf,
  cycleTotals,
  type KeyTrack,
  latest,
  type MoneyEdit,
  type MoneyOracleOptions,
  type MoneyRequest,
  openBooks,
  type Price,
  statesSince,
} from "./books.js";
import { type AccountBody, cycleOf, type KeyBody } from "./documents.js";
import { isAllowanceRight, isRefusalRight, type MoneyEvidence, type MoneyRefusal } from "./judgement.js";

export type MoneyOracle = ReturnType<typeof createMoneyOracle>;

/**
 * Keeps its own account of what callers of several processes saw of shared money, and judges every answer, every
 * alert and every stored document by it. Of the package it knows what the design says its documents mean, nothing else.
 */
export function createMoneyOracle(options: MoneyOracleOptions) {
  const books = openBooks(options);
  const { clock, nowMs, step, leaseMs, isCalm, fail, count, keys, endings, ownerOf, editsOf, claims } = books;
  const auditor = createMoneyAuditor(books);

  // ── requests ────────────────────────────────────────────────────────────────────────────────────────────────

  function requested(request: MoneyRequest): void {
    count("requests");
    books.accountOf(request.accountId).requests.push(request);
  }

  function answered(request: MoneyRequest, answer: MoneyRequest["answer"]): AccountTrack {
    request.answer = answer;
    request.answeredStep = step();
    request.answeredMs = nowMs();
    return books.accountOf(request.accountId);
  }

  function answeredFault(request: MoneyRequest, code: string | undefined): void {
    answered(request, "fault").held.push(request);
    count("faults");
    judgeFault(request.process, code, request.arrivedMs, request.name);
  }

  /** A fault needs a reason: something broke, or the clock went far back. */
  function judgeFault(process: string, code: string | undefined, calledMs: number, what: string): void {
    const isFarBack = clock.latest(nowMs()) - clock.range(calledMs - 11_000, nowMs()).earliest > 290_000;
    const isExcused = (code === "store_unavailable" && !isCalm) || (code === "document_invalid" && isFarBack);
    if (!isExcused) fail("fault-has-a-reason", `${what} met the fault ${code} in ${process}`);
  }

  function answeredRefusal(request: MoneyRequest, refusal: MoneyRefusal): void {
    const track = answered(request, "refused");
    count(`refused ${refusal.reason}${refusal.held === true ? " held" : ""}`);
    const evidence = evidenceOf(track, request);
    // Leases hold a share that nobody has spent, so a refusal may come before the books say so.
    const mayBeEarly = leaseMs > 0 && (refusal.status === 402 || refusal.status === 429);
    if (!mayBeEarly && !sharedAnEdit(request) && !isRefusalRight(refusal, evidence))
      fail("refusal-is-right", `${request.name} was refused ${refusal.reason}, ${describe(evidence)}`);
  }

  function answeredAllowance(request: MoneyRequest): void {
    const track = answered(request, "allowed");
    count("allowed");
    const evidence = evidenceOf(track, request);
    request.cycles = new Set(evidence.accounts.map(cycleOf));
    if (!sharedAnEdit(request) && !isAllowanceRight(evidence))
      fail("allowance-is-right", `${request.name} was allowed, ${describe(evidence)}`);
    track.held.push(request);
    auditor.judgeCover(track);
  }

  /** The handler ends its request; the first end counts. */
  function ended(request: MoneyRequest, cost: Price): void {
    if (request.ended !== undefined) return;
    const { pays, cycles, cost: estimate } = request;
    const track = books.accountOf(request.accountId);
    request.ended = cost;
    track.debt += excessOf(cost, estimate, pays);
    const [, most] = boundsOf(cost, pays);
    (keys.get(request.keyId) as KeyTrack).called += most;
    if (pays === "subscription") for (const cycle of cycles) cycleTotals(track, cycle).called += most;
  }

  function acknowledged(request: MoneyRequest): void {
    if (request.acknowledged || request.ended === undefined) return;
    request.acknowledged = true;
    count("settled");
    const { pays, cycles } = request;
    const track = books.accountOf(request.accountId);
    const [least] = boundsOf(request.ended, pays);
    (keys.get(request.keyId) as KeyTrack).acknowledged += least;
    const [cycle] = cycles;
    if (pays === "subscription" && cycles.size === 1 && cycle !== undefined)
      cycleTotals(track, cycle).acknowledged += least;
    auditor.judgeAccount(track);
  }

  /** An edit may share a write with requests before and after it; the state it met there is nowhere to be seen. */
  function sharedAnEdit({ process, accountId }: MoneyRequest): boolean {
    return (
      editsOf(process, accountId).size > 0 || books.lastEditStep.get(`${process} ${accountId}`) === step()
    );
  }

  function evidenceOf(track: AccountTrack, request: MoneyRequest): MoneyEvidence {
    const { arrivedStep, arrivedMs, answeredMs } = request;
    const { earliest, latest: last } = clock.range(arrivedMs - leaseMs, answeredMs);
    const sinceMs = leaseMs > 0 ? arrivedMs - leaseMs : undefined;
    const alongside = { requests: 0, cost: 0, keyCost: 0 };
    for (let index = track.held.length - 1; index >= 0; index--) {
      const holder = track.held[index] as MoneyRequest;
      if (holder.answeredMs < arrivedMs) break;
      if (holder.process !== request.process) continue;
      if (holder.answer === "allowed" && holder.answeredStep < step()) continue;
      const [, most] = boundsOf(holder.cost, holder.pays);
      alongside.requests += 1;
      alongside.cost += most;
      if (holder.keyId === request.keyId) alongside.keyCost += most;
    }
    return {
      request,
      accounts: statesSince(track.states, arrivedStep, sinceMs),
      keys: statesSince((keys.get(request.keyId) as KeyTrack).states, arrivedStep, sinceMs),
      earliestMs: earliest - options.toleranceMs,
      latestMs: last + options.toleranceMs,
      alongside,
      debt: track.debt,
    };
  }

  // ── edits, alerts, processes ────────────────────────────────────────────────────────────────────────────────

  function editCalled(edit: MoneyEdit): void {
    count(`edit ${edit.what}`);
    editsOf(edit.process, edit.accountId).add(edit);
  }

  /** `forbidden`: codes with which this call may be answered by the state it met. */
  function editDone(edit: MoneyEdit, fault: string | undefined, forbidden: readonly string[]): void {
    const { process, accountId } = edit;
    books.lastEditStep.set(`${process} ${accountId}`, step());
    const track = books.accountOf(accountId);
    if (fault === undefined) {
      const isAlone = editsOf(process, accountId).size === 1;
      editsOf(process, accountId).delete(edit);
      const states = statesSince(track.states, edit.calledStep);
      if (isAlone && !states.some((state) => edit.took(state, track.entries)))
        fail("edits-are-stored", `${edit.what} of ${accountId} resolved and is not in the store`);
      return;
    }
    count("edits faulted");
    if (!forbidden.includes(fault)) {
      // It may still be written, by a request that is late.
      judgeFault(process, fault, edit.calledMs, edit.what);
      return;
    }
    editsOf(process, accountId).delete(edit);
  }

  function told(process: string, alert: Told): void {
    hearAlert(books, process, alert);
  }

  function processStarted(process: string): void {
    endings.set(process, "running");
  }

  function processCrashed(process: string): void {
    endings.set(process, "crashed");
  }

  // ── the end ─────────────────────────────────────────────────────────────────────────────────────────────────

  /** Judges all books when everything is over: what could be settled is, and what died has expired. */
  function finish(): void {
    for (const track of books.accounts.values()) {
      for (const request of track.requests) {
        const survived = endings.get(request.process) === "running";
        if (!survived) continue;
        if (request.answer === "pending")
          fail("every-request-is-answered", `${request.name} is still waiting`);
        if (request.ended !== undefined && !request.acknowledged)
          fail("settle-is-stored", `the end of ${request.name} was never acknowledged`);
      }
      judgeNothingHeld(track.id, latest(track.states));
      for (const { id, states } of track.keys.values()) judgeNothingHeld(id, latest(states));
      count(track.isBlurred ? "bounded books" : track.hasCollected ? "corrected books" : "exact books");
    }
    for (const { writer, what, told: times } of claims) {
      const survived = endings.get(writer) === "running";
      if (survived && times !== 1)
        fail("alerts-are-told-once", `${what} was told ${times} times by ${writer}`);
    }
  }

  function judgeNothingHeld(id: string, body: AccountBody | KeyBody | undefined): void {
    for (const [identity, { open, held }] of Object.entries(body?.nodes ?? {})) {
      if (open > 0 || Object.keys(held).length > 0)
        fail("no-stuck-hold", `${identity} of ${ownerOf.get(identity)} on ${id}: ${JSON.stringify(held)}`);
    }
  }

  /** Whether somebody who lives still waits for an answer, or for the end of a request to be stored. */
  function isWaiting(): boolean {
    return [...books.accounts.values()].some(({ requests }) =>
      requests.some(({ process, answer, ended: end, acknowledged: isAcknowledged }) => {
        if (endings.get(process) !== "running") return false;
        return answer === "pending" || (end !== undefined && !isAcknowledged);
      }),
    );
  }

  function bodyOf(accountId: string): AccountBody | undefined {
    return latest(books.accountOf(accountId).states);
  }

  return {
    requested,
    answeredFault,
    answeredRefusal,
    answeredAllowance,
    ended,
    acknowledged,
    editCalled,
    editDone,
    told,
    sent: auditor.sent,
    committed: auditor.committed,
    processStarted,
    processCrashed,
    isWaiting,
    finish,
    bodyOf,
  };
}

/** By how much an actual cost may exceed what was promised. A price of 0 promised nothing in any fund. */
function excessOf(actual: Price, estimate: Price, pays: MoneyRequest["pays"]): number {
  if (typeof actual === "number" && typeof estimate === "number") return Math.max(0, actual - estimate);
  if (typeof actual === "number" || typeof estimate === "number") return boundsOf(actual, pays)[1];
  if (estimate.subscription === 0 || estimate.balance === 0) return boundsOf(actual, pays)[1];
  return Math.max(0, actual.subscription - estimate.subscription, actual.balance - estimate.balance);
}

function describe({ request, accounts, earliestMs, latestMs, alongside }: MoneyEvidence): string {
  const seen = accounts
    .slice(0, 4)
    .map(({ policy, subscription, credited, used, nodes }) =>
      JSON.stringify([policy.state, policy.payAsYouGo, subscription, credited, used, nodes]),
    );
  const { cost, pays } = request;
  const along = JSON.stringify(alongside);
  return `${JSON.stringify(cost)} of the ${pays}, ${earliestMs} to ${latestMs}, ${along}, by ${seen.join(" then ")}`;
}
