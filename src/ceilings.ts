/** What input is measured by. */
export interface InputMeasure {
  readonly bytesPerToken: number;
  readonly attachmentTokens: number;
}

/** How many tokens a request may come to at most. */
export interface TokenCeilings {
  readonly tokens: number;
  readonly inputTokens: number;
  readonly outputTokens: number;
}

export const DEFAULT_MEASURE: InputMeasure = { bytesPerToken: 1, attachmentTokens: 2_000 };

/** The output of one choice, where neither the request nor the operator has a bound. */
const DEFAULT_OUTPUT_TOKENS = 16_384;

/**
 * How many tokens a request comes to at most, judged by its size and by what it asks for. `longest` are the bounds on
 * the output of the models that may answer, as far as there are any.
 *
 * Linear in the size of the body, at whatever depth of nesting.
 */
export function tokenCeilings(
  { body, bodyBytes }: { readonly body: unknown; readonly bodyBytes: number },
  measure: InputMeasure = DEFAULT_MEASURE,
  longest: readonly (number | undefined)[] = [undefined],
): TokenCeilings {
  const inputTokens = atMostSafe(inputCeiling(body, bodyBytes, measure));
  const outputTokens = atMostSafe(outputCeiling(body, longest));
  return { tokens: atMostSafe(inputTokens + outputTokens), inputTokens, outputTokens };
}

/**
 * No tokenizer makes more tokens of a text than it has bytes, and JSON makes no text shorter. Of an attachment named by
 * URL or id there are no bytes here; those of an inline image say nothing about its tokens and are not counted besides.
 */
function inputCeiling(body: unknown, bodyBytes: number, measure: InputMeasure): number {
  const attachments = attachmentsOf(body);
  const imageBytes = attachments.reduce((bytes, part) => bytes + inlineImage(part).length, 0);
  const text = Math.ceil(Math.max(0, bodyBytes - imageBytes) / measure.bytesPerToken);
  return text + attachments.length * measure.attachmentTokens;
}

/**
 * The bound that a request sets, for each of its choices and prompts, summed over a batch.
 *
 * A bound counts only where the API of such a request reads it, and the largest of several: what is ignored upstream
 * must not make a hold smaller. One that is no integer from 0 is as good as none.
 */
function outputCeiling(body: unknown, longest: readonly (number | undefined)[]): number {
  const most = Math.max(...longest.map((bound = Number.POSITIVE_INFINITY) => bound));
  const unasked = Math.max(...longest.map((bound = DEFAULT_OUTPUT_TOKENS) => bound));
  const outputs = [body, ...batchOf(body)].filter(isObject).flatMap((request) => {
    const asked = choiceCeiling(request, unasked);
    return asked === undefined ? [] : [Math.min(asked, most) * choicesOf(request)];
  });
  return outputs.length === 0 ? unasked : outputs.reduce((sum, output) => sum + output, 0);
}

type Members = Readonly<Record<string, unknown>>;

/** Where messages have their parts. Nothing of a tool's own input or schema is below these. */
const PLACES = [
  ...["messages", "contents", "content", "parts", "output"],
  ...["requests", "params", "batch", "inputConfig", "input_config", "request"],
];

/** The images, audio and files in messages. Extends what it walks over, so that no nesting can exhaust the stack. */
function attachmentsOf(body: unknown): readonly Members[] {
  const attachments: Members[] = [];
  const found = isObject(body) ? [body, body["input"]] : [];
  function add(value: unknown): void {
    if (typeof value === "object") found.push(value);
  }
  for (const value of found) {
    if (Array.isArray(value)) for (const member of value) add(member);
    if (!isObject(value)) continue;
    if (isAttachment(value)) attachments.push(value);
    for (const place of PLACES) add(value[place]);
  }
  return attachments;
}

const ATTACHMENT_TYPES: ReadonlySet<unknown> = new Set([
  ...["image_url", "input_image", "image", "computer_screenshot"],
  ...["input_audio", "audio_url", "video_url", "input_file", "file", "document"],
]);

function isAttachment(part: Members): boolean {
  const { type, inlineData = part["inline_data"], fileData = part["file_data"] } = part;
  return ATTACHMENT_TYPES.has(type) || isObject(inlineData) || isObject(fileData);
}

/** The text that an inline image is in the body; empty for every other part. It has at least as many bytes there. */
function inlineImage(part: Members): string {
  const { type, image_url: link, source, inlineData = part["inline_data"] } = part;
  const url = isObject(link) ? link["url"] : link;
  if (ATTACHMENT_TYPES.has(type) && typeof url === "string") return /^data:image\//i.test(url) ? url : "";
  const inline = type === "image" ? source : inlineData;
  if (!isObject(inline)) return "";
  const { data, media_type: mediaType = inline["mimeType"] ?? inline["mime_type"] } = inline;
  const isImage = typeof mediaType === "string" && mediaType.startsWith("image/");
  return isImage && typeof data === "string" ? data : "";
}

/** The requests of a batch, Anthropic's or Gemini's. */
function batchOf(body: unknown): readonly unknown[] {
  const inlined = ["inputConfig", "input_config"].flatMap((name) =>
    listIn(memberOf(memberOf(memberOf(body, "batch"), name), "requests")),
  );
  return [
    ...listIn(body).map((one) => memberOf(one, "params")),
    ...inlined.map((one) => memberOf(one, "request")),
  ];
}

function listIn(value: unknown): readonly unknown[] {
  const requests = memberOf(value, "requests");
  return Array.isArray(requests) ? requests : [];
}

function memberOf(value: unknown, name: string): unknown {
  return isObject(value) ? value[name] : undefined;
}

/** The bound of one choice; undefined for what is no request to generate something. */
function choiceCeiling(request: Members, unasked: number): number | undefined {
  const { messages, prompt, input, contents } = request;
  const ceilings: number[] = [];
  if (messages !== undefined || (prompt !== undefined && !isObject(prompt))) {
    ceilings.push(largest([request["max_tokens"], request["max_completion_tokens"]], unasked));
  }
  // A prompt that is an object is one stored for the Responses API.
  if (input !== undefined || isObject(prompt)) {
    ceilings.push(largest([request["max_output_tokens"]], unasked));
  }
  if (contents !== undefined) ceilings.push(largest(configured(request, "maxOutputTokens"), unasked));
  return ceilings.length === 0 ? undefined : Math.max(...ceilings);
}

function largest(bounds: readonly unknown[], unasked: number): number {
  const given = bounds.filter((bound) => bound !== undefined && bound !== null);
  return given.length === 0 ? unasked : Math.max(...given.map((bound) => boundOf(bound, unasked)));
}

/** Some read a number out of text; whoever does not has its own default. */
function boundOf(bound: unknown, unasked: number): number {
  if (isCount(bound)) return bound;
  const number = typeof bound === "string" ? Number(bound) : unasked;
  return Number.isFinite(number) ? Math.max(unasked, Math.ceil(number)) : unasked;
}

/** What `n` is taken for when it is no integer from 0. */
const MAX_CHOICES = 128;

/** How often the output is generated. */
function choicesOf(request: Members): number {
  const { n, best_of: bestOf, prompt } = request;
  const counts = [n, bestOf, ...configured(request, "candidateCount")].map((count) => {
    if (count === undefined || count === null) return 1;
    return isCount(count) ? count : MAX_CHOICES;
  });
  // A list of numbers is one prompt, in tokens.
  const prompts = Array.isArray(prompt) ? prompt.filter((one) => typeof one !== "number").length : 1;
  return Math.max(1, ...counts) * Math.max(1, prompts);
}

/** A setting of a Gemini request, which may be spelled in two ways. */
function configured(request: Members, name: string): readonly unknown[] {
  const snakeName = name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  return [request["generationConfig"], request["generation_config"]]
    .filter(isObject)
    .flatMap((config) => [config[name], config[snakeName]]);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isObject(value: unknown): value is Members {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function atMostSafe(tokens: number): number {
  return Math.min(tokens, Number.MAX_SAFE_INTEGER);
}
