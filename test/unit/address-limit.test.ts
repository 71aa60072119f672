import { describe, expect, test } from "vitest";
import { parseAddress } from "../../src/address.js";
import { addressLimit } from "../../src/address-limit.js";
import { createKeystile } from "../../src/keystile.js";
import { memoryStore } from "../../src/stores/memory.js";

const MINUTE = 60_000;
const one = { requests: 1, windowMs: MINUTE };

describe("addressLimit", () => {
  test("counts each address by itself and says how long to wait", () => {
    const wait = addressLimit(one);
    expect(wait(parseAddress("192.0.2.1"), 0).waitMs).toBe(0);
    expect(wait(parseAddress("192.0.2.1"), 1_000).waitMs).toBe(59_000);
    expect(wait(parseAddress("192.0.2.2"), 1_000).waitMs).toBe(0);
    expect(wait(parseAddress("192.0.2.1"), 59_999).waitMs).toBe(1);
    expect(wait(parseAddress("192.0.2.1"), MINUTE).waitMs).toBe(0);
  });

  test.each([
    ["192.0.2.1", "::ffff:192.0.2.1", true],
    ["2001:db8:1:2::1", "2001:db8:1:2:ffff::1", true],
    ["2001:db8:1:2::1", "2001:db8:1:3::1", false],
  ])("%s and %s share a count: %s", (first, second, shared) => {
    const wait = addressLimit(one);
    wait(parseAddress(first), 0);
    expect(wait(parseAddress(second), 0).waitMs > 0).toBe(shared);
  });

  test("counts all unknown addresses as one", () => {
    const wait = addressLimit(one);
    expect([wait(undefined, 0).waitMs, wait(parseAddress("nonsense"), 0).waitMs]).toEqual([0, MINUTE]);
  });

  test("a flood of addresses resets nobody's count, and shares one", () => {
    const wait = addressLimit(one, 3);
    for (const last of [1, 2, 3]) wait(parseAddress(`192.0.2.${last}`), 0);
    expect(wait(parseAddress("192.0.2.4"), 1).waitMs).toBe(0);
    expect(wait(parseAddress("192.0.2.5"), 1).waitMs).toBe(MINUTE);
    expect(wait(parseAddress("192.0.2.1"), 1).waitMs).toBe(MINUTE - 1);
  });

  test("makes room by forgetting what has drained", () => {
    const wait = addressLimit(one, 1);
    wait(parseAddress("192.0.2.1"), 0);
    expect(wait(parseAddress("192.0.2.2"), MINUTE).waitMs).toBe(0);
    expect(wait(parseAddress("192.0.2.3"), MINUTE).waitMs).toBe(0);
    expect(wait(parseAddress("192.0.2.4"), MINUTE).waitMs).toBe(MINUTE);
  });
});

test("a request over the limit of its address is refused before anything is looked up", async () => {
  const inner = memoryStore();
  let reads = 0;
  function read(ids: readonly string[]): ReturnType<typeof inner.read> {
    reads += 1;
    return inner.read(ids);
  }
  const store = { ...inner, read };
  const gate = createKeystile({ store, addressLimit: one });
  const request = { headers: { authorization: `Bearer sk-${"x".repeat(40)}` }, address: "192.0.2.1" };
  expect(await gate.authorize(request)).toMatchObject({ refusal: { reason: "key_unknown" } });
  const before = reads;
  expect(await gate.authorize(request)).toMatchObject({
    allowed: false,
    refusal: { reason: "address_rate_limited", status: 429 },
    limits: [{ unit: "requests", limit: 1, remaining: 0 }],
  });
  expect(reads).toBe(before);
  await gate.close();
});
