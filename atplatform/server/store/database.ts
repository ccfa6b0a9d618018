import Database from "better-sqlite3";
import { closeSync, openSync } from "node:fs";
import type { DiskSync } from "../../../core/disk-sync.js";
import { openGroupCommit, type GroupCommit } from "../../../core/group-commit.js";
import { EdgeError } from "../../../core/errors.js";
import type { Disposable } from "../../../core/scope.js";

export type Db = Database.Database;

/** The file was written by a later version of atedge. */
export class SchemaTooNew extends EdgeError {
  override readonly code: string = "SCHEMA_TOO_NEW";
}

/** Times are milliseconds since 1970. Each entry brings the file from one version to the next. */
const MIGRATIONS: readonly string[] = [
  `
  -- Every record of the atSign: its own, what it shares, what it has cached of others.
  CREATE TABLE key (
    name TEXT NOT NULL PRIMARY KEY,
    available_at INTEGER,
    expires_at INTEGER,
    refresh_at INTEGER,
    metadata TEXT NOT NULL,
    value TEXT -- last: SQLite walks through a long value to what stands behind it
  );
  CREATE INDEX key_expiry ON key (expires_at) WHERE expires_at IS NOT NULL;
  CREATE INDEX key_refresh ON key (refresh_at) WHERE refresh_at IS NOT NULL;

  -- The newest change of every key, deletions included. Ids begin at 0 and are never used twice.
  CREATE TABLE commit_log (
    commit_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    operation TEXT NOT NULL,
    at_ms INTEGER NOT NULL
  );

  CREATE TABLE notification (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    from_at_sign TEXT NOT NULL,
    to_at_sign TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT,
    operation TEXT NOT NULL,
    message_type TEXT NOT NULL,
    priority TEXT NOT NULL,
    strategy TEXT NOT NULL,
    latest_n INTEGER NOT NULL,
    notifier TEXT NOT NULL,
    metadata TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    ttln_ms INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    status TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    UNIQUE (id, from_at_sign) -- ids are the sender's choice: a peer's must not replace one of ours
  );
  CREATE INDEX notification_replay ON notification (at_ms) WHERE type <> 'sent';
  CREATE INDEX notification_queue ON notification (to_at_sign, seq) WHERE type = 'sent' AND status <> 'delivered';
  CREATE INDEX notification_expiry ON notification (expires_at);

  CREATE TABLE enrollment (
    id TEXT NOT NULL PRIMARY KEY,
    session_id TEXT NOT NULL,
    app_name TEXT NOT NULL,
    device_name TEXT NOT NULL,
    namespaces TEXT NOT NULL,
    apkam_public_key TEXT NOT NULL,
    state TEXT NOT NULL,
    encrypted_apkam_symmetric_key TEXT,
    apkam_keys_expiry_ms INTEGER NOT NULL,
    otp TEXT,
    requested_at INTEGER NOT NULL,
    expires_at INTEGER
  );
  CREATE INDEX enrollment_app ON enrollment (app_name, device_name);

  -- Passcodes that otp:get issued (single use) and the one that otp:put set ('spp').
  CREATE TABLE passcode (
    kind TEXT NOT NULL,
    code TEXT NOT NULL,
    expires_at INTEGER,
    PRIMARY KEY (kind, code)
  ) WITHOUT ROWID;

  -- What the owner set and what the server must remember of itself.
  CREATE TABLE setting (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

  -- Who called, and what was looked up: visits since the file was made.
  CREATE TABLE visit (kind TEXT NOT NULL, name TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (kind, name)) WITHOUT ROWID;
  `,
];

/** One atSign's file. Reads go to `db` at once; every change goes through `commits`. */
export interface AtDatabase extends Disposable {
  readonly db: Db;
  readonly commits: GroupCommit;
  readonly path: string;
}

/** A disk this quick costs a client less when it is waited for on the event loop. */
const SYNC_MAY_BLOCK_MS = 5;
/** As long as SQLite's own: emptied more often, the log costs every client. */
const WAL_LIMIT_BYTES = 4 << 20;
/** Each atSign of a platform has its own; better-sqlite3's 16 MB make 100,000 records no faster, since the kernel has them. */
const PAGE_CACHE_KIB = 4_000;

/**
 * Opens or makes the file of one atSign and locks it.
 *
 * @throws {SchemaTooNew}, or a SqliteError (`SQLITE_BUSY` when another process has it).
 */
export async function openAtDatabase(path: string, disk?: DiskSync): Promise<AtDatabase> {
  makePrivate(path);
  const db = new Database(path, { timeout: 0 });
  db.pragma(`cache_size = -${PAGE_CACHE_KIB}`);
  const commits = await openGroupCommit({
    db,
    path,
    mayBlockMs: SYNC_MAY_BLOCK_MS,
    walLimitBytes: WAL_LIMIT_BYTES,
    ...(disk && { disk }),
  });
  try {
    await commits.write(() => migrate(db, path));
  } catch (error) {
    await commits.close();
    throw error;
  }
  return { db, commits, path, [Symbol.asyncDispose]: () => commits.close() };
}

/** The file holds the CRAM secret and all keys; SQLite gives its log the same mode. */
function makePrivate(path: string): void {
  closeSync(openSync(path, "a", 0o600));
}

function migrate(db: Db, path: string): void {
  const version = Number(db.pragma("user_version", { simple: true }));
  if (version > MIGRATIONS.length)
    throw new SchemaTooNew(`${path}: has schema ${version}, this atedge knows ${MIGRATIONS.length}`);
  for (const migration of MIGRATIONS.slice(version)) db.exec(migration);
  db.pragma(`user_version = ${MIGRATIONS.length}`);
}
