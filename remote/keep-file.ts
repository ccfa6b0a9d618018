import Database from "better-sqlite3";
import { chmod } from "node:fs/promises";
import { codeOf, EdgeError } from "../core/errors.js";
import { openGroupCommit, type GroupCommit } from "../core/group-commit.js";
import { take, type ReceiverState } from "../messages/stream-receiver.js";
import type { StreamLife, TelemetryMessage } from "../messages/telemetry.js";
import type { ResumeState } from "./platform.js";
import { MAX_LIVES, type Stored, type StreamStore } from "./stream-store.js";

/** The file of `watch --keep` cannot be used; the message says why. */
export class KeepFileUnusable extends EdgeError {
  override readonly code = "KEEP_FILE_UNUSABLE";
}

/** Whose readings a file holds and who gives receipts for them: it is no use for anything else. */
export interface KeepSubject {
  readonly owner: string;
  readonly device: string;
  readonly ns: string;
  readonly reader: string;
  readonly consumer: string;
}

const VERSION = 1;
/** "atKe" */
const APPLICATION_ID = 0x61_74_4b_65;

/*
 * `readings` is for people and their tools: a number, a text, or 0 and 1 with type `boolean`.
 * A primary key of (life, seq) is what makes a repeated message harmless even if the state were lost.
 */
const SCHEMA = `
  CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID, STRICT;
  CREATE TABLE life (
    id INTEGER PRIMARY KEY, stream TEXT NOT NULL, inc INTEGER NOT NULL, state TEXT NOT NULL, ended INTEGER NOT NULL,
    UNIQUE (stream, inc)) STRICT;
  CREATE TABLE message (
    life INTEGER NOT NULL REFERENCES life (id), seq INTEGER NOT NULL, received_ms INTEGER NOT NULL,
    boot TEXT, bracket_from_ms INTEGER, bracket_to_ms INTEGER, PRIMARY KEY (life, seq)) WITHOUT ROWID, STRICT;
  CREATE TABLE reading (
    life INTEGER NOT NULL, seq INTEGER NOT NULL, idx INTEGER NOT NULL, time_ms INTEGER NOT NULL, name TEXT NOT NULL,
    unit TEXT, type TEXT NOT NULL, value ANY NOT NULL, PRIMARY KEY (life, seq, idx)) WITHOUT ROWID, STRICT;
  CREATE TABLE gap (
    life INTEGER NOT NULL, seq INTEGER NOT NULL, from_seq INTEGER NOT NULL, to_seq INTEGER NOT NULL, lost INTEGER,
    time_from_ms INTEGER, time_to_ms INTEGER, reason TEXT NOT NULL, PRIMARY KEY (life, seq)) WITHOUT ROWID, STRICT;
  CREATE TABLE forgone (
    life INTEGER NOT NULL, from_seq INTEGER NOT NULL, to_seq INTEGER NOT NULL,
    PRIMARY KEY (life, from_seq)) WITHOUT ROWID, STRICT;
  CREATE VIEW readings AS
    SELECT time_ms, name, value, unit, type, received_ms, bracket_to_ms, life, seq, idx
    FROM reading JOIN message USING (life, seq);
`;

interface LifeRow {
  readonly id: number;
  readonly state: string;
}

/** Opens or makes the SQLite file of `watch --keep`. @throws {KeepFileUnusable} */
export async function openKeepFile(path: string, subject: KeepSubject): Promise<KeepFile> {
  try {
    const db = new Database(path, { timeout: 0 }); // who has it open keeps it open
    await chmod(path, 0o600);
    const commit = await openGroupCommit({ db, path });
    try {
      await commit.write(() => prepare(db, path, subject));
      return new KeepFile(db, commit);
    } catch (error) {
      await commit.close();
      throw error;
    }
  } catch (cause) {
    if (cause instanceof KeepFileUnusable) throw cause;
    const code = codeOf(cause) ?? "unknown error";
    const why = code === "SQLITE_BUSY" ? "another process has it open" : code;
    throw new KeepFileUnusable(`${path} cannot be used to keep readings (${why})`, { cause });
  }
}

/** Readings with what was received of each life, one transaction for both. */
export class KeepFile implements StreamStore {
  readonly #commit: GroupCommit;
  readonly #statements: Statements;

  constructor(db: Database.Database, commit: GroupCommit) {
    this.#commit = commit;
    this.#statements = statementsOf(db);
  }

  lives(): readonly ReceiverState[] {
    const rows = this.#statements.lives.all(MAX_LIVES) as { readonly state: string }[];
    return rows.map(({ state }) => JSON.parse(state) as ReceiverState).toReversed();
  }

  take(message: TelemetryMessage, receivedMs: number): Promise<Stored> {
    return this.#commit.write(() => this.#apply(message, receivedMs));
  }

  /** Where the monitor goes on. Not of the same transaction: a message that it skips is sent again. */
  get resume(): ResumeState {
    return {
      load: () => {
        const row = this.#statements.meta.get("resume") as { readonly value: string } | undefined;
        return row?.value;
      },
      save: (state) => this.#commit.write(() => void this.#statements.setMeta.run("resume", state), "crash"),
    };
  }

  /** Resolves when all that was taken before is on the disk. */
  flush(): Promise<void> {
    return this.#commit.flush();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#commit.close();
  }

  /** Reads the state from the file each time: a write that failed then leaves nothing behind in memory. */
  #apply(message: TelemetryMessage, receivedMs: number): Stored {
    const { life, addLife, setState, addForgone } = this.#statements;
    const row = life.get(message.stream, message.inc) as LifeRow | undefined;
    const taken = take(row && (JSON.parse(row.state) as ReceiverState), message, "window");
    if (taken.news === "duplicate") return taken;
    const state = JSON.stringify(taken.state);
    const id = row ? row.id : Number(addLife.run(message.stream, message.inc, state).lastInsertRowid);
    if (row) setState.run(state, id);
    this.#addContent(id, message, receivedMs, taken.lost);
    for (const [from, to] of taken.forgone) addForgone.run(id, from, to);
    const ended = row ? undefined : this.#end(message.prev);
    return ended ? { ...taken, ended } : taken;
  }

  #addContent(life: number, message: TelemetryMessage, receivedMs: number, lost: number | null | undefined): void {
    const { addMessage, addReading, addGap } = this.#statements;
    const { seq } = message;
    const undated = message.type === "pack" ? message.undated : undefined;
    addMessage.run(life, seq, receivedMs, undated?.boot, undated?.timeFrom, undated?.timeTo);
    if (message.type === "gap") {
      const { fromSeq, toSeq, timeFrom, timeTo, reason } = message.gap;
      addGap.run(life, seq, fromSeq, toSeq, lost, timeFrom, timeTo, reason);
      return;
    }
    message.readings.forEach(({ name, unit, value, timeMs }, index) => {
      const plain = typeof value === "boolean" ? Number(value) : value;
      addReading.run(life, seq, index, timeMs, name, unit, typeof value, plain);
    });
  }

  #end(life: StreamLife | undefined): ReceiverState | undefined {
    const row = life && (this.#statements.life.get(life.stream, life.inc) as LifeRow | undefined);
    if (!row) return undefined;
    this.#statements.endLife.run(row.id);
    return JSON.parse(row.state) as ReceiverState;
  }
}

function prepare(db: Database.Database, path: string, subject: KeepSubject): void {
  const entries = Object.entries(subject);
  if (db.pragma("application_id", { simple: true }) !== APPLICATION_ID) {
    const { count } = db.prepare("SELECT count(*) AS count FROM sqlite_schema").get() as { readonly count: number };
    if (count > 0) throw new KeepFileUnusable(`${path} is a database of something else`);
    db.exec(SCHEMA);
    db.pragma(`application_id = ${APPLICATION_ID}`);
    db.pragma(`user_version = ${VERSION}`);
    for (const [name, value] of entries) db.prepare("INSERT INTO meta VALUES (?, ?)").run(name, value);
  }
  const version = db.pragma("user_version", { simple: true });
  if (version !== VERSION) throw new KeepFileUnusable(`${path} has version ${String(version)}, not ${VERSION}`);
  for (const [name, value] of entries) {
    const row = db.prepare("SELECT value FROM meta WHERE name = ?").get(name) as { readonly value: string } | undefined;
    if (row?.value !== value)
      throw new KeepFileUnusable(`${path} is kept for ${name} ${String(row?.value)}, not ${value}: use another file`);
  }
}

type Statements = ReturnType<typeof statementsOf>;

function statementsOf(db: Database.Database) {
  return {
    meta: db.prepare("SELECT value FROM meta WHERE name = ?"),
    setMeta: db.prepare("INSERT OR REPLACE INTO meta VALUES (?, ?)"),
    lives: db.prepare("SELECT state FROM life WHERE ended = 0 ORDER BY id DESC LIMIT ?"),
    life: db.prepare("SELECT id, state FROM life WHERE stream = ? AND inc = ?"),
    addLife: db.prepare("INSERT INTO life (stream, inc, state, ended) VALUES (?, ?, ?, 0)"),
    setState: db.prepare("UPDATE life SET state = ? WHERE id = ?"),
    endLife: db.prepare("UPDATE life SET ended = 1 WHERE id = ?"),
    addMessage: db.prepare("INSERT INTO message VALUES (?, ?, ?, ?, ?, ?)"),
    addReading: db.prepare("INSERT INTO reading VALUES (?, ?, ?, ?, ?, ?, ?, ?)"),
    addGap: db.prepare("INSERT INTO gap VALUES (?, ?, ?, ?, ?, ?, ?, ?)"),
    addForgone: db.prepare("INSERT OR REPLACE INTO forgone VALUES (?, ?, ?)"),
  };
}
