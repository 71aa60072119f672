/** Says that there is no such name, and which one may have been meant. */
export function noSuchName(unknown: string, names: readonly string[]): string {
  const nearest = nearestName(unknown, names);
  return `there is no "${unknown}"${nearest === undefined ? "." : `; did you mean "${nearest}"?`}`;
}

/** The known name that shares most pairs of letters with an unknown one (Dice's coefficient). */
function nearestName(unknown: string, names: readonly string[]): string | undefined {
  const wanted = letterPairs(unknown);
  const likeness = (name: string): number => {
    const pairs = letterPairs(name);
    const shared = [...pairs].filter((pair) => wanted.has(pair)).length;
    return (2 * shared) / Math.max(1, pairs.size + wanted.size);
  };
  const [best] = names.toSorted((a, b) => likeness(b) - likeness(a));
  return best !== undefined && likeness(best) > 0.3 ? best : undefined;
}

function letterPairs(name: string): ReadonlySet<string> {
  const letters = name.toLowerCase();
  return new Set(
    Array.from({ length: Math.max(0, letters.length - 1) }, (_, at) => letters.slice(at, at + 2)),
  );
}
