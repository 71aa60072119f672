/** What the path of a request says about models. */
export interface PathModels {
  readonly names: readonly string[];
  /** Whether it calls a method of a model, as Gemini's do. */
  readonly isModelMethod: boolean;
  /** Whether it opens a realtime socket, which names its model in the query. */
  readonly isRealtime: boolean;
}

/**
 * Reads the models out of a path: `…/deployments/{model}/…` and `…/engines/{model}/…`, `…/models/{model}` and
 * `…/models/{model}:{method}`, and the same with `tunedModels`, which keeps that word before the model.
 *
 * The path is decoded once. `undefined` for one that a router may read differently: an empty or dotted segment, an
 * encoding that is broken or doubled, a backslash, semicolon or control character, a slash that is encoded anywhere
 * but in a model, more than one colon before a method, and anything after a model in `models`.
 */
export function readPath(path: string, method: string): PathModels | undefined {
  if (path !== "" && !path.startsWith("/")) return undefined;
  const segments = path.replace(/\/$/, "").split("/").slice(1).map(decodePlain);
  if (!segments.every((segment) => segment !== undefined)) return undefined;
  const words = segments.map((segment) => segment.toLowerCase());
  const isName = (at: number): boolean => COLLECTIONS.has(words[at - 1] ?? "");
  if (segments.some((segment, at) => segment.includes("/") && !isName(at))) return undefined;

  const deployed = segments.filter((_, at) => isName(at) && !isModelCollection(words[at - 1]));
  const collection = words.findIndex(isModelCollection);
  const target = collection === -1 ? undefined : segments[collection + 1];
  const isRealtime = /^GET$/i.test(method) && words.at(-1) === "realtime";
  if (target === undefined) return { names: deployed, isModelMethod: false, isRealtime };
  if (collection + 2 < segments.length) return undefined;
  const isModelMethod = target.includes(":") && !/^(?:GET|HEAD|DELETE)$/i.test(method);
  const [name, verb, ...more] = isModelMethod ? target.split(":") : [target];
  if (verb === "" || more.length > 0) return undefined;
  const model = words[collection] === "models" ? `${name}` : `tunedModels/${name}`;
  return { names: [...deployed, model], isModelMethod, isRealtime };
}

/** The segments after which a model stands. */
const COLLECTIONS: ReadonlySet<string> = new Set(["deployments", "engines", "models", "tunedmodels"]);

function isModelCollection(word: string | undefined): boolean {
  return word === "models" || word === "tunedmodels";
}

/** What most segments consist of, which decodes to itself. */
const PLAIN = /^[\w~!$&'()*+,=:@-][\w.~!$&'()*+,=:@-]*$/;

function decodePlain(segment: string): string | undefined {
  if (PLAIN.test(segment)) return segment;
  const decoded = decodeOnce(segment);
  const isPlain = decoded
    ?.split("/")
    .every((piece) => /^[^\p{Cc}%\\;?#]+$/u.test(piece) && piece !== "." && piece !== "..");
  return isPlain ? decoded : undefined;
}

/** Undoes percent-encoding once; `undefined` if it is broken or does not encode UTF-8. */
export function decodeOnce(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}
