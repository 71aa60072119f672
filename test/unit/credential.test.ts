import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type CredentialSource,
  DEFAULT_SOURCES,
  type HeaderSource,
  headerValues,
  MAX_CREDENTIAL_LENGTH,
  readCredential,
} from "../../src/credential.js";

const A = `sk-${"A".repeat(48)}`;
const B = `sk-${"B".repeat(48)}`;

/** The answer in one word: the secret, or why there is none. */
function read(headers: unknown, sources?: readonly CredentialSource[]): string {
  const credential = readCredential(headers as HeaderSource, sources);
  return "secret" in credential ? credential.secret : credential.refusal.reason;
}

type Fields = readonly (readonly [name: string, value: string])[];

/** Every way a runtime may hand over the same fields. `fetch` joins repeated fields and trims blanks. */
function spellings(fields: Fields): readonly (readonly [string, unknown])[] {
  const distinct: Record<string, string[]> = Object.create(null);
  for (const [name, value] of fields) {
    const field = name.toLowerCase();
    distinct[field] = [...(distinct[field] ?? []), value];
  }
  const rawHeaders = ["Host", "localhost", ...fields.flat(), "Accept", "*/*"];
  const get = (name: string): string | null => distinct[name.toLowerCase()]?.join(", ") ?? null;
  return [
    ["rawHeaders", rawHeaders],
    ["headersDistinct", distinct],
    ["headers", Object.fromEntries(Object.entries(distinct).map(([name, all]) => [name, all.join(", ")]))],
    ["fetch", { get }],
  ];
}

const MISSING = "credential_missing";
const MALFORMED = "credential_malformed";
const AMBIGUOUS = "credential_ambiguous";

const CASES: readonly (readonly [string, Fields, string])[] = [
  ["nothing", [], MISSING],
  ["only Bearer", [["Authorization", `Bearer ${A}`]], A],
  ["only x-api-key", [["x-api-key", B]], B],
  [
    "Bearer A and x-api-key B",
    [
      ["Authorization", `Bearer ${A}`],
      ["X-Api-Key", B],
    ],
    A,
  ],
  [
    "x-api-key B before Bearer A",
    [
      ["X-Api-Key", B],
      ["Authorization", `Bearer ${A}`],
    ],
    A,
  ],
  [
    "bad Bearer and good x-api-key",
    [
      ["Authorization", "Bearer nonsense"],
      ["x-api-key", B],
    ],
    "nonsense",
  ],
  [
    "Basic and x-api-key",
    [
      ["Authorization", "Basic dTpw"],
      ["x-api-key", B],
    ],
    MALFORMED,
  ],
  [
    "empty Authorization and x-api-key",
    [
      ["Authorization", ""],
      ["x-api-key", B],
    ],
    MALFORMED,
  ],
  [
    "Bearer and nothing",
    [
      ["Authorization", "Bearer"],
      ["x-api-key", B],
    ],
    MALFORMED,
  ],
  ["Bearer and a space", [["Authorization", "Bearer "]], MALFORMED],
  ["the secret alone", [["Authorization", A]], MALFORMED],
  ["three parts", [["Authorization", `Bearer ${A} ${B}`]], MALFORMED],
  ["Bearer twice in one", [["Authorization", `Bearer Bearer ${A}`]], MALFORMED],
  ["no space", [["Authorization", `Bearer${A}`]], MALFORMED],
  ["lower case", [["authorization", `bearer ${A}`]], A],
  ["upper case", [["AUTHORIZATION", `BEARER ${A}`]], A],
  ["mixed case", [["aUtHoRiZaTiOn", `bEaReR ${A}`]], A],
  ["eight spaces", [["Authorization", `Bearer${" ".repeat(8)}${A}`]], A],
  ["nine spaces", [["Authorization", `Bearer${" ".repeat(9)}${A}`]], MALFORMED],
  ["a tab after Bearer", [["Authorization", `Bearer\t${A}`]], MALFORMED],
  ["a space and a tab", [["Authorization", `Bearer \t${A}`]], MALFORMED],
  ["NBSP after Bearer", [["Authorization", `Bearer\u00a0${A}`]], MALFORMED],
  ["NBSP after the secret", [["Authorization", `Bearer ${A}\u00a0`]], MALFORMED],
  ["a Latin-1 letter", [["x-api-key", `${A}é`]], MALFORMED],
  ["DEL", [["x-api-key", `${A}\u007f`]], MALFORMED],
  ["a control character", [["x-api-key", `${A}\u0001`]], MALFORMED],
  ["a newline", [["x-api-key", `${A}\n`]], MALFORMED],
  ["a leading space", [["Authorization", ` Bearer ${A}`]], MALFORMED],
  ["a trailing space", [["Authorization", `Bearer ${A} `]], MALFORMED],
  ["a trailing space in x-api-key", [["x-api-key", `${A} `]], MALFORMED],
  ["Bearer in x-api-key", [["x-api-key", `Bearer ${A}`]], MALFORMED],
  ["empty x-api-key", [["x-api-key", ""]], MALFORMED],
  ["a comma in Authorization", [["Authorization", `Bearer ${A},${B}`]], AMBIGUOUS],
  ["a comma in x-api-key", [["x-api-key", `${A},`]], AMBIGUOUS],
  [
    "two Authorization fields",
    [
      ["Authorization", `Bearer ${A}`],
      ["Authorization", `Bearer ${B}`],
    ],
    AMBIGUOUS,
  ],
  [
    "the same Authorization twice",
    [
      ["Authorization", `Bearer ${A}`],
      ["authorization", `Bearer ${A}`],
    ],
    AMBIGUOUS,
  ],
  [
    "two Authorization fields and x-api-key",
    [
      ["Authorization", ""],
      ["Authorization", ""],
      ["x-api-key", B],
    ],
    AMBIGUOUS,
  ],
  [
    "two x-api-key fields",
    [
      ["x-api-key", A],
      ["X-API-Key", B],
    ],
    AMBIGUOUS,
  ],
  [
    "two x-api-key fields behind a good Bearer",
    [
      ["Authorization", `Bearer ${A}`],
      ["x-api-key", B],
      ["x-api-key", B],
    ],
    A,
  ],
  [
    "sources that are off",
    [
      ["api-key", A],
      ["x-goog-api-key", A],
      ["Proxy-Authorization", `Bearer ${A}`],
    ],
    MISSING,
  ],
  ["1,024 characters", [["x-api-key", "k".repeat(1_024)]], "k".repeat(1_024)],
  ["1,025 characters", [["x-api-key", "k".repeat(1_025)]], MALFORMED],
  ["1,024 characters with Bearer", [["Authorization", `Bearer ${"k".repeat(1_017)}`]], "k".repeat(1_017)],
  ["1,025 characters with Bearer", [["Authorization", `Bearer ${"k".repeat(1_018)}`]], MALFORMED],
];

describe.each(CASES)("%s", (_, fields, expected) => {
  test.each(spellings(fields))("%s", (_name, headers) => {
    expect(read(headers)).toBe(expected);
  });
});

describe("sources", () => {
  const headers = {
    authorization: `Bearer ${A}`,
    "x-api-key": "one",
    "api-key": "two",
    "x-goog-api-key": "three",
  };

  test.each<[readonly CredentialSource[], string]>([
    [DEFAULT_SOURCES, A],
    [["x-api-key", "bearer"], "one"],
    [["api-key"], "two"],
    [["x-goog-api-key", "bearer"], "three"],
    [[], MISSING],
  ])("%j: the order is the precedence", (sources, expected) => {
    expect(read(headers, sources)).toBe(expected);
  });

  test("a broken header of a source before is not skipped", () => {
    expect(read({ ...headers, "x-api-key": "" }, ["x-api-key", "bearer"])).toBe(MALFORMED);
  });
});

describe("header sources", () => {
  test("fetch Headers", () => {
    expect(read(new Headers([["Authorization", `Bearer ${A}`]]))).toBe(A);
    expect(
      read(
        new Headers([
          ["Authorization", `Bearer ${A}`],
          ["Authorization", `Bearer ${B}`],
        ]),
      ),
    ).toBe(AMBIGUOUS);
    expect(
      read(
        new Headers([
          ["authorization", ""],
          ["x-api-key", B],
        ]),
      ),
    ).toBe(MALFORMED);
    expect(read(new Headers())).toBe(MISSING);
  });

  test("a record that holds one name in two cases has two fields", () => {
    expect(read({ Authorization: `Bearer ${A}`, authorization: `Bearer ${A}` })).toBe(AMBIGUOUS);
  });

  test("an absent value is no field, a value of another type is a malformed one", () => {
    expect(read({ authorization: undefined, "x-api-key": A })).toBe(A);
    expect(read({ authorization: [], "x-api-key": A })).toBe(A);
    expect(read({ authorization: 7, "x-api-key": A })).toBe(MALFORMED);
    expect(read({ authorization: [{ toString: () => `Bearer ${A}` }] })).toBe(MALFORMED);
    expect(read({ get: () => ({ length: 3 }) })).toBe(MALFORMED);
  });

  test("a header called get, inherited headers, and values at the place of names are not taken for anything", () => {
    expect(read({ get: "x", "x-api-key": A })).toBe(A);
    expect(read(Object.create({ "x-api-key": A }))).toBe(MISSING);
    expect(read(["x-note", "x-api-key", "x-other", A])).toBe(MISSING);
  });

  test("whatever cannot be read has no credential, and nothing is thrown", () => {
    const throwing = new Proxy({}, { get: () => expect.unreachable(), ownKeys: () => expect.unreachable() });
    const gets = { get: () => expect.unreachable() };
    for (const headers of [undefined, null, 7, `Bearer ${A}`, () => A, Symbol("h"), throwing, gets]) {
      expect(read(headers)).toBe(MISSING);
    }
    fc.assert(fc.property(fc.anything(), (headers) => typeof read(headers) === "string"));
  });

  test("nothing that was handed in is changed", () => {
    const headers = Object.freeze(["x-api-key", A]);
    expect(read(headers, Object.freeze(["x-api-key"] as const))).toBe(A);
  });
});

test("a secret is one printable word taken from the value as it stands", () => {
  const value = fc.oneof(
    fc.string({ unit: "binary" }),
    fc
      .tuple(fc.constantFrom("Bearer ", "bearer  ", "Bearer\t", ""), fc.string())
      .map((parts) => parts.join("")),
  );
  fc.assert(
    fc.property(value, (text) => {
      const answer = readCredential({ authorization: text });
      const expected = /^bearer {1,8}([!-+\--~]+)$/i.exec(text)?.[1];
      expect("secret" in answer ? answer.secret : undefined).toBe(expected);
    }),
  );
});

test.each([
  ["another scheme of six letters", { authorization: `digest ${A}` }, "credential_malformed"],
  ["another header of as many letters", ["x-api-kex", A], "credential_missing"],
  ["a name that is none before it", [7, "x", "x-api-key", A], A],
  ["nothing for a name before it", [null, "x", "x-api-key", A], A],
  ["a function with headers", Object.assign(() => {}, { "x-api-key": A }), "credential_missing"],
  ["the first printable character", { authorization: "Bearer !" }, "!"],
  ["the last printable character", { authorization: "Bearer ~" }, "~"],
  ["a space at the end", { "x-api-key": `${A} ` }, "credential_malformed"],
])("%s: %j", (_, headers, expected) => {
  expect(read(headers)).toBe(expected);
});

test.each([
  [undefined, "credential_missing"],
  ["", "credential_missing"],
  [`/v1?key=${A}`, A],
  [`/v1?x=1&key=${A}&y=2`, A],
  [`https://api.example/v1?key=${A}`, A],
  [`/v1?key=${A}&key=${A}`, "credential_ambiguous"],
  [`/v1?key=${A},${B}`, "credential_ambiguous"],
  ["/v1?key=", "credential_malformed"],
  ["/v1?Key=x", "credential_missing"],
  ["/v1?xkey=x", "credential_missing"],
  [`/key=${A}`, "credential_missing"],
  [`key=${A}`, "credential_missing"],
])("a query as in %j: %s", (url, expected) => {
  const credential = readCredential({}, ["query"], url);
  expect("secret" in credential ? credential.secret : credential.refusal.reason).toBe(expected);
  expect(readCredential({}, ["bearer", "x-api-key"], url)).toMatchObject({
    refusal: { reason: "credential_missing" },
  });
});

describe("the items of a WebSocket protocol", () => {
  const ITEM = `openai-insecure-api-key.${A}`;
  const fill = (length: number): string => `${ITEM},`.padEnd(length, "x");

  test.each([
    ["alone", ITEM, A],
    ["among others", `realtime, ${ITEM}, openai-beta.realtime-v1`, A],
    ["with blanks of both kinds on both sides", `realtime,  \t ${ITEM} \t  ,x`, A],
    ["with a blank inside", `openai-insecure-api-key. ${A}`, "credential_malformed"],
    ["twice", `${ITEM},${ITEM}`, "credential_ambiguous"],
    ["in two fields", [ITEM, ITEM], "credential_ambiguous"],
    ["in one of two fields", ["realtime", ITEM], A],
    ["behind another beginning", `x-${ITEM}`, "credential_missing"],
    ["in another case", ITEM.toUpperCase(), "credential_missing"],
    ["without a secret", "openai-insecure-api-key.", "credential_malformed"],
    ["in a field as long as may be", fill(MAX_CREDENTIAL_LENGTH), A],
    ["in a longer field", fill(MAX_CREDENTIAL_LENGTH + 1), "credential_malformed"],
    ["in a field that is no text", [7], "credential_malformed"],
  ])("%s", (_, field, expected) => {
    expect(read({ "sec-websocket-protocol": field }, ["websocket-protocol"])).toBe(expected);
    expect(read({ "sec-websocket-protocol": field })).toBe("credential_missing");
  });
});

test("all values of another header are read, whatever else is there", () => {
  const name = "x-forwarded-for";
  expect(headerValues(["X-Forwarded-For", "a", "x-other", "b", "x-forwarded-for", "c"], name)).toEqual([
    "a",
    "c",
  ]);
  expect(headerValues({ "X-Forwarded-For": ["a", 7 as never, "c"] }, name)).toEqual(["a", "c"]);
  expect(
    headerValues(
      new Headers([
        [name, "a"],
        [name, "c"],
      ]),
      name,
    ),
  ).toEqual(["a, c"]);
  expect(headerValues({}, name)).toEqual([]);
  const throwing = new Proxy({}, { ownKeys: () => expect.unreachable() });
  expect(headerValues(throwing, name)).toEqual([]);
});
