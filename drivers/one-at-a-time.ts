import { CommandRefused } from "../core/command-errors.js";
import { untilAborted, type Disposable } from "../core/scope.js";

/** A turn that was taken; dispose gives it back, unless it is held until something has finished. */
export interface Turn extends Disposable {
  /** Gives the outcome at once, and the turn back only when `finished` resolves. */
  hold<T>(work: { readonly outcome: Promise<T>; readonly finished: Promise<void> }): Promise<T>;
}

/** Lets one command at a time through, in the order they came. A bounded number waits. */
export class OneAtATime {
  readonly #maxWaiting: number;
  #tail: Promise<void> = Promise.resolve();
  #waiting = 0;

  constructor(maxWaiting: number) {
    this.#maxWaiting = maxWaiting;
  }

  get waiting(): number {
    return this.#waiting;
  }

  /** @throws {CommandRefused} when too many wait already; `signal.reason` as CommandRefused's cause when it aborts. */
  async take(signal: AbortSignal): Promise<Turn> {
    if (this.#waiting >= this.#maxWaiting) throw new CommandRefused(`busy: ${this.#waiting} commands are waiting`);
    const before = this.#tail;
    let giveBack: (() => void) | undefined;
    const mine = new Promise<void>((resolve) => (giveBack = resolve));
    this.#tail = before.then(() => mine);
    const release = (): void => giveBack?.();
    this.#waiting += 1;
    try {
      await untilAborted(before, signal);
    } catch (cause) {
      release();
      throw new CommandRefused("given up before its turn", { cause });
    } finally {
      this.#waiting -= 1;
    }
    let held = false;
    return {
      hold({ outcome, finished }) {
        held = true;
        void finished.then(release, release);
        return outcome;
      },
      async [Symbol.asyncDispose]() {
        if (!held) release();
      },
    };
  }
}
