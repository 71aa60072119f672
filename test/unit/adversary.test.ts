import { setImmediate as nextTurn } from "node:timers/promises";
import { inspect } from "node:util";
import { describe, expect, test, vi } from "vitest";
import { weigh } from "../../src/decide.js";
import { type Allowed, endingStep } from "../../src/decision.js";
import { parseKeyRecord } from "../../src/document-schemas.js";
import { KeystileError } from "../../src/errors.js";
import { groupCommit } from "../../src/group-commit.js";
import { createKeystile, type Keystile } from "../../src/keystile.js";
import { type Runtime, systemRuntime } from "../../src/runtime.js";
import type { Store } from "../../src/store.js";
import { storeSession } from "../../src/store-session.js";
import { memoryStore } from "../../src/stores/memory.js";
import type { Usage } from "../../src/usage.js";
import { damage, faultyStore, manualTime } from "./faulty-store.js";

/*
 * What an attack on the core has found, each with the attack.
 */

function presenting(secret: string): { headers: Record<string, string> } {
  return { headers: { authorization: `Bearer ${secret}` } };
}

async function allowed(gate: Keystile, request: Parameters<Keystile["authorize"]>[0]): Promise<Allowed> {
  const decision = await gate.authorize(request);
  if (!decision.allowed) throw new Error(decision.refusal.reason);
  return decision;
}

function usageOf(inputTokens: number): Usage {
  return { inputTokens, outputTokens: 0, cachedInputTokens: 0, cacheWriteTokens: 0, reasoningTokens: 0 };
}

describe("a model whose name has an @, as those of Vertex have", () => {
  const model = "claude-sonnet@20250514";
  const limits = [{ tokens: 100, windowMs: 60_000, per: "model" as const }];

  test("is limited in tokens like any other", async () => {
    const time = manualTime();
    const gate = createKeystile({ store: faultyStore(time.store.now), runtime: time.runtime });
    const { secret } = await gate.keys.issue({ limits });
    const first = await allowed(gate, { ...presenting(secret), model, tokens: 60 });
    await first.settle(1, usageOf(60));
    expect(await gate.authorize({ ...presenting(secret), model, tokens: 60 })).toMatchObject({
      refusal: { reason: "rate_limited" },
    });
  });

  test("is counted and no money when its process died", async () => {
    const time = manualTime();
    const store = faultyStore(time.store.now);
    const dying = createKeystile({ store, runtime: time.runtime });
    const { secret, key } = await dying.keys.issue({ limits: [{ ...limits[0], tokens: 1e9 }] as never });
    await allowed(dying, { ...presenting(secret), model, tokens: 60 });
    store.onCall = () => "hangs before";
    await time.advance(70_000);
    store.onCall = () => undefined;
    const gate = createKeystile({ store, runtime: time.runtime });
    await (await allowed(gate, { ...presenting(secret), model })).settle();
    const [document] = (await store.read([`key:${key.id}`])).documents;
    expect(document && parseKeyRecord(document).used).toEqual({ "key@0": 2 });
  });

  test("takes its place in a limit on requests by a lease, too", async () => {
    const time = manualTime();
    const gate = createKeystile({ store: faultyStore(time.store.now), runtime: time.runtime, leases: true });
    const { secret, key } = await gate.keys.issue({
      limits: [{ requests: 1_000, windowMs: 3_600_000, per: "model" }],
    });
    for (let n = 0; n < 20; n += 1) {
      const { settle } = await allowed(gate, { ...presenting(secret), model });
      void settle();
    }
    await gate.flush();
    const another = await allowed(gate, { ...presenting(secret), model });
    expect(another.limits).toMatchObject([{ remaining: 1_000 - 21 }]);
    expect((await gate.keys.get(key.id))?.quota).toMatchObject({ used: 20 });
  });
});

describe("a limit in tokens, by a lease of requests without an estimate", () => {
  test.each([
    ["a number", undefined],
    ["by fund", { subscription: 1, balance: 1 }],
  ])("counts what they took; their cost is %s", async (_, cost) => {
    const time = manualTime();
    const gate = createKeystile({ store: faultyStore(time.store.now), runtime: time.runtime, leases: true });
    const { secret } = await gate.keys.issue({ limits: [{ tokens: 1_000_000, windowMs: 3_600_000 }] });
    for (let n = 0; n < 20; n += 1) {
      const { settle } = await allowed(gate, presenting(secret));
      void settle(cost, usageOf(n < 4 ? 0 : 1_000));
      // Often enough that a lease ends and another one begins.
      await time.advance(n % 3 === 0 ? 600 : 1);
    }
    await gate.flush();
    const [limit] = (await gate.describe(secret))?.limits ?? [];
    const drained = 5_000;
    expect(limit?.remaining).toBeGreaterThanOrEqual(1_000_000 - 16_000);
    expect(limit?.remaining).toBeLessThan(1_000_000 - 16_000 + drained);
  });
});

describe("a limit per address", () => {
  test("drains also of requests that came before the store was first heard", async () => {
    const time = manualTime();
    const addressLimit = { requests: 2, windowMs: 1_000 };
    const gate = createKeystile({
      store: faultyStore(time.store.now),
      runtime: time.runtime,
      addressLimit,
    });
    const ask = async () => {
      const decision = await gate.authorize({ headers: {}, address: "192.0.2.1" });
      return decision.allowed ? undefined : decision;
    };
    for (let n = 0; n < 2; n += 1) expect((await ask())?.refusal.reason).toBe("credential_missing");
    expect(await ask()).toMatchObject({
      refusal: { reason: "address_rate_limited", retryAfterMs: 500 },
      limits: [],
    });
    await gate.keys.list();
    expect(await ask()).toMatchObject({
      refusal: { reason: "address_rate_limited", retryAfterMs: 500 },
      limits: [{ remaining: 0, resetAtMs: time.store.now() + 1_000 }],
    });
    await time.advance(1_000);
    for (let n = 0; n < 2; n += 1) expect((await ask())?.refusal.reason).toBe("credential_missing");
    expect((await ask())?.refusal.reason).toBe("address_rate_limited");
  });
});

describe("a corrupt document of a day that is over", () => {
  test("holds up neither the key nor its revocation, and stays as it is", async () => {
    const time = manualTime();
    const store = faultyStore(time.store.now);
    const gate = createKeystile({ store, runtime: time.runtime });
    const { secret, key } = await gate.keys.issue({ quota: 100 });
    await (await allowed(gate, presenting(secret))).settle();
    const id = `usage:${key.id}.2025-01-15`;
    await store.write([[{ id, expected: 0, set: { broken: true } }]]);
    await time.advance(86_400_000);
    store.calls = [];
    const decision = await allowed(gate, presenting(secret));
    await decision.settle();
    expect(store.calls.length).toBeLessThan(6);
    expect((await gate.keys.get(key.id))?.quota).toMatchObject({ used: 2, held: 0 });
    expect((await gate.usage.query({ keyId: key.id })).unreadable).toEqual([
      { keyId: key.id, day: "2025-01-15" },
    ]);
    expect((await store.read([id])).documents).toMatchObject([{ body: { broken: true } }]);
    expect((await gate.keys.revoke(key.id)).state).toBe("revoked");
  });
});

describe("a document that a client keeps full, with the longest names of models in many requests", () => {
  // A control character takes six bytes of JSON.
  const modelOf = (n: number, length = 64): string =>
    String.fromCharCode(1 + (n % 25), 1 + Math.floor(n / 25)).padEnd(length, "\u0001");

  async function fullKey() {
    const time = manualTime();
    const store = faultyStore(time.store.now);
    const [one, other] = [0, 1].map(() => createKeystile({ store, runtime: time.runtime })) as [
      Keystile,
      Keystile,
    ];
    const { secret, key } = await one.keys.issue({
      limits: [{ tokens: 1_000_000, windowMs: 60_000, per: "model" }],
    });
    const open: Allowed[] = [];
    const faults: unknown[] = [];
    async function hold(gate: Keystile, model: string): Promise<void> {
      const decision = await gate.authorize({ ...presenting(secret), model, tokens: 1 }).catch((fault) => {
        faults.push(fault.code);
      });
      if (decision?.allowed) open.push(decision);
    }
    for (const gate of [one, other]) for (let n = 0; n < 64; n += 1) await hold(gate, modelOf(n));
    for (let length = 63; length > 2; length -= 1) await hold(other, modelOf(62, length));
    return { time, store, one, other, secret, key, open, faults };
  }

  test("is a fault for further requests, and neither for its operator nor for the end of others", async () => {
    const { store, time, one, secret, key, open, faults } = await fullKey();
    expect(new Set(faults)).toEqual(new Set(["document_full"]));
    const operator = createKeystile({ store, runtime: time.runtime });
    await operator.keys.rotate(key.id, { graceMs: 60_000 });
    expect((await operator.keys.disable(key.id)).state).toBe("disabled");
    expect(await one.authorize({ ...presenting(secret), model: "a" })).toMatchObject({ allowed: false });
    expect((await operator.keys.revoke(key.id)).state).toBe("revoked");
    await Promise.all(open.map((decision) => decision.settle(1, usageOf(5_000))));
    expect((await operator.keys.get(key.id))?.quota).toMatchObject({ used: open.length, held: 0 });
  });

  test("requests that do not fit hold up no end in the same write", async () => {
    const { other, secret, open } = await fullKey();
    const [decision] = open.slice(-1);
    const asked = Array.from({ length: 20 }, (_, n) =>
      other.authorize({ ...presenting(secret), model: modelOf(n + 44), tokens: 1 }),
    );
    const ended = decision?.settle(1, usageOf(1));
    const answers = await Promise.allSettled(asked);
    expect(answers.some(({ status }) => status === "rejected")).toBe(true);
    await ended;
  });
});

test("a limit per model of an account cannot be had twice by hiding the model", async () => {
  const time = manualTime();
  const gate = createKeystile({ store: faultyStore(time.store.now), runtime: time.runtime });
  const account = await gate.accounts.open({ limits: [{ requests: 2, windowMs: 60_000, per: "model" }] });
  await gate.accounts.credit(account.id, { id: "first", amount: 100 });
  const { secret } = await gate.keys.issue({ account: account.id });
  await allowed(gate, { ...presenting(secret), model: "m" });
  expect(await gate.authorize({ ...presenting(secret), model: undefined })).toMatchObject({
    refusal: { reason: "model_undetermined" },
  });
  // Routes without a model are no way around it.
  expect(await gate.authorize({ ...presenting(secret), model: null })).toMatchObject({ allowed: true });
});

test("a choice of keys for leases that throws leases nothing, and leaves no request without an end", async () => {
  const time = manualTime();
  const keys = () => {
    throw new Error("not this one");
  };
  const gate = createKeystile({
    store: faultyStore(time.store.now),
    runtime: time.runtime,
    leases: { keys },
  });
  const { secret, key } = await gate.keys.issue({ quota: 100 });
  for (let n = 0; n < 3; n += 1) await (await allowed(gate, presenting(secret))).settle();
  expect((await gate.keys.get(key.id))?.quota).toMatchObject({ used: 3, held: 0 });
});

describe("prices by fund, of one object that is used again and again", () => {
  test.each([-500, 0, 0.5, 7])("are booked as they were given, not as %s", async (later) => {
    const time = manualTime();
    const gate = createKeystile({ store: faultyStore(time.store.now), runtime: time.runtime });
    const account = await gate.accounts.open();
    await gate.accounts.credit(account.id, { id: "first", amount: 1_000 });
    const { secret } = await gate.keys.issue({ account: account.id });
    const balance = async () => (await gate.accounts.get(account.id))?.balance;

    const cost = { subscription: 1, balance: 10 };
    const asked = gate.authorize({ ...presenting(secret), cost });
    cost.balance = later;
    expect(await asked).toMatchObject({ allowed: true, estimate: { balance: 10 } });
    expect(await balance()).toMatchObject({ used: 0, held: 10 });

    const decision = (await asked) as Allowed;
    cost.balance = 20;
    decision.observe(cost);
    cost.balance = later;
    const ended = decision.settle();
    await ended;
    expect(await balance()).toMatchObject({ used: 20, held: 0 });

    cost.balance = 30;
    const another = await allowed(gate, { ...presenting(secret), cost });
    const settled = another.settle(cost);
    cost.balance = later;
    await settled;
    expect(await balance()).toMatchObject({ used: 50, held: 0 });
  });
});

describe("a secret made elsewhere, with the prefix of another kind", () => {
  const brought = "made1elsewhere".repeat(3);

  test("makes no key of a subscription that nothing bounds", async () => {
    const gate = createKeystile({ store: faultyStore(Date.now) });
    await expect(gate.keys.issue({ secret: `sk-sub-${brought}` })).rejects.toMatchObject({
      code: "invalid_options",
      message: expect.stringContaining("key.account"),
    });
    expect((await gate.keys.list()).keys).toEqual([]);
  });

  test("makes no key that spends the balance beside a subscription", async () => {
    const gate = createKeystile({ store: faultyStore(Date.now) });
    const { id } = await gate.accounts.open();
    const plan = { name: "plan", allowance: 5 };
    await expect(
      gate.accounts.subscribe(id, { plan, key: { secret: `sk-${brought}` } }),
    ).rejects.toMatchObject({ code: "invalid_options", message: expect.stringContaining("key.secret") });
    expect((await gate.accounts.get(id))?.subscription).toBeUndefined();
    expect((await gate.keys.list()).keys).toEqual([]);
  });
});

describe("a store that fails half-way", () => {
  const certain = new KeystileError("store_unavailable", "locked", { mayHaveHappened: false });

  test("through a rotation: it may have happened, for the old secret is dead", async () => {
    const store = faultyStore(Date.now);
    const gate = createKeystile({ store });
    const { secret, key } = await gate.keys.issue();
    store.onCall = ({ kind, ids }) =>
      kind === "write" && ids[0]?.startsWith("secret:") ? Promise.reject(certain) : undefined;
    await expect(gate.keys.rotate(key.id)).rejects.toMatchObject({
      code: "store_unavailable",
      mayHaveHappened: true,
      cause: certain,
    });
    store.onCall = () => undefined;
    expect(await gate.authorize(presenting(secret))).toMatchObject({ refusal: { reason: "key_unknown" } });
    const { secret: fresh } = await gate.keys.rotate(key.id);
    expect(await gate.authorize(presenting(fresh))).toMatchObject({ allowed: true });
  });

  test("after a subscription has begun: its key is not lost", async () => {
    const store = faultyStore(Date.now);
    const gate = createKeystile({ store });
    const { id } = await gate.accounts.open();
    let writes = 0;
    store.onCall = ({ kind, ids }) => {
      if (kind === "write" && ids.includes(`account:${id}`)) writes += 1;
      return kind === "read" && writes > 0 ? Promise.reject(certain) : undefined;
    };
    const plan = { name: "plan", allowance: 5 };
    const { secret } = await gate.accounts.subscribe(id, { plan });
    store.onCall = () => undefined;
    expect(await gate.authorize(presenting(secret ?? ""))).toMatchObject({ allowed: true });
  });
});

describe("a flood of unknown keys before a slow store", () => {
  const secretOf = (n: number): string => `sk-${String(n).padStart(40, "x")}`;

  async function flood(size: number, readMs: number) {
    const time = manualTime();
    const store = faultyStore(time.store.now);
    const gate = createKeystile({ store, runtime: time.runtime, storeTimeoutMs: 1_000 });
    await gate.keys.list();
    store.onCall = () => new Promise<void>((resolve) => void time.runtime.setTimer(resolve, readMs));
    const answers: string[] = [];
    for (let n = 0; n < size; n += 1) {
      const told = (answer: string) => void answers.push(answer);
      gate.authorize(presenting(secretOf(n))).then(
        () => told("refused"),
        (fault) => told(fault.code),
      );
    }
    return { time, answers, count: (answer: string) => answers.filter((one) => one === answer).length };
  }

  test("is answered in time, whether it got its turn or not", async () => {
    const { time, answers, count } = await flood(10_000, 400);
    await time.advance(1_500);
    expect(answers).toHaveLength(10_000);
    expect([count("refused"), count("store_unavailable")]).toEqual([1_500, 8_500]);
  });

  test("makes no endless queue", async () => {
    const { time, answers, count } = await flood(20_000, 10);
    await time.advance(500);
    expect(answers).toHaveLength(20_000);
    expect(count("overloaded")).toBe(20_000 - 16_384);
  });
});

describe("an error about wrong input", () => {
  test.each(["acme_", "sk-"])(
    "holds no secret that was put in the wrong place, with the prefix %s",
    async (prefix) => {
      const gate = createKeystile({ store: faultyStore(Date.now), prefixes: { standard: prefix } });
      const { secret, key } = await gate.keys.issue();
      const wrong = secret as never;
      const calls: readonly (() => Promise<unknown>)[] = [
        () => gate.keys.issue(wrong),
        () => gate.keys.issue({ [secret]: 1 } as never),
        () => gate.keys.issue({ quota: wrong, name: secret }),
        () => gate.keys.update(key.id, wrong),
        () => gate.keys.list({ limit: wrong }),
        () => gate.accounts.find({ name: `${secret}!` }),
        () => gate.usage.query({ keyId: secret }),
      ];
      for (const call of calls) {
        const error: unknown = await call().catch((reason: unknown) => reason);
        expect(error).toMatchObject({ code: "invalid_options" });
        expect(inspect(error)).not.toContain(secret.slice(prefix.length, prefix.length + 12));
      }
    },
  );

  test.each([9e15, -9e15])("is one, also for an anchor that no Date can hold: %s", async (anchor) => {
    const gate = createKeystile({ store: faultyStore(Date.now) });
    const { id } = await gate.accounts.open();
    const plan = { name: "plan", allowance: 5 };
    const cycle = { kind: "anniversary", anchor } as const;
    await expect(gate.accounts.subscribe(id, { plan, cycle })).rejects.toMatchObject({
      code: "invalid_options",
    });
    expect((await gate.keys.list()).keys).toEqual([]);
  });
});

describe("accounts found by name", () => {
  test("are of owners that every store tells apart", async () => {
    const gate = createKeystile({ store: faultyStore(Date.now) });
    for (const owner of ["\ud800", "a\udfff", "\ude00\ud83d"]) {
      const refused = { code: "invalid_options" };
      await expect(gate.accounts.open({ owner, name: "main" })).rejects.toMatchObject(refused);
      await expect(gate.keys.issue({ owner })).rejects.toMatchObject(refused);
    }
    expect((await gate.accounts.open({ owner: "\u{1f600}", name: "main" })).owner).toBe("\u{1f600}");
  });

  test("cannot be opened in somebody else's place", async () => {
    const gate = createKeystile({ store: faultyStore(Date.now) });
    // The part of an id that tells the owner is public, and the place of a name can be chosen by trying names.
    const { id } = await gate.accounts.open({ owner: "victim", name: "main" });
    const name = id.slice(4);
    const refused = { code: "invalid_options" };
    await expect(gate.accounts.open({ name })).rejects.toMatchObject(refused);
    await expect(gate.accounts.find({ name })).rejects.toMatchObject(refused);
    expect((await gate.accounts.open({ owner: "another", name })).id).not.toBe(id);
  });
});

describe("keys of an account that is never at rest", () => {
  async function openedWith(keys: number) {
    const store = memoryStore();
    const operator = createKeystile({ store });
    const { id: accountId } = await operator.accounts.open();
    await operator.accounts.credit(accountId, { id: "first", amount: 1_000 });
    const subjects: Subject[] = [];
    for (let n = 0; n < keys; n += 1) {
      const { key } = await operator.keys.issue({ account: accountId });
      subjects.push({ keyId: key.id, accountId });
    }
    return { store, operator, accountId, subjects };
  }

  interface Subject {
    readonly keyId: string;
    readonly accountId: string;
  }

  function commitOver(store: Store, cacheSize: number) {
    return groupCommit({
      session: storeSession(store, systemRuntime, 5_000),
      runtime: systemRuntime,
      nameProcess: () => "process",
      ...{ holdMs: 60_000, storeTimeoutMs: 5_000, cacheSize },
      thresholds: { percentLeft: [], balanceLeft: [] },
      onWritten: () => {},
    });
  }

  async function spend(commit: ReturnType<typeof commitOver>, subject: Subject): Promise<void> {
    const weighed = await commit.decide(
      subject,
      (records, { node, now, holdUntilMs }) => {
        const request = { facts: {}, cost: 1, tokens: 0, places: undefined, rules: [], node, holdUntilMs };
        const outcome = weigh(records, request, now);
        return { records: outcome.documents, outcome };
      },
      () => undefined,
    );
    if (weighed?.answer.allowed !== true) throw new Error("it was refused");
    await commit.post(subject, endingStep(weighed.answer.reservation, { cost: 1, outcome: "settled" }));
  }

  test("take no more memory than cacheSize says", async () => {
    const { store: inner, operator, accountId, subjects } = await openedWith(200);
    const store: Store = {
      ...inner,
      async write(groups) {
        await nextTurn();
        return inner.write(groups);
      },
    };
    const commit = commitOver(store, 50);
    let most = 0;
    const rest = [...subjects, ...subjects];
    async function work(): Promise<void> {
      for (let next = rest.pop(); next !== undefined; next = rest.pop()) {
        await spend(commit, next);
        most = Math.max(most, subjects.filter((one) => commit.cached(one) !== undefined).length);
      }
    }
    await Promise.all(Array.from({ length: 16 }, work));
    // Those in use stay, whatever their number.
    expect(most).toBeLessThanOrEqual(50 + 16);
    expect((await operator.accounts.get(accountId))?.balance).toMatchObject({ used: 400, held: 0 });
  });

  test("make way before it is read, and still there is one group of it", async () => {
    const { store: inner, operator, accountId, subjects } = await openedWith(2);
    const [first, second] = subjects as [Subject, Subject];
    const stranger = await operator.accounts.open();
    const { key } = await operator.keys.issue({ account: stranger.id });
    await operator.accounts.credit(stranger.id, { id: "first", amount: 10 });
    const repeated: string[] = [];
    const store: Store = {
      ...inner,
      write(groups) {
        const ids = groups.flat().map(({ id }) => id);
        repeated.push(...ids.filter((id, at) => ids.indexOf(id) < at));
        return inner.write(groups);
      },
    };
    const commit = commitOver(store, 1);
    // All before any of them is looked at. A second group would write under the same name what the first looks for.
    await Promise.all([
      spend(commit, first),
      spend(commit, { keyId: key.id, accountId: stranger.id }),
      spend(commit, second),
    ]);
    expect(repeated).toEqual([]);
    expect((await operator.accounts.get(accountId))?.balance).toMatchObject({ used: 2, held: 0 });
  });
});

test("after close() nothing that cannot be stored keeps the process alive", async () => {
  const time = manualTime();
  const store = faultyStore(time.store.now);
  const kept: number[] = [];
  const runtime: Runtime = {
    ...time.runtime,
    setTimer(run, ms, isBackground) {
      if (!isBackground) kept.push(ms);
      return time.runtime.setTimer(run, ms);
    },
  };
  const gate = createKeystile({ store, runtime, drainMs: 0 });
  const { secret } = await gate.keys.issue({ quota: 10 });
  const decision = await allowed(gate, presenting(secret));
  store.onCall = () => "fails before";
  void decision.settle();
  const closed = gate.close();
  await time.advance(10_000);
  expect(await closed).toEqual({ unwritten: 1 });
  // One that was set before may be under way.
  await time.advance(10_000);
  kept.length = 0;
  const callsBefore = store.calls.length;
  await time.advance(60_000);
  // Calls to the store have time-outs, which end.
  expect(kept.filter((ms) => ms !== 5_000)).toEqual([]);
  expect(store.calls.length).toBeGreaterThan(callsBefore);
});

test.each([
  ["tally", { day: -1e12, models: {} }],
  ["createdAtMs", 9e15],
  ["latestMs", 9e15],
])(
  "a time in %s that no Date can hold is a corrupt document, and no error of another kind",
  async (member, value) => {
    const time = manualTime();
    const store = faultyStore(time.store.now);
    const operator = createKeystile({ store, runtime: time.runtime });
    const { secret, key } = await operator.keys.issue({ quota: 10 });
    await damage(store, key.id, (body) => ({ ...body, [member]: value }));
    const gate = createKeystile({ store, runtime: time.runtime });
    const fault = { code: "document_invalid" };
    await expect(gate.authorize(presenting(secret))).rejects.toMatchObject(fault);
    await expect(gate.keys.get(key.id)).rejects.toMatchObject(fault);
    await expect(gate.keys.update(key.id, { name: "a" })).rejects.toMatchObject(fault);
  },
);

test("a key that is purged while it is rotated leaves no secret behind", async () => {
  const store = faultyStore(Date.now);
  const [gate, another] = [createKeystile({ store }), createKeystile({ store })];
  const { key } = await gate.keys.issue();
  let release = (): void => {};
  const purged = new Promise<void>((resolve) => {
    release = resolve;
  });
  let isHeld = false;
  store.onCall = ({ kind, ids }) => {
    if (isHeld || kind !== "write" || !ids[0]?.startsWith("secret:")) return undefined;
    isHeld = true;
    return purged;
  };
  const rotation = gate.keys.rotate(key.id);
  await vi.waitFor(() => expect(isHeld).toBe(true));
  await another.keys.revoke(key.id);
  await another.keys.purge(key.id);
  release();
  await expect(rotation).rejects.toMatchObject({ code: "key_not_found" });
  expect(await store.documents()).toEqual([]);
});
