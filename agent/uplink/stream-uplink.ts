import type { JsonObject } from "../../messages/json-field.js";
import type { Receipt } from "../../messages/receipt.js";
import { StreamSender } from "../../messages/stream-sender.js";
import { formatTelemetry, WINDOW_MESSAGES } from "../../messages/telemetry.js";
import type { Store } from "../store/store.js";
import type { StreamInfo } from "../store/stream-rows.js";

export interface PackOptions {
  /** Most readings in one message. */
  readonly maxBatch: number;
  /** Longest that a reading waits for others; alarms never wait. */
  readonly maxDelayMs: number;
  /** By how much that is stretched now, to save data; 1 unless given. */
  readonly stretch?: () => number;
  /** Deflates messages where that saves bytes. */
  readonly deflate?: boolean;
}

/** Of the text of the readings in one message: well below what a message and a small client take. */
const MAX_PACK_BYTES = 96_000;
/** So many messages are formed in one commit when there is a backlog. */
const MAX_FORMED_AT_ONCE = 16;
/** How often the store is compared with what we think that it holds. */
const COMPARE_EVERY_MS = 60_000;
/** A message that is refused so often, each time for its own sake, is set aside. */
export const MAX_BLAMED_TRIES = 5;

/** One (reader, class): what is formed into messages, what goes out, what is done. Times are monotonic milliseconds. */
export class StreamUplink {
  readonly #store: Store;
  readonly #options: PackOptions;
  #info: StreamInfo;
  #sender: StreamSender;
  /** When the oldest reading that is in no message came; `undefined`: there is none. */
  #waitingSinceMs: number | undefined;
  #knownSeq = 0;
  #sentSeq = 0;
  #comparedMs = -Infinity;
  readonly #blamed = new Map<number, number>();

  constructor(store: Store, info: StreamInfo, options: PackOptions) {
    this.#store = store;
    this.#options = options;
    this.#info = info;
    this.#sender = new StreamSender({ life: info.life, lastSeq: 0 });
    this.#begin(info);
  }

  get info(): StreamInfo {
    return this.#info;
  }

  /** Messages without a receipt. */
  get unreceipted(): number {
    return this.#sender.size;
  }

  /** Readings of this class were accepted. */
  arrived(nowMs: number): void {
    this.#waitingSinceMs ??= nowMs;
  }

  /** Forms what is ripe, and gives the number of the next message to send. Formed messages are on the disk. */
  async next(nowMs: number): Promise<number | undefined> {
    await this.#compare(nowMs);
    const due = this.#sender.due(nowMs)[0];
    // What is formed goes first: so messages are full when there is a backlog.
    if (due !== undefined) return due;
    const count = this.#ripe(nowMs);
    if (count === 0) return undefined;
    const limits = { maxReadings: this.#options.maxBatch, maxBytes: MAX_PACK_BYTES };
    const forming = Array.from({ length: count }, () => this.#store.streams.form(this.#info.id, limits));
    const [formed] = await Promise.all([Promise.all(forming), this.#hurry(count)]);
    if (formed[0] === undefined) this.#waitingSinceMs = undefined; // they wait for their date
    await this.#takeFormed();
    return this.#sender.due(nowMs)[0];
  }

  /** When {@link next} may have something if no news comes; `undefined`: never. */
  nextDueMs(): number | undefined {
    const times = [this.#sender.nextDueMs(), this.#sender.room > 0 ? this.#ripeMs() : undefined];
    const known = times.filter((time) => time !== undefined);
    return known.length === 0 ? undefined : Math.min(...known);
  }

  /** What a message says; `undefined` when it was given up in the meantime. */
  body(seq: number): JsonObject | undefined {
    const stored = this.#store.streams.load(this.#info.id, seq);
    if (!stored) {
      this.#sender.drop(seq, seq);
      return undefined;
    }
    const { class: readingClass, life, prev } = this.#info;
    const position = { ...life, class: readingClass, seq, ...(prev && seq <= WINDOW_MESSAGES && { prev }) };
    return stored.type === "gap"
      ? formatTelemetry({ type: "gap", ...position, gap: stored.gap })
      : formatTelemetry(
          {
            type: "pack",
            ...position,
            readings: stored.readings,
            ...(stored.undated && { undated: stored.undated }),
            ...(stored.recovered && { recovered: true }),
          },
          { deflate: this.#options.deflate ?? false },
        );
  }

  /** Our own atServer took it. @returns whether it had it before. */
  sent(seq: number, nowMs: number): boolean {
    this.#sender.sent(seq, nowMs);
    this.#blamed.delete(seq);
    const isRepeat = seq <= this.#sentSeq;
    this.#sentSeq = Math.max(this.#sentSeq, seq);
    return isRepeat;
  }

  /** It was refused for its own sake. @returns whether it was set aside now. */
  async blamed(seq: number, why: string, wallMs: number): Promise<boolean> {
    const tries = (this.#blamed.get(seq) ?? 0) + 1;
    this.#blamed.set(seq, tries);
    if (tries < MAX_BLAMED_TRIES) return false;
    this.#blamed.delete(seq);
    const { streams, setAside } = this.#store;
    const isAside = await streams.setAside(this.#info.id, seq, why, wallMs, (entry) => setAside.add(entry));
    if (!isAside) return false;
    this.#sender.drop(seq, seq);
    this.#waitingSinceMs ??= -Infinity; // the gap is to be declared
    return true;
  }

  /** The consumer that counts has this. @returns how many messages are done, or that a new life began. */
  async receipt(receipt: Receipt, nowMs: number): Promise<number | "other-life" | "new-life"> {
    const outcome = this.#sender.receipt(receipt, nowMs);
    if (outcome.kind === "other-life") return "other-life";
    if (outcome.kind === "ahead") {
      this.#begin(await this.#store.beginLife(this.#info.id));
      return "new-life";
    }
    if (outcome.done.length > 0)
      await Promise.all([this.#store.streams.taken(this.#info.id, outcome.done), this.#hurry(outcome.done.length)]);
    return outcome.done.length;
  }

  /** For a reader that gives no receipts: its atServer has the message. */
  async delivered(seq: number): Promise<void> {
    this.#sender.delivered(seq);
    await this.#store.streams.taken(this.#info.id, [seq]);
  }

  /** Whether a message still waits for its confirmation. */
  has(seq: number): boolean {
    return this.#sender.has(seq);
  }

  /** Several messages at once are a backlog, and what follows waits for them: they do not wait for company on the disk. */
  async #hurry(messages: number): Promise<void> {
    if (messages > 1) await this.#store.flush();
  }

  #begin(info: StreamInfo): void {
    this.#info = info;
    this.#sender = new StreamSender({ life: info.life, lastSeq: info.lastSeq });
    for (const { seq, fromSeq } of this.#store.streams.formed(info.id)) this.#sender.add(seq, fromSeq);
    this.#knownSeq = info.lastSeq;
    this.#sentSeq = 0;
    this.#blamed.clear();
    // What was accepted before has waited long enough.
    this.#waitingSinceMs = this.#store.streams.waiting(info.id, 1) > 0 ? -Infinity : undefined;
  }

  /** How many messages to form now. */
  #ripe(nowMs: number): number {
    const { maxBatch } = this.#options;
    if (this.#waitingSinceMs === undefined || this.#sender.room === 0) return 0;
    const waiting = this.#store.streams.waiting(this.#info.id, maxBatch * MAX_FORMED_AT_ONCE);
    if (waiting === 0) {
      this.#waitingSinceMs = undefined;
      return 0;
    }
    const isOld = (this.#ripeMs() ?? Infinity) <= nowMs;
    const count = isOld ? Math.ceil(waiting / maxBatch) : Math.floor(waiting / maxBatch);
    // What stays behind begins to wait now.
    if (count > 0) this.#waitingSinceMs = nowMs;
    return Math.min(count, this.#sender.room, MAX_FORMED_AT_ONCE);
  }

  #ripeMs(): number | undefined {
    const { maxDelayMs, stretch } = this.#options;
    const delayMs = this.#info.class === "alarm" ? 0 : maxDelayMs * (stretch?.() ?? 1);
    return this.#waitingSinceMs === undefined ? undefined : this.#waitingSinceMs + delayMs;
  }

  /** Gaps are also formed by the store itself, when it makes room. */
  async #takeFormed(): Promise<void> {
    const { lastSeq } = this.#store.streams.info(this.#info.id);
    if (lastSeq === this.#knownSeq) return;
    // Nothing is sent before it is on the disk: a number must never stand for two contents.
    await this.#store.flush();
    const fresh = this.#store.streams.formed(this.#info.id).filter(({ seq }) => seq > this.#knownSeq && seq <= lastSeq);
    for (const { seq, fromSeq } of fresh) this.#sender.add(seq, fromSeq);
    this.#knownSeq = lastSeq;
  }

  async #compare(nowMs: number): Promise<void> {
    await this.#takeFormed();
    if (nowMs - this.#comparedMs < COMPARE_EVERY_MS) return;
    this.#comparedMs = nowMs;
    this.#waitingSinceMs ??= nowMs; // some may have got their date
    // A write that the disk refused may have brought back what we had dropped.
    for (const { seq, fromSeq } of this.#store.streams.formed(this.#info.id)) {
      if (seq <= this.#knownSeq && !this.#sender.has(seq)) this.#sender.add(seq, fromSeq);
    }
  }
}
