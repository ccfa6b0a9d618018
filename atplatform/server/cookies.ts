import { COOKIE_LIFE_MS } from "./settings.js";

const MAX_COOKIES = 1_000;

/**
 * Short-lived records `public:_<session>@alice` that peers read without authentication to check a proof (spec 5.2).
 * Kept in memory: they are of no use after a restart.
 */
export class Cookies {
  readonly #values = new Map<string, { readonly value: string; readonly untilMs: number }>();
  readonly #monotonicMs: () => number;

  constructor(monotonicMs: () => number) {
    this.#monotonicMs = monotonicMs;
  }

  /** The oldest goes when there are too many. */
  set(name: string, value: string): void {
    const now = this.#monotonicMs();
    for (const [old, { untilMs }] of this.#values) {
      if (untilMs > now && this.#values.size < MAX_COOKIES) break;
      this.#values.delete(old);
    }
    this.#values.set(name, { value, untilMs: now + COOKIE_LIFE_MS });
  }

  get(name: string): string | undefined {
    const cookie = this.#values.get(name);
    return cookie && cookie.untilMs > this.#monotonicMs() ? cookie.value : undefined;
  }

  delete(name: string): void {
    this.#values.delete(name);
  }
}
