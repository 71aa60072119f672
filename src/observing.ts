import type { Allowed, Refused } from "./decision.js";
import { isKeystileError } from "./errors.js";
import type { FailureCode, RequestJudgedEvent } from "./events.js";
import type { Answered, Arriving, Guard, Passed, ReadsBody } from "./guard.js";
import type { Keystile } from "./keystile.js";
import { systemRuntime } from "./runtime.js";

/** What a guard that only observes would have done with a request, which went on all the same. */
export type Judged =
  /** Let it pass. What it costs is held, and booked when the answer is over. */
  | { readonly would: "pass"; readonly decision: Allowed }
  | { readonly would: "refuse"; readonly decision: Refused }
  /** Answered 503 on a fault, or left what was thrown to the error handler; or it could not be told in time. */
  | { readonly would: "fail"; readonly code: FailureCode; readonly error: unknown }
  /** Answered a CORS preflight itself. */
  | { readonly would: "answer" };

/** Makes of a guard one that tells what it would do, and lets everything through. */
export function observing<R>(gate: Keystile, pass: Pass<R>, maxWaitMs: number): Guard<R>["pass"] {
  // When the code that makes the guard has run, which may listen only then.
  queueMicrotask(() => {
    if (!gate.emit({ type: "guard.observing" })) console.warn(UNHEARD);
  });

  return async (arriving, read) => {
    const patience = new AbortController();
    const { signal } = patience;
    const late = new Promise<never>((_, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason));
    });
    const stop = systemRuntime.setTimer(() => patience.abort(), maxWaitMs);
    let isBroken = false;

    async function readInTime(maxBytes: number): ReturnType<ReadsBody> {
      try {
        return await read(maxBytes, signal);
      } catch (error) {
        isBroken = true;
        throw error;
      }
    }

    function failed(error: unknown): Passed {
      const code = isKeystileError(error) ? error.code : isBroken ? "gone" : "threw";
      return passed({ would: "fail", code: signal.aborted ? "late" : code, error });
    }

    const outcome = await Promise.race([judge(pass, arriving, readInTime, signal), late]).catch(failed);
    stop();
    gate.emit(eventOf(outcome.marks.keystileJudged as Judged));
    return outcome;
  };
}

const UNHEARD =
  'keystile: a guard with mode "observe" lets every request through. Listen to "guard.observing" to be told there.';

/** A guard that answers. When `signal` is aborted, the body is the handler's. */
type Pass<R> = (arriving: Arriving<R>, read: ReadsBody, signal: AbortSignal) => Promise<Answered | Passed>;

async function judge<R>(
  pass: Pass<R>,
  arriving: Arriving<R>,
  read: ReadsBody,
  signal: AbortSignal,
): Promise<Passed> {
  const outcome = await pass(arriving, read, signal);
  if (outcome.answer !== undefined) return passed(outcome.judged);
  const { marks, meter, end } = outcome;
  if (signal.aborted) end?.("failed");
  return { ...passed({ would: "pass", decision: marks.keystile as Allowed }), meter, end };
}

function passed(judged: Judged): Passed {
  return { headers: {}, meter: undefined, end: undefined, marks: { keystileJudged: judged } };
}

function eventOf(judged: Judged): RequestJudgedEvent {
  const type = "request.judged";
  if (judged.would === "pass") return { type, would: "pass", keyId: judged.decision.key.id };
  if (judged.would === "fail") return { type, would: "fail", code: judged.code };
  if (judged.would === "answer") return { type, would: "answer" };
  const { key, refusal } = judged.decision;
  const { reason, status } = refusal;
  return { type, would: "refuse", ...(key && { keyId: key.id }), reason, status };
}
