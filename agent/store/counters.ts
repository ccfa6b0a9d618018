import type { Database, Statement } from "better-sqlite3";
import type { Writes } from "./writes.js";

/** Counts that outlive restarts. Kept in memory and written now and then: a crash may lose the latest. */
export class Counters {
  readonly #writes: Writes;
  readonly #add: Statement;
  readonly #values: Map<string, number>;
  #unwritten = new Map<string, number>();

  constructor(db: Database, writes: Writes) {
    this.#writes = writes;
    this.#add = db.prepare(
      "INSERT INTO counter VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
    );
    const rows = db.prepare<[], { name: string; value: number }>("SELECT * FROM counter").all();
    this.#values = new Map(rows.map(({ name, value }) => [name, value]));
  }

  add(name: string, by = 1): void {
    this.#values.set(name, (this.#values.get(name) ?? 0) + by);
    this.#unwritten.set(name, (this.#unwritten.get(name) ?? 0) + by);
  }

  get(name: string): number {
    return this.#values.get(name) ?? 0;
  }

  all(): Readonly<Record<string, number>> {
    return Object.fromEntries([...this.#values].sort());
  }

  async write(): Promise<void> {
    const batch = this.#unwritten;
    if (batch.size === 0) return;
    this.#unwritten = new Map();
    await this.#writes.write(
      "store.upkeep",
      () => {
        for (const [name, by] of batch) this.#add.run(name, by);
      },
      "crash",
    );
  }
}
