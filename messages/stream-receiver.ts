import type { ReadingClass } from "../core/driver.js";
import type { SeqRange } from "./receipt.js";
import { WINDOW_MESSAGES, type StreamLife, type TelemetryMessage } from "./telemetry.js";

/**
 * What a reader has of one life of one stream. Plain JSON, never changed in place: a reader stores it in the
 * transaction that stores the readings, and forgets the new one when that fails.
 */
export interface ReceiverState extends StreamLife {
  readonly class: ReadingClass;
  /** The highest number seen or covered by a gap. */
  readonly have: number;
  /** Holes below `have`, ascending, all within the last 64 numbers. */
  readonly missing: readonly SeqRange[];
  /** Number and count of readings of the packs among the last 64: what a gap cannot have lost. */
  readonly recent: readonly (readonly [seq: number, readings: number])[];
}

export interface Taken {
  readonly state: ReceiverState;
  /** `duplicate`: nothing changed, the content is to be ignored. */
  readonly news: "new" | "duplicate";
  /** Of a gap: readings that never come, without those that came before it was declared; `null` when nobody knows. */
  readonly lost?: number | null;
  /**
   * Holes given up: the sender went on, so it has a receipt for them that this state does not know of (a store that
   * was lost or restored, another program under the same consumer name).
   */
  readonly forgone: readonly SeqRange[];
}

/**
 * Takes one message of a life.
 *
 * @param state `undefined` at the first message of a life.
 * @param begin where to begin then: `window`, what may still come before it is missing; `here`, it is not (a plain
 *   watch, which gives no receipts).
 */
export function take(state: ReceiverState | undefined, message: TelemetryMessage, begin: "window" | "here"): Taken {
  const { seq } = message;
  const before = state ?? firstState(message, begin);
  const inHole = before.missing.some((range) => contains(range, seq));
  if (seq <= before.have && !inHole) return { state: before, news: "duplicate", forgone: [] };

  const fromSeq = message.type === "gap" ? message.gap.fromSeq : seq;
  const toSeq = message.type === "gap" ? message.gap.toSeq : seq;
  const have = Math.max(before.have, seq);
  const holes = before.have + 1 < seq ? [...before.missing, [before.have + 1, seq - 1] as const] : before.missing;
  const open = holes.flatMap((hole) => without(hole, fromSeq, toSeq)).flatMap((hole) => without(hole, seq, seq));
  const oldest = have - WINDOW_MESSAGES + 1;
  const recent = message.type === "pack" ? [...before.recent, [seq, message.readings.length] as const] : before.recent;
  return {
    state: {
      ...before,
      have,
      missing: open.flatMap((hole) => without(hole, 0, oldest - 1)),
      recent: recent.filter(([number]) => number >= oldest),
    },
    news: "new",
    ...(message.type === "gap" && { lost: lostReadings(message.gap, before) }),
    forgone: open.flatMap((hole) => without(hole, oldest, Infinity)),
  };
}

/** Prompt reports keep a sender's window of 64 moving. */
const PROMPT_MESSAGES = 16;
const SETTLE_MS = 1_000;
const TRAFFIC_MS = 60_000;
/** 16 messages within this time are a backlog that is worked off: its end is reported soon, so that the outbox is empty. */
const BACKLOG_MS = 4_000;

/**
 * When the next receipt of a life is due: at start; 1 s after a hole opened, a gap, a repeat (our last receipt may be
 * lost) or a repair; at once when 16 messages are not reported; within 1 s at the end of a backlog; else at most every
 * 60 s, while there is traffic.
 * Times are monotonic milliseconds.
 */
export class ReceiptTimer {
  #sentMs = -Infinity;
  #unreported = 0;
  #firstUnreportedMs = 0;
  #backlogUntilMs = -Infinity;
  #holes: string;
  /** When the next receipt is due; `undefined`: not before something comes. */
  dueMs: number | undefined;

  /** @param state of before a restart, which is reported at once. */
  constructor(state: ReceiverState | undefined, nowMs: number) {
    this.#holes = holesText(state);
    if (state) this.dueMs = nowMs;
  }

  /** Tell it each message, once its content is safe. */
  taken({ state, news, lost }: Taken, nowMs: number): void {
    if (this.#unreported === 0) this.#firstUnreportedMs = nowMs;
    if (news === "new") this.#unreported += 1;
    const holes = holesText(state);
    const settle = holes !== this.#holes || lost !== undefined || news === "duplicate";
    this.#holes = holes;
    if (this.#unreported >= PROMPT_MESSAGES) {
      if (nowMs - this.#firstUnreportedMs < BACKLOG_MS) this.#backlogUntilMs = nowMs + BACKLOG_MS;
      this.#dueBy(nowMs);
    } else if (settle || nowMs < this.#backlogUntilMs) this.#dueBy(nowMs + SETTLE_MS);
    else this.#dueBy(Math.max(nowMs + SETTLE_MS, this.#sentMs + TRAFFIC_MS));
  }

  /** A receipt for all that was taken went out. */
  sent(nowMs: number): void {
    this.#sentMs = nowMs;
    this.#unreported = 0;
    this.dueMs = undefined;
  }

  #dueBy(ms: number): void {
    this.dueMs = Math.min(this.dueMs ?? Infinity, ms);
  }
}

function firstState(message: TelemetryMessage, begin: "window" | "here"): ReceiverState {
  const { stream, inc, seq } = message;
  const have = begin === "here" ? seq - 1 : Math.max(0, seq - WINDOW_MESSAGES);
  return { stream, inc, class: message.class, have, missing: [], recent: [] };
}

function lostReadings(
  { fromSeq, toSeq, readings }: { readonly fromSeq: number; readonly toSeq: number; readonly readings: number | null },
  { recent }: ReceiverState,
): number | null {
  if (readings === null) return null;
  const held = recent.filter(([seq]) => seq >= fromSeq && seq <= toSeq).map(([, count]) => count);
  return Math.max(0, readings - held.reduce((sum, count) => sum + count, 0));
}

const contains = ([from, to]: SeqRange, seq: number): boolean => seq >= from && seq <= to;

/** What is left of a range when `from` to `to` is taken out. */
function without([first, last]: SeqRange, from: number, to: number): SeqRange[] {
  const left: SeqRange = [first, Math.min(last, from - 1)];
  const right: SeqRange = [Math.max(first, to + 1), last];
  return to < first || from > last ? [[first, last]] : [left, right].filter(([a, b]) => a <= b);
}

const holesText = (state: ReceiverState | undefined): string => JSON.stringify(state?.missing ?? []);
