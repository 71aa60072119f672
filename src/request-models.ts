import { type HeaderSource, headerValues } from "./credential.js";
import { parseMultipart } from "./multipart.js";
import { decodeUtf8, isJson, parseStrictJson, plainContentType } from "./strict-json.js";

/** What of a request may name models. */
export interface RequestParts {
  readonly method: string;
  /** Path and query as received, or a full URL. */
  readonly url: string;
  readonly headers: HeaderSource;
  /** The bytes as received. `undefined`: there is no body, or it was not read. */
  readonly body: Uint8Array | undefined;
}

/** A request that names more models than this is not judged. */
export const MAX_NAMED_MODELS = 1_000;

/**
 * Every model that a request names, all of which must then be allowed; `undefined` when that cannot be told.
 *
 * Models are looked for where the OpenAI, Azure, Anthropic, Gemini and OpenRouter APIs have them: in JSON, multipart and
 * URL-encoded bodies, in the path, and in the query. Only what everyone reads alike counts, because whoever serves
 * the request may read it differently: `undefined` also comes of a member or field that occurs twice or in another
 * case, a model that is no plain text, a body that was not read, is compressed, of another type or not UTF-8, and a
 * path that is spelled oddly. A `model` in the query is enough for a realtime socket only; elsewhere it must be
 * allowed as well, but who ignores it must find another in the body or path.
 *
 * Never throws. Takes time linear in the length of URL and body.
 */
export function requestedModels(parts: RequestParts): string | readonly string[] | undefined {
  const { path, query } = divideUrl(parts.url);
  const inPath = readPath(path, parts.method);
  const inQuery = readPairs(query, QUERY);
  const inBody = readBody(parts);
  if (inPath === undefined || inQuery === undefined || inBody === undefined) return undefined;
  const bodyModels = inPath.isGemini ? inBody.map(withoutCollection) : inBody;
  const named = [...inPath.models, ...bodyModels];
  if (named.length === 0 && !inPath.isRealtime) return undefined;
  const models = [...new Set([...named, ...inQuery])];
  if (models.length === 0 || models.length > MAX_NAMED_MODELS) return undefined;
  return models.length === 1 ? models[0] : models;
}

/** Adds the models that a value names, and says whether all of them could be told. */
type Reader = (value: unknown, found: string[]) => boolean;

const model: Reader = (value, found) => {
  if (!isPlainName(value) || found.length > MAX_NAMED_MODELS) return false;
  found.push(value);
  return true;
};

/** Something that names models elsewhere, or by a name that only the upstream understands. */
const untold: Reader = (value) => value === null;

/** A text of some other API at the same place names no model; a list may, to a reader that is generous. */
function object(members: Readonly<Record<string, Reader>>): Reader {
  const readers = new Map(Object.entries(members));
  return (value, found) => {
    if (Array.isArray(value)) return false;
    if (!isObject(value)) return true;
    return Object.keys(value).every((name) => {
      const reader = readers.get(name);
      // Some parsers ignore case: to them `Model` is the model.
      return reader === undefined ? !readers.has(foldCase(name)) : reader(value[name], found);
    });
  };
}

function list(of: Reader): Reader {
  return (value, found) =>
    value === null || (Array.isArray(value) && value.every((member: unknown) => of(member, found)));
}

const fallback: Reader = (value, found) =>
  isObject(value) && Object.hasOwn(value, "model") ? onlyModel(value, found) : model(value, found);
const onlyModel: Reader = object({ model });

const SESSION = {
  model,
  input_audio_transcription: onlyModel,
  audio: object({ input: object({ transcription: onlyModel }) }),
};

const REQUEST = {
  ...SESSION,
  models: list(model),
  fallbacks: list(fallback),
  tools: list(object({ model, svg: onlyModel })),
  svg: onlyModel,
  moderation: onlyModel,
};

/** Where models stand in a JSON body. */
const BODY: Reader = object({
  ...REQUEST,
  session: object(SESSION),
  requests: list(object({ model, params: object(REQUEST) })),
  generateContentRequest: onlyModel,
  generate_content_request: onlyModel,
  // A file of requests, each with a model of its own.
  input_file_id: untold,
});

/** The fields of forms that name models, multipart or URL-encoded. */
const FORM: ReadonlyMap<string, Reader> = new Map([
  ["model", model],
  ["svg[model]", model],
  ["session", (text, found) => isText(text) && readJson(text, object(SESSION), found)],
]);

const QUERY: ReadonlyMap<string, Reader> = new Map([["model", model]]);

function readBody({ method, headers, body }: RequestParts): readonly string[] | undefined {
  if (body === undefined) return mayHaveBody(method, headers) ? undefined : [];
  if (body.length === 0) return [];
  const contentType = plainContentType(headers);
  if (contentType === undefined) return undefined;
  if (/^multipart\//i.test(contentType)) return readMultipart(contentType, body);
  const text = decodeUtf8(body);
  if (text === undefined) return undefined;
  if (isUrlEncoded(contentType)) return readPairs(text, FORM);
  const found: string[] = [];
  return isJson(contentType) && readJson(text, BODY, found) ? found : undefined;
}

/** Whether a body that is not there may only not have been read. HTTP/2 need not declare one. */
function mayHaveBody(method: string, headers: HeaderSource): boolean {
  return (
    !/^(?:GET|HEAD|DELETE|OPTIONS)$/i.test(method) ||
    headerValues(headers, "transfer-encoding").length > 0 ||
    headerValues(headers, "content-length").some((length) => length !== "0")
  );
}

function readJson(text: string, reader: Reader, found: string[]): boolean {
  const value = parseStrictJson(text);
  return isObject(value) && reader(value, found);
}

function isUrlEncoded(contentType: string): boolean {
  return /^application\/x-www-form-urlencoded[ \t]*(?:;[ \t]*charset="?utf-8"?[ \t]*)?$/i.test(contentType);
}

function readMultipart(contentType: string, body: Uint8Array): readonly string[] | undefined {
  const parts = parseMultipart(contentType, body);
  const fields = parts?.map((part) => {
    const isPlain = /^(?:text\/plain|application\/json)(?:; ?charset="?utf-8"?)?$/i.test(
      part.contentType ?? "text/plain",
    );
    return [part.name, () => (isPlain && !part.isFile ? decodeUtf8(part.content) : undefined)] as const;
  });
  return fields && readFields(fields, FORM);
}

/** Reads a query or a URL-encoded form. */
function readPairs(text: string, readers: ReadonlyMap<string, Reader>): readonly string[] | undefined {
  const pairs = text.split(/[&;]/).map((pair) => {
    const [name = "", ...value] = pair.split("=");
    return [name, value.join("=")] as const;
  });
  const fields = pairs.map(
    ([name, value]) => [decode(name.replaceAll("+", " ")) ?? "model?", () => value] as const,
  );
  return readFields(
    fields.map(([name, value]) => [
      name,
      // To some readers a semicolon divides pairs, to others it belongs to the value.
      () => (text.includes(";") ? undefined : decode(value().replaceAll("+", " "))),
    ]),
    readers,
  );
}

function readFields(
  fields: readonly (readonly [name: string, text: () => string | undefined])[],
  readers: ReadonlyMap<string, Reader>,
): readonly string[] | undefined {
  const found: string[] = [];
  const seen = new Set<string>();
  for (const [name, text] of fields) {
    const reader = readers.get(name);
    if (reader === undefined ? isNearlyField(name, readers) : seen.has(name) || !reader(text(), found)) {
      return undefined;
    }
    seen.add(name);
  }
  return found;
}

/** Whether another reader may take a name for one of ours: `Model`, `model[]`, `svg.model`, ` model`. */
function isNearlyField(name: string, readers: ReadonlyMap<string, Reader>): boolean {
  const folded = foldCase(name);
  const [first = ""] = folded.split(/[^\w-]/);
  return readers.has(first) || /(?:^|[^\w-])(?:models?|fallbacks)(?:[^\w-]|$)/.test(folded);
}

function divideUrl(url: string): { readonly path: string; readonly query: string } {
  const target = url.replace(/^[a-z][a-z\d+.-]*:\/\/[^/?#]*/i, "");
  const end = target.indexOf("?");
  return end === -1
    ? { path: target, query: "" }
    : { path: target.slice(0, end), query: target.slice(end + 1) };
}

interface PathModels {
  readonly models: readonly string[];
  readonly isGemini: boolean;
  readonly isRealtime: boolean;
}

/** Reads a path; `undefined` if it is spelled so that a router may take it for another. */
function readPath(path: string, method: string): PathModels | undefined {
  const segments = path.replace(/\/$/, "").split("/").slice(1).map(decode);
  if (!segments.every(isPlainSegment)) return undefined;
  const words = segments.map(foldCase);
  const found: string[] = [];
  const collection = words.findLastIndex((word) => word === "models" || word === "tunedmodels");
  const isGemini = collection !== -1 && /:/.test(segments[collection + 1] ?? "") && !isRetrieval(method);
  if (collection !== -1 && collection + 1 < segments.length) {
    if (collection + 2 < segments.length) return undefined;
    const [name = "", verb, ...more] = isGemini
      ? (segments[collection + 1] as string).split(":")
      : [segments[collection + 1]];
    if (more.length > 0 || verb === "") return undefined;
    if (!model(words[collection] === "models" ? name : `tunedModels/${name}`, found)) return undefined;
  }
  for (const [at, word] of words.entries()) {
    if ((word === "deployments" || word === "engines") && at + 1 < segments.length) {
      if (!model(segments[at + 1], found)) return undefined;
    }
  }
  const isRealtime = words.at(-1) === "realtime" && isRetrieval(method);
  return { models: found, isGemini, isRealtime };
}

function isRetrieval(method: string): boolean {
  return /^(?:GET|HEAD|DELETE)$/i.test(method);
}

function isPlainSegment(segment: string | undefined): segment is string {
  return (
    segment !== undefined &&
    segment.split("/").every((piece) => /^(?!\.{1,2}$)[^\p{Cc}%\\;?#]+$/u.test(piece))
  );
}

/** A name as it is in the path: bodies of Gemini say `models/` before it. */
function withoutCollection(name: string): string {
  return name.startsWith("models/") ? name.slice("models/".length) : name;
}

function decode(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}

/** Whether a value can be a name that nobody trims, cuts short or mends: no space around it, no control characters. */
function isPlainName(value: unknown): value is string {
  return isText(value) && value !== "" && value.trim() === value && !/[\p{Cc}\p{Cs}]/u.test(value);
}

function isText(value: unknown): value is string {
  return typeof value === "string";
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** As parsers do that ignore case: for them the long s and the Kelvin sign are letters, too. */
function foldCase(text: string): string {
  return text.toUpperCase().toLowerCase();
}
