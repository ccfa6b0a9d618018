import type { Database, Statement } from "better-sqlite3";
import type { Reading, ReadingClass } from "../../core/driver.js";
import { LimitExceeded } from "../../core/errors.js";
import type { Durability } from "../../core/group-commit.js";
import { checkReading, MIN_TIME_MS } from "../../messages/senml.js";
import { ROW_BYTES } from "./eviction.js";
import { bodyOf, readingOf } from "./reading-body.js";
import type { Space } from "./space.js";
import { CLASS_RANKS, CLASSES_BY_RANK, type ReadingRow } from "./stream-rows.js";
import type { TimeBase } from "./time-base.js";
import type { Writes } from "./writes.js";

export type ClassDurability = Readonly<Record<ReadingClass, Durability>>;

/** Told of readings that are in the open transaction; when they are durable, `publish` resolves. */
export type ReadingsListener = (readings: readonly Reading[]) => void;

export interface ReadingsDeps {
  readonly writes: Writes;
  readonly space: Space;
  readonly time: TimeBase;
  readonly durability: ClassDurability;
  /** Without anybody to send them to, readings are told to listeners and not kept. */
  readonly hasReaders: boolean;
}

interface NewRow {
  readonly rank: number;
  readonly body: string;
  readonly timeMs: number | null;
  readonly monotonicMs: number | null;
}

const PAGE = 500;
const MAX_WAITING_BYTES = 8 << 20;

/** Accepts readings: what `publish` resolved for is in the outbox. */
export class Readings {
  readonly #writes: Writes;
  readonly #space: Space;
  readonly #time: TimeBase;
  readonly #durability: ClassDurability;
  readonly #hasReaders: boolean;
  readonly #sql: ReturnType<typeof prepare>;
  readonly #listeners = new Set<ReadingsListener>();
  /** Whether readings wait for the clock. */
  #undated: boolean;
  #waitingBytes = 0;
  #accepted = 0;
  #refused = 0;

  constructor(db: Database, { writes, space, time, durability, hasReaders }: ReadingsDeps) {
    this.#writes = writes;
    this.#space = space;
    this.#time = time;
    this.#durability = durability;
    this.#hasReaders = hasReaders;
    this.#sql = prepare(db);
    this.#undated = this.#sql.anyUndated.get() !== undefined;
  }

  /** Readings accepted and refused since the start. */
  get counts(): { readonly accepted: number; readonly refused: number } {
    return { accepted: this.#accepted, refused: this.#refused };
  }

  /** @returns a function that ends it. */
  listen(listener: ReadingsListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Resolves when the readings are in the outbox, as durable as their classes ask. All of a call or none.
   *
   * @throws {SyntaxInvalid} for a reading that no message could carry, {@link LimitExceeded} when too many bytes wait
   * for the disk, `OUTBOX_FULL`, `DISK_SYNC_FAILED`.
   */
  async publish(readings: readonly Reading[]): Promise<void> {
    try {
      const rows = readings.map((reading, index) => this.#rowOf(reading, index));
      const bytes = rows.reduce((sum, { body }) => sum + body.length + ROW_BYTES, 0);
      await this.#bounded(bytes, () =>
        this.#writes.write("reading.insert", () => this.#insert(rows, readings), this.#durabilityOf(readings)),
      );
      this.#accepted += readings.length;
    } catch (error) {
      this.#refused += readings.length;
      throw error;
    }
  }

  /** What is not receipted by everybody, in the order of acceptance of each class, some at a time. */
  *unreceipted(): Generator<Reading[]> {
    for (const name of CLASSES_BY_RANK) {
      const rank = CLASS_RANKS[name];
      for (let after = 0; ;) {
        const rows = this.#sql.page.all(rank, after, PAGE);
        if (rows.length === 0) break;
        after = rows.at(-1)?.id ?? after;
        yield rows.map((row) => ({ ...readingOf(row, this.#bootMs()), class: name }));
      }
    }
  }

  /** When this boot began, by the wall clock. */
  #bootMs(): number {
    return (this.#time.wallMs?.() ?? this.#time.nowMs()) - this.#time.monotonicMs();
  }

  /** The clock is right now: gives readings of this boot their dates, and those of earlier boots their bracket. */
  clockKnown(): Promise<void> {
    if (!this.#undated) return Promise.resolve();
    return this.#writes.write("reading.date", () => this.#date());
  }

  #durabilityOf(readings: readonly Reading[]): Durability {
    const needsDisk = (reading: Reading) => this.#durability[reading.class ?? "measurement"] === "power-cut";
    return readings.some(needsDisk) ? "power-cut" : "crash";
  }

  async #bounded(bytes: number, work: () => Promise<void>): Promise<void> {
    if (this.#waitingBytes + bytes > MAX_WAITING_BYTES)
      throw new LimitExceeded(`${MAX_WAITING_BYTES} bytes of readings wait for the disk already`);
    this.#waitingBytes += bytes;
    try {
      await work();
    } finally {
      this.#waitingBytes -= bytes;
    }
  }

  #insert(rows: readonly NewRow[], readings: readonly Reading[]): void {
    for (const listener of this.#listeners) listener(readings);
    if (!this.#hasReaders) return;
    if (this.#undated && this.#time.known) this.#date();
    const boot = rows.some(({ timeMs }) => timeMs === null) ? this.#bootRow() : null;
    for (const row of rows) {
      this.#space.makeRoom(row.body.length + ROW_BYTES, row.rank);
      this.#sql.insert.run({ ...row, boot: row.timeMs === null ? boot : null });
    }
  }

  #rowOf(reading: Reading, index: number): NewRow {
    const { known } = this.#time;
    const nowMs = this.#time.nowMs();
    // The driver dates by the wall clock, which need not show the time; but by the same one as we do its age.
    const behindMs = nowMs - (this.#time.wallMs?.() ?? nowMs);
    const timeMs = Math.round(reading.timeMs === undefined ? nowMs : reading.timeMs + behindMs);
    checkReading({ ...reading, timeMs: known ? timeMs : MIN_TIME_MS }, `readings[${index}]`);
    const rank = CLASS_RANKS[reading.class ?? "measurement"];
    const body = bodyOf(reading);
    if (known) return { rank, body, timeMs, monotonicMs: null };
    const ageMs = Math.max(0, nowMs - timeMs);
    return { rank, body, timeMs: null, monotonicMs: Math.max(0, Math.round(this.#time.monotonicMs() - ageMs)) };
  }

  #bootRow(): number {
    this.#undated = true;
    this.#sql.addBoot.run(this.#time.boot, MIN_TIME_MS);
    return this.#sql.bootId.get(this.#time.boot)?.id ?? 0;
  }

  #date(): void {
    const nowMs = Math.round(this.#time.nowMs());
    const boot = this.#sql.bootId.get(this.#time.boot)?.id;
    if (boot !== undefined) this.#sql.date.run(nowMs - Math.round(this.#time.monotonicMs()), boot);
    this.#sql.endBoots.run(nowMs, this.#time.boot);
    this.#undated = false;
  }
}

function prepare(db: Database) {
  const sql = <P extends unknown[], R = unknown>(text: string): Statement<P, R> => db.prepare<P, R>(text);
  return {
    // An id is never used twice: rows that were sent and deleted are still named by packedTo.
    insert: sql(
      `INSERT INTO reading (class, id, timeMs, boot, monotonicMs, body) VALUES ($rank, 1 + max(
         coalesce((SELECT max(id) FROM reading WHERE class = $rank), 0),
         coalesce((SELECT max(packedTo) FROM stream WHERE class = $rank), 0)), $timeMs, $boot, $monotonicMs, $body)`,
    ),
    page: sql<[number, number, number], ReadingRow>(
      "SELECT * FROM reading WHERE class = ? AND id > ? ORDER BY id LIMIT ?",
    ),
    anyUndated: sql<[]>("SELECT 1 FROM reading WHERE timeMs IS NULL LIMIT 1"),
    addBoot: sql(
      `INSERT INTO boot (name, fromMs) VALUES (?, max(?, coalesce((SELECT value FROM meta WHERE name = 'lastKnownMs'), 0)))
       ON CONFLICT (name) DO NOTHING`,
    ),
    bootId: sql<[string], { id: number }>("SELECT id FROM boot WHERE name = ?"),
    date: sql(
      "UPDATE reading SET timeMs = monotonicMs + ?, boot = NULL, monotonicMs = NULL WHERE timeMs IS NULL AND boot = ?",
    ),
    endBoots: sql("UPDATE boot SET toMs = ? WHERE toMs IS NULL AND name <> ?"),
  };
}
