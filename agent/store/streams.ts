import type { Database, Statement } from "better-sqlite3";
import type { Gap } from "../../messages/gap.js";
import { GAP_REASONS } from "../../messages/gap.js";
import type { SenmlReading } from "../../messages/senml.js";
import type { StreamLife, Undated } from "../../messages/telemetry.js";
import type { GapKeeper } from "./gap-keeper.js";
import { readingOf } from "./reading-body.js";
import { type NewAside, parseReadings } from "./set-aside.js";
import { streamInfoOf } from "./stream-rows.js";
import type { FormedMessage, MessageRow, ReadingRow, StreamInfo, StreamRow } from "./stream-rows.js";
import type { Writes } from "./writes.js";

/** What stands in a formed message: always the same, however often it is sent. */
export type StoredMessage =
  | {
      readonly type: "pack";
      readonly readings: readonly SenmlReading[];
      readonly undated: Undated | undefined;
      /** It was set aside and declared a gap, and is sent once more. */
      readonly recovered: boolean;
    }
  | { readonly type: "gap"; readonly gap: Gap };

export interface PackLimits {
  readonly maxReadings: number;
  /** Of the stored text of the readings together; one reading always fits. */
  readonly maxBytes: number;
}

interface BootRow {
  readonly name: string;
  readonly fromMs: number;
  readonly toMs: number | null;
}

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
    return this.#writes.write("pack.form", () => this.#gaps.form(id) ?? this.#formPack(id, limits));
  }

  /** `undefined` when it was confirmed or given up in the meantime. */
  load(id: number, seq: number): StoredMessage | undefined {
    const message = this.#sql.message.get(id, seq);
    if (!message) return undefined;
    if (message.content !== null)
      return { type: "pack", readings: parseReadings(message.content), undated: undefined, recovered: true };
    if (message.firstRow === null || message.lastRow === null) return { type: "gap", gap: gapOf(message) };
    const rows = this.#sql.rows.all(this.#row(id).class, message.firstRow, message.lastRow);
    const boot = rows[0]?.timeMs === null ? this.#sql.boot.get(rows[0].boot) : undefined;
    return {
      type: "pack",
      readings: rows.map((row) => readingOf(row, boot?.fromMs ?? 0)),
      undated: boot && { boot: boot.name, timeFrom: boot.fromMs, timeTo: boot.toMs ?? boot.fromMs },
      recovered: false,
    };
  }

  /** The reader has these messages. What no other reader waits for is deleted. */
  taken(id: number, seqs: readonly number[]): Promise<void> {
    // To forget a receipt costs a resend, no more.
    return this.#writes.write(
      "pack.taken",
      () => {
        for (const seq of seqs) this.#sql.remove.run(id, seq);
        this.trim(this.#row(id).class);
      },
      "crash",
    );
  }

  /**
   * A message that can never be sent: its content is kept for a human, and the reader is told of a gap.
   *
   * @param keep puts it with the others that were set aside.
   * @returns false for a gap, which is never given up.
   */
  setAside(id: number, seq: number, why: string, nowMs: number, keep: (entry: NewAside) => void): Promise<boolean> {
    return this.#writes.write("pack.aside", () => {
      const message = this.load(id, seq);
      const row = this.#row(id);
      if (!message) return true;
      if (message.type === "gap") return false;
      const { reader, class: name } = streamInfoOf(row);
      keep({ atMs: nowMs, reader, class: name, why, content: JSON.stringify(message.readings) });
      this.#sql.remove.run(id, seq);
      if (message.recovered) return true; // declared before
      const times = message.readings.map(({ timeMs }) => timeMs);
      this.#gaps.add(id, {
        seqs: { from: seq, to: seq },
        readings: message.readings.length,
        timeFrom: Math.min(...times),
        timeTo: Math.max(...times),
        reason: GAP_REASONS.refused,
      });
      this.trim(row.class);
      return true;
    });
  }

  /** Forms a message of its own of readings that were set aside. Within the caller's transaction. @returns false when there is no such stream. */
  resend(reader: string, readingClass: string, readings: readonly SenmlReading[]): boolean {
    const info = this.list(reader).find(({ class: name }) => name === readingClass);
    if (!info) return false;
    this.#addContent(info.id, JSON.stringify(readings), readings.length);
    return true;
  }

  /** Begins the stream anew: what has no receipt gets new numbers. Within the caller's transaction. */
  beginLife(id: number, life: StreamLife): void {
    const messages = this.#sql.messages.all(id);
    const gaps = messages.filter(({ firstRow, content }) => firstRow === null && content === null);
    const row = this.#row(id);
    const packedTo = (this.#sql.firstRow.get(id)?.firstRow ?? row.packedTo + 1) - 1;
    this.#sql.clear.run(id);
    this.#sql.newLife.run(life.stream, life.inc, packedTo, id);
    const pending = row.gapReason === null ? [] : [pendingGap(row, row.gapReason)];
    for (const gap of [...gaps.map(gapOf), ...pending]) this.#gaps.add(id, { ...gap, reason: GAP_REASONS.full });
    for (const { content, readings } of messages) if (content !== null) this.#addContent(id, content, readings ?? 0);
  }

  /** Deletes readings of a class that no stream waits for. Within the caller's transaction. */
  trim(rank: number): void {
    const needed = this.#sql.needed.get(rank)?.id ?? null;
    if (needed !== null) this.#sql.deleteRows.run(rank, needed);
  }

  #addContent(id: number, content: string, readings: number): void {
    const { lastSeq, packedTo } = this.#row(id);
    this.#sql.insertContent.run(id, lastSeq + 1, readings, content);
    this.#sql.packed.run(lastSeq + 1, packedTo, id);
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
    insertContent: sql("INSERT INTO message (stream, seq, readings, content) VALUES (?, ?, ?, ?)"),
  };
}

function gapOf({ seq, fromSeq, toSeq, readings, timeFrom, timeTo, reason }: MessageRow): Gap {
  return { fromSeq: fromSeq ?? seq, toSeq: toSeq ?? seq, readings, timeFrom, timeTo, reason: reason ?? "" };
}

function pendingGap(row: StreamRow, reason: string) {
  return { readings: row.gapReadings, timeFrom: row.gapTimeFrom, timeTo: row.gapTimeTo, reason };
}
