import type { Clock } from "../../core/clock.js";
import { ChildSignal } from "../../core/scope.js";

/** Waits for news or for a time, whichever is first. News that comes while nobody waits is not lost. */
export class Wake {
  #woken = false;
  #resolve: (() => void) | undefined;

  wake(): void {
    this.#woken = true;
    this.#resolve?.();
  }

  /** @param ms left out: until news comes. Rejects with `signal.reason` when aborted. */
  async wait(ms: number | undefined, clock: Clock, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (!this.#woken && ms !== 0) {
      await using child = new ChildSignal(signal);
      const news = new Promise<void>((resolve) => (this.#resolve = resolve));
      await Promise.race([news, clock.sleep(Math.min(ms ?? MAX_SLEEP_MS, MAX_SLEEP_MS), child.signal)]);
    }
    this.#resolve = undefined;
    this.#woken = false;
  }
}

/** Timers take no more than 2^31 - 1 ms; and to look once an hour harms nobody. */
const MAX_SLEEP_MS = 3_600_000;
