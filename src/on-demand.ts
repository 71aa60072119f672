import { KeystileError } from "./errors.js";
import { isPlain } from "./shapes.js";

/** Code of the package that is loaded when somebody needs it, once for all who do. */
export interface Part<M> {
  /** undefined: it is not there yet. */
  loaded(): M | undefined;
  /** @throws KeystileError `store_unavailable` when it cannot be loaded; the next call tries again */
  load(): Promise<M>;
}

export function partOf<M>(load: () => Promise<M>): Part<M> {
  let part: M | undefined;
  let loading: Promise<M> | undefined;

  async function begin(): Promise<M> {
    try {
      part = await load();
      return part;
    } catch (cause) {
      loading = undefined;
      throw new KeystileError(
        "store_unavailable",
        "A part of keystile could not be loaded. Nothing was asked of the store.",
        { cause, mayHaveHappened: false },
      );
    }
  }

  return {
    loaded: () => part,
    load() {
      loading ??= begin();
      return loading;
    },
  };
}

type Method = (...args: unknown[]) => Promise<unknown>;

/**
 * What a part of the package makes, before the part is there: the first call loads it, because most processes never make
 * one. Calls are begun in the order in which they were made, and at once as soon as the part is there.
 *
 * @param names of its methods, each of which must return a promise
 */
export function onDemand<T extends object, M>(
  names: Readonly<Record<keyof T, true>>,
  part: Part<M>,
  make: (part: M) => T,
): T {
  let made: Record<string, Method> | undefined;
  let waiting = 0;

  function call(name: string, loaded: M, args: readonly unknown[]): Promise<unknown> {
    made ??= make(loaded) as Record<string, Method>;
    return (made[name] as Method)(...args);
  }

  function method(name: string): Method {
    return (...args) => {
      const loaded = part.loaded();
      if (loaded !== undefined && waiting === 0) return call(name, loaded, args);
      waiting += 1;
      // Whoever uses one object for several calls may have changed it before the part is there.
      const given = args.map((arg) => copyOfInput(arg));
      return part.load().then(
        (late) => {
          waiting -= 1;
          return call(name, late, given);
        },
        (fault: unknown) => {
          waiting -= 1;
          throw fault;
        },
      );
    };
  }

  return Object.fromEntries(Object.keys(names).map((name) => [name, method(name)])) as T;
}

/** No input is as deep. */
const MAX_DEPTH = 8;

/** A copy of lists and plain objects; everything else is what it was, to be judged by who parses it. */
function copyOfInput(value: unknown, depth = 0): unknown {
  if (depth > MAX_DEPTH) return value;
  if (Array.isArray(value)) return value.map((member) => copyOfInput(member, depth + 1));
  if (value instanceof Date) return new Date(value);
  if (!isPlain(value)) return value;
  const copy = { ...value };
  for (const name of Object.keys(copy)) copy[name] = copyOfInput(copy[name], depth + 1);
  return copy;
}
