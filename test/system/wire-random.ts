import type { Random } from "../model/random.js";
import { BODIES } from "./wire-bodies.js";
import { CREDENTIALS, FRAMES, PROXIES, ROUTES } from "./wire-heads.js";
import type { Request, Row } from "./wire-requests.js";

/*
 * Requests out of the pieces of the tables: lines, fields and bodies that were never made for each other.
 */

const rows: readonly Row[] = [CREDENTIALS, FRAMES, ROUTES, PROXIES, BODIES].flatMap((table) =>
  Object.values(table).filter(({ raw, pace, body = "" }) => !raw && !pace && body.length < 10_000),
);
/** With user info in a URL a handler on Hono cannot have the request. */
const lines = pieces(({ line = "" }) => [line]).filter(
  (line) => line !== "" && !line.includes("@") && isShort(line),
);
const bodies = pieces(({ body }) => (body === undefined ? [] : [body]));
/** With a length that is none of its body's the rest is another request. */
const fields = pieces(({ fields = [] }) => fields.filter(isShort)).filter(
  (field) => !/^content-length: \d+$/i.test(field),
);
const frames = /^(?:content-length|transfer-encoding|expect|host|connection|upgrade) *:/i;
/** Most of what there is makes no request that anybody understands, so most are left out of most. */
const plainFields = fields.filter((field) => !frames.test(field) && /^[\w-]+:[\x20-\x7e]*$/.test(field));
const credentials = plainFields.filter((field) => field.includes("$"));
const others = plainFields.filter((field) => !field.includes("$"));

function pieces<T>(of: (row: Row) => readonly T[]): readonly T[] {
  return [...new Set(rows.flatMap(of))];
}

function isShort(text: string): boolean {
  return text.length < 4_000;
}

export function composeRequest(random: Random): Request {
  const some = <T>(list: readonly T[], most: number): T[] =>
    Array.from({ length: random.between(0, most) }, () => random.pick(list));
  const pickedFields = [
    ...(random.chance(0.9) ? [random.pick(credentials)] : []),
    ...(random.chance(0.15) ? some(credentials, 2) : []),
    ...(random.chance(0.4) ? ["Content-Type: application/json"] : []),
    ...some(others, 3),
    ...(random.chance(0.15) ? some(fields, 2) : []),
  ];
  const line = random.chance(0.5)
    ? `POST ${random.pick(["/v1/chat", "/v1/x?y=1", "/"])}`
    : random.pick(lines);
  return {
    line: random.chance(0.95) ? line : line.replace(/(?<= ).+/, (path) => mutated(path, random)),
    fields: pickedFields.map((field) => (random.chance(0.95) ? field : mutated(field, random))),
    // No runtime has a TRACE with a body.
    ...(random.chance(0.7) && !line.startsWith("TRACE") && { body: random.pick(bodies) }),
  };
}

/** One character goes, comes twice, changes its case or becomes an odd one. */
function mutated(text: string, random: Random): string {
  const at = random.between(0, text.length - 1);
  const character = text.charAt(at);
  const isCapital = character === character.toUpperCase();
  const becomes = random.pick([
    "",
    character.repeat(2),
    isCapital ? character.toLowerCase() : character.toUpperCase(),
    random.pick([" ", "\t", ",", ";", "%", "/", "\\", ".", "\0", "\x7f", "\u00a0", "\u00ff", "\r", "\n"]),
  ]);
  return text.slice(0, at) + becomes + text.slice(at + 1);
}
