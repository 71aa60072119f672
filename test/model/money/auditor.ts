import type { Document, Write } from "../../../src/store.js";
import { type Amounts, holdsPlaces, MOST_COLLECTED } from "../body.js";
import { createAlertJudge } from "./alerts.js";
import { type AccountTrack, type Books, boundsOf, type KeyTrack, latest, newKeyTrack } from "./books.js";
import {
  type AccountBody,
  bookedIn,
  chargedIn,
  countsOf,
  cycleOf,
  type DayBody,
  heldIn,
  idOf,
  inCycle,
  inFund,
  type KeyBody,
  type LedgerBody,
  paidFor,
  unsoundness,
} from "./documents.js";

const MEMORY_MS = 3_600_000;
const CHARGED = ["settled", "voided", "expired"];

/**
 * Holds every state of the true store against the books.
 *
 * After every group that was written: what an account was credited is the sum of its entries; what its purses say was
 * paid for keys of a kind is what those keys say they have used; and both lie between what callers were told is
 * stored and what they ever called for, by key and by the cycle in which a request was admitted.
 */
export function createMoneyAuditor(books: Books) {
  const { clock, nowMs, step, toleranceMs, fail, count, keys, ownerOf, editsOf } = books;
  const judgeAlerts = createAlertJudge(books);

  function sent(process: string, groups: readonly (readonly Write[])[]): void {
    const ids = groups.flat().map(({ id }) => id);
    if (new Set(ids).size < ids.length)
      fail("store-contract", `${process} wrote ${ids.join(" ")} in one call`);
    for (const { set } of groups.flat()) {
      for (const identity of Object.keys((set as { nodes?: object } | null | undefined)?.nodes ?? {})) {
        if (!ownerOf.has(identity)) ownerOf.set(identity, process);
      }
    }
  }

  /** One group has changed these documents. */
  function committed(writer: string, documents: readonly Document[]): void {
    const touched = new Set<AccountTrack>();
    for (const document of documents) {
      const track = store(writer, document);
      if (track !== undefined) touched.add(track);
    }
    for (const track of touched) judgeAccount(track, writer);
  }

  function store(writer: string, document: Document): AccountTrack | undefined {
    const { kind, name } = idOf(document);
    const body = document.body as unknown;
    if (kind === "account") return storeAccount(writer, name, body as AccountBody);
    if (kind === "key") return storeKey(writer, name, body as KeyBody);
    if (kind === "entry") {
      const track = books.accountOf(name.slice(0, name.indexOf(".", 4)));
      const entryId = name.slice(track.id.length + 1);
      if (track.entries.has(entryId)) fail("entries-apply-once", `${entryId} was written again`);
      track.entries.set(entryId, (body as { amount: number }).amount);
      return track;
    }
    if (kind === "usage") storeDay(document.body as unknown as DayBody & { keyId: string });
    return undefined;
  }

  function storeAccount(writer: string, id: string, body: AccountBody): AccountTrack {
    const track = books.accountOf(id);
    const before = latest(track.states);
    judgeSoundness(id, body);
    track.states.push({ step: step(), atMs: nowMs(), body });
    if (before === undefined) return track;
    count("writes");
    if (holdsPlaces(body)) count("leased");
    track.dropped = undefined;
    judgeTerms(track, before, body, writer);
    judgeMemory(track, before, body, writer);
    judgeUsed(track, before, body, writer);
    for (const [purse, limit] of limitsOf(before, body))
      judgeTotal(track, purse, limit, before, body, writer);
    judgeAlerts.account(track, before, body, writer);
    return track;
  }

  function storeKey(writer: string, id: string, body: KeyBody): AccountTrack | undefined {
    if (body.account === undefined) return undefined;
    const track = books.accountOf(body.account.id);
    const key = keys.get(id) ?? newKeyTrack(id, body.account.pays);
    keys.set(id, key);
    track.keys.set(id, key);
    const before = latest(key.states);
    judgeSoundness(id, body);
    key.states.push({ step: step(), atMs: nowMs(), body });
    if (before === undefined) return track;
    judgeMemory(track, before, body, writer);
    judgeUsed(track, before, body, writer);
    const limit = mostOf(before.policy.quota, body.policy.quota);
    judgeTotal(track, "key@0", limit, before, body, writer);
    judgeAlerts.key(key, before, body, writer);
    return track;
  }

  function storeDay(body: DayBody & { readonly keyId: string }): void {
    const { days } = keys.get(body.keyId) as KeyTrack;
    if (days.has(body.day)) count("days closed twice");
    else count("days");
    days.set(body.day, body);
  }

  // ── one document and the next ───────────────────────────────────────────────────────────────────────────────

  function judgeSoundness(id: string, body: LedgerBody): void {
    const wrong = unsoundness(body);
    if (wrong !== undefined) fail("documents-are-sound", `${id}: ${wrong}`);
  }

  /** Traffic leaves terms alone, and nothing that has passed comes back. */
  function judgeTerms(track: AccountTrack, before: AccountBody, after: AccountBody, writer: string): void {
    const termsOf = ({ policy, credited, policyVersion, subscription }: AccountBody): string =>
      JSON.stringify([policy, credited, policyVersion, subscription?.endsAtMs, subscription?.unpaidFromMs]);
    if (termsOf(before) !== termsOf(after) && editsOf(writer, track.id).size === 0)
      fail("terms-change-when-asked", `${writer} changed ${termsOf(before)} to ${termsOf(after)}`);
    if (after.latestMs < before.latestMs)
      fail("documents-are-sound", "an account forgot the time it has seen");
    const [was, is] = [before.subscription, after.subscription];
    if (was === undefined || is === undefined || was.serial !== is.serial) return;
    const turned = is.current.index - was.current.index;
    if (turned > 0) count("turns");
    if (turned > 0 && inFund(heldIn(before), "subscription") > 0) count("turns with holds");
    if (turned < 0) fail("cycles-go-on", `from ${cycleOf(before)} back to ${cycleOf(after)}`);
    if (turned > 0 && after.latestMs < was.current.endsAtMs) fail("cycles-go-on", "a cycle turned too early");
  }

  /** Entries are collected when their time is over, whole, once, and are remembered for an hour. */
  function judgeMemory(track: AccountTrack, before: LedgerBody, after: LedgerBody, writer: string): void {
    const storeMs = clock.range(nowMs() - 60_000, nowMs()).latest + (clock.jumps > 0 ? 11_000 : 0);
    for (const [identity, entry] of Object.entries(before.nodes)) {
      if (after.nodes[identity] !== undefined) continue;
      const owner = ownerOf.get(identity);
      const collected = after.collected[identity];
      if (collected === undefined) {
        if (entry.open > 0 && owner !== writer) fail("holds-end-once", `${identity} of ${owner} vanished`);
        continue;
      }
      count("collected");
      track.hasCollected = true;
      if (collected.mode === "release") track.isReleased = true;
      if (books.isRenewed && books.endings.get(owner ?? "") === "running")
        fail("renewed-in-time", `${identity} of ${owner}, which lives, was collected`);
      if (entry.renewByMs > storeMs + toleranceMs)
        fail("renewed-in-time", `${identity} was collected too early`);
      if (owner !== writer && JSON.stringify(collected.collected) !== JSON.stringify(entry.held))
        fail(
          "holds-end-once",
          `${identity} held ${JSON.stringify(entry.held)}, ${JSON.stringify(collected)}`,
        );
      for (const request of track.requests) if (request.process === owner) request.lost = true;
    }
    for (const [identity, entry] of Object.entries(before.collected)) {
      const collected = after.collected[identity];
      if (after.nodes[identity] !== undefined) fail("holds-end-once", `${identity} came back to life`);
      if (collected === undefined) {
        if (Object.keys(entry.collected).length === 0) continue;
        count("forgotten");
        track.isBlurred = true;
        const isOld = entry.collectedAtMs + MEMORY_MS <= storeMs + toleranceMs;
        if (!isOld && Object.keys(after.collected).length < MOST_COLLECTED)
          fail("collections-are-remembered", `${identity} was forgotten`);
        continue;
      }
      for (const [purse, left] of Object.entries(entry.collected)) {
        const now = collected.collected[purse] ?? 0;
        if (now < left) count("corrections");
        if (now > left || (now < left && ownerOf.get(identity) !== writer))
          fail("holds-end-once", `${writer} left ${now} of ${left} collected of ${identity} in ${purse}`);
      }
    }
  }

  /** What is used only shrinks where a collection is corrected, a cycle is over, or its operator resets it. */
  function judgeUsed(track: AccountTrack, before: LedgerBody, after: LedgerBody, writer: string): void {
    const charged = chargedIn(before);
    const chargedAfter = chargedIn(after);
    const current = `subscription@${cycleOf(after as AccountBody)}`;
    for (const [purse, used] of Object.entries(before.used)) {
      const less = used - (after.used[purse] ?? 0);
      const isReset = purse === current && isResetting(track, writer);
      if (isReset || less <= (charged[purse] ?? 0) - (chargedAfter[purse] ?? 0)) continue;
      const isOver = !(purse in after.used) && !purse.endsWith("@0") && !isCurrent(purse, after);
      if (!isOver)
        fail("used-is-kept", `${writer} left ${after.used[purse] ?? 0} of ${used} used of ${purse}`);
      track.gone.set(purse, (track.gone.get(purse) ?? 0) + used - (charged[purse] ?? 0));
      if (isOver) track.dropped = purse;
    }
  }

  function isResetting(track: AccountTrack, writer: string): boolean {
    return [...editsOf(writer, track.id)].some(({ what }) => what === "resetCycle");
  }

  /** What is used and promised never grows past a limit, except by costs above their estimates. */
  function judgeTotal(
    track: AccountTrack,
    purse: string,
    limit: number,
    before: LedgerBody,
    after: LedgerBody,
    writer: string,
  ): void {
    if (track.isReleased || editsOf(writer, track.id).size > 1) return;
    const total = (after.used[purse] ?? 0) + (heldIn(after)[purse] ?? 0);
    const was = (before.used[purse] ?? 0) + (heldIn(before)[purse] ?? 0);
    if (total > Math.max(limit, was) + track.debt)
      fail("never-overspent", `${purse} grew from ${was} to ${total}, limit ${limit}, debt ${track.debt}`);
  }

  // ── an account and its keys ─────────────────────────────────────────────────────────────────────────────────

  function judgeAccount(track: AccountTrack, writer?: string): void {
    const body = latest(track.states);
    if (body === undefined) return;
    const applied = [...track.entries.values()].reduce((sum, amount) => sum + amount, 0);
    if (body.credited !== applied)
      fail("entries-apply-once", `${body.credited} is credited, the entries say ${applied}`);
    for (const key of track.keys.values()) judgeCounters(key);
    judgeHolds(track, body);
    if ([body, ...[...track.keys.values()].map(({ states }) => latest(states))].some(isMemoryOver))
      track.isBlurred = true;
    if (!track.isBlurred) judgeBooks(track, body, writer);
    judgeCover(track);
  }

  /** A collection is forgotten when its hour is over, whether or not somebody has written so since. */
  function isMemoryOver(body: LedgerBody | undefined): boolean {
    const untilMs = clock.latest(nowMs()) + toleranceMs;
    return Object.values(body?.collected ?? {}).some(
      ({ collectedAtMs, collected }) =>
        Object.keys(collected).length > 0 && collectedAtMs + MEMORY_MS <= untilMs,
    );
  }

  /** Every admitted request is held, and booked, in its key and in its account, or in neither. */
  function judgeHolds(track: AccountTrack, body: AccountBody): void {
    const held = heldIn(body);
    if (inFund(held, "payg") > inFund(held, "balance"))
      fail("booked-on-both", `held ${JSON.stringify(held)}: more within the cap than of the balance`);
    if (track.hasCollected) return;
    for (const pays of ["balance", "subscription"] as const) {
      const own = sumOf(track, pays, (key) => heldIn(key)["key@0"] ?? 0);
      if (own !== paidFor(held, pays))
        fail("booked-on-both", `keys hold ${own} of the ${pays}, the account ${JSON.stringify(held)}`);
    }
  }

  function judgeBooks(track: AccountTrack, body: AccountBody, writer?: string): void {
    const booked: Record<string, number> = { ...bookedIn(body) };
    for (const [purse, gone] of track.gone) booked[purse] = (booked[purse] ?? 0) + gone;
    for (const pays of ["balance", "subscription"] as const) {
      const own = sumOf(track, pays, (key) => bookedIn(key)["key@0"] ?? 0);
      const reset = own - paidFor(booked, pays);
      const isReset = writer !== undefined && isResetting(track, writer);
      const purse = isReset ? `subscription@${cycleOf(body)}` : track.dropped;
      // What was booked and reset, or booked and dropped with its cycle, in one write is nowhere to be seen but in the keys.
      if (pays === "subscription" && reset > 0 && writer !== undefined && purse !== undefined) {
        count("resets seen");
        track.gone.set(purse, (track.gone.get(purse) ?? 0) + reset);
        booked[purse] = (booked[purse] ?? 0) + reset;
      } else if (reset !== 0) {
        fail("booked-on-both", `keys have used ${own} of the ${pays}, the account ${JSON.stringify(booked)}`);
      }
    }
    for (const key of track.keys.values()) {
      const own = bookedIn(latest(key.states) as KeyBody)["key@0"] ?? 0;
      if (own < key.acknowledged) fail("no-lost-charge", `${key.id} booked ${own} of ${key.acknowledged}`);
      if (own > key.called) fail("no-double-charge", `${key.id} booked ${own}, only ${key.called} was used`);
    }
    for (const [cycle, { called, acknowledged }] of track.cycles) {
      const own = inCycle(booked, cycle);
      if (cycle === "" || (own >= acknowledged && own <= called)) continue;
      fail(
        "settled-in-its-cycle",
        `${own} is booked in ${cycle}, acknowledged ${acknowledged}, called ${called}`,
      );
    }
  }

  function sumOf(track: AccountTrack, pays: KeyTrack["pays"], amount: (key: KeyBody) => number): number {
    let sum = 0;
    for (const key of track.keys.values())
      if (key.pays === pays) sum += amount(latest(key.states) as KeyBody);
    return sum;
  }

  /** Over all its days, the counters of a key come to what it has used. */
  function judgeCounters({ id, states, days }: KeyTrack): void {
    const body = latest(states) as KeyBody;
    const all = [...days.values(), ...(body.tally === undefined ? [] : [body.tally])];
    const cost = all.reduce((sum, day) => sum + countsOf(day, CHARGED)[1], 0);
    if (cost !== (body.used["key@0"] ?? 0))
      fail("counters-agree", `the counters of ${id} say ${cost}, used ${JSON.stringify(body.used)}`);
  }

  /** What a process has admitted and not ended is held for it: otherwise others could spend it again. */
  function judgeCover(track: AccountTrack): void {
    const needed = new Map<string, number>();
    for (const { process, answer, ended, lost, cost, pays } of track.requests) {
      if (answer !== "allowed" || ended !== undefined || lost) continue;
      needed.set(process, (needed.get(process) ?? 0) + boundsOf(cost, pays)[0]);
    }
    const { nodes, collected } = latest(track.states) as AccountBody;
    for (const [process, amount] of needed) {
      const isOwn = ([identity]: readonly [string, unknown]): boolean => ownerOf.get(identity) === process;
      let own = 0;
      for (const [, { held }] of Object.entries(nodes).filter(isOwn)) own += heldOf(held);
      // A lease goes on for its time where a clock that jumped had others collect it: then it is charged already.
      for (const [, entry] of books.leaseMs > 0 ? Object.entries(collected).filter(isOwn) : [])
        own += entry.mode === "charge" ? heldOf(entry.collected) : amount;
      if (own < amount)
        fail("allowances-are-held", `${process} has ${amount} in flight, the account holds ${own}`);
    }
  }

  return { sent, committed, judgeAccount, judgeCover };
}

function heldOf(amounts: Amounts): number {
  return inFund(amounts, "subscription") + inFund(amounts, "balance");
}

function isCurrent(purse: string, body: LedgerBody): boolean {
  return purse.endsWith(`@${cycleOf(body as AccountBody)}`);
}

/** The limits of an account's purses that can be spent, the wider of two where they were changed. */
function limitsOf(before: AccountBody, after: AccountBody): readonly (readonly [string, number])[] {
  const { subscription, policy } = after;
  const balance = ["balance@0", Math.max(before.credited, after.credited)] as const;
  if (subscription === undefined) return [balance];
  const cycle = cycleOf(after);
  const former = cycleOf(before) === cycle ? (before.subscription?.current.allowance ?? 0) : 0;
  return [
    balance,
    [`subscription@${cycle}`, Math.max(former, subscription.current.allowance)],
    [`payg@${cycle}`, mostOf(capOf(before.policy), capOf(policy))],
  ];
}

function capOf({ payAsYouGo }: AccountBody["policy"]): number | null {
  return payAsYouGo === null ? 0 : payAsYouGo.capPerCycle;
}

function mostOf(one: number | null, other: number | null): number {
  return Math.max(one ?? Number.POSITIVE_INFINITY, other ?? Number.POSITIVE_INFINITY);
}
