/** A process that adds to a sum in Redis, together with others. */
import { serve } from "./link.ts";
import { openRedisStore } from "./redis-store.ts";

const [url = "", client = ""] = process.argv.slice(2);
const store = await openRedisStore(url, client);
await store.setup();

/** Adds one, so often; every attempt goes by what the last one was shown. Tells how many attempts were lost. */
async function add(count: number): Promise<number> {
  let [version, sum, losses] = [0, 0, 0];
  for (let n = 0; n < count; ) {
    const { results } = await store.write([[{ id: "sum:1", expected: version, set: sum + 1 }]]);
    const [result] = results;
    if (result?.written) {
      [n, sum, version] = [n + 1, sum + 1, result.versions[0] ?? 0];
    } else {
      losses += 1;
      [version, sum] = [result?.current[0]?.version ?? 0, Number(result?.current[0]?.body ?? 0)];
    }
  }
  return losses;
}

serve({ add });
