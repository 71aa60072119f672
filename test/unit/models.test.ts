import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { KeystileError } from "../../src/errors.js";
import { checkModelPatterns, isModelAllowed, judgeModels, matchesPattern } from "../../src/models.js";

describe("matchesPattern", () => {
  test.each([
    ["gpt-4o", "gpt-4o", true],
    ["gpt-4o", "gpt-4o-mini", false],
    ["gpt-4o", "GPT-4o", false],
    ["gpt-4o", " gpt-4o", false],
    ["gpt-*", "gpt-4o", true],
    ["gpt-*", "gpt-", true],
    ["gpt-*", "gpt", false],
    ["gpt-*", "xgpt-4o", false],
    ["gpt-*", "gpt-4/o", false],
    ["gpt-**", "gpt-4/o", true],
    ["*", "gpt-4o", true],
    ["*", "", true],
    ["*", "openai/gpt-4o", false],
    ["*/*", "openai/gpt-4o", true],
    ["*/*", "a/b/c", false],
    ["**", "a/b/c", true],
    ["**", "", true],
    ["***", "a/b/c", true],
    ["****", "a/b/c", true],
    ["*/**", "a/b/c", true],
    ["**/c", "a/b/c", true],
    ["**/c", "c", false],
    ["**c", "c", true],
    ["a/**/c", "a/b/b/c", true],
    ["a/**/c", "a/c", false],
    ["openai/*", "openai/gpt-4o", true],
    ["openai/*", "openai/", true],
    ["openai/*", "openai", false],
    ["openai/*", "azure/openai/gpt-4o", false],
    ["claude-*-latest", "claude-3-5-sonnet-latest", true],
    ["claude-*-latest", "claude-latest", false],
    ["a*a", "a", false],
    ["a*a", "aa", true],
    ["*a*b*", "xxaxxbxx", true],
    ["*a*b*", "xxbxxaxx", false],
    // The first `*` must be able to give way to the `**` behind which the rest is found.
    ["**a*b", "a/a/ab", true],
    ["**/*b", "x/a/cb", true],
    ["*a**a/b", "aa/xa/b", true],
    // Nothing of regular expressions, and nothing of the richer globs.
    ["gpt-4.0", "gpt-4x0", false],
    ["gpt-?", "gpt-4", false],
    ["gpt-[45]", "gpt-4", false],
    ["{a,b}", "a", false],
    ["(a+)+$", "aaaa", false],
    ["a\\*", "a*", false],
    ["a|b", "a", false],
    ["🙂*", "🙂-1", true],
    ["*🙂", "x🙂", true],
    ["a*\n", "ab\n", true],
    ["", "", true],
    ["", "a", false],
  ])("%j and %j: %j", (pattern, model, expected) => {
    expect(matchesPattern(pattern, model)).toBe(expected);
  });

  test("agrees with the definition, tried letter by letter", () => {
    const text = (letters: string, maxLength: number): fc.Arbitrary<string> =>
      fc.array(fc.constantFrom(...letters), { maxLength }).map((all) => all.join(""));
    fc.assert(
      fc.property(text("ab/**", 8), text("ab/", 8), (pattern, model) => {
        expect(matchesPattern(pattern, model)).toBe(defined(pattern, model));
      }),
      { numRuns: 2_000 },
    );
  });

  test.each([
    ["single stars", `${"a*".repeat(127)}b`],
    ["double stars", `${"a**".repeat(85)}b`],
    ["both", `${"a**a*".repeat(51)}b`],
    ["stars alone", `${"*a".repeat(127)}b`],
  ])("%s against 10,000 characters that almost match end soon", (_, pattern) => {
    const startedAt = performance.now();
    expect(matchesPattern(pattern, "a".repeat(10_000))).toBe(false);
    expect(matchesPattern(pattern, `${"a".repeat(10_000)}b`)).toBe(true);
    // About 5 million steps; a matcher that goes back would need more than there are atoms.
    expect(performance.now() - startedAt).toBeLessThan(5_000);
  });
});

/** What a pattern means, without a thought for cost. */
function defined(pattern: string, model: string): boolean {
  if (pattern === "") return model === "";
  const stars = /^\*+/.exec(pattern)?.[0].length ?? 0;
  if (stars === 0) return pattern[0] === model[0] && defined(pattern.slice(1), model.slice(1));
  const reach = stars > 1 ? model.length : `${model}/`.indexOf("/");
  const rest = pattern.slice(stars);
  return Array.from({ length: reach + 1 }, (_, at) => model.slice(at)).some((end) => defined(rest, end));
}

describe("isModelAllowed", () => {
  test.each<[string, string[] | undefined, string[] | undefined, boolean]>([
    ["m", undefined, undefined, true],
    ["m", [], undefined, false],
    ["m", ["m"], undefined, true],
    ["m", ["n"], undefined, false],
    ["m", ["n", "m"], undefined, true],
    ["m", undefined, ["m"], false],
    ["m", undefined, ["n"], true],
    ["m", undefined, [], true],
    ["m", ["m"], ["m"], false],
    ["m", ["m"], ["*"], false],
    ["m", ["**"], ["n"], true],
    ["m", [], ["n"], false],
  ])("%j, allowed %j, denied %j: %j", (model, allowed, denied, expected) => {
    expect(isModelAllowed(model, allowed, denied)).toBe(expected);
  });

  test("a name of 512 characters is judged, a longer one is allowed by no list", () => {
    expect(isModelAllowed("m".repeat(512), ["**"], undefined)).toBe(true);
    expect(isModelAllowed("m".repeat(513), ["**"], undefined)).toBe(false);
    expect(isModelAllowed("m".repeat(513), undefined, ["n"])).toBe(false);
    expect(isModelAllowed("m".repeat(513), undefined, undefined)).toBe(true);
  });

  test("a denied pattern wins whatever is allowed; adding one never allows more", () => {
    const pattern = fc.constantFrom("a", "b", "a*", "*b", "**", "a/*", "a/b");
    const patterns = fc.array(pattern, { maxLength: 4 });
    fc.assert(
      fc.property(
        pattern,
        fc.option(patterns, { nil: undefined }),
        patterns,
        pattern,
        (model, allowed, denied, more) => {
          if (denied.some((entry) => matchesPattern(entry, model))) {
            expect(isModelAllowed(model, allowed, denied)).toBe(false);
          }
          if (isModelAllowed(model, allowed, [...denied, more])) {
            expect(isModelAllowed(model, allowed, denied)).toBe(true);
          }
        },
      ),
    );
  });
});

describe("judgeModels", () => {
  const LISTED = { allowedModels: ["claude-*"] };
  const DENIED = { deniedModels: ["gpt-*"] };

  test.each<[string, unknown, object, string | undefined]>([
    ["no lists, any model", "x", {}, undefined],
    ["no lists, none known", undefined, {}, undefined],
    ["no lists, no plain answer", [7], {}, undefined],
    ["allowed", "claude-x", LISTED, undefined],
    ["not allowed", "gpt-x", LISTED, "model_not_allowed"],
    ["denied", "gpt-x", DENIED, "model_not_allowed"],
    ["not denied", "claude-x", DENIED, undefined],
    ["a route without models", null, LISTED, undefined],
    ["a route without models, empty list", null, { allowedModels: [] }, undefined],
    ["not known", undefined, LISTED, "model_undetermined"],
    ["not known, only a denied list", undefined, DENIED, "model_undetermined"],
    ["not known, empty denied list", undefined, { deniedModels: [] }, "model_undetermined"],
    ["none named", [], LISTED, "model_undetermined"],
    ["all allowed", ["claude-x", "claude-y"], LISTED, undefined],
    ["one not allowed", ["claude-x", "gpt-x"], LISTED, "model_not_allowed"],
    ["a member that is no text", ["claude-x", 7], LISTED, "model_undetermined"],
    ["a member that is null", ["claude-x", null], LISTED, "model_undetermined"],
    ["a list in the list", [["claude-x"]], LISTED, "model_undetermined"],
    // biome-ignore lint/suspicious/noSparseArray: the hole is what is tested
    ["a hole", [, "claude-x"], LISTED, "model_undetermined"],
    ["only holes", Array(2), LISTED, "model_undetermined"],
    ["empty text", "", { allowedModels: ["**"] }, "model_undetermined"],
    ["a number", 7, LISTED, "model_undetermined"],
    ["an object", { toString: () => "claude-x" }, LISTED, "model_undetermined"],
    ["an empty list allows none", "claude-x", { allowedModels: [] }, "model_not_allowed"],
    [
      "lists present but undefined",
      undefined,
      { allowedModels: undefined, deniedModels: undefined },
      undefined,
    ],
  ])("%s", (_, models, policy, expected) => {
    expect(judgeModels(models as string, policy)).toBe(expected);
  });

  test("never throws", () => {
    fc.assert(
      fc.property(fc.anything(), (models) => {
        expect([undefined, "model_not_allowed", "model_undetermined"]).toContain(
          judgeModels(models as string, LISTED),
        );
      }),
    );
  });
});

describe("checkModelPatterns", () => {
  const many = (count: number): string[] => Array.from({ length: count }, (_, at) => `m${at}`);

  test.each([
    ["one", ["*"]],
    ["256 entries", many(256)],
    ["256 characters", ["m".repeat(256)]],
  ])("accepts %s", (_, entries) => {
    expect(() => checkModelPatterns(entries, "allowedModels")).not.toThrow();
  });

  test.each<[string, unknown, string]>([
    ["an empty list", [], "allowedModels: expected a list of 1 to 256 patterns, received 0."],
    ["257 entries", many(257), "allowedModels: expected a list of 1 to 256 patterns, received 257."],
    ["text", "gpt-*", "allowedModels: expected a list of 1 to 256 patterns, received string."],
    ["empty text", ["a", ""], "allowedModels[1]: expected 1 to 256 characters, received 0."],
    ["257 characters", ["m".repeat(257)], "allowedModels[0]: expected 1 to 256 characters, received 257."],
    ["a number", [7], "allowedModels[0]: expected text, received number."],
    ["a hole", Array(1), "allowedModels[0]: expected text, received undefined."],
  ])("refuses %s", (_, entries, message) => {
    expect(() => checkModelPatterns(entries, "allowedModels")).toThrow(
      new KeystileError("invalid_options", message),
    );
  });
});

test.each([
  ["a*b*c", "axbyc", true],
  ["a*b*c", "axb/yc", false],
  ["a***b*", "a/x/bc", true],
  ["a***b*", "a/x/b/c", false],
  ["**b*c", "bbxc", true],
  ["*a", "aa", true],
  ["*ab", "aab", true],
  ["a*ba", "aba", true],
  ["a*ba", "ab", false],
  ["x*x", "x", false],
  ["**/b*", "/b/", false],
  ["*a*", "/", false],
  ["*", "/", false],
  ["?*", "a", false],
])("the pattern %s on %s: %s", (pattern, model, matches) => {
  expect(matchesPattern(pattern, model)).toBe(matches);
});

test("a name that is none is under no list", () => {
  for (const model of [undefined, null, 7, ["a"], {}, { length: 1 }]) {
    expect(isModelAllowed(model as never, ["**"], undefined)).toBe(false);
    expect(isModelAllowed(model as never, undefined, ["b"])).toBe(false);
  }
});
