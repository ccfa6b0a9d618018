/** The last lines of the log, within a bound, for an operator who asks from afar. */
export class LogRing {
  readonly #maxChars: number;
  #lines: string[] = [];
  #chars = 0;

  constructor(maxChars = 131_072) {
    this.#maxChars = maxChars;
  }

  /** @param line JSON, as pino writes it. */
  add(line: string): void {
    this.#lines.push(line);
    this.#chars += line.length;
    if (this.#chars <= this.#maxChars) return;
    // A quarter at once: to shift each line out by itself would move all others each time.
    const keep = this.#maxChars * 0.75;
    let chars = 0;
    const from = this.#lines.findLastIndex((kept) => (chars += kept.length) > keep) + 1;
    this.#lines = this.#lines.slice(from);
    this.#chars = this.#lines.reduce((sum, kept) => sum + kept.length, 0);
  }

  /** The newest `max` lines of at least the level, oldest first, and of those as many as fit into `maxChars`. */
  last(max: number, minLevel: number, maxChars: number): unknown[] {
    const found: unknown[] = [];
    let chars = 0;
    for (const line of this.#lines.toReversed()) {
      const entry = JSON.parse(line) as { readonly level: number };
      if (entry.level < minLevel) continue;
      chars += line.length;
      if (found.length >= max || chars > maxChars) break;
      found.push(entry);
    }
    return found.reverse();
  }
}
