import { expect, test, vi } from "vitest";
import { createKeystile } from "../../src/keystile.js";
import type { Asked, Leased, Leases } from "../../src/leases.js";
import { leasesOnDemand, NO_LEASES } from "../../src/leases-on-demand.js";
import { onDemand, partOf } from "../../src/on-demand.js";
import { memoryStore } from "../../src/stores/memory.js";

interface Part {
  add(list: readonly number[], more?: { readonly by: number }): Promise<number>;
  fail(): Promise<never>;
}

const sums: Part = {
  add: async (list, more) => list.reduce((sum, one) => sum + one, more?.by ?? 0),
  fail: () => Promise.reject(new TypeError("its own")),
};

const names = { add: true, fail: true } as const;

interface Seeing {
  see(...args: unknown[]): Promise<void>;
}

test("a part is loaded once, by its first call, and called at once from then on", async () => {
  const load = vi.fn(async () => sums);
  const late = onDemand<Part, Part>(names, partOf(load), (part) => part);
  expect(load).not.toHaveBeenCalled();
  expect(await Promise.all([late.add([1]), late.add([1, 2], { by: 5 })])).toEqual([1, 8]);
  const add = vi.spyOn(sums, "add");
  void late.add([3]);
  expect(add).toHaveBeenCalledTimes(1);
  expect(load).toHaveBeenCalledTimes(1);
  await expect(late.fail()).rejects.toThrow(new TypeError("its own"));
  add.mockRestore();
});

test("a part that cannot be loaded is a fault, and tried again by the next call", async () => {
  const offline = new Error("offline");
  const load = vi.fn(async () => sums).mockRejectedValueOnce(offline);
  const late = onDemand<Part, Part>(names, partOf(load), (part) => part);
  const calls = [late.add([1]), late.add([2])].map((call) => call.catch((error: unknown) => error));
  for (const fault of await Promise.all(calls)) {
    expect(fault).toMatchObject({ code: "store_unavailable", mayHaveHappened: false, cause: offline });
  }
  expect(await late.add([1])).toBe(1);
  expect(load).toHaveBeenCalledTimes(2);
});

test("calls are begun in their order, also those made while the part arrives", async () => {
  const begun: unknown[] = [];
  const seeing: Seeing = { see: async (...args) => void begun.push(...args) };
  const part = partOf(async () => seeing);
  const late = onDemand<Seeing, Seeing>({ see: true }, part, (made) => made);
  const between = part.load().then(() => late.see(3));
  await Promise.all([late.see(1), late.see(2), between]);
  await late.see(4);
  expect(begun).toEqual([1, 2, 3, 4]);
});

test("what was given to the first call is what it was then", async () => {
  const seen: unknown[] = [];
  const seeing: Seeing = { see: async (...args) => void seen.push(...args) };
  const late = onDemand<Seeing, Seeing>(
    { see: true },
    partOf(async () => seeing),
    (part) => part,
  );
  class Own {}
  const given = { list: [{ n: 1 }], at: new Date(5), own: new Own() };
  const looped: { again?: unknown } = {};
  looped.again = looped;
  const first = late.see(given, "text", undefined, looped);
  given.list[0] = { n: 2 };
  given.list.push({ n: 3 });
  given.at.setTime(6);
  await first;
  expect(seen.slice(0, 3)).toEqual([
    { list: [{ n: 1 }], at: new Date(5), own: new Own() },
    "text",
    undefined,
  ]);
  expect((seen[0] as typeof given).own).toBe(given.own);
});

test("an entry that its owner uses again is credited as it was, also by the first calls of a process", async () => {
  const store = memoryStore();
  const { id } = await createKeystile({ store }).accounts.open();
  const gate = createKeystile({ store });
  const entry = { id: "p1", amount: 5 };
  const first = gate.accounts.credit(id, entry);
  entry.id = "p2";
  entry.amount = 7;
  const second = gate.accounts.credit(id, entry);
  expect([(await first).applied, (await second).applied]).toEqual([true, true]);
  expect((await gate.accounts.get(id))?.balance.limit).toBe(12);
});

test("leases that are not there yet, or cannot be, let nobody in and refuse nobody", async () => {
  const leased = { standing: {}, end: async () => {} } as unknown as Leased;
  const loaded: Leases = { ...NO_LEASES, admit: () => leased, close: vi.fn(async () => {}) };
  const load = vi.fn(async () => loaded).mockRejectedValueOnce(new Error("offline"));
  const part = partOf(load);
  const late = leasesOnDemand(part, (leases) => leases);
  const asked = {} as Asked;
  expect(late.admit(asked)).toBeUndefined();
  expect(await late.giveBack({ keyId: "000.a" }, 0)).toBe(false);
  await late.close();
  expect(late.admit(asked)).toBeUndefined();
  late.warm(asked);
  expect(late.admit(asked)).toBeUndefined();
  await late.close();
  expect(load).toHaveBeenCalledTimes(2);
  expect(loaded.close).toHaveBeenCalledTimes(1);
  expect(late.admit(asked)).toBe(leased);
  expect(leasesOnDemand(part, (leases) => leases).admit(asked)).toBe(leased);
});
