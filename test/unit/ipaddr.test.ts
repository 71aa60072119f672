import ipaddr from "ipaddr.js";
import { describe, expect, it } from "vitest";

/*
 * A canary. `src/address.ts` stands in front of ipaddr.js and hands on only what it reads as everybody does; these are
 * the answers it builds on, and the loose readings it quotes when it refuses an entry. A release of ipaddr.js that
 * changes one has to be read before it is taken.
 */

it("takes groups apart as they are written", () => {
  const parts = (text: string): readonly number[] => ipaddr.IPv6.parse(text).parts;
  expect(parts("::")).toEqual([0, 0, 0, 0, 0, 0, 0, 0]);
  expect(parts("::1")).toEqual([0, 0, 0, 0, 0, 0, 0, 1]);
  expect(parts("1::")).toEqual([1, 0, 0, 0, 0, 0, 0, 0]);
  expect(parts("2001:DB8::8:800:200c:417A")).toEqual([0x2001, 0xdb8, 0, 0, 8, 0x800, 0x200c, 0x417a]);
  expect(parts("1:2:3:4:5:6:7:8")).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  expect(parts("1:2:3:4:5:6:7::")).toEqual([1, 2, 3, 4, 5, 6, 7, 0]);
  expect(parts("::2:3:4:5:6:7:8")).toEqual([0, 2, 3, 4, 5, 6, 7, 8]);
  expect(parts("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")).toEqual(Array(8).fill(0xffff));
});

describe("a mapped address", () => {
  it.each([
    ["::ffff:a00:1", true],
    ["0:0:0:0:0:ffff:a00:1", true],
    ["::FFFF:0:0", true],
    ["::a00:1", false],
    ["::fffe:a00:1", false],
    ["1::ffff:a00:1", false],
    ["64:ff9b::a00:1", false],
  ])("%s: %s", (text, isMapped) => {
    expect(ipaddr.IPv6.parse(text).isIPv4MappedAddress()).toBe(isMapped);
  });

  it("becomes the dotted quad of its last 32 bits", () => {
    expect(ipaddr.IPv6.parse("::ffff:c0a8:1").toIPv4Address().toString()).toBe("192.168.0.1");
    expect(ipaddr.IPv6.parse("::ffff:ffff:ffff").toIPv4Address().toString()).toBe("255.255.255.255");
  });
});

it.each([
  ["2001:DB8:0:0:8:800:200C:417A", "2001:db8::8:800:200c:417a"],
  ["2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"],
  ["1:0:0:2:0:0:0:3", "1:0:0:2::3"],
  ["1:0:0:2:3:0:0:4", "1::2:3:0:0:4"],
  ["0:0:0:0:0:0:0:0", "::"],
  ["fe80:0:0:0:0:0:0:1", "fe80::1"],
])("writes %s as %s", (text, canonical) => {
  expect(ipaddr.IPv6.parse(text).toRFC5952String()).toBe(canonical);
});

it.each([
  [ipaddr.IPv4, "10.0.0.1/24", "10.0.0.0"],
  [ipaddr.IPv4, "192.168.255.255/9", "192.128.0.0"],
  [ipaddr.IPv6, "2001:db8::1/32", "2001:db8::"],
  [ipaddr.IPv6, "2001:db8:ffff::/33", "2001:db8:8000::"],
  [ipaddr.IPv6, "::ffff:10.0.0.0/8", "::"],
])("begins the network of %#: %s at %s", (family, range, network) => {
  expect(`${family.networkAddressFromCIDR(range)}`).toBe(network);
});

/** What stands between us and these is `parseAddress`; the messages quote them. */
it.each([
  ["010.0.0.1", "8.0.0.1"],
  ["012.0.0.1", "10.0.0.1"],
  ["1", "0.0.0.1"],
  ["10.1", "10.0.0.1"],
  ["1.2.3", "1.2.0.3"],
  ["2130706433", "127.0.0.1"],
  ["0x7f.1", "127.0.0.1"],
  ["::10.0.0.1", "::ffff:a00:1"],
  ["::ffff:010.0.0.1", "::ffff:a00:1"],
  ["fe80::1%eth0", "fe80::1%eth0"],
])("reads %s loosely as %s", (text, meaning) => {
  expect(ipaddr.isValid(text)).toBe(true);
  expect(`${ipaddr.parse(text)}`).toBe(meaning);
});

it.each([
  "",
  " ",
  "10.0.0.256",
  "1.2.3.4.5",
  ":::",
  "1:2:3:4:5:6:7:8:9",
  "12345::",
  "g::",
  "10.0.0.1:80",
  "a.b",
])("reads nothing in %j", (text) => expect(ipaddr.isValid(text)).toBe(false));
