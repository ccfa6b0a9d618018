import type { Clock } from "../../core/clock.js";

const FIRST_STEP_MS = 1_000;

/** Makes guessing passcodes slow: each wrong one waits longer, on the whole server (spec 3.28.3). */
export class PasscodeGuard {
  readonly #clock: Clock;
  readonly #maxMs: number;
  #delayMs = 0;
  #nextMs = FIRST_STEP_MS;
  #lastWrongMs = -Infinity;

  constructor(clock: Clock, maxMs: number) {
    this.#clock = clock;
    this.#maxMs = maxMs;
  }

  right(): void {
    if (this.#clock.monotonicMs() - this.#lastWrongMs < this.#maxMs) return;
    this.#delayMs = 0;
    this.#nextMs = FIRST_STEP_MS;
  }

  /** Waits 1 s, 2, 3, 5, 8, … up to the maximum. */
  async wrong(signal: AbortSignal): Promise<void> {
    this.#lastWrongMs = this.#clock.monotonicMs();
    const waitMs = Math.min(this.#nextMs, this.#maxMs);
    const step = this.#delayMs === 0 ? FIRST_STEP_MS : this.#delayMs;
    this.#delayMs = waitMs;
    this.#nextMs = waitMs + step;
    await this.#clock.sleep(waitMs, signal);
  }
}
