import {
  type KeyTrack,
  latestBody,
  type ModelEdit,
  type ModelRequest,
  type OracleOptions,
  openAccount,
  openOf,
  statesSince,
} from "./account.js";
import { createAuditor } from "./auditor.js";
import { amount, type Body, heldBy } from "./body.js";
import { type Evidence, isAllowanceRight, isRefusalRight } from "./judgement.js";
import { isRequestLimit, type SubjectRefusal } from "./subject.js";

export type Oracle = ReturnType<typeof createOracle>;

/**
 * Keeps its own account of everything that callers saw, and judges every answer by it.
 *
 * It knows nothing of how the package works inside. From the documents it takes what the design says they mean:
 * what is used, what each process holds, what was collected from whom.
 */
export function createOracle(options: OracleOptions) {
  const account = openAccount(options);
  const { clock, nowMs, step, isCalm, fail, count, tracks, trackOf, endings, ownerOf, editsOf } = account;
  const auditor = createAuditor(account);

  // ── requests ────────────────────────────────────────────────────────────────────────────────────────────────

  function requested(request: ModelRequest): void {
    count("requests");
    const track = trackOf(request.keyId);
    track.requests.push(request);
    openOf(track, request.process).add(request);
  }

  function answered(request: ModelRequest, answer: ModelRequest["answer"]): KeyTrack {
    request.answer = answer;
    request.answeredStep = step();
    request.answeredMs = nowMs();
    return trackOf(request.keyId);
  }

  function answeredFault(request: ModelRequest, code: string | undefined): void {
    const track = answered(request, "fault");
    openOf(track, request.process).delete(request);
    track.held.push(request);
    // Its process has to find out what became of it and to write it before the memory ends.
    if (auditor.isMemoryOver(track, request, 60_000)) request.forgotten = true;
    count("faults");
    judgeFault(request.process, code, request.arrivedMs, request.name);
  }

  /** A fault needs a reason: something broke, the process was told to stop, or the clock went far back. */
  function judgeFault(process: string, code: string | undefined, calledMs: number, what: string): void {
    const isClosing = endings.get(process) !== "running";
    // A process that heard the store's clock less than 10 s ago relies on what it heard.
    const isFarBack = clock.latest(nowMs()) - clock.range(calledMs - 11_000, nowMs()).earliest > 290_000;
    const excused =
      (code === "store_unavailable" && !isCalm) ||
      (code === "closed" && isClosing) ||
      (code === "document_invalid" && isFarBack);
    if (!excused) fail("fault-has-a-reason", `${what} met the fault ${code}`);
  }

  function answeredRefusal(request: ModelRequest, refusal: SubjectRefusal): void {
    const track = answered(request, "refused");
    openOf(track, request.process).delete(request);
    count("refused");
    count(`refused ${refusal.reason}${refusal.held === true ? " held" : ""}`);
    const evidence = evidenceOf(track, request);
    // Leases hold a share that nobody has spent, so a refusal may come before the books say so.
    const mayBeEarly = account.leaseMs > 0 && (refusal.status === 402 || refusal.status === 429);
    if (!mayBeEarly && !sharedAnEdit(request) && !isRefusalRight(refusal, evidence)) {
      fail(
        "refusal-is-right",
        `${request.name} was refused ${JSON.stringify(refusal)}, ${describe(evidence)}`,
      );
    }
  }

  function answeredAllowance(request: ModelRequest): void {
    const track = answered(request, "allowed");
    count("allowed");
    const evidence = evidenceOf(track, request);
    if (!sharedAnEdit(request) && !isAllowanceRight(evidence)) {
      fail("allowance-is-right", `${request.name} was allowed, ${describe(evidence)}`);
    }
    track.held.push(request);
    track.admitted.push(request);
    track.admittedCost += request.cost;
    auditor.judgeSpending(track);
    auditor.judgeCover(track, request.process);
    auditor.judgeRate(track, request);
    auditor.judgeInFlight(track);
    if (endings.get(request.process) !== "running") {
      ended(request, request.cost);
    }
  }

  /** The handler ends its request. While its process closes, its estimate may have been settled before. */
  function ended(request: ModelRequest, cost: number): void {
    const track = trackOf(request.keyId);
    openOf(track, request.process).delete(request);
    const { least, most } = request.ended ?? { least: cost, most: cost };
    if (request.ended === undefined) {
      track.admittedCost -= request.cost;
    } else {
      track.admittedCost -= least;
      track.called -= most;
      track.debt -= Math.max(0, most - request.cost);
    }
    request.ended = { least: Math.min(least, cost), most: Math.max(most, cost) };
    track.admittedCost += request.ended.least;
    track.called += request.ended.most;
    track.debt += Math.max(0, request.ended.most - request.cost);
  }

  function acknowledged(request: ModelRequest): void {
    if (request.acknowledged) return;
    request.acknowledged = true;
    count("settled");
    const track = trackOf(request.keyId);
    if (auditor.isMemoryOver(track, request, 0)) request.forgotten = true;
    // What is forgotten stays as it was booked; the end is acknowledged because nothing more can come of it.
    if (!request.forgotten) track.acknowledged += request.ended?.least ?? 0;
    auditor.judgeBooks(track, "settle-is-stored", request.name);
  }

  /** An edit may share a write with requests before and after it; the state it met there is nowhere to be seen. */
  function sharedAnEdit({ process, keyId }: ModelRequest): boolean {
    const edits = editsOf(process, keyId);
    return edits.running + (edits.lastStep === step() ? edits.atLastStep : 0) > 0;
  }

  function evidenceOf(track: KeyTrack, request: ModelRequest): Evidence {
    const { digest, cost, arrivedStep, arrivedMs, answeredMs } = request;
    const { toleranceMs, leaseMs } = account;
    // By a lease a process goes on without hearing that the store's clock has jumped.
    const { earliest, latest } = clock.range(arrivedMs - leaseMs, answeredMs);
    const alongside = { requests: 0, cost: 0 };
    for (let index = track.held.length - 1; index >= 0; index--) {
      const holder = track.held[index] as ModelRequest;
      // Who got a fault after this request came may have been promised something in the same write, too.
      if (holder.answeredMs < arrivedMs) break;
      if (holder.process !== request.process) continue;
      if (holder.answer === "allowed" && holder.answeredStep < step()) continue;
      alongside.requests += 1;
      alongside.cost += holder.cost;
    }
    return {
      digest,
      cost,
      states: statesSince(track, arrivedStep, leaseMs > 0 ? arrivedMs - leaseMs : undefined),
      earliestMs: earliest - toleranceMs,
      latestMs: latest + toleranceMs,
      alongside,
      debt: track.debt,
    };
  }

  // ── edits and processes ─────────────────────────────────────────────────────────────────────────────────────

  function editCalled({ process, keyId }: ModelEdit): void {
    count("edits");
    editsOf(process, keyId).running += 1;
  }

  function quotaAsked(keyId: string, quota: number): void {
    const track = trackOf(keyId);
    track.highestQuota = Math.max(track.highestQuota, quota);
  }

  function editDone(edit: ModelEdit, outcome: { readonly fault?: string | undefined }): void {
    const edits = editsOf(edit.process, edit.keyId);
    edits.running -= 1;
    edits.atLastStep = edits.lastStep === step() ? edits.atLastStep + 1 : 1;
    edits.lastStep = step();
    const states = statesSince(trackOf(edit.keyId), edit.calledStep);
    if (!("fault" in outcome)) {
      // Of two edits in one write the store only shows the later one.
      const isAlone = edit.keyId !== "" && edits.running === 0;
      if (isAlone && !states.some(edit.took))
        fail("edits-are-stored", `${edit.what} resolved and is not in the store`);
      return;
    }
    count("edits faulted");
    const isForbidden =
      outcome.fault === "key_state" && states.some(({ policy }) => policy.state === "revoked");
    const isRace = outcome.fault === "policy_conflict" && states.length > 1;
    if (!isForbidden && !isRace) judgeFault(edit.process, outcome.fault, edit.calledMs, edit.what);
  }

  function issued(process: string, keyId: string, digest: string): void {
    const body = latestBody(trackOf(keyId));
    const isListed = body?.secrets.some((secret) => secret.digest === digest && secret.endsAtMs === null);
    if (isListed !== true || !auditor.hasSecret(digest))
      fail("edits-are-stored", `${process} issued a key not stored`);
  }

  /** A new secret counts from the moment its holder learns of it. */
  function rotated(keyId: string, digest: string): void {
    const isStored = trackOf(keyId).states.some(({ body }) =>
      body.secrets.some((secret) => secret.digest === digest),
    );
    if (!isStored || !auditor.hasSecret(digest))
      fail("edits-are-stored", `a new secret of ${keyId} is not stored`);
  }

  function processStarted(process: string): void {
    endings.set(process, "running");
  }

  function processCrashed(process: string): void {
    endings.set(process, "crashed");
  }

  /** From the call on, what is open may be settled at its estimate at any time. */
  function processClosing(process: string): void {
    endings.set(process, "closedUnwritten");
    for (const request of openRequestsOf(process)) {
      if (request.answer === "allowed") ended(request, request.cost);
    }
  }

  function processClosed(process: string, unwritten: number): void {
    if (unwritten > 0) return;
    endings.set(process, "closed");
    for (const track of tracks.values()) {
      for (const request of track.requests) {
        if (request.process === process && request.ended !== undefined) acknowledged(request);
      }
    }
  }

  function openRequestsOf(process: string): readonly ModelRequest[] {
    return [...tracks.values()].flatMap((track) => [...(track.open.get(process) ?? [])]);
  }

  function unacknowledgedOf(process: string): readonly ModelRequest[] {
    return [...tracks.values()]
      .flatMap(({ requests }) => requests)
      .filter(
        (request) => request.process === process && request.ended !== undefined && !request.acknowledged,
      );
  }

  // ── the end ─────────────────────────────────────────────────────────────────────────────────────────────────

  /** Judges the books of every key when all is over: what could be settled is, and what died has expired. */
  function finish(): void {
    const storeMs = clock.at(nowMs());
    for (const track of tracks.values()) {
      const body = latestBody(track);
      if (body === undefined) continue;
      let expired = 0;
      for (const [identity, entry] of Object.entries(body.nodes)) {
        if (entry.open === 0 && amount(entry.held) === 0) continue;
        // A revoked key sees no more requests, so nobody may come to collect; it only has to be possible.
        const isExpired = entry.renewByMs <= storeMs && !auditor.isAlive(identity);
        if (!isExpired || body.policy.state !== "revoked") {
          fail(
            "no-stuck-hold",
            `${identity} of ${ownerOf.get(identity)} on ${track.id}: ${JSON.stringify(entry)}`,
          );
        }
        if (body.policy.onCrash === "charge") expired += amount(entry.held);
      }
      judgeFinalBooks(track, body, expired);
      if (isCalm && !track.hasEditedLimits && body.policy.limits.some(isRequestLimit)) {
        const { length } = track.admitted;
        if (track.counted !== length)
          fail("refusals-are-free", `buckets took ${track.counted}, admitted ${length}`);
      }
    }
  }

  /** @param expired what the dead hold and nobody has collected yet: charged for all that matters here. */
  function judgeFinalBooks(track: KeyTrack, body: Body, expired: number): void {
    let least = 0;
    let most = 0;
    for (const request of track.requests) {
      const [low, high] = finalCost(request, body.policy.onCrash);
      least += low;
      most += high;
    }
    // The slice of a lease is charged whole when its process dies, also what no request had taken of it: so with leases
    // all charges that stand count as they are, and beyond them only ends that were called for.
    if (account.leaseMs > 0) most = track.called + track.forgotten + auditor.standingCharges(body) + expired;
    const used = amount(body.used) + expired;
    const left = JSON.stringify(body.collected);
    const books = `${track.id} ends with used ${used}, ${track.forgotten} of it forgotten, ${expired} expired, and ${left}`;
    if (used < least) fail("no-lost-charge", `${books}; at least ${least} was spent`);
    if (used > most) fail("no-double-charge", `${books}; at most ${most} was spent`);
    if (least === most) count("exact books");
    else count("bounded books");
  }

  /**
   * What a request may have come to in the end.
   *
   * - Refused: nothing, whatever happened to its process.
   * - Pending or 503: nothing, as long as its process lived to void what it had sent. If it died, the store may
   *   hold its estimate for good, because only that process knew what its last attempt contained.
   * - Ended and acknowledged: the cost. Ended and not acknowledged, by a process that died: the cost if the write
   *   arrived, else the hold expired, which `onCrash` turns into the estimate or nothing. No one can know which.
   * - Open when its process died: the hold expired.
   * - Forgotten (its hold was collected more than an hour ago): what was booked then, or the cost if it had been
   *   corrected before.
   */
  function finalCost(request: ModelRequest, mode: "charge" | "release"): readonly [number, number] {
    const { answer, cost, acknowledged: isAcknowledged, forgotten, process } = request;
    const expired = mode === "charge" ? cost : 0;
    const ending = endings.get(process);
    const survived = ending === "running" || ending === "closed";
    if (answer === "refused") return [0, 0];
    if (answer !== "allowed") return survived && !forgotten ? [0, 0] : [0, expired];
    if (request.ended === undefined) {
      if (survived) fail("no-stuck-hold", `${request.name} never ended`);
      return [expired, expired];
    }
    const { least, most } = request.ended;
    if (isAcknowledged && !forgotten) return [least, most];
    if (survived && !isAcknowledged)
      fail("settle-is-stored", `the end of ${request.name} was never acknowledged`);
    return [Math.min(least, expired), Math.max(most, expired)];
  }

  /** Whether somebody who lives still waits for an answer, or for the end of a request to be stored. */
  function isWaiting(): boolean {
    return [...tracks.values()].some(({ requests }) =>
      requests.some(({ process, answer, ended: end, acknowledged: isAcknowledged, forgotten }) => {
        if (endings.get(process) !== "running") return false;
        return answer === "pending" || (end !== undefined && !isAcknowledged && !forgotten);
      }),
    );
  }

  /** Every call was answered, unless its process died first. */
  function judgeAnswers(): void {
    for (const request of [...tracks.values()].flatMap(({ requests }) => requests)) {
      if (request.answer === "pending" && endings.get(request.process) !== "crashed") {
        fail("every-request-is-answered", `${request.name} of ${request.process} is still waiting`);
      }
    }
  }

  function bodyOf(keyId: string): Body | undefined {
    return tracks.get(keyId)?.states.at(-1)?.body;
  }

  /** Why nobody can use a key just now. */
  function obstacleOf(keyId: string): "revoked" | "disabled" | "expired" | "exhausted" | undefined {
    const body = bodyOf(keyId);
    if (body === undefined) return "revoked";
    const { state, expiresAtMs, quota } = body.policy;
    if (state !== "active") return state;
    if (expiresAtMs !== null && expiresAtMs <= clock.at(nowMs())) return "expired";
    return quota !== null && amount(body.used) + heldBy(body) >= quota ? "exhausted" : undefined;
  }

  return {
    obstacleOf,
    requested,
    answeredFault,
    answeredRefusal,
    answeredAllowance,
    ended,
    acknowledged,
    sent: auditor.sent,
    written: auditor.written,
    editCalled,
    editDone,
    quotaAsked,
    issued,
    rotated,
    unacknowledgedOf,
    processStarted,
    processCrashed,
    processClosing,
    processClosed,
    isWaiting,
    judgeAnswers,
    finish,
    bodyOf,
  };
}

function describe({ states, cost, earliestMs, latestMs }: Evidence): string {
  const seen = states.map(({ policy, used, nodes, levels }) =>
    JSON.stringify([policy.state, policy.expiresAtMs, policy.quota, amount(used), nodes, levels]),
  );
  return `cost ${cost}, between ${earliestMs} and ${latestMs}, by ${seen.slice(0, 6).join(" then ")}`;
}
