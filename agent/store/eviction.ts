import type { Database, Statement } from "better-sqlite3";
import { GAP_REASONS } from "../../messages/gap.js";
import type { GapKeeper } from "./gap-keeper.js";
import type { MessageRow, StreamRow } from "./stream-rows.js";
import { ANSWER_RANK, CLASS_RANKS, CLASSES_BY_RANK } from "./stream-rows.js";

interface Span {
  readonly count: number;
  readonly timeFrom: number | null;
  readonly timeTo: number | null;
}

/** The least that goes at once, so that neighbouring gaps become one and not every reading costs a search. */
const MIN_DROP = 64;
const MAX_DROP = 2000;
const DROP_SHARE = 0.05;
const ANSWERS_AT_ONCE = 8;
/** What a row takes beside its text, as far as it can be told without looking at pages. */
export const ROW_BYTES = 24;
/** Rows whose size is looked at to tell that of all. */
const SAMPLES = 16;

/**
 * Makes room by giving up readings: the oldest of the lowest class that has any, from every reader's stream, with a gap
 * declared in each. Answers have no gap: a caller that asks again gets them from the ledger. All within the caller's
 * transaction.
 */
export class Eviction {
  readonly #gaps: GapKeeper;
  readonly #sql: ReturnType<typeof prepare>;

  constructor(db: Database, gaps: GapKeeper) {
    this.#gaps = gaps;
    this.#sql = prepare(db);
  }

  /**
   * @param upTo the highest class that may lose anything: a measurement never drives out an alarm.
   * @returns how many readings or answers went; 0 when there is nothing to give up.
   */
  dropOldest(upTo: number): number {
    for (const rank of [...CLASSES_BY_RANK.map((name) => CLASS_RANKS[name]), ANSWER_RANK].toSorted((a, b) => a - b)) {
      if (rank > upTo) break;
      const dropped = this.dropOldestOf(rank);
      if (dropped > 0) return dropped;
    }
    return 0;
  }

  /** @returns how many went. */
  dropOldestOf(rank: number): number {
    if (rank === ANSWER_RANK) return this.#sql.deleteAnswers.run(ANSWERS_AT_ONCE).changes;
    // Rows go from the low end only, so their ids have no holes; counting a large table would take too long.
    const { low, high } = this.#ends(rank);
    if (low === null || high === null) return 0;
    const count = Math.min(MAX_DROP, Math.max(MIN_DROP, Math.ceil((high - low + 1) * DROP_SHARE)));
    const lastRow = Math.min(high, low + count - 1);
    for (const stream of this.#sql.streams.all(rank)) {
      this.#dropMessages(stream, this.#sql.packsTouching.all(stream.id, lastRow), GAP_REASONS.full);
      this.#dropUnpacked(stream, lastRow, GAP_REASONS.full);
    }
    return this.#sql.deleteRows.run(rank, lastRow).changes;
  }

  /**
   * Gives up readings that were taken before `cutoffMs`, as far as they are the oldest; a message goes when all in it
   * are too old. Readings without a date go when their whole boot is too old.
   *
   * @returns how many went; to be called again while that is not 0.
   */
  dropOlder(rank: number, cutoffMs: number): number {
    const { low, high } = this.#ends(rank);
    if (low === null || high === null) return 0;
    const firstKept = this.#sql.firstYoung.get(rank, low, low + MAX_DROP, cutoffMs, cutoffMs)?.id;
    const lastRow = firstKept === undefined ? Math.min(high, low + MAX_DROP - 1) : firstKept - 1;
    if (lastRow < low) return 0;
    for (const stream of this.#sql.streams.all(rank)) {
      this.#dropMessages(stream, this.#sql.packsWithin.all(stream.id, lastRow), GAP_REASONS.age);
      this.#dropUnpacked(stream, lastRow, GAP_REASONS.age);
    }
    return this.#sql.deleteUnneeded.run(rank, lastRow, rank).changes;
  }

  /** What the readings of a class take, or the answers: told from the sizes of a few. */
  bytesOf(rank: number): number {
    if (rank === ANSWER_RANK) return this.#sql.answerBytes.get()?.bytes ?? 0;
    const { low, high } = this.#ends(rank);
    if (low === null || high === null) return 0;
    const rows = high - low + 1;
    const step = Math.max(1, Math.floor(rows / SAMPLES));
    let bytes = 0;
    let seen = 0;
    for (let id = low; id <= high && seen < 2 * SAMPLES; id += step) {
      bytes += ROW_BYTES + (this.#sql.size.get(rank, id)?.bytes ?? 0);
      seen += 1;
    }
    return Math.round((bytes / seen) * rows);
  }

  #ends(rank: number): { readonly low: number | null; readonly high: number | null } {
    return this.#sql.ends.get({ rank }) ?? { low: null, high: null };
  }

  /** Whole messages only: the numbers of the rest must keep their content. */
  #dropMessages(stream: StreamRow, messages: readonly MessageRow[], reason: string): void {
    for (const message of messages) {
      const { timeFrom, timeTo } = this.#span(stream.class, message.firstRow ?? 0, message.lastRow ?? 0);
      this.#sql.remove.run(stream.id, message.seq);
      this.#gaps.add(stream.id, {
        seqs: { from: message.seq, to: message.seq },
        readings: message.readings,
        timeFrom,
        timeTo,
        reason,
      });
    }
  }

  #dropUnpacked({ id, class: rank, packedTo }: StreamRow, lastRow: number, reason: string): void {
    const { count, timeFrom, timeTo } = this.#span(rank, packedTo + 1, lastRow);
    if (count === 0) return;
    this.#sql.packedTo.run(lastRow, id);
    this.#gaps.add(id, { readings: count, timeFrom, timeTo, reason });
  }

  #span(rank: number, from: number, to: number): Span {
    return this.#sql.span.get(rank, from, to) ?? { count: 0, timeFrom: null, timeTo: null };
  }
}

function prepare(db: Database) {
  const sql = <P extends unknown[], R = unknown>(text: string): Statement<P, R> => db.prepare<P, R>(text);
  return {
    ends: sql<[{ readonly rank: number }], { low: number | null; high: number | null }>(
      "SELECT (SELECT min(id) FROM reading WHERE class = $rank) AS low, (SELECT max(id) FROM reading WHERE class = $rank) AS high",
    ),
    streams: sql<[number], StreamRow>("SELECT * FROM stream WHERE class = ?"),
    packsTouching: sql<[number, number], MessageRow>(
      "SELECT * FROM message WHERE stream = ? AND firstRow <= ? ORDER BY seq",
    ),
    packsWithin: sql<[number, number], MessageRow>(
      "SELECT * FROM message WHERE stream = ? AND lastRow <= ? ORDER BY seq",
    ),
    remove: sql("DELETE FROM message WHERE stream = ? AND seq = ?"),
    packedTo: sql("UPDATE stream SET packedTo = ? WHERE id = ?"),
    span: sql<[number, number, number], Span>(
      `SELECT count(*) AS count, min(timeMs) AS timeFrom, max(timeMs) AS timeTo
       FROM reading WHERE class = ? AND id BETWEEN ? AND ?`,
    ),
    deleteRows: sql("DELETE FROM reading WHERE class = ? AND id <= ?"),
    deleteUnneeded: sql(
      `DELETE FROM reading WHERE class = ? AND id <= ? AND id < (
         SELECT min(coalesce((SELECT min(firstRow) FROM message WHERE message.stream = stream.id), packedTo + 1))
         FROM stream WHERE class = ?)`,
    ),
    firstYoung: sql<[number, number, number, number, number], { id: number }>(
      `SELECT id FROM reading WHERE class = ? AND id >= ? AND id < ? AND (timeMs >= ? OR (timeMs IS NULL AND NOT EXISTS (
         SELECT 1 FROM boot WHERE boot.id = reading.boot AND boot.toMs < ?))) ORDER BY id LIMIT 1`,
    ),
    size: sql<[number, number], { bytes: number }>(
      "SELECT length(body) AS bytes FROM reading WHERE class = ? AND id = ?",
    ),
    deleteAnswers: sql("DELETE FROM answer WHERE id IN (SELECT id FROM answer ORDER BY id LIMIT ?)"),
    answerBytes: sql<[], { bytes: number }>(
      `SELECT coalesce(sum(length(body) + length(name) + ${ROW_BYTES}), 0) AS bytes FROM answer`,
    ),
  };
}
