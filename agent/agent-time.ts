import type { Clock } from "../core/clock.js";

/**
 * The time by which commands are judged: the later of the local clock and of what was known to have passed, which runs
 * on by the monotonic clock. It never goes back, so a clock that was set back makes no old command young again.
 */
export class AgentTime {
  readonly #clock: Pick<Clock, "now" | "monotonicMs">;
  readonly #earliestMs: number;
  #passedMs: number;
  #atMonotonicMs: number;

  /** @param passedMs what an earlier run knew to have passed; 0 when nothing is known. */
  constructor(clock: Pick<Clock, "now" | "monotonicMs">, passedMs: number, earliestMs = Date.UTC(2026, 0, 1)) {
    this.#clock = clock;
    this.#earliestMs = earliestMs;
    this.#passedMs = passedMs;
    this.#atMonotonicMs = clock.monotonicMs();
  }

  /** Milliseconds since 1970; `undefined` before any time is known at which this program existed. */
  now(): number | undefined {
    const monotonicMs = this.#clock.monotonicMs();
    const nowMs = Math.max(this.#clock.now(), this.#passedMs + monotonicMs - this.#atMonotonicMs);
    this.#passedMs = nowMs;
    this.#atMonotonicMs = monotonicMs;
    return nowMs >= this.#earliestMs ? Math.round(nowMs) : undefined;
  }
}
