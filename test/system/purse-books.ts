import { type AccountRecord, BALANCE_PURSE, KEY_PURSE, type KeyRecord } from "../../src/documents.js";
import { isKeystileError } from "../../src/errors.js";
import type { Keystile } from "../../src/keystile.js";
import { heldOf } from "../../src/ledger.js";
import type { Store } from "../../src/store.js";
import type { Random } from "../model/random.js";

/** A key, and where what it spends is kept: of its own quota, or of its account's balance. */
export interface Purse {
  readonly name: string;
  readonly secret: string;
  readonly document: string;
  readonly fund: typeof KEY_PURSE | typeof BALANCE_PURSE;
  readonly limit: number;
}

export interface Counts {
  readonly asked: number;
  readonly faults: number;
  readonly refused: number;
  readonly admitted: number;
}

/** What a client knows of one purse, whatever becomes of the store: enough to tell a wrong answer. */
export interface Books {
  readonly purse: Purse;
  /** One request. Resolves when it was answered; its end is awaited by `allEnded`. */
  request(keystile: Keystile, random: Random): Promise<void>;
  allEnded(): Promise<void>;
  /** The sum of what was settled and acknowledged. */
  acknowledged(): number;
  counts(): Counts;
  /** Answers that were not right. */
  readonly wrong: readonly string[];
}

const REFUSALS: Readonly<Record<Purse["fund"], string>> = {
  [KEY_PURSE]: "key_quota_exhausted",
  [BALANCE_PURSE]: "balance_exhausted",
};

export function booksOf(purse: Purse): Books {
  const wrong: string[] = [];
  const ends: Promise<void>[] = [];
  let [asked, faults, refused, admitted] = [0, 0, 0, 0];
  /** The sum of all costs that were ever asked for. */
  let begun = 0;
  /** The most that may be used and held now. What was answered with a fault may be held until it is found out. */
  let most = 0;
  let acknowledged = 0;

  async function request(keystile: Keystile, random: Random): Promise<void> {
    const cost = random.between(1, 5);
    const actual = random.chance(0.3) ? 0 : random.between(0, cost);
    const openMs = random.between(0, 60);
    const [mostBefore, begunBefore] = [most, begun];
    asked += 1;
    begun += cost;
    most += cost;
    const decision = await keystile
      .authorize({ headers: { authorization: `Bearer ${purse.secret}` }, cost })
      .catch((error: unknown) => {
        const isFault = isKeystileError(error) && error.code === "store_unavailable";
        if (!isFault) wrong.push(`${purse.name}: ${String(error)}`);
      });
    if (decision === undefined) {
      faults += 1;
      return;
    }
    if (!decision.allowed) {
      refused += 1;
      most -= cost;
      const { reason } = decision.refusal;
      const others = mostBefore + begun - begunBefore - cost;
      if (reason !== REFUSALS[purse.fund]) wrong.push(`${purse.name}: ${reason}`);
      else if (purse.limit - others >= cost)
        wrong.push(`${purse.name}: no room for ${cost} beside ${others}`);
      return;
    }
    admitted += 1;
    ends.push(
      later(openMs)
        .then(() => (actual === 0 ? decision.void() : decision.settle(actual)))
        .then(() => {
          acknowledged += actual;
          most -= cost - actual;
        }),
    );
  }

  return {
    purse,
    request,
    wrong,
    async allEnded() {
      await Promise.all(ends);
    },
    acknowledged: () => acknowledged,
    counts: () => ({ asked, faults, refused, admitted }),
  };
}

export interface Standing {
  readonly used: number;
  readonly held: number;
  readonly open: number;
}

/** What the document says, not what anybody makes of it. @throws KeystileError when the store has no answer */
export async function standingOf(store: Store, { document, fund }: Purse): Promise<Standing> {
  const { documents } = await store.read([document]);
  const record = documents[0]?.body as unknown as KeyRecord | AccountRecord | undefined;
  if (record === undefined) throw new Error(`${document} is gone.`);
  const open = Object.values(record.nodes).reduce((sum, node) => sum + node.open, 0);
  return { used: record.used[fund] ?? 0, held: heldOf(record, fund), open };
}

/** A turn of the event loop at least, because a store that refuses answers within the turn. */
function later(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
