/**
 * One of several processes on one SQLite file, with the package as it is published. Says on its standard output,
 * as JSON, what it was told.
 */
import { sqliteStore } from "keystile/sqlite";

const [task = "", file = "", count = "0", side = "0"] = process.argv.slice(2);
const store = sqliteStore(file);

async function setup(): Promise<unknown> {
  await store.setup();
  const { results } = await store.write([[{ id: `process:${side}`, expected: 0, set: true }]]);
  return results;
}

/** Adds one to a document, so often; every attempt goes by what the last one was shown. */
async function increment(): Promise<unknown> {
  let version = 0;
  let sum = 0;
  let losses = 0;
  for (let n = 0; n < Number(count); ) {
    const { results } = await store.write([[{ id: "sum:1", expected: version, set: sum + 1 }]]);
    const result = results[0];
    if (result?.written) {
      n += 1;
      sum += 1;
      version = result.versions[0] ?? 0;
    } else {
      losses += 1;
      version = result?.current[0]?.version ?? 0;
      sum = Number(result?.current[0]?.body ?? 0);
    }
  }
  return { losses };
}

/** Creates `q` while `p` is absent, or the other way round; the rounds it won. */
async function mirror(): Promise<unknown> {
  const won: number[] = [];
  for (let round = 0; round < Number(count); round += 1) {
    const pair = [`pair:p${round}`, `pair:q${round}`];
    const [checked = "", created = ""] = side === "0" ? pair : pair.reverse();
    const group = [
      { id: checked, expected: 0 },
      { id: created, expected: 0, set: side },
    ];
    const { results } = await store.write([group]);
    if (results[0]?.written) won.push(round);
  }
  return { won };
}

const tasks: Readonly<Record<string, () => Promise<unknown>>> = { setup, increment, mirror };
console.log(JSON.stringify(await tasks[task]?.()));
await store.close();
