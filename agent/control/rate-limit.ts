import type { Clock } from "../../core/clock.js";

export interface RateLimitOptions {
  readonly clock: Pick<Clock, "monotonicMs">;
  readonly max: number;
  readonly perMs: number;
}

/** So many of a subject in each stretch of time. Subjects are few and known. */
export class RateLimit {
  readonly #options: RateLimitOptions;
  readonly #windows = new Map<string, { readonly startMs: number; count: number }>();

  constructor(options: RateLimitOptions) {
    this.#options = options;
  }

  /** Whether one more is within the limit. */
  take(subject: string): boolean {
    const { clock, max, perMs } = this.#options;
    const nowMs = clock.monotonicMs();
    const current = this.#windows.get(subject);
    const window = current && nowMs - current.startMs < perMs ? current : { startMs: nowMs, count: 0 };
    this.#windows.set(subject, window);
    window.count += 1;
    return window.count <= max;
  }
}
