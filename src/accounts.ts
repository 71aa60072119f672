import {
  type AccountInput,
  type OpenInput,
  type PlanInput,
  parseAccountName,
  parseAccountPatch,
  parseCancel,
  parseEntry,
  parseGrace,
  parseOpenInput,
  parsePlan,
  parseSubscribeInput,
  type SubscribeInput,
} from "./account-input.js";
import { newAccountRecord, newSubscription } from "./account-record.js";
import { type AccountView, accountView } from "./account-view.js";
import { claimAlerts } from "./alerts.js";
import type { Records } from "./attempt.js";
import { parseAccountRecord } from "./document-schemas.js";
import {
  type AccountRecord,
  type Amounts,
  accountDocumentId,
  FORMAT,
  recordWrite,
  type Subscription,
} from "./documents.js";
import { KeystileError } from "./errors.js";
import type { GroupCommit } from "./group-commit.js";
import { isAccountId, namedAccountId, newAccountId } from "./ids.js";
import type { IssuedKey, Keyring } from "./keyring.js";
import type { Settings } from "./options.js";
import { type IssueInput, parseListQuery, parseUpdateCondition } from "./policy-input.js";
import type { Runtime } from "./runtime.js";
import { sweepAccount } from "./settle.js";
import type { StoreSession } from "./store-session.js";
import { cycleEnd, cycleName, subscriptionStatus, withPlan, withSubscription } from "./subscription.js";

/** A credit or a debit: applied once for each `id`, however often it is asked for. */
export interface EntryInput {
  /** Yours, such as that of a payment: 1 to 128 printable ASCII characters. */
  readonly id: string;
  /** An integer from 1 in your unit. */
  readonly amount: number;
}

/** What became of a credit or a debit. */
export interface Applied {
  /** False: it had been applied before. */
  readonly applied: boolean;
  readonly account: AccountView;
}

/** The key of a subscription: everything that `issue` takes, but whose money it spends. */
export type SubscriptionKeyInput = Omit<IssueInput, "account" | "kind">;

/**
 * Keeps the money that several keys share. Every method throws `KeystileError`: `invalid_options` for wrong input,
 * `account_not_found`, `account_exists`, `account_state` for what an account's state forbids, `entry_conflict`,
 * `policy_conflict`, and `store_unavailable` when it is not known whether the change happened (`mayHaveHappened` says
 * so). When a change has resolved, every process acts on it.
 */
export interface Accounts {
  /** Opens an account with a balance of 0. */
  open(input?: OpenInput): Promise<AccountView>;
  get(accountId: string): Promise<AccountView | undefined>;
  /** The account that an owner has under a name. */
  find(query: { readonly owner?: string; readonly name: string }): Promise<AccountView | undefined>;
  /** Accounts in order of their id, 1 to 1,000 a page (default 100); hand `next` in as `after` for the next page. */
  list(query?: { readonly owner?: string; readonly after?: string; readonly limit?: number }): Promise<{
    readonly accounts: readonly AccountView[];
    readonly next?: string;
    /** Ids of accounts on this page whose document is corrupt or of a newer format. */
    readonly unreadable?: readonly string[];
  }>;
  /** Changes the named terms. `ifPolicyVersion` refuses a lost update. */
  update(
    accountId: string,
    patch: AccountInput,
    condition?: { readonly ifPolicyVersion?: number },
  ): Promise<AccountView>;
  /** Refuses all keys of the account (403) until it is resumed. */
  suspend(accountId: string): Promise<AccountView>;
  resume(accountId: string): Promise<AccountView>;
  /** Adds to the balance, once per id. @throws KeystileError `entry_conflict` when the id stands for another amount */
  credit(accountId: string, entry: EntryInput): Promise<Applied>;
  /** Takes from the balance, once per id. It may become negative: a debit is a fact, as a charge-back is. */
  debit(accountId: string, entry: EntryInput): Promise<Applied>;
  /**
   * Begins a subscription, and issues its `sk-sub-` key; none with `key: null`. Keys of earlier subscriptions of the account
   * work again in either case: revoke those that should not.
   * @throws KeystileError `account_state` while there is one that has not ended
   */
  subscribe(
    accountId: string,
    input: SubscribeInput & { readonly key?: SubscriptionKeyInput },
  ): Promise<IssuedKey & { readonly account: AccountView }>;
  subscribe(
    accountId: string,
    input: SubscribeInput & { readonly key: null },
  ): Promise<{ readonly account: AccountView }>;
  subscribe(
    accountId: string,
    input: SubscribeInput & { readonly key?: SubscriptionKeyInput | null },
  ): Promise<Partial<IssuedKey> & { readonly account: AccountView }>;
  /**
   * To a plan that allows as much or more at once: the current cycle gets the part of the difference that is left of it.
   * To one that allows less with the next cycle; asking for the current plan calls that off.
   */
  changePlan(accountId: string, plan: PlanInput): Promise<AccountView>;
  /** Suspends the subscription for payment (402), after `graceMs` (0 to 365 days, default 0). */
  suspendSubscription(accountId: string, options?: { readonly graceMs?: number }): Promise<AccountView>;
  /** Marks the subscription as paid. @throws KeystileError `account_state` if there is none that has not ended */
  resumeSubscription(accountId: string): Promise<AccountView>;
  /** Ends the subscription with its current cycle (`period_end`, the default) or now. */
  cancelSubscription(
    accountId: string,
    options?: { readonly at?: "period_end" | "now" },
  ): Promise<AccountView>;
  /**
   * Counts the current cycle's allowance from zero. What requests in flight hold stays held, what processes that died were
   * charged stays charged for the hour in which they may correct it, what was paid from the balance stays paid, and the
   * cycle ends when it would have.
   */
  resetCycle(accountId: string): Promise<AccountView>;
}

type Edit = (account: AccountRecord, now: number) => AccountRecord;

export function accounts(
  settings: Settings,
  {
    runtime,
    session,
    commit,
    keys,
  }: {
    readonly runtime: Runtime;
    readonly session: StoreSession;
    readonly commit: GroupCommit;
    readonly keys: Keyring;
  },
): Accounts {
  async function open(input: OpenInput = {}): Promise<AccountView> {
    const { owner, name, policy } = parseOpenInput(input, { onCrash: settings.onCrash });
    const now = await session.freshTime();
    const accountId = newAccountId({ owner, name }, runtime.randomBytes);
    const record = newAccountRecord({ owner, policy }, now);
    const [result] = await session.write([[recordWrite(accountDocumentId(accountId), 0, record)]]);
    if (result?.written) return accountView(accountId, record, now);
    throw new KeystileError("account_exists", `There is an account "${accountId}" already.`);
  }

  async function apply(accountId: string, input: EntryInput, sign: 1 | -1): Promise<Applied> {
    const { id, amount } = parseEntry(input);
    const applied = await edited(accountId, id, ({ account, entry }, { now }) => {
      if (entry !== undefined) {
        if (entry.amount !== sign * amount) throw entryConflict(id, entry.amount, sign * amount);
        return {
          records: { account, entry },
          outcome: { applied: false, account: accountView(accountId, account, now) },
        };
      }
      const credited = account.credited + sign * amount;
      if (!Number.isSafeInteger(credited)) {
        throw new KeystileError("account_state", "The credits of an account must stay within 2^53 - 1.");
      }
      const records = {
        // A credit takes back what it makes untrue at once: what is spent in the same write comes after it.
        account: claimAlerts(account, { ...account, credited }, settings.thresholds),
        entry: { format: FORMAT, amount: sign * amount, atMs: now },
      };
      return { records, outcome: { applied: true, account: accountView(accountId, records.account, now) } };
    });
    return applied;
  }

  async function subscribe(
    accountId: string,
    { key: keyInput, ...input }: SubscribeInput & { readonly key?: SubscriptionKeyInput | null },
  ): Promise<Partial<IssuedKey> & { readonly account: AccountView }> {
    const subscription = parseSubscribeInput(input, await session.freshTime());
    assertNotSubscribed(await existing(accountId), session.now());
    // The key first: without a subscription it is good for nothing, and nobody has its secret yet.
    const issued =
      keyInput === null
        ? undefined
        : await keys.issue({ ...keyInput, account: accountId, kind: "subscription" });
    try {
      const account = await change(accountId, (record, now) => {
        assertNotSubscribed(record, now);
        return withSubscription(record, newSubscription(subscription, record.subscription, now));
      });
      // Only now there is an allowance to be shown. The subscription has begun, whether that can be read or not.
      const key = issued && (await keys.get(issued.key.id).catch(() => undefined));
      return { ...issued, ...(key && { key }), account };
    } catch (error) {
      if (issued !== undefined) await keys.revoke(issued.key.id).catch(() => {});
      throw error;
    }
  }

  function changeSubscription(
    accountId: string,
    edit: (subscription: Subscription, now: number) => Subscription,
  ): Promise<AccountView> {
    return change(accountId, (account, now) => {
      const { subscription } = account;
      const latest = Math.max(now, account.latestMs);
      if (subscription === undefined || subscriptionStatus(subscription, latest) === "ended") {
        throw new KeystileError(
          "account_state",
          `Account "${accountId}" has no subscription that has not ended.`,
        );
      }
      return { ...account, subscription: edit(subscription, latest) };
    });
  }

  /** One change of a record in its current cycle, in the same group commit as its traffic. */
  function change(accountId: string, edit: Edit): Promise<AccountView> {
    return edited(accountId, undefined, ({ account }, { now }) => {
      const before = sweepAccount(account, now);
      const after = edit(before, now);
      const record = after === before ? account : { ...after, policyVersion: account.policyVersion + 1 };
      return { records: { account: record }, outcome: accountView(accountId, record, now) };
    });
  }

  async function edited<T>(
    accountId: string,
    entryId: string | undefined,
    step: (
      records: Records & { readonly account: AccountRecord },
      moment: { readonly now: number },
    ) => { readonly records: Records; readonly outcome: T },
  ): Promise<T> {
    const outcome = isAccountId(accountId)
      ? await commit.edit({ accountId, ...(entryId !== undefined && { entryId }) }, step)
      : undefined;
    if (outcome === undefined) throw notFound(accountId);
    return outcome;
  }

  async function existing(accountId: string): Promise<AccountRecord> {
    const { account } = isAccountId(accountId) ? await commit.fetch({ accountId }) : {};
    if (account === undefined) throw notFound(accountId);
    return account;
  }

  async function get(accountId: string): Promise<AccountView | undefined> {
    const { account } = isAccountId(accountId) ? await commit.fetch({ accountId }) : {};
    return account && accountView(accountId, account, session.now());
  }

  return {
    open,
    get,
    async find(query) {
      const { owner, name } = parseAccountName(query);
      return get(namedAccountId(owner, name));
    },
    async list(query = {}) {
      const page = parseListQuery(query);
      const now = await session.freshTime();
      const { documents, next } = await session.list({
        kind: "account",
        limit: page.limit,
        ...(page.owner !== undefined && { owner: page.owner }),
        ...(page.after !== undefined && { after: page.after }),
      });
      const views: AccountView[] = [];
      const unreadable: string[] = [];
      for (const document of documents) {
        const id = document.id.slice("account:".length);
        try {
          views.push(accountView(id, parseAccountRecord(document), now));
        } catch {
          unreadable.push(id);
        }
      }
      return {
        accounts: views,
        ...(next !== undefined && { next }),
        ...(unreadable.length > 0 && { unreadable }),
      };
    },
    async update(accountId, patch, condition = {}) {
      const { ifPolicyVersion } = parseUpdateCondition(condition);
      const patched = parseAccountPatch(patch);
      return change(accountId, (account) => {
        if (ifPolicyVersion !== undefined) assertVersion(account, ifPolicyVersion);
        return { ...account, policy: patched(account.policy) };
      });
    },
    suspend: (accountId) => change(accountId, inState("suspended")),
    resume: (accountId) => change(accountId, inState("active")),
    credit: (accountId, entry) => apply(accountId, entry, 1),
    debit: (accountId, entry) => apply(accountId, entry, -1),
    subscribe: subscribe as Accounts["subscribe"],
    async changePlan(accountId, input) {
      const plan = parsePlan(input);
      return changeSubscription(accountId, (subscription, now) => withPlan(subscription, plan, now));
    },
    async suspendSubscription(accountId, options = {}) {
      const { graceMs } = parseGrace(options);
      return changeSubscription(accountId, (subscription, now) => ({
        ...subscription,
        unpaidFromMs: subscription.unpaidFromMs ?? now + graceMs,
      }));
    },
    resumeSubscription: (accountId) =>
      changeSubscription(accountId, (subscription) => ({ ...subscription, unpaidFromMs: null })),
    async cancelSubscription(accountId, options = {}) {
      const { at } = parseCancel(options);
      return changeSubscription(accountId, (subscription, now) => ({
        ...subscription,
        endsAtMs: at === "now" ? now : cycleEnd(subscription),
      }));
    },
    resetCycle: (accountId) => change(accountId, withoutUse),
  };
}

function inState(state: AccountRecord["policy"]["state"]): Edit {
  return (account) =>
    account.policy.state === state ? account : { ...account, policy: { ...account.policy, state } };
}

function withoutUse(account: AccountRecord): AccountRecord {
  const { subscription, used, collected, alerts = {} } = account;
  if (subscription === undefined) return account;
  const purse = `subscription@${cycleName(subscription)}`;
  // What processes that died were charged may still be corrected, so it stays, as what is held does.
  const charged = Object.values(collected)
    .filter(({ mode }) => mode === "charge")
    .reduce((sum, entry) => sum + (entry.collected[purse] ?? 0), 0);
  const rest = omit(used, purse);
  return {
    ...account,
    used: charged > 0 ? { ...rest, [purse]: charged } : rest,
    alerts: omit(alerts, purse),
  };
}

function omit(amounts: Amounts, purse: string): Amounts {
  const { [purse]: _, ...others } = amounts;
  return others;
}

function assertNotSubscribed(account: AccountRecord, now: number): void {
  const { subscription } = account;
  if (
    subscription === undefined ||
    subscriptionStatus(subscription, Math.max(now, account.latestMs)) === "ended"
  )
    return;
  throw new KeystileError(
    "account_state",
    "The account has a subscription. Change its plan, or cancel it before another one begins.",
  );
}

function assertVersion({ policyVersion }: AccountRecord, expected: number): void {
  if (policyVersion === expected) return;
  throw new KeystileError(
    "policy_conflict",
    `The account was changed meanwhile: expected policyVersion ${expected}, found ${policyVersion}. Read it and try again.`,
  );
}

function entryConflict(id: string, applied: number, received: number): KeystileError {
  const inWords = (amount: number): string => `a ${amount > 0 ? "credit" : "debit"} of ${Math.abs(amount)}`;
  return new KeystileError(
    "entry_conflict",
    `The entry "${id}" stands for ${inWords(applied)}, received ${inWords(received)}.`,
  );
}

/** An id is named only if it is one: what was handed in by mistake may be a secret. */
function notFound(accountId: string): KeystileError {
  return new KeystileError(
    "account_not_found",
    isAccountId(accountId) ? `There is no account "${accountId}".` : "That is no account id.",
  );
}
