import Database from "better-sqlite3";
import { EdgeError, SyntaxInvalid } from "../../core/errors.js";
import { type GroupCommit, openGroupCommit } from "../../core/group-commit.js";
import type { Disposable } from "../../core/scope.js";
import { type Metadata, metadataJson, parseMetadata } from "../protocol/metadata.js";
import type { LocalChange, PushResult, ServerEntry, SyncedRecord, SyncStore } from "../client/sync-store.js";

/** The file is another atSign's copy, or of a later version. */
export class SyncStoreMismatch extends EdgeError {
  override readonly code = "SYNC_STORE_MISMATCH";
}

const VERSION = 1;
const SCHEMA = `
  CREATE TABLE IF NOT EXISTS about (at_sign TEXT NOT NULL, position INTEGER NOT NULL, serial INTEGER NOT NULL);
  CREATE TABLE IF NOT EXISTS record (
    key TEXT PRIMARY KEY, commit_id INTEGER NOT NULL, metadata TEXT, value TEXT
  ) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS change (
    serial INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, command TEXT NOT NULL, deleted INTEGER NOT NULL,
    metadata TEXT, value TEXT, refused_with TEXT
  );
`;

interface RecordRow {
  readonly key: string;
  readonly commit_id: number;
  readonly metadata: string | null;
  readonly value: string | null;
}

interface ChangeRow {
  readonly serial: number;
  readonly key: string;
  readonly command: string;
  readonly deleted: number;
  readonly metadata: string | null;
  readonly value: string | null;
  readonly refused_with: string | null;
}

/**
 * Opens or makes the file; values in it are encrypted as on the atServer. One process at a time.
 *
 * @throws {SyncStoreMismatch}, or what SQLite and the file system throw.
 */
export async function openSqliteSyncStore(path: string, atSign: string): Promise<SqliteSyncStore> {
  const db = new Database(path);
  const commits = await openGroupCommit({ db, path });
  try {
    await commits.write(() => prepareSchema(db, path, atSign));
    return new SqliteSyncStore(db, commits);
  } catch (error) {
    await commits.close();
    throw error;
  }
}

function prepareSchema(db: Database.Database, path: string, atSign: string): void {
  const version = Number(db.pragma("user_version", { simple: true }));
  if (version > VERSION) throw new SyncStoreMismatch(`${path} was written by a later version`);
  db.exec(SCHEMA);
  db.pragma(`user_version = ${VERSION}`);
  const owner = db.prepare<[], { at_sign: string }>("SELECT at_sign FROM about").get()?.at_sign;
  if (owner === undefined) db.prepare("INSERT INTO about VALUES (?, -1, 0)").run(atSign);
  else if (owner !== atSign) throw new SyncStoreMismatch(`${path} is the copy of ${owner}`);
}

/** What it has resolved is on the disk, also after a power cut. */
export class SqliteSyncStore implements SyncStore, Disposable {
  readonly #commits: GroupCommit;
  readonly #sql: ReturnType<typeof statements>;

  /** Use {@link openSqliteSyncStore}. */
  constructor(db: Database.Database, commits: GroupCommit) {
    this.#commits = commits;
    this.#sql = statements(db);
  }

  async position(): Promise<number> {
    return this.#sql.about.get()?.position ?? -1;
  }

  async record(key: string): Promise<SyncedRecord | undefined> {
    const row = this.#sql.record.get(key);
    return row && recordOf(row);
  }

  async records(after: string | undefined, limit: number): Promise<readonly SyncedRecord[]> {
    return this.#sql.records.all(after ?? "", limit).map(recordOf);
  }

  async change(key: string): Promise<LocalChange | undefined> {
    const row = this.#sql.change.get(key);
    return row && changeOf(row);
  }

  async changes(afterSerial: number, limit: number): Promise<readonly LocalChange[]> {
    return this.#sql.changes.all(afterSerial, limit).map(changeOf);
  }

  async everyChange(): Promise<readonly LocalChange[]> {
    return this.#sql.everyChange.all().map(changeOf);
  }

  async saveChange({ key, command, record }: Pick<LocalChange, "key" | "command" | "record">): Promise<void> {
    await this.#commits.write(() => {
      this.#sql.dropChange.run(key);
      this.#sql.nextSerial.run();
      const deleted = record === null ? 1 : 0;
      this.#sql.addChange.run(key, command, deleted, metadataText(record?.metadata), record?.value ?? null);
    });
  }

  async dropChange(key: string): Promise<void> {
    await this.#commits.write(() => this.#sql.dropChange.run(key));
  }

  async savePage(entries: readonly ServerEntry[], position: number): Promise<void> {
    await this.#commits.write(() => {
      for (const entry of entries) {
        if ("deleted" in entry) this.#sql.dropRecord.run(entry.key);
        else this.#putRecord(entry);
      }
      this.#sql.setPosition.run(position);
    });
  }

  async savePushed(results: readonly PushResult[]): Promise<void> {
    await this.#commits.write(() => {
      for (const result of results) this.#savePushed(result);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#commits.close();
  }

  #savePushed(result: PushResult): void {
    const { key, serial } = result;
    const row = this.#sql.change.get(key);
    if (row?.serial !== serial) return;
    if ("refusedWith" in result) {
      this.#sql.refuseChange.run(result.refusedWith, key);
      return;
    }
    const { record } = changeOf(row);
    this.#sql.dropChange.run(key);
    if (record) this.#putRecord({ key, ...record, commitId: result.commitId });
    else this.#sql.dropRecord.run(key);
  }

  #putRecord({ key, commitId, metadata, value }: SyncedRecord): void {
    this.#sql.putRecord.run(key, commitId, metadataText(metadata), value);
  }
}

function statements(db: Database.Database) {
  return {
    about: db.prepare<[], { readonly position: number }>("SELECT position FROM about"),
    setPosition: db.prepare<[number]>("UPDATE about SET position = ?"),
    nextSerial: db.prepare<[]>("UPDATE about SET serial = serial + 1"),
    record: db.prepare<[string], RecordRow>("SELECT * FROM record WHERE key = ?"),
    records: db.prepare<[string, number], RecordRow>("SELECT * FROM record WHERE key > ? ORDER BY key LIMIT ?"),
    putRecord: db.prepare<[string, number, string | null, string | null]>(
      "INSERT OR REPLACE INTO record (key, commit_id, metadata, value) VALUES (?, ?, ?, ?)",
    ),
    dropRecord: db.prepare<[string]>("DELETE FROM record WHERE key = ?"),
    change: db.prepare<[string], ChangeRow>("SELECT * FROM change WHERE key = ?"),
    changes: db.prepare<[number, number], ChangeRow>(
      "SELECT * FROM change WHERE serial > ? AND refused_with IS NULL ORDER BY serial LIMIT ?",
    ),
    everyChange: db.prepare<[], ChangeRow>("SELECT * FROM change ORDER BY serial"),
    addChange: db.prepare<[string, string, number, string | null, string | null]>(
      "INSERT INTO change (serial, key, command, deleted, metadata, value) SELECT serial, ?, ?, ?, ?, ? FROM about",
    ),
    refuseChange: db.prepare<[string, string]>("UPDATE change SET refused_with = ? WHERE key = ?"),
    dropChange: db.prepare<[string]>("DELETE FROM change WHERE key = ?"),
  };
}

const metadataText = (metadata: Metadata | null | undefined): string | null =>
  metadata ? JSON.stringify(metadataJson(metadata)) : null;

/** @throws {SyntaxInvalid} when the file was changed by others. */
function metadataOf(text: string | null): Metadata | null {
  if (text === null) return null;
  try {
    return parseMetadata(JSON.parse(text));
  } catch (cause) {
    throw new SyntaxInvalid("the sync store holds metadata that is none", { cause });
  }
}

const recordOf = ({ key, commit_id, metadata, value }: RecordRow): SyncedRecord => ({
  key,
  value,
  metadata: metadataOf(metadata),
  commitId: commit_id,
});

const changeOf = ({ key, serial, command, deleted, metadata, value, refused_with }: ChangeRow): LocalChange => ({
  key,
  serial,
  command,
  record: deleted ? null : { value, metadata: metadataOf(metadata) },
  ...(refused_with !== null && { refusedWith: refused_with }),
});
