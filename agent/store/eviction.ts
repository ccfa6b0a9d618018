import type { Database, Statement } from "better-sqlite3";
import { GAP_REASONS } from "../../messages/gap.js";
import type { GapKeeper } from "./gap-keeper.js";
import type { MessageRow, StreamRow } from "./stream-rows.js";
import { CLASS_RANKS, CLASSES_BY_RANK } from "./stream-rows.js";

interface Span {
  readonly count: number;
  readonly timeFrom: number | null;
  readonly timeTo: number | null;
}

/** The least that goes at once, so that neighbouring gaps become one and not every reading costs a search. */
const MIN_DROP = 64;
const MAX_DROP = 2000;
const DROP_SHARE = 0.05;

/**
 * Makes room by giving up readings: the oldest of the lowest class that has any, from every reader's stream, with a gap
 * declared in each. All within the caller's transaction.
 */
export class Eviction {
  readonly #gaps: GapKeeper;
  readonly #sql: ReturnType<typeof prepare>;

  constructor(db: Database, gaps: GapKeeper) {
    this.#gaps = gaps;
    this.#sql = prepare(db);
  }

  /**
   * @param upTo the highest class that may lose readings: a measurement never drives out an alarm.
   * @returns how many readings went; 0 when there is nothing to give up.
   */
  dropOldest(upTo: number): number {
    for (const name of CLASSES_BY_RANK) {
      const rank = CLASS_RANKS[name];
      if (rank > upTo) break;
      // Rows go from the low end only, so their ids have no holes; counting a large table would take too long.
      const { low, high } = this.#sql.ends.get({ rank }) ?? { low: null, high: null };
      if (low === null || high === null) continue;
      const count = Math.min(MAX_DROP, Math.max(MIN_DROP, Math.ceil((high - low + 1) * DROP_SHARE)));
      return this.#drop(rank, Math.min(high, low + count - 1));
    }
    return 0;
  }

  #drop(rank: number, lastRow: number): number {
    for (const stream of this.#sql.streams.all(rank)) {
      this.#dropMessages(stream, lastRow);
      this.#dropUnpacked(stream, lastRow);
    }
    return this.#sql.deleteRows.run(rank, lastRow).changes;
  }

  /** Whole messages only: the numbers of the rest must keep their content. */
  #dropMessages(stream: StreamRow, lastRow: number): void {
    for (const message of this.#sql.packs.all(stream.id, lastRow)) {
      const { timeFrom, timeTo } = this.#span(stream.class, message.firstRow ?? 0, message.lastRow ?? 0);
      this.#sql.remove.run(stream.id, message.seq);
      this.#gaps.add(stream.id, {
        seqs: { from: message.seq, to: message.seq },
        readings: message.readings,
        timeFrom,
        timeTo,
        reason: GAP_REASONS.full,
      });
    }
  }

  #dropUnpacked({ id, class: rank, packedTo }: StreamRow, lastRow: number): void {
    const { count, timeFrom, timeTo } = this.#span(rank, packedTo + 1, lastRow);
    if (count === 0) return;
    this.#sql.packedTo.run(lastRow, id);
    this.#gaps.add(id, { readings: count, timeFrom, timeTo, reason: GAP_REASONS.full });
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
    packs: sql<[number, number], MessageRow>("SELECT * FROM message WHERE stream = ? AND firstRow <= ? ORDER BY seq"),
    remove: sql("DELETE FROM message WHERE stream = ? AND seq = ?"),
    packedTo: sql("UPDATE stream SET packedTo = ? WHERE id = ?"),
    span: sql<[number, number, number], Span>(
      `SELECT count(*) AS count, min(timeMs) AS timeFrom, max(timeMs) AS timeTo
       FROM reading WHERE class = ? AND id BETWEEN ? AND ?`,
    ),
    deleteRows: sql("DELETE FROM reading WHERE class = ? AND id <= ?"),
  };
}
