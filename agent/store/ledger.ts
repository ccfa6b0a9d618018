import type { Database, Statement } from "better-sqlite3";
import { EdgeError } from "../../core/errors.js";
import type { Answers, NewAnswer } from "./answers.js";
import type { Writes } from "./writes.js";

export interface LedgerEntry {
  readonly caller: string;
  /** The command's own id, or the reqId of a client that has none. */
  readonly id: string;
  readonly state: "accepted" | "done";
  /** What the control part wants to know after a restart: target, command, where the answer goes. JSON. */
  readonly detail: unknown;
  readonly acceptedMs: number;
  readonly expiresMs: number;
  /** Given by {@link Ledger.finish}. JSON. */
  readonly answer: unknown;
}

export type NewCommand = Pick<LedgerEntry, "caller" | "id" | "detail" | "acceptedMs" | "expiresMs">;

export type Accepted =
  | { readonly kind: "new" }
  /** This command was here before, and is running (`accepted`) or has its answer (`done`). */
  | { readonly kind: "repeat"; readonly entry: LedgerEntry };

interface Row extends Omit<LedgerEntry, "detail" | "answer"> {
  readonly detail: string;
  readonly answer: string | null;
}

/** There is no disk to remember commands on. */
export class NoLedger extends EdgeError {
  override readonly code = "NO_LEDGER";
}

/** An entry outlives its command by this much: clocks differ, and a repeat must still be known as one. */
const PRUNE_MARGIN_MS = 24 * 3_600_000;

/** Which commands were taken, so that none acts twice, restarts included. */
export class Ledger {
  readonly #writes: Writes;
  readonly #answers: Answers;
  readonly #sql: ReturnType<typeof prepare>;
  readonly #inMemory: boolean;

  /** @param inMemory it would be forgotten: nothing is accepted. */
  constructor(db: Database, writes: Writes, answers: Answers, inMemory = false) {
    this.#inMemory = inMemory;
    this.#writes = writes;
    this.#answers = answers;
    this.#sql = prepare(db);
  }

  /** When this ledger began, milliseconds since 1970: it knows nothing of commands issued before. */
  get birthMs(): number | undefined {
    return this.#sql.birth.get()?.value;
  }

  /** To be told once the time is known; only the first counts. */
  setBirth(nowMs: number): Promise<void> {
    if (this.birthMs !== undefined) return Promise.resolve();
    return this.#writes.write("command.birth", () => void this.#sql.setBirth.run(nowMs));
  }

  /**
   * Resolves when the command is on the disk: only then may it act, and only when it is `new`.
   *
   * @throws {NoLedger}
   */
  accept({ caller, id, detail, acceptedMs, expiresMs }: NewCommand): Promise<Accepted> {
    if (this.#inMemory) return Promise.reject(new NoLedger("the disk cannot be used, so no command can be remembered"));
    return this.#writes.write("command.accept", (): Accepted => {
      const entry = this.find(caller, id);
      if (entry) return { kind: "repeat", entry };
      this.#sql.insert.run(caller, id, JSON.stringify(detail ?? null), acceptedMs, expiresMs);
      return { kind: "new" };
    });
  }

  /**
   * Keeps what became of a command, and queues the answer in the same transaction.
   *
   * @param answer kept for repeats, as JSON.
   */
  finish(caller: string, id: string, answer: unknown, outgoing?: NewAnswer): Promise<void> {
    return this.#writes.write(
      "command.finish",
      () => {
        this.#sql.finish.run(JSON.stringify(answer ?? null), caller, id);
        if (outgoing) this.#answers.insert(outgoing);
      },
      this.#answers.durability,
    );
  }

  find(caller: string, id: string): LedgerEntry | undefined {
    const row = this.#sql.find.get(caller, id);
    return row && entryOf(row);
  }

  /** Taken, and without an answer: after a restart their outcome is unknown. Oldest first. */
  unfinished(): LedgerEntry[] {
    return this.#sql.unfinished.all().map(entryOf);
  }

  /** Forgets what has expired long ago. @returns how many. */
  prune(nowMs: number): Promise<number> {
    return this.#writes.write("command.prune", () => this.#sql.prune.run(nowMs - PRUNE_MARGIN_MS).changes, "crash");
  }
}

function prepare(db: Database) {
  const sql = <P extends unknown[], R = unknown>(text: string): Statement<P, R> => db.prepare<P, R>(text);
  return {
    birth: sql<[], { value: number }>("SELECT value FROM meta WHERE name = 'ledgerBirthMs'"),
    setBirth: sql("INSERT OR IGNORE INTO meta VALUES ('ledgerBirthMs', ?)"),
    insert: sql(
      "INSERT INTO command (caller, id, state, detail, acceptedMs, expiresMs) VALUES (?, ?, 'accepted', ?, ?, ?)",
    ),
    finish: sql("UPDATE command SET state = 'done', answer = ? WHERE caller = ? AND id = ?"),
    find: sql<[string, string], Row>("SELECT * FROM command WHERE caller = ? AND id = ?"),
    unfinished: sql<[], Row>("SELECT * FROM command WHERE state = 'accepted' ORDER BY acceptedMs"),
    prune: sql("DELETE FROM command WHERE state = 'done' AND expiresMs < ?"),
  };
}

const entryOf = ({ detail, answer, ...row }: Row): LedgerEntry => ({
  ...row,
  detail: JSON.parse(detail),
  answer: answer === null ? undefined : JSON.parse(answer),
});
