/** Floods of requests that are refused, beside requests that pass: how fast, and what they leave in memory. */
import { memoryStore } from "keystile/memory";
import { ADDRESS, bearer, MODEL, makeKeys, openGate, POLICY, pass, secretOf } from "./gate.ts";
import type { Entry } from "./rounds.ts";
import { ask, heapBytes, type Load, type Sample, type Subject, type Subjects } from "./subject.ts";

const KEYS = 1_000;

export const subjects: Subjects = {
  allowed: async () => flood((n) => secretOf("flood", n % KEYS), true),
  malformed: async () => flood((n) => `sk-${n} is no secret`, false),
  // Never the same secret twice, as whoever guesses would send them.
  unknown: async () => flood((n) => `sk-${n.toString(36).padStart(32, "a")}`, false),
  "over limit": async () => flood((n) => secretOf("spent", n % KEYS), false),
};

export function entries(): readonly Entry[] {
  const load = { keys: KEYS, callers: 64 };
  return Object.keys(subjects).map((name) => ({
    ...{ part: "flood", scenario: "flood", contender: name, subject: name, load },
  }));
}

/** A gate whose keys pass, or have nothing left; `secretAt` says with which secret the nth request comes. */
async function flood(secretAt: (n: number) => string, passes: boolean): Promise<Subject> {
  const store = memoryStore();
  await makeKeys(store, KEYS, "flood");
  await makeKeys(store, KEYS, "spent", { ...POLICY, limits: [{ requests: 1, windowMs: 31 * 86_400_000 }] });
  const gate = openGate(store);
  for (let n = 0; n < KEYS; n++) await pass(gate, bearer(secretOf("spent", n)));
  let sent = 0;

  async function request(): Promise<void> {
    const headers = bearer(secretAt(sent++));
    const decision = await gate.authorize({ headers, address: ADDRESS, model: MODEL, cost: 1 });
    if (decision.allowed !== passes) throw new Error("It was to be otherwise.");
    if (decision.allowed) void decision.settle();
  }

  async function measure(load: Load): Promise<Sample> {
    const before = heapBytes();
    const sample = await ask(load, request, () => gate.flush());
    return { ...sample, figures: { grownBytes: heapBytes() - before } };
  }

  return { measure, close: async () => void (await gate.close()) };
}
