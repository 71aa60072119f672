import type { Document, Write } from "../../src/store.js";
import { type Account, type KeyTrack, latestBody, type ModelRequest, openOf } from "./account.js";
import {
  amount,
  type Body,
  type CollectedEntry,
  heldBy,
  holdsPlaces,
  MOST_COLLECTED,
  readBody,
} from "./body.js";
import { isRequestLimit } from "./subject.js";

/** How long a collected entry can still be corrected. */
const MEMORY_MS = 3_600_000;

/**
 * Holds every state of the true store against the account.
 *
 * The equation at its centre is, per key,
 *
 *     used = costs of the ended requests + charges of collected holds that nobody has corrected
 *
 * in which the second term stands in the document itself, so the first can be confined between what was
 * acknowledged and what was called for, after every single write.
 */
export function createAuditor(account: Account) {
  const {
    clock,
    nowMs,
    step,
    toleranceMs,
    leaseMs,
    isCalm,
    fail,
    count,
    tracks,
    trackOf,
    endings,
    ownerOf,
    editsOf,
  } = account;
  const collectedAt = new Map<string, { readonly step: number; readonly ms: number }>();
  const secretDigests = new Set<string>();

  function sent(process: string, groups: readonly (readonly Write[])[]): void {
    const ids = groups.flat().map(({ id }) => id);
    if (new Set(ids).size < ids.length)
      fail("store-contract", `${process} wrote ${ids.join(" ")} in one call`);
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
    if (base === undefined) {
      fail("policy-changes-when-asked", `${process} expects a version that never was`);
      return;
    }
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
    if (typeof body === "string") {
      fail("documents-are-sound", body);
      return;
    }
    if (holdsPlaces(body)) count("leased");
    const before = latestBody(track);
    track.states.push({ step: step(), atMs: nowMs(), version: document.version, body });
    track.highestQuota = Math.max(track.highestQuota, body.policy.quota ?? Number.POSITIVE_INFINITY);
    if (before === undefined) return;

    if (JSON.stringify(before.policy.limits) !== JSON.stringify(body.policy.limits))
      track.hasEditedLimits = true;
    judgeMemory(track, before, body, writer);
    judgeTotal(track, before, body, writer);
    judgeBuckets(track, before, body);
    judgeFinality(before, body);
    judgeBooks(track, "no-lost-charge", "a write");
    for (const process of track.open.keys()) judgeCover(track, process);
  }

  // ── what a document says ────────────────────────────────────────────────────────────────────────────────────

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
        if (owner !== writer)
          fail("holds-end-once", `${identity} of ${owner} vanished with ${amount(entry.held)} held`);
        continue;
      }
      count("collected");
      collectedAt.set(`${track.id} ${identity}`, { step: step(), ms: nowMs() });
      if (collected.mode === "release") track.isReleased = true;
      if (isCalm) fail("renewed-in-time", `${identity} was collected though nothing was wrong`);
      if (entry.renewByMs > storeMs + toleranceMs) {
        fail("renewed-in-time", `${identity} was collected ${entry.renewByMs - storeMs} ms too early`);
      }
      if (owner !== writer && amount(collected.collected) !== amount(entry.held)) {
        fail(
          "holds-end-once",
          `${identity} held ${amount(entry.held)}, collected ${amount(collected.collected)}`,
        );
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
          if (ownerOf.get(identity) !== writer)
            fail("holds-end-once", `${writer} corrected ${identity} of another`);
        }
        if (amount(collected.collected) > left) fail("holds-end-once", `${identity} was collected again`);
        continue;
      }
      if (left === 0) continue;
      const isOld = isHourOver(entry, storeMs);
      const isCrowded = Object.keys(after.collected).length >= MOST_COLLECTED;
      if (!isOld && !isCrowded) fail("collections-are-remembered", `${identity} with ${left} was forgotten`);
      forget(track, identity, left, entry.mode);
    }
  }

  /** From now on the requests of that time cannot be corrected: which of them had been is not known here. */
  function forget(track: KeyTrack, identity: string, left: number, mode: "charge" | "release"): void {
    count("forgotten");
    if (mode === "charge") track.forgotten += left;
    for (const request of track.requests) {
      if (request.process !== ownerOf.get(identity) || request.acknowledged) continue;
      if (wasBefore(track.id, identity, request) && request.answer !== "refused") request.forgotten = true;
    }
  }

  /** Whether a request may be part of what was collected. A lease lets some in that come later. */
  function wasBefore(id: string, identity: string, { arrivedStep, arrivedMs }: ModelRequest): boolean {
    const collected = collectedAt.get(`${id} ${identity}`);
    if (collected === undefined) return false;
    return arrivedStep <= collected.step || arrivedMs < collected.ms + leaseMs;
  }

  /** An entry is forgotten when its hour is over, whether or not somebody has written so since. */
  function isMemoryOver({ id, states }: KeyTrack, request: ModelRequest, inMs: number): boolean {
    const storeMs = clock.at(nowMs()) + inMs;
    return Object.entries(states.at(-1)?.body.collected ?? {}).some(([identity, entry]) => {
      const isItsOwn = ownerOf.get(identity) === request.process;
      return isItsOwn && wasBefore(id, identity, request) && isHourOver(entry, storeMs);
    });
  }

  function isHourOver({ collectedAtMs }: CollectedEntry, storeMs: number): boolean {
    return collectedAtMs + MEMORY_MS <= storeMs + toleranceMs;
  }

  /** Charges of collected holds that nobody corrects any more: their processes died, or their hour was over once. */
  function standingCharges(body: Body): number {
    const storeMs = clock.latest(nowMs());
    let sum = 0;
    for (const [identity, entry] of Object.entries(body.collected)) {
      const stands = !isAlive(identity) || isHourOver(entry, storeMs);
      if (stands && entry.mode === "charge") sum += amount(entry.collected);
    }
    return sum;
  }

  /** Whether the process of an identity runs, or had written all it knew when it closed. */
  function isAlive(identity: string): boolean {
    const ending = endings.get(ownerOf.get(identity) ?? "");
    return ending === "running" || ending === "closed";
  }

  /** What is used and promised never grows past the quota, except by costs above their estimates. */
  function judgeTotal(track: KeyTrack, before: Body, after: Body, writer: string): void {
    // Requests before a new quota in the same write had the old one; of two new ones the store shows the later.
    const { running } = editsOf(writer, track.id);
    const former = running > 1 ? track.highestQuota : (before.policy.quota ?? Number.POSITIVE_INFINITY);
    const quota =
      after.policy.quota === null || running === 0
        ? after.policy.quota
        : Math.max(former, after.policy.quota);
    // A key that gives back what crashed processes held is outside the promise once that has happened.
    if (quota === null || track.isReleased) return;
    const total = amount(after.used) + heldBy(after);
    const totalBefore = amount(before.used) + heldBy(before);
    if (total > Math.max(quota, totalBefore) + track.debt) {
      fail(
        "never-overspent",
        `used and held grew from ${totalBefore} to ${total}, quota ${quota}, debt ${track.debt}`,
      );
    }
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
        if (previous !== undefined && previous.level > 0)
          fail("buckets-are-kept", `requests/${windowMs} is gone`);
        continue;
      }
      const { level, atMs } = previous ?? { level: 0, atMs: bucket.atMs };
      const drained = Math.max(0, level - Math.max(0, bucket.atMs - atMs) * requests);
      const taken = (bucket.level - drained) / windowMs;
      if (bucket.atMs < atMs) fail("buckets-are-kept", `requests/${windowMs} went back in time`);
      if (taken < 0 || !Number.isInteger(taken))
        fail("buckets-are-kept", `requests/${windowMs} took ${taken}`);
      if (taken > 0 && bucket.level > burst * windowMs)
        fail("buckets-are-kept", `requests/${windowMs} ran over`);
      most = Math.max(most, taken);
    }
    track.counted += most;
  }

  function judgeFinality(before: Body, after: Body): void {
    if (before.policy.state === "revoked" && after.policy.state !== "revoked") {
      fail("revoked-is-revoked", "a revoked key came back");
    }
    if (after.latestMs < before.latestMs)
      fail("documents-are-sound", "a document forgot the time it has seen");
  }

  function judgeBooks(track: KeyTrack, invariant: string, what: string): void {
    const body = latestBody(track);
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
    const body = latestBody(track);
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
    // A lease goes on for its time where a clock that jumped had others collect it: then it is charged already.
    for (const [identity, entry] of leaseMs > 0 ? Object.entries(body.collected) : []) {
      if (ownerOf.get(identity) === process)
        held += entry.mode === "charge" ? amount(entry.collected) : needed;
    }
    if (held < needed)
      fail("allowances-are-held", `${process} has ${needed} in flight, the store holds ${held}`);
  }

  /** The same from the callers' side, without a look at the document. */
  function judgeSpending(track: KeyTrack): void {
    if (track.isReleased || track.admittedCost <= track.highestQuota + track.debt) return;
    fail(
      "never-overspent",
      `${track.admittedCost} was admitted, quota ${track.highestQuota}, debt ${track.debt}`,
    );
  }

  /** No window admits more than a leaky bucket of that burst and rate could. */
  function judgeRate(track: KeyTrack, latest: ModelRequest): void {
    if (track.hasEditedLimits) return;
    const limits = latestBody(track)?.policy.limits.filter(isRequestLimit) ?? [];
    for (const { requests, windowMs, burst = requests } of limits) {
      const slackMs = 2 * toleranceMs;
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
          fail("never-too-fast", `${index + 1} within ${latest.answeredMs - arrivedMs} ms, at most ${most}`);
          return;
        }
      }
    }
  }

  /** Of processes that kept their promises: who lost a hold by silence is not counted, nor is who died. */
  function judgeInFlight(track: KeyTrack): void {
    if (track.hasEditedLimits) return;
    const limit = latestBody(track)?.policy.limits.find((one) => "inFlight" in one);
    if (limit === undefined || !("inFlight" in limit)) return;
    let inFlight = 0;
    for (const [process, open] of track.open) {
      if (endings.get(process) === "crashed") continue;
      for (const request of open) if (request.answer === "allowed" && !request.lost) inFlight += 1;
    }
    if (inFlight > limit.inFlight) fail("never-too-many", `${inFlight} in flight, limit ${limit.inFlight}`);
  }

  return {
    sent,
    written,
    isMemoryOver,
    isAlive,
    standingCharges,
    judgeBooks,
    judgeCover,
    judgeSpending,
    judgeRate,
    judgeInFlight,
    hasSecret: (digest: string): boolean => secretDigests.has(digest),
  };
}
