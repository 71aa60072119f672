/**
 * What a value has to be: gives back a copy of it, or throws a `Misfit`. For what is checked while a process starts and for
 * every document that is read, where loading and running a whole schema library would cost more than all the rest.
 */
export type Shape<T> = (value: unknown) => T;

/** Where a value is not what it has to be. */
export interface Misfit {
  readonly path: string[];
  /** What would be right; of a member that there is none of, its name and those that there are. */
  readonly expected: string | { readonly unknown: string; readonly names: readonly string[] };
  readonly received: unknown;
}

/** The shapes of all members of an object. */
export type Shapes<T> = { readonly [K in keyof T]-?: Shape<T[K]> };

export type Fitted<T> =
  | { readonly fits: true; readonly value: T }
  | { readonly fits: false; readonly misfit: Misfit };

export function fit<T>(shape: Shape<T>, value: unknown): Fitted<T> {
  try {
    return { fits: true, value: shape(value) };
  } catch (thrown) {
    if (!isMisfit(thrown)) throw thrown;
    return { fits: false, misfit: thrown };
  }
}

export function that<T>(holds: (value: unknown) => boolean, expected: string): Shape<T> {
  return (value) => {
    if (!holds(value)) throw misfit(expected, value);
    return value as T;
  };
}

export function int(
  least: number = Number.MIN_SAFE_INTEGER,
  most: number = Number.MAX_SAFE_INTEGER,
): Shape<number> {
  return that(
    (value) => Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most,
    `an integer from ${least} to ${most}`,
  );
}

/** Text of so many characters, of which more may be asked. */
export function text(
  least = 0,
  most: number = Number.POSITIVE_INFINITY,
  holds: (text: string) => boolean = () => true,
  expected: string = least === 0 ? "text" : `text of ${least} to ${most} characters`,
): Shape<string> {
  return that(
    (value) => typeof value === "string" && value.length >= least && value.length <= most && holds(value),
    expected,
  );
}

export function oneOf<const T extends string | number>(...values: readonly T[]): Shape<T> {
  return that(
    (value) => values.includes(value as T),
    `one of ${values.map((value) => JSON.stringify(value)).join(", ")}`,
  );
}

export function isFunction(value: unknown): boolean {
  return typeof value === "function";
}

export function functions<T>(...names: readonly string[]): Shape<T> {
  return that(
    (value) =>
      names.every((name) => isFunction((value as Record<string, unknown> | null | undefined)?.[name])),
    `an object with the functions ${names.join(", ")}`,
  );
}

export function optional<T>(shape: Shape<T>): Shape<T | undefined> {
  return (value) => (value === undefined ? undefined : shape(value));
}

export function orElse<T>(shape: Shape<T>, otherwise: T): Shape<T> {
  return (value) => (value === undefined ? otherwise : shape(value));
}

export function nullable<T>(shape: Shape<T>): Shape<T | null> {
  return (value) => (value === null ? null : shape(value));
}

/** Where callers are shown what was read. */
export function frozen<T>(shape: Shape<T>): Shape<T> {
  return (value) => Object.freeze(shape(value));
}

export function list<T>(
  shape: Shape<T>,
  least = 0,
  most: number = Number.POSITIVE_INFINITY,
): Shape<readonly T[]> {
  const expected = most === Number.POSITIVE_INFINITY ? "a list" : `a list of ${least} to ${most} members`;
  return (value) => {
    if (!Array.isArray(value) || value.length < least || value.length > most) throw misfit(expected, value);
    return value.map((member, at) => within(String(at), shape, member));
  };
}

/** By names that are not known before, at most so many. What is no plain object, such as a Map, keeps its entries elsewhere. */
export function entries<T>(
  shape: Shape<T>,
  most: number = Number.POSITIVE_INFINITY,
  nameShape?: Shape<string>,
  expected = "an object",
): Shape<Readonly<Record<string, T>>> {
  return (value) => {
    if (!isPlain(value)) throw misfit(expected, value);
    const names = Object.keys(value);
    if (names.length > most) throw misfit(`at most ${most.toLocaleString("en")} members`, value);
    const copy: Record<string, T> = {};
    for (const name of names) {
      // It would become the prototype of the copy.
      if (name === "__proto__") continue;
      if (nameShape !== undefined) within(name, nameShape, name);
      copy[name] = within(name, shape, value[name]);
    }
    return copy;
  };
}

/** An object with members of which those that have no shape are refused, kept as they are, or left out. */
export function object<T>(
  members: Shapes<T>,
  others: "refused" | "kept" | "dropped" = "refused",
  expected = "an object",
): Shape<T> {
  const names = Object.keys(members) as (string & keyof T)[];
  const isKnown = (name: string): boolean => Object.hasOwn(members, name);
  return (value) => {
    if (!isObject(value)) throw misfit(expected, value);
    const unknown = others === "dropped" ? [] : Object.keys(value).filter((name) => !isKnown(name));
    if (others === "refused" && unknown[0] !== undefined) throw misfit({ unknown: unknown[0], names }, value);
    const copy: Record<string, unknown> = {};
    for (const name of names) {
      const member: unknown = within(name, members[name], memberOf(value, name));
      if (member !== undefined) copy[name] = member;
    }
    for (const name of unknown) if (name !== "__proto__") copy[name] = copied(value[name]);
    return copy as T;
  };
}

/** Whatever it is. A copy of JSON has no prototypes, or somebody might take what a polluted one has for its members. */
export function copied(json: unknown): unknown {
  if (Array.isArray(json)) return json.map(copied);
  if (!isObject(json)) return json;
  const copy = Object.create(null) as Record<string, unknown>;
  for (const name of Object.keys(json)) copy[name] = copied(json[name]);
  return copy;
}

/** What an object has or inherits, but not what somebody has added to all objects. */
function memberOf(value: Readonly<Record<string, unknown>>, name: string): unknown {
  const member = value[name];
  if (Object.hasOwn(value, name)) return member;
  return member === (Object.prototype as unknown as Record<string, unknown>)[name] ? undefined : member;
}

function within<T>(name: string, shape: Shape<T>, value: unknown): T {
  try {
    return shape(value);
  } catch (thrown) {
    if (isMisfit(thrown)) thrown.path.unshift(name);
    throw thrown;
  }
}

const MISFIT = Symbol("misfit");

export function misfit(expected: Misfit["expected"], received: unknown): Misfit {
  return { [MISFIT]: true, path: [], expected, received } as Misfit;
}

function isMisfit(thrown: unknown): thrown is Misfit {
  return typeof thrown === "object" && thrown !== null && Object.hasOwn(thrown, MISFIT);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Whether it is an object that nothing but its members says anything of. */
export function isPlain(value: unknown): value is Record<string, unknown> {
  if (!isObject(value)) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}
