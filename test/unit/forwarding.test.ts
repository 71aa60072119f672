import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { readCredential } from "../../src/credential.js";
import { filterModelList, stripCredentials, stripCredentialUrl } from "../../src/forwarding.js";
import { refuse } from "../../src/refusal.js";

describe("stripCredentials", () => {
  const fields = [
    ["Authorization", "Bearer a"],
    ["X-API-Key", "b"],
    ["Accept", "*/*"],
    ["api-key", "c"],
    ["x-goog-api-key", "d"],
    ["Sec-WebSocket-Protocol", "realtime, openai-insecure-api-key.e, openai-organization.o"],
    ["authorization", "Bearer second"],
  ] as const;
  const kept = [
    ["Accept", "*/*"],
    ["Sec-WebSocket-Protocol", "realtime, openai-organization.o"],
  ] as const;

  test("of fetch", () => {
    const headers = new Headers(fields.map(([name, value]): [string, string] => [name, value]));
    const before = [...headers];
    expect([...stripCredentials(headers)]).toEqual(kept.map(([name, value]) => [name.toLowerCase(), value]));
    expect([...headers]).toEqual(before);
  });

  test("of Node, raw", () => {
    expect(stripCredentials(Object.freeze(fields.flat()))).toEqual(kept.flat());
  });

  test("of Node, by name", () => {
    const headers = Object.freeze({ ...Object.fromEntries(fields), "set-cookie": ["a", "b"] });
    expect(stripCredentials(headers)).toEqual({ ...Object.fromEntries(kept), "set-cookie": ["a", "b"] });
    expect(stripCredentials({ "x-api-key": ["a", "b"], host: undefined })).toEqual({ host: undefined });
  });

  test("a subprotocol that is nothing but the key goes as a whole", () => {
    expect(stripCredentials(["sec-websocket-protocol", " openai-insecure-api-key.e"])).toEqual([]);
  });
});

describe("stripCredentialUrl", () => {
  test.each([
    ["/v1/models", "/v1/models"],
    ["/v1/models?", "/v1/models?"],
    ["/v1/models?key=sk-a", "/v1/models"],
    ["/v1/models?key", "/v1/models"],
    ["/v1/models?key=sk-a&", "/v1/models?"],
    ["/v1/models?alt=sse&key=sk-a", "/v1/models?alt=sse"],
    ["/v1/models?key=sk-a&alt=sse&key=sk-b&x=%7e+", "/v1/models?alt=sse&x=%7e+"],
    ["/v1/models?%6bey=sk-a&a=1&&b=%ZZ", "/v1/models?a=1&&b=%ZZ"],
    ["/key=a?Key=b&keys=c&my-key=d&a=key", "/key=a?Key=b&keys=c&my-key=d&a=key"],
    ["/v1??key=a&key=b?c", "/v1??key=a"],
    ["https://api.example:8443/v1?a=b c&key=sk-a", "https://api.example:8443/v1?a=b c"],
  ])("%s", (url, stripped) => {
    expect(stripCredentialUrl(url)).toBe(stripped);
  });

  test("leaves nothing that is read as a credential, and nothing else out", () => {
    const part = fc.constantFrom("key", "%6b", "k", "ey", "=", "&", "?", "#", "+", "%", "a", "sk-a");
    fc.assert(
      fc.property(fc.array(part, { maxLength: 12 }), (parts) => {
        const query = parts.join("");
        const stripped = stripCredentialUrl(`/v1?${query}`);
        const pairs = (url: string) => [...new URLSearchParams(url.slice(url.indexOf("?")))];
        expect(readCredential({}, ["query"], stripped)).toEqual({ refusal: refuse("credential_missing") });
        const others = pairs(`/v1?${query}`).filter(([name]) => name !== "key");
        expect(stripped.includes("?") ? pairs(stripped) : []).toEqual(others);
      }),
      { numRuns: 2_000 },
    );
  });
});

describe("filterModelList", () => {
  const decision = { canUseModel: (model: string) => model.startsWith("gpt-") };

  test("of OpenAI", () => {
    const list = {
      object: "list",
      data: [{ id: "gpt-5", owned_by: "a" }, { id: "claude-5" }, { id: "gpt-6" }],
    };
    const expected = { object: "list", data: [{ id: "gpt-5", owned_by: "a" }, { id: "gpt-6" }] };
    expect(filterModelList(Object.freeze(list), decision)).toEqual(expected);
  });

  test("of Anthropic, whose first and last ids name no other model", () => {
    const list = { data: [{ id: "claude-5" }, { id: "gpt-5" }], first_id: "claude-5", last_id: "gpt-5" };
    expect(filterModelList(list, decision)).toEqual({
      data: [{ id: "gpt-5" }],
      first_id: "gpt-5",
      last_id: "gpt-5",
    });
    const none = filterModelList({ data: [{ id: "claude-5" }], first_id: "claude-5" }, decision);
    expect(none).toEqual({ data: [], first_id: null, last_id: null });
  });

  test("of Gemini", () => {
    const list = { models: [{ name: "models/gpt-5" }, { name: "models/gemini" }], nextPageToken: "t" };
    expect(filterModelList(list, decision)).toEqual({
      models: [{ name: "models/gpt-5" }],
      nextPageToken: "t",
    });
  });

  test("entries that are no models are not shown, and what is no list stays as it is", () => {
    expect(filterModelList({ data: [null, 7, {}, { id: 7 }] as unknown[] }, decision)).toEqual({ data: [] });
    for (const other of [null, "text", 7, [], { error: {} }]) {
      expect(filterModelList(other, decision)).toBe(other);
    }
  });
});
