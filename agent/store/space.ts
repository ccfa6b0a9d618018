import type { Database } from "better-sqlite3";
import { rmSync, statfsSync, statSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { LimitExceeded } from "../../core/errors.js";
import type { Eviction } from "./eviction.js";
import { ANSWER_RANK, CLASS_RANKS, type OutboxClass } from "./stream-rows.js";

/** Neither the outbox nor its disk has room, and there is nothing of lower class that could go. */
export class OutboxFull extends LimitExceeded {
  override readonly code = "OUTBOX_FULL";
}

export interface SpaceOptions {
  readonly maxBytes: number;
  readonly minFreeBytes: number;
  /** How much of `maxBytes` a class may take, 0 to 1; all of it unless given, and answers a tenth. */
  readonly shares?: Partial<Readonly<Record<OutboxClass, number>>>;
  /** Free bytes on the disk of `folder`. */
  readonly freeBytes?: (folder: string) => number;
  /** Kept back for a full disk; twice what the WAL may take. */
  readonly reserveBytes?: number;
}

/** Looking at the sizes costs some microseconds: it is done once for so many bytes. */
const LOOK_EVERY_BYTES = 32_768;
const RESERVE = "outbox.reserve";
/** Free pages go back to the file system this many at a time. */
const VACUUM_PAGES = 256;
const DEFAULT_ANSWER_SHARE = 0.1;

/** Keeps the outbox within its bytes and its disk above its floor. */
export class Space {
  readonly #db: Database;
  readonly #folder: string;
  readonly #eviction: Eviction;
  readonly #options: Required<SpaceOptions>;
  #unseenBytes = Infinity;
  #evicted = 0;
  readonly #maxBytesOf: ReadonlyMap<number, number>;
  /** The file must not grow beyond this: the disk was full. */
  #capBytes = Infinity;

  constructor(db: Database, folder: string, eviction: Eviction, options: SpaceOptions) {
    this.#db = db;
    this.#folder = folder;
    this.#eviction = eviction;
    this.#options = { freeBytes: freeBytesOf, reserveBytes: 4 << 20, shares: {}, ...options };
    const shares = Object.entries({ answer: DEFAULT_ANSWER_SHARE, ...options.shares });
    this.#maxBytesOf = new Map(
      shares
        .filter(([, share]) => share < 1)
        .map(([name, share]) => [rankOf(name as OutboxClass), share * options.maxBytes]),
    );
  }

  /** Readings given up for want of room since the start. */
  get evicted(): number {
    return this.#evicted;
  }

  get usedBytes(): number {
    const [pages, free, size] = ["page_count", "freelist_count", "page_size"].map((name) =>
      Number(this.#db.pragma(name, { simple: true })),
    );
    return ((pages ?? 0) - (free ?? 0)) * (size ?? 0);
  }

  /**
   * Makes room for a reading or an answer of class `rank`. Within the caller's transaction.
   *
   * @throws {OutboxFull} when nothing of its class or lower is left to give up.
   */
  makeRoom(bytes: number, rank: number): void {
    this.#unseenBytes += bytes;
    if (this.#unseenBytes < LOOK_EVERY_BYTES) return;
    this.#keepShares();
    const { maxBytes, minFreeBytes } = this.#options;
    const spare = this.#options.freeBytes(this.#folder) - minFreeBytes;
    // Below the floor the file may not grow: then only its own free pages are room.
    const limit = Math.min(maxBytes, this.#capBytes, spare >= bytes ? Infinity : this.#fileBytes());
    while (this.usedBytes + LOOK_EVERY_BYTES + bytes > limit) {
      const dropped = this.#eviction.dropOldest(rank);
      this.#evicted += dropped;
      if (dropped === 0) throw new OutboxFull(`the outbox has no room: ${this.usedBytes} of ${limit} bytes are used`);
    }
    this.#unseenBytes = 0;
    this.giveBack();
  }

  /**
   * The disk takes no more: gives the reserve up, and lets the file grow no further. The reserve is room for the WAL,
   * through which also deletions go.
   */
  diskIsFull(): void {
    rmSync(join(this.#folder, RESERVE), { force: true });
    this.#capBytes = Math.min(this.#capBytes, this.usedBytes);
    this.#unseenBytes = Infinity;
  }

  /** Gives up a part of the lowest class, whose pages are then room for what comes. Within the caller's transaction. */
  dropForFullDisk(): void {
    this.#evicted += this.#eviction.dropOldest(Infinity);
  }

  /** Gives free pages back to the file system, a few at a time. Within a transaction. @returns whether there are more. */
  giveBack(): boolean {
    const free = Number(this.#db.pragma("freelist_count", { simple: true }));
    // Some are kept: they will be needed again, and moving pages about wears the card.
    if (free <= 2 * VACUUM_PAGES) return false;
    this.#db.pragma(`incremental_vacuum(${VACUUM_PAGES})`);
    return free > 3 * VACUUM_PAGES;
  }

  /** Bytes of each class that has a share of its own, as far as they can be told. */
  #keepShares(): void {
    for (const [rank, most] of this.#maxBytesOf) {
      // A class makes its room by itself: what it holds is none of the others' business.
      while (this.#eviction.bytesOf(rank) > most) {
        const dropped = this.#eviction.dropOldestOf(rank);
        this.#evicted += dropped;
        if (dropped === 0) break;
      }
    }
  }

  /**
   * Sees to it that there is something to give up when the disk is full to the last byte, so that readings can still be
   * deleted. When there is room for it, the file may grow again.
   */
  async keepReserve(): Promise<void> {
    const path = join(this.#folder, RESERVE);
    const { reserveBytes, freeBytes, minFreeBytes } = this.#options;
    if (statSync(path, { throwIfNoEntry: false })?.size !== reserveBytes) {
      if (freeBytes(this.#folder) < minFreeBytes + reserveBytes) return;
      try {
        await writeReserve(path, reserveBytes);
      } catch (error) {
        rmSync(path, { force: true });
        throw error;
      }
    }
    this.#capBytes = Infinity;
  }

  #fileBytes(): number {
    return (
      Number(this.#db.pragma("page_count", { simple: true })) * Number(this.#db.pragma("page_size", { simple: true }))
    );
  }
}

const rankOf = (name: OutboxClass): number => (name === "answer" ? ANSWER_RANK : CLASS_RANKS[name]);

function freeBytesOf(folder: string): number {
  const { bavail, bsize } = statfsSync(folder);
  return bavail * bsize;
}

async function writeReserve(path: string, bytes: number): Promise<void> {
  const block = Buffer.alloc(65_536, 1); // written, not only sized: a hole takes no blocks
  const file = await open(path, "w", 0o600);
  try {
    for (let at = 0; at < bytes; at += block.length) await file.write(block, 0, Math.min(block.length, bytes - at));
    await file.sync();
  } finally {
    await file.close();
  }
}
