import { inspect } from "node:util";
import { describe, expect, test } from "vitest";
import { newGate } from "../setup/new-gate.js";
import { newStore } from "../setup/new-store.js";

const secret = `sk-${"made1elsewhere".repeat(3)}`;
const headers = { "x-api-key": secret };

describe("a secret made elsewhere", () => {
  test("is taken over as it is, without a checksum of ours", async () => {
    const gate = newGate({ store: newStore() });
    const issued = await gate.keys.issue({ secret, quota: 1 });
    expect(issued).toMatchObject({ secret, key: { hint: "here", quota: { limit: 1 } } });
    const decision = await gate.authorize({ headers });
    expect(decision.allowed).toBe(true);
    if (decision.allowed) await decision.settle();
    expect(await gate.authorize({ headers })).toMatchObject({ refusal: { code: "quota_exceeded" } });
    await gate.close();
  });

  test("keeps its prefix when it is rotated", async () => {
    const gate = newGate({ store: newStore() });
    const account = (await gate.accounts.open()).id;
    const { key } = await gate.keys.issue({ secret: secret.replace("sk-", "sk-sub-"), account });
    expect((await gate.keys.rotate(key.id)).secret).toMatch(/^sk-sub-/);
    await gate.close();
  });

  test("belongs to one key, also under an older pepper, after a rotation and when two take it at once", async () => {
    const store = newStore();
    const old = { id: "old", secret: "an-older-pepper-of-thirty-two-characters" };
    const fresh = { id: "new", secret: "a-newer-pepper-of-thirty-two-characters!" };
    const before = newGate({ store, peppers: [old] });
    const twice = await Promise.allSettled([before.keys.issue({ secret }), before.keys.issue({ secret })]);
    expect(twice.map(({ status }) => status).toSorted()).toEqual(["fulfilled", "rejected"]);
    const { keys } = await before.keys.list();
    expect(keys).toHaveLength(1);
    await before.keys.rotate(keys[0]?.id ?? "");

    const after = newGate({ store, peppers: [fresh, old] });
    const error: unknown = await after.keys.issue({ secret }).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: "key_state" });
    expect(inspect(error)).not.toContain(secret.slice(3, 15));
    for (const gate of [before, after]) await gate.close();
  });

  test.each(["", "sk-short", `pk-${"x".repeat(40)}`, `sk-${"x".repeat(513)}`, `sk-${"x".repeat(40)} `])(
    "is refused, and not repeated, if it has not the form: %j",
    async (wrong) => {
      const gate = newGate({ store: newStore() });
      const error: unknown = await gate.keys.issue({ secret: wrong }).catch((reason: unknown) => reason);
      expect(error).toMatchObject({ code: "invalid_options" });
      if (wrong.length > 12) expect(inspect(error)).not.toContain(wrong.slice(3, 15));
      expect((await gate.keys.list()).keys).toEqual([]);
      await gate.close();
    },
  );

  test("is refused where every secret must have a checksum of ours", async () => {
    const gate = newGate({ store: newStore(), checksum: "require" });
    await expect(gate.keys.issue({ secret })).rejects.toMatchObject({ code: "invalid_options" });
    const ours = (await newGate({ store: newStore() }).keys.issue()).secret;
    await gate.keys.issue({ secret: ours });
    const decision = await gate.authorize({ headers: { "x-api-key": ours } });
    expect(decision.allowed).toBe(true);
    if (decision.allowed) await decision.void();
  });
});
