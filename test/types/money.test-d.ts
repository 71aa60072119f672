import { describe, expectTypeOf, test } from "vitest";
import type {
  AccountView,
  Allowed,
  Cost,
  IssuedKey,
  Keystile,
  KeystileEvent,
  Prices,
  UsageRow,
} from "../../src/index.js";
import { askForUsage, fixedPrice, sumUsage, tokenPrices } from "../../src/index.js";

declare const gate: Keystile;
declare const allowed: Allowed;
declare const rows: readonly UsageRow[];

describe("money", () => {
  test("a subscription comes with its key, unless it is told not to", async () => {
    const plan = { name: "basic", allowance: 100 };
    expectTypeOf(await gate.accounts.subscribe("id", { plan })).toExtend<
      IssuedKey & { readonly account: AccountView }
    >();
    const { account } = await gate.accounts.subscribe("id", { plan, key: null });
    expectTypeOf(account).toEqualTypeOf<AccountView>();
    // @ts-expect-error Then there is no secret.
    (await gate.accounts.subscribe("id", { plan, key: null })).secret;
    // @ts-expect-error Whose money it spends is settled.
    void gate.accounts.subscribe("id", { plan, key: { account: "other" } });
    // @ts-expect-error A plan has an allowance.
    void gate.accounts.subscribe("id", { plan: { name: "basic" } });
    // @ts-expect-error Weeks begin with the calendar, not with an anchor.
    void gate.accounts.subscribe("id", { plan, cycle: { kind: "anniversary", unit: "week" } });
  });

  test("a cost is a number, or one for each fund", () => {
    expectTypeOf<{ subscription: 3; balance: 4 }>().toExtend<Cost>();
    void allowed.settle({ subscription: 1, balance: 2 });
    // @ts-expect-error There are two funds.
    void allowed.settle({ subscription: 1 });
    // @ts-expect-error Not text.
    allowed.observe("5");
  });

  test("prices are any object with the two functions", () => {
    expectTypeOf(fixedPrice(5)).toEqualTypeOf<Prices>();
    const free: Prices = {
      estimate: () => ({ cost: 0, inputCost: 0, tokens: 0, inputTokens: 0 }),
      cost: () => 0,
    };
    expectTypeOf(free).toExtend<Prices>();
    // @ts-expect-error Models that are not on the list must have a price.
    tokenPrices({ models: {} });
  });

  test("listeners get the event they ask for", () => {
    gate.on("balance.low", (event) => {
      expectTypeOf(event.accountId).toBeString();
      expectTypeOf(event.left).toBeNumber();
      // @ts-expect-error That is of another event.
      event.fund;
    });
    gate.on("*", (event) => expectTypeOf(event).toEqualTypeOf<KeystileEvent>());
    expectTypeOf(gate.on("key.issued", () => {})).toEqualTypeOf<() => void>();
    // @ts-expect-error There is no such event.
    gate.on("balance.high", () => {});
  });

  test("sums have the members they are told by, and no other", () => {
    const [total] = sumUsage(rows, ["day", "model"]);
    expectTypeOf(total?.day).toEqualTypeOf<string | undefined>();
    // @ts-expect-error Not asked for.
    total?.outcome;
  });

  test("a body that asks for its usage is what it was", () => {
    expectTypeOf(askForUsage({ model: "x" }).body.model).toBeString();
  });
});
