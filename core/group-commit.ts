import { closeSync, fstatSync, openSync, write } from "node:fs";
import { dirname } from "node:path";
import { promisify } from "node:util";
import { nodeDisk, QuickDisk, type DiskSync } from "./disk-sync.js";
import { codeOf, EdgeError, LimitExceeded } from "./errors.js";

/** What a synchronous SQLite library offers; better-sqlite3's `Database` fits. */
export interface SqlHandle {
  exec(sql: string): unknown;
  pragma(source: string, options?: { simple?: boolean }): unknown;
  prepare(sql: string): { run(): unknown; get(): unknown };
  close(): unknown;
  readonly inTransaction: boolean;
}

/** `power-cut`: on the disk. `crash`: with the kernel, so that it outlives the process. */
export type Durability = "power-cut" | "crash";

export interface GroupCommitOptions {
  /** Just opened, nothing read yet; owned from here on, also when opening fails. */
  readonly db: SqlHandle;
  readonly path: string;
  /** The WAL is copied into the database file when it is longer than this; 2 MiB unless given. */
  readonly walLimitBytes?: number;
  /** Least time from one commit to the next; after a longer pause a write is committed at once. 0 unless given. */
  readonly commitIntervalMs?: number;
  /** Writes that may wait for their commit or sync; one more is refused with {@link LimitExceeded}. 10,000 unless given. */
  readonly maxWaiting?: number;
  /**
   * While syncs take less than this they are made on the event loop, which saves the way through the thread pool and
   * back: more than such a sync itself. A slower one sends many that follow through the pool. Never unless given.
   */
  readonly mayBlockMs?: number;
  /** Takes the place of the real disk, and of `mayBlockMs`. */
  readonly disk?: DiskSync;
}

export interface GroupCommitHealth {
  readonly state: "ok" | "failed" | "closed";
  readonly errorCode?: string;
  readonly waiting: number;
  readonly refused: number;
  readonly commits: number;
  readonly syncs: number;
  readonly checkpoints: number;
  /** Checkpoints put off because the database file could not be written (disk full); the WAL keeps growing. */
  readonly checkpointsPutOff: number;
  /** How long the last sync of the WAL took. */
  readonly lastSyncMs: number;
}

/** The disk did not confirm a write. What it holds is unknown, and a second sync may lie: the database must be reopened. */
export class DiskSyncFailed extends EdgeError {
  override readonly code: string = "DISK_SYNC_FAILED";
}

/** The database was closed before this write was. */
export class DatabaseClosed extends EdgeError {
  override readonly code: string = "DATABASE_CLOSED";
}

/**
 * Makes a synchronous SQLite library durable without ever waiting for the disk on the event loop.
 *
 * SQLite itself never syncs (`synchronous=OFF`). Writes gather in one open transaction; it is committed to the WAL as
 * soon as no sync is under way, and its writes resolve after an asynchronous fdatasync of the WAL. Reads on the same
 * handle see the open transaction at once.
 *
 * The WAL is emptied only in this order, with no write in between: sync WAL, copy into the database file, sync that,
 * zero the header of the WAL, sync WAL. With its header the WAL would restart over its old frames, and a power cut that
 * loses the new header but not the new frames would replay a part of the old ones (SQLite ticket ff5be73dee). It is not
 * truncated: to sync a file that does not grow costs half, because the file system has nothing to put in its journal.
 *
 * A failed sync fails the handle for good. A failed commit (disk full) rejects the writes of that batch only.
 */
export async function openGroupCommit(options: GroupCommitOptions): Promise<GroupCommit> {
  const { db, path } = options;
  const disk = options.disk ?? (options.mayBlockMs === undefined ? nodeDisk : new QuickDisk(options.mayBlockMs));
  const fds: number[] = [];
  try {
    db.pragma("locking_mode = EXCLUSIVE"); // no other process has business here; and no -shm file
    db.pragma("synchronous = OFF");
    const mode = db.pragma("journal_mode = WAL", { simple: true });
    if (mode !== "wal") throw new EdgeError(`${path}: SQLite refused the write-ahead log, mode is ${String(mode)}`);
    db.pragma("wal_autocheckpoint = 0");
    db.exec("BEGIN IMMEDIATE; COMMIT"); // creates the WAL, or recovers the one that a crash left
    const open = (name: string, flags = "r"): number => {
      const fd = openSync(name, flags);
      fds.push(fd);
      return fd;
    };
    const dbFd = open(path);
    const walFd = open(`${path}-wal`, "r+");
    const folderFd = open(dirname(path));
    // Frames that a killed process left may be with the kernel only, and callers are about to act on them.
    await synced(path, async () => {
      await emptyWal({ db, disk, dbFd, walFd }, "truncate");
      await disk.fsync(folderFd);
    });
    return new GroupCommit({ ...options, disk }, { dbFd, walFd, folderFd });
  } catch (error) {
    closeSafely(db);
    for (const fd of fds) closeSync(fd);
    throw error;
  }
}

interface Files {
  readonly dbFd: number;
  readonly walFd: number;
  readonly folderFd: number;
}

interface Waiter {
  readonly durability: Durability;
  readonly settle: () => void;
  readonly reject: (error: unknown) => void;
}

/** Opened by {@link openGroupCommit}. */
export class GroupCommit {
  readonly #db: SqlHandle;
  readonly #path: string;
  readonly #disk: DiskSync;
  readonly #walLimitBytes: number;
  readonly #commitIntervalMs: number;
  readonly #maxWaiting: number;
  readonly #files: Files;
  readonly #sql: Statements;
  readonly #frameBytes: number;

  /** Applied within the open transaction. */
  #batch: Waiter[] = [];
  /** Committed, not yet synced. */
  #unsynced: Waiter[] = [];
  /** Not applied yet: a checkpoint is under way. */
  #deferred: (() => void)[] = [];
  #checkpointing = false;
  #checkpointAtBytes: number;
  /** Of frames since the WAL was emptied; its file may be longer. */
  #walBytes = 0;
  #hurry = false;
  #syncing: Promise<void> | undefined;
  #cancelCommit: (() => void) | undefined;
  #lastCommitMs = -Infinity;
  #failure: EdgeError | undefined;
  #closing: Promise<void> | undefined;

  #waiting = 0;
  #refused = 0;
  #commits = 0;
  #syncs = 0;
  #checkpoints = 0;
  #checkpointsPutOff = 0;
  #lastSyncMs = 0;

  constructor(
    {
      db,
      path,
      walLimitBytes = 2 << 20,
      commitIntervalMs = 0,
      maxWaiting = 10_000,
      disk,
    }: GroupCommitOptions & { readonly disk: DiskSync },
    files: Files,
  ) {
    this.#db = db;
    this.#path = path;
    this.#disk = disk;
    this.#walLimitBytes = walLimitBytes;
    this.#checkpointAtBytes = walLimitBytes;
    this.#commitIntervalMs = commitIntervalMs;
    this.#maxWaiting = maxWaiting;
    this.#files = files;
    this.#frameBytes = frameBytes(db);
    this.#sql = prepared(db);
    closedAtExit(db);
  }

  get health(): GroupCommitHealth {
    const closed = this.#failure instanceof DatabaseClosed;
    return {
      state: closed ? "closed" : this.#failure ? "failed" : "ok",
      ...(this.#failure && !closed ? { errorCode: codeOf(this.#failure.cause) ?? this.#failure.code } : {}),
      waiting: this.#waiting,
      refused: this.#refused,
      commits: this.#commits,
      syncs: this.#syncs,
      checkpoints: this.#checkpoints,
      checkpointsPutOff: this.#checkpointsPutOff,
      lastSyncMs: this.#lastSyncMs,
    };
  }

  /**
   * Runs `apply` synchronously, now or as soon as no checkpoint is under way, inside the open transaction. A throw
   * undoes only this write and rejects. Resolves with its result when that is as durable as asked.
   *
   * `apply` neither begins nor ends transactions, awaits nothing and leaves no iterator open.
   *
   * @throws {LimitExceeded} when too many writes wait, {@link DiskSyncFailed}, {@link DatabaseClosed}, or what SQLite
   * throws at commit (`SQLITE_FULL`); in each case nothing of this write is promised.
   */
  write<T>(apply: () => T, durability: Durability = "power-cut"): Promise<T> {
    return new Promise<T>((resolve, reject: (error: unknown) => void) => {
      if (this.#failure) return reject(this.#failure);
      if (this.#closing) return reject(new DatabaseClosed(`${this.#path} is closing`));
      this.#enqueue(apply, durability, resolve, reject);
    });
  }

  /** Resolves when all that was written before is on the disk. */
  async flush(): Promise<void> {
    if (this.#failure) throw this.#failure;
    if (this.#closing) return this.#closing;
    const done = new Promise<void>((resolve, reject: (error: unknown) => void) => {
      this.#enqueue(() => undefined, "power-cut", resolve, reject);
    });
    this.#hurry = true; // a sync that is under way is followed by a commit at once
    if (!this.#syncing) this.#commit();
    await done;
  }

  /** Resolves when all is on the disk; the WAL is emptied before the next write. */
  emptyWal(): Promise<void> {
    this.#checkpointAtBytes = 0;
    return this.flush();
  }

  /** Makes all durable, empties the WAL and closes the database. Called again, it gives the same promise. */
  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #enqueue<T>(
    apply: () => T,
    durability: Durability,
    resolve: (result: T) => void,
    reject: (error: unknown) => void,
  ): void {
    if (this.#waiting >= this.#maxWaiting) {
      this.#refused += 1;
      return reject(new LimitExceeded(`${this.#path}: ${this.#maxWaiting} writes wait for the disk already`));
    }
    this.#waiting += 1;
    const run = (): void => this.#apply(apply, durability, resolve, reject);
    if (this.#checkpointing) this.#deferred.push(run);
    else run();
  }

  #apply<T>(
    apply: () => T,
    durability: Durability,
    resolve: (result: T) => void,
    reject: (error: unknown) => void,
  ): void {
    if (this.#failure) return this.#rejectAll([{ durability, settle: () => {}, reject }], this.#failure);
    try {
      const isFirst = !this.#db.inTransaction;
      if (isFirst)
        this.#sql.begin.run(); // undone as a whole, it needs no savepoint
      else this.#sql.savepoint.run();
      const result = apply();
      if (!isFirst) this.#sql.release.run();
      this.#batch.push({ durability, settle: () => resolve(result), reject });
    } catch (error) {
      this.#waiting -= 1;
      reject(error);
      this.#undo(error);
    }
    // While a sync runs the next batch gathers; what asked for less than a sync need not wait for it.
    if (!this.#syncing || durability === "crash") this.#commitSoon();
  }

  #undo(error: unknown): void {
    try {
      if (this.#db.inTransaction && this.#batch.length === 0) this.#db.exec("ROLLBACK");
      else if (this.#db.inTransaction) this.#db.exec("ROLLBACK TO one_write; RELEASE one_write");
      // SQLite undid the whole transaction, as it may at SQLITE_FULL and SQLITE_IOERR.
      else this.#rejectAll(this.#batch.splice(0), error);
    } catch (cause) {
      this.#fail(new EdgeError(`${this.#path}: a write left its transaction in disorder`, { cause }));
    }
  }

  #commitSoon(): void {
    if (this.#cancelCommit) return;
    const waitMs = this.#hurry ? 0 : this.#lastCommitMs + this.#commitIntervalMs - performance.now();
    if (waitMs > 0) {
      const timer = setTimeout(() => this.#commit(), waitMs);
      this.#cancelCommit = () => clearTimeout(timer);
    } else {
      const immediate = setImmediate(() => this.#commit());
      this.#cancelCommit = () => clearImmediate(immediate);
    }
  }

  #commit(): void {
    this.#cancelCommit?.();
    this.#cancelCommit = undefined;
    this.#hurry = false;
    const batch = this.#batch.splice(0);
    if (batch.length === 0 && !this.#db.inTransaction) return;
    try {
      this.#sql.commit.run();
      this.#commits += 1;
      this.#lastCommitMs = performance.now();
    } catch (error) {
      if (this.#db.inTransaction) this.#db.exec("ROLLBACK");
      this.#rejectAll(batch, error);
      return;
    }
    this.#settleAll(batch.filter((waiter) => waiter.durability === "crash"));
    this.#unsynced.push(...batch.filter((waiter) => waiter.durability === "power-cut"));
    this.#walBytes = walState(this.#sql.walState.get()).frames * this.#frameBytes;
    if (!this.#checkpointing && !this.#syncing && (this.#unsynced.length > 0 || this.#walIsLong())) {
      this.#syncing = this.#syncAll();
    }
  }

  async #syncAll(): Promise<void> {
    try {
      await this.#syncOnce();
      if (this.#walIsLong()) await this.#checkpoint();
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#syncing = undefined;
    }
    if (this.#failure) return;
    if (this.#unsynced.length > 0) this.#syncing = this.#syncAll();
    else if (this.#batch.length > 0) this.#commitSoon();
  }

  async #syncOnce(): Promise<void> {
    const covered = this.#unsynced.splice(0);
    const startMs = performance.now();
    try {
      await synced(this.#path, () => this.#disk.fdatasync(this.#files.walFd));
    } catch (error) {
      this.#rejectAll(covered, error);
      throw error;
    }
    this.#syncs += 1;
    this.#lastSyncMs = performance.now() - startMs;
    this.#settleAll(covered);
  }

  async #checkpoint(): Promise<void> {
    this.#checkpointing = true;
    try {
      this.#commit();
      await this.#syncOnce();
      // A WAL that grew while the disk was full, or in one large batch, gives its room back.
      const isLarge = fstatSync(this.#files.walFd).size > 2 * this.#walLimitBytes;
      const emptied = await synced(this.#path, () =>
        emptyWal({ db: this.#db, disk: this.#disk, ...this.#files }, isLarge ? "truncate" : "keep-room"),
      );
      if (emptied) this.#checkpoints += 1;
      else this.#checkpointsPutOff += 1;
      if (emptied) this.#walBytes = 0;
      this.#checkpointAtBytes = this.#walLimitBytes + this.#walBytes;
    } finally {
      this.#checkpointing = false;
      this.#runDeferred(); // before anything else can write: the order of calls is the order of writes
    }
  }

  async #close(): Promise<void> {
    try {
      while (this.#syncing || this.#batch.length > 0) {
        this.#commit();
        await this.#syncing;
      }
      if (!this.#failure) await this.#checkpoint();
    } catch (error) {
      this.#fail(error);
      throw error;
    } finally {
      this.#cancelCommit?.();
      this.#failure ??= new DatabaseClosed(`${this.#path} is closed`);
      closeSafely(this.#db);
      // After SQLite: closing any descriptor of the file drops the locks that the process holds on it.
      for (const fd of Object.values(this.#files) as number[]) closeSync(fd);
    }
  }

  #walIsLong(): boolean {
    return this.#walBytes > this.#checkpointAtBytes;
  }

  #settleAll(waiters: readonly Waiter[]): void {
    this.#waiting -= waiters.length;
    for (const waiter of waiters) waiter.settle();
  }

  #rejectAll(waiters: readonly Waiter[], error: unknown): void {
    this.#waiting -= waiters.length;
    for (const waiter of waiters) waiter.reject(error);
  }

  #fail(error: unknown): void {
    this.#failure ??= error instanceof EdgeError ? error : new DiskSyncFailed(this.#path, { cause: error });
    this.#cancelCommit?.();
    this.#cancelCommit = undefined;
    if (this.#db.inTransaction) this.#db.exec("ROLLBACK");
    this.#rejectAll([...this.#batch.splice(0), ...this.#unsynced.splice(0)], this.#failure);
  }

  #runDeferred(): void {
    for (const run of this.#deferred.splice(0)) run();
  }
}

const WAL_HEADER = Buffer.alloc(32);
const writeAt = promisify(write);

async function synced<T>(path: string, work: () => Promise<T> | T): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    throw new DiskSyncFailed(`${path}: the disk did not confirm a write; the database must be reopened`, { cause });
  }
}

interface WalAndDisk extends Omit<Files, "folderFd"> {
  readonly db: SqlHandle;
  readonly disk: DiskSync;
}

/** False when the database file could not be written (no space): the WAL is then as good as before. */
async function emptyWal({ db, disk, dbFd, walFd }: WalAndDisk, how: "truncate" | "keep-room"): Promise<boolean> {
  await disk.fdatasync(walFd);
  if (!copiedWhole(db)) return false;
  await disk.fsync(dbFd);
  if (how === "truncate") {
    db.pragma("wal_checkpoint(TRUNCATE)");
    if (fstatSync(walFd).size > 0) throw new Error("SQLite did not truncate the write-ahead log");
    await disk.fsync(walFd);
  } else {
    // SQLite reads the header in recovery only, and writes a new one with the next frame.
    await writeAt(walFd, WAL_HEADER, 0, WAL_HEADER.length, 0);
    await disk.fdatasync(walFd);
  }
  return true;
}

function copiedWhole(db: SqlHandle): boolean {
  try {
    const { frames, copied } = walState(db.prepare("PRAGMA wal_checkpoint(PASSIVE)").get());
    return frames === copied;
  } catch (error) {
    if (codeOf(error)?.startsWith("SQLITE_FULL") || codeOf(error)?.startsWith("SQLITE_LOCKED")) return false;
    throw error;
  }
}

type Statements = ReturnType<typeof prepared>;

/** What every write needs: parsed once. */
function prepared(db: SqlHandle) {
  return {
    begin: db.prepare("BEGIN IMMEDIATE"),
    savepoint: db.prepare("SAVEPOINT one_write"),
    release: db.prepare("RELEASE one_write"),
    commit: db.prepare("COMMIT"),
    walState: db.prepare("PRAGMA wal_checkpoint(NOOP)"),
  };
}

/** Of a page in the WAL, with its header. */
function frameBytes(db: SqlHandle): number {
  return Number(db.pragma("page_size", { simple: true })) + 24;
}

function walState(row: unknown): { readonly frames: number; readonly copied: number } {
  if (typeof row !== "object" || row === null || !("log" in row) || !("checkpointed" in row)) {
    throw new Error("SQLite does not tell the length of the write-ahead log");
  }
  return { frames: Number(row.log), copied: Number(row.checkpointed) };
}

/** SQLite copies the WAL at close and deletes it: unless told to sync, before the copy is on the disk. */
function closeSafely(db: SqlHandle): void {
  openHandles.delete(db);
  try {
    if (db.inTransaction) db.exec("ROLLBACK");
    db.pragma("synchronous = FULL");
  } finally {
    db.close();
  }
}

// A process that ends without closing has its handles closed by the addon, without syncs.
const openHandles = new Set<SqlHandle>();
let watchingExit = false;

function closedAtExit(db: SqlHandle): void {
  if (!watchingExit) process.once("exit", closeAll);
  watchingExit = true;
  openHandles.add(db);
}

function closeAll(): void {
  for (const db of openHandles) closeSafely(db);
}
