import type { Database, Statement } from "better-sqlite3";
import type { Durability } from "../../core/group-commit.js";
import type { JsonObject } from "../../messages/json-field.js";
import type { NewAside } from "./set-aside.js";
import { ROW_BYTES } from "./eviction.js";
import { OutboxFull, type Space } from "./space.js";
import { ANSWER_RANK } from "./stream-rows.js";
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

export interface AnswersDeps {
  readonly writes: Writes;
  readonly space: Pick<Space, "makeRoom">;
  readonly durability: Durability;
}

/** Looked at together. */
const MAX_PENDING = 256;

/** Answers that are not known to be with the caller's atServer yet. */
export class Answers {
  /** What an answer survives once it is promised. */
  readonly durability: Durability;
  readonly #writes: Writes;
  readonly #space: AnswersDeps["space"];
  #noRoom = 0;
  readonly #sql: ReturnType<typeof prepare>;
  readonly #listeners = new Set<() => void>();

  constructor(db: Database, { writes, space, durability }: AnswersDeps) {
    this.durability = durability;
    this.#writes = writes;
    this.#space = space;
    this.#sql = prepare(db);
  }

  /** Told of each new answer. @returns a function that ends it. */
  listen(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Answers since the start for which there was no room: whoever asks again gets them from the ledger. */
  get noRoom(): number {
    return this.#noRoom;
  }

  /** Resolves when it is as durable as answers are. */
  put(answer: NewAnswer): Promise<void> {
    return this.#writes.write("answer.queue", () => this.insert(answer), this.durability);
  }

  /** Within the caller's transaction, which goes on when there is no room: what was done must be known above all. */
  insert({ to, name, body, sealed, expiresMs }: NewAnswer): void {
    const text = JSON.stringify(body);
    try {
      this.#space.makeRoom(text.length + name.length + ROW_BYTES, ANSWER_RANK);
    } catch (error) {
      if (!(error instanceof OutboxFull)) throw error;
      this.#noRoom += 1;
      return;
    }
    this.#sql.insert.run(to, name, text, sealed ? 1 : 0, expiresMs);
    for (const listener of this.#listeners) listener();
  }

  /** The oldest, oldest first. */
  pending(): PendingAnswer[] {
    return this.#sql.oldest.all(MAX_PENDING).map(({ body, sealed, notificationId, ...row }) => ({
      ...row,
      body: JSON.parse(body) as JsonObject, // written by `insert` alone
      sealed: sealed === 1,
      notificationId: notificationId ?? undefined,
    }));
  }

  /** Our atServer took it under this id. */
  sent(id: number, notificationId: string): Promise<void> {
    return this.#writes.write("answer.sent", () => void this.#sql.sent.run(notificationId, id), "crash");
  }

  /** Our atServer has given it up; it is to be sent again. */
  unsent(id: number): Promise<void> {
    return this.#writes.write("answer.sent", () => void this.#sql.sent.run(null, id), "crash");
  }

  /** Delivered or expired. */
  done(id: number): Promise<void> {
    return this.#writes.write("answer.done", () => void this.#sql.remove.run(id), "crash");
  }

  /** It can never be sent; a human may look at it. @param keep puts it with the others that were set aside. */
  setAside(answer: PendingAnswer, why: string, nowMs: number, keep: (entry: NewAside) => void): Promise<void> {
    const { id, to, name, body, sealed } = answer;
    return this.#writes.write("answer.aside", () => {
      keep({ atMs: nowMs, reader: to, class: "answer", why, content: JSON.stringify({ name, body, sealed }) });
      this.#sql.remove.run(id);
    });
  }
}

function prepare(db: Database) {
  const sql = <P extends unknown[], R = unknown>(text: string): Statement<P, R> => db.prepare<P, R>(text);
  return {
    insert: sql('INSERT INTO answer ("to", name, body, sealed, expiresMs) VALUES (?, ?, ?, ?, ?)'),
    oldest: sql<[number], Row>("SELECT * FROM answer ORDER BY id LIMIT ?"),
    sent: sql("UPDATE answer SET notificationId = ? WHERE id = ?"),
    remove: sql("DELETE FROM answer WHERE id = ?"),
  };
}
