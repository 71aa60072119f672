import type { Body } from "./body.js";
import type { StoreClock } from "./clock.js";

/** What is counted of a run, to show that what is claimed to be tested really happened. */
export type Statistics = Record<string, number>;

/** One request as its caller saw it. */
export interface ModelRequest {
  readonly name: string;
  readonly keyId: string;
  readonly process: string;
  readonly digest: string;
  readonly cost: number;
  readonly arrivedStep: number;
  readonly arrivedMs: number;
  answer: "pending" | "allowed" | "refused" | "fault";
  answeredStep: number;
  answeredMs: number;
  /** How its handler ended it, if it did: the least and the most that this can have come to. */
  ended: { least: number; most: number } | undefined;
  /** Whether the caller was told that the end is stored. */
  acknowledged: boolean;
  /** Its hold may have been collected: its process was silent for longer than it had promised. */
  lost: boolean;
  /** Even the memory of that collection is gone: what was booked then stands, as the design says. */
  forgotten: boolean;
}

/** An edit of a key by its owner, from the call until the caller knew. */
export interface ModelEdit {
  readonly process: string;
  readonly keyId: string;
  readonly what: string;
  readonly calledStep: number;
  readonly calledMs: number;
  readonly took: (body: Body) => boolean;
}

/** A process, and what became of it. */
export type Ending = "running" | "crashed" | "closed" | "closedUnwritten";

/** What is known of one key. */
export interface KeyTrack {
  readonly id: string;
  readonly states: {
    readonly step: number;
    readonly atMs: number;
    readonly version: number;
    readonly body: Body;
  }[];
  readonly requests: ModelRequest[];
  /** Requests of each process that have not ended, answered or not. */
  readonly open: Map<string, Set<ModelRequest>>;
  /** Answered allowances in order of their answers, for the bound on rates. */
  readonly admitted: ModelRequest[];
  /** Who was promised something, or may have been, in order of the answers. */
  readonly held: ModelRequest[];
  /** What the acknowledged ends came to, at the least. */
  acknowledged: number;
  /** What all ends ever called for come to, at the most. */
  called: number;
  /** Of all allowances: the cost if it is known, else the estimate. */
  admittedCost: number;
  /** Costs above their estimates: facts that the quota cannot prevent. */
  debt: number;
  /** Charged for collected holds whose memory is gone. */
  forgotten: number;
  /** Requests counted by the buckets, by store order. */
  counted: number;
  highestQuota: number;
  isReleased: boolean;
  hasEditedLimits: boolean;
}

export interface OracleOptions {
  readonly clock: StoreClock;
  readonly nowMs: () => number;
  readonly step: () => number;
  /** How wrong a process may be about the store's time. */
  readonly toleranceMs: number;
  /** For how long a process may go on by what it knew; 0 without leases. */
  readonly leaseMs: number;
  /** A run without any fault, in which more can be demanded. */
  readonly isCalm: boolean;
  readonly statistics: Statistics;
  readonly fail: (invariant: string, detail: string) => void;
}

/** Everything the oracle remembers, shared by its two halves: what callers saw, and what the store held. */
export interface Account extends OracleOptions {
  readonly tracks: ReadonlyMap<string, KeyTrack>;
  trackOf(keyId: string): KeyTrack;
  /** What became of each process. */
  readonly endings: Map<string, Ending>;
  /** Which process made an identity. The first that ever wrote it, whether or not that arrived. */
  readonly ownerOf: Map<string, string>;
  /** Edits of a key called in a process and not resolved, and those resolved last. */
  editsOf(process: string, keyId: string): Edits;
  count(name: string): void;
}

export interface Edits {
  running: number;
  lastStep: number;
  atLastStep: number;
}

export function openAccount(options: OracleOptions): Account {
  const tracks = new Map<string, KeyTrack>();
  const editing = new Map<string, Edits>();
  return {
    ...options,
    tracks,
    trackOf: (keyId) => getOrMake(tracks, keyId, () => newTrack(keyId)),
    endings: new Map(),
    ownerOf: new Map(),
    editsOf: (process, keyId) =>
      getOrMake(editing, `${process} ${keyId}`, () => ({ running: 0, lastStep: 0, atLastStep: 0 })),
    count(name) {
      options.statistics[name] = (options.statistics[name] ?? 0) + 1;
    },
  };
}

/** A process's requests of a key that have not ended. */
export function openOf(track: KeyTrack, process: string): Set<ModelRequest> {
  return getOrMake(track.open, process, () => new Set());
}

export function latestBody({ states }: KeyTrack): Body | undefined {
  return states.at(-1)?.body;
}

/** The state that was in force when a step began, and all that followed. */
/** The state at a step, or at a time before it, and all that followed. */
export function statesSince(
  { states }: KeyTrack,
  sinceStep: number,
  sinceMs = Number.POSITIVE_INFINITY,
): readonly Body[] {
  const isLater = (at: number): boolean =>
    (states[at]?.step ?? 0) > sinceStep || (states[at]?.atMs ?? 0) > sinceMs;
  let from = states.length - 1;
  while (from > 0 && isLater(from)) from -= 1;
  return states.slice(Math.max(0, from)).map(({ body }) => body);
}

function newTrack(id: string): KeyTrack {
  return {
    id,
    states: [],
    requests: [],
    open: new Map(),
    admitted: [],
    held: [],
    acknowledged: 0,
    called: 0,
    admittedCost: 0,
    debt: 0,
    forgotten: 0,
    counted: 0,
    highestQuota: 0,
    isReleased: false,
    hasEditedLimits: false,
  };
}

function getOrMake<V>(map: Map<string, V>, name: string, make: () => V): V {
  let value = map.get(name);
  if (value === undefined) {
    value = make();
    map.set(name, value);
  }
  return value;
}
