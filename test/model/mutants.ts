import type { Profile } from "./scenario.js";

/** One deliberate mistake in the package, as an exact replacement of text that occurs once. */
export interface Mutant {
  readonly name: string;
  readonly file: string;
  readonly find: string;
  readonly replace: string;
  /** Where it is looked for. */
  readonly profiles: readonly Profile[];
  /** The invariants that may report it. */
  readonly caughtBy: readonly string[];
}

const BOOKS = ["no-lost-charge", "no-double-charge", "settle-is-stored", "no-stuck-hold", "holds-end-once"];

/**
 * The mistakes that the design warns of, one by one. A model that lets one of them pass proves nothing about the
 * others. When the source changes under an entry, its text no longer matches and the test says so.
 */
export const MUTANTS: readonly Mutant[] = [
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
    file: "live-document.ts",
    find: "if (unanswered.every(({ write }) => write.expected >= document.version)) return;",
    replace: "",
    profiles: ["lossy", "outages"],
    caughtBy: [...BOOKS, "allowances-are-held", "documents-are-sound", "edits-are-stored"],
  },
  {
    name: "a lost race is believed, though a copy of the request may have won",
    file: "live-document.ts",
    find: "if (attempt.changes) unanswered.push(attempt);\n    try {",
    replace: "try {",
    profiles: ["lossy"],
    caughtBy: [...BOOKS, "documents-are-sound"],
  },
  {
    name: "what a request was promised after its 503 is not undone",
    file: "live-document.ts",
    find: "if (isUndone) postUndo(",
    replace: 'if (isUndone && task.state !== "given up") postUndo(',
    profiles: ["lossy"],
    caughtBy: BOOKS,
  },
  {
    name: "allowed before it is written",
    file: "live-document.ts",
    find: "    const seq = surroundings.nextSeq();\n",
    replace:
      "    for (const result of results) {\n" +
      "      const outcome = result.threw ? undefined : (result.outcome as { verdict?: { allowed: boolean } } | undefined);\n" +
      "      if (outcome?.verdict?.allowed) answer(result.task, () => result.task.resolve(outcome));\n" +
      "    }\n" +
      "    const seq = surroundings.nextSeq();\n",
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
    file: "live-document.ts",
    find: "    if (!changes) return {",
    replace:
      "    if (!changes) {\n" +
      "      for (const result of results) {\n" +
      "        const outcome = result.threw ? undefined : (result.outcome as { verdict?: { allowed: boolean } } | undefined);\n" +
      "        if (outcome?.verdict?.allowed) answer(result.task, () => result.task.resolve(outcome));\n" +
      "      }\n" +
      "    }\n" +
      "    if (!changes) return {",
    profiles: ["calm"],
    caughtBy: ["allowance-is-right"],
  },
  {
    name: "refused by the cache, without the check that confirms it",
    file: "live-document.ts",
    find: "    if (!changes) return {",
    replace:
      "    if (!changes) {\n" +
      "      for (const result of results) {\n" +
      "        const outcome = result.threw ? undefined : (result.outcome as { verdict?: { allowed: boolean } } | undefined);\n" +
      "        if (outcome?.verdict?.allowed === false) answer(result.task, () => result.task.resolve(outcome));\n" +
      "      }\n" +
      "    }\n" +
      "    if (!changes) return {",
    profiles: ["calm"],
    caughtBy: ["refusal-is-right"],
  },
  {
    name: "refused in phase 1 by what was cached",
    file: "authorizer.ts",
    find: "    const record = await commit.fetch(keyId);",
    replace: "    const record = commit.cached(keyId) ?? (await commit.fetch(keyId));",
    profiles: ["calm"],
    caughtBy: ["refusal-is-right"],
  },
  {
    name: "settles are dropped with the race they lost",
    file: "live-document.ts",
    find: "    lostRaces += 1;\n",
    replace:
      "    lostRaces += 1;\n" +
      "    for (const task of waiting) if (task.options.isFact) answer(task, () => task.resolve(undefined));\n" +
      "    dropFinished();\n",
    profiles: ["calm"],
    caughtBy: ["settle-is-stored", "no-stuck-hold"],
  },
  {
    name: "a settle resolves before it is stored",
    file: "authorizer.ts",
    find: "ended = nothingToBook ? Promise.resolve() : commit.post(keyId, ending(reservation, actual));",
    replace:
      "ended = Promise.resolve();\n        if (!nothingToBook) void commit.post(keyId, ending(reservation, actual));",
    profiles: ["calm"],
    caughtBy: ["settle-is-stored"],
  },
  {
    name: "ending twice books twice",
    file: "authorizer.ts",
    find: "if (ended === undefined) {",
    replace: "{",
    profiles: ["calm"],
    caughtBy: ["no-double-charge", "documents-are-sound", "never-overspent"],
  },
  {
    name: "a collected hold is not remembered",
    file: "quota.ts",
    find: "    collected: { ...record.collected, ...Object.fromEntries(collected) },",
    replace: "    collected: record.collected,",
    profiles: ["pauses", "crashes"],
    caughtBy: ["holds-end-once"],
  },
  {
    name: "a collected hold is charged and given back, too",
    file: "quota.ts",
    find: "    nodes: without(record.nodes, names),\n    collected: { ...record.collected,",
    replace: "    nodes: record.nodes,\n    collected: { ...record.collected,",
    profiles: ["pauses", "crashes"],
    caughtBy: ["holds-end-once", "no-double-charge", "no-lost-charge", "no-stuck-hold", "never-overspent"],
  },
  {
    name: "a correction does not take back what the collection charged",
    file: "quota.ts",
    find: 'const uncharged = entry.mode === "charge" ? book(reopened, held, -1) : reopened;',
    replace: "const uncharged = reopened;",
    profiles: ["pauses"],
    caughtBy: ["no-double-charge", "never-overspent"],
  },
  {
    name: "a spent identity is used again",
    file: "live-document.ts",
    find: "if (wasThere || record.collected[node] !== undefined) node = surroundings.identity(true);",
    replace: "",
    profiles: ["pauses", "churn"],
    caughtBy: [
      "holds-end-once",
      "no-double-charge",
      "no-lost-charge",
      "documents-are-sound",
      "no-stuck-hold",
    ],
  },
  {
    name: "holds are not renewed",
    file: "live-document.ts",
    find: "renewDue ||= entry.renewByMs - session.now() < (holdMs * 2) / 3;",
    replace: "",
    profiles: ["calm"],
    caughtBy: ["renewed-in-time"],
  },
  {
    name: "ended requests stay in flight",
    file: "quota.ts",
    find: "open: live.open - 1,",
    replace: "open: live.open,",
    profiles: ["calm"],
    caughtBy: ["no-stuck-hold", "refusal-is-right", "renewed-in-time"],
  },
  {
    name: "what is held is not counted against the quota",
    file: "quota.ts",
    find: "if (left - heldBy(record) < cost) return",
    replace: "if (left < cost) return",
    profiles: ["calm"],
    caughtBy: ["never-overspent"],
  },
  {
    name: "a clock that steps back revives an expired key",
    file: "policy.ts",
    find: "return Math.max(record.latestMs, now);",
    replace: "return now;",
    profiles: ["clocks"],
    caughtBy: ["allowance-is-right"],
  },
  {
    name: "what was decided by a wrong clock is kept",
    file: "live-document.ts",
    find: "const isUnsound = wasDecidedByWrongTime(attempt) || session.now() >= attempt.holdUntilMs;",
    replace: "const isUnsound = false;",
    profiles: ["clocks"],
    caughtBy: ["never-too-fast", "refusal-is-right", "allowance-is-right", "allowances-are-held"],
  },
  {
    name: "buckets drain twice as fast",
    file: "limits.ts",
    find: "bucket.level - elapsedMs * limit.requests",
    replace: "bucket.level - 2 * elapsedMs * limit.requests",
    profiles: ["calm"],
    caughtBy: ["buckets-are-kept", "never-too-fast"],
  },
  {
    name: "the cache drops the document it hands out",
    file: "group-commit.ts",
    find: "    documents.set(keyId, document);\n    return document;",
    replace:
      "    documents.set(keyId, document);\n    if (documents.size > cacheSize) evict();\n    return document;",
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
    find: 'if (closing !== "drained") return decision;',
    replace: "if (decision) return decision;",
    profiles: ["slow", "outages", "lossy"],
    caughtBy: BOOKS,
  },
];
