import type { Statement } from "better-sqlite3";
import type { Db } from "./database.js";
import type { CommitOperation } from "../../protocol/verbs/sync-from.js";
import type { StoredMetadata } from "./metadata.js";

export interface KeyRecord {
  readonly name: string;
  /** `null`: only metadata was ever written (`update:meta`). */
  readonly value: string | null;
  readonly metadata: StoredMetadata;
}

export interface Change {
  readonly commitId: number;
  readonly name: string;
  readonly operation: CommitOperation;
  /** `undefined` when the key is not there (any more). */
  readonly record: KeyRecord | undefined;
}

interface Row {
  readonly name: string;
  readonly value: string | null;
  readonly metadata: string;
}

interface ChangeRow {
  readonly commitId: number;
  readonly name: string;
  readonly operation: CommitOperation;
  readonly value: string | null;
  readonly metadata: string | null;
}

/** What stands for "not in the log" in answers. */
export const NOT_COMMITTED = -1;

const NEXT_COMMIT_ID = "next_commit_id";

/**
 * The records of one atSign and the log of their changes. Methods that change something are to be called inside a write
 * of the group commit.
 */
export class KeyStore {
  readonly #get: Statement<[string], Row>;
  readonly #put: Statement<[Record<string, string | number | null>]>;
  readonly #delete: Statement<[string]>;
  readonly #names: Statement<[number, number], string>;
  readonly #count: Statement<[], { count: number }>;
  readonly #nextId: Statement<[], { id: number | null; floor: string | null }>;
  readonly #log: Statement<[number, string, string, number]>;
  readonly #unlog: Statement<[string], { commitId: number }>;
  readonly #setFloor: Statement<[string]>;
  readonly #last: Statement<[], { id: number | null }>;
  readonly #logSize: Statement<[], number>;
  readonly #changes: Statement<[number], ChangeRow>;
  readonly #newestFirst: Statement<[], ChangeRow>;
  readonly #expired: Statement<[number, number], { name: string }>;
  readonly #due: Statement<[number, number, number], { name: string }>;
  #supersededBefore = 0;

  constructor(db: Db) {
    this.#get = db.prepare("SELECT name, value, metadata FROM key WHERE name = ?");
    this.#put = db.prepare(`INSERT INTO key (name, value, metadata, available_at, expires_at, refresh_at)
      VALUES (@name, @value, @metadata, @availableAtMs, @expiresAtMs, @refreshAtMs)
      ON CONFLICT (name) DO UPDATE SET value = excluded.value, metadata = excluded.metadata,
      available_at = excluded.available_at, expires_at = excluded.expires_at, refresh_at = excluded.refresh_at`);
    this.#delete = db.prepare("DELETE FROM key WHERE name = ?");
    this.#names = db
      .prepare<[number, number], string>(
        `SELECT name FROM key
      WHERE (expires_at IS NULL OR expires_at > ?) AND (available_at IS NULL OR available_at <= ?)`,
      )
      .pluck();
    this.#count = db.prepare("SELECT count(*) AS count FROM key");
    this.#nextId = db.prepare(`SELECT (SELECT max(commit_id) FROM commit_log) AS id,
      (SELECT value FROM setting WHERE name = '${NEXT_COMMIT_ID}') AS floor`);
    this.#log = db.prepare("INSERT OR REPLACE INTO commit_log (commit_id, name, operation, at_ms) VALUES (?, ?, ?, ?)");
    this.#unlog = db.prepare("DELETE FROM commit_log WHERE name = ? RETURNING commit_id AS commitId");
    this.#setFloor = db.prepare(`INSERT OR REPLACE INTO setting (name, value) VALUES ('${NEXT_COMMIT_ID}', ?)`);
    this.#last = db.prepare("SELECT max(commit_id) AS id FROM commit_log");
    this.#logSize = db.prepare<[], number>("SELECT count(*) FROM commit_log").pluck();
    const changes = `SELECT commit_id AS commitId, commit_log.name AS name, operation, value, metadata
      FROM commit_log LEFT JOIN key ON key.name = commit_log.name`;
    this.#changes = db.prepare(`${changes} WHERE commit_id > ? ORDER BY commit_id`);
    this.#newestFirst = db.prepare(`${changes} ORDER BY commit_id DESC`);
    this.#expired = db.prepare("SELECT name FROM key WHERE expires_at <= ? LIMIT ?");
    this.#due = db.prepare(`SELECT name FROM key WHERE refresh_at <= ?
      AND (expires_at IS NULL OR expires_at > ?) AND (available_at IS NULL OR available_at <= ?)`);
  }

  get(name: string): KeyRecord | undefined {
    const row = this.#get.get(name);
    return row && { ...row, metadata: JSON.parse(row.metadata) as StoredMetadata };
  }

  /** Writes a record and logs it, unless names of its kind are never logged. Gives the commit id. */
  put(record: KeyRecord, operation: CommitOperation, nowMs: number): number {
    this.putUnlogged(record);
    return isLogged(record.name) ? this.#commit(record.name, operation, nowMs) : NOT_COMMITTED;
  }

  putUnlogged({ name, value, metadata }: KeyRecord): void {
    this.#put.run({
      name,
      value,
      metadata: JSON.stringify(metadata),
      availableAtMs: metadata.availableAtMs ?? null,
      expiresAtMs: metadata.expiresAtMs ?? null,
      refreshAtMs: metadata.refreshAtMs ?? null,
    });
  }

  /** Logged also when there was no such record: clients may have one that this server lost. */
  delete(name: string, nowMs: number): number {
    this.#delete.run(name);
    return isLogged(name) ? this.#commit(name, "-", nowMs) : NOT_COMMITTED;
  }

  /** Removes a record and every trace of it in the log. */
  deleteUnlogged(name: string): void {
    this.#delete.run(name);
    const next = this.#nextCommitId();
    // The newest entry may be the one that goes; its id must not be given again.
    if (this.#unlog.get(name)) this.#setFloor.run(String(next));
  }

  /** Of records that are born and not expired, in no order. */
  activeNames(nowMs: number): readonly string[] {
    return this.#names.all(nowMs, nowMs);
  }

  get size(): number {
    return this.#count.get()?.count ?? 0;
  }

  /** -1 when nothing was ever logged. */
  get lastCommitId(): number {
    return this.#last.get()?.id ?? NOT_COMMITTED;
  }

  /** Entries of the log. */
  get logSize(): number {
    return this.#logSize.get() ?? 0;
  }

  /** How many entries later ones have taken the place of since it was asked last, at first: ever. */
  takeSuperseded(): number {
    const superseded = this.#nextCommitId() - this.logSize;
    const fresh = superseded - this.#supersededBefore;
    this.#supersededBefore = superseded;
    return fresh;
  }

  /** One a key, in order, after a commit id. Do not write while iterating. */
  *changesAfter(commitId: number): Generator<Change> {
    for (const row of this.#changes.iterate(commitId)) yield toChange(row);
  }

  /** One a key, the newest first. Do not write while iterating. */
  *changesNewestFirst(): Generator<Change> {
    for (const row of this.#newestFirst.iterate()) yield toChange(row);
  }

  expiredNames(nowMs: number, limit: number): readonly string[] {
    return this.#expired.all(nowMs, limit).map(({ name }) => name);
  }

  /** Of cached records that are to be fetched again. */
  dueForRefresh(nowMs: number): readonly string[] {
    const due = this.#due.all(nowMs, nowMs, nowMs).map(({ name }) => name);
    return due.filter((name) => name.startsWith("cached:"));
  }

  #commit(name: string, operation: CommitOperation, nowMs: number): number {
    const commitId = this.#nextCommitId();
    this.#log.run(commitId, name, operation, nowMs);
    return commitId;
  }

  #nextCommitId(): number {
    const { id, floor } = this.#nextId.get() ?? { id: null, floor: null };
    return Math.max((id ?? NOT_COMMITTED) + 1, Number(floor ?? 0));
  }
}

/** Private names and `public:_x` (but not `public:__x`) never show in the log (spec 4.7). */
export function isLogged(name: string): boolean {
  if (name.startsWith("public:_")) return name.startsWith("public:__");
  return !["private:", "privatekey:", "local:"].some((prefix) => name.startsWith(prefix));
}

export function isActive({ metadata }: KeyRecord, nowMs: number): boolean {
  const { availableAtMs, expiresAtMs } = metadata;
  return (expiresAtMs === undefined || expiresAtMs > nowMs) && (availableAtMs === undefined || availableAtMs <= nowMs);
}

/** Only {@link KeyStore} writes the metadata column. */
function toChange({ commitId, name, operation, value, metadata }: ChangeRow): Change {
  const record = metadata === null ? undefined : { name, value, metadata: JSON.parse(metadata) as StoredMetadata };
  return { commitId, name, operation, record };
}
