import { checksumLength, checksumOf, type ChecksumKind } from "../checksum.js";
import type { FrameCodec } from "./frame-codec.js";
import { HeldBytes } from "./held-bytes.js";

export interface CountedFramesOptions {
  /** What every frame begins with; may be empty. */
  readonly start: Uint8Array;
  /** A length of its own before the payload, or the length that every payload has. */
  readonly length: { readonly bytes: 1 | 2; readonly order: "big" | "little" } | number;
  readonly checksum: ChecksumKind;
  readonly maxBytes: number;
}

/**
 * Frames of a known or a given length: start, length, payload, checksum over length and payload. What is no frame is
 * not trusted in its length either: the search goes on one byte after its start.
 */
export class CountedFrames implements FrameCodec {
  readonly #options: CountedFramesOptions;
  readonly #start: Buffer;
  readonly #held = new HeldBytes();
  #inGarbage = false;
  dropped = 0;

  constructor(options: CountedFramesOptions) {
    this.#options = options;
    this.#start = Buffer.from(options.start);
  }

  push(chunk: Uint8Array): Uint8Array[] {
    this.#held.append(chunk);
    const bytes = this.#held.view();
    const frames: Uint8Array[] = [];
    let at = 0;
    for (;;) {
      at = this.#nextStart(bytes, at);
      const found = this.#frameAt(bytes, at);
      if (found === "incomplete") break;
      if (found === "none") {
        this.#garbage();
        at += 1;
        continue;
      }
      this.#inGarbage = false;
      frames.push(found.payload);
      at = found.end;
    }
    this.#held.discard(at);
    return frames;
  }

  encode(frame: Uint8Array): Uint8Array {
    const { length, maxBytes, checksum } = this.#options;
    const fits = typeof length === "number" ? frame.length === length : frame.length <= maxBytes;
    if (!fits)
      throw new RangeError(
        typeof length === "number" ? `a frame has ${length} bytes` : `a frame has at most ${maxBytes} bytes`,
      );
    const counted = Buffer.concat([this.#lengthBytes(frame.length), frame]);
    return Buffer.concat([this.#start, counted, checksumOf(checksum, counted)]);
  }

  /** A run of garbage counts once. */
  #garbage(): void {
    if (!this.#inGarbage) this.dropped += 1;
    this.#inGarbage = true;
  }

  #nextStart(bytes: Buffer, from: number): number {
    if (this.#start.length === 0) return from;
    const at = bytes.indexOf(this.#start, from);
    // Without one, the end may still be the beginning of one.
    const next = at === -1 ? Math.max(from, bytes.length - this.#start.length + 1) : at;
    if (next > from) this.#garbage();
    return next;
  }

  #frameAt(bytes: Buffer, at: number): { readonly payload: Uint8Array; readonly end: number } | "incomplete" | "none" {
    const { length, maxBytes, checksum } = this.#options;
    const lengthAt = at + this.#start.length;
    const payloadAt = lengthAt + (typeof length === "number" ? 0 : length.bytes);
    if (payloadAt > bytes.length) return "incomplete";
    const payloadLength = typeof length === "number" ? length : readLength(bytes, lengthAt, length);
    if (payloadLength > maxBytes) return "none";
    const payloadEnd = payloadAt + payloadLength;
    const end = payloadEnd + checksumLength(checksum);
    if (end > bytes.length) return "incomplete";
    const expected = checksumOf(checksum, bytes.subarray(lengthAt, payloadEnd));
    if (!expected.equals(bytes.subarray(payloadEnd, end))) return "none";
    return { payload: Buffer.from(bytes.subarray(payloadAt, payloadEnd)), end };
  }

  #lengthBytes(value: number): Buffer {
    const { length } = this.#options;
    if (typeof length === "number") return Buffer.alloc(0);
    const bytes = Buffer.alloc(length.bytes);
    if (length.order === "big") bytes.writeUIntBE(value, 0, length.bytes);
    else bytes.writeUIntLE(value, 0, length.bytes);
    return bytes;
  }
}

function readLength(
  bytes: Buffer,
  at: number,
  length: { readonly bytes: 1 | 2; readonly order: "big" | "little" },
): number {
  return length.order === "big" ? bytes.readUIntBE(at, length.bytes) : bytes.readUIntLE(at, length.bytes);
}
