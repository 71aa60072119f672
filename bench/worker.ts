/** One contender in a process of its own, so that none runs on the heap and the compiled code of another. */
import type { Load, Sample, Subjects } from "./subject.ts";

export type ToWorker = { readonly load: Load } | { readonly close: true };
export type FromWorker = { readonly sample: Sample } | { readonly ready: true };

const [part = "", name = "", address = ""] = process.argv.slice(2);
const { subjects } = (await import(`./${part}.ts`)) as { readonly subjects: Subjects };
const open = subjects[name];
if (open === undefined) throw new TypeError(`${part} has no contender ${name}.`);
const subject = await open(address);

process.on("message", (message: ToWorker) => void act(message));
tell({ ready: true });

async function act(message: ToWorker): Promise<void> {
  if ("load" in message) return tell({ sample: await subject.measure(message.load) });
  await subject.close();
  process.disconnect();
}

function tell(message: FromWorker): void {
  process.send?.(message);
}
