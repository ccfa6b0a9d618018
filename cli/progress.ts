/** What takes its time: a line that counts seconds on a terminal, the line alone elsewhere. On standard error. */
export class Progress {
  readonly #out: NodeJS.WriteStream = process.stderr;
  #timer: NodeJS.Timeout | undefined;
  #last: string | undefined;

  /** Replaces what was shown before. */
  start(what: string): void {
    this.end();
    if (!this.#out.isTTY) {
      if (what !== this.#last) this.#out.write(`${what} …\n`);
      this.#last = what;
      return;
    }
    const startMs = performance.now();
    const draw = (): void => {
      const seconds = Math.floor((performance.now() - startMs) / 1000);
      this.#out.write(`\r\u001b[K${what} … ${seconds > 0 ? `${seconds} s` : ""}`);
    };
    draw();
    this.#timer = setInterval(draw, 1000).unref();
  }

  end(): void {
    if (this.#timer === undefined) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#out.write("\r\u001b[K");
  }
}
