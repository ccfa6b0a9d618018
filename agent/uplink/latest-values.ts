import type { Reading } from "../../core/driver.js";
import { MAX_PACK_RECORDS, type SenmlReading } from "../../messages/senml.js";

/**
 * The latest reading of each channel, for those who come later. At most as many channels as a message takes; of more,
 * those that were silent longest are left out and counted.
 */
export class LatestValues {
  readonly #values = new Map<string, SenmlReading>();
  leftOut = 0;

  /** @param nowMs for readings without a time of their own. @returns whether anything is new. */
  take(readings: readonly Reading[], nowMs: number): void {
    for (const { name, unit, value, timeMs } of readings) {
      this.#values.delete(name); // so that the order is that of the last news
      this.#values.set(name, { name, ...(unit !== undefined && { unit }), value, timeMs: Math.round(timeMs ?? nowMs) });
    }
    for (const name of this.#values.keys()) {
      if (this.#values.size <= MAX_PACK_RECORDS) break;
      this.#values.delete(name);
      this.leftOut += 1;
    }
  }

  all(): SenmlReading[] {
    return [...this.#values.values()];
  }
}
