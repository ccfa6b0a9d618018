import { existsSync } from "node:fs";
import { open, rename, rm, stat, statfs } from "node:fs/promises";
import { dirname } from "node:path";

/** What a synchronous SQLite library offers; better-sqlite3's `Database` fits. */
export interface SchemaDb {
  exec(sql: string): unknown;
  pragma(source: string, options?: { simple?: boolean }): unknown;
  prepare(sql: string): { all(...values: unknown[]): unknown[]; run(...values: unknown[]): unknown };
}

/** One step of a schema, never changed once released. */
export interface Migration {
  readonly up: string;
  /**
   * The way back, from the second step on: it loses nothing that the step before knows of. It is kept in the file, so
   * that an older program that gets it back, after an update that failed, can go there.
   */
  readonly down?: string;
}

const KEPT_COPY_MS = 7 * 24 * 3_600_000;

/**
 * Brings the tables up to this version, or back to it by the way that the newer version has left in the file. To be
 * called inside a transaction: all or nothing. `user_version` counts the steps that a file has seen.
 *
 * @param tooNew makes the error for a file of a newer version that has left no way back; nothing is changed then.
 */
export function migrate(db: SchemaDb, migrations: readonly Migration[], tooNew: (version: number) => Error): void {
  const version = versionOf(db);
  if (version > migrations.length) return goBack(db, version, migrations.length, tooNew);
  for (const [index, { up, down }] of migrations.entries()) {
    if (index < version) continue;
    db.exec(up);
    if (down !== undefined) {
      db.exec("CREATE TABLE IF NOT EXISTS way_back (version INTEGER PRIMARY KEY, sql TEXT NOT NULL)");
      db.prepare("INSERT OR REPLACE INTO way_back VALUES (?, ?)").run(index + 1, down);
    }
    db.pragma(`user_version = ${index + 1}`);
  }
}

function goBack(db: SchemaDb, from: number, to: number, tooNew: (version: number) => Error): void {
  const hasWay = db.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'way_back'").all().length > 0;
  const rows = hasWay ? db.prepare("SELECT sql FROM way_back WHERE version > ? ORDER BY version DESC").all(to) : [];
  if (rows.length !== from - to) throw tooNew(from);
  for (const row of rows) db.exec((row as { readonly sql: string }).sql);
  db.prepare("DELETE FROM way_back WHERE version > ?").run(to);
  db.pragma(`user_version = ${to}`);
}

/**
 * Copies a database that is about to be migrated to `PATH.vN`, N its version, and removes a copy that is a week old.
 * To be called before {@link migrate}, outside of a transaction, with nobody else writing.
 *
 * @returns the copy's path, `undefined` when none is needed or there is not twice the room for one.
 * @throws what SQLite and the file system throw.
 */
export async function copyBeforeMigration(
  db: SchemaDb,
  path: string,
  { length: known }: readonly Migration[],
  nowMs: number,
): Promise<string | undefined> {
  const version = versionOf(db);
  for (let old = 1; old < Math.min(version, known); old += 1) await dropCopy(`${path}.v${old}`, nowMs);
  if (version === 0 || version >= known) return undefined;
  const bytes = Number(db.pragma("page_count", { simple: true })) * Number(db.pragma("page_size", { simple: true }));
  const { bavail, bsize } = await statfs(dirname(path));
  if (bavail * bsize < 2 * bytes) return undefined;
  const copy = `${path}.v${version}`;
  const fresh = `${copy}.new`;
  await rm(fresh, { force: true });
  const file = await open(fresh, "wx", 0o600); // SQLite takes an empty file, and would make it readable for all
  try {
    db.prepare("VACUUM INTO ?").run(fresh);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(fresh, copy);
  return copy;
}

async function dropCopy(copy: string, nowMs: number): Promise<void> {
  if (existsSync(copy) && nowMs - (await stat(copy)).mtimeMs > KEPT_COPY_MS) await rm(copy, { force: true });
}

const versionOf = (db: SchemaDb): number => Number(db.pragma("user_version", { simple: true }));
