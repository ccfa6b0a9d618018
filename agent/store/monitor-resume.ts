import type { Database, Statement } from "better-sqlite3";
import type { Writes } from "./writes.js";

/** What a subscription of the atPlatform client wants to be remembered: fits its `ResumeStore`. */
export interface MonitorPoint {
  /** The latest time of a notification that was handled. */
  readonly epochMillis: number;
  /** What was handled lately, oldest first. */
  readonly seen: readonly (readonly [digest: string, epochMillis: number])[];
}

/** Where the monitor goes on after a restart, and what it must not take twice. Only differences are written. */
export class MonitorResume {
  readonly #writes: Writes;
  readonly #sql: ReturnType<typeof prepare>;
  #saved = new Set<string>();

  constructor(db: Database, writes: Writes) {
    this.#writes = writes;
    this.#sql = prepare(db);
  }

  /** `undefined` before the first notification. */
  async load(): Promise<MonitorPoint | undefined> {
    const epochMillis = this.#sql.epoch.get()?.value;
    const seen = this.#sql.all.all();
    this.#saved = new Set(seen.map(([digest]) => digest));
    return epochMillis === undefined ? undefined : { epochMillis, seen };
  }

  /** To lose the latest costs a repeat, which everybody above takes calmly. */
  async save({ epochMillis, seen }: MonitorPoint): Promise<void> {
    const now = new Set(seen.map(([digest]) => digest));
    await this.#writes.write(
      "monitor.save",
      () => {
        for (const [digest, atMs] of seen) if (!this.#saved.has(digest)) this.#sql.insert.run(digest, atMs);
        for (const digest of this.#saved) if (!now.has(digest)) this.#sql.remove.run(digest);
        this.#sql.setEpoch.run(epochMillis);
      },
      "crash",
    );
    this.#saved = now;
  }
}

function prepare(db: Database) {
  const sql = <P extends unknown[], R = unknown>(text: string): Statement<P, R> => db.prepare<P, R>(text);
  return {
    epoch: sql<[], { value: number }>("SELECT value FROM meta WHERE name = 'monitorEpochMillis'"),
    setEpoch: sql("INSERT OR REPLACE INTO meta VALUES ('monitorEpochMillis', ?)"),
    all: sql<[], [string, number]>("SELECT id, epochMillis FROM notified ORDER BY epochMillis, id").raw(),
    insert: sql("INSERT OR REPLACE INTO notified VALUES (?, ?)"),
    remove: sql("DELETE FROM notified WHERE id = ?"),
  };
}
