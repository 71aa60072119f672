import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { inspect } from "node:util";
import { serve } from "@hono/node-server";
import { createKeystile, fixedPrice, type IssuedKey, type Store } from "keystile";
import { sqliteStore } from "keystile/sqlite";
import { afterAll, expect, test, vi } from "vitest";
import { createGateway } from "../../examples/gateway/gateway.ts";

/** Long enough that no window of it occurs by chance. */
const WINDOW = 12;

const folder = mkdtempSync(join(tmpdir(), "keystile-leaks-"));
const printed: string[] = [];
const spies = (["log", "info", "warn", "error", "debug"] as const).map((method) =>
  vi.spyOn(console, method).mockImplementation((...values) => void printed.push(inspect(values))),
);

afterAll(() => {
  for (const spy of spies) spy.mockRestore();
  rmSync(folder, { recursive: true });
});

test("no secret is in anything that is answered, forwarded, printed, thrown or stored", async () => {
  const seen: { readonly where: string; readonly text: string }[] = [];
  const secrets: string[] = [];
  function see(where: string, text: string): void {
    seen.push({ where, text });
  }

  // A provider that breaks off when it is told to, and shows what it was sent.
  const upstream = createServer((request, response) => {
    see("forwarded", request.rawHeaders.join("\n") + request.url);
    request.resume();
    if (request.headers["x-fail"] !== undefined) return void request.socket.destroy();
    return void response.end(JSON.stringify({ id: "x", data: [{ id: "gpt-a" }] }));
  });
  await new Promise<void>((resolve) => upstream.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(upstream.address() as AddressInfo).port}`;

  const files = sqliteStore(join(folder, "keys.db"));
  await files.setup();
  let isDown = false;
  const store: Store = {
    ...files,
    write: (groups) =>
      isDown ? Promise.reject(new Error(`down: ${inspect(groups, { depth: 9 })}`)) : files.write(groups),
  };
  const gate = createKeystile({ store, storeTimeoutMs: 500, drainMs: 0 });
  const app = createGateway({
    keystile: gate,
    upstream: { url, apiKey: "provider-key" },
    prices: fixedPrice(1),
  });
  const server = serve({ fetch: app.fetch, port: 0, hostname: "127.0.0.1" });
  await new Promise((resolve) => server.once("listening", resolve));
  const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

  async function ask(headers: Record<string, string>, model = "gpt-a", path = "/v1/chat/completions") {
    const body = JSON.stringify({ model, messages: [] });
    const init = { method: "POST", headers: { "content-type": "application/json", ...headers }, body };
    const response = await fetch(base + path, init);
    see(`answered ${response.status}`, inspect([...response.headers]) + (await response.text()));
    return response.status;
  }
  async function issued(input: Parameters<typeof gate.keys.issue>[0]): Promise<IssuedKey> {
    const result = await gate.keys.issue(input);
    secrets.push(result.secret);
    see("view", inspect(result.key, { depth: 9, showHidden: true }));
    return result;
  }
  async function thrown(call: Promise<unknown>): Promise<void> {
    see("thrown", inspect(await call.catch((error: unknown) => error), { depth: 9, showHidden: true }));
  }

  const good = await issued({ allowedModels: ["gpt-*"], quota: 3, metadata: { plan: "free" } });
  const bearer = { authorization: `Bearer ${good.secret}` };
  const statuses = [
    await ask(bearer),
    await ask({ "x-api-key": good.secret }),
    await ask(bearer, "other"),
    await ask({ ...bearer, "x-fail": "1" }),
    await ask({ authorization: `Basic ${good.secret}` }),
    await ask({ authorization: `Bearer ${good.secret} ${good.secret}` }),
    await ask({ "x-api-key": `${good.secret}x!` }),
    await ask({}, "gpt-a", `/v1/${good.secret}`),
    await ask(bearer),
    await ask(bearer),
    await ask({ "x-api-key": (await issued({ allowedIps: ["192.0.2.1"] })).secret }),
    await ask({
      "x-api-key": (await issued({ limits: [{ requests: 1, windowMs: 60_000 }], quota: 0 })).secret,
    }),
  ];
  expect(statuses).toEqual([200, 200, 403, 502, 401, 401, 401, 404, 200, 402, 403, 402]);

  const rotated = await gate.keys.rotate(good.key.id, { graceMs: 60_000 });
  secrets.push(rotated.secret);
  see("view", inspect(rotated.key));
  const decision = await gate.authorize({ headers: { "x-api-key": rotated.secret } });
  see("decision", inspect(decision, { depth: 9, showHidden: true }) + JSON.stringify(decision));
  await thrown(gate.keys.revoke(good.secret));
  await thrown(gate.keys.issue({ secret: good.secret }));
  await thrown(gate.keys.issue({ [good.secret]: 1 } as never));
  await thrown(gate.keys.update(good.key.id, { quota: good.secret } as never));
  await thrown(Promise.resolve().then(() => createKeystile({ store, realm: `"${good.secret}` })));
  isDown = true;
  const spare = await files.list({ kind: "key", limit: 10 });
  expect(await ask({ "x-api-key": rotated.secret })).toBe(503);
  await thrown(gate.keys.issue());
  await thrown(gate.keys.disable(good.key.id));
  isDown = false;
  expect(await gate.close()).toEqual({ unwritten: 0 });
  see("gate", inspect(gate, { depth: 9, showHidden: true }));
  see("listed", JSON.stringify(spare));

  server.close();
  upstream.close();
  for (const name of readdirSync(folder)) see(`file ${name}`, readFileSync(join(folder, name), "latin1"));
  await files.close();
  for (const name of readdirSync(folder)) see(`file ${name}`, readFileSync(join(folder, name), "latin1"));
  for (const text of printed) see("printed", text);

  const kinds = new Set(seen.map(({ where }) => where.split(" ")[0]));
  expect([...kinds].toSorted()).toEqual(
    ["answered", "decision", "file", "forwarded", "gate", "listed", "printed", "thrown", "view"].toSorted(),
  );
  expect(secrets).toHaveLength(4);
  expect(
    seen.flatMap(({ where, text }) => (secrets.some((secret) => shows(text, secret)) ? [where] : [])),
  ).toEqual([]);
  // The search itself works: in what was forwarded it finds what the provider was to get.
  expect(seen.some(({ where, text }) => where === "forwarded" && shows(text, "sk-Bearer provider-key"))).toBe(
    true,
  );
});

/** Whether a text holds any twelve characters of a secret in a row, as they are or in base64. */
function shows(text: string, secret: string): boolean {
  const body = secret.slice("sk-".length);
  const encoded = [0, 1, 2].map((shift) => btoa("x".repeat(shift) + body).slice(4, -4));
  return [body, ...encoded].some((form) => {
    for (let at = 0; at + WINDOW <= form.length; at += 1) {
      if (text.includes(form.slice(at, at + WINDOW))) return true;
    }
    return false;
  });
}
