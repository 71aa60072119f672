import type { Mutant } from "./breeding.js";
import type { Profile } from "./scenario.js";

const BOOKS = ["no-lost-charge", "no-double-charge", "settle-is-stored", "no-stuck-hold", "holds-end-once"];

/** What an attempt comes to is known here, and nothing is sent yet. */
const COMPOSED = "    const tallies = takeCounts(group.counts, composed.tallied);";

/** Source that tells callers the outcome of an attempt before the store has confirmed it. */
function answerFirst(condition: string): string {
  return [
    "    for (const result of composed.results) {",
    "      const outcome = result.threw ? undefined : (result.outcome as { answer?: { allowed: boolean } });",
    "      const answer = outcome?.answer;",
    `      if (answer !== undefined && ${condition})`,
    "        resolveTask(group.line, result.task, outcome);",
    "    }",
    COMPOSED,
  ].join("\n");
}

/**
 * The mistakes that the design warns of, one by one. A model that lets one of them pass proves nothing about the
 * others. When the source changes under an entry, its text no longer matches and the test says so.
 */
export const MUTANTS: readonly Mutant<Profile>[] = [
  {
    name: "an attempt's seq is used again",
    file: "group-commit.ts",
    find: "nextSeq: () => ++lastSeq,",
    replace: "nextSeq: () => (lastSeq ||= 1),",
    profiles: ["lossy", "crashes"],
    caughtBy: [...BOOKS, "allowances-are-held", "documents-are-sound", "edits-are-stored"],
  },
  {
    name: "an unanswered attempt counts as lost before the version has passed",
    file: "unanswered.ts",
    find: "if (attempts.every(({ parts }) => versionOf(parts, anchorId) >= anchor.version)) return undefined;",
    replace: "",
    profiles: ["lossy", "outages"],
    caughtBy: [...BOOKS, "allowances-are-held", "documents-are-sound", "edits-are-stored"],
  },
  {
    name: "a lost race is believed, though a copy of the request may have won",
    file: "live-groups.ts",
    find: "if (attempt.changes) group.unanswered = [...group.unanswered, attempt];\n    const ids",
    replace: "const ids",
    profiles: ["lossy"],
    caughtBy: [...BOOKS, "documents-are-sound"],
  },
  {
    name: "what a request was promised after its 503 is not undone",
    file: "live-groups.ts",
    find: "if (isUndone) postUndo(group,",
    replace: 'if (isUndone && task.state !== "given up") postUndo(group,',
    profiles: ["lossy"],
    caughtBy: BOOKS,
  },
  {
    name: "allowed before it is written",
    file: "live-groups.ts",
    find: COMPOSED,
    replace: answerFirst("composed.changes && answer.allowed"),
    profiles: ["calm"],
    caughtBy: [
      "allowances-are-held",
      "never-overspent",
      "allowance-is-right",
      "never-too-many",
      "refusal-is-right",
    ],
  },
  {
    name: "allowed by the cache, without the check that confirms it",
    file: "live-groups.ts",
    find: COMPOSED,
    replace: answerFirst("!composed.changes && answer.allowed"),
    profiles: ["calm"],
    caughtBy: ["allowance-is-right"],
  },
  {
    name: "refused by the cache, without the check that confirms it",
    file: "live-groups.ts",
    find: COMPOSED,
    replace: answerFirst("!composed.changes && !answer.allowed"),
    profiles: ["calm"],
    caughtBy: ["refusal-is-right"],
  },
  {
    name: "refused in phase 1 by what was cached",
    file: "authorizer.ts",
    find: "    const documents = await commit.fetch(subject);",
    replace: "    const documents = commit.cached(subject) ?? (await commit.fetch(subject));",
    profiles: ["calm"],
    caughtBy: ["refusal-is-right"],
  },
  {
    name: "settles are dropped with the race they lost",
    file: "live-groups.ts",
    find: "    group.pace.lostRaces += 1;\n",
    replace:
      "    group.pace.lostRaces += 1;\n" +
      "    for (const task of group.line.waiting)\n" +
      "      if (task.options.isFact) resolveTask(group.line, task, undefined);\n" +
      "    dropFinished(group.line);\n",
    profiles: ["calm"],
    caughtBy: ["settle-is-stored", "no-stuck-hold"],
  },
  {
    name: "a settle resolves before it is stored",
    file: "decision.ts",
    find: "if (!isFree) return commit.post(subject, endingStep(reservation, ending));",
    replace:
      "if (!isFree) {\n        void commit.post(subject, endingStep(reservation, ending));\n        return Promise.resolve();\n      }",
    profiles: ["calm"],
    caughtBy: ["settle-is-stored"],
  },
  {
    name: "ending twice books twice",
    file: "decision.ts",
    find: "if (ended === undefined) {",
    replace: "{",
    profiles: ["calm"],
    caughtBy: ["no-double-charge", "documents-are-sound", "never-overspent"],
  },
  {
    name: "a collected hold is not remembered",
    file: "expiry.ts",
    find: "    collected: { ...ledger.collected, ...Object.fromEntries(collected) },",
    replace: "    collected: ledger.collected,",
    profiles: ["pauses", "crashes"],
    caughtBy: [...BOOKS],
  },
  {
    name: "a collected hold is charged and given back, too",
    file: "expiry.ts",
    find: "    nodes: without(ledger.nodes, names),\n    collected: { ...ledger.collected,",
    replace: "    nodes: ledger.nodes,\n    collected: { ...ledger.collected,",
    profiles: ["pauses", "crashes"],
    caughtBy: ["holds-end-once", "no-double-charge", "no-lost-charge", "no-stuck-hold", "never-overspent"],
  },
  {
    name: "a correction does not take back what the collection charged",
    file: "ledger.ts",
    find: 'return { ledger: { ...reopened, used: takenBack(ledger.used, amounts) }, found: "charged" };',
    replace: 'return { ledger: reopened, found: "charged" };',
    profiles: ["pauses"],
    caughtBy: ["no-double-charge", "never-overspent"],
  },
  {
    name: "a spent identity is used again",
    file: "live-groups.ts",
    find: "if (!wasThere && record.collected[node] === undefined) return;",
    replace: "if (wasThere || record !== undefined) return;",
    profiles: ["pauses", "churn"],
    caughtBy: [
      "holds-end-once",
      "allowances-are-held",
      "no-double-charge",
      "no-lost-charge",
      "documents-are-sound",
      "no-stuck-hold",
    ],
  },
  {
    name: "holds are not renewed",
    file: "live-groups.ts",
    find: "if (isHeldUntil(group, anchor?.record, dueMs)) group.renewals = withId(group.renewals, anchorId);",
    replace: "",
    profiles: ["calm"],
    caughtBy: ["renewed-in-time"],
  },
  {
    name: "ended requests stay in flight",
    file: "ledger.ts",
    find: "open: isWhole ? open - 1 : open",
    replace: "open",
    profiles: ["calm"],
    caughtBy: ["no-stuck-hold", "refusal-is-right", "renewed-in-time"],
  },
  {
    name: "what is held is not counted against the quota",
    file: "quota.ts",
    find: 'return holds === "held" ? left - heldOf(ledger, name) : left;',
    replace: "return left;",
    profiles: ["calm"],
    caughtBy: ["never-overspent"],
  },
  {
    name: "a clock that steps back revives an expired key",
    file: "policy.ts",
    find: "return Math.max(latestMs, now);",
    replace: "return now;",
    profiles: ["clocks"],
    caughtBy: ["allowance-is-right"],
  },
  {
    name: "what was decided by a wrong clock is kept",
    file: "live-groups.ts",
    find: "const isUnsound = isLate || wasDecidedByWrongTime(attempt, now, timeMs);",
    replace: "const isUnsound = false;",
    profiles: ["clocks"],
    caughtBy: ["never-too-fast", "refusal-is-right", "allowance-is-right", "allowances-are-held"],
  },
  {
    name: "buckets drain twice as fast",
    file: "limits.ts",
    find: "bucket.level - elapsedMs * perWindow",
    replace: "bucket.level - 2 * elapsedMs * perWindow",
    profiles: ["calm"],
    caughtBy: ["buckets-are-kept", "never-too-fast"],
  },
  {
    name: "the cache drops the document it hands out",
    file: "group-commit.ts",
    find: "    if (key !== undefined) touch(key, member);\n    return member;",
    replace:
      "    if (key !== undefined) touch(key, member);\n    if (recent.size > cacheSize) evict(recent.size - cacheSize);\n    return member;",
    profiles: ["pauses", "hours", "lossy"],
    caughtBy: [...BOOKS, "store-contract", "documents-are-sound"],
  },
  {
    name: "a doubled create counts as taken by somebody else",
    file: "keyring.ts",
    find: "return keyId === (write.set as { keyId?: unknown }).keyId;",
    replace: "return keyId === undefined;",
    profiles: ["lossy", "churn"],
    caughtBy: ["fault-has-a-reason", "calls-succeed-in-the-end"],
  },
  {
    name: "allowed after the instance has settled what was open",
    file: "authorizer.ts",
    find: 'if (closing !== "drained") return',
    replace: "if (decision) return",
    profiles: ["slow", "outages", "lossy"],
    caughtBy: BOOKS,
  },
];

/** Mistakes that only leases make. */
export const LEASED_MUTANTS: readonly Mutant<Profile>[] = [
  {
    name: "a lease lets in for as long as it has something left",
    file: "leases.ts",
    find: "return runtime.monotonicMs() < grant.grantedAtMs + revalidateMs;",
    replace: "return grant.grantedAtMs >= 0;",
    profiles: ["clocks"],
    caughtBy: ["allowance-is-right"],
  },
  {
    name: "what a lease has left over is kept",
    file: "live-lease.ts",
    find: "const given = isClosed ? free : least(used, free);",
    replace: "const given = least(used, free);",
    profiles: ["calm"],
    caughtBy: ["documents-are-sound", "no-stuck-hold"],
  },
  {
    name: "what the requests of a lease came to is booked again with those that follow",
    file: "live-lease.ts",
    find: "[used, counts, stored, isOver] = [NO_SLICE, new Map(), undefined, isLast];",
    replace: "[counts, stored, isOver] = [new Map(), undefined, isLast];",
    profiles: ["calm"],
    caughtBy: ["no-double-charge", "never-overspent"],
  },
  {
    name: "a request of a lease is settled before that is stored",
    file: "live-lease.ts",
    find: "    stored ??= withResolvers();\n    return stored.promise;",
    replace: "    stored ??= withResolvers();\n    return Promise.resolve();",
    profiles: ["calm"],
    caughtBy: ["settle-is-stored"],
  },
  {
    name: "what was collected of a lease is corrected by its last part only",
    file: "ledger.ts",
    find: "  const corrected = {",
    replace: '  if (!isWhole) return { ledger, found: "charged" };\n  const corrected = {',
    profiles: ["pauses", "clocks"],
    caughtBy: ["no-double-charge", "never-overspent"],
  },
];
