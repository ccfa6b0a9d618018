import Database from "better-sqlite3";
import { chmod } from "node:fs/promises";
import { openGroupCommit, type GroupCommit } from "../core/group-commit.js";
import type { Disposable } from "../core/scope.js";
import { take, type ReceiverState } from "../messages/stream-receiver.js";
import type { StreamLife, TelemetryMessage } from "../messages/telemetry.js";
import type { ResumeState } from "./platform.js";
import { MAX_LIVES, type Stored, type StreamStore } from "./stream-store.js";

const VERSION = 1;
const SCHEMA = `
  CREATE TABLE life (
    subject TEXT NOT NULL, stream TEXT NOT NULL, inc INTEGER NOT NULL, state TEXT NOT NULL, ended INTEGER NOT NULL,
    used INTEGER NOT NULL, PRIMARY KEY (subject, stream, inc)) WITHOUT ROWID, STRICT;
  CREATE TABLE resume (subject TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID, STRICT;
`;

/** Puts a message where it is safe; resolves then. It may come twice: after a crash in between. */
export type Keep = (message: TelemetryMessage, receivedMs: number) => Promise<void>;

/** What a collector has of each device's streams; the readings themselves go elsewhere. */
export class CollectFile implements Disposable {
  readonly #db: Database.Database;
  readonly #commit: GroupCommit;

  private constructor(db: Database.Database, commit: GroupCommit) {
    this.#db = db;
    this.#commit = commit;
  }

  /** @throws what SQLite and the file system throw. */
  static async open(path: string): Promise<CollectFile> {
    const db = new Database(path, { timeout: 0 });
    await chmod(path, 0o600);
    const commit = await openGroupCommit({ db, path });
    try {
      await commit.write(() => {
        if (Number(db.pragma("user_version", { simple: true })) >= VERSION) return;
        db.exec(SCHEMA);
        db.pragma(`user_version = ${VERSION}`);
      });
      return new CollectFile(db, commit);
    } catch (error) {
      await commit.close();
      throw error;
    }
  }

  /** @param subject `@owner/device.namespace` */
  storeOf(subject: string, keep: Keep): StreamStore {
    const db = this.#db;
    const find = db.prepare<[string, string, number], { readonly state: string }>(
      "SELECT state FROM life WHERE subject = ? AND stream = ? AND inc = ?",
    );
    const put = db.prepare("INSERT OR REPLACE INTO life VALUES (?, ?, ?, ?, 0, ?)");
    const end = db.prepare("UPDATE life SET ended = 1 WHERE subject = ? AND stream = ? AND inc = ?");
    const forget = db.prepare(
      `DELETE FROM life WHERE subject = ? AND (stream, inc) NOT IN
       (SELECT stream, inc FROM life WHERE subject = ? ORDER BY used DESC LIMIT ${2 * MAX_LIVES})`,
    );
    const stateOf = ({ stream, inc }: StreamLife): ReceiverState | undefined => {
      const row = find.get(subject, stream, inc);
      return row && (JSON.parse(row.state) as ReceiverState);
    };
    return {
      lives: () =>
        db
          .prepare<[string, number], { readonly state: string }>(
            "SELECT state FROM life WHERE subject = ? AND ended = 0 ORDER BY used DESC LIMIT ?",
          )
          .all(subject, MAX_LIVES)
          .map(({ state }) => JSON.parse(state) as ReceiverState)
          .toReversed(),
      take: async (message, receivedMs): Promise<Stored> => {
        // A message of one life is taken at a time: `watch` awaits this.
        const taken = take(stateOf(message), message, "window");
        if (taken.news === "duplicate") return taken;
        await keep(message, receivedMs);
        return this.#commit.write(() => {
          const isNew = stateOf(message) === undefined;
          put.run(subject, message.stream, message.inc, JSON.stringify(taken.state), receivedMs);
          const before = isNew ? message.prev : undefined;
          const ended = before && stateOf(before);
          if (before) end.run(subject, before.stream, before.inc);
          if (isNew) forget.run(subject, subject);
          return ended ? { ...taken, ended } : taken;
        });
      },
      [Symbol.asyncDispose]: () => Promise.resolve(),
    };
  }

  /** Where the one monitor goes on; a message that it skips is sent again by its device, which has no receipt for it. */
  get resume(): ResumeState {
    const find = this.#db.prepare<[], string>("SELECT state FROM resume WHERE subject = ''").pluck();
    const put = this.#db.prepare("INSERT OR REPLACE INTO resume VALUES ('', ?)");
    return {
      load: () => find.get(),
      save: (state) => this.#commit.write(() => void put.run(state), "crash"),
    };
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#commit.close();
  }
}
