import type { Arrival, Keystile } from "../../src/index.js";

type Asked = Arrival & { readonly model?: string; readonly cost?: number };

/** A request, and why it is refused; undefined: it is not. */
export interface Scene {
  readonly refused: string | undefined;
  readonly secret: string;
  readonly ask: Partial<Asked>;
}

type Build = (gate: Keystile) => Promise<Omit<Scene, "refused">>;

const HOUR = 3_600_000;

/** Uses up whatever there is, so that the next request is one too many. */
async function use(gate: Keystile, secret: string, cost: number): Promise<void> {
  const decision = await gate.authorize({ headers: { "x-api-key": secret }, cost });
  if (!decision.allowed) throw new Error(decision.refusal.reason);
  await decision.settle(cost);
}

async function accountWith(gate: Keystile, credit: number) {
  const account = await gate.accounts.open({ owner: "o", name: `a${Math.random()}`.replace(".", "") });
  if (credit > 0) await gate.accounts.credit(account.id, { id: "first", amount: credit });
  return account.id;
}

/** One for each reason that lies in a document, each with as much as possible beside it. */
const BUILDS: Readonly<Record<string, Build>> = {
  allowed: async (gate) => {
    const accountId = await accountWith(gate, 100);
    const { secret } = await gate.keys.issue({
      ...{ account: accountId, owner: "o", name: "n", metadata: { a: "b" }, scopes: ["s"], quota: 100 },
      ...{ allowedIps: ["10.0.0.0/8"], allowedModels: ["gpt-*"], deniedModels: ["gpt-4"] },
      limits: [
        { requests: 50, windowMs: HOUR },
        { tokens: 50, windowMs: HOUR },
        { inFlight: 5 },
        { requests: 50, windowMs: HOUR, per: "model" },
      ],
    });
    return { secret, ask: { address: "10.0.0.1", model: "gpt-5", scopes: ["s"] } };
  },
  key_revoked: async (gate) => {
    const { secret, key } = await gate.keys.issue();
    await gate.keys.revoke(key.id);
    return { secret, ask: {} };
  },
  key_disabled: async (gate) => {
    const { secret, key } = await gate.keys.issue();
    await gate.keys.disable(key.id);
    return { secret, ask: {} };
  },
  key_unknown: async (gate) => {
    const { secret, key } = await gate.keys.issue();
    await gate.keys.rotate(key.id);
    return { secret, ask: {} };
  },
  account_suspended: async (gate) => {
    const accountId = await accountWith(gate, 100);
    const { secret } = await gate.keys.issue({ account: accountId });
    await gate.accounts.suspend(accountId);
    return { secret, ask: {} };
  },
  address_not_allowed: async (gate) => {
    const { secret } = await gate.keys.issue({ allowedIps: ["10.0.0.0/8", "::1"] });
    return { secret, ask: { address: "11.0.0.1" } };
  },
  scope_missing: async (gate) => {
    const { secret } = await gate.keys.issue({ scopes: ["a"] });
    return { secret, ask: { scopes: ["b"] } };
  },
  model_not_allowed: async (gate) => {
    const { secret } = await gate.keys.issue({ allowedModels: ["gpt-*"] });
    return { secret, ask: { model: "claude-5" } };
  },
  "model_not_allowed, for it is denied": async (gate) => {
    const { secret } = await gate.keys.issue({ deniedModels: ["claude-*"] });
    return { secret, ask: { model: "claude-5" } };
  },
  rate_limited: async (gate) => {
    const { secret } = await gate.keys.issue({ limits: [{ requests: 1, windowMs: HOUR }] });
    await use(gate, secret, 1);
    return { secret, ask: {} };
  },
  concurrency_limited: async (gate) => {
    const { secret } = await gate.keys.issue({ limits: [{ inFlight: 1 }] });
    await gate.authorize({ headers: { "x-api-key": secret } });
    return { secret, ask: {} };
  },
  key_quota_exhausted: async (gate) => {
    const { secret } = await gate.keys.issue({ quota: 10 });
    await use(gate, secret, 10);
    return { secret, ask: {} };
  },
  balance_exhausted: async (gate) => {
    const accountId = await accountWith(gate, 10);
    const { secret } = await gate.keys.issue({ account: accountId });
    await use(gate, secret, 10);
    return { secret, ask: {} };
  },
  subscription_exhausted: async (gate) => {
    const { secret } = await subscribed(gate, await accountWith(gate, 0));
    await use(gate, secret, 10);
    return { secret, ask: {} };
  },
  subscription_unpaid: async (gate) => {
    const accountId = await accountWith(gate, 100);
    const { secret } = await subscribed(gate, accountId);
    await gate.accounts.suspendSubscription(accountId);
    return { secret, ask: {} };
  },
  subscription_ended: async (gate) => {
    const accountId = await accountWith(gate, 100);
    const { secret } = await subscribed(gate, accountId);
    await gate.accounts.cancelSubscription(accountId, { at: "now" });
    return { secret, ask: {} };
  },
};

async function subscribed(gate: Keystile, accountId: string) {
  const plan = { name: "pro", allowance: 10 };
  const { secret } = (await gate.accounts.subscribe(accountId, {
    ...{ plan, cycle: { kind: "calendar", unit: "month", zone: "UTC" }, key: {} },
  } as never)) as unknown as { secret: string };
  return { secret };
}

export async function buildScenes(gate: Keystile): Promise<Readonly<Record<string, Scene>>> {
  const scenes: Record<string, Scene> = {};
  for (const [name, build] of Object.entries(BUILDS)) {
    const refused = name === "allowed" ? undefined : name.split(",")[0];
    scenes[name] = { refused, ...(await build(gate)) };
  }
  return scenes;
}
