import { evaluatePolicy } from "keystile";
import { sampleKey } from "keystile/testing";
import { expect, test } from "vitest";
import { businessHours } from "./business-hours.ts";

const free = sampleKey({ metadata: { plan: "free" } });

function judge(key: typeof free, time: string) {
  return evaluatePolicy({ key }, {}, Date.parse(time), [businessHours]);
}

test.each([
  ["the last millisecond before Monday opens", "2030-01-07T08:59:59.999Z", false],
  ["Monday, as it opens", "2030-01-07T09:00:00.000Z", true],
  ["the last millisecond of Friday", "2030-01-04T16:59:59.999Z", true],
  ["Friday, as it closes", "2030-01-04T17:00:00.000Z", false],
  ["Saturday at noon", "2030-01-05T12:00:00.000Z", false],
  ["Sunday at noon", "2030-01-06T12:00:00.000Z", false],
])("a free key on %s", (_, time, allowed) => {
  const refusal = { status: 403, reason: "rule_refused", rule: "business-hours" };
  expect(judge(free, time)).toMatchObject(allowed ? { allowed } : { allowed, refusal });
});

test.each([
  ["another plan", sampleKey({ metadata: { plan: "paid" } })],
  ["no plan", sampleKey()],
])("a key of %s passes at any time", (_, key) => {
  expect(judge(key, "2030-01-06T03:00:00Z")).toEqual({ allowed: true });
});
