import type { Database, Statement } from "better-sqlite3";
import type { FormedMessage, StreamRow } from "./stream-rows.js";

/** Readings of one stream that will never be sent. */
export interface GivenUp {
  /** Numbers of the messages that had them; left out: they were in none. */
  readonly seqs?: { readonly from: number; readonly to: number };
  /** `null`: nobody knows. */
  readonly readings: number | null;
  readonly timeFrom: number | null;
  readonly timeTo: number | null;
  readonly reason: string;
}

/**
 * Keeps account of what each stream gives up, so that it is declared in order. Neighbours are merged in the stream's
 * own row, which is the room that is always there; {@link GapKeeper.form} turns that into a message with a number, which
 * never changes again. All within the caller's transaction.
 */
export class GapKeeper {
  readonly #stream: Statement<[number], StreamRow>;
  readonly #setGap: Statement;
  readonly #insert: Statement;
  readonly #formed: Statement;

  constructor(db: Database) {
    this.#stream = db.prepare("SELECT * FROM stream WHERE id = ?");
    this.#setGap = db.prepare(
      "UPDATE stream SET gapFromSeq = ?, gapToSeq = ?, gapReadings = ?, gapTimeFrom = ?, gapTimeTo = ?, gapReason = ? WHERE id = ?",
    );
    this.#insert = db.prepare(
      "INSERT INTO message (stream, seq, readings, fromSeq, toSeq, timeFrom, timeTo, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    );
    this.#formed = db.prepare("UPDATE stream SET lastSeq = ?, gapReason = NULL WHERE id = ?");
  }

  add(streamId: number, lost: GivenUp): void {
    const row = this.#row(streamId);
    if (row.gapReason === null) return this.#set(streamId, lost, lost.seqs?.from ?? null, lost.seqs?.to ?? null);
    if (!isNeighbour(row, lost)) {
      this.form(streamId);
      return this.add(streamId, lost);
    }
    const merged: GivenUp = {
      readings: row.gapReadings === null || lost.readings === null ? null : row.gapReadings + lost.readings,
      timeFrom: least(row.gapTimeFrom, lost.timeFrom),
      timeTo: greatest(row.gapTimeTo, lost.timeTo),
      reason: row.gapReason,
    };
    this.#set(streamId, merged, row.gapFromSeq, lost.seqs?.to ?? null);
  }

  /** Gives what is pending its number, if anything is. */
  form(streamId: number): FormedMessage | undefined {
    const row = this.#row(streamId);
    if (row.gapReason === null) return undefined;
    const seq = row.lastSeq + 1;
    const fromSeq = row.gapFromSeq ?? seq;
    const toSeq = row.gapToSeq ?? seq;
    this.#insert.run(
      ...[streamId, seq, row.gapReadings, fromSeq, toSeq, row.gapTimeFrom, row.gapTimeTo, row.gapReason],
    );
    this.#formed.run(seq, streamId);
    return { seq, fromSeq };
  }

  #row(streamId: number): StreamRow {
    const row = this.#stream.get(streamId);
    if (!row) throw new Error(`there is no stream ${streamId}`);
    return row;
  }

  #set(streamId: number, gap: GivenUp, fromSeq: number | null, toSeq: number | null): void {
    this.#setGap.run(fromSeq, toSeq, gap.readings, gap.timeFrom, gap.timeTo, gap.reason, streamId);
  }
}

/** Whether what is lost now follows directly on what is pending. */
function isNeighbour(row: StreamRow, { seqs, reason }: GivenUp): boolean {
  if (row.gapReason !== reason) return false;
  if (seqs) return row.gapToSeq !== null && seqs.from === row.gapToSeq + 1;
  return row.gapToSeq === null || row.gapToSeq === row.lastSeq;
}

const least = (a: number | null, b: number | null): number | null =>
  a === null || b === null ? (a ?? b) : Math.min(a, b);
const greatest = (a: number | null, b: number | null): number | null =>
  a === null || b === null ? (a ?? b) : Math.max(a, b);
