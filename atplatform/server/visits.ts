import type { Clock } from "../../core/clock.js";
import type { GroupCommit } from "../../core/group-commit.js";
import type { Db } from "./store/database.js";

export type VisitKind = "atSign" | "key";

/** Names that are counted in memory before they go to the file; the rest of a flood is not counted. */
const MAX_PENDING = 1_000;
/** Rows a kind that are kept, the most visited. */
const MAX_ROWS = 5_000;

/**
 * Who called and what was looked up, for `stats:5` and `stats:6`. Counted in memory and written by a job: a look-up must
 * not cost a write, and a count is not worth one.
 */
export class Visits {
  readonly #pending = new Map<string, { readonly kind: VisitKind; readonly name: string; count: number }>();
  readonly #db: Db;
  readonly #clock: Clock;
  lastLoginMs: number | undefined;

  constructor(db: Db, clock: Clock) {
    this.#db = db;
    this.#clock = clock;
  }

  count(kind: VisitKind, name: string): void {
    if (kind === "key" && name.startsWith("_")) return;
    const id = `${kind} ${name}`;
    const pending = this.#pending.get(id);
    if (pending) pending.count += 1;
    else if (this.#pending.size < MAX_PENDING) this.#pending.set(id, { kind, name, count: 1 });
  }

  loggedIn(): void {
    this.lastLoginMs = this.#clock.now();
  }

  /** The most counted ones, as far as they were written. */
  top(kind: VisitKind, limit: number): readonly (readonly [name: string, count: number])[] {
    const rows = this.#db
      .prepare("SELECT name, count FROM visit WHERE kind = ? ORDER BY count DESC, name LIMIT ?")
      .all(kind, limit) as { name: string; count: number }[];
    return rows.map(({ name, count }) => [name, count] as const);
  }

  /** Rows. */
  get size(): number {
    return this.#db.prepare<[], number>("SELECT count(*) FROM visit").pluck().get() ?? 0;
  }

  /** Gives how many rows went to keep the rest few. */
  async save(commits: GroupCommit): Promise<number> {
    if (this.#pending.size === 0) return 0;
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    return await commits.write(() => {
      const add = this.#db.prepare(`INSERT INTO visit (kind, name, count) VALUES (?, ?, ?)
        ON CONFLICT (kind, name) DO UPDATE SET count = count + excluded.count`);
      for (const { kind, name, count } of pending) add.run(kind, name, count);
      const trim = this.#db.prepare(`DELETE FROM visit WHERE kind = ? AND name IN
        (SELECT name FROM visit WHERE kind = ? ORDER BY count DESC LIMIT -1 OFFSET ${MAX_ROWS})`);
      return trim.run("atSign", "atSign").changes + trim.run("key", "key").changes;
    }, "crash");
  }
}
