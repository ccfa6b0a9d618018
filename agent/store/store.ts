import Database from "better-sqlite3";
import { existsSync } from "node:fs";
import { mkdir, rename } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "../../core/clock.js";
import type { Reading, ReadingClass } from "../../core/driver.js";
import type { DiskSync } from "../../core/disk-sync.js";
import { codeOf, EdgeError } from "../../core/errors.js";
import { openGroupCommit } from "../../core/group-commit.js";
import type { Durability, GroupCommit, GroupCommitHealth } from "../../core/group-commit.js";
import type { Log } from "../../core/log.js";
import { readMachineId } from "../../core/machine-id.js";
import { copyBeforeMigration } from "../../core/schema.js";
import { Answers } from "./answers.js";
import { Counters } from "./counters.js";
import { Eviction } from "./eviction.js";
import { GapKeeper } from "./gap-keeper.js";
import { type Identity, type IdentityVerdict, readIdentity, writeIdentity } from "./identity.js";
import { Ledger } from "./ledger.js";
import { type Begun, Lives } from "./lives.js";
import { migrate, MIGRATIONS } from "./migrations.js";
import { MonitorResume } from "./monitor-resume.js";
import { type Pin, Pins } from "./pins.js";
import { Readings } from "./readings.js";
import { Space, type SpaceOptions } from "./space.js";
import { SetAside } from "./set-aside.js";
import { CLASS_RANKS, CLASSES_BY_RANK, type OutboxClass, type StreamInfo } from "./stream-rows.js";
import { Streams } from "./streams.js";
import { systemTimeBase, type TimeBase } from "./time-base.js";
import { isCorrupt, RoomMakingWrites, type StoreBroken } from "./writes.js";

export interface StoreOptions {
  /** The agent's state folder; made with mode 0700 when it is not there. */
  readonly folder: string;
  /** AtSigns of the readers, canonical. One that is not named any more loses its place. */
  readonly readers: readonly string[];
  readonly clock: Clock;
  readonly log: Log;
  readonly time?: TimeBase;
  readonly space?: SpaceOptions;
  readonly durability?: Partial<Readonly<Record<OutboxClass, Durability>>>;
  /** Older readings are given up, and their gap is declared; left out: however old. */
  readonly maxAgeMs?: Partial<Readonly<Record<ReadingClass, number>>>;
  /**
   * The folder lies in memory, as the disk cannot be used: no command is accepted then, and no key of a peer is trusted
   * but those that are known.
   */
  readonly inMemory?: { readonly pins: readonly Pin[] };
  /** The database that is there was found to be damaged, even if it opens. */
  readonly damaged?: boolean;
  /** Least time between two commits under load; 200 ms unless given. The first after a pause is made at once. */
  readonly commitIntervalMs?: number;
  readonly walLimitBytes?: number;
  /** The board was enrolled anew: a copied card may send again, as a device of its own. */
  readonly enrolledAnew?: boolean;
  readonly machineId?: string;
  readonly disk?: DiskSync;
}

/** Another process has the outbox open. */
export class StoreInUse extends EdgeError {
  override readonly code = "STORE_IN_USE";
}

export interface StoreHealth {
  readonly state: "ok" | "failed" | "closed";
  readonly errorCode: string | undefined;
  readonly inMemory: boolean;
  readonly identity: IdentityVerdict;
  readonly usedBytes: number;
  /** Since the start: readings accepted, refused, and given up for want of room or for their age. */
  readonly accepted: number;
  readonly refused: number;
  readonly evicted: number;
  readonly expired: number;
  /** Answers for which there was no room. */
  readonly answersDropped: number;
  /** Messages that could not be sent, kept for a human. */
  readonly aside: number;
  readonly commit: GroupCommitHealth;
}

const DATABASE = "outbox.db";
const MAINTAIN_EVERY_MS = 60_000;
const DEFAULT_SPACE: SpaceOptions = { maxBytes: 256 << 20, minFreeBytes: 64 << 20 };
const DEFAULT_DURABILITY = {
  alarm: "power-cut",
  answer: "power-cut",
  event: "power-cut",
  measurement: "power-cut",
} as const;
/** So many times some free pages are given back in one round. */
const MAX_GIVE_BACKS = 64;

/**
 * Opens the outbox, the ledger and what else the agent must not forget. A database that cannot be read is moved aside,
 * never deleted, and a new life begins.
 *
 * @throws {StoreInUse} {@link StoreTooNew} {@link DiskSyncFailed}, or the system's error when the folder cannot be written.
 */
export async function openStore(options: StoreOptions): Promise<Store> {
  const { folder } = options;
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const path = join(folder, DATABASE);
  try {
    if (options.damaged && existsSync(path)) await moveAside(path, options, undefined);
    return await openAt(path, options);
  } catch (error) {
    if (codeOf(error) === "SQLITE_BUSY") throw new StoreInUse(`${path} is in use by another atedge`, { cause: error });
    if (!isCorrupt(error)) throw error;
    await moveAside(path, options, error);
    return openAt(path, options);
  }
}

async function moveAside(path: string, { clock, log }: StoreOptions, error: unknown): Promise<void> {
  const aside = `${path}.unreadable-${new Date(clock.now()).toISOString().replaceAll(":", "")}`;
  for (const end of ["", "-wal"]) if (existsSync(path + end)) await rename(path + end, aside + end);
  log.error({ err: error, aside }, "the outbox cannot be read: moved aside, a new one begins");
}

async function openAt(path: string, options: StoreOptions): Promise<Store> {
  const { folder, walLimitBytes, disk, commitIntervalMs = 200 } = options;
  const machine = options.machineId ?? (await readMachineId());
  const file = await readIdentity(folder);
  if (existsSync(path)) await keepCopy(path, options);
  const db = openDatabase(path);
  const commit = await openGroupCommit({
    db,
    path,
    commitIntervalMs,
    ...(walLimitBytes !== undefined && { walLimitBytes }),
    ...(disk && { disk }),
  });
  try {
    const { parts, begun } = await commit.write(() => {
      migrate(db, path);
      const parts = partsOf(db, commit, options);
      const { readers, enrolledAnew = false } = options;
      return { parts, begun: parts.lives.begin({ file, machine, readers, enrolledAnew }) };
    });
    if (begun.verdict !== "cloned") await writeIdentity(folder, begun.identity);
    const store = new Store(db, commit, parts, begun, options);
    await store.maintain();
    return store;
  } catch (error) {
    await commit.close().catch(() => {}); // the first error says more
    throw error;
  }
}

/** A migration leaves the file as it was beside it. Without room for that it goes on: the new file knows a way back. */
async function keepCopy(path: string, { clock, log }: StoreOptions): Promise<void> {
  const db = new Database(path, { readonly: true, timeout: 100 });
  try {
    const copy = await copyBeforeMigration(db, path, MIGRATIONS, clock.now());
    if (copy !== undefined) log.info({ copy }, "the outbox is migrated; a copy of it as it was is kept");
  } catch (error) {
    if (codeOf(error) === "SQLITE_BUSY" || isCorrupt(error)) throw error;
    log.warn({ err: error }, "no copy of the outbox could be made before it is migrated");
  } finally {
    db.close();
  }
}

function openDatabase(path: string): Database.Database {
  const db = new Database(path, { timeout: 100 });
  try {
    db.pragma("locking_mode = EXCLUSIVE"); // before the first look into the file
    db.pragma("auto_vacuum = INCREMENTAL"); // counts only before the first table is made
    db.pragma("temp_store = MEMORY");
    return db;
  } catch (error) {
    db.close();
    throw error;
  }
}

interface Parts {
  readonly space: Space;
  readonly writes: RoomMakingWrites;
  readonly broken: Broken;
  readonly eviction: Eviction;
  readonly streams: Streams;
  readonly lives: Lives;
}

function partsOf(db: Database.Database, commit: GroupCommit, options: StoreOptions): Parts {
  const { folder, walLimitBytes, space: spaceOptions = DEFAULT_SPACE } = options;
  const reserve = walLimitBytes === undefined ? {} : { reserveBytes: 2 * walLimitBytes };
  const gaps = new GapKeeper(db);
  const eviction = new Eviction(db, gaps);
  const space = new Space(db, folder, eviction, { ...reserve, ...spaceOptions });
  const broken = new Broken();
  const writes = new RoomMakingWrites(commit, space, (error) => broken.tell(error));
  const streams = new Streams(db, writes, gaps);
  return { space, writes, broken, eviction, streams, lives: new Lives(db, streams, gaps) };
}

/** Tells those who wait when the store has broken. */
class Broken {
  tell: (error: StoreBroken) => void = () => undefined;
  readonly told = new Promise<StoreBroken>((resolve) => (this.tell = resolve));
}

/** Opened by {@link openStore}. */
export class Store {
  readonly streams: Streams;
  readonly answers: Answers;
  readonly ledger: Ledger;
  readonly pins: Pins;
  readonly monitor: MonitorResume;
  readonly counters: Counters;
  readonly readings: Readings;
  readonly setAside: SetAside;
  /** `cloned`: this is a copied card. Readings are kept, but nothing may be sent before it is enrolled anew. */
  readonly identityVerdict: IdentityVerdict;

  readonly #commit: GroupCommit;
  readonly #space: Space;
  readonly #writes: RoomMakingWrites;
  readonly #broken: Broken;
  readonly #eviction: Eviction;
  readonly #time: TimeBase;
  readonly #options: StoreOptions;
  readonly #lives: Lives;
  #identity: Identity;
  #newLife: Promise<unknown> = Promise.resolve();
  #expired = 0;

  constructor(db: Database.Database, commit: GroupCommit, parts: Parts, begun: Begun, options: StoreOptions) {
    const { readers, clock, inMemory } = options;
    const durability = { ...DEFAULT_DURABILITY, ...options.durability };
    const { writes, space } = parts;
    this.#commit = commit;
    this.#identity = begun.identity;
    this.#options = options;
    this.#time = options.time ?? systemTimeBase(clock);
    this.#lives = parts.lives;
    this.#time.resume?.(this.#lives.lastKnown);
    this.#space = space;
    this.#writes = writes;
    this.#broken = parts.broken;
    this.#eviction = parts.eviction;
    this.identityVerdict = begun.verdict;
    this.streams = parts.streams;
    this.answers = new Answers(db, { writes, space, durability: durability.answer });
    this.ledger = new Ledger(db, writes, this.answers, inMemory !== undefined);
    this.setAside = new SetAside(db, writes, {
      resend: (reader, name, readings) => this.streams.resend(reader, name, readings),
      answer: (answer) => this.answers.insert(answer),
    });
    this.pins = new Pins(db, writes, () => this.#time.nowMs(), inMemory?.pins);
    this.monitor = new MonitorResume(db, writes);
    this.counters = new Counters(db, writes);
    this.readings = new Readings(db, {
      writes,
      space,
      time: this.#time,
      durability,
      hasReaders: readers.length > 0,
    });
  }

  /** The latest time that is known to have passed, milliseconds since 1970; 0 when nothing is known. */
  get lastKnownMs(): number {
    return this.#lives.lastKnown.ms;
  }

  get health(): StoreHealth {
    const { errorCode } = this.#commit.health;
    const { brokenBy } = this.#writes;
    const state = brokenBy ? "failed" : this.#commit.health.state;
    return {
      state,
      errorCode: brokenBy ? codeOf(brokenBy.cause) : errorCode,
      inMemory: this.#options.inMemory !== undefined,
      identity: this.identityVerdict,
      usedBytes: state === "ok" ? this.#space.usedBytes : 0,
      ...this.readings.counts,
      evicted: this.#space.evicted,
      expired: this.#expired,
      answersDropped: this.answers.noRoom,
      aside: state === "ok" ? this.setAside.counts.aside : 0,
      commit: this.#commit.health,
    };
  }

  /** {@link Readings.publish} */
  publish(readings: readonly Reading[]): Promise<void> {
    return this.readings.publish(readings);
  }

  /**
   * Begins a new life of a stream that names the one before: the reader knows more of it than we do. Resolves when
   * that is on the disk.
   */
  beginLife(streamId: number): Promise<StreamInfo> {
    const next = this.#newLife.then(async () => {
      const { identity, life } = this.#lives.next(this.#identity, streamId);
      await writeIdentity(this.#options.folder, identity);
      this.#identity = identity;
      await this.#writes.write("stream.life", () => this.streams.beginLife(streamId, life));
      return this.streams.info(streamId);
    });
    this.#newLife = next.catch(() => {}); // whoever asked is told
    return next;
  }

  /** Whether what failed was the store, which must then be opened anew; if so, {@link run} ends. */
  isBrokenBy(error: unknown): boolean {
    return this.#writes.judge(error) || this.#commit.health.state !== "ok";
  }

  /** Looks after time, space and old entries until aborted. @throws {StoreBroken} as soon as it is. */
  async run(signal: AbortSignal): Promise<void> {
    const broken = this.#broken.told.then((error) => {
      throw error;
    });
    await Promise.race([broken, this.#keep(signal)]);
  }

  async #keep(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.maintain();
      await this.#options.clock.sleep(MAINTAIN_EVERY_MS, signal).catch((error: unknown) => {
        if (!signal.aborted) throw error;
      });
    }
  }

  /** One round of {@link run}. */
  async maintain(): Promise<void> {
    const { known } = this.#time;
    const nowMs = Math.round(this.#time.nowMs());
    if (known) {
      await this.readings.clockKnown();
      await this.ledger.setBirth(nowMs);
      await this.ledger.prune(nowMs);
      await this.#expire(nowMs);
    }
    await this.counters.write();
    const upkeep = (): boolean => {
      if (known) this.#lives.rememberTime(nowMs, this.#time.boot, this.#time.monotonicMs());
      return this.#space.giveBack();
    };
    for (let rounds = 0; rounds < MAX_GIVE_BACKS; rounds += 1) {
      if (!(await this.#writes.write("store.upkeep", upkeep, "crash"))) break;
    }
    await this.#space.keepReserve().catch((error: unknown) => {
      this.#options.log.warn({ err: error }, "there is no room to keep a reserve for a full disk");
    });
  }

  /** By the time that never goes back: who sets the clock back keeps nothing longer. */
  async #expire(nowMs: number): Promise<void> {
    for (const name of CLASSES_BY_RANK) {
      const maxAgeMs = this.#options.maxAgeMs?.[name];
      if (maxAgeMs === undefined) continue;
      const drop = (): number => this.#eviction.dropOlder(CLASS_RANKS[name], nowMs - maxAgeMs);
      for (let gone = Infinity; gone > 0; this.#expired += gone) {
        gone = await this.#writes.write("reading.expire", drop, "crash");
      }
    }
  }

  /** Resolves when all that was accepted is on the disk. */
  flush(): Promise<void> {
    return this.#commit.flush();
  }

  /** Writes what is left and closes. */
  async close(): Promise<void> {
    try {
      if (this.health.state === "ok") await this.counters.write();
    } finally {
      await this.#commit.close();
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
