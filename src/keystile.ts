import type { Accounts } from "./accounts.js";
import { alertsBetween } from "./alerts.js";
import { type Authorizer, authorizer } from "./authorizer.js";
import type { AnyRecord } from "./document-schemas.js";
import { isKey, isLedger } from "./documents.js";
import { type Events, eventHub } from "./events.js";
import { groupCommit } from "./group-commit.js";
import type { Wire } from "./http.js";
import type { Keyring } from "./keyring.js";
import { leasesOnDemand, NO_LEASES } from "./leases-on-demand.js";
import { onDemand, type Part, partOf } from "./on-demand.js";
import { type KeystileOptions, parseKeystileOptions } from "./options.js";
import { systemRuntime } from "./runtime.js";
import { secretLookup } from "./secret-lookup.js";
import type { Standings } from "./standing.js";
import { storeSession } from "./store-session.js";
import type { UsageReports } from "./usage-reports.js";

export type { Wire } from "./http.js";

/** The turnstile. One per process and store is enough; every method may be called concurrently. */
export interface Keystile {
  readonly keys: Keyring;
  readonly accounts: Accounts;
  readonly usage: UsageReports;
  readonly on: Events["on"];
  /** For guards, and for tests of listeners: tells an event to whoever listens; false if nobody does. */
  readonly emit: Events["emit"];
  /** The first of two phases: judges credential, key and address before a body is read. Faults are thrown. */
  readonly identify: Authorizer["identify"];
  /** Both phases at once. Faults are thrown. */
  readonly authorize: Authorizer["authorize"];
  /** Self-service: how a key stands, for whoever presents its secret. Faults are thrown. */
  readonly describe: Standings["describe"];
  /** How answers are put to clients. */
  readonly wire: Wire;
  /**
   * Waits until nothing is left to be stored, at most `timeoutMs` (default `storeTimeoutMs`), and tells how many
   * bookings are not known to be. For processes that may be frozen after an answer (`waitUntil`).
   */
  flush(timeoutMs?: number): Promise<number>;
  /**
   * Answers new requests with a fault, waits `drainMs` for those in flight, settles the rest at what was observed or
   * estimated, and stores it. `unwritten` counts what is not known to be stored; its holds expire as `onCrash` says.
   * The store is left open. Calling it again waits for the same end.
   */
  close(): Promise<{ readonly unwritten: number }>;
}

/**
 * Makes a turnstile in front of an API.
 *
 * @throws KeystileError `invalid_options`, naming the option, what was received and what would be right.
 */
export function createKeystile(options: KeystileOptions): Keystile {
  const settings = parseKeystileOptions(options);
  const { holdMs, storeTimeoutMs, cacheSize, drainMs, realm, codes, runtime = systemRuntime } = settings;
  const session = storeSession(settings.store, runtime, storeTimeoutMs);
  const events = eventHub();
  const commit = groupCommit({
    ...{ session, runtime, holdMs, storeTimeoutMs, cacheSize },
    nameProcess() {
      // Not before: where a gate is made beside a handler, some platforms allow neither timers nor randomness.
      cancelTick = runtime.setTimer(tick, tickMs, true);
      return Array.from(runtime.randomBytes(9), (byte) => byte.toString(36).padStart(2, "0")).join("");
    },
    thresholds: settings.thresholds,
    onWritten: (id, before, after) => tellWritten(events, id, before, after),
  });
  const secrets = secretLookup(session, cacheSize);
  const { leases: wanted } = settings;
  const leased =
    wanted === undefined
      ? NO_LEASES
      : leasesOnDemand(LEASES, ({ leases }) =>
          leases(wanted, { runtime, session, commit, rules: settings.rules, cacheSize }),
        );
  const requests = authorizer(settings, { runtime, session, commit, events, secrets, leases: leased });
  const keys = onDemand<Keyring, Management>(KEYRING, MANAGEMENT, ({ keyring }) =>
    keyring(settings, runtime, session, commit, events),
  );
  const accounts = onDemand<Accounts, Management>(ACCOUNTS, MANAGEMENT, ({ accounts }) =>
    accounts(settings, { runtime, session, commit, keys }),
  );
  const usage = onDemand<UsageReports, Management>({ query: true }, MANAGEMENT, ({ usageReports }) =>
    usageReports(session),
  );
  const { describe } = onDemand<Standings, Standing>({ describe: true }, STANDING, ({ standings }) =>
    standings(settings, { session, commit, secrets }),
  );

  // Often enough that a hold is renewed well before a third of its life is left, even if one tick is missed.
  const tickMs = Math.min(holdMs / 6, settings.requestTimeoutMs);
  let cancelTick = (): void => {};
  function tick(): void {
    requests.sweep();
    commit.renew();
    cancelTick = runtime.setTimer(tick, tickMs, true);
  }

  let closed: ReturnType<Keystile["close"]> | undefined;
  async function close(): ReturnType<Keystile["close"]> {
    await requests.drain();
    cancelTick();
    const unwritten = await flush(Math.max(drainMs, storeTimeoutMs));
    commit.letGo();
    session.rest();
    return { unwritten };
  }

  async function flush(timeoutMs: number): Promise<number> {
    await leased.close();
    return commit.flush(timeoutMs);
  }

  return {
    keys,
    accounts,
    usage,
    on: events.on,
    emit: events.emit,
    identify: requests.identify,
    authorize: requests.authorize,
    describe,
    wire: { realm, codes, rateLimitHeaders: settings.rateLimitHeaders },
    flush: (timeoutMs = storeTimeoutMs) => flush(timeoutMs),
    close: () => (closed ??= close()),
  };
}

type Management = typeof import("./management.js");
type Standing = typeof import("./standing.js");

// What no request needs, or none without leases.
const MANAGEMENT: Part<Management> = /* @__PURE__ */ partOf(() => import("./management.js"));
const STANDING: Part<Standing> = /* @__PURE__ */ partOf(() => import("./standing.js"));
const LEASES: Part<typeof import("./leases.js")> = /* @__PURE__ */ partOf(() => import("./leases.js"));

const KEYRING: Readonly<Record<keyof Keyring, true>> = {
  ...{ issue: true, get: true, list: true, update: true, disable: true, enable: true },
  ...{ revoke: true, rotate: true, purge: true },
};

const ACCOUNTS: Readonly<Record<keyof Accounts, true>> = {
  ...{ open: true, get: true, find: true, list: true, update: true, suspend: true, resume: true },
  ...{ credit: true, debit: true, subscribe: true, changePlan: true, suspendSubscription: true },
  ...{ resumeSubscription: true, cancelSubscription: true, resetCycle: true },
};

/** Tells what a write of this process has claimed: thresholds that were reached, and holds that had expired. */
function tellWritten(events: Events, id: string, before: AnyRecord, after: AnyRecord): void {
  if (!isLedger(before) || !isLedger(after)) return;
  const name = id.slice(id.indexOf(":") + 1);
  const whose = isKey(after) ? { keyId: name } : { accountId: name };
  for (const { fund, threshold, limit, left } of alertsBetween(before, after)) {
    const id = `low-${threshold}-of-${limit}`;
    if (fund === "balance") events.emit({ type: "balance.low", accountId: name, id, threshold, left });
    else events.emit({ type: "quota.low", ...whose, fund, thresholdPercent: threshold, limit, left });
  }
  if (before.collected === after.collected) return;
  for (const [node, { mode, collected: held }] of Object.entries(after.collected)) {
    if (!(node in before.collected) && Object.keys(held).length > 0)
      events.emit({ type: "hold.expired", ...whose, mode, held });
  }
}
