import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { decide } from "../../src/decide.js";
import type { AccountRecord, DayTally, Documents, KeyRecord, Outcome } from "../../src/documents.js";
import { hold } from "../../src/ledger.js";
import { allot } from "../../src/quota.js";
import { type Reservation, settle, sweep } from "../../src/settle.js";
import { type Count, count, dayOf, mergeDays, turnDay, withCount } from "../../src/tally.js";
import { sampleAccount } from "../../src/testing/sample-account.js";
import { sampleKey } from "../../src/testing/sample-key.js";
import { holding, nameOf, T0 } from "./holding.js";

const DAY_MS = 86_400_000;
const HOUR_MS = 3_600_000;
const MAX = Number.MAX_SAFE_INTEGER;
const TODAY = Math.floor(T0 / DAY_MS);
const BLANK: DayTally = { day: TODAY, models: {} };
const OUTCOMES: readonly Outcome[] = ["settled", "voided", "expired", "refused"];

describe("counting", () => {
  test("adds up by model and outcome", () => {
    const day = [
      counted({ cost: 5, inputTokens: 10, outputTokens: 20, paid: 4 }),
      counted({ cost: 7, inputTokens: 1, outputTokens: 2, paid: 1 }),
      counted({ outcome: "voided" }),
      counted({ model: "b", outcome: "refused", requests: 3 }),
      counted({ model: null, outcome: "expired", cost: 4 }),
    ].reduce(withCount, BLANK);
    expect(day).toEqual({
      day: TODAY,
      models: {
        a: { settled: [2, 12, 11, 22, 5], voided: [1, 0, 0, 0, 0] },
        b: { refused: [3, 0, 0, 0, 0] },
        "": { expired: [1, 4, 0, 0, 0] },
      },
    });
  });

  test("changes nothing it was given", () => {
    const before = Object.freeze({ ...BLANK, models: Object.freeze({ a: Object.freeze({}) }) });
    withCount(before, counted({}));
    expect(before.models).toEqual({ a: {} });
  });

  test("keeps sums within the safe integers, and takes back what was counted too early", () => {
    const full = withCount(withCount(BLANK, counted({ cost: MAX })), counted({ cost: MAX }));
    expect(full.models["a"]?.settled).toEqual([2, MAX, 0, 0, 0]);
    const back = withCount(full, counted({ requests: -1, cost: -MAX }));
    expect(back.models["a"]?.settled).toEqual([1, 0, 0, 0, 0]);
  });

  test("of 64 models by name; the further ones count as other, and those there are go on", () => {
    const full = models(64).reduce(withCount, BLANK);
    expect(Object.keys(full.models)).toHaveLength(64);
    expect(full.models).not.toHaveProperty("other");
    const more = [
      counted({ model: "model-64" }),
      counted({ model: "model-65" }),
      counted({ model: "model-7" }),
    ];
    const after = more.reduce(withCount, full);
    expect(Object.keys(after.models)).toHaveLength(65);
    expect(after.models["other"]?.settled).toEqual([2, 0, 0, 0, 0]);
    expect(after.models["model-7"]?.settled).toEqual([2, 0, 0, 0, 0]);
  });

  test.each([
    ["x".repeat(64), "x".repeat(64)],
    ["x".repeat(65), "x".repeat(64)],
    ["__proto__", "other"],
    ["constructor", "constructor"],
    ["toString", "toString"],
    ["", ""],
    [null, ""],
  ])("the model %j is counted as %j", (model, name) => {
    const twice = withCount(withCount(BLANK, counted({ model })), counted({ model }));
    expect(Object.keys(twice.models)).toEqual([name]);
    expect(twice.models[name]).toEqual({ settled: [2, 0, 0, 0, 0] });
  });
});

describe("the days of a key", () => {
  const key = sampleKey({}, T0);

  test("begin at midnight UTC", () => {
    const midnight = (TODAY + 1) * DAY_MS;
    expect([dayOf(key, midnight - 1), dayOf(key, midnight)]).toEqual([TODAY, TODAY + 1]);
  });

  test("do not come back with a clock that steps back", () => {
    expect(dayOf({ latestMs: T0 }, T0 - DAY_MS)).toBe(TODAY);
    const tomorrow = { ...count(key, counted({}), T0 + DAY_MS), latestMs: T0 + DAY_MS };
    expect(turnDay(tomorrow, T0)).toEqual({ key: tomorrow, closed: undefined });
  });

  test("a first count begins one", () => {
    expect(key).not.toHaveProperty("tally");
    expect(count(key, counted({}), T0 + DAY_MS).tally).toEqual(
      withCount({ day: TODAY + 1, models: {} }, counted({})),
    );
  });

  test("end with the day: its counters are handed over whole, once", () => {
    const today = count(key, counted({ cost: 3 }), T0);
    expect(turnDay(today, (TODAY + 1) * DAY_MS - 1)).toEqual({ key: today, closed: undefined });
    const turned = turnDay(today, (TODAY + 1) * DAY_MS);
    expect(turned).toEqual({ key, closed: today.tally });
    expect(turned.key.tally).toBeUndefined();
    expect(turnDay(turned.key, (TODAY + 1) * DAY_MS)).toEqual({ key, closed: undefined });
    expect(turnDay(today, T0 + 400 * DAY_MS).closed?.day).toBe(TODAY);
  });
});

describe("two parts of a day", () => {
  const anyCount = fc.record({
    model: fc.constantFrom(null, "", "a", "b", "other", "__proto__"),
    outcome: fc.constantFrom(...OUTCOMES),
    requests: fc.nat(5),
    cost: fc.nat(1_000),
    inputTokens: fc.nat(1_000),
    outputTokens: fc.nat(1_000),
    paid: fc.nat(1_000),
  });

  test("are together what one would be", () => {
    fc.assert(
      fc.property(fc.array(anyCount), fc.array(anyCount), (first, second) => {
        const whole = [...first, ...second].reduce(withCount, BLANK);
        const merged = mergeDays(first.reduce(withCount, BLANK), second.reduce(withCount, BLANK));
        expect(merged).toEqual(whole);
      }),
    );
  });

  test("have 64 models together, and lose nothing", () => {
    const merged = mergeDays(
      models(64).reduce(withCount, BLANK),
      models(100, "late").reduce(withCount, BLANK),
    );
    expect(Object.keys(merged.models)).toHaveLength(65);
    expect(totals([merged]).requests).toBe(164);
  });

  test("keep the day of the first", () => {
    expect(mergeDays(BLANK, { day: 0, models: {} }).day).toBe(TODAY);
  });
});

describe("what became of requests", () => {
  test.each([
    ["settled", { settled: [1, 6, 7, 8, 0] }, 6],
    ["voided", { voided: [1, 0, 7, 8, 0] }, 0],
  ] as const)("%s", (outcome, expected, cost) => {
    const { documents, reservation } = admitted(sampleKey({}, T0), 10, "me", T0 + 1);
    const ending = { outcome, cost, model: "a", inputTokens: 7, outputTokens: 8 };
    expect(settle(documents, reservation, ending, T0).key.tally?.models).toEqual({ a: expected });
  });

  test.each([
    ["charge", [2, 15, 0, 0, 0], [1, 10, 0, 0, 0]],
    ["release", [2, 0, 0, 0, 0], [1, 0, 0, 0, 0]],
  ] as const)(
    "expired, mode %s: counted when it is collected, and taken back by who comes back",
    (onCrash, ...rows) => {
      const [expired, left] = rows;
      const first = admitted(sampleKey({ onCrash }, T0), 10, "me", T0 + 1);
      const second = admitted(first.documents.key, 5, "me", T0 + 1);
      const collected = sweep(second.documents, T0 + 1);
      expect(collected.key.tally?.models).toEqual({ "": { expired } });
      const ending = { outcome: "settled" as const, cost: 3, model: "a" };
      expect(settle(collected, second.reservation, ending, T0 + 1).key.tally?.models).toEqual({
        "": { expired: left },
        a: { settled: [1, 3, 0, 0, 0] },
      });
    },
  );

  test.each<["balance" | "subscription", string, number, number]>([
    ["balance", "charge", 150, 150],
    ["balance", "release", 0, 0],
    ["subscription", "charge", 150, 0],
    ["subscription", "release", 0, 0],
  ])(
    "paid from a %s and expired, mode %s: of %i the balance is known to have paid %i",
    (pays, mode, ...expired) => {
      const onCrash = mode as "charge" | "release";
      const before = { key: keyPaying(pays, onCrash), account: accountOf(onCrash) };
      const { documents, verdict } = decide(
        before,
        { facts: {}, cost: 150, node: "me", holdUntilMs: T0 + 1 },
        T0,
      );
      if (!verdict.allowed) throw new Error(verdict.refusal.reason);
      const collected = sweep(documents, T0 + 1);
      expect(collected.key.tally?.models).toEqual({ "": { expired: [1, expired[0], 0, 0, expired[1]] } });
      const back = settle(
        collected,
        verdict.reservation,
        { outcome: "settled", cost: 120, model: "a" },
        T0 + 1,
      );
      const paid = pays === "balance" ? 120 : 20;
      expect(back.account?.used["balance@0"]).toBe(paid);
      expect(back.key.tally?.models).toEqual({
        "": { expired: [0, 0, 0, 0, 0] },
        a: { settled: [1, 120, 0, 0, paid] },
      });
    },
  );

  test("has paid what was charged by time, where the account has forgotten the request and the key has not", () => {
    const before = { key: keyPaying("subscription", "charge"), account: accountOf("charge") };
    const { documents, verdict } = decide(
      before,
      { facts: {}, cost: 150, node: "me", holdUntilMs: T0 + 1 },
      T0,
    );
    if (!verdict.allowed) throw new Error(verdict.refusal.reason);
    const collected = sweep(documents, T0 + 1);
    const account = { ...(collected.account as AccountRecord), collected: {}, forgottenMs: T0 + 1 };
    const ending = { outcome: "settled" as const, cost: 120, model: "a" };
    const back = settle({ ...collected, account }, verdict.reservation, ending, T0 + 1);
    expect(back.account?.used["balance@0"]).toBe(50);
    expect(back.key.tally?.models["a"]).toEqual({ settled: [1, 120, 0, 0, 50] });
  });

  test("is not told of what is forgotten", () => {
    const { documents, reservation } = admitted(sampleKey({}, T0), 10, "me", T0 + 1);
    const forgotten = sweep(sweep(documents, T0 + 1), T0 + 1 + HOUR_MS);
    const late = T0 + 1 + HOUR_MS;
    expect(settle(forgotten, reservation, { outcome: "settled", cost: 3 }, late).key).toBe(forgotten.key);
  });

  test("is counted of all that expire at once, be they more than are remembered", () => {
    const names = Array.from({ length: 100 }, (_, index) => [`node-${index}`, 2] as const);
    const { key } = sweep({ key: holding(Object.fromEntries(names), T0) }, T0);
    expect(key.used).toEqual({ "key@0": 200 });
    expect(key.tally?.models[""]?.expired).toEqual([100, 200, 0, 0, 0]);
  });
});

describe("over random histories", () => {
  const cost = fc.nat(60);
  const node = fc.integer({ min: 0, max: 2 });
  const step = fc.oneof(
    { weight: 5, arbitrary: fc.record({ do: fc.constant("hold" as const), node, cost }) },
    {
      weight: 5,
      arbitrary: fc.record({
        do: fc.constant("end" as const),
        which: fc.nat(),
        actual: fc.nat(80),
        isVoided: fc.boolean(),
        model: fc.constantFrom(null, "a", "b"),
      }),
    },
    { weight: 2, arbitrary: fc.record({ do: fc.constant("wait" as const), ms: fc.nat(150) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant("wait" as const), ms: fc.nat(2 * HOUR_MS) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant("wait" as const), ms: fc.nat(DAY_MS) }) },
  );

  test("the counters of all days add up to what the key has used, and to the requests that are over", () => {
    fc.assert(
      fc.property(
        fc.constantFrom("charge" as const, "release" as const),
        fc.array(step, { minLength: 1, maxLength: 80 }),
        (onCrash, history) => {
          let key = sampleKey({ onCrash }, T0);
          const days: DayTally[] = [];
          const open: Reservation[] = [];
          let admissions = 0;
          let now = T0;
          for (const one of history) {
            if (one.do === "wait") now += one.ms;
            const turned = turnDay(key, now);
            if (turned.closed !== undefined) days.push(turned.closed);
            key = sweep({ key: turned.key }, now).key;
            if (one.do === "hold") {
              const held = admitted(key, one.cost, nameOf(key, one.node), now + 100);
              key = held.documents.key;
              open.push(held.reservation);
              admissions += 1;
            }
            if (one.do === "end" && open.length > 0) {
              const [reservation] = open.splice(one.which % open.length, 1);
              const outcome = one.isVoided ? ("voided" as const) : ("settled" as const);
              const ending = { outcome, cost: one.isVoided ? 0 : one.actual, model: one.model };
              key = settle({ key }, reservation as Reservation, ending, now).key;
            }
            const sums = totals([...days, ...(key.tally ? [key.tally] : [])]);
            const inFlight = Object.values(key.nodes).reduce((sum, entry) => sum + entry.open, 0);
            expect(sums).toEqual({ requests: admissions - inFlight, cost: key.used["key@0"] ?? 0, paid: 0 });
          }
        },
      ),
      { numRuns: 500 },
    );
  });

  test("what keys of all kinds say was paid is what their account's balance has paid, once all came back", () => {
    const mode = fc.constantFrom("charge" as const, "release" as const);
    const move = fc.oneof(
      {
        weight: 5,
        arbitrary: fc.record({ do: fc.constant("hold" as const), node, cost, which: fc.nat(1) }),
      },
      {
        weight: 5,
        arbitrary: fc.record({ do: fc.constant("end" as const), which: fc.nat(), actual: fc.nat(80) }),
      },
      { weight: 2, arbitrary: fc.record({ do: fc.constant("wait" as const), ms: fc.nat(150) }) },
    );
    fc.assert(
      fc.property(mode, mode, mode, fc.array(move, { maxLength: 60 }), (first, second, shared, history) => {
        const keys = [keyPaying("balance", first), keyPaying("subscription", second)];
        let account = accountOf(shared);
        const open: { readonly which: number; readonly reservation: Reservation }[] = [];
        let now = T0;
        const keep = (which: number, documents: Documents): void => {
          keys[which] = documents.key;
          account = documents.account as AccountRecord;
        };
        const end = (at: number, actual: number): void => {
          const [{ which, reservation }] = open.splice(at % open.length, 1) as typeof open &
            [(typeof open)[0]];
          const documents = { key: keys[which] as KeyRecord, account };
          keep(which, settle(documents, reservation, { outcome: "settled", cost: actual }, now));
        };
        for (const one of history) {
          if (one.do === "wait") now += one.ms;
          if (one.do === "end" && open.length > 0) end(one.which, one.actual);
          if (one.do !== "hold") continue;
          const before = sweep({ key: keys[one.which] as KeyRecord, account }, now);
          keep(one.which, before);
          const name = freshName([...keys, account], one.node);
          const request = { facts: {}, cost: one.cost, node: name, holdUntilMs: now + 100 };
          const { documents, verdict } = decide(before, request, now);
          if (!verdict.allowed) continue;
          keep(one.which, documents);
          open.push({ which: one.which, reservation: verdict.reservation });
        }
        while (open.length > 0) end(0, 7);
        const { cost: costs, paid } = totals(keys.flatMap(({ tally }) => (tally ? [tally] : [])));
        expect(costs).toBe(keys.reduce((sum, { used }) => sum + (used["key@0"] ?? 0), 0));
        expect(paid).toBe(account.used["balance@0"] ?? 0);
      }),
      { numRuns: 500 },
    );
  });
});

function keyPaying(pays: "balance" | "subscription", onCrash: "charge" | "release"): KeyRecord {
  return { ...sampleKey({ onCrash }, T0), account: { id: "000.main", pays } };
}

/** 100 of an allowance, and then a balance. */
function accountOf(onCrash: "charge" | "release"): AccountRecord {
  const subscription = { plan: { name: "basic", allowance: 100 } };
  return sampleAccount({ onCrash, credited: 1_000, payAsYouGo: { capPerCycle: null }, subscription }, T0);
}

/** The identity of a process: a new one after what it held was collected. */
function freshName(ledgers: readonly Pick<KeyRecord, "collected">[], node: number): string {
  let generation = 0;
  while (ledgers.some(({ collected }) => `${node}.${generation}` in collected)) generation += 1;
  return `${node}.${generation}`;
}

function counted(change: Partial<Count>): Count {
  const blank = {
    model: "a",
    outcome: "settled",
    requests: 1,
    cost: 0,
    inputTokens: 0,
    outputTokens: 0,
    paid: 0,
  } as const;
  return { ...blank, ...change };
}

function models(length: number, name = "model"): readonly Count[] {
  return Array.from({ length }, (_, index) => counted({ model: `${name}-${index}` }));
}

function totals(days: readonly DayTally[]): Readonly<Record<"requests" | "cost" | "paid", number>> {
  const tallies = days.flatMap(({ models }) =>
    Object.values(models).flatMap((outcomes) => Object.values(outcomes)),
  );
  return {
    requests: tallies.reduce((sum, tally) => sum + (tally?.[0] ?? 0), 0),
    cost: tallies.reduce((sum, tally) => sum + (tally?.[1] ?? 0), 0),
    paid: tallies.reduce((sum, tally) => sum + (tally?.[4] ?? 0), 0),
  };
}

function admitted(
  key: KeyRecord,
  cost: number,
  node: string,
  renewByMs: number,
): { readonly documents: { readonly key: KeyRecord }; readonly reservation: Reservation } {
  const outcome = allot({ key }, cost);
  if (!outcome.fits) throw new Error("does not fit");
  const amounts = outcome.shares.key;
  return {
    documents: { key: hold(key, { node, amounts }, renewByMs) },
    reservation: { ...outcome.shares, node },
  };
}
