import type { Clock } from "../../core/clock.js";

export interface RateLimitOptions {
  readonly clock: Pick<Clock, "monotonicMs">;
  readonly max: number;
  readonly perMs: number;
}

/** Subjects remembered at most; those whose stretch is over go first. */
const MAX_SUBJECTS = 1024;

/** So many of a subject in each stretch of time. */
export class RateLimit {
  readonly #options: RateLimitOptions;
  readonly #windows = new Map<string, { readonly startMs: number; count: number }>();

  constructor(options: RateLimitOptions) {
    this.#options = options;
  }

  /** Whether one more is within the limit. */
  take(subject: string): boolean {
    const nowMs = this.#options.clock.monotonicMs();
    const window = this.#current(subject, nowMs) ?? { startMs: nowMs, count: 0 };
    if (window.count === 0) this.#makeRoom(nowMs);
    this.#windows.set(subject, window);
    window.count += 1;
    return window.count <= this.#options.max;
  }

  /** Whether one more would be, without counting it. */
  hasRoom(subject: string): boolean {
    const count = this.#current(subject, this.#options.clock.monotonicMs())?.count ?? 0;
    return count < this.#options.max;
  }

  #current(subject: string, nowMs: number) {
    const window = this.#windows.get(subject);
    return window && nowMs - window.startMs < this.#options.perMs ? window : undefined;
  }

  #makeRoom(nowMs: number): void {
    if (this.#windows.size < MAX_SUBJECTS) return;
    for (const subject of this.#windows.keys()) if (!this.#current(subject, nowMs)) this.#windows.delete(subject);
    const [oldest] = this.#windows.keys();
    if (oldest !== undefined && this.#windows.size >= MAX_SUBJECTS) this.#windows.delete(oldest);
  }
}
