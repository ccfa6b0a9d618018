import { AtServerError } from "../atplatform/protocol/at-error.js";
import { backoff } from "../core/backoff.js";
import type { Clock } from "../core/clock.js";
import { codeOf } from "../core/errors.js";

/** By these the client says that link or server were away, with nothing wrong in what was asked. */
const AWAY: ReadonlySet<string> = new Set([
  "NOT_SENT",
  "ANSWER_LOST",
  "CONNECTION_LOST",
  "CONNECT_FAILED",
  "TIMED_OUT",
]);
const TRIES = 5;

/** Asks again, with growing pauses, while link or server are away; after some tries the last error stands. */
export async function patiently<T>(
  ask: () => Promise<T>,
  clock: Pick<Clock, "sleep">,
  signal: AbortSignal,
): Promise<T> {
  let tries = 0;
  for (const waitMs of backoff({ firstMs: 500, maxMs: 8000 })) {
    try {
      return await ask();
    } catch (error) {
      tries += 1;
      if (tries === TRIES || !isAway(error) || signal.aborted) throw error;
    }
    await clock.sleep(waitMs, signal);
  }
  throw new Error("a backoff has no end");
}

function isAway(error: unknown): boolean {
  return error instanceof AtServerError ? error.remedy === "wait" : AWAY.has(codeOf(error) ?? "");
}
