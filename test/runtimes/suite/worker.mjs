/* A Worker that is a gateway, and the cases; `SELF` is its own address, so that requests come through the platform. */
import assert from "node:assert/strict";
import { Hono } from "hono";
import { createKeystile } from "keystile";
import { keystile } from "keystile/hono";
import { memoryStore } from "keystile/memory";
import { CORE, guarded } from "./core.mjs";
import { report } from "./report.mjs";

/** One per isolate, made beside the handler, where the platform allows neither timers nor randomness. */
const gate = createKeystile({ store: memoryStore() });
const app = new Hono();
app.post("/issue", async (c) => {
  const { secret, key } = await gate.keys.issue(await c.req.json());
  return c.json({ secret, keyId: key.id });
});
app.use("/v1/*", keystile(gate, { cost: 2 }));
app.post("/v1/chat/completions", async (c) =>
  c.json({ key: c.get("keystile").key.id, ...(await c.req.json()) }),
);

const workerCases = (self) => [
  [
    "worker: requests through the platform are guarded",
    async () => {
      const { secret, keyId } = await issue(self, { quota: 5, allowedModels: ["gpt-*"] });
      await guarded((path, init) => self.fetch(`http://self${path}`, init), secret, keyId);
    },
  ],
  [
    "worker: requests at once in one isolate share its writes and spend no more than there is",
    async () => {
      const { secret } = await issue(self, { quota: 40 });
      const statuses = await Promise.all(
        Array.from({ length: 50 }, async () => {
          const headers = { "x-api-key": secret, "content-type": "application/json" };
          const answer = await self.fetch("http://self/v1/chat/completions", {
            method: "POST",
            headers,
            body: "{}",
          });
          await answer.text();
          return answer.status;
        }),
      );
      assert.deepEqual(
        [200, 402].map((status) => statuses.filter((one) => one === status).length),
        [20, 30],
      );
    },
  ],
];

async function issue(self, policy) {
  const answer = await self.fetch("http://self/issue", { method: "POST", body: JSON.stringify(policy) });
  assert.equal(answer.status, 200);
  return answer.json();
}

export default {
  fetch: app.fetch,
  async test(_controller, { SELF }) {
    assert.ok(await report([...CORE, ...workerCases(SELF)]));
  },
};
