import { z } from "zod";
import { KeystileError } from "./errors.js";
import { noSuchName } from "./nearest-name.js";
import { redact } from "./redact.js";
import { hintOf } from "./secret.js";

type Issue = z.core.$ZodIssue;

/** @throws KeystileError `invalid_options` naming the path, what was received and what would be right. */
export function parse<S extends z.ZodType>(schema: S, value: unknown, path: string): z.infer<S> {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = plainest(parsed.error.issues);
  const at = [path, ...issue.path].map(String).join(".");
  if (issue.code === "unrecognized_keys") {
    const unknown = masked(String(issue.keys[0]));
    const problem = noSuchName(unknown, membersAt(schema, issue.path));
    throw new KeystileError("invalid_options", `${at}: ${problem}`);
  }
  throw invalid(at, `${issue.message}, received ${show(valueAt(value, issue.path), at)}`);
}

export function invalid(path: string, problem: string): KeystileError {
  return new KeystileError("invalid_options", `${path}: ${problem}.`);
}

/** The issue that helps most: a misspelt name before the name it leaves missing; inside a union, of its likeliest member. */
function plainest(issues: readonly Issue[]): Issue {
  const issue = (issues.find(({ code }) => code === "unrecognized_keys") ?? issues[0]) as Issue;
  if (issue.code !== "invalid_union") return issue;
  const [likeliest = []] = issue.errors.toSorted((a, b) => a.length - b.length);
  const isInside = likeliest.some(({ path, code }) => path.length > 0 || code === "unrecognized_keys");
  if (!isInside) return issue;
  const inner = plainest(likeliest);
  return { ...inner, path: [...issue.path, ...inner.path] };
}

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce((inner, name) => (inner as Record<PropertyKey, unknown> | undefined)?.[name], value);
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
  return redact(text)
    .replace(/[A-Za-z0-9]{32,}/g, (run) => `***${hintOf(run)}`)
    .slice(0, 64);
}

const WRAPPERS = [z.ZodOptional, z.ZodDefault, z.ZodNullable, z.ZodReadonly];

/** The names of the members that a schema has at a path. */
function membersAt(schema: unknown, path: readonly PropertyKey[]): readonly string[] {
  if (WRAPPERS.some((wrapper) => schema instanceof wrapper)) {
    return membersAt((schema as z.ZodOptional).unwrap(), path);
  }
  if (schema instanceof z.ZodUnion) return schema.options.flatMap((option) => membersAt(option, path));
  if (schema instanceof z.ZodArray) return membersAt(schema.element, path.slice(1));
  if (!(schema instanceof z.ZodObject)) return [];
  const [name, ...rest] = path;
  return name === undefined ? Object.keys(schema.shape) : membersAt(schema.shape[String(name)], rest);
}
