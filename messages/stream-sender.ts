import type { Receipt } from "./receipt.js";
import { WINDOW_MESSAGES, type StreamLife } from "./telemetry.js";

export interface StreamSenderOptions {
  readonly life: StreamLife;
  /** The highest sequence number ever used in this life; 0 when it is new. */
  readonly lastSeq: number;
  /** Wait before a message is sent again by itself; doubles each time. Longer than a reader's 60 s between receipts. */
  readonly resendFirstMs?: number;
  readonly resendMaxMs?: number;
}

export type ReceiptOutcome =
  /** The reader has these sequence numbers (ascending): trim them. */
  | { readonly kind: "taken"; readonly done: readonly number[] }
  /** Another stream or life, e.g. one of ours from before: nothing to do. */
  | { readonly kind: "other-life" }
  /** The reader has more than was ever sent: our memory is older than the truth. Start a new life that names this one. */
  | { readonly kind: "ahead" };

interface Entry {
  readonly seq: number;
  /** A gap stands for everything from here to `seq`. */
  readonly fromSeq: number;
  sentMs: number | undefined;
  dueMs: number;
  waitMs: number;
}

/** A message that the reader says is missing is not sent again while one may still be on its way. */
const RESEND_GUARD_MS = 2_000;

/**
 * Which formed messages of one life go out when. Holds those without a receipt, by number; content stays in the store.
 * Times are monotonic milliseconds. Has no timers: ask {@link due} after every change and at {@link nextDueMs}.
 */
export class StreamSender {
  readonly life: StreamLife;
  readonly #resendFirstMs: number;
  readonly #resendMaxMs: number;
  readonly #entries = new Map<number, Entry>();
  #lastSeq: number;

  constructor({ life, lastSeq, resendFirstMs = 90_000, resendMaxMs = 3_600_000 }: StreamSenderOptions) {
    this.life = life;
    this.#lastSeq = lastSeq;
    this.#resendFirstMs = resendFirstMs;
    this.#resendMaxMs = resendMaxMs;
  }

  /** How many messages without a receipt are held. */
  get size(): number {
    return this.#entries.size;
  }

  /** How many more messages may be formed now: the reader must be able to count on the window. */
  get room(): number {
    return Math.max(0, this.#windowEnd() - (this.#lastSeq + 1));
  }

  has(seq: number): boolean {
    return this.#entries.has(seq);
  }

  /**
   * A message that was formed and stored; it is due at once. At start all that have no receipt are added, whether they
   * were sent before or not: the reader takes repeats calmly.
   *
   * @param fromSeq of a gap: where it begins.
   */
  add(seq: number, fromSeq = seq): void {
    this.#entries.set(seq, { seq, fromSeq, sentMs: undefined, dueMs: -Infinity, waitMs: this.#resendFirstMs });
    this.#lastSeq = Math.max(this.#lastSeq, seq);
  }

  /** Forgets messages that will never be sent (again), as when a gap takes their place. */
  drop(fromSeq: number, toSeq: number): void {
    for (const seq of this.#entries.keys()) if (seq >= fromSeq && seq <= toSeq) this.#entries.delete(seq);
  }

  /** What to send now, ascending. One stays due until {@link sent} is told. */
  due(nowMs: number): number[] {
    return this.#inWindow()
      .filter(({ dueMs }) => dueMs <= nowMs)
      .map(({ seq }) => seq);
  }

  /** When something will be due if nothing else happens; `undefined`: never. */
  nextDueMs(): number | undefined {
    const times = this.#inWindow().map(({ dueMs }) => dueMs);
    return times.length === 0 ? undefined : Math.min(...times);
  }

  /** Our own atServer took it. That is no receipt: it will be sent again unless one comes. */
  sent(seq: number, nowMs: number): void {
    const entry = this.#entries.get(seq);
    if (!entry) return;
    entry.sentMs = nowMs;
    entry.dueMs = nowMs + entry.waitMs;
    entry.waitMs = Math.min(entry.waitMs * 2, this.#resendMaxMs);
  }

  /** Takes a receipt of the consumer that counts (the caller has checked which), or a part of one that came late. */
  receipt({ stream, inc, have, missing }: Receipt, nowMs: number): ReceiptOutcome {
    if (stream !== this.life.stream || inc !== this.life.inc) return { kind: "other-life" };
    if (have > this.#lastSeq) return { kind: "ahead" };
    const done: number[] = [];
    for (const entry of this.#entries.values()) {
      if (entry.seq > have) continue;
      if (missing.some(([from, to]) => entry.seq >= from && entry.seq <= to)) this.#sendAgain(entry, nowMs);
      else done.push(entry.seq);
    }
    for (const seq of done) this.#entries.delete(seq);
    return { kind: "taken", done: done.sort((a, b) => a - b) };
  }

  /** For a reader that gives no receipts: its atServer has this message, which is all one can know. */
  delivered(seq: number): void {
    this.#entries.delete(seq);
  }

  #sendAgain(entry: Entry, nowMs: number): void {
    if (entry.sentMs === undefined || nowMs - entry.sentMs < RESEND_GUARD_MS) return;
    entry.dueMs = nowMs;
    entry.waitMs = this.#resendFirstMs;
  }

  /** At most 64 numbers from the first without a receipt; what stands for that first one always. */
  #inWindow(): Entry[] {
    const first = this.#first();
    const end = this.#windowEnd();
    return [...this.#entries.values()]
      .filter((entry) => entry === first || entry.seq < end)
      .sort((a, b) => a.seq - b.seq);
  }

  #windowEnd(): number {
    return (this.#first()?.fromSeq ?? this.#lastSeq + 1) + WINDOW_MESSAGES;
  }

  /**
   * What stands for the lowest number without a receipt: a gap has a number of its own, but must come before the reader
   * forgets which of the numbers that it gives up it had.
   */
  #first(): Entry | undefined {
    let first: Entry | undefined;
    for (const entry of this.#entries.values()) if (!first || entry.fromSeq < first.fromSeq) first = entry;
    return first;
  }
}
