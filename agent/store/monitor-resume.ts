import type { Database, Statement } from "better-sqlite3";
import type { GroupCommit } from "../../core/group-commit.js";

export interface MonitorPosition {
  /** The highest `epochMillis` seen. */
  readonly epochMillis: number;
  /** Ids of notifications seen lately, oldest first. */
  readonly ids: readonly string[];
}

const MAX_IDS = 1000;

/** Where the monitor goes on after a restart, and what it must not take twice. */
export class MonitorResume {
  readonly #commit: GroupCommit;
  readonly #insert: Statement;
  readonly #trim: Statement;
  readonly #all: Statement<[], { id: string; epochMillis: number }>;

  constructor(db: Database, commit: GroupCommit) {
    this.#commit = commit;
    this.#insert = db.prepare("INSERT OR IGNORE INTO notified VALUES (?, ?)");
    this.#trim = db.prepare(
      `DELETE FROM notified WHERE id IN (SELECT id FROM notified ORDER BY epochMillis DESC, id LIMIT -1 OFFSET ${MAX_IDS})`,
    );
    this.#all = db.prepare("SELECT id, epochMillis FROM notified ORDER BY epochMillis, id");
  }

  /** `undefined` before the first notification. */
  load(): MonitorPosition | undefined {
    const rows = this.#all.all();
    const last = rows.at(-1);
    return last && { epochMillis: last.epochMillis, ids: rows.map(({ id }) => id) };
  }

  /** A notification that was dealt with. To forget one costs a repeat, which everybody above takes calmly. */
  seen(id: string, epochMillis: number): Promise<void> {
    return this.#commit.write(() => {
      this.#insert.run(id, epochMillis);
      this.#trim.run();
    }, "crash");
  }
}
