import type { Keystile } from "../../../src/keystile.js";
import type { StoreClock } from "../clock.js";
import type { Processes } from "../processes.js";
import type { Random } from "../random.js";
import type { Timeline } from "../timeline.js";
import type { AccountBody } from "./documents.js";
import {
  cycleEndMs,
  cycleOf,
  hasEnded,
  newReference,
  type ReferenceAccount,
  type ReferenceKey,
} from "./reference.js";
import { drawPayAsYouGo } from "./scenario.js";

export interface SoloAccount {
  readonly id: string;
  readonly reference: ReferenceAccount;
  readonly keys: SoloKey[];
  entries: number;
}

export interface SoloKey {
  readonly id: string;
  readonly secret: string;
  readonly reference: ReferenceKey;
  readonly counted: { settled: number; voided: number };
}

/** What the operators need of the world around them. */
interface SoloWorld {
  readonly random: Random;
  readonly timeline: Timeline;
  readonly clock: StoreClock;
  readonly processes: Processes<Keystile>;
  /** The bodies of all documents. */
  readonly stored: ReadonlyMap<string, unknown>;
  answer<T>(promise: Promise<T>): Promise<T>;
  count(name: string): void;
  fail(invariant: string, detail: string): void;
}

const CHANGES = ["credit", "debit", "terms", "plan", "plan", "reset", "status", "status", "key"] as const;
const STATUSES = ["suspend", "resume", "unpaid", "paid", "paid", "cancel", "cancelNow"] as const;
const DAY_MS = 86_400_000;
const HOUR_MS = 3_600_000;

/** One change at a time of accounts and subscriptions, in the package and in the reference alike. */
export function createSoloOperators({
  random,
  timeline,
  clock,
  processes,
  stored,
  answer,
  count,
  fail,
}: SoloWorld) {
  const { nowMs, note } = timeline;

  async function open(name: string): Promise<SoloAccount> {
    const { accounts: money } = processes.any().subject;
    const reference = newReference();
    reference.payAsYouGo = drawPayAsYouGo(random);
    const view = await answer(money.open({ name, payAsYouGo: reference.payAsYouGo }));
    const account: SoloAccount = { id: view.id, reference, keys: [], entries: 0 };
    for (let issued = 0; issued < 3; issued++)
      await issue(account, issued === 0 ? "balance" : "subscription");
    await credit(account, random.between(1, 400));
    await subscribe(account);
    return account;
  }

  async function issue(account: SoloAccount, pays: ReferenceKey["pays"]): Promise<void> {
    const quota = random.pick([null, null, random.between(10, 900)]);
    const kind = pays === "balance" ? "standard" : "subscription";
    const { keys } = processes.any().subject;
    const { secret, key } = await answer(keys.issue({ account: account.id, kind, quota }));
    const reference = { pays, quota, used: 0, held: 0 };
    account.keys.push({ id: key.id, secret, reference, counted: { settled: 0, voided: 0 } });
  }

  async function operate(account: SoloAccount): Promise<void> {
    const { id, reference } = account;
    const { subscription } = reference;
    const { accounts: money, keys } = processes.any().subject;
    const isLive = subscription !== undefined && !hasEnded(subscription, clock.at(nowMs()));
    const what = reference.isSuspended && random.chance(0.6) ? "resume" : random.pick(CHANGES);
    count(`edit ${what}`);
    note(`${what} of ${id}`);
    if (what === "resume") {
      reference.isSuspended = false;
      await answer(money.resume(id));
    } else if (what === "credit") await credit(account, random.between(1, 200));
    else if (what === "debit") await credit(account, -random.between(1, 100));
    else if (what === "terms") {
      reference.payAsYouGo = drawPayAsYouGo(random);
      await answer(money.update(id, { payAsYouGo: reference.payAsYouGo }));
    } else if (what === "key") {
      const key = random.pick(account.keys);
      key.reference.quota = random.pick([null, random.between(10, 900)]);
      await answer(keys.update(key.id, { quota: key.reference.quota }));
    } else if (what === "reset" && isLive) {
      reference.used.delete(`subscription@${cycleOf(reference)}`);
      await answer(money.resetCycle(id));
    } else if (!isLive) await subscribe(account);
    else if (what === "plan") await changePlan(account);
    else await changeStatus(account);
  }

  async function credit(account: SoloAccount, amount: number): Promise<void> {
    const { credit: add, debit } = processes.any().subject.accounts;
    account.entries += 1;
    const entry = { id: `entry${account.entries}`, amount: Math.abs(amount) };
    account.reference.credited += amount;
    const apply = amount > 0 ? add : debit;
    const first = await answer(apply(account.id, entry));
    const again = random.chance(0.3) ? await answer(apply(account.id, entry)) : undefined;
    if (!first.applied || again?.applied === true) fail("entries-apply-once", `${entry.id} of ${account.id}`);
  }

  async function subscribe(account: SoloAccount): Promise<void> {
    const { reference } = account;
    const now = clock.at(nowMs());
    const anchor = now - random.between(1, 20) * HOUR_MS;
    const kind = random.pick(["anniversary", "anniversary", "calendar", "never"] as const);
    const cycle =
      kind === "anniversary"
        ? ({ kind, unit: "day", every: 1, anchor } as const)
        : kind === "calendar"
          ? ({ kind, unit: "day" } as const)
          : ({ kind } as const);
    const allowance = random.between(0, 300);
    const endsAtMs = random.chance(0.2) ? now + random.between(1, 60) * HOUR_MS : null;
    const anchorMs = kind === "never" ? null : kind === "calendar" ? 0 : anchor;
    const index = anchorMs === null ? 0 : Math.floor((now - anchorMs) / DAY_MS);
    const serial = (reference.subscription?.serial ?? 0) + 1;
    const plan = { name: "plan", allowance };
    const { subscribe: begin } = processes.any().subject.accounts;
    reference.subscription = {
      ...{ serial, anchorMs, index, endsAtMs },
      ...{ plan: allowance, nextPlan: undefined, unpaidFromMs: null },
    };
    reference.allowances.set(cycleOf(reference), allowance);
    await answer(begin(account.id, { plan, cycle, endsAt: endsAtMs, key: null }));
  }

  /** The part of a raise that is left of the cycle depends on the millisecond, which lies within the call. */
  async function changePlan({ id, reference }: SoloAccount): Promise<void> {
    const { subscription, allowances } = reference;
    if (subscription === undefined) return;
    const allowance = random.between(0, 500);
    const fromMs = clock.at(nowMs());
    await answer(processes.any().subject.accounts.changePlan(id, { name: "plan", allowance }));
    const cycle = cycleOf(reference);
    const raise = allowance - subscription.plan;
    if (subscription.anchorMs === null) {
      allowances.set(cycle, allowance);
    } else if (raise < 0) {
      subscription.nextPlan = allowance;
      return;
    } else {
      const partAt = (now: number): number => Math.floor((raise * (cycleEndMs(subscription) - now)) / DAY_MS);
      const before = allowances.get(cycle) ?? 0;
      const is = (stored.get(`account:${id}`) as AccountBody).subscription?.current.allowance ?? 0;
      if (is < before + partAt(clock.at(nowMs()) + 10) || is > before + partAt(fromMs - 10))
        fail("books-by-the-law", `${is} after a raise by ${raise}, before it was ${before}`);
      allowances.set(cycle, is);
    }
    subscription.plan = allowance;
    subscription.nextPlan = undefined;
  }

  async function changeStatus(account: SoloAccount): Promise<void> {
    const { id, reference } = account;
    const { subscription } = reference;
    if (subscription === undefined) return;
    const { accounts: money } = processes.any().subject;
    const what = random.pick(STATUSES);
    if (what === "suspend" || what === "resume") {
      reference.isSuspended = what === "suspend";
      await answer(money[what](id));
    } else if (what === "paid") {
      subscription.unpaidFromMs = null;
      await answer(money.resumeSubscription(id));
    } else if (what === "unpaid") {
      const graceMs = random.pick([0, 5 * HOUR_MS]);
      await answer(money.suspendSubscription(id, { graceMs }));
      subscription.unpaidFromMs ??= near("unpaidFromMs", clock.at(nowMs()) + graceMs);
    } else if (what === "cancel") {
      subscription.endsAtMs = Math.min(
        subscription.endsAtMs ?? cycleEndMs(subscription),
        cycleEndMs(subscription),
      );
      await answer(money.cancelSubscription(id));
    } else {
      await answer(money.cancelSubscription(id, { at: "now" }));
      subscription.endsAtMs = near("endsAtMs", clock.at(nowMs()));
    }

    function near(name: "unpaidFromMs" | "endsAtMs", expected: number): number {
      const is = (stored.get(`account:${id}`) as AccountBody).subscription?.[name] ?? 0;
      if (Math.abs(is - expected) > 200)
        fail("books-by-the-law", `${name} ${is}, expected about ${expected}`);
      return is;
    }
  }

  return { open, operate };
}
