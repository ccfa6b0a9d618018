import type { Clock } from "../../core/clock.js";

const FREE_FAILURES = 5;
const FIRST_DELAY_MS = 250;
const MAX_DELAY_MS = 10_000;
const FORGET_MS = 10 * 60_000;
const MAX_ADDRESSES = 10_000;

/**
 * Slows down an address that fails to log in again and again (spec 3.2, 6.6): nothing for the first five failures, since
 * a fleet may sit behind one address, then a growing delay before the answer.
 */
export class FailureThrottle {
  readonly #failures = new Map<string, { count: number; lastMs: number }>();
  readonly #clock: Clock;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  succeeded(address: string): void {
    this.#failures.delete(address);
  }

  /** Counts a failure and waits as long as it has earned. */
  async failed(address: string, signal: AbortSignal): Promise<void> {
    const now = this.#clock.monotonicMs();
    const known = this.#failures.get(address);
    const count = known && now - known.lastMs < FORGET_MS ? known.count + 1 : 1;
    this.#failures.delete(address);
    this.#failures.set(address, { count, lastMs: now });
    this.#trim();
    const excess = count - FREE_FAILURES;
    if (excess > 0) await this.#clock.sleep(Math.min(FIRST_DELAY_MS * 2 ** (excess - 1), MAX_DELAY_MS), signal);
  }

  #trim(): void {
    const [oldest] = this.#failures.keys();
    if (this.#failures.size > MAX_ADDRESSES && oldest !== undefined) this.#failures.delete(oldest);
  }
}
