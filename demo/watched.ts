import type { Shown } from "./screen.js";
import { parseObject } from "./site.js";

/** What the watcher has printed, and who waits to see something in it. */
export class Watched {
  readonly #onReading: (reading: Shown) => void;
  readonly #latencies: number[] = [];
  readonly #waiting = new Set<{
    readonly wants: (reading: Shown) => boolean;
    readonly resolve: (reading: Shown) => void;
  }>();
  #readings = 0;
  #gaps = 0;

  constructor(onReading: (reading: Shown) => void) {
    this.#onReading = onReading;
  }

  /** One line of `atedge watch --json`; others are passed over. */
  take(line: string): void {
    const event = parseObject(line);
    if (event?.["type"] === "gap") this.#gaps += 1;
    if (event?.["type"] !== "reading") return;
    const { name, value, unit, timeMs } = event;
    if (typeof name !== "string" || typeof timeMs !== "number") return;
    if (typeof value !== "number" && typeof value !== "string" && typeof value !== "boolean") return;
    // Our configuration starts the names of all but the host's readings with their driver.
    const driver = name.includes("/") ? name.slice(0, name.indexOf("/")) : "host";
    const shown: Shown = { driver, name, value, timeMs, ...(typeof unit === "string" && { unit }) };
    this.#readings += 1;
    this.#latencies.push(Date.now() - timeMs);
    this.#onReading(shown);
    for (const waiter of this.#waiting) {
      if (!waiter.wants(shown)) continue;
      this.#waiting.delete(waiter);
      waiter.resolve(shown);
    }
  }

  /** The next reading that is wanted. */
  sees(wants: (reading: Shown) => boolean): Promise<Shown> {
    return new Promise((resolve) => this.#waiting.add({ wants, resolve }));
  }

  async hasSeen(count: number): Promise<void> {
    if (this.#readings < count) await this.sees(() => this.#readings >= count);
  }

  summary(): { readonly readings: number; readonly gaps: number; readonly p50Ms: number; readonly p99Ms: number } {
    const sorted = [...this.#latencies].sort((a, b) => a - b);
    const percentile = (share: number): number => Math.round(sorted[Math.floor(share * (sorted.length - 1))] ?? 0);
    return { readings: this.#readings, gaps: this.#gaps, p50Ms: percentile(0.5), p99Ms: percentile(0.99) };
  }
}
