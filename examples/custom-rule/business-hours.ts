/**
 * A rule of one's own: keys of the free plan work in business hours only. Run it to see it decide:
 *
 *   npm run build && node examples/custom-rule/business-hours.ts
 */
import { fileURLToPath } from "node:url";
import { createKeystile, type Rule } from "keystile";
import { memoryStore } from "keystile/memory";
import { manualClock } from "keystile/testing";

/**
 * Keys with the metadata `plan: "free"` pass from Monday to Friday, 9 to 17 o'clock UTC; all others at any time.
 *
 * It goes by the `now` it is handed, the store's time, and by nothing else. So it can be tested without a server,
 * all processes answer alike, and a decision that has to be made again comes out the same.
 */
export const businessHours: Rule = {
  name: "business-hours",
  allows: (_facts, { policy }, now) => policy.metadata?.["plan"] !== "free" || isBusinessHour(new Date(now)),
};

function isBusinessHour(time: Date): boolean {
  const [day, hour] = [time.getUTCDay(), time.getUTCHours()];
  return day >= 1 && day <= 5 && hour >= 9 && hour < 17;
}

async function main(): Promise<void> {
  const friday = manualClock(Date.UTC(2030, 0, 4, 16, 59));
  const gate = createKeystile({ store: memoryStore({ clock: friday.now }), rules: [businessHours] });
  const keys = {
    free: await gate.keys.issue({ metadata: { plan: "free" } }),
    paid: await gate.keys.issue({ metadata: { plan: "paid" } }),
  };

  async function askWithEach(): Promise<void> {
    for (const [plan, { secret }] of Object.entries(keys)) {
      const decision = await gate.authorize({ headers: { authorization: `Bearer ${secret}` } });
      const time = new Date(friday.now()).toUTCString().slice(0, -7);
      console.log(`${time}  ${plan}  ${decision.allowed ? "allowed" : refusedBy(decision.refusal)}`);
      if (decision.allowed) await decision.settle();
    }
  }

  await askWithEach();
  friday.advance(60_000);
  await askWithEach();
  await gate.close();
}

/** The client is told no more than `access_denied`; which rule it was is for the operator. */
function refusedBy({ status, code, rule }: { status: number; code: string; rule?: string }): string {
  return `refused  ${status} ${code}, by the rule ${rule}`;
}

// Imported by its test, it does nothing but hand out the rule.
if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
