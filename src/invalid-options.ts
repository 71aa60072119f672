import { KeystileError } from "./errors.js";
import { noSuchName } from "./nearest-name.js";
import { hintOf } from "./secret.js";
import { fit, type Shape } from "./shapes.js";

/** @throws KeystileError `invalid_options` naming the path, what was received and what would be right. */
export function parseOptions<T>(shape: Shape<T>, value: unknown, path: string): T {
  const fitted = fit(shape, value);
  if (fitted.fits) return fitted.value;
  const { misfit } = fitted;
  const at = [path, ...misfit.path].join(".");
  const { expected } = misfit;
  if (typeof expected !== "string") throw unknownName(at, expected.unknown, expected.names);
  throw wrongValue(at, `expected ${expected}`, misfit.received);
}

export function invalid(path: string, problem: string): KeystileError {
  return new KeystileError("invalid_options", `${path}: ${problem}.`);
}

export function unknownName(path: string, name: string, names: readonly string[]): KeystileError {
  return new KeystileError("invalid_options", `${path}: ${noSuchName(masked(name), names)}`);
}

export function wrongValue(path: string, problem: string, received: unknown): KeystileError {
  return invalid(path, `${problem}, received ${show(received, path)}`);
}

/** What was received, short, and never a pepper or a secret. */
function show(value: unknown, at: string): string {
  if (/peppers|secret/.test(at)) return typeof value;
  if (typeof value === "string") return JSON.stringify(masked(value));
  if (typeof value === "number" || typeof value === "boolean" || value == null) return String(value);
  return Array.isArray(value) ? "a list" : typeof value;
}

/** Short, and without what may be a secret under whatever prefix: which ones are configured is not known here. */
function masked(text: string): string {
  return text.replace(/[A-Za-z0-9]{32,}/g, (run) => `***${hintOf(run)}`).slice(0, 64);
}
