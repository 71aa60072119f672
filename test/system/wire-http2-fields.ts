import type { Fields } from "./wire-http2.js";
import { invalid, missing, type Row } from "./wire-requests.js";

type OddRequest = Omit<Row, "fields" | "body"> & { readonly fields: Fields; readonly body?: string };

const KEY = ["authorization", "Bearer $OPEN"] as const;
const GET = pseudo("GET", "/v1/chat");

function pseudo(method: string, path: string): Fields {
  return [
    [":method", method],
    [":scheme", "http"],
    [":authority", "localhost"],
    [":path", path],
  ];
}

function without(name: string): Fields {
  return [...GET.filter(([field]) => field !== name), KEY];
}

/** Fields that the protocol forbids: no guard is asked, and the stream is refused. */
function forbidden(rows: Readonly<Record<string, Fields>>): Record<string, OddRequest> {
  const all = Object.entries(rows).map(([name, fields]): [string, OddRequest] => [
    name,
    { fields, answer: [0], unheard: "everywhere" },
  ]);
  return Object.fromEntries(all);
}

/** What cannot be said, or means something else, over HTTP/1.1. */
export const ODD_FIELDS: Readonly<Record<string, OddRequest>> = {
  ...forbidden({
    "a name with a capital": [...GET, ["Authorization", "Bearer $OPEN"]],
    connection: [...GET, KEY, ["connection", "close"]],
    "transfer-encoding": [...GET, KEY, ["transfer-encoding", "chunked"]],
    upgrade: [...GET, KEY, ["upgrade", "websocket"]],
    "no path": without(":path"),
    "no method": without(":method"),
    "no authority": without(":authority"),
    "an empty path": [...pseudo("GET", ""), KEY],
    "a whole URL for a path": [...pseudo("GET", "http://localhost/v1/chat"), KEY],
    "a path with a blank": [...pseudo("GET", "/v1/ chat"), KEY],
    "two paths": [...GET, [":path", "/"], KEY],
    "two methods": [...GET, [":method", "OPTIONS"], KEY],
    "a pseudo-field after the others": [KEY, ...GET],
    "a pseudo-field of an answer": [...GET, [":status", "200"], KEY],
    "a pseudo-field nobody knows": [...GET, [":path-info", "/"], KEY],
    "a method with a blank": [...pseudo("GET /", "/v1/chat"), KEY],
    "a socket, where they are not spoken of": [[":protocol", "websocket"], ...pseudo("CONNECT", "/"), KEY],
    "more fields than a server takes": [
      ...GET,
      KEY,
      ...Array.from({ length: 200 }, () => ["a", ""] as const),
    ],
  }),
  "a length that is wrong": {
    fields: [...pseudo("POST", "/v1/chat"), KEY, ["content-length", "5"]],
    body: "{}",
    answer: [0],
    unheard: "everywhere",
  },
  "two credentials": { fields: [...GET, KEY, KEY], answer: invalid },
  "two credentials, one empty": { fields: [...GET, ["authorization", ""], KEY], answer: invalid },
  "two x-api-key fields": {
    fields: [...GET, ["x-api-key", "$OPEN"], ["x-api-key", "$OPEN"]],
    answer: invalid,
  },
  // The library below drops a field whose value cannot be one, and nobody gets to see it.
  "a blank at the end of a credential": {
    fields: [...GET, ["authorization", "Bearer $OPEN "]],
    answer: missing,
  },
  "a credential of two lines": {
    fields: [...GET, ["authorization", "Bearer $OPEN\r\nx: y"]],
    answer: missing,
  },
  "NUL in a credential": { fields: [...GET, ["authorization", "Bearer $OPEN\0"]], answer: missing },
  "another Host than the authority": { fields: [...GET, KEY, ["host", "other"]], answer: [200] },
  "cookies in crumbs": { fields: [...GET, KEY, ["cookie", "a=b"], ["cookie", "c=d"]], answer: [200] },
  "a path with a NUL in disguise": { fields: [...pseudo("GET", "/v1%00/chat"), KEY], answer: [200] },
};
