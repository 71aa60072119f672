import { describe, expect, test } from "vitest";
import {
  type Answer,
  type ErrorForm,
  errorForm,
  newRequestId,
  rateLimitHeaders,
  renderFault,
  renderRefusal,
} from "../../src/http.js";
import type { LimitStatus } from "../../src/limits.js";
import { REFUSALS, type Reason, type Refusal, refuse } from "../../src/refusal.js";

const reasons = Object.keys(REFUSALS) as Reason[];
const requestId = "req_0123456789abcdef0123456789abcdef";

function render(
  refusal: Refusal,
  { limits = [], realm = "api", codes = "full", form = "common" }: Rendering = {},
): Answer {
  return renderRefusal({ refusal, limits }, { requestId, wire: { realm, codes }, form });
}

interface Rendering {
  readonly limits?: readonly LimitStatus[];
  readonly realm?: string;
  readonly codes?: "full" | "folded";
  readonly form?: ErrorForm;
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
  ])("realm %j", (realm, shown) => {
    const answer = render(refuse("credential_missing"), { realm });
    expect(answer.headers["WWW-Authenticate"]).toBe(`Bearer realm="${shown}"`);
    expect(() => new Headers(answer.headers)).not.toThrow();
  });

  test("it carries the limits of the key", () => {
    expect(render(refuse("rate_limited"), { limits: [limit(0, 5, 1_500)] }).headers).toMatchObject({
      "X-RateLimit-Limit": "5",
      "X-RateLimit-Remaining": "0",
      "X-RateLimit-Reset": "2",
    });
  });
});

describe("folded codes", () => {
  test.each(reasons)("%s", (reason) => {
    const folded = render(refuse(reason), { codes: "folded" });
    const expected = REFUSALS[reason][0] === 403 ? refuse("rule_refused") : refuse(reason);
    expect(folded).toEqual(render(expected));
  });
});

describe("the form of an error", () => {
  test.each<[ErrorForm, string, string | undefined]>([
    ["common", "/v1/chat/completions", undefined],
    ["common", "/v1/chat/completions", "*/*"],
    ["common", "/", "application/json, application/problem+xml"],
    ["common", "/", "application/problem+jsonx"],
    ["problem", "/", "application/problem+json"],
    ["problem", "/", "application/json;q=0.5, Application/Problem+JSON;q=1"],
    ["problem", "/v1beta/models/m:generateContent", "application/json,application/problem+json"],
    ["gemini", "/v1beta/models/m:generateContent", undefined],
    ["gemini", "/v1/models/m:countTokens?alt=sse", undefined],
    ["gemini", "/v1beta/tunedModels/m:streamGenerateContent", undefined],
    ["gemini", "/google/v1beta/models/m:generateContent", undefined],
    ["common", "/v1/models/m", undefined],
    ["common", "/v1/chat?x=/v1/models/m:generateContent", undefined],
    ["common", "/v1/models/m:generateContent/operations", undefined],
  ])("%s: %s, accept %s", (form, url, accept) => {
    expect(errorForm(url, accept === undefined ? {} : { Accept: accept })).toBe(form);
  });

  test.each(reasons)("%s for Gemini", (reason) => {
    const { status, message } = refuse(reason);
    const names = { 401: "UNAUTHENTICATED", 402: "FAILED_PRECONDITION", 403: "PERMISSION_DENIED" };
    const name = status === 429 ? "RESOURCE_EXHAUSTED" : names[status];
    const answer = render(refuse(reason), { form: "gemini" });
    expect(answer).toMatchObject({ status, headers: { "Content-Type": "application/json" } });
    expect(JSON.parse(answer.body)).toEqual({ error: { code: status, message, status: name } });
  });

  test.each(reasons)("%s as problem details", (reason) => {
    const { status, code, message } = refuse(reason);
    const answer = render(refuse(reason), { form: "problem" });
    expect(answer).toMatchObject({ status, headers: { "Content-Type": "application/problem+json" } });
    expect(JSON.parse(answer.body)).toEqual({
      type: "about:blank",
      title: expect.stringMatching(/^[A-Z][A-Za-z ]+$/),
      status,
      detail: message,
      code,
      ...(reason.startsWith("model_") && { param: "model" }),
      request_id: requestId,
    });
  });

  test("of a fault", () => {
    expect(JSON.parse(renderFault({ requestId, form: "gemini" }).body).error.status).toBe("UNAVAILABLE");
    expect(JSON.parse(renderFault({ requestId, form: "problem" }).body).title).toBe("Service Unavailable");
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
