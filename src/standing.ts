import { subscriptionView } from "./account-view.js";
import { limitsOf } from "./decide.js";
import type { Documents } from "./documents.js";
import { KeystileError } from "./errors.js";
import type { GroupCommit } from "./group-commit.js";
import type { LimitStatus } from "./limits.js";
import type { Settings } from "./options.js";
import { evaluateArrival, isTime } from "./policy.js";
import { balanceStatus, type QuotaStatus, quotaStatus } from "./quota.js";
import { digestsOf, hasValidChecksum, isSecret, sameDigest } from "./secret.js";
import type { SecretLookup } from "./secret-lookup.js";
import { sweep } from "./settle.js";
import type { StoreSession } from "./store-session.js";
import type { SubscriptionStatus } from "./subscription.js";

/** A subscription as whoever spends it sees it. It works while `active` or `cancelled`. */
export interface SubscriptionStanding {
  readonly status: SubscriptionStatus;
  /** The name of the plan. */
  readonly plan: string;
  /** The allowance of the current cycle. */
  readonly quota: QuotaStatus;
  /** What was spent of the balance in the current cycle because the allowance was used up; absent where that is off. */
  readonly payAsYouGo?: QuotaStatus;
  /** ISO 8601; null where nothing is ever renewed. */
  readonly cycleEndsAt: string | null;
  /** When the subscription ends, or has ended; null: not foreseen. */
  readonly endsAt: string | null;
}

/**
 * A key as its holder sees it. A request passes only while `state`, `accountState` and the subscription allow it, whatever
 * `remaining` says, and within everything that has a `remaining`.
 */
export interface KeyStanding {
  readonly state: "active" | "expired";
  readonly name?: string;
  /**
   * When the secret that was presented stops working: with its key, or with the grace of a rotation, if that is earlier.
   * ISO 8601, or null for never. Of a stored value that is no time, which means expired, the year 1970.
   */
  readonly expiresAt: string | null;
  /** Absent: all. */
  readonly allowedModels?: readonly string[];
  /** Wins over `allowedModels`. */
  readonly deniedModels?: readonly string[];
  readonly scopes?: readonly string[];
  /** The limits of the key, then those that its account shares; but none per model, which depend on the model. */
  readonly limits: readonly LimitStatus[];
  /** The key's own quota; without one, that of the subscription it pays from. */
  readonly quota: QuotaStatus;
  /** Of a key whose money is an account's. */
  readonly accountState?: "active" | "suspended";
  /** Of a key that pays from a subscription; null: there is none, so no request passes. */
  readonly subscription?: SubscriptionStanding | null;
  /** The balance of the account, where the key may spend it. */
  readonly balance?: QuotaStatus;
}

/** What the holder of a secret may learn, and nobody else. */
export interface Standings {
  /**
   * How a key stands, for whoever presents its secret: what is left of it, what was used, its limits, and when they begin
   * anew. Also of a key that is expired, used up, unpaid or of a suspended account, which a guard refuses: serve it on a
   * route without a guard. `undefined` for anything else: malformed or unknown, replaced by a rotation whose grace is
   * over, disabled, revoked.
   *
   * Read freshly from the store. Consumes and writes nothing, and looks at no address: it counts against no limit, so
   * give the route one of its own. Answer `undefined` with a 401.
   *
   * @throws KeystileError on a fault, to be answered 503: `store_unavailable`, `document_invalid`, `format_newer`
   */
  describe(secret: string): Promise<KeyStanding | undefined>;
}

export function standings(
  { peppers, checksum, prefixes }: Pick<Settings, "peppers" | "checksum" | "prefixes">,
  {
    session,
    commit,
    secrets,
  }: { readonly session: StoreSession; readonly commit: GroupCommit; readonly secrets: SecretLookup },
): Standings {
  const known = Object.values(prefixes);

  async function describe(secret: string): Promise<KeyStanding | undefined> {
    if (!isSecret(secret, known) || (checksum === "require" && !hasValidChecksum(secret))) return undefined;
    const digests = digestsOf(secret, peppers);
    const subject = await secrets.find(digests);
    if (subject === undefined) return undefined;
    const documents = await commit.fetch(subject);
    if (documents !== undefined) return standingOf(documents, digests, session.now());
    // A purge takes the secret before the key, so it may have come between the two reads.
    if ((await secrets.find(digests)) === undefined) return undefined;
    throw new KeystileError("document_invalid", "A secret's key document is missing from the store.");
  }

  return { describe };
}

function standingOf(stored: Documents, digests: readonly string[], now: number): KeyStanding | undefined {
  const arrival = evaluateArrival(stored, { digests }, now);
  const reason = arrival.allowed ? undefined : arrival.refusal.reason;
  if (reason === "key_unknown" || reason === "key_revoked" || reason === "key_disabled") return undefined;

  const documents = sweep(stored, now);
  const { key, account } = documents;
  const { name, allowedModels, deniedModels, scopes } = key.policy;
  return {
    state: reason === "key_expired" ? "expired" : "active",
    ...(name !== undefined && { name }),
    expiresAt: endOf(documents, digests),
    ...(allowedModels && { allowedModels }),
    ...(deniedModels && { deniedModels }),
    ...(scopes && { scopes }),
    limits: limitsOf(key, account, [], now),
    quota: quotaStatus(documents),
    ...(account && { accountState: account.policy.state }),
    ...moneyOf(documents, now),
  };
}

/** When a secret stops working: as its key says, or earlier, if it was replaced. */
function endOf({ key }: Documents, digests: readonly string[]): string | null {
  const { expiresAtMs } = key.policy;
  const presented = key.secrets.find(({ digest }) => digests.some((one) => sameDigest(one, digest)));
  const ends = [expiresAtMs, presented?.endsAtMs ?? null].filter((end) => end !== null);
  if (ends.length === 0) return null;
  return new Date(Math.min(...ends.map((end) => (isTime(end) ? end : 0)))).toISOString();
}

/** What of the account's money the key may spend. */
function moneyOf({ key, account }: Documents, now: number): Pick<KeyStanding, "subscription" | "balance"> {
  if (key.account === undefined || account === undefined) return {};
  const balance = balanceStatus(account);
  if (key.account.pays === "balance") return { balance };
  const view = subscriptionView(account, now);
  if (view === undefined) return { subscription: null };
  const { status, plan, quota, payAsYouGo, currentCycle, endsAt } = view;
  const subscription = {
    ...{ status, plan: plan.name, quota },
    ...(payAsYouGo && { payAsYouGo }),
    ...{ cycleEndsAt: currentCycle.endsAt, endsAt },
  };
  return { subscription, ...(payAsYouGo && { balance }) };
}
