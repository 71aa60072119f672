/** The store's clock: virtual time plus an offset that jumps. Remembers its past, so that a judge can look back. */
export interface StoreClock {
  at(virtualMs: number): number;
  jump(virtualMs: number, byMs: number): void;
  /** The latest it ever showed. */
  latest(virtualMs: number): number;
  /** The earliest and the latest it showed between two moments of virtual time. */
  range(fromMs: number, untilMs: number): { readonly earliest: number; readonly latest: number };
  /** How far it went forwards in all, jumps included; what a leaky bucket can have drained at the most. */
  forwards(virtualMs: number): number;
  readonly jumps: number;
}

interface Stretch {
  readonly fromMs: number;
  readonly offset: number;
  /** What `forwards` counts beyond virtual time itself. */
  readonly jumpedForwards: number;
  /** The latest time shown before this stretch began. */
  readonly latestBefore: number;
}

export function storeClock(startMs: number): StoreClock {
  const stretches: Stretch[] = [{ fromMs: 0, offset: startMs, jumpedForwards: 0, latestBefore: 0 }];
  const last = (): Stretch => stretches.at(-1) as Stretch;

  const shown = (virtualMs: number, { offset }: Stretch): number => Math.floor(virtualMs) + offset;

  function stretchAt(virtualMs: number): number {
    let index = stretches.length - 1;
    while (index > 0 && (stretches[index] as Stretch).fromMs > virtualMs) index -= 1;
    return index;
  }

  return {
    at: (virtualMs) => shown(virtualMs, last()),
    jump(virtualMs, byMs) {
      const { offset, jumpedForwards } = last();
      stretches.push({
        fromMs: virtualMs,
        offset: offset + byMs,
        jumpedForwards: jumpedForwards + Math.max(0, byMs),
        latestBefore: this.latest(virtualMs),
      });
    },
    latest: (virtualMs) => Math.max(last().latestBefore, shown(virtualMs, last())),
    range(fromMs, untilMs) {
      let earliest = Number.POSITIVE_INFINITY;
      let latest = Number.NEGATIVE_INFINITY;
      for (let index = stretchAt(fromMs); index < stretches.length; index++) {
        const { fromMs: begin, offset } = stretches[index] as Stretch;
        if (begin > untilMs) break;
        const end = Math.min(untilMs, stretches[index + 1]?.fromMs ?? untilMs);
        earliest = Math.min(earliest, Math.max(begin, fromMs) + offset);
        latest = Math.max(latest, end + offset);
      }
      return { earliest, latest };
    },
    forwards(virtualMs) {
      return virtualMs + (stretches[stretchAt(virtualMs)] as Stretch).jumpedForwards;
    },
    get jumps() {
      return stretches.length - 1;
    },
  };
}
