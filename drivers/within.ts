import type { Clock } from "../core/clock.js";
import { TimedOut } from "../core/errors.js";
import { ChildSignal, untilAborted } from "../core/scope.js";

export interface WithinOptions {
  readonly ms: number;
  readonly clock: Clock;
  /** What was waited for, for the error's text. */
  readonly what: string;
}

/**
 * Gives `work` a signal that aborts after `ms`, and does not wait longer even when the work goes on.
 *
 * @throws {TimedOut} then; `signal.reason` when that aborts first.
 */
export async function within<T>(
  work: (signal: AbortSignal) => Promise<T>,
  { ms, clock, what }: WithinOptions,
  signal: AbortSignal,
): Promise<T> {
  signal.throwIfAborted();
  await using child = new ChildSignal(signal);
  void clock.sleep(ms, child.signal).then(
    () => child.abort(new TimedOut(`${what}: no answer within ${ms} ms`)),
    () => undefined,
  );
  return await untilAborted(work(child.signal), child.signal);
}
