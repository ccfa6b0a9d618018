import { backoff } from "../../core/backoff.js";
import type { Clock } from "../../core/clock.js";
import { AtServerError } from "../protocol/at-error.js";

/** How long to wait before connecting again: uniform in [0, cap), the cap growing from `firstMs` to `maxMs`. */
export interface Reconnect {
  readonly firstMs: number;
  readonly maxMs: number;
}

const RECONNECT: Reconnect = { firstMs: 1_000, maxMs: 60_000 };
const HEALTHY_AFTER_MS = 60_000;
const LIMIT_WAIT_MS = 30_000;
const REFUSED_WAIT_MS = 600_000;
/** A wrong signature can be a hiccup of the server once or twice. */
const REFUSALS_TO_BELIEVE = 3;

/** Codes by which an atServer says for good that these keys are not wanted (client.md, 4.1). */
const PERMANENT: ReadonlySet<string> = new Set(["AT0013", "AT0025", "AT0027", "AT0028", "AT0029"]);

export interface PacerOptions {
  readonly reconnect?: Reconnect | undefined;
  readonly random?: () => number;
}

/**
 * When to connect again: after a loss with full jitter up to a growing cap, not below 30 s when the server has too many
 * connections, every ten minutes when it has refused us for good. A connection that lived for a minute starts it anew.
 */
export class Pacer {
  readonly #clock: Clock;
  readonly #reconnect: Reconnect;
  readonly #random: () => number;
  #waits: Generator<number, never>;
  #notBeforeMs = 0;
  #refusals = 0;
  #connectedMs: number | undefined;

  constructor(clock: Clock, { reconnect = RECONNECT, random = Math.random }: PacerOptions = {}) {
    this.#clock = clock;
    this.#reconnect = reconnect;
    this.#random = random;
    this.#waits = this.#schedule();
  }

  /** The keys were refused, and asking again is of little use; a human must act. */
  get refused(): boolean {
    return this.#refusals >= REFUSALS_TO_BELIEVE;
  }

  /** How long {@link wait} would take now. */
  get waitMs(): number {
    return Math.max(0, this.#notBeforeMs - this.#clock.monotonicMs());
  }

  async wait(signal: AbortSignal): Promise<void> {
    if (this.waitMs > 0) await this.#clock.sleep(this.waitMs, signal);
  }

  /** What was so far counts no more, as there are other keys. */
  reset(): void {
    this.#waits = this.#schedule();
    this.#notBeforeMs = 0;
    this.#refusals = 0;
  }

  connected(): void {
    this.#connectedMs = this.#clock.monotonicMs();
    this.#refusals = 0;
  }

  /** The attempt, or the connection that came of it, has failed. */
  failed(error: unknown): void {
    const now = this.#clock.monotonicMs();
    if (this.#connectedMs !== undefined && now - this.#connectedMs >= HEALTHY_AFTER_MS) this.#waits = this.#schedule();
    this.#connectedMs = undefined;
    const code = error instanceof AtServerError ? error.code : undefined;
    if (code !== undefined && PERMANENT.has(code)) this.#refusals = REFUSALS_TO_BELIEVE;
    else if (code === "AT0401") this.#refusals += 1;
    const { value } = this.#waits.next();
    const least = this.refused ? REFUSED_WAIT_MS : code === "AT0012" ? LIMIT_WAIT_MS : 0;
    this.#notBeforeMs = now + least + value;
  }

  #schedule(): Generator<number, never> {
    return backoff({ ...this.#reconnect, random: this.#random });
  }
}
