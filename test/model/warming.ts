import { memoryStore } from "../../src/stores/memory.js";
import type { CreateSubject } from "./subject.js";

/** Has the subject load all that it loads when it is needed: files take a time that is not in the timeline. */
export async function warm(create: CreateSubject): Promise<void> {
  const subject = create({
    store: memoryStore(),
    runtime: {
      monotonicMs: () => 0,
      setTimer: () => () => {},
      random: () => 0.5,
      randomBytes: (size) => new Uint8Array(size),
    },
    ...{ holdMs: 60_000, storeTimeoutMs: 5_000, drainMs: 0, requestTimeoutMs: 60_000, cacheSize: 1 },
    leases: { revalidateMs: 1_000, sharePercent: 10 },
  });
  await subject.keys.revoke("").catch(() => {});
  await subject.close();
}
