import { type Part, partOf } from "./attempt.js";
import type { Task } from "./task-line.js";

/** Documents of one attempt. Each may close a day, which makes it another one; a group has at most 32. */
const MAX_DOCUMENTS = 16;

/** The documents that an attempt is about: the anchor, those of holds to renew, and those of tasks that need not wait. */
export function chooseDocuments(
  anchorId: string,
  renewals: ReadonlySet<string>,
  tasks: readonly Task[],
  timeMs: number,
): readonly string[] {
  const [task] = tasks;
  // Of most groups, one request waits, and the list of its documents is there already.
  if (tasks.length === 1 && renewals.size === 0 && task !== undefined && task.resumeAtMs <= timeMs)
    return task.ids.all;
  const ids = [anchorId];
  // Holds that are due come first, but leave half of the room to whoever waits.
  let room = MAX_DOCUMENTS / 2;
  for (const id of renewals) if (room-- > 0) want(ids, [id]);
  for (const task of tasks) if (task.resumeAtMs <= timeMs) want(ids, task.ids.all);
  for (const id of renewals) want(ids, [id]);
  return ids;
}

/** The tasks that are due and whose documents are there. */
export function readyTasks(
  waiting: readonly Task[],
  parts: readonly Part[],
  timeMs: number,
): readonly Task[] {
  const isReady = ({ ids, resumeAtMs }: Task): boolean =>
    resumeAtMs <= timeMs && ids.all.every((id) => partOf(parts, id) !== undefined);
  return waiting.every(isReady) ? waiting : waiting.filter(isReady);
}

/** Adds documents to those of an attempt: all of them, or none if there is no room for all. */
function want(ids: string[], wanted: readonly string[]): void {
  let fresh = 0;
  for (const id of wanted) if (!ids.includes(id)) fresh += 1;
  if (fresh === 0 || ids.length + fresh > MAX_DOCUMENTS) return;
  for (const id of wanted) if (!ids.includes(id)) ids.push(id);
}
