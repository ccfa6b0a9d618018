import type { Clock } from "./clock.js";
import { TimedOut } from "./errors.js";
import { ChildSignal } from "./scope.js";

export interface DeadlineOptions {
  readonly clock: Clock;
  readonly timeoutMs: number;
  /** What did not come in time, for the message: "the answer to notify". */
  readonly what: string;
}

/**
 * Runs `work` with a signal that also aborts after `timeoutMs`; work that heeds its signal then rejects with `TimedOut`.
 *
 * @throws {TimedOut}
 */
export async function withDeadline<T>(
  work: (signal: AbortSignal) => Promise<T>,
  { clock, timeoutMs, what }: DeadlineOptions,
  signal: AbortSignal,
): Promise<T> {
  await using child = new ChildSignal(signal);
  clock.sleep(timeoutMs, child.signal).then(
    () => child.abort(new TimedOut(`${what} did not come within ${timeoutMs} ms`)),
    () => undefined, // aborted: the work has ended first
  );
  return await work(child.signal);
}
