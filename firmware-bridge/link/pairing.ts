import { equalSecrets } from "../../core/bytes.js";
import { FrameType, LINK_VERSION, type BoardFrame, withCrc } from "./frames.js";
import { agree, hash16, hash32, pairingDigits, publicKeyOf, type RandomBytes } from "./link-crypto.js";
import { PairingFailed } from "./link-errors.js";
import type { LinkRecord } from "./link-record.js";

const METHOD_DIGITS = 1;
const METHOD_KEY = 2;
const RETRY_MS = 1500;
const REFUSE_CLOSED = 5;

export interface PairingResult {
  readonly record: LinkRecord;
  /** What the board shows too; `undefined` when a provisioning key has proved the board. */
  readonly digits: string | undefined;
}

interface Reveal {
  readonly boardKey: Uint8Array;
  readonly commitment: Uint8Array;
  readonly nonce: Uint8Array;
}

/**
 * The host's side of pairing, pure: frames and time in, frames out. docs/reference/link.md, section 2.
 * The record must not be stored before the digits were compared.
 */
export class HostPairing {
  readonly #secret: Uint8Array;
  readonly #hostKey: Uint8Array;
  readonly #method: Uint8Array;
  readonly #provisioningKey: Uint8Array;
  readonly #random: RandomBytes;
  #frame: Uint8Array;
  #sentAtMs = -Infinity;
  #reveal: Reveal | undefined;
  /** The board has said that it is not open for pairing, or not by this method. */
  refusedAsClosed = false;

  constructor({
    provisioningKey,
    random,
  }: {
    readonly provisioningKey?: Uint8Array | undefined;
    readonly random: RandomBytes;
  }) {
    this.#random = random;
    this.#secret = random(32);
    this.#hostKey = publicKeyOf(this.#secret);
    const method = provisioningKey ? METHOD_KEY : METHOD_DIGITS;
    this.#method = Uint8Array.of(method);
    this.#provisioningKey = provisioningKey ?? new Uint8Array(32);
    this.#frame = Buffer.concat([Uint8Array.of(FrameType.pair1, LINK_VERSION, method), this.#hostKey]);
  }

  get wakeAtMs(): number {
    return this.#sentAtMs + RETRY_MS;
  }

  /** The frame to send now, if it is time: the first, or a repeat. */
  tick(nowMs: number): Uint8Array | undefined {
    if (nowMs < this.wakeAtMs) return undefined;
    this.#sentAtMs = nowMs;
    return withCrc(this.#frame);
  }

  /** Gives the result when the board's last frame came. @throws {PairingFailed} with what was wrong. */
  receive(frame: BoardFrame): PairingResult | undefined {
    if (frame.type === "refuse") {
      // Perhaps its button is pressed in a moment.
      if (frame.reason === REFUSE_CLOSED && !this.#reveal) this.refusedAsClosed = true;
      else throw refusal(frame.reason);
    }
    if (frame.type === "pair2" && !this.#reveal) this.#committed(frame.boardKey, frame.commitment);
    if (frame.type === "pair4" && this.#reveal) return this.#revealed(this.#reveal, frame.nonce, frame.tag);
    return undefined;
  }

  /** Only now, after the board has committed itself, our nonce goes out. */
  #committed(boardKey: Uint8Array, commitment: Uint8Array): void {
    const nonce = this.#random(16);
    this.#reveal = { boardKey: boardKey.slice(), commitment: commitment.slice(), nonce };
    const tag = hash16("atedge1 pair-h", ...this.#common(boardKey), commitment, nonce);
    this.#frame = Buffer.concat([Uint8Array.of(FrameType.pair3), nonce, tag]);
    this.#sentAtMs = -Infinity;
  }

  #revealed({ boardKey, commitment, nonce }: Reveal, boardNonce: Uint8Array, tag: Uint8Array): PairingResult {
    const promised = hash32("atedge1 commit", ...this.#common(boardKey), boardNonce);
    if (!equalSecrets(promised, commitment)) {
      throw new PairingFailed("the board did not keep its commitment: somebody is on the wire, or a frame was changed");
    }
    if (!equalSecrets(hash16("atedge1 pair-b", ...this.#common(boardKey), nonce, boardNonce), tag)) {
      throw new PairingFailed("the board has another provisioning key, or somebody is on the wire");
    }
    const shared = agree(this.#secret, boardKey);
    const staticKey = hash32("atedge1 static", shared, this.#hostKey, boardKey, nonce, boardNonce);
    const digits =
      this.#method[0] === METHOD_DIGITS ? pairingDigits(this.#hostKey, boardKey, nonce, boardNonce) : undefined;
    return { record: { hostSecret: this.#secret, boardKey, staticKey }, digits };
  }

  #common(boardKey: Uint8Array): readonly Uint8Array[] {
    return [this.#provisioningKey, this.#method, this.#hostKey, boardKey];
  }
}

function refusal(reason: number): PairingFailed {
  if (reason === 6) return new PairingFailed("the board refused: another provisioning key, or somebody is on the wire");
  if (reason === 3) return new PairingFailed("the board speaks another version of the link");
  return new PairingFailed(`the board refused with reason ${reason}`);
}
