import { MAX_MODEL_LENGTH } from "./documents.js";
import { invalid } from "./invalid-options.js";

/** The part of a policy that is about models. Absent: every model, and none denied. */
export interface ModelPolicy {
  readonly allowedModels?: readonly string[] | undefined;
  readonly deniedModels?: readonly string[] | undefined;
}

/** How many patterns a list holds, and how long each may be, when a policy is written. */
export const MAX_PATTERNS = 256;
export const MAX_PATTERN_LENGTH = 256;

/**
 * Judges the models a request asks for; `undefined` means that nothing speaks against it.
 *
 * Every model named must be allowed. `null` says that the route has none, and passes. If it is not known
 * which are asked for (`undefined`, an empty list, a member that is not a string or is empty), a policy with
 * a list refuses; one without lists has no opinion. Never throws.
 */
export function judgeModels(
  models: string | readonly string[] | null | undefined,
  policy: ModelPolicy,
  mustBeKnown: boolean = hasLists(policy),
): "model_not_allowed" | "model_undetermined" | undefined {
  if (models === null || !mustBeKnown) return undefined;
  const named: readonly unknown[] = Array.isArray(models) ? models : [models];
  if (named.length === 0 || !isNames(named)) return "model_undetermined";
  const allowed = named.every((model) => isModelAllowed(model, policy.allowedModels, policy.deniedModels));
  return allowed ? undefined : "model_not_allowed";
}

/**
 * Whether one model is allowed: no denied pattern matches it, and an allowed one does.
 *
 * Patterns match whole names, case-sensitively; `*` stands for any characters but `/`, `**` for any at all.
 * No `allowed` means all, an empty one means none. Under any list, a name that is no string or is longer than
 * 512 characters is not allowed. Takes time proportional to the length of the name times that of the patterns.
 */
export function isModelAllowed(
  model: string,
  allowed: readonly string[] | undefined,
  denied: readonly string[] | undefined,
): boolean {
  if (allowed === undefined && denied === undefined) return true;
  if (typeof model !== "string" || model.length > MAX_MODEL_LENGTH) return false;
  if (denied?.some((pattern) => matchesPattern(pattern, model))) return false;
  return allowed === undefined || allowed.some((pattern) => matchesPattern(pattern, model));
}

/**
 * Checks a list of patterns that is about to be written: 1 to 256 of them, 1 to 256 characters each.
 *
 * An empty list is refused because it could mean all or none: leave it out, or disable the key.
 *
 * @throws KeystileError `invalid_options`, naming the path of the offending entry.
 */
export function checkModelPatterns(entries: unknown, path: string): asserts entries is readonly string[] {
  if (!Array.isArray(entries) || entries.length === 0 || entries.length > MAX_PATTERNS) {
    const received = Array.isArray(entries) ? `${entries.length}` : typeof entries;
    throw invalid(path, `expected a list of 1 to ${MAX_PATTERNS} patterns, received ${received}`);
  }
  for (const [at, entry] of entries.entries()) {
    if (typeof entry !== "string") throw invalid(`${path}[${at}]`, `expected text, received ${typeof entry}`);
    if (entry === "" || entry.length > MAX_PATTERN_LENGTH) {
      throw invalid(
        `${path}[${at}]`,
        `expected 1 to ${MAX_PATTERN_LENGTH} characters, received ${entry.length}`,
      );
    }
  }
}

/** Whether a pattern matches a name. Exported for its proof of cost; use `isModelAllowed`. */
export function matchesPattern(pattern: string, model: string): boolean {
  const star = pattern.indexOf("*");
  if (star === -1) return pattern === model;
  if (!model.startsWith(pattern.slice(0, star))) return false;
  // As most patterns are.
  if (star === pattern.length - 1) return !model.includes("/", star);
  const [stars, rest] = [pattern.slice(star), model.slice(star)];
  // The engine's own search tells most names apart, and decides alone where every star crosses slashes.
  if (!holdsInOrder(stars.split(/\*+/), rest)) return false;
  return !/(?<!\*)\*(?!\*)/.test(stars) || matchesTokens(tokensOf(stars), rest);
}

/** Whether a text holds these pieces one after another, the last one at its end. */
function holdsInOrder(pieces: readonly string[], text: string): boolean {
  const last = pieces.at(-1) ?? "";
  let from = 0;
  for (const piece of pieces.slice(0, -1)) {
    const found = text.indexOf(piece, from);
    if (found === -1) return false;
    from = found + piece.length;
  }
  return text.length - from >= last.length && text.endsWith(last);
}

/**
 * Reads the name once and keeps, for every beginning of the pattern, whether it matches all that was read.
 * No choice is ever taken back, so no pattern can make this slow.
 */
function matchesTokens(tokens: readonly string[], model: string): boolean {
  const matches = [true];
  for (const [at, token] of tokens.entries()) matches[at + 1] = matches[at] === true && isStar(token);
  for (const unit of model.split("")) {
    let previous = matches[0] === true;
    matches[0] = false;
    for (const [at, token] of tokens.entries()) {
      const current = matches[at + 1] === true;
      const takesUnit = token === "**" || (token === "*" && unit !== "/");
      matches[at + 1] = isStar(token)
        ? matches[at] === true || (takesUnit && current)
        : previous && token === unit;
      previous = current;
    }
  }
  return matches[tokens.length] === true;
}

/** Single code units, `*`, and `**` for any longer run of stars. */
function tokensOf(pattern: string): readonly string[] {
  return (pattern.match(/\*+|[^*]/g) ?? []).map((token) => (token.startsWith("**") ? "**" : token));
}

function isStar(token: string): boolean {
  return token.startsWith("*");
}

function hasLists({ allowedModels, deniedModels }: ModelPolicy): boolean {
  return allowedModels !== undefined || deniedModels !== undefined;
}

/** Unlike `every`, this also sees the holes of a sparse array. */
function isNames(values: readonly unknown[]): values is readonly string[] {
  for (const value of values) {
    if (typeof value !== "string" || value === "") return false;
  }
  return true;
}
