import { CobsFramer, type CobsCounters } from "./cobs.js";
import { Delivery, type DeliveryCounters, DeliveryStuck } from "./delivery.js";
import { type Hello, MAX_FRAME_BYTES, parseBoardFrame, toWire } from "./frames.js";
import { HostSession, pieceBytesOf, type SessionEvent, type SessionLimits } from "./host-session.js";
import type { RandomBytes } from "./link-crypto.js";
import { LinkRefused } from "./link-errors.js";
import type { LinkRecord } from "./link-record.js";

export interface LinkMachineOptions {
  /** Left out: in clear. */
  readonly record?: LinkRecord | undefined;
  readonly keepAliveMs: number;
  readonly retransmitMs: number;
  readonly maxMessageBytes: number;
  readonly maxQueuedBytes: number;
  readonly random: RandomBytes;
  readonly wallNowMs: number;
  readonly limits?: Partial<SessionLimits> | undefined;
}

export type LinkEvent = SessionEvent | { readonly type: "message"; readonly message: Uint8Array };

export interface LinkCounters extends CobsCounters, DeliveryCounters {
  framesIn: number;
  /** Frames that are not COBS, too long, of wrong CRC, sealed otherwise, replayed. */
  refusedFrames: number;
  sessions: number;
}

/** Our own limits: 8 frames of 2,048 bytes, whatever the board's are. */
const OWN_WINDOW = 8;
const PROBE_MS = 250;
const SILENCE_FACTOR = 3.5;
const QUIET_MS = 100;

/**
 * The host's end of a link, pure: bytes, messages and time go in; bytes, events and the next time to look go out.
 * Joins framing, session and delivery.
 */
export class LinkMachine {
  readonly #framer = new CobsFramer({ maxBytes: MAX_FRAME_BYTES });
  readonly #session: HostSession;
  readonly #delivery: Delivery;
  readonly #keepAliveMs: number;
  readonly #events: LinkEvent[] = [];
  #output: Uint8Array[] = [];
  #framesIn = 0;
  #badFrames = 0;
  #sessions = 0;
  #heardAtMs: number;
  #askedAtMs = -Infinity;
  #sentAtMs = -Infinity;

  constructor(options: LinkMachineOptions, nowMs: number) {
    const { random, record, keepAliveMs, wallNowMs, limits, retransmitMs, maxMessageBytes, maxQueuedBytes } = options;
    const boot = new DataView(random(4).buffer).getUint32(0);
    const hello: Hello = { boot, frameBytes: MAX_FRAME_BYTES, window: OWN_WINDOW };
    this.#session = new HostSession({ record, hello, keepAliveMs, random, wallNowMs, limits });
    this.#delivery = new Delivery({ window: OWN_WINDOW, maxMessageBytes, maxQueuedBytes, retransmitMs });
    this.#keepAliveMs = keepAliveMs;
    this.#heardAtMs = nowMs;
  }

  get counters(): LinkCounters {
    return {
      ...this.#framer.counters,
      ...this.#delivery.counters,
      framesIn: this.#framesIn,
      refusedFrames: this.#badFrames + this.#session.refusedFrames,
      sessions: this.#sessions,
    };
  }

  get isOpen(): boolean {
    return this.#session.isOpen;
  }

  /** Bytes of messages that the board has not acknowledged. */
  get queuedBytes(): number {
    return this.#delivery.queuedBytes;
  }

  start(nowMs: number): void {
    this.#session.start(nowMs);
    this.#pump(nowMs);
  }

  /** @throws {LimitExceeded} when too much waits already. Messages sent before the session is open are refused. */
  send(message: Uint8Array, nowMs: number): void {
    if (!this.isOpen) throw new LinkRefused("LINK_NO_ANSWER", "the link is not open");
    this.#delivery.enqueue(message);
    this.#pump(nowMs);
  }

  /** @throws {LinkRefused} when this board, or what is in its place, must not be talked to. */
  receive(chunk: Uint8Array, nowMs: number): void {
    for (const bytes of this.#framer.push(chunk)) {
      this.#framesIn += 1;
      const frame = bytes && parseBoardFrame(bytes);
      const packet = frame && this.#session.receive(frame, nowMs);
      this.#takeEvents();
      if (packet) {
        this.#heardAtMs = nowMs;
        const message = this.#delivery.receive(packet, nowMs);
        if (message) this.#events.push({ type: "message", message });
      } else if (!frame || frame.type === "sealed" || frame.type === "clear") {
        if (!frame) this.#badFrames += 1;
        if (this.isOpen) this.#delivery.damaged();
      }
    }
    this.#pump(nowMs);
  }

  /** When to call {@link tick} next, unless something comes before. */
  get wakeAtMs(): number {
    const keepAlive = Math.max(this.#heardAtMs, this.#askedAtMs) + (this.isOpen ? this.#keepAliveMs : PROBE_MS);
    const delivery = this.#session.ready ? this.#delivery.wakeAtMs : Infinity;
    return Math.min(this.#session.wakeAtMs, delivery, this.#session.ready ? keepAlive : Infinity);
  }

  /** @throws {LinkRefused} when the board has been silent for too long. */
  tick(nowMs: number): void {
    if (this.isOpen && nowMs - this.#heardAtMs > this.#keepAliveMs * SILENCE_FACTOR) {
      throw new LinkRefused("LINK_SILENT", "the board stopped answering");
    }
    this.#session.tick(nowMs);
    const everyMs = this.isOpen ? this.#keepAliveMs : PROBE_MS;
    if (this.#session.ready && nowMs - Math.max(this.#heardAtMs, this.#askedAtMs) >= everyMs) {
      this.#askedAtMs = nowMs;
      this.#delivery.ask();
    }
    this.#pump(nowMs);
  }

  /** 0 stops the board's messages (not its answers to keep-alive); more lets them flow again. */
  setCredit(packets: number, nowMs: number): void {
    this.#delivery.setCredit(packets);
    this.#pump(nowMs);
  }

  takeEvents(): LinkEvent[] {
    return this.#events.splice(0);
  }

  /** Bytes to write, in order. */
  takeOutput(): Uint8Array[] {
    const output = this.#output;
    this.#output = [];
    return output;
  }

  #takeEvents(): void {
    for (const event of this.#session.takeEvents()) {
      if (event.type === "keys") {
        this.#sessions += 1;
        const peer = { pieceBytes: pieceBytesOf(event.board), window: event.board.window };
        if (event.rebooted) this.#delivery.reset(peer);
        else this.#delivery.resume(peer);
        this.#delivery.ask(); // the third frame: the board takes the new keys when it opens
      }
      if (event.type === "knock" && this.#session.ready) this.#delivery.ask();
      this.#events.push(event);
    }
  }

  #pump(nowMs: number): void {
    if (this.#session.ready) this.#pumpPackets(nowMs);
    this.#takeEvents();
    for (const frame of this.#session.takeFrames()) this.#emit(frame, nowMs);
  }

  #pumpPackets(nowMs: number): void {
    try {
      for (let packet = this.#delivery.nextPacket(nowMs); packet; packet = this.#delivery.nextPacket(nowMs)) {
        const frame = this.#session.seal(packet, nowMs);
        if (frame) this.#emit(frame, nowMs);
      }
    } catch (error) {
      if (error instanceof DeliveryStuck) throw new LinkRefused("LINK_STUCK", error.message);
      throw error;
    }
  }

  #emit(frame: Uint8Array, nowMs: number): void {
    // A zero byte first, after a pause: it ends what noise has begun.
    if (nowMs - this.#sentAtMs > QUIET_MS) this.#output.push(new Uint8Array(1));
    this.#sentAtMs = nowMs;
    this.#output.push(toWire(frame));
  }
}
