import { KeystileError } from "./errors.js";
import { isPlain } from "./shapes.js";

type Method = (...args: unknown[]) => Promise<unknown>;

/**
 * A part of the package that the first call of it loads, because most processes never make one. What was loaded is called
 * at once; a part that cannot be loaded is a fault, and tried again by the next call.
 *
 * @param names of its methods, each of which must return a promise
 */
export function onDemand<P extends object>(
  names: Readonly<Record<keyof P, true>>,
  load: () => Promise<P>,
): P {
  let part: Record<string, Method> | undefined;
  let loading: Promise<P> | undefined;

  async function loaded(): Promise<Record<string, Method>> {
    loading ??= load();
    try {
      part = (await loading) as Record<string, Method>;
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

  function method(name: string): Method {
    const call = (on: Record<string, Method>, args: unknown[]) => (on[name] as Method)(...args);
    return (...args) => {
      if (part !== undefined) return call(part, args);
      // Whoever uses one object for several calls may have changed it before the part is there.
      const given = args.map((arg) => copyOfInput(arg));
      return loaded().then((on) => call(on, given));
    };
  }

  return Object.fromEntries(Object.keys(names).map((name) => [name, method(name)])) as P;
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
