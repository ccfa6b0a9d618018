import { equalSecrets } from "../../core/bytes.js";
import { FrameType, FRAME_OVERHEAD_BYTES, helloBytes, type BoardFrame, type Hello, uint32, withCrc } from "./frames.js";
import {
  agree,
  hash32,
  openBox,
  publicKeyOf,
  type RandomBytes,
  ratchet,
  rootIdOf,
  sealBox,
  type SessionKeys,
  sessionOf,
  WeakKey,
} from "./link-crypto.js";
import { LinkRefused } from "./link-errors.js";
import type { LinkRecord, LinkRoot } from "./link-record.js";

export interface HostSessionOptions {
  /** Left out: the board is used in clear. */
  readonly record?: LinkRecord | undefined;
  readonly hello: Hello;
  readonly keepAliveMs: number;
  readonly random: RandomBytes;
  /** Milliseconds since 1970, for the age of a root. */
  readonly wallNowMs: number;
  readonly limits?: Partial<SessionLimits> | undefined;
}

export interface SessionLimits {
  /** From this counter on a new session is opened. */
  readonly rekeyAt: number;
  /** At this counter nothing more is sealed. */
  readonly stopAt: number;
  readonly sessionsPerRoot: number;
  readonly rootMaxAgeMs: number;
}

const LIMITS: SessionLimits = {
  rekeyAt: 2 ** 31,
  stopAt: 2 ** 32 - 16,
  sessionsPerRoot: 1000,
  rootMaxAgeMs: 24 * 3_600_000,
};

/** Steps that we go forward to meet a board whose store is newer than ours. */
const MAX_STEPS = 4096;
/** A board may need a second and more for its two key agreements. */
const RENEW_RETRY_MS = 3000;
const RETRY_MS = 400;
/** Wrong tags before we believe them: one may answer a frame of ours from before. */
const MAX_WRONG_TAGS = 2;
const CONFIRM_WITHIN_MS = 2500;
/** A KNOCK is not authentic. A board that has the session proves it within this time; else it has restarted. */
const KNOCK_PROOF_MS = 150;

export type SessionEvent =
  /** Store this before anything more is sent. */
  | { readonly type: "store"; readonly record: LinkRecord }
  /** `renewed` keys; `rebooted` when the board, or we, started anew since the session before. */
  | { readonly type: "keys"; readonly board: Hello; readonly rebooted: boolean; readonly kind: Attempt["kind"] }
  /** The board has the session too: its first packet came. */
  | { readonly type: "open" }
  | { readonly type: "knock"; readonly boot: number; readonly reason: number };

interface Attempt {
  readonly kind: "resume" | "renew" | "clear";
  /** Type and fields, without CRC. */
  readonly frame: Uint8Array;
  readonly nonce: Uint8Array;
  readonly ephemeral?: Uint8Array;
  sentAtMs: number;
  wrongTags: number;
}

interface Keys {
  readonly keys: SessionKeys | undefined;
  sent: number;
  received: number;
  confirmed: boolean;
  sinceMs: number;
}

/**
 * The host's side of sessions: opens them, seals and opens packets, and meets a board that restarted. Pure: frames and
 * time come in, frames and events are taken out. docs/reference/link.md, section 2.
 */
export class HostSession {
  readonly #options: HostSessionOptions;
  readonly #limits: SessionLimits;
  #record: LinkRecord | undefined;
  #attempt: Attempt | undefined;
  #keys: Keys | undefined;
  #board: Hello | undefined;
  /** When a KNOCK came that an answer of the session would disprove. */
  #doubtedAtMs: number | undefined;
  readonly #frames: Uint8Array[] = [];
  readonly #events: SessionEvent[] = [];
  /** Frames that did not open or were not in order: damage, replays. */
  refusedFrames = 0;

  constructor(options: HostSessionOptions) {
    this.#options = options;
    this.#limits = { ...LIMITS, ...options.limits };
    this.#record = options.record;
  }

  /** Packets can be sealed. */
  get ready(): boolean {
    return this.#keys !== undefined;
  }

  /** The board has answered under these keys. */
  get isOpen(): boolean {
    return this.#keys?.confirmed ?? false;
  }

  /** Frames to send (without COBS) and what happened, in order; each is handed out once. */
  takeFrames(): Uint8Array[] {
    return this.#frames.splice(0);
  }

  takeEvents(): SessionEvent[] {
    return this.#events.splice(0);
  }

  start(nowMs: number): void {
    this.#begin(this.#kind(), nowMs);
  }

  #kind(): Attempt["kind"] {
    if (!this.#record) return "clear";
    const { root } = this.#record;
    const { sessionsPerRoot, rootMaxAgeMs } = this.#limits;
    const fresh =
      root && root.index < sessionsPerRoot && Math.abs(this.#options.wallNowMs - root.sinceMs) < rootMaxAgeMs;
    return fresh ? "resume" : "renew";
  }

  #begin(kind: Attempt["kind"], nowMs: number): void {
    const { hello, keepAliveMs, random } = this.#options;
    const greeting = helloBytes(hello, keepAliveMs);
    const nonce = random(16);
    const root = this.#record?.root;
    let frame: Uint8Array;
    let ephemeral: Uint8Array | undefined;
    if (kind === "resume" && root) {
      frame = Buffer.concat([Uint8Array.of(FrameType.resume), greeting, root.id, uint32(root.index), nonce]);
    } else if (kind === "renew") {
      ephemeral = random(32);
      frame = Buffer.concat([Uint8Array.of(FrameType.renew), greeting, nonce, publicKeyOf(ephemeral)]);
    } else {
      frame = Buffer.concat([Uint8Array.of(FrameType.openClear), greeting, nonce]);
    }
    this.#attempt = { kind, frame, nonce, ...(ephemeral ? { ephemeral } : {}), sentAtMs: nowMs, wrongTags: 0 };
    this.#frames.push(withCrc(frame));
  }

  #again(attempt: Attempt, nowMs: number): void {
    attempt.sentAtMs = nowMs;
    this.#frames.push(withCrc(attempt.frame));
  }

  get wakeAtMs(): number {
    const attempt = this.#attempt;
    const retryMs = attempt ? attempt.sentAtMs + (attempt.kind === "renew" ? RENEW_RETRY_MS : RETRY_MS) : Infinity;
    const confirmMs = this.#keys && !this.#keys.confirmed ? this.#keys.sinceMs + CONFIRM_WITHIN_MS : Infinity;
    const doubtMs = this.#doubtedAtMs === undefined ? Infinity : this.#doubtedAtMs + KNOCK_PROOF_MS;
    return Math.min(retryMs, confirmMs, doubtMs);
  }

  tick(nowMs: number): void {
    if (nowMs < this.wakeAtMs) return;
    if (this.#doubtedAtMs !== undefined && nowMs >= this.#doubtedAtMs + KNOCK_PROOF_MS) {
      this.#doubtedAtMs = undefined;
      this.start(nowMs);
      return;
    }
    if (this.#attempt) this.#again(this.#attempt, nowMs);
    else this.start(nowMs); // our frames under the new keys never arrived, or the answers did not
    if (this.#keys && !this.#keys.confirmed) this.#keys.sinceMs = nowMs;
  }

  /** Seals a packet; `undefined` before there is a session, and when its counters are used up. */
  seal(packet: Uint8Array, nowMs: number): Uint8Array | undefined {
    const keys = this.#keys;
    if (!keys) return undefined;
    if (!keys.keys) return withCrc(Buffer.concat([Uint8Array.of(FrameType.clear), packet]));
    if (keys.sent >= this.#limits.rekeyAt && !this.#attempt) this.start(nowMs);
    if (keys.sent >= this.#limits.stopAt) return undefined;
    keys.sent += 1;
    const box = sealBox(packet, keys.sent, keys.keys.hostToBoard);
    return Buffer.concat([Uint8Array.of(FrameType.sealed), uint32(keys.sent), box]);
  }

  /**
   * Takes a frame; gives the packet in it.
   *
   * @throws {LinkRefused} when the board refuses us, or has another key than the pinned one.
   */
  receive(frame: BoardFrame, nowMs: number): Uint8Array | undefined {
    switch (frame.type) {
      case "sealed":
        return this.#opened(this.#open(frame.counter, frame.box, nowMs));
      case "clear":
        return this.#opened(this.#keys && !this.#keys.keys ? frame.packet : undefined);
      case "knock":
        this.#knocked(frame.boot, frame.reason, nowMs);
        return undefined;
      case "refuse":
        this.#refused(frame.reason, nowMs);
        return undefined;
      case "resumed":
      case "renewed":
        this.#answered(frame, nowMs);
        return undefined;
      case "openedClear":
        if (this.#attempt?.kind === "clear" && equalSecrets(frame.nonce, this.#attempt.nonce)) {
          this.#take(undefined, frame.hello, "clear", nowMs);
        }
        return undefined;
      case "pair2":
      case "pair4":
        return undefined;
    }
  }

  #open(counter: number, box: Uint8Array, nowMs: number): Uint8Array | undefined {
    const keys = this.#keys;
    if (!keys?.keys || counter <= keys.received) return undefined;
    const packet = openBox(box, counter, keys.keys.boardToHost);
    if (!packet) return undefined;
    keys.received = counter;
    this.#doubtedAtMs = undefined;
    if (counter >= this.#limits.rekeyAt && !this.#attempt) this.start(nowMs);
    return packet;
  }

  #opened(packet: Uint8Array | undefined): Uint8Array | undefined {
    const keys = this.#keys;
    if (!packet || !keys) {
      this.refusedFrames += 1;
      return undefined;
    }
    if (!keys.confirmed) this.#events.push({ type: "open" });
    keys.confirmed = true;
    return packet;
  }

  #knocked(boot: number, reason: number, nowMs: number): void {
    this.#events.push({ type: "knock", boot, reason });
    if (!this.#attempt) {
      if (this.#keys?.keys) this.#doubtedAtMs ??= nowMs;
      else this.start(nowMs);
    } else if (this.#attempt.kind !== "renew" && nowMs - this.#attempt.sentAtMs > 50) this.#again(this.#attempt, nowMs);
  }

  #refused(reason: number, nowMs: number): void {
    const attempt = this.#attempt;
    if (!attempt) return;
    if (reason === 2 && attempt.kind === "resume") this.#begin("renew", nowMs);
    else if (reason === 1)
      throw new LinkRefused("LINK_NOT_PAIRED", "the board is not paired with us; run `atedge link pair`");
    else if (reason === 3) throw new LinkRefused("LINK_VERSION", "the board speaks another version of the link");
    else if (reason === 4) throw new LinkRefused("LINK_CLEAR_REFUSED", "the board does not talk in clear");
  }

  #answered(frame: Extract<BoardFrame, { type: "resumed" | "renewed" }>, nowMs: number): void {
    const attempt = this.#attempt;
    const record = this.#record;
    if (!attempt || !record || frame.type !== (attempt.kind === "resume" ? "resumed" : "renewed")) return;
    const script = hash32("atedge1 script", attempt.frame, frame.signed);
    const root =
      frame.type === "renewed" ? this.#newRoot(attempt, record, frame.ephemeral, script) : this.#rootAt(frame.index);
    const session = root && sessionOf(root.key, script);
    if (!root || !session || !equalSecrets(session.tag, frame.tag)) {
      this.#wrongTag(attempt, nowMs);
      return;
    }
    this.#record = { ...record, root: { ...root, key: ratchet(root.key), index: root.index + 1 } };
    this.#events.push({ type: "store", record: this.#record });
    this.#take(session.keys, frame.hello, attempt.kind, nowMs);
  }

  #newRoot(attempt: Attempt, record: LinkRecord, boardEphemeral: Uint8Array, script: Uint8Array): LinkRoot | undefined {
    if (!attempt.ephemeral) return undefined;
    try {
      const key = hash32("atedge1 root", record.staticKey, agree(attempt.ephemeral, boardEphemeral), script);
      return { key, id: rootIdOf(key), index: 0, sinceMs: this.#options.wallNowMs };
    } catch (error) {
      if (error instanceof WeakKey) return undefined;
      throw error;
    }
  }

  #rootAt(index: number): LinkRoot | undefined {
    const root = this.#record?.root;
    if (!root || index < root.index || index - root.index > MAX_STEPS) return undefined;
    let { key } = root;
    for (let step = root.index; step < index; step += 1) key = ratchet(key);
    return { ...root, key, index };
  }

  #wrongTag(attempt: Attempt, nowMs: number): void {
    attempt.wrongTags += 1;
    if (attempt.wrongTags < MAX_WRONG_TAGS) this.#again(attempt, nowMs);
    else if (attempt.kind === "resume") this.#begin("renew", nowMs);
    else {
      throw new LinkRefused(
        "LINK_WRONG_KEY",
        "the board does not have the pinned key: another board, a re-flashed one, or somebody on the wire",
      );
    }
  }

  #take(keys: SessionKeys | undefined, board: Hello, kind: Attempt["kind"], nowMs: number): void {
    const rebooted = this.#board?.boot !== board.boot;
    this.#attempt = undefined;
    this.#doubtedAtMs = undefined;
    this.#board = board;
    this.#keys = { keys, sent: 0, received: 0, confirmed: false, sinceMs: nowMs };
    this.#events.push({ type: "keys", board, rebooted, kind });
  }
}

/** Bytes of a message that fit one packet to this board. */
export const pieceBytesOf = (board: Hello): number => board.frameBytes - FRAME_OVERHEAD_BYTES;
