import type { Database, Statement } from "better-sqlite3";
import * as v from "valibot";
import { EdgeError } from "../../core/errors.js";
import type { SenmlReading } from "../../messages/senml.js";
import type { NewAnswer } from "./answers.js";
import type { OutboxClass } from "./stream-rows.js";
import type { Writes } from "./writes.js";

/** A message that could not be sent, for its own sake; kept for a human to look at. */
export interface AsideEntry {
  readonly id: number;
  readonly atMs: number;
  /** Whom it was for. */
  readonly reader: string;
  readonly class: OutboxClass;
  /** What the atServer or we have against it. */
  readonly why: string;
  /** JSON: the readings, or the answer. */
  readonly content: string;
}

export type NewAside = Omit<AsideEntry, "id">;
export type AsideSummary = Omit<AsideEntry, "content"> & { readonly bytes: number };

/** There is no such entry (any more), or nobody to send it to. */
export class NotAside extends EdgeError {
  override readonly code = "NOT_ASIDE";
}

/** What takes a message that is to be tried once more. All within the caller's transaction. */
export interface AsideTargets {
  /** False when this reader has no such stream. */
  readonly resend: (reader: string, readingClass: string, readings: readonly SenmlReading[]) => boolean;
  readonly answer: (answer: NewAnswer) => void;
}

export const MAX_ASIDE = 1000;
export const MAX_ASIDE_BYTES = 4 << 20;
/** A caller who has waited so long will not wait much longer. */
const ANSWER_LIFE_MS = 5 * 60_000;

const readingsSchema = v.array(
  v.object({
    name: v.string(),
    unit: v.exactOptional(v.string()),
    value: v.union([v.number(), v.string(), v.boolean()]),
    timeMs: v.number(),
  }),
);
const answerSchema = v.object({ name: v.string(), body: v.record(v.string(), v.unknown()), sealed: v.boolean() });

export const parseReadings = (content: string): SenmlReading[] => v.parse(readingsSchema, JSON.parse(content));

/** Messages that were set aside. The oldest are forgotten beyond a number and a size; their gaps were declared. */
export class SetAside {
  readonly #writes: Writes;
  readonly #targets: AsideTargets;
  readonly #sql: ReturnType<typeof prepare>;
  #forgotten = 0;

  constructor(db: Database, writes: Writes, targets: AsideTargets) {
    this.#writes = writes;
    this.#targets = targets;
    this.#sql = prepare(db);
  }

  /** How many there are, and how many were forgotten since the start. */
  get counts(): { readonly aside: number; readonly forgotten: number } {
    return { aside: this.#sql.count.get()?.count ?? 0, forgotten: this.#forgotten };
  }

  /** Within the caller's transaction. */
  add({ atMs, reader, class: name, why, content }: NewAside): void {
    // A number is never used again: a human who drops it may have looked a while ago.
    this.#sql.nextId.run();
    this.#sql.insert.run(atMs, reader, name, why.slice(0, 1000), content);
    for (;;) {
      const { count, bytes } = this.#sql.size.get() ?? { count: 0, bytes: 0 };
      if (count <= 1 || (count <= MAX_ASIDE && bytes <= MAX_ASIDE_BYTES)) return;
      this.#forgotten += this.#sql.removeOldest.run().changes;
    }
  }

  /** Oldest first. */
  list({ after = 0, limit = 100 }: { readonly after?: number; readonly limit?: number } = {}): AsideSummary[] {
    return this.#sql.list.all(after, limit);
  }

  /** @throws {NotAside} */
  get(id: number): AsideEntry {
    const entry = this.#sql.get.get(id);
    if (!entry) throw new NotAside(`nothing is set aside under ${id}`);
    return entry;
  }

  /**
   * To be sent once more. Readings go to the same reader, marked as ones that a gap has declared before.
   *
   * @throws {NotAside}
   */
  retry(id: number, nowMs: number): Promise<void> {
    return this.#writes.write("pack.retry", () => {
      const { reader, class: name, content } = this.get(id);
      if (name === "answer") {
        const answer = v.parse(answerSchema, JSON.parse(content));
        this.#targets.answer({ to: reader, ...answer, expiresMs: nowMs + ANSWER_LIFE_MS });
      } else if (!this.#targets.resend(reader, name, parseReadings(content))) {
        throw new NotAside(`${reader} is no reader any more`);
      }
      this.#sql.remove.run(id);
    });
  }

  /** @throws {NotAside} */
  drop(id: number): Promise<void> {
    return this.#writes.write("aside.drop", () => {
      this.get(id);
      this.#sql.remove.run(id);
    });
  }
}

function prepare(db: Database) {
  const sql = <P extends unknown[], R = unknown>(text: string): Statement<P, R> => db.prepare<P, R>(text);
  return {
    nextId: sql(
      `INSERT OR REPLACE INTO meta VALUES ('asideId', 1 + max(
         coalesce((SELECT max(id) FROM aside), 0), coalesce((SELECT value FROM meta WHERE name = 'asideId'), 0)))`,
    ),
    insert: sql(
      `INSERT INTO aside (id, atMs, reader, class, why, content)
       SELECT value, ?, ?, ?, ?, ? FROM meta WHERE name = 'asideId'`,
    ),
    count: sql<[], { count: number }>("SELECT count(*) AS count FROM aside"),
    size: sql<[], { count: number; bytes: number }>(
      "SELECT count(*) AS count, coalesce(sum(length(content)), 0) AS bytes FROM aside",
    ),
    removeOldest: sql("DELETE FROM aside WHERE id = (SELECT min(id) FROM aside)"),
    list: sql<[number, number], AsideSummary>(
      "SELECT id, atMs, reader, class, why, length(content) AS bytes FROM aside WHERE id > ? ORDER BY id LIMIT ?",
    ),
    get: sql<[number], AsideEntry>("SELECT * FROM aside WHERE id = ?"),
    remove: sql("DELETE FROM aside WHERE id = ?"),
  };
}
