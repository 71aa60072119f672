import type { Document, Write } from "../../src/store.js";
import { amount, type Body, heldBy, MOST_COLLECTED, readBody } from "./body.js";
import type { StoreClock } from "./clock.js";
import { type Evidence, isAllowanceRight, isRefusalRight } from "./judgement.js";
import type { SubjectLimit, SubjectRefusal } from "./subject.js";

/** How long a collected entry can still be corrected. */
const MEMORY_MS = 3_600_000;

/** What is counted of a run, to show that what is claimed to be tested really happened. */
export type Statistics = Record<string, number>;

/** One request as its caller saw it. */
export interface ModelRequest {
  readonly name: string;
  readonly keyId: string;
  readonly process: string;
  readonly digest: string;
  readonly cost: number;
  readonly arrivedStep: number;
  readonly arrivedMs: number;
  answer: "pending" | "allowed" | "refused" | "fault";
  answeredStep: number;
  answeredMs: number;
  /** How its handler ended it, if it did: the least and the most that this can have come to. */
  ended: { least: number; most: number } | undefined;
  /** Whether the caller was told that the end is stored. */
  acknowledged: boolean;
  /** Its hold may have been collected: its process was silent for longer than it had promised. */
  lost: boolean;
  /** Even the memory of that collection is gone: what was booked then stands, as the design says. */
  forgotten: boolean;
}

/** An edit of a key by its owner, from the call until the caller knew. */
export interface ModelEdit {
  readonly process: string;
  readonly keyId: string;
  readonly what: string;
  readonly calledStep: number;
  readonly calledMs: number;
  readonly took: (body: Body) => boolean;
}

/** A process, and what became of it. */
export type Ending = "running" | "crashed" | "closed" | "closedUnwritten";

interface KeyTrack {
  readonly id: string;
  readonly states: { readonly step: number; readonly version: number; readonly body: Body }[];
  readonly requests: ModelRequest[];
  /** Requests of each process that have not ended, answered or not. */
  readonly open: Map<string, Set<ModelRequest>>;
  /** Answered allowances in order of their answers, for the bound on rates. */
  readonly admitted: ModelRequest[];
  /** Who was promised something, or may have been, in order of the answers. */
  readonly held: ModelRequest[];
  /** What the acknowledged ends came to, at the least. */
  acknowledged: number;
  /** What all ends ever called for come to, at the most. */
  called: number;
  /** Of all allowances: the cost if it is known, else the estimate. */
  admittedCost: number;
  /** Costs above their estimates: facts that the quota cannot prevent. */
  debt: number;
  /** Charged for collected holds whose memory is gone. */
  forgotten: number;
  /** Requests counted by the buckets, by store order. */
  counted: number;
  highestQuota: number;
  isReleased: boolean;
  hasEditedLimits: boolean;
}

export interface OracleOptions {
  readonly clock: StoreClock;
  readonly nowMs: () => number;
  readonly step: () => number;
  /** How wrong a process may be about the store's time. */
  readonly toleranceMs: number;
  /** A run without any fault, in which more can be demanded. */
  readonly isCalm: boolean;
  readonly statistics: Statistics;
  readonly fail: (invariant: string, detail: string) => void;
}

export type Oracle = ReturnType<typeof createOracle>;

/**
 * Keeps its own account of everything that callers saw, and holds every state of the true store against it.
 *
 * It knows nothing of how the package works inside. From the documents it takes what the design says they mean:
 * what is used, what each process holds, what was collected from whom. The equation at its centre is, per key,
 *
 *     used = costs of the ended requests + charges of collected holds that nobody has corrected
 *
 * in which the second term stands in the document itself, so the first can be confined between what was
 * acknowledged and what was called for, after every single write.
 */
export function createOracle(options: OracleOptions) {
  const { clock, nowMs, step, statistics, fail } = options;
  const tracks = new Map<string, KeyTrack>();
  const secretDigests = new Set<string>();
  const endings = new Map<string, Ending>();
  const ownerOf = new Map<string, string>();
  const editing = new Map<string, { running: number; lastStep: number; atLastStep: number }>();
  const collectedAtStep = new Map<string, number>();

  function count(name: string, by = 1): void {
    statistics[name] = (statistics[name] ?? 0) + by;
  }

  function trackOf(keyId: string): KeyTrack {
    let track = tracks.get(keyId);
    if (track === undefined) {
      track = {
        id: keyId,
        states: [],
        requests: [],
        open: new Map(),
        admitted: [],
        held: [],
        acknowledged: 0,
        called: 0,
        admittedCost: 0,
        debt: 0,
        forgotten: 0,
        counted: 0,
        highestQuota: 0,
        isReleased: false,
        hasEditedLimits: false,
      };
      tracks.set(keyId, track);
    }
    return track;
  }

  // ── requests ────────────────────────────────────────────────────────────────────────────────────────────────

  function requested(request: ModelRequest): void {
    count("requests");
    const track = trackOf(request.keyId);
    track.requests.push(request);
    openOf(track, request.process).add(request);
  }

  function openOf(track: KeyTrack, process: string): Set<ModelRequest> {
    let open = track.open.get(process);
    if (open === undefined) {
      open = new Set();
      track.open.set(process, open);
    }
    return open;
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
    if (isMemoryOver(track, request, 60_000)) request.forgotten = true;
    count("faults");
    judgeFault(request.process, code, request.arrivedMs, request.name);
  }

  /** A fault needs a reason: something broke, the process was told to stop, or the clock went far back. */
  function judgeFault(process: string, code: string | undefined, calledMs: number, what: string): void {
    const isClosing = endings.get(process) !== "running";
    // A process that heard the store's clock less than 10 s ago relies on what it heard.
    const isFarBack = clock.latest(nowMs()) - clock.range(calledMs - 11_000, nowMs()).earliest > 290_000;
    const excused =
      (code === "store_unavailable" && !options.isCalm) ||
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
    if (!sharedAnEdit(request) && !isRefusalRight(refusal, evidence)) {
      fail("refusal-is-right", `${request.name} was refused ${JSON.stringify(refusal)}, ${describe(evidence)}`);
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
    judgeSpending(track);
    judgeCover(track, request.process);
    judgeRate(track, request);
    judgeInFlight(track);
    if (endings.get(request.process) !== "running") { ended(request, request.cost); }
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
    if (isMemoryOver(track, request, 0)) request.forgotten = true;
    // What is forgotten stays as it was booked; the end is acknowledged because nothing more can come of it.
    if (!request.forgotten) track.acknowledged += request.ended?.least ?? 0;
    judgeBooks(track, "settle-is-stored", request.name);
  }

  /** An edit may share a write with requests before and after it; the state it met there is nowhere to be seen. */
  function sharedAnEdit({ process, keyId }: ModelRequest): boolean {
    const edits = editsOf(process, keyId);
    return edits.running + (edits.lastStep === step() ? edits.atLastStep : 0) > 0;
  }

  function editsOf(process: string, keyId: string): { running: number; lastStep: number; atLastStep: number } {
    const name = `${process} ${keyId}`;
    let edits = editing.get(name);
    if (edits === undefined) {
      edits = { running: 0, lastStep: 0, atLastStep: 0 };
      editing.set(name, edits);
    }
    return edits;
  }

  function evidenceOf(track: KeyTrack, request: ModelRequest): Evidence {
    const { digest, cost, arrivedStep, arrivedMs, answeredMs } = request;
    const { earliest, latest } = clock.range(arrivedMs, answeredMs);
    const { toleranceMs } = options;
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
      states: statesSince(track, arrivedStep),
      earliestMs: earliest - toleranceMs,
      latestMs: latest + toleranceMs,
      alongside,
      debt: track.debt,
    };
  }

  /** The state that was in force when a step began, and all that followed. */
  function statesSince({ states }: KeyTrack, sinceStep: number): readonly Body[] {
    let from = states.length - 1;
    while (from > 0 && (states[from]?.step ?? 0) > sinceStep) from -= 1;
    return states.slice(Math.max(0, from)).map(({ body }) => body);
  }

  // ── the document against the account ────────────────────────────────────────────────────────────────────────

  function sent(process: string, groups: readonly (readonly Write[])[]): void {
    const ids = groups.flat().map(({ id }) => id);
    if (new Set(ids).size < ids.length) fail("store-contract", `${process} wrote ${ids.join(" ")} in one call`);
    for (const { id, expected, set } of groups.flat()) {
      if (!id.startsWith("key:") || set === undefined || set === null) continue;
      const body = set as unknown as Body;
      for (const identity of Object.keys(body.nodes)) {
        if (!ownerOf.has(identity)) {
          ownerOf.set(identity, process);
          count("identities");
        }
      }
      judgePolicyChange(process, id.slice(4), expected, body);
    }
  }

  /** Traffic leaves policies alone: only a process that was asked to may change one. */
  function judgePolicyChange(process: string, keyId: string, expected: number, body: Body): void {
    if (editsOf(process, keyId).running > 0 || expected === 0) return;
    const base = tracks.get(keyId)?.states.findLast(({ version }) => version === expected)?.body;
    if (base === undefined) return fail("policy-changes-when-asked", `${process} expects a version that never was`);
    const policyOf = ({ policy, secrets, policyVersion }: Body): string =>
      JSON.stringify([policy, secrets, policyVersion]);
    if (policyOf(base) !== policyOf(body)) {
      fail("policy-changes-when-asked", `${process} changed ${policyOf(base)} to ${policyOf(body)}`);
    }
  }

  function written(writer: string, document: Document): void {
    if (document.id.startsWith("secret:")) secretDigests.add(document.id.slice(7));
    if (!document.id.startsWith("key:")) return;
    count("writes");
    const track = trackOf(document.id.slice(4));
    const body = readBody(document);
    if (typeof body === "string") return fail("documents-are-sound", body);
    const before = track.states.at(-1)?.body;
    track.states.push({ step: step(), version: document.version, body });
    track.highestQuota = Math.max(track.highestQuota, body.policy.quota ?? Number.POSITIVE_INFINITY);
    if (before === undefined) return;

    if (JSON.stringify(before.policy.limits) !== JSON.stringify(body.policy.limits)) track.hasEditedLimits = true;
    judgeMemory(track, before, body, writer);
    judgeTotal(track, before, body, writer);
    judgeBuckets(track, before, body);
    judgeFinality(before, body);
    judgeBooks(track, "no-lost-charge", "a write");
    for (const process of track.open.keys()) judgeCover(track, process);
  }

  /** Entries are collected when their time is over, whole, once, and are remembered for an hour. */
  function judgeMemory(track: KeyTrack, before: Body, after: Body, writer: string): void {
    // A writer that heard the time less than 10 s ago goes on from there, whatever the store's clock does.
    const jumpedMs = clock.jumps > 0 ? 11_000 : 0;
    const storeMs = clock.range(nowMs() - 60_000, nowMs()).latest + jumpedMs;
    for (const [identity, entry] of Object.entries(before.nodes)) {
      if (after.nodes[identity] !== undefined) continue;
      const owner = ownerOf.get(identity);
      const collected = after.collected[identity];
      if (collected === undefined) {
        if (amount(entry.held) === 0 && entry.open === 0) continue;
        if (owner !== writer) fail("holds-end-once", `${identity} of ${owner} vanished with ${amount(entry.held)} held`);
        continue;
      }
      count("collected");
      collectedAtStep.set(`${track.id} ${identity}`, step());
      if (collected.mode === "release") track.isReleased = true;
      if (options.isCalm) fail("renewed-in-time", `${identity} was collected though nothing was wrong`);
      if (entry.renewByMs > storeMs + options.toleranceMs) {
        fail("renewed-in-time", `${identity} was collected ${entry.renewByMs - storeMs} ms too early`);
      }
      if (owner !== writer && amount(collected.collected) !== amount(entry.held)) {
        fail("holds-end-once", `${identity} held ${amount(entry.held)}, collected ${amount(collected.collected)}`);
      }
      for (const request of openOf(track, owner ?? "")) request.lost = true;
    }
    for (const [identity, entry] of Object.entries(before.collected)) {
      const left = amount(entry.collected);
      const collected = after.collected[identity];
      if (after.nodes[identity] !== undefined) fail("holds-end-once", `${identity} came back to life`);
      if (collected !== undefined) {
        if (amount(collected.collected) < left) {
          count("corrections");
          if (ownerOf.get(identity) !== writer) fail("holds-end-once", `${writer} corrected ${identity} of another`);
        }
        if (amount(collected.collected) > left) fail("holds-end-once", `${identity} was collected again`);
        continue;
      }
      if (left === 0) continue;
      const isOld = entry.collectedAtMs + MEMORY_MS <= storeMs + options.toleranceMs;
      const isCrowded = Object.keys(after.collected).length >= MOST_COLLECTED;
      if (!isOld && !isCrowded) fail("collections-are-remembered", `${identity} with ${left} was forgotten`);
      forget(track, identity, left, entry.mode);
    }
  }

  /** From now on the requests of that time cannot be corrected: which of them had been is not known here. */
  function forget(track: KeyTrack, identity: string, left: number, mode: "charge" | "release"): void {
    count("forgotten");
    if (mode === "charge") track.forgotten += left;
    const until = collectedAtStep.get(`${track.id} ${identity}`) ?? 0;
    for (const request of track.requests) {
      if (request.process !== ownerOf.get(identity) || request.acknowledged) continue;
      if (request.arrivedStep <= until && request.answer !== "refused") request.forgotten = true;
    }
  }

  /** An entry is forgotten when its hour is over, whether or not somebody has written so since. */
  function isMemoryOver({ id, states }: KeyTrack, { process, arrivedStep }: ModelRequest, inMs: number): boolean {
    const storeMs = clock.at(nowMs()) + inMs;
    return Object.entries(states.at(-1)?.body.collected ?? {}).some(([identity, { collectedAtMs }]) => {
      const isItsOwn = ownerOf.get(identity) === process;
      const isOlder = arrivedStep <= (collectedAtStep.get(`${id} ${identity}`) ?? 0);
      return isItsOwn && isOlder && collectedAtMs + MEMORY_MS <= storeMs + options.toleranceMs;
    });
  }

  /** What is used and promised never grows past the quota, except by costs above their estimates. */
  function judgeTotal(track: KeyTrack, before: Body, after: Body, writer: string): void {
    // Of two quotas set in one write the store only shows the later one.
    const isBetween = after.policy.quota !== null && editsOf(writer, track.id).running > 1;
    const quota = isBetween ? track.highestQuota : after.policy.quota;
    // A key that gives back what crashed processes held is outside the promise once that has happened.
    if (quota === null || track.isReleased) return;
    const total = amount(after.used) + heldBy(after);
    const totalBefore = amount(before.used) + heldBy(before);
    if (total > Math.max(quota, totalBefore) + track.debt) {
      fail("never-overspent", `used and held grew from ${totalBefore} to ${total}, quota ${quota}, debt ${track.debt}`);
    }
  }

  /** The same from the callers' side, without a look at the document. */
  function judgeSpending(track: KeyTrack): void {
    if (track.isReleased || track.admittedCost <= track.highestQuota + track.debt) return;
    fail("never-overspent", `${track.admittedCost} was admitted, quota ${track.highestQuota}, debt ${track.debt}`);
  }

  /** Buckets take whole requests, stay within their size, and their time does not go back. */
  function judgeBuckets(track: KeyTrack, before: Body, after: Body): void {
    let most = 0;
    for (const limit of after.policy.limits) {
      if ("inFlight" in limit) continue;
      const { requests, windowMs, burst = requests } = limit;
      const bucket = after.levels[`requests/${windowMs}`];
      const previous = before.levels[`requests/${windowMs}`];
      if (bucket === undefined) {
        if (previous !== undefined && previous.level > 0) fail("buckets-are-kept", `requests/${windowMs} is gone`);
        continue;
      }
      const { level, atMs } = previous ?? { level: 0, atMs: bucket.atMs };
      const drained = Math.max(0, level - Math.max(0, bucket.atMs - atMs) * requests);
      const taken = (bucket.level - drained) / windowMs;
      if (bucket.atMs < atMs) fail("buckets-are-kept", `requests/${windowMs} went back in time`);
      if (taken < 0 || !Number.isInteger(taken)) fail("buckets-are-kept", `requests/${windowMs} took ${taken}`);
      if (taken > 0 && bucket.level > burst * windowMs) fail("buckets-are-kept", `requests/${windowMs} ran over`);
      most = Math.max(most, taken);
    }
    track.counted += most;
  }

  function judgeFinality(before: Body, after: Body): void {
    if (before.policy.state === "revoked" && after.policy.state !== "revoked") {
      fail("revoked-is-revoked", "a revoked key came back");
    }
    if (after.latestMs < before.latestMs) fail("documents-are-sound", "a document forgot the time it has seen");
  }

  function judgeBooks(track: KeyTrack, invariant: string, what: string): void {
    const body = track.states.at(-1)?.body;
    if (body === undefined) return;
    let charged = track.forgotten;
    for (const { mode, collected } of Object.values(body.collected)) {
      if (mode === "charge") charged += amount(collected);
    }
    const booked = amount(body.used) - charged;
    if (booked < track.acknowledged) {
      fail(invariant, `after ${what} ${booked} is booked, acknowledged were ${track.acknowledged}`);
    }
    if (booked > track.called) {
      fail("no-double-charge", `after ${what} ${booked} is booked, only ${track.called} was ever used`);
    }
  }

  /**
   * What a process has admitted and not ended is held for it in the store, or was collected and is charged. This
   * is what an allowance rests on: without it, others could spend the same again.
   */
  function judgeCover(track: KeyTrack, process: string): void {
    const body = track.states.at(-1)?.body;
    if (body === undefined) return;
    let needed = 0;
    for (const request of track.open.get(process) ?? []) {
      if (request.answer === "allowed" && !request.lost && !request.forgotten) needed += request.cost;
    }
    if (needed === 0) return;
    let held = 0;
    for (const [identity, entry] of Object.entries(body.nodes)) {
      if (ownerOf.get(identity) === process) held += amount(entry.held);
    }
    if (held < needed) fail("allowances-are-held", `${process} has ${needed} in flight, the store holds ${held}`);
  }

  /** No window admits more than a leaky bucket of that burst and rate could. */
  function judgeRate(track: KeyTrack, latest: ModelRequest): void {
    if (track.hasEditedLimits) return;
    const limits = track.states.at(-1)?.body.policy.limits.filter(isRequestLimit) ?? [];
    for (const { requests, windowMs, burst = requests } of limits) {
      const slackMs = 2 * options.toleranceMs;
      const until = clock.forwards(latest.answeredMs);
      // A window begins with some admitted request. Its others are those that arrived no earlier than it did.
      const arrivals: number[] = [];
      for (let index = track.admitted.length - 1; index >= 0 && arrivals.length < 2 * burst + 8; index--) {
        arrivals.push((track.admitted[index] as ModelRequest).arrivedMs);
      }
      arrivals.sort((a, b) => b - a);
      for (const [index, arrivedMs] of arrivals.entries()) {
        const most = burst + (requests * (until - clock.forwards(arrivedMs) + slackMs)) / windowMs;
        if (index + 1 > most) {
          return fail("never-too-fast", `${index + 1} within ${latest.answeredMs - arrivedMs} ms, at most ${most}`);
        }
      }
    }
  }

  /** Of processes that kept their promises: who lost a hold by silence is not counted, nor is who died. */
  function judgeInFlight(track: KeyTrack): void {
    if (track.hasEditedLimits) return;
    const limit = track.states.at(-1)?.body.policy.limits.find((one) => "inFlight" in one);
    if (limit === undefined || !("inFlight" in limit)) return;
    let inFlight = 0;
    for (const [process, open] of track.open) {
      if (endings.get(process) === "crashed") continue;
      for (const request of open) if (request.answer === "allowed" && !request.lost) inFlight += 1;
    }
    if (inFlight > limit.inFlight) fail("never-too-many", `${inFlight} in flight, limit ${limit.inFlight}`);
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
      if (isAlone && !states.some(edit.took)) fail("edits-are-stored", `${edit.what} resolved and is not in the store`);
      return;
    }
    count("edits faulted");
    const isForbidden = outcome.fault === "key_state" && states.some(({ policy }) => policy.state === "revoked");
    const isRace = outcome.fault === "policy_conflict" && states.length > 1;
    if (!isForbidden && !isRace) judgeFault(edit.process, outcome.fault, edit.calledMs, edit.what);
  }

  function issued(process: string, keyId: string, digest: string): void {
    const body = trackOf(keyId).states.at(-1)?.body;
    const isListed = body?.secrets.some((secret) => secret.digest === digest && secret.endsAtMs === null);
    if (isListed !== true || !secretDigests.has(digest)) fail("edits-are-stored", `${process} issued a key not stored`);
  }

  /** A new secret counts from the moment its holder learns of it. */
  function rotated(keyId: string, digest: string): void {
    const isStored = trackOf(keyId).states.some(({ body }) => body.secrets.some((secret) => secret.digest === digest));
    if (!isStored || !secretDigests.has(digest)) fail("edits-are-stored", `a new secret of ${keyId} is not stored`);
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
      .filter((request) => request.process === process && request.ended !== undefined && !request.acknowledged);
  }

  // ── the end ─────────────────────────────────────────────────────────────────────────────────────────────────

  /** Judges the books of every key when all is over: what could be settled is, and what died has expired. */
  function finish(): void {
    const storeMs = clock.at(nowMs());
    for (const track of tracks.values()) {
      const body = track.states.at(-1)?.body;
      if (body === undefined) continue;
      let used = amount(body.used);
      for (const [identity, entry] of Object.entries(body.nodes)) {
        if (entry.open === 0 && amount(entry.held) === 0) continue;
        // A revoked key sees no more requests, so nobody may come to collect; it only has to be possible.
        const isExpired = entry.renewByMs <= storeMs && endings.get(ownerOf.get(identity) ?? "") !== "running";
        if (!isExpired || body.policy.state !== "revoked") {
          fail("no-stuck-hold", `${identity} of ${ownerOf.get(identity)} on ${track.id}: ${JSON.stringify(entry)}`);
        }
        if (body.policy.onCrash === "charge") used += amount(entry.held);
      }
      judgeFinalBooks(track, body.policy.onCrash, used);
      if (options.isCalm && !track.hasEditedLimits && body.policy.limits.some(isRequestLimit)) {
        const { length } = track.admitted;
        if (track.counted !== length) fail("refusals-are-free", `buckets took ${track.counted}, admitted ${length}`);
      }
    }
  }

  function judgeFinalBooks(track: KeyTrack, mode: "charge" | "release", used: number): void {
    let least = 0;
    let most = 0;
    for (const request of track.requests) {
      const [low, high] = finalCost(request, mode);
      least += low;
      most += high;
    }
    const left = JSON.stringify(track.states.at(-1)?.body.collected);
    const books = `${track.id} ends with used ${used}, ${track.forgotten} of it forgotten, and ${left}`;
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
    if (survived && !isAcknowledged) fail("settle-is-stored", `the end of ${request.name} was never acknowledged`);
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
    sent,
    written,
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

function isRequestLimit(limit: SubjectLimit): limit is Extract<SubjectLimit, { requests: number }> {
  return "requests" in limit;
}

function describe({ states, cost, earliestMs, latestMs }: Evidence): string {
  const seen = states.map(({ policy, used, nodes, levels }) =>
    JSON.stringify([policy.state, policy.expiresAtMs, policy.quota, amount(used), nodes, levels]),
  );
  return `cost ${cost}, between ${earliestMs} and ${latestMs}, by ${seen.slice(0, 6).join(" then ")}`;
}
