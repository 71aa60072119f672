import { z } from "zod";
import { unknownName, wrongValue } from "./invalid-options.js";

type Issue = z.core.$ZodIssue;

/** As `parseOptions`, of what keys and accounts are managed by. @throws KeystileError `invalid_options` */
export function parse<S extends z.ZodType>(schema: S, value: unknown, path: string): z.infer<S> {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = plainest(parsed.error.issues);
  const at = [path, ...issue.path].map(String).join(".");
  if (issue.code === "unrecognized_keys") {
    throw unknownName(at, String(issue.keys[0]), membersAt(schema, issue.path));
  }
  throw wrongValue(at, issue.message, valueAt(value, issue.path));
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
