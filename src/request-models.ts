import { type HeaderSource, headerValues } from "./credential.js";
import { MAX_PARTS, type Part, parseMultipart } from "./multipart.js";
import { decodeOnce, readPath } from "./request-path.js";
import { decodeUtf8, foldName, isJson, parseStrictJson, plainContentType } from "./strict-json.js";

/** What of a request may name models. */
export interface RequestParts {
  readonly method: string;
  /** Path and query as received, or a full URL. */
  readonly url: string;
  readonly headers: HeaderSource;
  /** The bytes as received. `undefined`: there is no body, or it was not read. */
  readonly body: Uint8Array | undefined;
}

/** A request that names more different models than this is not judged. */
export const MAX_NAMED_MODELS = 100;

/**
 * Every model that a request names, all of which must then be allowed; `undefined` when that cannot be told.
 *
 * Models are looked for where the OpenAI, Azure, Anthropic, Gemini and OpenRouter APIs have them: in JSON, multipart
 * and URL-encoded bodies, in the path, and in the query. Only what everyone reads alike counts, because whoever
 * serves the request may read it differently. So `undefined` also comes of a member or field that occurs twice or
 * in another case, of a model that is no plain text, of a body that was not read, is compressed, of another type or
 * not UTF-8, and of a path that is spelled oddly. A `model` in the query suffices for a realtime socket only:
 * elsewhere it must be allowed as well, but an API may ignore it, so the body or the path must name one.
 *
 * Never throws. Takes time linear in the length of URL and body, at whatever depth of nesting.
 */
export function requestedModels(parts: RequestParts): string | readonly string[] | undefined {
  return modelsWith(parts, undefined);
}

/** The same for a body of which `value` is what `parseJsonBody` made, where it made anything. */
export function modelsWith(parts: RequestParts, value: unknown): string | readonly string[] | undefined {
  const { path, query } = divideUrl(parts.url);
  const inPath = readPath(path, parts.method);
  const inBody = value === undefined ? readBody(parts) : namedIn(value);
  const inQuery = readPairs(query, QUERY);
  if (inPath === undefined || inBody === undefined || inQuery === undefined) return undefined;
  const bodyNames = inPath.isModelMethod ? inBody.map(withoutCollection) : inBody;
  const named = [...inPath.names, ...bodyNames, ...(inPath.isRealtime ? inQuery : [])];
  if (named.length === 0) return undefined;
  const models = [...new Set([...named, ...inQuery])];
  if (models.length > MAX_NAMED_MODELS || !models.every(isPlainName)) return undefined;
  return models.length === 1 ? models[0] : models;
}

function divideUrl(url: string): { readonly path: string; readonly query: string } {
  const target = url.startsWith("/") ? url : url.replace(/^[a-z][a-z\d+.-]*:\/\/[^/?#]*/i, "");
  const end = target.indexOf("?");
  return end === -1
    ? { path: target, query: "" }
    : { path: target.slice(0, end), query: target.slice(end + 1) };
}

/** In a body, Gemini says `models/` before the name that is in the path. */
function withoutCollection(name: string): string {
  return name.replace(/^models\//, "");
}

function readBody({ method, headers, body }: RequestParts): readonly string[] | undefined {
  if (body === undefined) return mayHaveBody(method, headers) ? undefined : [];
  if (body.length === 0) return [];
  const contentType = plainContentType(headers);
  if (contentType === undefined) return undefined;
  if (/^multipart\//i.test(contentType)) return readMultipart(contentType, body);
  const text = decodeUtf8(body);
  if (text === undefined) return undefined;
  // Many JSON readers ignore the type; no encoder leaves a brace as it is.
  if (isUrlEncoded(contentType)) return text.includes("{") ? undefined : readPairs(text, FORM);
  return isJson(contentType) ? namedIn(parseStrictJson(text)) : undefined;
}

function namedIn(value: unknown): readonly string[] | undefined {
  const found = new Set<string>();
  return isObject(value) && BODY(value, found) ? [...found] : undefined;
}

/** Whether there may be a body that was only not read. A request over HTTP/2 need not declare its body. */
export function mayHaveBody(method: string, headers: HeaderSource): boolean {
  return (
    !/^(?:GET|HEAD|DELETE|OPTIONS)$/i.test(method) ||
    headerValues(headers, "transfer-encoding").length > 0 ||
    headerValues(headers, "content-length").some((length) => length !== "0")
  );
}

function isUrlEncoded(contentType: string): boolean {
  return /^application\/x-www-form-urlencoded[ \t]*(?:;[ \t]*charset="?utf-8"?[ \t]*)?$/i.test(contentType);
}

/** Adds the models that a value names, and says whether all of them could be told. */
type Reader = (value: unknown, found: Set<string>) => boolean;

function readJson(text: string, reader: Reader, found: Set<string>): boolean {
  const value = parseStrictJson(text);
  return isObject(value) && reader(value, found);
}

const model: Reader = (value, found) => {
  if (!isPlainName(value) || found.size > MAX_NAMED_MODELS) return false;
  found.add(value);
  return true;
};

/** Names models that are not in the request. */
const elsewhere: Reader = (value) => value === null;

/** Other APIs have a number or text at the same place, which names no model; a list might, to a lenient reader. */
function object(members: Readonly<Record<string, Reader>>): Reader {
  const readers = new Map(Object.entries(members));
  const folded = new Set(Object.keys(members).map(foldName));
  return (value, found) => {
    if (!isObject(value)) return !Array.isArray(value);
    return Object.keys(value).every((name) => {
      const reader = readers.get(name);
      return reader === undefined ? !folded.has(foldName(name)) : reader(value[name], found);
    });
  };
}

function list(of: Reader): Reader {
  return (value, found) => {
    if (!Array.isArray(value)) return value === null;
    return value.every((member: unknown) => of(member, found));
  };
}

const hasModel: Reader = object({ model });

const fallback: Reader = (value, found) =>
  isObject(value) && Object.hasOwn(value, "model") ? hasModel(value, found) : model(value, found);

const SESSION = {
  model,
  input_audio_transcription: hasModel,
  audio: object({ input: object({ transcription: hasModel }) }),
};

const REQUEST = {
  ...SESSION,
  models: list(model),
  fallbacks: list(fallback),
  tools: list(object({ model, svg: hasModel })),
  svg: hasModel,
  moderation: hasModel,
};

/** Gemini's batch, whose requests may each name a model besides that in the path. */
const INLINED = object({ requests: object({ requests: list(object({ request: hasModel })) }) });

/** Where models stand in a JSON body. */
const BODY: Reader = object({
  ...REQUEST,
  session: object(SESSION),
  requests: list(object({ model, params: object(REQUEST) })),
  batch: object({ model, inputConfig: INLINED, input_config: INLINED }),
  generateContentRequest: hasModel,
  generate_content_request: hasModel,
  // An uploaded file of requests, each with a model of its own.
  input_file_id: elsewhere,
});

/** Where they stand in a form, multipart or URL-encoded. */
const FORM: ReadonlyMap<string, Reader> = new Map([
  ["model", model],
  ["svg[model]", model],
  // Says how the other fields are encoded, to whoever keeps to the standard of HTML.
  ["_charset_", (text) => typeof text === "string" && /^utf-?8$/i.test(text)],
  ["session", (text, found) => typeof text === "string" && readJson(text, object(SESSION), found)],
]);

const QUERY: ReadonlyMap<string, Reader> = new Map([
  ["model", model],
  ["deployment", model],
]);

interface Field {
  readonly name: string;
  /** Left unread unless it matters: most of a form may be a file. */
  readText(): string | undefined;
}

function readMultipart(contentType: string, body: Uint8Array): readonly string[] | undefined {
  const parts = parseMultipart(contentType, body);
  if (parts === undefined) return undefined;
  const fields = parts.map((part) => ({
    name: part.name,
    readText: () => (isTextPart(part) ? decodeUtf8(part.content) : undefined),
  }));
  return readFields(fields, FORM);
}

function isTextPart({ isFile, contentType = "text/plain" }: Part): boolean {
  return !isFile && /^(?:text\/plain|application\/json)(?:; ?charset="?utf-8"?)?$/i.test(contentType);
}

/** Reads a query or URL-encoded form. Readers disagree about what semicolons and hashes divide. */
function readPairs(text: string, readers: ReadonlyMap<string, Reader>): readonly string[] | undefined {
  if (text === "") return [];
  const isDisputed = /[;#]/.test(text);
  const pairs = text.split(/[&;#]/, MAX_PARTS + 1);
  if (pairs.length > MAX_PARTS) return undefined;
  const fields = pairs.map((pair) => {
    const equals = pair.includes("=") ? pair.indexOf("=") : pair.length;
    return {
      name: decodePlus(pair.slice(0, equals)) ?? UNREADABLE,
      readText: () => (isDisputed ? undefined : decodePlus(pair.slice(equals + 1))),
    };
  });
  return readFields(fields, readers);
}

function decodePlus(text: string): string | undefined {
  return decodeOnce(text.replaceAll("+", " "));
}

/** Stands for a name that cannot be decoded, which may be any. */
const UNREADABLE = "model?";

/** What the fields name that matter. None of these may occur twice: readers take the first, the last, or all. */
function readFields(
  fields: readonly Field[],
  readers: ReadonlyMap<string, Reader>,
): readonly string[] | undefined {
  const found = new Set<string>();
  const seen = new Set<string>();
  for (const { name, readText } of fields) {
    const reader = readers.get(name);
    if (reader === undefined ? isNearlyField(name, readers) : seen.has(name) || !reader(readText(), found)) {
      return undefined;
    }
    if (reader !== undefined) seen.add(name);
  }
  return [...found];
}

/** Whether another reader may take a name for one of ours: `Model`, `model[]`, `svg.model`, ` model`. */
function isNearlyField(name: string, readers: ReadonlyMap<string, Reader>): boolean {
  const folded = foldName(name);
  const [first = ""] = /[\w-]+/.exec(folded) ?? [];
  return readers.has(first) || /(?:^|[^\w-])(?:models?|fallbacks)(?:[^\w-]|$)/.test(folded);
}

/** Whether a value can be a name that nobody trims, cuts short or mends: no space around it, no control characters. */
function isPlainName(value: unknown): value is string {
  return (
    typeof value === "string" && value !== "" && value.trim() === value && !/[\p{Cc}\p{Cs}]/u.test(value)
  );
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
