import { describe, expect, test } from "vitest";
import { readCredential } from "../../src/credential.js";
import { isModelAllowed } from "../../src/models.js";
import { requestedModels } from "../../src/request-models.js";

/** Requests that were once let through, or took too much, although two readers disagree about them. */
function named(url: string, contentType: string, body: string): ReturnType<typeof requestedModels> {
  const headers = contentType === "" ? {} : { "content-type": contentType };
  const method = body === "" ? "GET" : "POST";
  return requestedModels({
    method,
    url,
    headers,
    body: body === "" ? undefined : new TextEncoder().encode(body),
  });
}

const FORM = "application/x-www-form-urlencoded";

describe("requestedModels", () => {
  test("does not take JSON for a form because its type says so", () => {
    const body = '{"\\u006dodel":"claude-5","messages":[],"x":"&model=gpt-5&y"}';
    expect(named("/v1/chat/completions", FORM, body)).toBeUndefined();
  });

  test.each([
    ["a thousand fields more than there may be", `model=gpt-5${"&x=1".repeat(2_000)}`],
    ["nothing but separators", "&".repeat(1_000_000)],
    ["nothing but equal signs", `x${"=".repeat(1_000_000)}`],
  ])("gives up on a form with %s", (_, body) => {
    expect(named("/v1/chat/completions", FORM, body)).toBeUndefined();
  });

  test("knows no unquoted boundary that others cut short", () => {
    const part = (name: string, value: string) =>
      `--a=\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`;
    const body = `${part("model", "gpt-5")}--a=--\r\n`;
    expect(named("/v1/audio/transcriptions", "multipart/form-data; boundary=a=", body)).toBeUndefined();
  });

  test("reads the deployment of a realtime socket, too", () => {
    const models = named("/openai/realtime?deployment=claude-5&model=gpt-5", "", "");
    expect(models === undefined || (models.includes("claude-5") && models.includes("gpt-5"))).toBe(true);
  });

  test("does not overlook a member for its case", () => {
    const body = '{"GenerateContentRequest":{"model":"models/claude-5"}}';
    expect(named("/v1beta/models/gpt-5:countTokens", "application/json", body)).toBeUndefined();
  });

  test("gives up on more than a hundred models", () => {
    const models = (count: number) =>
      JSON.stringify({ models: Array.from({ length: count }, (_, n) => `m${n}`) });
    expect(named("/v1/chat/completions", "application/json", models(100))).toHaveLength(100);
    expect(named("/v1/chat/completions", "application/json", models(101))).toBeUndefined();
  });
});

test("a socket's credential is not freed of what HTTP does not call white space", () => {
  const field = `openai-insecure-api-key.sk-${"x".repeat(40)}`;
  const read = (text: string) => readCredential({ "sec-websocket-protocol": text }, ["websocket-protocol"]);
  expect(read(`realtime, ${field}`)).toEqual({ secret: `sk-${"x".repeat(40)}` });
  expect(read(`realtime, ${field}\u00a0`)).toMatchObject({ refusal: { reason: "credential_malformed" } });
  expect(read(`${field}${"x".repeat(1_024)}`)).toMatchObject({ refusal: { reason: "credential_malformed" } });
});

test.each([
  ["**-pro*", "x-pro-1", true],
  ["**-pro*", "a/b-pro-1", true],
  ["**-pro*", "a/b-pro/1", false],
  ["**-pro**x", "a-prox", true],
  ["**aba", "xababa", true],
  ["*ab*ab", "xab", false],
  ["**ab**ab", "xab", false],
  ["**", "", true],
])("pattern %s and %s: %s", (pattern, model, matches) => {
  expect(isModelAllowed(model, [pattern], undefined)).toBe(matches);
});
