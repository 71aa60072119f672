import { createKeystile } from "keystile";
import { memoryStore } from "keystile/memory";
import { expect, test } from "vitest";
import { gateMetrics } from "./metrics.ts";

test("requests are counted by what became of them, and clients cannot make series", async () => {
  const gate = createKeystile({ store: memoryStore() });
  const metrics = gateMetrics(gate, ["gpt-demo"]);
  const { secret, key } = await gate.keys.issue({ quota: 30 });
  const headers = { authorization: `Bearer ${secret}` };

  for (let n = 0; n < 20; n++) await gate.authorize({ headers, model: `made-up-${n}"} 1\n` });
  for (let n = 0; n < 3; n++) await gate.authorize({ headers, model: "gpt-demo" });
  await gate.authorize({ headers, cost: 8 });
  await gate.authorize({ headers: {} });
  await gate.keys.revoke(key.id);
  gate.emit({ type: "request.judged", would: "refuse", reason: "key_unknown", status: 401 });

  const lines = (await metrics.metrics()).split("\n").filter((line) => /^\w/.test(line));
  expect(lines.toSorted()).toEqual([
    'keystile_events_total{type="key.issued"} 1',
    'keystile_events_total{type="key.revoked"} 1',
    'keystile_requests_allowed_total{model="gpt-demo"} 3',
    'keystile_requests_allowed_total{model="other"} 20',
    'keystile_requests_judged_total{would="refuse"} 1',
    'keystile_requests_refused_total{status="401",reason="credential_missing"} 1',
    'keystile_requests_refused_total{status="402",reason="key_quota_exhausted"} 1',
  ]);
});
