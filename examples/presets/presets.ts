import type { KeystileOptions, Pepper, Runtime, Store } from "keystile";
import { memoryStore } from "keystile/memory";
import type { ManualClock } from "keystile/testing";

/*
 * Options of `createKeystile` for four situations, to start from. Each says what it is there for; what is left out
 * is right as it is by default.
 */

type Environment = Readonly<Record<string, string | undefined>>;

/** For a program on your own machine. */
export function development(): KeystileOptions {
  return {
    // Nothing to install and nothing to clean up: the keys are gone with the process.
    store: memoryStore(),
    // A key that was copied into the wrong place is recognised at sight, and production refuses it.
    prefixes: { standard: "sk-dev-", subscription: "sk-dev-sub-" },
    // The default. A made-up key is looked up and found unknown, as clients will mostly meet it.
    checksum: "off",
    // Clients and logs say which gateway it was that refused.
    realm: "development",
    // Whoever presses Ctrl+C does not want to wait for a stream.
    drainMs: 0,
  };
}

/**
 * For a service that anybody can reach.
 *
 * KEYSTILE_PEPPERS          `id:secret`, comma-separated, the one that signs first: `2030-06:…,2029-11:…`
 * KEYSTILE_TRUSTED_PROXIES  addresses and ranges of your load balancers, comma-separated; empty if there are none
 *
 * @throws Error when one of them is not set: going on without would look as if all were well.
 */
export function production(store: Store, env: Environment): KeystileOptions {
  return {
    store,
    // Without them, which are kept elsewhere, a stolen copy of the store finds nobody's secret out.
    peppers: peppersOf(env),
    // All keys were made here, so what is mistyped or made up costs no look-up.
    checksum: "require",
    // Behind a load balancer every peer is the load balancer. Only its own word on the client is believed.
    trustedProxies: listOf(env, "KEYSTILE_TRUSTED_PROXIES"),
    // Whoever found a key learns nothing of the addresses and models it is for.
    codes: "folded",
    // The one limit that holds for those without a key. Generous: a company may sit behind one address.
    addressLimit: { requests: 1_500, windowMs: 180_000 },
    // A healthy store answers in milliseconds; a client had better try again than hang for the default of 5 s.
    storeTimeoutMs: 2_000,
    // Orchestrators kill after 30 s: the rest is for writing what the last requests cost.
    drainMs: 20_000,
    // The default, said aloud: what a process that died had reserved was probably spent.
    onCrash: "charge",
  };
}

/** For tests: the clock is the only time there is, and nothing happens by chance but the secrets. */
export function testing(clock: ManualClock): KeystileOptions {
  const runtime: Runtime = {
    // Store and process go by one clock, so what is decided is exact to the millisecond.
    monotonicMs: clock.now,
    // A store that does not answer is given up in real time, however the clock stands; what is tried again after
    // a failure is tried once the clock was moved.
    setTimer(run, ms, isBackground = false) {
      const timer = setTimeout(run, ms);
      if (isBackground) timer.unref();
      return () => clearTimeout(timer);
    },
    // Spreads retries, of which a test wants none.
    random: () => 0,
    randomBytes: (size) => crypto.getRandomValues(new Uint8Array(size)),
  };
  return {
    store: memoryStore({ clock: clock.now }),
    runtime,
    // The shortest there is: a second later, what a dead process had reserved can be collected.
    holdMs: 1_000,
    // Has to be less than `holdMs`.
    storeTimeoutMs: 500,
    // A test that forgot to end a request is not to wait for it.
    drainMs: 0,
  };
}

/** For keys that take the place of another product's, in clients that know only how that one looks and is sent. */
export function thirdPartyKeys(store: Store): KeystileOptions {
  return {
    store,
    // Some clients look at the first characters and refuse what is not "theirs".
    prefixes: { standard: "key_live_", subscription: "key_plan_" },
    // Checksums are ours: keys made elsewhere have none.
    checksum: "off",
    // What the SDKs of OpenAI, Anthropic, Azure and Google send, in order of precedence. The first that is
    // there decides alone, so the list is no longer than what your clients need.
    credentials: ["bearer", "x-api-key", "api-key", "x-goog-api-key"],
    // Variants of a model share one bucket of a limit per model: "code:some-model", "some-model:free".
    modelFamily: (model) => model.replace(/^code:/, "").replace(/:free$/, ""),
  };
}

function peppersOf(env: Environment): Pepper[] {
  const peppers = listOf(env, "KEYSTILE_PEPPERS").map((entry) => {
    const [id = "", ...secret] = entry.split(":");
    return { id, secret: secret.join(":") };
  });
  // An empty list is an option of Keystile, but not one to come to by an empty variable.
  if (peppers.length === 0) throw new Error("KEYSTILE_PEPPERS is empty.");
  return peppers;
}

function listOf(env: Environment, name: string): string[] {
  const value = env[name];
  if (value === undefined) throw new Error(`${name} is not set.`);
  const entries = value.split(",").map((entry) => entry.trim());
  return entries.filter((entry) => entry !== "");
}
