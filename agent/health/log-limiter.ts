import type { Clock } from "../../core/clock.js";

export interface LogLimiterOptions {
  readonly clock: Pick<Clock, "monotonicMs">;
  readonly everyMs: number;
  /** Subjects remembered at most; the longest known is forgotten first. */
  readonly maxSubjects: number;
}

/** Lets one line a subject through in a while, so that a stranger cannot fill the log. */
export class LogLimiter {
  readonly #options: LogLimiterOptions;
  readonly #subjects = new Map<string, { atMs: number; suppressed: number }>();

  constructor(options: LogLimiterOptions) {
    this.#options = options;
  }

  /** How many lines on the subject were kept back before this one, or `undefined` when this one is to be, too. */
  admit(subject: string): number | undefined {
    const { clock, everyMs, maxSubjects } = this.#options;
    const nowMs = clock.monotonicMs();
    const known = this.#subjects.get(subject);
    if (known && nowMs - known.atMs < everyMs) {
      known.suppressed += 1;
      return undefined;
    }
    this.#subjects.delete(subject);
    const [oldest] = this.#subjects.keys();
    if (oldest !== undefined && this.#subjects.size >= maxSubjects) this.#subjects.delete(oldest);
    this.#subjects.set(subject, { atMs: nowMs, suppressed: 0 });
    return known?.suppressed ?? 0;
  }
}
