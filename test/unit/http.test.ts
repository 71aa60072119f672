import { describe, expect, test } from "vitest";
import {
  MAX_REALM_LENGTH,
  newRequestId,
  rateLimitHeaders,
  renderFault,
  renderRefusal,
  stripCredentials,
} from "../../src/http.js";
import type { LimitStatus } from "../../src/limits.js";
import { REFUSALS, type Reason, type Refusal, refuse } from "../../src/refusal.js";

const reasons = Object.keys(REFUSALS) as Reason[];
const requestId = "req_0123456789abcdef0123456789abcdef";

function render(refusal: Refusal, limits: readonly LimitStatus[] = [], realm = "api") {
  return renderRefusal({ refusal, limits }, { requestId, realm });
}

function limit(remaining: number, of: number, resetAtMs = 1_000): LimitStatus {
  return { unit: "requests", limit: of, remaining, resetAtMs };
}

describe("renderRefusal", () => {
  test.each(reasons)("%s: status, body and headers", (reason) => {
    const [status, type, code, message] = REFUSALS[reason];
    const answer = render(refuse(reason));
    expect(answer.status).toBe(status);
    expect(JSON.parse(answer.body)).toEqual({
      type: "error",
      message,
      error: {
        message,
        type,
        param: reason.startsWith("model_") ? "model" : null,
        code,
        details: { error_code: code },
      },
      request_id: requestId,
    });
    expect(answer.headers).toMatchObject({
      "Content-Type": "application/json",
      "Cache-Control": "no-store",
      "x-request-id": requestId,
      "request-id": requestId,
    });
    expect(new TextEncoder().encode(answer.body).length).toBeLessThan(2_048);
    for (const [name, value] of Object.entries(answer.headers))
      expect(`${name}: ${value}`).toMatch(/^[ -~]+$/);
  });

  test.each(reasons)("%s: what it says about trying again", (reason) => {
    const expected = {
      401: [undefined, undefined],
      402: [undefined, "false"],
      403: [undefined, "false"],
      429: ["1", undefined],
    }[REFUSALS[reason][0]];
    const { headers } = render(refuse(reason));
    expect([headers["Retry-After"], headers["x-should-retry"]]).toEqual(expected);
  });

  test.each(reasons)("%s: a challenge on 401 and nowhere else", (reason) => {
    const is401 = REFUSALS[reason][0] === 401;
    const error = reason === "credential_missing" ? "" : ', error="invalid_token"';
    const expected = is401 ? `Bearer realm="api"${error}` : undefined;
    expect(render(refuse(reason)).headers["WWW-Authenticate"]).toBe(expected);
  });

  test.each([
    [0, "1", undefined],
    [1, "1", undefined],
    [1_000, "1", undefined],
    [1_001, "2", undefined],
    [60_000, "60", undefined],
    [60_001, "61", "false"],
    [86_400_000 * 31, "2678400", "false"],
  ])("a wait of %i ms", (retryAfterMs, retryAfter, shouldRetry) => {
    const { headers } = render(refuse("rate_limited", { retryAfterMs }));
    expect([headers["Retry-After"], headers["x-should-retry"]]).toEqual([retryAfter, shouldRetry]);
  });

  test("a refusal only because others hold the rest is worth a retry", () => {
    const { headers } = render(refuse("key_quota_exhausted", { held: true }));
    expect([headers["Retry-After"], headers["x-should-retry"]]).toEqual(["1", "true"]);
    const spent = render(refuse("key_quota_exhausted", { held: false })).headers;
    expect([spent["Retry-After"], spent["x-should-retry"]]).toEqual([undefined, "false"]);
  });

  test.each([
    ["api", "api"],
    ['a "quoted\\ one"', "a quoted one"],
    ["tab\there, line\r\nx: y", "tabhere, linex: y"],
    ["Zugänge 🔑", "Zugnge "],
    ["\u007f\u0000", ""],
    ["r".repeat(MAX_REALM_LENGTH), "r".repeat(MAX_REALM_LENGTH)],
    ["r".repeat(MAX_REALM_LENGTH + 1), "r".repeat(MAX_REALM_LENGTH)],
  ])("realm %j", (realm, shown) => {
    const answer = render(refuse("credential_missing"), [], realm);
    expect(answer.headers["WWW-Authenticate"]).toBe(`Bearer realm="${shown}"`);
    expect(() => new Headers(answer.headers)).not.toThrow();
  });

  test("it carries the limits of the key", () => {
    expect(render(refuse("rate_limited"), [limit(0, 5, 1_500)]).headers).toMatchObject({
      "X-RateLimit-Limit": "5",
      "X-RateLimit-Remaining": "0",
      "X-RateLimit-Reset": "2",
    });
  });
});

test("renderFault is a 503 that says nothing about the cause", () => {
  const answer = renderFault({ requestId });
  expect(answer.status).toBe(503);
  expect(answer.headers).toEqual({
    "Content-Type": "application/json",
    "Cache-Control": "no-store",
    "x-request-id": requestId,
    "request-id": requestId,
    "Retry-After": "1",
  });
  expect(JSON.parse(answer.body)).toMatchObject({
    type: "error",
    error: { type: "server_error", code: "service_unavailable", param: null },
    request_id: requestId,
  });
});

describe("rateLimitHeaders", () => {
  test("no limits, no headers", () => {
    expect(rateLimitHeaders([])).toEqual({});
  });

  test.each([
    ["the lowest share", [limit(50, 100), limit(2, 10), limit(9, 10)], ["10", "2"]],
    ["not the lowest number", [limit(1, 1), limit(50, 100)], ["100", "50"]],
    [
      "on a tie the later reset",
      [limit(5, 10, 1_000), limit(50, 100, 9_000), limit(1, 2, 3_000)],
      ["100", "50"],
    ],
    ["a limit of 0 has nothing left", [limit(0, 10, 1_000), limit(0, 0, 2_000)], ["0", "0"]],
  ])("%s", (_, limits, [ofLimit, remaining]) => {
    expect(rateLimitHeaders(Object.freeze(limits))).toMatchObject({
      "X-RateLimit-Limit": ofLimit,
      "X-RateLimit-Remaining": remaining,
    });
  });

  test.each([
    [1_784_000_000_000, "1784000000"],
    [1_784_000_000_001, "1784000001"],
  ])("reset at %i ms", (resetAtMs, reset) => {
    expect(rateLimitHeaders([limit(1, 2, resetAtMs)])["X-RateLimit-Reset"]).toBe(reset);
  });
});

test("request ids are random and fit a header", () => {
  const ids = new Set(Array.from({ length: 1_000 }, newRequestId));
  expect(ids.size).toBe(1_000);
  for (const id of ids) expect(id).toMatch(/^req_[0-9a-f]{32}$/);
});

test("stripCredentials copies all but the two credential fields", () => {
  const headers = new Headers({ Authorization: "Bearer a", "X-API-Key": "b", accept: "*/*" });
  expect([...stripCredentials(headers)]).toEqual([["accept", "*/*"]]);
  expect([...headers.keys()]).toEqual(["accept", "authorization", "x-api-key"]);
});
