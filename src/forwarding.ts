import { PROTOCOL_PREFIX } from "./credential.js";

/**
 * A copy of a request's headers, in the form they came in, without everything that may hold the caller's secret: it is
 * no business of the upstream's. All of it goes, because a client may send several and only one was judged. Of
 * `Sec-WebSocket-Protocol` the other items stay.
 */
export function stripCredentials(headers: Headers): Headers;
export function stripCredentials(rawHeaders: readonly string[]): string[];
export function stripCredentials<T>(headers: Readonly<Record<string, T>>): Record<string, T>;
export function stripCredentials(
  headers: Headers | readonly string[] | Readonly<Record<string, unknown>>,
): Headers | string[] | Record<string, unknown> {
  if (headers instanceof Headers) return new Headers(withoutCredentials([...headers]) as [string, string][]);
  if (!Array.isArray(headers)) return Object.fromEntries(withoutCredentials(Object.entries(headers)));
  const fields = headers.flatMap((name, at) => (at % 2 === 0 ? [[name, headers[at + 1]] as const] : []));
  return withoutCredentials(fields).flat() as string[];
}

const CREDENTIAL_FIELDS: readonly string[] = ["authorization", "x-api-key", "api-key", "x-goog-api-key"];

function withoutCredentials(fields: readonly (readonly [string, unknown])[]): [string, unknown][] {
  return fields.flatMap(([name, value]): [string, unknown][] => {
    const field = name.toLowerCase();
    if (CREDENTIAL_FIELDS.includes(field)) return [];
    if (field !== "sec-websocket-protocol") return [[name, value]];
    const items = String(value).split(",");
    const kept = items.filter((item) => !item.trim().startsWith(PROTOCOL_PREFIX));
    return kept.length === 0 ? [] : [[name, kept.join(",").trim()]];
  });
}

/**
 * A URL, or path and query as received, without what the credential source `query` reads: every `key` of the query,
 * however it is spelled. The rest stays byte for byte.
 */
export function stripCredentialUrl(url: string): string {
  const start = url.indexOf("?");
  if (start === -1) return url;
  const pairs = url.slice(start + 1).split("&");
  // Read as the source reads them, so that nothing that is a credential there is anything else here.
  const kept = pairs.filter((pair) => !new URLSearchParams(`?${pair}`).has("key"));
  if (kept.length === pairs.length) return url;
  return kept.length === 0 ? url.slice(0, start) : `${url.slice(0, start)}?${kept.join("&")}`;
}

/**
 * The answer to a request for a list of models, without those that the key may not use: `data` of OpenAI and
 * Anthropic, `models` of Gemini. Anything else stays as it is.
 */
export function filterModelList<T>(
  list: T,
  { canUseModel }: { readonly canUseModel: (model: string) => boolean },
): T {
  if (typeof list !== "object" || list === null) return list;
  const { data, models } = list as { readonly data?: unknown; readonly models?: unknown };
  const isVisible = (entry: unknown): boolean => {
    const { id, name } = (entry ?? {}) as { readonly id?: unknown; readonly name?: unknown };
    const model = id ?? name;
    return typeof model === "string" && canUseModel(model.replace(/^models\//, ""));
  };
  if (!Array.isArray(data))
    return Array.isArray(models) ? { ...list, models: models.filter(isVisible) } : list;
  const visible = data.filter(isVisible);
  const ends = { first_id: visible[0]?.id ?? null, last_id: visible.at(-1)?.id ?? null };
  return { ...list, data: visible, ...("first_id" in list && ends) };
}
