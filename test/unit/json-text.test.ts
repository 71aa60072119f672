import { expect, test } from "vitest";
import type { Json } from "../../src/store.js";
import { textOfBody } from "../../src/stores/json-text.js";

const policy = { state: "active", limits: [{ requests: 1 }], none: undefined };
const secrets = [{ digest: "d" }];

const bodies: readonly Json[] = [
  null,
  "policy",
  [policy],
  {},
  { policy },
  { secrets },
  { policy, secrets },
  { format: 1, policy, secrets, used: {}, none: undefined },
  { policy: null, secrets },
  { policy: "text", secrets: 7, a: 1 },
  { policy: undefined, secrets: undefined },
  { policy, secrets, a: "}\n\u2028", ...JSON.parse('{"__proto__":{"policy":1}}') },
];

test.each(bodies.map((body) => [JSON.stringify(body), body] as const))(
  "%s, the first time and later",
  (_, body) => {
    const parsed: unknown = JSON.parse(JSON.stringify(body));
    for (const copy of [body, body]) {
      expect(JSON.parse(textOfBody(copy))).toEqual(parsed);
      expect(textOfBody(copy)).toHaveLength(JSON.stringify(body).length);
    }
  },
);

test("only the part that is another one is another text", () => {
  expect(textOfBody({ policy, a: 1 })).toBe(JSON.stringify({ a: 1, policy }));
  expect(textOfBody({ policy: { ...policy, state: "revoked" }, a: 1 })).toContain('"revoked"');
});
