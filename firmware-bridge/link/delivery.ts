import { EdgeError, LimitExceeded } from "../../core/errors.js";

/** What the peer takes: bytes of a message in one packet, and packets under way. */
export interface PeerLimits {
  readonly pieceBytes: number;
  readonly window: number;
}

export interface DeliveryOptions {
  /** Packets with data that we hold at once. */
  readonly window: number;
  readonly maxMessageBytes: number;
  /** Bytes of messages that may wait to be sent or acknowledged; one more is refused. */
  readonly maxQueuedBytes: number;
  /** First wait before a packet without acknowledgement is sent again. */
  readonly retransmitMs: number;
}

export interface DeliveryCounters {
  sent: number;
  resent: number;
  received: number;
  repeated: number;
  naks: number;
  /** Packets or pieces that break the rules. */
  invalid: number;
}

/** The peer acknowledged nothing for a dozen tries. */
export class DeliveryStuck extends EdgeError {
  override readonly code: string = "LINK_STUCK";
}

const ASK = 0x80;
const DATA = 0x40;
const FIRST = 0x20;
const LAST = 0x10;
const NAK = FIRST;
const CREDIT = 0x0f;
/** A packet without data waits so long, or for half a window: a board's receive buffer has room for two of them. */
const TELL_AFTER_MS = 20;
const MAX_RETRANSMIT_MS = 1000;
const MAX_TRIES = 12;

interface Piece {
  readonly flags: number;
  readonly bytes: Uint8Array;
}

/**
 * Delivery in order over frames that get lost: numbered packets, cumulative acknowledgement, go-back-n, credit.
 * docs/reference/link.md, section 3. Pure: time is handed in, packets are handed out.
 */
export class Delivery {
  readonly counters: DeliveryCounters = { sent: 0, resent: 0, received: 0, repeated: 0, naks: 0, invalid: 0 };
  readonly #options: DeliveryOptions;
  #peer: PeerLimits = { pieceBytes: 1, window: 1 };

  /** Not yet acknowledged: under way first, then those that wait. Number of the first is `#base`. */
  #pieces: Piece[] = [];
  #queuedBytes = 0;
  #base = 0;
  #underWay = 0;
  /** How many of the pieces were sent at least once. */
  #everSent = 0;
  #credit = 1;
  #resendAtMs = Infinity;
  #waitMs: number;
  #tries = 0;

  #expected = 0;
  #parts: Uint8Array[] | undefined;
  #partBytes = 0;
  /** Packets with data since we last told what we have, and when that must be told at the latest. */
  #untold = 0;
  #tellAtMs = Infinity;
  #answerDue = false;
  #nakDue = false;
  /** A NAK for `#expected` is out; the next waits for progress. */
  #nakSent = false;
  #askDue = false;
  #ownCredit: number;
  #refusedForCredit = false;

  constructor(options: DeliveryOptions) {
    this.#options = options;
    this.#waitMs = options.retransmitMs;
    this.#ownCredit = options.window;
  }

  /** Both sides start anew: what was queued or half received is gone. */
  reset(peer: PeerLimits): void {
    this.#pieces = [];
    this.#queuedBytes = 0;
    this.#base = 0;
    this.#everSent = 0;
    this.#expected = 0;
    this.#parts = undefined;
    this.#partBytes = 0;
    this.resume(peer);
  }

  /** New keys, same peers: all that is not acknowledged goes again. */
  resume(peer: PeerLimits): void {
    this.#peer = peer;
    this.#underWay = 0;
    this.#credit = peer.window;
    this.#resendAtMs = Infinity;
    this.#waitMs = this.#options.retransmitMs;
    this.#tries = 0;
    this.#nakSent = this.#nakDue = false;
  }

  /** Bytes of messages not yet acknowledged by the peer. */
  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  /** @throws {LimitExceeded} when too much waits, or the message is empty or too long. */
  enqueue(message: Uint8Array): void {
    if (message.length === 0 || message.length > this.#options.maxMessageBytes) {
      throw new LimitExceeded(`a message has 1 to ${this.#options.maxMessageBytes} bytes, not ${message.length}`);
    }
    if (this.#queuedBytes + message.length > this.#options.maxQueuedBytes) {
      throw new LimitExceeded(`${this.#queuedBytes} bytes wait for the board already`);
    }
    this.#queuedBytes += message.length;
    for (let at = 0; at < message.length; at += this.#peer.pieceBytes) {
      const bytes = message.subarray(at, at + this.#peer.pieceBytes);
      const first = at === 0 ? FIRST : 0;
      const last = at + bytes.length === message.length ? LAST : 0;
      this.#pieces.push({ flags: DATA | first | last, bytes });
    }
  }

  /** How many packets with data we take now, at most our window. 0 stops the peer. */
  setCredit(packets: number): void {
    const credit = Math.min(packets, this.#options.window);
    if (this.#ownCredit === 0 && credit > 0) {
      this.#answerDue = true;
      if (this.#refusedForCredit) this.#nakDue = true;
      this.#refusedForCredit = false;
    }
    this.#ownCredit = credit;
  }

  /** Asks the peer for a sign of life with the next packet. */
  ask(): void {
    this.#askDue = true;
  }

  /** A frame came that was damaged on the way: perhaps the one expected. */
  damaged(): void {
    if (!this.#nakSent) this.#nakDue = true;
  }

  /** Takes a packet; gives the message that it completes. */
  receive(packet: Uint8Array, nowMs: number): Uint8Array | undefined {
    const [flags, ack, sequence] = packet;
    const hasData = flags !== undefined && (flags & DATA) !== 0;
    if (flags === undefined || ack === undefined || (hasData ? packet.length < 4 : packet.length !== 2)) {
      this.counters.invalid += 1;
      return undefined;
    }
    if (flags & ASK) this.#answerDue = true;
    this.#acknowledged(ack, flags & CREDIT, !hasData && (flags & NAK) !== 0, nowMs);
    if (sequence !== undefined) return this.#data(flags, sequence, packet.subarray(3), nowMs);
    this.#nakSent = false; // the answer of a peer that has nothing to send again
    return undefined;
  }

  #acknowledged(ack: number, credit: number, nak: boolean, nowMs: number): void {
    const count = (ack - this.#base) & 0xff;
    if (count > this.#everSent) {
      this.counters.invalid += 1;
      return;
    }
    this.#credit = Math.min(credit, this.#peer.window);
    if (count > 0) {
      for (const piece of this.#pieces.splice(0, count)) this.#queuedBytes -= piece.bytes.length;
      this.#base = ack;
      this.#everSent -= count;
      this.#underWay = Math.max(0, this.#underWay - count);
      this.#waitMs = this.#options.retransmitMs;
      this.#tries = 0;
      this.#resendAtMs = this.#underWay > 0 ? nowMs + this.#waitMs : Infinity;
    }
    if (nak) this.#underWay = 0;
  }

  #data(flags: number, sequence: number, bytes: Uint8Array, nowMs: number): Uint8Array | undefined {
    const ahead = (sequence - this.#expected) & 0xff;
    if (ahead !== 0) {
      this.#answerDue = true;
      if (ahead >= 0x80) this.counters.repeated += 1;
      else this.damaged();
      return undefined;
    }
    if (this.#ownCredit === 0) {
      this.#answerDue = this.#refusedForCredit = true;
      return undefined;
    }
    this.#untold += 1;
    this.#tellAtMs = Math.min(this.#tellAtMs, nowMs + TELL_AFTER_MS);
    this.#expected = (this.#expected + 1) & 0xff;
    this.#nakSent = this.#nakDue = false;
    this.counters.received += 1;
    return this.#assemble(flags, bytes);
  }

  #assemble(flags: number, bytes: Uint8Array): Uint8Array | undefined {
    if (flags & FIRST) {
      if (this.#parts) this.counters.invalid += 1;
      this.#parts = [];
      this.#partBytes = 0;
    }
    if (!this.#parts) {
      this.counters.invalid += 1;
      return undefined;
    }
    this.#partBytes += bytes.length;
    if (this.#partBytes > this.#options.maxMessageBytes) {
      this.counters.invalid += 1;
      this.#parts = undefined;
      return undefined;
    }
    this.#parts.push(bytes);
    if (!(flags & LAST)) return undefined;
    const message = this.#parts.length === 1 ? bytes.slice() : Buffer.concat(this.#parts);
    this.#parts = undefined;
    return message;
  }

  /** When {@link nextPacket} must be asked again even if nothing comes. */
  get wakeAtMs(): number {
    return Math.min(this.#resendAtMs, this.#tellAtMs);
  }

  /**
   * The next packet to send now, or `undefined`.
   *
   * @throws {DeliveryStuck} after a dozen tries without progress.
   */
  nextPacket(nowMs: number): Uint8Array | undefined {
    if (nowMs >= this.#resendAtMs) this.#retry(nowMs);
    if (this.#nakDue) {
      this.#nakDue = false;
      this.#nakSent = true;
      this.counters.naks += 1;
      return this.#packet(NAK | ASK);
    }
    const limit = Math.min(this.#peer.window, this.#credit);
    const piece = this.#underWay < limit ? this.#pieces[this.#underWay] : undefined;
    if (piece) return this.#dataPacket(piece, nowMs);
    const tell = this.#untold * 2 >= this.#options.window || nowMs >= this.#tellAtMs;
    return tell || this.#answerDue || this.#askDue ? this.#packet(0) : undefined;
  }

  #retry(nowMs: number): void {
    if (this.#credit > 0) {
      this.#tries += 1;
      if (this.#tries > MAX_TRIES) throw new DeliveryStuck(`the board acknowledged nothing in ${MAX_TRIES} tries`);
      this.#underWay = 0;
    } else this.#askDue = true; // the packet that gave new credit may be lost
    this.#waitMs = Math.min(this.#waitMs * 2, MAX_RETRANSMIT_MS);
    this.#resendAtMs = nowMs + this.#waitMs;
  }

  #dataPacket(piece: Piece, nowMs: number): Uint8Array {
    const sequence = (this.#base + this.#underWay) & 0xff;
    const again = this.#underWay < this.#everSent;
    this.counters[again ? "resent" : "sent"] += 1;
    this.#underWay += 1;
    this.#everSent = Math.max(this.#everSent, this.#underWay);
    if (this.#resendAtMs === Infinity) this.#resendAtMs = nowMs + this.#waitMs;
    return this.#packet(piece.flags, sequence, piece.bytes);
  }

  #packet(flags: number, sequence?: number, bytes?: Uint8Array): Uint8Array {
    const ask = this.#askDue ? ASK : 0;
    this.#askDue = this.#answerDue = false;
    this.#untold = 0;
    this.#tellAtMs = Infinity;
    const head = [flags | ask | this.#ownCredit, this.#expected];
    return sequence === undefined
      ? Uint8Array.from(head)
      : Buffer.concat([Uint8Array.from([...head, sequence]), bytes ?? new Uint8Array()]);
  }
}
