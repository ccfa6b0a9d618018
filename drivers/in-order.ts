import { untilAborted } from "../core/scope.js";

/**
 * Work that is under way side by side and is completed in the order it was begun: the `done` of one runs after its own
 * work and after the `done` of all before it. The first failure ends it for good: no later `done` runs.
 */
export class InOrder {
  #tail: Promise<void> = Promise.resolve();
  #pending = 0;
  #wake: (() => void) | undefined;
  readonly #onFailure: (error: unknown) => void;

  /** `onFailure` is told the first failure of a work or a `done`. */
  constructor(onFailure: (error: unknown) => void) {
    this.#onFailure = onFailure;
  }

  /** Sum of the weights under way. */
  get pending(): number {
    return this.#pending;
  }

  add(work: Promise<void>, weight: number, done: () => void | Promise<void>): void {
    this.#pending += weight;
    // Promise.all tells of a failed work at once, even while earlier ones are still under way.
    this.#tail = Promise.all([this.#tail, work]).then(async () => {
      await done();
      this.#pending -= weight;
      this.#wake?.();
    });
    this.#tail.catch(this.#onFailure);
  }

  /** Resolves when at most `weight` is under way. */
  async atMost(weight: number, signal: AbortSignal): Promise<void> {
    while (this.#pending > weight) {
      await untilAborted(new Promise<void>((resolve) => (this.#wake = resolve)), signal);
    }
  }
}
