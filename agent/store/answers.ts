import type { Database, Statement } from "better-sqlite3";
import type { JsonObject } from "../../messages/json-field.js";
import type { Writes } from "./writes.js";

/** An answer to a command, to be sent as a notification. */
export interface NewAnswer {
  /** The caller's atSign. */
  readonly to: string;
  /** Entity and namespace, e.g. `success.17.cmd.__rpcs.north.atedge`. */
  readonly name: string;
  readonly body: JsonObject;
  /** False for a caller of other make, who knows no seal. */
  readonly sealed: boolean;
  /** When nobody waits for it any more, milliseconds since 1970. */
  readonly expiresMs: number;
}

export interface PendingAnswer extends NewAnswer {
  readonly id: number;
  /** Under which our atServer took it; to be asked whether it was delivered. */
  readonly notificationId: string | undefined;
}

interface Row extends Omit<PendingAnswer, "body" | "sealed" | "notificationId"> {
  readonly body: string;
  readonly sealed: number;
  readonly notificationId: string | null;
}

/** Answers that are not known to be with the caller's atServer yet. */
export class Answers {
  readonly #writes: Writes;
  readonly #sql: ReturnType<typeof prepare>;
  readonly #listeners = new Set<() => void>();

  constructor(db: Database, writes: Writes) {
    this.#writes = writes;
    this.#sql = prepare(db);
  }

  /** Told of each new answer. @returns a function that ends it. */
  listen(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Resolves when it is on the disk. */
  put(answer: NewAnswer): Promise<void> {
    return this.#writes.write(() => this.insert(answer));
  }

  /** Within the caller's transaction. */
  insert({ to, name, body, sealed, expiresMs }: NewAnswer): void {
    this.#sql.insert.run(to, name, JSON.stringify(body), sealed ? 1 : 0, expiresMs);
    for (const listener of this.#listeners) listener();
  }

  /** Oldest first. */
  pending(): PendingAnswer[] {
    return this.#sql.all.all().map(({ body, sealed, notificationId, ...row }) => ({
      ...row,
      body: JSON.parse(body) as JsonObject, // written by `insert` alone
      sealed: sealed === 1,
      notificationId: notificationId ?? undefined,
    }));
  }

  /** Our atServer took it under this id. */
  sent(id: number, notificationId: string): Promise<void> {
    return this.#writes.write(() => void this.#sql.sent.run(notificationId, id), "crash");
  }

  /** Our atServer has given it up; it is to be sent again. */
  unsent(id: number): Promise<void> {
    return this.#writes.write(() => void this.#sql.sent.run(null, id), "crash");
  }

  /** Delivered, expired or unsendable. */
  done(id: number): Promise<void> {
    return this.#writes.write(() => void this.#sql.remove.run(id), "crash");
  }
}

function prepare(db: Database) {
  const sql = <P extends unknown[], R = unknown>(text: string): Statement<P, R> => db.prepare<P, R>(text);
  return {
    insert: sql('INSERT INTO answer ("to", name, body, sealed, expiresMs) VALUES (?, ?, ?, ?, ?)'),
    all: sql<[], Row>("SELECT * FROM answer ORDER BY id"),
    sent: sql("UPDATE answer SET notificationId = ? WHERE id = ?"),
    remove: sql("DELETE FROM answer WHERE id = ?"),
  };
}
