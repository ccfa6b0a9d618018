const ignore = (): void => undefined;

/** A line, and whether it came on the monitor connection or was asked for once more. */
export interface InboxLine {
  readonly body: string;
  readonly source: "monitor" | "catchUp";
}

/** Lines between the connections, which push, and the application, which pulls. */
export class Inbox {
  readonly #max: number;
  readonly #waiting: InboxLine[] = [];
  #ended: Error | undefined;
  #arrived = ignore;
  #drained = ignore;

  constructor(max: number) {
    this.#max = max;
  }

  get full(): boolean {
    return this.#waiting.length >= this.#max;
  }

  /** Adds a line; the promise tells the reader to stop until there is room. */
  put(line: InboxLine): Promise<void> | undefined {
    this.#waiting.push(line);
    this.#arrived();
    if (!this.full) return undefined;
    const previous = this.#drained;
    return new Promise((resolve) => {
      this.#drained = () => {
        previous();
        resolve();
      };
    });
  }

  /** Lets the connection be read from again. */
  #release(): void {
    const drained = this.#drained;
    this.#drained = ignore;
    drained();
  }

  /** No more will come. */
  end(reason: Error): void {
    this.#ended = reason;
    this.#arrived();
  }

  /** The next line; after the last one, throws why there are no more. */
  async take(signal: AbortSignal): Promise<InboxLine> {
    for (;;) {
      const line = this.#waiting.shift();
      if (line) {
        if (!this.full) this.#release();
        return line;
      }
      if (this.#ended) throw this.#ended;
      signal.throwIfAborted();
      await new Promise<void>((resolve) => {
        const wake = (): void => {
          signal.removeEventListener("abort", wake);
          resolve();
        };
        this.#arrived = wake;
        signal.addEventListener("abort", wake, { once: true });
      });
    }
  }
}
