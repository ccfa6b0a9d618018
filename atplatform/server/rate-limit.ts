import type { Clock } from "../../core/clock.js";

const MAX_KEYS = 10_000;

/** So many a key and time frame; frames begin with the first one. The oldest key is forgotten when there are too many. */
export class RateLimit {
  readonly #frames = new Map<string, { readonly startMs: number; count: number }>();
  readonly #clock: Clock;
  readonly #max: number;
  readonly #frameMs: number;

  constructor(clock: Clock, { max, frameMs }: { readonly max: number; readonly frameMs: number }) {
    this.#clock = clock;
    this.#max = max;
    this.#frameMs = frameMs;
  }

  /** Counts one, and tells whether it is within the limit. */
  allows(key: string): boolean {
    const now = this.#clock.monotonicMs();
    const frame = this.#frames.get(key);
    if (frame && now - frame.startMs < this.#frameMs) {
      frame.count += 1;
      return frame.count <= this.#max;
    }
    this.#frames.delete(key);
    this.#frames.set(key, { startMs: now, count: 1 });
    const [oldest] = this.#frames.keys();
    if (this.#frames.size > MAX_KEYS && oldest !== undefined) this.#frames.delete(oldest);
    return this.#max >= 1;
  }
}
