import { setTimeout as delay } from "node:timers/promises";

/** Time as an ability that is handed in, so that tests move it by hand. */
export interface Clock {
  /** Milliseconds since 1970 by the wall clock; may jump. */
  now(): number;
  /** Milliseconds since an arbitrary start; never goes back. */
  monotonicMs(): number;
  /** Resolves after `ms`; rejects with `signal.reason` when aborted. Keeps the process alive. */
  sleep(ms: number, signal: AbortSignal): Promise<void>;
}

export const systemClock: Clock = {
  now: () => Date.now(),
  monotonicMs: () => performance.now(),
  async sleep(ms, signal) {
    try {
      await delay(ms, undefined, { signal });
    } catch (error) {
      signal.throwIfAborted();
      throw error;
    }
  },
};
