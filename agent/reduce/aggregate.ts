import type { Reading } from "../../core/driver.js";

/** Least, mean and largest of the values of one channel in a window. */
export class Aggregate {
  /** By the monotonic clock. */
  readonly endsMs: number;
  readonly #first: Reading;
  #min = Infinity;
  #max = -Infinity;
  #mean = 0;
  #count = 0;
  #lastMs = -Infinity;
  #unit: string | undefined;

  constructor(first: Reading, endsMs: number) {
    this.#first = first;
    this.endsMs = endsMs;
  }

  /** @param timeMs when it was taken, by the wall clock. */
  add(reading: Reading, value: number, timeMs: number): void {
    this.#count += 1;
    this.#mean += (value - this.#mean) / this.#count; // a sum could overflow
    this.#min = Math.min(this.#min, value);
    this.#max = Math.max(this.#max, value);
    this.#lastMs = Math.max(this.#lastMs, timeMs);
    this.#unit = reading.unit;
  }

  /** Dated when the last value was taken. */
  readings(): Reading[] {
    const unit = this.#unit === undefined ? {} : { unit: this.#unit };
    const values = { min: this.#min, mean: Math.min(Math.max(this.#mean, this.#min), this.#max), max: this.#max };
    return Object.entries(values).map(([of, value]) => ({
      name: `${this.#first.name}.${of}`,
      value,
      ...unit,
      timeMs: this.#lastMs,
    }));
  }
}
