import { afterEach, expect, test, vi } from "vitest";
import { gathering } from "../../src/gathering.js";
import { createGuard } from "../../src/guard.js";
import { createKeystile } from "../../src/keystile.js";
import { memoryStore } from "../../src/stores/memory.js";

afterEach(() => void vi.unstubAllGlobals());

/** As a server has them: in one turn of the event loop, each in a call of its own, with a pause for promises behind it. */
function inOneTurn<T>(count: number, run: () => Promise<T>): Promise<T[]> {
  const runs = Array.from(
    { length: count },
    () => new Promise((resolve) => setImmediate(() => resolve(run()))),
  );
  return Promise.all(runs) as Promise<T[]>;
}

test("requests that come in with one turn of the event loop share a write", async () => {
  const store = memoryStore();
  const gate = createKeystile({ store, drainMs: 0 });
  const { secret } = await gate.keys.issue({ quota: 1_000 });
  const headers = { authorization: `Bearer ${secret}` };
  const guard = createGuard(gate, {});
  const ask = () =>
    guard.pass({ request: {}, method: "GET", url: "/", headers, address: undefined }, async () => ({
      bytes: undefined,
    }));
  await ask();
  const write = vi.spyOn(store, "write");
  const passed = await inOneTurn(20, ask);
  expect(passed.map(({ answer }) => answer)).toEqual(Array.from({ length: 20 }, () => undefined));
  expect(write).toHaveBeenCalledTimes(1);
  await gate.close();
});

test("who comes later waits for a turn of its own", async () => {
  const gathered = gathering();
  const first = gathered();
  expect(gathered()).toBe(first);
  await first;
  expect(gathered()).not.toBe(first);
});

test("where there is no such turn nobody waits", () => {
  vi.stubGlobal("setImmediate", undefined);
  expect(gathering()()).toBe(undefined);
});
