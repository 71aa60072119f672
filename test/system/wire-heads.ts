import {
  CHUNKED,
  elsewhere,
  invalid,
  JSON_TYPE,
  LISTED,
  missing,
  OPEN,
  ok,
  type Request,
  type Row,
  THERE,
  undetermined,
} from "./wire-requests.js";

type Rows = Readonly<Record<string, Row>>;

/** Where a credential is read, and how often, and how it is spelled. */
export const CREDENTIALS: Rows = {
  "no credential": {
    fields: [],
    answer: missing,
    headers: { "www-authenticate": 'Bearer realm="api"', "cache-control": "no-store" },
  },
  "Bearer and x-api-key: Bearer is judged": { fields: [OPEN, "x-api-key: sk-other"], answer: [200] },
  "Bearer and x-api-key: even if it is bad": {
    fields: ["Authorization: Bearer x", "x-api-key: $OPEN"],
    answer: invalid,
  },
  "Basic, with a good x-api-key": {
    fields: ["Authorization: Basic eDp5", "x-api-key: $OPEN"],
    answer: invalid,
  },
  "an empty Authorization, with a good x-api-key": {
    fields: ["Authorization:", "x-api-key: $OPEN"],
    answer: invalid,
  },
  "three parts": { fields: ["Authorization: Bearer $OPEN x"], answer: invalid },
  "two Authorization fields": { fields: [OPEN, LISTED], answer: invalid },
  "two Authorization fields, alike": { fields: [OPEN, OPEN], answer: invalid },
  "two Authorization fields, the first empty": { fields: ["Authorization:", OPEN], answer: invalid },
  "two Authorization fields, the second empty": { fields: [OPEN, "Authorization:"], answer: invalid },
  "two Authorization fields, in another case": {
    fields: [OPEN, "AUTHORIZATION: Bearer $OPEN"],
    answer: invalid,
  },
  "two Authorization fields, far apart": {
    fields: [OPEN, ...Array.from({ length: 100 }, (_, at) => `x-${at}: ${at}`), LISTED],
    answer: invalid,
  },
  "two joined in one": { fields: ["Authorization: Bearer $OPEN, Bearer $OPEN"], answer: invalid },
  "two x-api-key fields": { fields: ["x-api-key: $OPEN", "X-Api-Key: $OPEN"], answer: invalid },
  "two x-api-key fields, one empty": { fields: ["x-api-key:", "x-api-key: $OPEN"], answer: invalid },
  "an empty x-api-key": { fields: ["x-api-key:"], answer: invalid },
  "a comma in x-api-key": { fields: ["x-api-key: $OPEN,"], answer: invalid },
  "Bearer in x-api-key": { fields: ["x-api-key: Bearer $OPEN"], answer: invalid },
  "only x-api-key": { fields: ["x-api-key: $OPEN"], answer: [200] },
  "a name with an underscore": { fields: ["x_api_key: $OPEN"], answer: missing },
  "a source that is off": { fields: ["api-key: $OPEN"], answer: missing },
  "a cookie": { fields: ["Cookie: authorization=Bearer $OPEN"], answer: missing },
  "a proxy's credential": { fields: ["Proxy-Authorization: Bearer $OPEN"], answer: missing },
  "the query": {
    line: "GET /v1/chat?key=$OPEN&api_key=$OPEN&access_token=$OPEN",
    fields: [],
    answer: missing,
  },
  "user info": { line: "GET http://user:$OPEN@localhost/v1/chat", fields: [], answer: missing },
  bearer: { fields: ["authorization: bearer $OPEN"], answer: [200] },
  "BEARER and eight spaces": { fields: ["AUTHORIZATION: BEARER        $OPEN"], answer: [200] },
  "nine spaces": { fields: ["Authorization: Bearer         $OPEN"], answer: invalid },
  "a tab": { fields: ["Authorization: Bearer\t$OPEN"], answer: invalid },
  "no space": { fields: ["Authorization: Bearer$OPEN"], answer: invalid },
  "a scheme alone": { fields: ["Authorization: Bearer"], answer: invalid },
  "the secret alone": { fields: ["Authorization: $OPEN"], answer: invalid },
  quotes: { fields: ['Authorization: Bearer "$OPEN"'], answer: invalid },
  "a percent sign": { fields: ["Authorization: Bearer %73k-x$OPEN"], answer: invalid },
  "blanks around the value": { fields: ["Authorization: \t Bearer $OPEN \t "], answer: [200] },
  "a byte beyond ASCII": { fields: ["Authorization: Bearer $OPEN\u00e9"], answer: invalid },
  "NBSP after the key": { fields: ["Authorization: Bearer $OPEN\u00a0"], answer: invalid },
  "longer than any": { fields: [`Authorization: Bearer ${"x".repeat(8_000)}`], answer: invalid },
  "a spent key": {
    fields: ["Authorization: Bearer $SPENT"],
    answer: [402, "quota_exceeded"],
    headers: { "x-should-retry": "false" },
  },
  "an item of a socket's protocols": {
    line: "GET /v1/realtime?model=gpt-5",
    fields: ["Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.$LISTED"],
    answer: ok,
  },
  "two items of a socket's protocols": {
    line: "GET /v1/realtime?model=gpt-5",
    fields: ["Sec-WebSocket-Protocol: openai-insecure-api-key.$LISTED, openai-insecure-api-key.$OPEN"],
    answer: invalid,
  },
  "two fields of a socket's protocols": {
    line: "GET /v1/realtime?model=gpt-5",
    fields: [
      "Sec-WebSocket-Protocol: openai-insecure-api-key.$LISTED",
      "Sec-WebSocket-Protocol: openai-insecure-api-key.$LISTED",
    ],
    answer: invalid,
  },
};

/** What the parser under all servers refuses, so that no guard is asked and no handler runs. */
function refusedAtOnce(status: number, rows: Readonly<Record<string, Request>>): Rows {
  const all = Object.entries(rows).map(([name, row]) => [
    name,
    { ...row, answer: [status], unheard: "everywhere" },
  ]);
  return Object.fromEntries(all) as Rows;
}

const POST = { line: "POST /v1/chat", body: "{}" } as const;

/** How a request is framed: where its fields, and its body, begin and end. */
export const FRAMES: Rows = {
  ...refusedAtOnce(400, {
    "a folded Authorization": { fields: ["Authorization: Bearer\r\n $OPEN"] },
    "a blank before the colon": { fields: ["Authorization : Bearer $OPEN"] },
    "a blank before the name": { fields: [" Authorization: Bearer $OPEN"] },
    "a field without a name": { fields: [OPEN, ": x"] },
    "a field without a colon": { fields: [OPEN, "x"] },
    "a line feed alone": { fields: [`${OPEN}\nx: y`] },
    "nothing but line feeds": { raw: "GET / HTTP/1.1\nHost: x\nAuthorization: Bearer $OPEN\n\n" },
    "a carriage return alone": { fields: [`${OPEN}\rx: y`] },
    NUL: { fields: [`${OPEN}\0`] },
    "a vertical tab": { fields: [`${OPEN}\x0b`] },
    DEL: { fields: [`${OPEN}\x7f`] },
    "no Host": { raw: "GET / HTTP/1.1\r\nAuthorization: Bearer $OPEN\r\n\r\n" },
    "two lengths, alike": { ...POST, fields: [OPEN, "Content-Length: 2", "Content-Length: 2"] },
    "two lengths": { ...POST, fields: [OPEN, "Content-Length: 2", "Content-Length: 0"] },
    "two lengths in one": { ...POST, fields: [OPEN, "Content-Length: 2, 2"] },
    "a length with a sign": { ...POST, fields: [OPEN, "Content-Length: +2"] },
    "a negative length": { ...POST, fields: [OPEN, "Content-Length: -2"] },
    "a hexadecimal length": { ...POST, fields: [OPEN, "Content-Length: 0x2"] },
    "an empty length": { ...POST, fields: [OPEN, "Content-Length:"] },
    "a length beyond all numbers": { ...POST, fields: [OPEN, `Content-Length: ${"9".repeat(30)}`] },
    "a length, and chunks": { ...POST, fields: [OPEN, "Content-Length: 2", CHUNKED] },
    "chunks, and a length": { ...POST, fields: [OPEN, CHUNKED, "Content-Length: 2"] },
    "chunked twice": { ...POST, fields: [OPEN, CHUNKED, CHUNKED] },
    "chunked, but not last": { ...POST, fields: [OPEN, "Transfer-Encoding: chunked, gzip"] },
    "another transfer encoding": { ...POST, fields: [OPEN, "Transfer-Encoding: identity"] },
    "an odd spelling of chunked": { ...POST, fields: [OPEN, "Transfer-Encoding: xchunked"] },
    "a chunk without a size": { ...POST, body: "zz\r\n{}\r\n0\r\n\r\n", fields: [OPEN, CHUNKED] },
    "a chunk with a blank": { ...POST, body: "2 \r\n{}\r\n0\r\n\r\n", fields: [OPEN, CHUNKED] },
    "chunks with line feeds alone": { ...POST, body: "2\n{}\n0\n\n", fields: [OPEN, CHUNKED] },
    "a chunk beyond all numbers": { ...POST, body: `${"f".repeat(17)}\r\n{}\r\n`, fields: [OPEN, CHUNKED] },
    "another version": { version: "HTTP/1.2" },
    "the preface of HTTP/2": { raw: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" },
  }),
  ...refusedAtOnce(431, {
    "a head of 20 KB": { fields: [OPEN, `x: ${"y".repeat(20_000)}`] },
    "two thousand fields": { fields: [OPEN, ...Array.from({ length: 2_100 }, () => "a:"), LISTED] },
  }),
  ...refusedAtOnce(417, { "an expectation of its own": { ...POST, fields: [OPEN, "Expect: 200-ok"] } }),
  "an expectation to go on": { ...POST, fields: [OPEN, "Expect: 100-continue"], answer: [200] },
  "an expectation to go on, without a key": { ...POST, fields: ["Expect: 100-continue"], answer: missing },
  "a credential in the trailer": {
    ...POST,
    fields: [CHUNKED, "Trailer: Authorization"],
    body: "2\r\n{}\r\n0\r\nAuthorization: Bearer $OPEN\r\n\r\n",
    answer: missing,
  },
  "a second credential in the trailer is nobody's": {
    ...POST,
    fields: [LISTED, JSON_TYPE, CHUNKED],
    body: '11\r\n{"model":"gpt-5"}\r\n0\r\nAuthorization: Bearer $OPEN\r\n\r\n',
    answer: ok,
  },
  "chunks that say more": {
    ...POST,
    fields: [LISTED, JSON_TYPE, "Transfer-Encoding: CHUNKED"],
    body: '11;a="b"\r\n{"model":"gpt-5"}\r\n0\r\n\r\n',
    answer: ok,
  },
  "two Host fields": { fields: [OPEN, "Host: a", "Host: b"], answer: [200] },
  "a Host that is none": { fields: [OPEN, "Host: a b/c"], answer: [200], unheard: ["hono"] },
  "an empty Host": { fields: [OPEN, "Host:"], answer: [200], unheard: ["hono"] },
  "HTTP/1.0": { version: "HTTP/1.0", answer: [200] },
  "HTTP/1.0, without a key": { version: "HTTP/1.0", fields: [], answer: missing },
  "HTTP/0.9": { raw: "GET /\r\n\r\n", answer: missing, unheard: ["hono"] },
  "empty lines before": { raw: "\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", answer: missing },
};

/** Paths and methods: no spelling goes around the guard. */
export const ROUTES: Rows = {
  ...everyWay(
    "//v1/chat",
    "/V1/chat",
    "/%76%31/chat",
    "/v1%2fchat",
    "/./v1/chat",
    "/x/../v1/chat",
    "/../../v1/chat",
    "/v1;a=b/chat",
    "/v1/chat/",
    "/v1/chat?",
    "/v1/chat?a=1&a=2",
    "/v1/chat#/v2",
    "/v1%00/chat",
    "//evil.example/v1/chat",
    "/http://localhost/v1/chat",
    "http://localhost/v1/chat",
    "http://localhost",
    `/${"x".repeat(7_000)}`,
  ),
  ...everyWay(["hono"], "*", "foo://localhost/v1/chat", "/v1\\chat"),
  ...everyWay(["fastify 5"], "/%", "/%zz", "/%ff"),
  ...refusedAtOnce(400, {
    "a path without a slash": { line: "GET v1/chat" },
    "a path with a blank": { line: "GET /v1/ chat" },
    "a path with a tab": { line: "GET /v1/\tchat" },
    "a path with bytes beyond ASCII": { line: "GET /v1/\u00e9" },
    "a method in small letters": { line: "get /v1/chat" },
    "a method that is none": { line: "FOO /v1/chat" },
  }),
  ...refusedAtOnce(0, { CONNECT: { line: "CONNECT localhost:80" } }),
  ...Object.fromEntries(
    ["HEAD", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "QUERY", "PROPFIND", "PURGE", "M-SEARCH"].map(
      (method) => [
        `${method} without a key`,
        {
          line: `${method} /v1/chat`,
          fields: [],
          answer: [401, method === "HEAD" ? undefined : "missing_api_key"],
        } as const,
      ],
    ),
  ),
  "HEAD with a key": { line: "HEAD /v1/chat", answer: [200] },
  "OPTIONS of everything, without a key": {
    line: "OPTIONS *",
    fields: [],
    answer: missing,
    unheard: ["hono"],
  },
  "a method that another field overrides": {
    line: "POST /v1/chat",
    fields: [
      "X-HTTP-Method-Override: OPTIONS",
      "Origin: https://app.example",
      "Access-Control-Request-Method: POST",
    ],
    answer: missing,
  },
  "a path that other fields override": {
    line: "POST /v1/x",
    fields: [LISTED, "X-Original-URL: /openai/deployments/gpt-5/x", "X-Rewrite-URL: /v1/models/gpt-5"],
    answer: undetermined,
  },
  preflight: {
    line: "OPTIONS /v1/chat",
    fields: ["Origin: https://app.example", "Access-Control-Request-Method: POST"],
    answer: [204],
  },
  "half a preflight": { line: "OPTIONS /", fields: ["Origin: https://app.example"], answer: missing },
  "a preflight by GET": {
    fields: ["Origin: https://app.example", "Access-Control-Request-Method: POST"],
    answer: missing,
  },
  "an upgrade without a listener": {
    line: "GET /v1/realtime?model=x",
    fields: ["Connection: Upgrade", "Upgrade: websocket"],
    answer: missing,
  },
  "an upgrade to HTTP/2": {
    fields: ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"],
    answer: missing,
  },
};

/** With a key and without. Some frameworks refuse by themselves. */
function everyWay(...paths: readonly (string | readonly string[])[]): Rows {
  const [first] = paths;
  const unheard = typeof first === "object" ? { unheard: first } : {};
  return Object.fromEntries(
    paths
      .filter((path) => typeof path === "string")
      .flatMap((path): [string, Row][] => {
        const line = `GET ${path}`;
        const shown = path.length > 50 ? "a long path" : path;
        return [
          [`${shown} without a key`, { line, fields: [], answer: missing, ...unheard }],
          [`${shown} with one`, { line, answer: [200], ...unheard }],
        ];
      }),
  );
}

/** Proxies: the peer is one that is trusted. The key is for 203.0.113.7 only. */
export const PROXIES: Rows = {
  "a proxy that says nothing": { fields: [THERE], answer: elsewhere },
  ...Object.fromEntries(
    (
      [
        ["the client, by a trusted proxy", ["203.0.113.7"], true],
        ["the client, with blanks", [" \t203.0.113.7\t "], true],
        ["the client in IPv6", ["::ffff:203.0.113.7"], true],
        ["the client in hexadecimal IPv6", ["::FFFF:cb00:7107"], true],
        ["a forged hop before another client", ["203.0.113.7, 198.51.100.1"], false],
        ["a forged field before that of the proxy", ["203.0.113.7", "198.51.100.1"], false],
        ["two trusted hops in two fields", ["6.6.6.6, 203.0.113.7", "127.0.0.9"], true],
        ["a hop that is no address", ["203.0.113.7, unknown"], false],
        ["a hop with a port", ["203.0.113.7:5555"], false],
        ["a hop in brackets", ["[::ffff:203.0.113.7]"], false],
        ["a hop with a zone", ["::ffff:203.0.113.7%eth0"], false],
        ["an octal hop", ["0313.0.0161.07"], false],
        ["a short hop", ["203.0.28935"], false],
        ["an empty field", [""], false],
        ["an empty hop at the end", ["203.0.113.7,"], false],
        ["an empty field at the end", ["203.0.113.7", ""], false],
        ["a quoted hop", ['"203.0.113.7"'], false],
        ["32 trusted hops", [`203.0.113.7${", 127.0.0.2".repeat(31)}`], true],
        ["33 trusted hops", [`203.0.113.7${", 127.0.0.2".repeat(32)}`], false],
      ] as const
    ).map(([name, forwarded, passes]) => [
      name,
      {
        fields: [THERE, ...forwarded.map((value) => `X-Forwarded-For: ${value}`)],
        answer: passes ? [200] : elsewhere,
      } as const,
    ]),
  ),
  ...Object.fromEntries(
    [
      "Forwarded: for=203.0.113.7",
      "X-Real-IP: 203.0.113.7",
      "CF-Connecting-IP: 203.0.113.7",
      "True-Client-IP: 203.0.113.7",
      "X-Client-IP: 203.0.113.7",
      "X_Forwarded_For: 203.0.113.7",
    ].map((field) => [`nobody's field: ${field}`, { fields: [THERE, field], answer: elsewhere } as const]),
  ),
};

/** Forms of refusals, and answers of handlers. */
export const ANSWERS: Rows = {
  "a Gemini path": {
    line: "POST /v1beta/models/claude-5:generateContent",
    fields: [LISTED, JSON_TYPE],
    body: "{}",
    answer: [403, { code: 403, status: "PERMISSION_DENIED" }],
    headers: { "content-type": "application/json" },
  },
  "problem details, asked for": {
    fields: ["Accept: application/problem+json, application/json"],
    answer: missing,
    headers: { "content-type": "application/problem+json" },
  },
  "anything else, accepted": { fields: ["Accept: */*"], answer: missing },
  "a stream": { line: "GET /?chunks=5", answer: [200, "chunk 0;chunk 1;chunk 2;chunk 3;chunk 4;"] },
  "an error of the handler": { line: "GET /?status=418&chunks=1", answer: [418, "chunk 0;"] },
  "a throw of the handler": { line: "GET /?throw", answer: [500, "thrown"] },
};
