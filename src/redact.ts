import { DEFAULT_PREFIXES, hintOf, isSecretPrefix, MAX_PREFIX_LENGTH, MIN_BODY_LENGTH } from "./secret.js";

/** How many members of objects, lists and collections are looked at in one call. */
export const MAX_REDACTED_MEMBERS = 100_000;

/**
 * Masks everything in a value that looks like a secret, also inside a longer word: `sk-…` becomes `sk-***` and the
 * last four characters. `prefixes` are those you configured; the default ones are masked as well.
 *
 * Looks into strings, errors with their stack and causes, arrays, objects, Maps, Sets, Headers, URLs, query strings
 * and bytes that hold text, keys included, at any depth and in circles. What was given stays as it is: whatever
 * holds a secret is copied, everything else comes back as the same reference. A copy keeps the prototype of its
 * original but not its private state; getters are read once and become values.
 *
 * A `ReadableStream` of bytes becomes another that masks what passes, also secrets that are split over chunks. Only
 * if it is the value itself: one inside an object is left alone, because masking takes it away from its owner.
 *
 * Looks at 100,000 members at most, and leaves out the rest. Linear. Never throws: copies leave out what throws when
 * it is read. Not looked into: what only methods give away, such as Requests, Blobs, functions and private fields.
 */
export function redact<T>(value: T, prefixes: readonly string[] = []): T {
  const mask = maskerOf([...prefixes, ...Object.values(DEFAULT_PREFIXES)].filter(isSecretPrefix));
  if (typeof value === "string") return mask.text(value) as T;
  if (!isObject(value)) return value;
  const stream = readableStream(value);
  return (stream === undefined ? redactGraph(value, mask) : redactStream(stream, mask)) as T;
}

interface Mask {
  text(text: string): string;
  /** Whether a text ends in a prefix, so that a secret may follow. */
  endsInPrefix(text: string): boolean;
}

function maskerOf(prefixes: readonly string[]): Mask {
  // Looks behind: matching the prefix would miss one whose letters are taken for the end of the secret before it.
  const body = new RegExp(`(?<=${prefixes.join("|")})[A-Za-z0-9]{${MIN_BODY_LENGTH}}`, "g");
  return {
    text(text) {
      let masked = "";
      let done = 0;
      for (const { index } of text.matchAll(body)) {
        const end = endOfWord(text, index);
        masked += text.slice(done, index) + MASK + hintOf(text.slice(index, end));
        done = end;
      }
      return done === 0 ? text : masked + text.slice(done);
    },
    endsInPrefix: (text) => prefixes.some((prefix) => text.endsWith(prefix)),
  };
}

/** Where letters and digits end. Searched for, because matching as many as there are takes stack for each. */
function endOfWord(text: string, start: number): number {
  const other = /[^A-Za-z0-9]/g;
  other.lastIndex = start;
  return other.exec(text)?.index ?? text.length;
}

const MASK = "***";

/** What an object held when it was looked at, each member read once. */
interface Snapshot {
  readonly source: object;
  readonly kind: "array" | "map" | "set" | "error" | "object";
  readonly prototype: object | null;
  readonly members: readonly Member[];
  /** Whether there is more than was looked at. */
  readonly isCut: boolean;
}

interface Member {
  /** Of a Set, the same as the value. */
  readonly key: unknown;
  readonly value: unknown;
  readonly enumerable: boolean;
}

interface Findings {
  /** What takes the place of which object. */
  readonly replacements: Map<object, unknown>;
  /** Every object that was found, and what holds it. */
  readonly holders: Map<object, Snapshot[]>;
  readonly mask: Mask;
}

/** Finds out what must be masked, then what leads there, and copies only that. Nothing here is recursive. */
function redactGraph(root: object, mask: Mask): unknown {
  const replacements = new Map<object, unknown>();
  const holders = new Map<object, Snapshot[]>([[root, []]]);
  const stained: Snapshot[] = [];
  let budget = MAX_REDACTED_MEMBERS;
  // A Map grows while it is walked: everything found on the way comes later.
  for (const [source] of holders) {
    const masked = maskLeaf(source, mask);
    if (masked !== undefined) {
      if (masked !== source) replacements.set(source, masked);
      continue;
    }
    const snapshot = takeSnapshot(source, budget);
    budget -= snapshot.members.length;
    for (const part of snapshot.members.flatMap(({ key, value }) => [key, value])) {
      if (isObject(part)) holdersOf(part, holders).push(snapshot);
    }
    if (snapshot.isCut || snapshot.members.some((member) => hasSecret(member, mask))) stained.push(snapshot);
  }
  for (const leaf of replacements.keys()) stained.push(...holdersOf(leaf, holders));
  return copyStained(root, stained, { replacements, holders, mask });
}

function holdersOf(source: object, holders: Map<object, Snapshot[]>): Snapshot[] {
  let list = holders.get(source);
  if (list === undefined) {
    list = [];
    holders.set(source, list);
  }
  return list;
}

function hasSecret({ key, value }: Member, mask: Mask): boolean {
  return [key, value].some((part) => typeof part === "string" && mask.text(part) !== part);
}

function copyStained(root: object, stained: readonly Snapshot[], findings: Findings): unknown {
  const { replacements, holders, mask } = findings;
  const copies = new Map<Snapshot, object>();
  const open = [...stained];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    if (copies.has(next)) continue;
    const copy = emptyCopy(next);
    copies.set(next, copy);
    replacements.set(next.source, copy);
    for (const holder of holdersOf(next.source, holders)) open.push(holder);
  }
  const masked = (part: unknown): unknown => {
    if (typeof part === "string") return mask.text(part);
    return isObject(part) && replacements.has(part) ? replacements.get(part) : part;
  };
  for (const [{ kind, members }, copy] of copies) {
    for (const { key, value, enumerable } of members) {
      addMember(kind, copy, { key: masked(key), value: masked(value), enumerable });
    }
  }
  return replacements.has(root) ? replacements.get(root) : root;
}

function emptyCopy({ kind, prototype }: Snapshot): object {
  const copy = emptyOf(kind);
  return Object.getPrototypeOf(copy) === prototype ? copy : Object.setPrototypeOf(copy, prototype);
}

function emptyOf(kind: Snapshot["kind"]): object {
  if (kind === "array") return [];
  if (kind === "map") return new Map();
  if (kind === "set") return new Set();
  if (kind === "object") return {};
  const error = new Error();
  // Its own stack tells where it was copied.
  delete error.stack;
  return error;
}

function addMember(kind: Snapshot["kind"], copy: object, { key, value, enumerable }: Member): void {
  if (kind === "map") Map.prototype.set.call(copy, key, value);
  else if (kind === "set") Set.prototype.add.call(copy, value);
  // Assigned, a member called __proto__ would change the prototype.
  else
    Object.defineProperty(copy, key as PropertyKey, {
      value,
      enumerable,
      writable: true,
      configurable: true,
    });
}

function takeSnapshot(source: object, budget: number): Snapshot {
  const members: Member[] = [];
  try {
    const kind = kindOf(source);
    const prototype = Object.getPrototypeOf(source) as object | null;
    for (const member of membersOf(source, kind)) {
      if (members.length >= budget) return { source, kind, prototype, members, isCut: true };
      members.push(member);
    }
    return { source, kind, prototype, members, isCut: false };
  } catch {
    return { source, kind: "object", prototype: null, members: [], isCut: true };
  }
}

function kindOf(source: object): Snapshot["kind"] {
  if (Array.isArray(source)) return "array";
  if (source instanceof Map) return "map";
  if (source instanceof Set) return "set";
  return source instanceof Error ? "error" : "object";
}

function* membersOf(source: object, kind: Snapshot["kind"]): Iterable<Member> {
  if (kind === "map" || kind === "set") {
    const entries = (source as ReadonlyMap<unknown, unknown> | ReadonlySet<unknown>).entries();
    for (const [key, value] of entries) yield { key, value, enumerable: true };
    return;
  }
  for (const key of Reflect.ownKeys(source)) {
    const property = Reflect.getOwnPropertyDescriptor(source, key);
    if (property === undefined || (kind === "array" && key === "length")) continue;
    const read = readProperty(source, key, property);
    if (read !== undefined) yield { key, value: read.value, enumerable: property.enumerable === true };
  }
}

function readProperty(
  source: object,
  key: PropertyKey,
  property: PropertyDescriptor,
): { readonly value: unknown } | undefined {
  try {
    return { value: property.get === undefined ? property.value : Reflect.get(source, key) };
  } catch {
    return undefined;
  }
}

/** The masked copy of something that is not taken apart, itself if there is no secret, `undefined` for the rest. */
function maskLeaf(source: object, mask: Mask): unknown {
  try {
    if (ArrayBuffer.isView(source)) return source instanceof Uint8Array ? maskBytes(source, mask) : source;
    if (source instanceof ArrayBuffer) {
      const bytes = new Uint8Array(source);
      const masked = maskBytes(bytes, mask);
      return masked === bytes ? source : masked.buffer;
    }
    if (source instanceof URL || source instanceof URLSearchParams) {
      const text = `${source}`;
      const masked = mask.text(text);
      if (masked === text) return source;
      if (source instanceof URLSearchParams) return new URLSearchParams(masked);
      return URL.canParse(masked) ? new URL(masked) : masked;
    }
    if (source instanceof Headers) return maskHeaders(source, mask);
    return undefined;
  } catch {
    return undefined;
  }
}

function maskHeaders(headers: Headers, mask: Mask): Headers {
  const before = [...headers];
  const after = before.map(([name, value]): [string, string] => [mask.text(name), mask.text(value)]);
  return `${after}` === `${before}` ? headers : new Headers(after);
}

/** Bytes of any encoding that extends ASCII. The copy has the prototype of the original, so a Buffer is one again. */
function maskBytes(bytes: Uint8Array, mask: Mask): Uint8Array {
  const text = byteText(bytes);
  const masked = mask.text(text);
  if (masked === text) return bytes;
  return Object.setPrototypeOf(textBytes(masked), Object.getPrototypeOf(bytes)) as Uint8Array;
}

/** One character for each byte. */
function byteText(bytes: Uint8Array): string {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8_192) {
    text += String.fromCharCode(...bytes.subarray(at, at + 8_192));
  }
  return text;
}

function textBytes(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  return bytes;
}

function readableStream(value: object): ReadableStream<unknown> | undefined {
  try {
    return value instanceof ReadableStream && !value.locked ? value : undefined;
  } catch {
    return undefined;
  }
}

function redactStream(stream: ReadableStream<unknown>, mask: Mask): ReadableStream<unknown> {
  const masking = maskChunks(mask);
  const send = (text: string, controller: TransformStreamDefaultController<unknown>): void => {
    if (text !== "") controller.enqueue(textBytes(text));
  };
  return stream.pipeThrough(
    new TransformStream<unknown, unknown>({
      transform(chunk, controller) {
        if (chunk instanceof Uint8Array) send(masking.next(byteText(chunk)), controller);
        else controller.enqueue(chunk);
      },
      flush: (controller) => send(masking.end(), controller),
    }),
  );
}

/**
 * Masks a text that comes in pieces. Held back is only what follows a prefix and may still grow into a secret, and of
 * a secret no more than a prefix is long, however long it gets.
 */
function maskChunks(mask: Mask): { next(piece: string): string; end(): string } {
  /** The end of what was passed on, as it was before masking: a prefix may end there. */
  let passed = "";
  let held = "";
  let isInSecret = false;

  function next(piece: string): string {
    if (!isInSecret) return pass(piece);
    const rest = piece.search(/[^A-Za-z0-9]/);
    held = (held + (rest === -1 ? piece : piece.slice(0, rest))).slice(-MAX_PREFIX_LENGTH);
    if (rest === -1) return "";
    return leaveSecret() + pass(piece.slice(rest));
  }

  function pass(piece: string): string {
    const text = passed + held + piece;
    const end = startOfLastWord(text);
    const mayBeSecret = mask.endsInPrefix(text.slice(0, end));
    const settled = mayBeSecret ? text.slice(0, end) : text;
    const output = mask.text(settled).slice(passed.length);
    passed = settled.slice(-MAX_PREFIX_LENGTH);
    held = text.slice(settled.length);
    isInSecret = held.length >= MIN_BODY_LENGTH;
    if (!isInSecret) return output;
    held = held.slice(-MAX_PREFIX_LENGTH);
    return output + MASK;
  }

  function leaveSecret(): string {
    const hint = hintOf(held);
    passed = held;
    held = "";
    isInSecret = false;
    return hint;
  }

  return { next, end: () => (isInSecret ? leaveSecret() : held) };
}

/** Where the letters and digits begin that a text ends in. */
function startOfLastWord(text: string): number {
  let at = text.length;
  while (at > 0 && /[A-Za-z0-9]/.test(text.charAt(at - 1))) at--;
  return at;
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null;
}
