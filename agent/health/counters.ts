/** Things counted since the start, by name. The names are the program's own, so there are few. */
export class Counters {
  readonly #values = new Map<string, number>();

  add(name: string, by = 1): void {
    this.#values.set(name, (this.#values.get(name) ?? 0) + by);
  }

  get(name: string): number {
    return this.#values.get(name) ?? 0;
  }

  values(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#values);
  }
}
