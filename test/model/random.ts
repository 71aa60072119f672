/** A small seeded generator: the whole history of a run follows from one number. */
export interface Random {
  /** From 0 up to 1. */
  next(): number;
  /** An integer from `low` to `high`, both included. */
  between(low: number, high: number): number;
  chance(probability: number): boolean;
  pick<T>(list: readonly T[]): T;
  /** Times of independent events: mostly shorter than the mean, now and then much longer. */
  gap(meanMs: number): number;
  /** A generator of its own, so that one part drawing more does not shift the others. */
  fork(): Random;
}

/** Mulberry32: 32 bits of state are plenty for a few thousand draws, and it fits in five lines. */
export function randomFrom(seed: number): Random {
  let state = seed >>> 0;

  function next(): number {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  }

  return {
    next,
    between: (low, high) => low + Math.floor(next() * (high - low + 1)),
    chance: (probability) => next() < probability,
    pick<T>(list: readonly T[]): T {
      return list[Math.floor(next() * list.length)] as T;
    },
    gap: (meanMs) => Math.round(-Math.log(1 - next()) * meanMs),
    fork: () => randomFrom(Math.floor(next() * 4_294_967_296)),
  };
}
