import type { ReadingClass } from "../../core/driver.js";
import type { StreamLife } from "../../messages/telemetry.js";

/** How the tables number the classes: the lowest goes first when there is no room. */
export const CLASS_RANKS: Readonly<Record<ReadingClass, number>> = { measurement: 0, event: 1, alarm: 3 };
/** Answers to commands are no readings, and stand between. */
export const ANSWER_RANK = 2;
/** What the outbox holds. */
export type OutboxClass = ReadingClass | "answer";
export const CLASSES_BY_RANK: readonly ReadingClass[] = ["measurement", "event", "alarm"];

/** One (reader, class), as the table `stream` has it. */
export interface StreamRow {
  readonly id: number;
  readonly reader: string;
  readonly class: number;
  readonly stream: string;
  readonly inc: number;
  readonly prevStream: string | null;
  readonly prevInc: number | null;
  readonly lastSeq: number;
  readonly packedTo: number;
  readonly gapFromSeq: number | null;
  readonly gapToSeq: number | null;
  readonly gapReadings: number | null;
  readonly gapTimeFrom: number | null;
  readonly gapTimeTo: number | null;
  readonly gapReason: string | null;
}

export interface MessageRow {
  readonly seq: number;
  readonly firstRow: number | null;
  readonly lastRow: number | null;
  readonly readings: number | null;
  readonly fromSeq: number | null;
  readonly toSeq: number | null;
  readonly timeFrom: number | null;
  readonly timeTo: number | null;
  readonly reason: string | null;
  /** JSON of the readings of a pack that was set aside and is sent once more. */
  readonly content: string | null;
}

export interface ReadingRow {
  readonly id: number;
  readonly timeMs: number | null;
  readonly boot: number | null;
  readonly monotonicMs: number | null;
  readonly body: string;
}

/** A stream as the uplink sees it. */
export interface StreamInfo {
  readonly id: number;
  readonly reader: string;
  readonly class: ReadingClass;
  readonly life: StreamLife;
  readonly prev: StreamLife | undefined;
  readonly lastSeq: number;
}

/** A message that has its number and content for good. */
export interface FormedMessage {
  readonly seq: number;
  /** Of a gap: where it begins; else `seq`. */
  readonly fromSeq: number;
}

export function streamInfoOf(row: StreamRow): StreamInfo {
  return {
    id: row.id,
    reader: row.reader,
    class: classOf(row.class),
    life: { stream: row.stream, inc: row.inc },
    prev: row.prevStream === null || row.prevInc === null ? undefined : { stream: row.prevStream, inc: row.prevInc },
    lastSeq: row.lastSeq,
  };
}

function classOf(rank: number): ReadingClass {
  const found = CLASSES_BY_RANK.find((name) => CLASS_RANKS[name] === rank);
  if (!found) throw new Error(`the store has a reading class ${rank}`);
  return found;
}
