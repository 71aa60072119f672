import type { Mutant } from "../breeding.js";
import type { MoneyProfile } from "./scenario.js";

/** `solo`: nothing happens at the same time, and everything is compared with the reference. */
export type MoneyMutant = Mutant<MoneyProfile | "solo">;

const LAW = ["books-by-the-law", "answers-by-the-law"];

/** The mistakes that cost somebody money, one by one; each has to break an invariant that says so. */
export const MONEY_MUTANTS: readonly MoneyMutant[] = [
  {
    name: "a hold is given back without the account's part",
    file: "settle.ts",
    find: "releaseShare(swept.account, reservation, share);",
    replace: "releaseShare(swept.account, reservation, {});",
    profiles: ["calm"],
    caughtBy: ["booked-on-both", "documents-are-sound"],
  },
  {
    name: "a split takes everything from the first fund",
    file: "quota.ts",
    find: "const amount = Math.min(rest, Math.max(0, fund.room));",
    replace: "const amount = fund.room > 0 ? rest : 0;",
    profiles: ["calm", "days"],
    caughtBy: ["never-overspent"],
  },
  {
    name: "what exceeds an estimate does not spill to the next fund",
    file: "quota.ts",
    find: "const more = Math.min(rest, Math.max(0, fund.room - amount));",
    replace: "const more = 0;",
    profiles: ["solo"],
    caughtBy: LAW,
  },
  {
    name: "a settlement does not count in the cap",
    file: "quota.ts",
    find: "return { key: purse(KEY_PURSE, total(parts)), account: amountsOf(parts) };",
    replace:
      "const counted = Object.entries(amountsOf(parts)).filter(([name]) => !name.startsWith('payg'));\n" +
      "  return { key: purse(KEY_PURSE, total(parts)), account: Object.fromEntries(counted) };",
    profiles: ["calm", "lossy", "days"],
    caughtBy: ["booked-on-both", "settled-in-its-cycle"],
  },
  {
    name: "a request is settled in the cycle that it is now",
    file: "quota.ts",
    find: 'const funds = fundsOf(key.account.pays, account, cycle, "held");',
    replace:
      "const funds = fundsOf(key.account.pays, account, cycle && account.subscription && cycleName(account.subscription), 'held');",
    profiles: ["days"],
    caughtBy: ["settled-in-its-cycle"],
  },
  {
    name: "a new cycle does not begin from zero",
    file: "subscription.ts",
    find: "  const ended = { ...closed, [cycleName(before)]: before.current.allowance };",
    replace:
      "  const ended = { ...closed, [cycleName(before)]: before.current.allowance };\n" +
      "  const spent = account.used['subscription@' + cycleName(before)] ?? 0;\n" +
      "  account = { ...account, used: { ...account.used, ['subscription@' + cycleName(subscription)]: spent } };",
    profiles: ["days"],
    caughtBy: ["booked-on-both", "settled-in-its-cycle"],
  },
  {
    name: "the plan chosen for the next cycle is forgotten",
    file: "subscription.ts",
    find: "const plan = nextPlan ?? kept.plan;",
    replace: "const { plan } = kept;",
    profiles: ["solo"],
    caughtBy: LAW,
  },
  {
    name: "a reset gives back what is held",
    file: "accounts.ts",
    find: "const { subscription, used, collected, alerts = {} } = account;",
    replace: "const { subscription, used, collected, alerts = {} } = (account = { ...account, nodes: {} });",
    profiles: ["calm", "days"],
    caughtBy: ["holds-end-once", "booked-on-both", "allowances-are-held"],
  },
  {
    name: "a credit is applied as often as it is asked for",
    file: "accounts.ts",
    find: "if (entry !== undefined) {",
    replace: "if (entry !== undefined && entry.amount === 0) {",
    profiles: ["calm"],
    caughtBy: ["entries-apply-once"],
  },
  {
    name: "a credit leaves no entry",
    file: "attempt.ts",
    find: "note(entry, before.entry, after.entry);",
    replace: "",
    profiles: ["calm"],
    caughtBy: ["entries-apply-once"],
  },
  {
    name: "an alert is told without being noted",
    file: "attempt.ts",
    find: "writes.push(recordWrite(id, version, after as { readonly owner?: string }));",
    replace:
      "const { alerts: _, ...unnoted } = after as { readonly alerts?: unknown; readonly owner?: string };\n" +
      "    writes.push(recordWrite(id, version, unnoted as never));",
    profiles: ["calm", "lossy"],
    caughtBy: ["alerts-are-told-once", "alerts-are-noted", "alerts-are-kept"],
  },
  {
    name: "an alert is told by what is left, whether or not it was noted before",
    file: "alerts.ts",
    find: "threshold >= (before.alerts?.[purse] ?? Number.POSITIVE_INFINITY)",
    replace: "before.used === after.used",
    profiles: ["calm"],
    caughtBy: ["alerts-are-told-once"],
  },
  {
    name: "a settlement is booked in the key alone",
    file: "settle.ts",
    find: "  return { key, account };\n}\n\n/**\n * Brings",
    replace: "  return { key, account: released.account as typeof account };\n}\n\n/**\n * Brings",
    profiles: ["calm"],
    caughtBy: ["booked-on-both"],
  },
  {
    name: "the account is checked and not marked by what changes a key alone",
    file: "attempt.ts",
    find: "touch(parts, anchorId);",
    replace: "",
    profiles: ["lossy", "crashes"],
    caughtBy: ["no-stuck-hold", "alerts-are-told-once", "settle-is-stored", "edits-are-stored"],
  },
  {
    name: "what a dead process held is charged twice",
    file: "expiry.ts",
    find: "fillBuckets(book(sum, held), held, now, ratePercent)",
    replace: "fillBuckets(book(book(sum, held), held), held, now, ratePercent)",
    profiles: ["crashes", "pauses"],
    caughtBy: ["never-overspent", "counters-agree", "no-double-charge", "booked-on-both"],
  },
  {
    name: "the part of a raise is rounded up",
    file: "subscription.ts",
    find: "const allowance = Math.min(current.allowance + Number(share), Number.MAX_SAFE_INTEGER);",
    replace: "const allowance = current.allowance + Number(share) + 1;",
    profiles: ["solo"],
    caughtBy: LAW,
  },
  {
    name: "debt does not block what is free",
    file: "quota.ts",
    find: "  if (first.room < 0) return undefined;\n",
    replace: "",
    profiles: ["solo"],
    caughtBy: LAW,
  },
  {
    name: "allowed by what was cached, though the account was suspended",
    file: "live-groups.ts",
    find: "    const tallies = takeCounts(group.counts, composed.tallied);",
    replace:
      "    for (const result of composed.results) {\n" +
      "      const outcome = result.threw ? undefined : (result.outcome as { answer?: { allowed: boolean } });\n" +
      "      if (outcome?.answer?.allowed) resolveTask(group.line, result.task, outcome);\n" +
      "    }\n" +
      "    const tallies = takeCounts(group.counts, composed.tallied);",
    profiles: ["calm"],
    caughtBy: ["allowance-is-right", "allowances-are-held"],
  },
  {
    name: "a day that is over is dropped",
    file: "attempt.ts",
    find: "if (closed !== undefined) closings.push(",
    replace: "if (closed === null) closings.push(",
    profiles: ["days"],
    caughtBy: ["counters-agree"],
  },
  {
    name: "a busy group is dropped when nothing is known of it",
    file: "group-commit.ts",
    find: "const isOver = isAtRest && isEmpty(group);",
    replace: "const isOver = isEmpty(group);",
    profiles: ["lossy", "crashes"],
    caughtBy: ["store-contract"],
  },
];
