import { Worker } from "node:worker_threads";
import { describe, expect, test } from "vitest";

/*
 * A polluted `Object.prototype`, as a merge of JSON elsewhere in a process may leave behind, never turns a refusal into an
 * allowance. In realms of their own, because nothing else is to meet it.
 */

const NAMES: readonly string[] = [
  // What a request has, and what a decision says.
  ..."headers authorization x-api-key x-forwarded-for get method url address scopes model cost tokens".split(
    " ",
  ),
  ..."allowed refusal reason digests modelFamilies secret digest".split(" "),
  // What a key record has.
  ..."format prefix account owner policy policyVersion state expiresAtMs allowedIps allowedModels".split(" "),
  ..."deniedModels limits quota onCrash metadata secrets endsAtMs used levels level atMs nodes open held".split(
    " ",
  ),
  ..."renewByMs collected latestMs requests windowMs burst per inFlight key@0 requests/3600000".split(" "),
  // What an account has.
  ..."credited subscription plan current cycle unpaidFromMs allowance payAsYouGo closed balance@0 pays".split(
    " ",
  ),
  // Options, and what is handed about.
  ..."store rules credentials trustedProxies clientAddressHeader modelAliases addressLimit checksum".split(
    " ",
  ),
  ..."peppers runtime codes alerts needsModel name allows keyId accountId version body set documents results".split(
    " ",
  ),
  ..."written current now value done length 0 enumerable".split(" "),
];

const SHARES = 2;

interface Found {
  readonly wrong: readonly string[];
  readonly allowed: number;
}

async function tryAll(names: readonly string[]): Promise<Found> {
  const worker = new Worker(new URL("./workers/polluted.ts", import.meta.url), { workerData: { names } });
  try {
    return await new Promise((resolve, reject) => {
      worker.on("message", resolve);
      worker.on("error", reject);
      worker.on("exit", (code) => reject(new Error(`The realm ended with ${code}.`)));
    });
  } finally {
    await worker.terminate();
  }
}

describe("no name on Object.prototype lets anything in", () => {
  test.concurrent.each(Array.from({ length: SHARES }, (_, at) => at))("share %i", async (share) => {
    const names = NAMES.filter((_, at) => at % SHARES === share);
    const { wrong, allowed } = await tryAll(names);
    expect(wrong).toEqual([]);
    // Else it tries nothing.
    expect(allowed).toBeGreaterThan(names.length);
  });
});
