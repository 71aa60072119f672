import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type Answer,
  type ErrorForm,
  errorForm,
  newRequestId,
  rateLimitHeaders,
  renderFault,
  renderRefusal,
  type Wire,
} from "../../src/http.js";
import { bucketStatus, type LimitStatus, take } from "../../src/limits.js";
import { rateOf } from "../../src/rates.js";
import { REFUSALS, type Reason, type Refusal, refuse } from "../../src/refusal.js";

const reasons = Object.keys(REFUSALS) as Reason[];
const LATEST_TIME = 8_640_000_000_000_000;
const requestId = "req_0123456789abcdef0123456789abcdef";

function render(refusal: Refusal, { limits = [], form = "common", ...wire }: Rendering = {}): Answer {
  return renderRefusal(
    { refusal, limits },
    { requestId, wire: { realm: "api", codes: "full", ...wire }, form },
  );
}

interface Rendering extends Partial<Wire> {
  readonly limits?: readonly LimitStatus[];
  readonly form?: ErrorForm;
}

function limit(remaining: number, of: number, resetAtMs = 1_000): LimitStatus {
  return { unit: "requests", limit: of, remaining, resetAtMs };
}

/** A limit without a burst. */
function rate(
  unit: "requests" | "tokens",
  remaining: number,
  of: number,
  windowMs: number,
  nextInMs = 0,
): LimitStatus {
  return { unit, limit: of, remaining, resetAtMs: 1_000, windowMs, perWindow: of, nextInMs };
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
  });

  const forms: readonly ErrorForm[] = ["common", "gemini", "problem"];
  test.each(forms.flatMap((form) => reasons.map((reason) => [reason, form] as const)))(
    "%s in the %s form: a body under 2 KB, headers in printable ASCII",
    (reason, form) => {
      const details = { retryAfterMs: Number.MAX_SAFE_INTEGER, resetAtMs: LATEST_TIME, rule: "Zugänge" };
      const limits = [limit(1, 2), rate("tokens", 0, Number.MAX_SAFE_INTEGER, 2_678_400_000, 1)];
      const { body, headers } = render(refuse(reason, details), { limits, form, rateLimitHeaders: "both" });
      expect(new TextEncoder().encode(body).length).toBeLessThan(2_048);
      for (const [name, value] of Object.entries(headers)) expect(`${name}: ${value}`).toMatch(/^[ -~]+$/);
    },
  );

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

  test.each(["subscription_exhausted", "payg_cap_reached"] as const)(
    "%s: when there is more again, in the body alone",
    (reason) => {
      const refusal = refuse(reason, { resetAtMs: Date.UTC(2026, 1, 28, 23, 59, 59, 7) });
      const reset_at = "2026-02-28T23:59:59.007Z";
      const told = render(refusal);
      const untold = render(refuse(reason));
      expect(told.headers).toEqual(untold.headers);
      expect(told.headers).not.toHaveProperty("Retry-After");
      const body = JSON.parse(untold.body);
      const details = { ...body.error.details, reset_at };
      expect(JSON.parse(told.body)).toEqual({ ...body, error: { ...body.error, details } });
      const problem = JSON.parse(render(refuse(reason), { form: "problem" }).body);
      expect(JSON.parse(render(refusal, { form: "problem" }).body)).toEqual({ ...problem, reset_at });
      expect(render(refusal, { form: "gemini" })).toEqual(render(refuse(reason), { form: "gemini" }));
    },
  );

  test("the bytes of a body", () => {
    const { body } = render(refuse("subscription_exhausted", { resetAtMs: 0 }));
    const message = "What is left of the subscription's allowance does not cover the request.";
    expect(body).toBe(
      `{"type":"error","message":"${message}","error":{"message":"${message}","type":"billing_error","param":null,` +
        '"code":"quota_exceeded","details":{"error_code":"quota_exceeded","reset_at":"1970-01-01T00:00:00.000Z"}},' +
        `"request_id":"${requestId}"}`,
    );
  });

  test.each([
    [undefined, ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"]],
    ["x", ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"]],
    ["ietf", ["RateLimit-Policy", "RateLimit"]],
    [
      "both",
      ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "RateLimit-Policy", "RateLimit"],
    ],
  ] as const)("with rateLimitHeaders %s", (rateLimitHeaders, names) => {
    const wire = rateLimitHeaders === undefined ? {} : { rateLimitHeaders };
    const { headers } = render(refuse("rate_limited"), { limits: [limit(0, 5)], ...wire });
    expect(Object.keys(headers).filter((name) => name.includes("RateLimit"))).toEqual(names);
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
    ["of tokens, too", [limit(9, 10), rate("tokens", 4_000, 40_000, 60_000)], ["40000", "4000"]],
    [
      "of requests before a larger share of tokens",
      [rate("tokens", 1, 2, 60_000), limit(4, 10)],
      ["10", "4"],
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

describe("the fields of the IETF's draft", () => {
  const ietf = (limits: readonly LimitStatus[]): readonly [policies: string, services: string] => {
    const headers = rateLimitHeaders(Object.freeze(limits), "ietf");
    const { "RateLimit-Policy": policies = "", RateLimit: services = "" } = headers;
    return [policies, services];
  };
  const minute = { requests: 100, windowMs: 60_000 };

  test("no limits, no headers", () => {
    for (const which of ["x", "ietf", "both"] as const) expect(rateLimitHeaders([], which)).toEqual({});
  });

  test("both are the headers of either", () => {
    const limits = [rate("requests", 50, 100, 60_000), rate("tokens", 1, 9, 1_000)];
    const both = { ...rateLimitHeaders(limits, "x"), ...rateLimitHeaders(limits, "ietf") };
    expect(rateLimitHeaders(limits, "both")).toEqual(both);
    expect(Object.keys(both)).toHaveLength(5);
  });

  test.each<[string, LimitStatus, string, string]>([
    ["requests", rate("requests", 50, 100, 60_000), '"100-requests-60s";q=100;w=60', "r=50;t=30"],
    [
      "tokens, which are in no registry",
      rate("tokens", 99_000, 1_000_000, 86_400_000),
      '"1000000-tokens-86400s";q=1000000;qu="tokens";w=86400',
      "r=99000;t=8554",
    ],
    [
      "requests in flight, which come back nobody knows when",
      { unit: "inFlight", limit: 5, remaining: 3, resetAtMs: 1_000 },
      '"5-concurrent-requests";q=5;qu="concurrent-requests"',
      "r=3",
    ],
    ["a window in whole seconds", rate("requests", 1, 2, 1_001), '"2-requests-2s";q=2;w=2', "r=1;t=1"],
    ["a whole one", rate("requests", 100, 100, 60_000), '"100-requests-60s";q=100;w=60', "r=100;t=60"],
    ["nothing left", rate("requests", 0, 1, 60_000, 20_001), '"1-requests-60s";q=1;w=60', "r=0;t=21"],
    ["nothing left, but soon", rate("requests", 0, 1, 1_000, 0), '"1-requests-1s";q=1;w=1', "r=0;t=1"],
    [
      "a burst takes as long to come back as it does",
      { ...rate("requests", 50, 100, 60_000), perWindow: 10 },
      '"100-requests-600s";q=100;w=600',
      "r=50;t=300",
    ],
    [
      "no more than a field can hold",
      { unit: "inFlight", limit: Number.MAX_SAFE_INTEGER, remaining: 1_000_000_000_000_000, resetAtMs: 0 },
      '"999999999999999-concurrent-requests";q=999999999999999;qu="concurrent-requests"',
      "r=999999999999999",
    ],
  ])("%s", (_, status, policy, service) => {
    expect(ietf([status])).toEqual([policy, `${policy.split(";")[0]};${service}`]);
  });

  test("every limit in its order, the tightest of those that say the same", () => {
    const perModel = [40, 10, 30].map((left) => rate("tokens", left, 50, 1_000));
    expect(ietf([...perModel, rate("requests", 5, 9, 3_000), rate("requests", 1, 2, 1_000)])).toEqual([
      '"50-tokens-1s";q=50;qu="tokens";w=1, "9-requests-3s";q=9;w=3, "2-requests-1s";q=2;w=1',
      '"50-tokens-1s";r=10;t=1, "9-requests-3s";r=5;t=2, "2-requests-1s";r=1;t=1',
    ]);
  });

  const anyStatus: fc.Arbitrary<LimitStatus> = fc
    .record({
      unit: fc.constantFrom("requests" as const, "tokens" as const),
      rate: fc.integer({ min: 1, max: 3_000_000 }),
      burst: fc.integer({ min: 1, max: 3_000_000 }),
      windowMs: fc.integer({ min: 1_000, max: 2_678_400_000 }),
      percentFull: fc.nat(110),
      held: fc.nat(3_000_000),
    })
    .map(({ unit, rate: count, burst, windowMs, percentFull, held }) => {
      const limited = unit === "tokens" ? { tokens: count } : { requests: count };
      const level = Math.floor((burst * windowMs * percentFull) / 100);
      return bucketStatus(
        rateOf({ ...limited, burst, windowMs }),
        { level, atMs: 5 },
        7,
        unit === "tokens" ? held : 0,
      );
    });

  test("are structured, and name no faster pace than that of the limit", () => {
    fc.assert(
      fc.property(anyStatus, (status) => {
        const [policy, service] = ietf([status]).map(parameters);
        const { limit, remaining, windowMs = 0, perWindow = 0 } = status;
        expect(policy).toMatchObject({ q: `${limit}` });
        expect(service).toMatchObject({ r: `${remaining}` });
        const withinPace = (count: number, seconds: number): boolean =>
          seconds >= 1 && count * windowMs <= seconds * 1_000 * perWindow;
        expect(withinPace(limit, Number(policy?.["w"]))).toBe(true);
        expect(withinPace(remaining, Number(service?.["t"]))).toBe(true);
      }),
    );
  });

  test("a refused request is not told to come back before there is more", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 9_000_000 }), fc.nat(70_000), (over, later) => {
        const bucket = { level: 99 * 60_000 + over, atMs: 5_000 };
        const { waitMs } = take(rateOf(minute), bucket, later);
        fc.pre(waitMs > 0);
        const limits = [bucketStatus(rateOf(minute), bucket, later)];
        const refusal = refuse("rate_limited", { retryAfterMs: waitMs });
        const { headers } = render(refusal, { limits, rateLimitHeaders: "ietf" });
        const told = `"100-requests-60s";r=0;t=${headers["Retry-After"]}`;
        expect(headers).toMatchObject({ RateLimit: told });
      }),
    );
  });
});

test("request ids are random and fit a header", () => {
  const ids = new Set(Array.from({ length: 1_000 }, newRequestId));
  expect(ids.size).toBe(1_000);
  for (const id of ids) expect(id).toMatch(/^req_[0-9a-f]{32}$/);
});

/** The parameters of a list of one string (RFC 9651), as far as they are used here. */
function parameters(field: string): Readonly<Record<string, string>> {
  const item = /^"[ !#-[\]-~]+"((?:;[a-z]+=(?:\d{1,15}|"[a-z-]+"))+)$/.exec(field);
  return Object.fromEntries((item?.[1] ?? "").split(";").map((one) => one.split("=")));
}
