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
  /** In the line: the one whose turn it is, and those that wait. */
  #inLine = 0;

  constructor(maxWaiting: number) {
    this.#maxWaiting = maxWaiting;
  }

  get waiting(): number {
    return Math.max(0, this.#inLine - 1);
  }

  /** @throws {CommandRefused} when too many wait already, and when the signal aborts before the turn has come. */
  async take(signal: AbortSignal): Promise<Turn> {
    if (this.#inLine > this.#maxWaiting) throw new CommandRefused(`busy: ${this.waiting} commands are waiting`);
    this.#inLine += 1;
    const before = this.#tail;
    let end: (() => void) | undefined;
    const mine = new Promise<void>((resolve) => (end = resolve));
    this.#tail = before.then(() => mine);
    const release = (): void => {
      this.#inLine -= 1;
      end?.();
    };
    try {
      await untilAborted(before, signal);
    } catch (cause) {
      release();
      throw new CommandRefused("given up before its turn", { cause });
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
