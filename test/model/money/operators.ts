import type { Keystile } from "../../../src/keystile.js";
import type { Process as AnyProcess } from "../processes.js";
import type { MoneyEdit } from "./books.js";
import { heldIn } from "./documents.js";
import { drawAccountPlan, drawPayAsYouGo } from "./scenario.js";
import { codeOf, type MoneyAccount, type MoneyWorld } from "./workload.js";

type Process = AnyProcess<Keystile>;
type Took = MoneyEdit["took"];

const EDITS = [
  ...["credit", "credit", "credit", "debit", "repeat", "repeat", "payAsYouGo", "payAsYouGo"],
  ...["changePlan", "changePlan", "resetCycle", "suspendSubscription", "resumeSubscription"],
  ...["cancelSubscription", "suspend", "resume", "issue", "limits", "keyQuota", "keyQuota"],
];

const MOST_KEYS = 5;
const DAY_MS = 86_400_000;

/** The operators: they open accounts, grant and take money, and change what accounts and subscriptions may do. */
export function createOperators(world: MoneyWorld, accounts: MoneyAccount[]) {
  const { random, scenario, timeline, clock, oracle, processes, fail } = world;
  const { nowMs, step, note } = timeline;
  const applied = new Set<string>();
  let entries = 0;

  /** An account with its keys and its subscription, before anything goes wrong. */
  async function open(name: string): Promise<void> {
    const plan = drawAccountPlan(random);
    const { subject } = processes.any();
    const { onCrash, limits, payAsYouGo } = plan;
    const opened = subject.accounts.open({ name, owner: name, onCrash, limits, payAsYouGo });
    const id = (await processes.settled(opened, "opening"))?.id;
    if (id === undefined) return;
    const account: MoneyAccount = { id, plan, keys: [], entries: [] };
    accounts.push(account);
    for (const quota of plan.quotas) {
      const issued = await processes.settled(subject.keys.issue({ account: id, quota, onCrash }), "issuing");
      if (issued) account.keys.push({ id: issued.key.id, secret: issued.secret, pays: "balance" });
    }
    const process = processes.any();
    if (plan.credit > 0) await processes.settled(enter(process, account, plan.credit), "the first credit");
    if (plan.hasSubscription) await processes.settled(subscribe(process, account), "the first subscription");
  }

  function operate(): void {
    const process = processes.any();
    if (process.pausedUntilMs > nowMs()) return;
    const account = random.pick(accounts);
    void change(process, account, remedyOf(account) ?? random.pick(EDITS));
  }

  /** What would make an account useful again, most of the time. */
  function remedyOf({ id, plan }: MoneyAccount): string | undefined {
    const body = oracle.bodyOf(id);
    if (body === undefined || random.chance(0.4)) return undefined;
    const { policy, subscription, credited, used } = body;
    if (policy.state === "suspended") return "resume";
    const hasEnded = (subscription?.endsAtMs ?? Number.POSITIVE_INFINITY) <= clock.at(nowMs());
    if (plan.hasSubscription && (subscription === undefined || hasEnded)) return "subscribe";
    if (subscription !== undefined && subscription.unpaidFromMs !== null) return "resumeSubscription";
    const left = credited - (used["balance@0"] ?? 0) - (heldIn(body)["balance@0"] ?? 0);
    return left <= 0 ? "credit" : undefined;
  }

  function change(process: Process, account: MoneyAccount, what: string): Promise<unknown> {
    const { id } = account;
    const { accounts: money, keys } = process.subject;
    const payAsYouGo = drawPayAsYouGo(random);
    const graceMs = random.pick([0, 0, 3_000 * scenario.pace]);
    const at = random.pick(["now", "period_end", "period_end"] as const);
    const key = random.pick(account.keys);
    switch (what) {
      case "credit":
        return enter(process, account, random.between(1, 150));
      case "debit":
        return enter(process, account, -random.between(1, 40));
      case "repeat":
        return repeat(process, account);
      case "subscribe":
        return subscribe(process, account);
      case "payAsYouGo":
        return watch(
          process,
          id,
          what,
          () => money.update(id, { payAsYouGo }),
          [],
          ({ policy }) => {
            return JSON.stringify(policy.payAsYouGo) === JSON.stringify(payAsYouGo);
          },
        );
      case "limits":
        return watch(process, id, what, () => money.update(id, { limits: drawAccountPlan(random).limits }));
      case "changePlan":
        return watch(process, id, what, () => money.changePlan(id, drawPlan()), STATE);
      case "resetCycle":
        return watch(process, id, what, () => money.resetCycle(id));
      case "suspendSubscription":
        return watch(process, id, what, () => money.suspendSubscription(id, { graceMs }), STATE);
      case "resumeSubscription":
        return watch(
          process,
          id,
          what,
          () => money.resumeSubscription(id),
          STATE,
          ({ subscription }) => {
            return subscription?.unpaidFromMs === null;
          },
        );
      case "cancelSubscription":
        return watch(process, id, what, () => money.cancelSubscription(id, { at }), STATE);
      case "suspend":
        return watch(process, id, what, () => money.suspend(id), [], isIn("suspended"));
      case "resume":
        return watch(process, id, what, () => money.resume(id), [], isIn("active"));
      case "issue":
        return issue(process, account);
      default: {
        if (key === undefined) return Promise.resolve();
        const quota = random.pick([null, random.between(10, 600)]);
        return watch(process, id, what, () => keys.update(key.id, { quota }));
      }
    }
  }

  /** A credit, or a debit if it is negative. Of what was not answered for certain, it is not known whether it happened. */
  async function enter(process: Process, account: MoneyAccount, amount: number): Promise<void> {
    entries += 1;
    const entry = { id: `e${entries}`, amount };
    account.entries.push(entry);
    const isDone = await send(process, account, entry);
    if (!isDone && random.chance(0.7)) await send(processes.any(), account, entry);
  }

  /** The same once more, sometimes with another amount, which has to be refused unless it is the first to arrive. */
  async function repeat(process: Process, account: MoneyAccount): Promise<void> {
    const entry = random.pick(account.entries);
    if (entry === undefined) return;
    await send(process, account, random.chance(0.1) ? { id: entry.id, amount: entry.amount + 1 } : entry);
  }

  function send(
    process: Process,
    { id }: MoneyAccount,
    { id: entryId, amount }: MoneyAccount["entries"][number],
  ): Promise<boolean> {
    const { credit, debit } = process.subject.accounts;
    const call = async (): Promise<void> => {
      // An amount of 0 is no entry; only the repetition of a debit of 1 comes to it.
      if (amount === 0) return;
      const entry = { id: entryId, amount: Math.abs(amount) };
      const { applied: isFirst } = await (amount > 0 ? credit(id, entry) : debit(id, entry));
      if (isFirst && applied.has(`${id} ${entryId}`))
        fail("entries-apply-once", `${entryId} of ${id} was told to be applied a second time`);
      if (isFirst) applied.add(`${id} ${entryId}`);
    };
    const isStored: Took = (_, stored) => amount === 0 || stored.get(entryId) === amount;
    return watch(process, id, amount > 0 ? "credit" : "debit", call, ["entry_conflict"], isStored);
  }

  async function subscribe(process: Process, account: MoneyAccount): Promise<void> {
    const { id, keys } = account;
    const anchor =
      clock.at(nowMs()) - random.between(1, 3) * DAY_MS + random.between(1, 40_000) * scenario.pace;
    const cycle = random.pick([
      { kind: "anniversary", unit: "day", every: 1, anchor },
      { kind: "anniversary", unit: "day", every: 1, anchor },
      { kind: "calendar", unit: "day" },
      { kind: "never" },
    ] as const);
    const endsAt = random.chance(0.2)
      ? clock.latest(nowMs()) + random.between(5_000, 60_000) * scenario.pace
      : null;
    const terms = { plan: drawPlan(), cycle, endsAt };
    const isNew =
      keys.length < MOST_KEYS && (random.chance(0.3) || !keys.some(({ pays }) => pays !== "balance"));
    await watch(
      process,
      id,
      "subscribe",
      async () => {
        const { subscribe: begin } = process.subject.accounts;
        if (!isNew) return void (await begin(id, { ...terms, key: null }));
        const issued = await begin(id, { ...terms, key: { quota: random.pick([null, null, 100]) } });
        keys.push({ id: issued.key.id, secret: issued.secret, pays: "subscription" });
      },
      [...STATE, "invalid_options"],
    );
  }

  async function issue(process: Process, { id, keys, plan }: MoneyAccount): Promise<void> {
    if (keys.length >= MOST_KEYS) return;
    const pays = plan.hasSubscription && random.chance(0.5) ? "subscription" : "balance";
    const kind = pays === "balance" ? "standard" : "subscription";
    const input = { account: id, kind, quota: random.pick([null, 50, 300]), onCrash: plan.onCrash } as const;
    await watch(process, id, "issue", async () => {
      const issued = await process.subject.keys.issue(input);
      keys.push({ id: issued.key.id, secret: issued.secret, pays });
    });
  }

  function drawPlan(): { name: string; allowance: number; rateMultiplier: number } {
    const allowance = random.pick([0, 20, 100, 300, 1_000]);
    return { name: `plan ${allowance}`, allowance, rateMultiplier: random.pick([1, 1, 2]) };
  }

  /** Resolves with whether it is known to have happened. */
  async function watch(
    process: Process,
    accountId: string,
    what: string,
    call: () => Promise<unknown>,
    forbidden: readonly string[] = [],
    took: Took = () => true,
  ): Promise<boolean> {
    const edit = { process: process.name, accountId, what, took, calledStep: step(), calledMs: nowMs() };
    note(`${process.name} is told to ${what} ${accountId}`);
    oracle.editCalled(edit);
    try {
      await call();
    } catch (error) {
      note(`${what} of ${accountId} failed in ${process.name}: ${String(error)}`);
      oracle.editDone(edit, codeOf(error), forbidden);
      return forbidden.includes(codeOf(error) ?? "");
    }
    note(`${what} of ${accountId} is done in ${process.name}`);
    oracle.editDone(edit, undefined, forbidden);
    return true;
  }

  return { open, operate };
}

const STATE = ["account_state"];

function isIn(state: "active" | "suspended"): Took {
  return ({ policy }) => policy.state === state;
}
