import type { Keystile } from "keystile";

/** Something that bounds what its keys may spend together, at a price of 1 per request. */
export interface Fund {
  readonly name: string;
  readonly secrets: readonly string[];
  /** What its keys are refused with when it is used up; undefined where it has no limit. */
  readonly refusal: string | undefined;
  standing(): Promise<Standing>;
}

/** `limit`: null for none. */
export interface Standing {
  readonly limit: number | null;
  readonly used: number;
  readonly held: number;
}

/** Six keys on four funds, each of which lets through about three quarters of what its keys ask for. */
export async function openFunds({ keys, accounts }: Keystile, requests: number): Promise<readonly Fund[]> {
  const share = Math.ceil(requests / 8);

  async function ofKey(name: string, quota: number | null): Promise<Fund> {
    const { secret, key } = await keys.issue({ owner: name, quota });
    return {
      name,
      secrets: [secret],
      refusal: quota === null ? undefined : "402 quota_exceeded",
      standing: async () => sumOf([(await keys.get(key.id))?.quota]),
    };
  }

  async function ofAccount(name: string): Promise<Fund> {
    const { id } = await accounts.open({ owner: name });
    await accounts.credit(id, { id: "payment-1", amount: 3 * share });
    const issued = await Promise.all([1, 2, 3].map(() => keys.issue({ account: id })));
    return {
      name,
      secrets: issued.map(({ secret }) => secret),
      refusal: "402 insufficient_balance",
      standing: async () => sumOf([(await accounts.get(id))?.balance]),
    };
  }

  async function ofSubscription(name: string): Promise<Fund> {
    const capPerCycle = Math.floor(share / 3);
    const { id } = await accounts.open({ owner: name, payAsYouGo: { capPerCycle } });
    await accounts.credit(id, { id: "payment-1", amount: 3 * share });
    const { secret } = await accounts.subscribe(id, {
      plan: { name: "demo", allowance: share - capPerCycle },
    });
    return {
      name,
      secrets: [secret],
      refusal: "402 quota_exceeded",
      async standing() {
        const { subscription } = (await accounts.get(id)) ?? {};
        return sumOf([subscription?.quota, subscription?.payAsYouGo]);
      },
    };
  }

  return [
    await ofKey("key with quota", share),
    await ofAccount("account, 3 keys"),
    await ofSubscription("subscription"),
    await ofKey("key without limit", null),
  ];
}

function sumOf(purses: readonly (Standing | undefined)[]): Standing {
  const sum = { limit: 0 as number | null, used: 0, held: 0 };
  for (const purse of purses) {
    if (purse === undefined) throw new Error("A fund has gone.");
    sum.limit = sum.limit === null || purse.limit === null ? null : sum.limit + purse.limit;
    sum.used += purse.used;
    sum.held += purse.held;
  }
  return sum;
}
