import { LimitExceeded, SyntaxInvalid } from "../../core/errors.js";

/** One MQTT control packet. The buffers may be views of the chunk just pushed. */
export interface MqttFrame {
  /** Control packet type and flags, MQTT 3.1.1 and 5, section 2.1. */
  readonly header: number;
  /** The fixed header as it came: first byte and remaining length. */
  readonly fixed: Buffer;
  readonly body: Buffer;
  /** Bytes of the body that were over the limit and are not in it. */
  readonly omittedBytes: number;
}

const PUBLISH = 3;
/** The remaining length has at most four bytes (section 2.2.3 in 3.1.1, 1.5.5 in 5). */
const MAX_LENGTH_BYTES = 4;

/**
 * Cuts a byte stream into MQTT control packets. Holds at most `maxBytes` of a body: of a longer PUBLISH the beginning
 * is given and the rest skipped, so that it can still be acknowledged. Looks at no byte twice.
 */
export class PacketFramer {
  readonly #maxBytes: number;
  readonly #fixed: number[] = [];
  #parts: Buffer[] = [];
  #keepBytes = 0;
  #skipBytes = 0;
  #omittedBytes = 0;

  constructor({ maxBytes }: { readonly maxBytes: number }) {
    this.#maxBytes = maxBytes;
  }

  /** @throws {SyntaxInvalid} on a false remaining length; {LimitExceeded} on a long packet that is no PUBLISH. */
  push(chunk: Buffer): MqttFrame[] {
    const frames: MqttFrame[] = [];
    let at = 0;
    while (at < chunk.length) {
      if (!this.#inBody()) {
        at = this.#readFixed(chunk, at);
        if (!this.#inBody()) break;
      }
      const kept = chunk.subarray(at, at + this.#keepBytes);
      at += kept.length;
      this.#keepBytes -= kept.length;
      const skipped = Math.min(this.#skipBytes, chunk.length - at);
      at += skipped;
      this.#skipBytes -= skipped;
      if (this.#keepBytes === 0 && this.#skipBytes === 0) frames.push(this.#complete(kept));
      // A copy: the beginning of a packet must not keep the whole chunk alive, nor change with a reused buffer.
      else if (kept.length > 0) this.#parts.push(Buffer.from(kept));
    }
    return frames;
  }

  #inBody(): boolean {
    const last = this.#fixed.at(-1);
    return this.#fixed.length > 1 && last !== undefined && last < 0x80;
  }

  /** Takes bytes of the fixed header and gives the place after them. */
  #readFixed(chunk: Buffer, from: number): number {
    let at = from;
    for (let byte = chunk[at]; byte !== undefined && !this.#inBody(); byte = chunk[++at]) {
      this.#fixed.push(byte);
      if (this.#fixed.length > MAX_LENGTH_BYTES && byte >= 0x80) throw new SyntaxInvalid("MQTT: false packet length");
    }
    if (this.#inBody()) this.#begin();
    return at;
  }

  #begin(): void {
    const [header = 0, ...lengthBytes] = this.#fixed;
    const length = lengthBytes.reduce((sum, byte, place) => sum + (byte & 0x7f) * 128 ** place, 0);
    this.#keepBytes = Math.min(length, this.#maxBytes);
    this.#skipBytes = this.#omittedBytes = length - this.#keepBytes;
    if (this.#omittedBytes > 0 && header >> 4 !== PUBLISH) {
      throw new LimitExceeded(`MQTT: a packet has ${length} bytes, over the limit of ${this.#maxBytes}`);
    }
  }

  #complete(last: Buffer): MqttFrame {
    const body = this.#parts.length === 0 ? last : Buffer.concat([...this.#parts, last]);
    const fixed = Buffer.from(this.#fixed);
    this.#parts = [];
    this.#fixed.length = 0;
    return { header: fixed[0] ?? 0, fixed, body, omittedBytes: this.#omittedBytes };
  }
}
