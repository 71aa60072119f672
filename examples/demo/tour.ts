/**
 * What `npm run demo` plays: the example gateway in front of its model server, its keys in an SQLite file, and what
 * callers send and get over HTTP. One line per scene; the exit code is 1 if one did not come out as it says.
 */
import { styleText } from "node:util";
import type { IssueInput } from "keystile";
import { bearer, openStage, type SceneKey, type SceneSubscription, type Step } from "./stage.ts";

interface Scene {
  readonly name: string;
  /** What is sent, for people. */
  readonly sent: string;
  /** What the scene's own key may do. Without it, the scene has a key that nobody was given. */
  readonly policy?: IssueInput;
  /** Instead of it, the subscription its key is of. */
  readonly subscription?: SceneSubscription;
  /** Done one after another. */
  readonly steps: readonly Step[];
  /** What has to come back. */
  readonly back: string;
}

const HOUR_MS = 3_600_000;
const MONTH_MS = 31 * 24 * HOUR_MS;
const WIDTHS: readonly number[] = [13, 5, 28, 0];

const stage = await openStage();
const { send, pass, twoAtOnce, revokeElsewhere, rotate, whileLocked, billed, left, restart } = stage;
const stranger = await stage.issue(undefined);

const scenes: readonly Scene[] = [
  {
    name: "allowed",
    sent: "gpt-demo, as Bearer",
    policy: {},
    steps: [send({ show: (text) => JSON.parse(text).choices[0].message.content })],
    back: "200 This is gpt-demo. You said: Hello",
  },
  {
    name: "Anthropic",
    sent: "claude-demo, as x-api-key",
    policy: {},
    steps: [
      send({
        path: "/v1/messages",
        headers: ({ secret }) => ({ "x-api-key": secret }),
        body: { model: "claude-demo", max_tokens: 64 },
        show: (text) => JSON.parse(text).content[0].text,
      }),
    ],
    back: "200 This is claude-demo. You said: Hello",
  },
  {
    name: "streamed",
    sent: "gpt-demo, stream: true",
    policy: {},
    steps: [send({ body: { stream: true }, show: eventsOf })],
    back: "200 9 events, the last is [DONE]",
  },
  {
    name: "no key",
    sent: "no credential",
    steps: [send({ headers: () => ({}) })],
    back: "401 missing_api_key",
  },
  {
    name: "wrong key",
    sent: "a key nobody was given",
    steps: [send()],
    back: "401 invalid_api_key",
  },
  {
    name: "expired",
    sent: "in time, and an hour later",
    policy: { expiresAt: stage.now() + HOUR_MS },
    steps: [send(), pass(HOUR_MS), send()],
    back: "200, 401 expired_api_key",
  },
  {
    name: "wrong model",
    sent: "research-demo; gpt-* allowed",
    policy: { allowedModels: ["gpt-*"] },
    steps: [send({ body: { model: "research-demo" } })],
    back: "403 model_access_denied",
  },
  {
    name: "wrong address",
    sent: "a forged X-Forwarded-For",
    policy: { allowedIps: ["10.0.0.0/8"] },
    steps: [send({ headers: ({ secret }) => ({ ...bearer(secret), "x-forwarded-for": "10.0.0.7" }) })],
    back: "403 ip_not_allowed",
  },
  {
    name: "both headers",
    sent: "good Bearer, then a bad one",
    policy: {},
    steps: [
      send({ headers: ({ secret }) => ({ ...bearer(secret), "x-api-key": stranger.secret }) }),
      send({ headers: ({ secret }) => ({ ...bearer(stranger.secret), "x-api-key": secret }) }),
    ],
    back: "200, 401 invalid_api_key",
  },
  {
    name: "rate limit",
    sent: "one per 7.5 s; two at once",
    policy: { limits: [{ requests: 8, windowMs: 60_000, burst: 1 }] },
    steps: [send(), send()],
    back: "200, 429 rate_limit_exceeded (Retry-After 8)",
  },
  {
    name: "waited",
    sent: "one per 7.5 s; in time",
    policy: { limits: [{ requests: 8, windowMs: 60_000, burst: 1 }] },
    steps: [send(), pass(7_500), send()],
    back: "200, 200",
  },
  {
    name: "in flight",
    sent: "1 at a time; two at once",
    policy: { limits: [{ inFlight: 1 }] },
    steps: [twoAtOnce],
    back: "200, 429 rate_limit_exceeded (Retry-After 1)",
  },
  {
    name: "quota",
    sent: "a quota of 2; three requests",
    policy: { quota: 2 },
    steps: [send(), send(), send()],
    back: "200, 200, 402 quota_exceeded",
  },
  {
    name: "revoked",
    sent: "by the second; asked at both",
    policy: {},
    steps: [send(), revokeElsewhere, send(), send({ at: "second" })],
    back: "200, 401 invalid_api_key, 401 invalid_api_key",
  },
  {
    name: "rotated",
    sent: "old, new; after grace: both",
    policy: {},
    steps: [
      rotate(HOUR_MS),
      send(),
      send({ headers: fresh }),
      pass(HOUR_MS),
      send(),
      send({ headers: fresh }),
    ],
    back: "200, 200, 401 invalid_api_key, 200",
  },
  {
    name: "metered",
    sent: "streams, billed by tokens",
    policy: {},
    steps: [
      send({ at: "metered", body: { stream: true } }),
      send({
        at: "metered",
        path: "/v1/messages",
        body: { model: "claude-demo", max_tokens: 64, stream: true },
      }),
      billed,
    ],
    back: "200, 200, claude-demo 93, gpt-demo 50",
  },
  {
    name: "subscription",
    sent: "1 a month, 1 paid; the next",
    subscription: {
      payAsYouGo: { capPerCycle: 1 },
      credited: 100,
      subscribed: { plan: { name: "one", allowance: 1 } },
    },
    steps: [send(), send(), send(), pass(MONTH_MS), left, send()],
    back: "200, 200, 402 quota_exceeded, 1 left, 200",
  },
  {
    name: "outage",
    sent: "the file locked, and free",
    policy: {},
    steps: [whileLocked(send({ at: "hasty" })), send({ at: "hasty" })],
    back: "503 service_unavailable (Retry-After 1), 200",
  },
  {
    name: "restarted",
    sent: "before, and from the file",
    policy: {},
    steps: [send(), restart, send()],
    back: "200, all booked, 200",
  },
];

try {
  console.log(styleText("bold", `  ${row("scene", "key", "what was sent", "what came back")}`));
  let asSaid = 0;
  for (const scene of scenes) if (await play(scene)) asSaid += 1;
  console.log(`\n${asSaid} of ${scenes.length} scenes came out as they say.`);
  process.exitCode = asSaid === scenes.length ? 0 : 1;
} finally {
  await stage.close();
}

/** One scene, one line; below it what was expected, if that is not what came. */
async function play({ name, sent, policy, subscription, steps, back }: Scene): Promise<boolean> {
  const answers: string[] = [];
  const key = await (subscription === undefined ? stage.issue(policy) : stage.subscribe(subscription));
  try {
    for (const step of steps) {
      const answer = await step(key);
      if (answer !== undefined) answers.push(answer);
    }
  } catch (error) {
    answers.push(String(error));
  }
  const came = answers.join(", ");
  const mark = came === back ? styleText("green", "✓") : styleText("red", "✗");
  console.log(`${mark} ${row(name, key.hint, sent, came)}`);
  if (came !== back) console.log(`  ${row("", "", "expected", back)}`);
  return came === back;
}

function row(...columns: readonly string[]): string {
  return columns.map((text, at) => text.padEnd(WIDTHS[at] ?? 0)).join("  ");
}

function fresh({ newSecret }: SceneKey): Record<string, string> {
  return bearer(newSecret);
}

function eventsOf(stream: string): string {
  const events = stream.match(/(?<=^data: ).*$/gm) ?? [];
  return `${events.length} events, the last is ${events.at(-1)}`;
}
