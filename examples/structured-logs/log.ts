/** One line of JSON for each event of a gate. Whatever clients send, it is one line, of ours, in plain ASCII. */
import { fileURLToPath } from "node:url";
import { createKeystile, type Keystile, type KeystileEvent } from "keystile";
import { memoryStore } from "keystile/memory";

/** A model's name is the only text of clients in an event. Nobody needs to read more of it than this. */
const MAX_TEXT = 128;

/**
 * The line of an event. Text of clients is a value in it, never a name; and whatever a terminal, a viewer or a splitter of
 * lines might take for more than text is escaped: line ends of all kinds, escape sequences, marks that turn the direction.
 */
export function logLine(event: KeystileEvent, time: Date): string {
  const shortened = (_name: string, value: unknown): unknown =>
    typeof value === "string" && value.length > MAX_TEXT ? `${value.slice(0, MAX_TEXT)}...` : value;
  const { type, ...about } = event;
  return JSON.stringify({ time: time.toISOString(), type, about }, shortened).replace(
    /[^ -~]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** Logs everything that happens at a gate. Returns a function that ends it. */
export function logEvents(gate: Keystile, write: (line: string) => void): () => void {
  return gate.on("*", (event) => write(`${logLine(event, new Date())}\n`));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const gate = createKeystile({ store: memoryStore() });
  logEvents(gate, (line) => process.stdout.write(line));
  const { secret } = await gate.keys.issue({ owner: "ann", quota: 10 });
  const headers = { authorization: `Bearer ${secret}` };
  const forged = 'gpt-5"}\n{"time":"2030-01-01T00:00:00.000Z","type":"key.revoked"}\u001b[2K';
  const decision = await gate.authorize({ headers, model: forged });
  if (decision.allowed) await decision.settle();
  await gate.authorize({ headers: { "x-api-key": "sk-unknown\n" } });
  await gate.close();
}
