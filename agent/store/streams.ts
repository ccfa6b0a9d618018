import type { Database, Statement } from "better-sqlite3";
import type { Gap } from "../../messages/gap.js";
import { GAP_REASONS } from "../../messages/gap.js";
import type { SenmlReading } from "../../messages/senml.js";
import type { StreamLife, Undated } from "../../messages/telemetry.js";
import type { GapKeeper } from "./gap-keeper.js";
import { readingOf } from "./reading-body.js";
import { streamInfoOf } from "./stream-rows.js";
import type { FormedMessage, MessageRow, ReadingRow, StreamInfo, StreamRow } from "./stream-rows.js";
import type { Writes } from "./writes.js";

/** What stands in a formed message: always the same, however often it is sent. */
export type StoredMessage =
  | { readonly type: "pack"; readonly readings: readonly SenmlReading[]; readonly undated: Undated | undefined }
  | { readonly type: "gap"; readonly gap: Gap };

export interface PackLimits {
  readonly maxReadings: number;
  /** Of the stored text of the readings together; one reading always fits. */
  readonly maxBytes: number;
}

export interface AsideEntry {
  readonly id: number;
  readonly atMs: number;
  readonly reader: string;
  readonly class: string;
  readonly why: string;
  readonly content: string;
}

interface BootRow {
  readonly name: string;
  readonly fromMs: number;
  readonly toMs: number | null;
}

const MAX_ASIDE = 1000;

/** The streams of all readers: which readings are in which message, and what each reader has not confirmed yet. */
export class Streams {
  readonly #db: Database;
  readonly #writes: Writes;
  readonly #gaps: GapKeeper;
  readonly #sql: ReturnType<typeof prepare>;

  constructor(db: Database, writes: Writes, gaps: GapKeeper) {
    this.#db = db;
    this.#writes = writes;
    this.#gaps = gaps;
    this.#sql = prepare(db);
  }

  list(reader?: string): StreamInfo[] {
    const rows = this.#db.prepare<[], StreamRow>("SELECT * FROM stream ORDER BY reader, class DESC").all();
    return rows.filter((row) => reader === undefined || row.reader === reader).map(streamInfoOf);
  }

  info(id: number): StreamInfo {
    return streamInfoOf(this.#row(id));
  }

  /** The messages that have no receipt, ascending. */
  formed(id: number): FormedMessage[] {
    return this.#sql.formed.all(id).map(({ seq, fromSeq }) => ({ seq, fromSeq: fromSeq ?? seq }));
  }

  /** How many readings are in no message yet, counted up to `most`; a pending gap counts as one more. */
  waiting(id: number, most: number): number {
    const row = this.#row(id);
    const gap = row.gapReason === null ? 0 : 1;
    return gap + (this.#sql.waiting.get(row.class, row.packedTo, most)?.count ?? 0);
  }

  /**
   * Gives the next readings (or a pending gap) a number. Resolves when that is on the disk, and only then may it be
   * sent: a number must never stand for two contents. `undefined`: there is nothing to send, or its time is not known.
   */
  form(id: number, limits: PackLimits): Promise<FormedMessage | undefined> {
    return this.#writes.write(() => this.#gaps.form(id) ?? this.#formPack(id, limits));
  }

  /** `undefined` when it was confirmed or given up in the meantime. */
  load(id: number, seq: number): StoredMessage | undefined {
    const message = this.#sql.message.get(id, seq);
    if (!message) return undefined;
    if (message.firstRow === null || message.lastRow === null) return { type: "gap", gap: gapOf(message) };
    const rows = this.#sql.rows.all(this.#row(id).class, message.firstRow, message.lastRow);
    const boot = rows[0]?.timeMs === null ? this.#sql.boot.get(rows[0].boot) : undefined;
    return {
      type: "pack",
      readings: rows.map((row) => readingOf(row, boot?.fromMs ?? 0)),
      undated: boot && { boot: boot.name, timeFrom: boot.fromMs, timeTo: boot.toMs ?? boot.fromMs },
    };
  }

  /** The reader has these messages. What no other reader waits for is deleted. */
  taken(id: number, seqs: readonly number[]): Promise<void> {
    // To forget a receipt costs a resend, no more.
    return this.#writes.write(() => {
      for (const seq of seqs) this.#sql.remove.run(id, seq);
      this.trim(this.#row(id).class);
    }, "crash");
  }

  /** A message that can never be sent: its content is kept for a human, and the reader is told of a gap. */
  setAside(id: number, seq: number, why: string, nowMs: number): Promise<void> {
    return this.#writes.write(() => {
      const message = this.load(id, seq);
      const row = this.#row(id);
      if (message?.type !== "pack") return;
      const { reader, class: name } = streamInfoOf(row);
      this.#sql.aside.run(nowMs, reader, name, why, JSON.stringify(message.readings));
      this.#sql.trimAside.run(MAX_ASIDE);
      this.#sql.remove.run(id, seq);
      const times = message.readings.map(({ timeMs }) => timeMs);
      this.#gaps.add(id, {
        seqs: { from: seq, to: seq },
        readings: message.readings.length,
        timeFrom: Math.min(...times),
        timeTo: Math.max(...times),
        reason: GAP_REASONS.refused,
      });
      this.trim(row.class);
    });
  }

  aside(): AsideEntry[] {
    return this.#db.prepare<[], AsideEntry>("SELECT * FROM aside ORDER BY id").all();
  }

  /** Begins the stream anew: what has no receipt gets new numbers. Within the caller's transaction. */
  beginLife(id: number, life: StreamLife): void {
    const gaps = this.#sql.messages.all(id).filter(({ firstRow }) => firstRow === null);
    const row = this.#row(id);
    const packedTo = (this.#sql.firstRow.get(id)?.firstRow ?? row.packedTo + 1) - 1;
    this.#sql.clear.run(id);
    this.#sql.newLife.run(life.stream, life.inc, packedTo, id);
    const pending = row.gapReason === null ? [] : [pendingGap(row, row.gapReason)];
    for (const gap of [...gaps.map(gapOf), ...pending]) this.#gaps.add(id, { ...gap, reason: GAP_REASONS.full });
  }

  /** Deletes readings of a class that no stream waits for. Within the caller's transaction. */
  trim(rank: number): void {
    const needed = this.#sql.needed.get(rank)?.id ?? null;
    if (needed !== null) this.#sql.deleteRows.run(rank, needed);
  }

  #formPack(id: number, { maxReadings, maxBytes }: PackLimits): FormedMessage | undefined {
    const row = this.#row(id);
    const rows = this.#sql.unpacked.all(row.class, row.packedTo, maxReadings);
    const [first] = rows;
    if (!first) return undefined;
    if (first.timeMs === null && this.#sql.boot.get(first.boot)?.toMs == null) return undefined;
    const isAlike = (other: ReadingRow): boolean =>
      first.timeMs === null ? other.timeMs === null && other.boot === first.boot : other.timeMs !== null;
    let bytes = 0;
    const end = rows.findIndex((other, index) => {
      bytes += Buffer.byteLength(other.body) + 24;
      return index > 0 && (bytes > maxBytes || !isAlike(other));
    });
    const taken = end === -1 ? rows : rows.slice(0, end);
    const lastRow = taken.at(-1)?.id ?? first.id;
    const seq = row.lastSeq + 1;
    this.#sql.insertPack.run(id, seq, first.id, lastRow, taken.length);
    this.#sql.packed.run(seq, lastRow, id);
    return { seq, fromSeq: seq };
  }

  #row(id: number): StreamRow {
    const row = this.#sql.stream.get(id);
    if (!row) throw new Error(`there is no stream ${id}`);
    return row;
  }
}

function prepare(db: Database) {
  const sql = <P extends unknown[], R = unknown>(text: string): Statement<P, R> => db.prepare<P, R>(text);
  return {
    stream: sql<[number], StreamRow>("SELECT * FROM stream WHERE id = ?"),
    formed: sql<[number], { seq: number; fromSeq: number | null }>(
      "SELECT seq, fromSeq FROM message WHERE stream = ? ORDER BY seq",
    ),
    message: sql<[number, number], MessageRow>("SELECT * FROM message WHERE stream = ? AND seq = ?"),
    messages: sql<[number], MessageRow>("SELECT * FROM message WHERE stream = ? ORDER BY seq"),
    firstRow: sql<[number], { firstRow: number | null }>(
      "SELECT min(firstRow) AS firstRow FROM message WHERE stream = ?",
    ),
    waiting: sql<[number, number, number], { count: number }>(
      "SELECT count(*) AS count FROM (SELECT 1 FROM reading WHERE class = ? AND id > ? LIMIT ?)",
    ),
    unpacked: sql<[number, number, number], ReadingRow>(
      "SELECT * FROM reading WHERE class = ? AND id > ? ORDER BY id LIMIT ?",
    ),
    rows: sql<[number, number, number], ReadingRow>(
      "SELECT * FROM reading WHERE class = ? AND id BETWEEN ? AND ? ORDER BY id",
    ),
    boot: sql<[number | null], BootRow>("SELECT name, fromMs, toMs FROM boot WHERE id = ?"),
    insertPack: sql("INSERT INTO message (stream, seq, firstRow, lastRow, readings) VALUES (?, ?, ?, ?, ?)"),
    packed: sql("UPDATE stream SET lastSeq = ?, packedTo = ? WHERE id = ?"),
    remove: sql("DELETE FROM message WHERE stream = ? AND seq = ?"),
    clear: sql("DELETE FROM message WHERE stream = ?"),
    newLife: sql(
      "UPDATE stream SET prevStream = stream, prevInc = inc, stream = ?, inc = ?, lastSeq = 0, packedTo = ?, gapReason = NULL WHERE id = ?",
    ),
    needed: sql<[number], { id: number | null }>(
      `SELECT min(coalesce((SELECT min(firstRow) FROM message WHERE message.stream = stream.id), packedTo + 1)) AS id
       FROM stream WHERE class = ?`,
    ),
    deleteRows: sql("DELETE FROM reading WHERE class = ? AND id < ?"),
    aside: sql("INSERT INTO aside (atMs, reader, class, why, content) VALUES (?, ?, ?, ?, ?)"),
    trimAside: sql("DELETE FROM aside WHERE id <= (SELECT max(id) FROM aside) - ?"),
  };
}

function gapOf({ seq, fromSeq, toSeq, readings, timeFrom, timeTo, reason }: MessageRow): Gap {
  return { fromSeq: fromSeq ?? seq, toSeq: toSeq ?? seq, readings, timeFrom, timeTo, reason: reason ?? "" };
}

function pendingGap(row: StreamRow, reason: string) {
  return { readings: row.gapReadings, timeFrom: row.gapTimeFrom, timeTo: row.gapTimeTo, reason };
}
