/**
 * Consistent Overhead Byte Stuffing (Cheshire and Baker, 1997): the result has no zero byte, and is at most one byte in
 * 254 longer, plus one.
 */
export function cobsEncode(bytes: Uint8Array): Uint8Array {
  const out = new Uint8Array(encodedLimit(bytes.length));
  let codeAt = 0;
  let to = 1;
  for (const [index, byte] of bytes.entries()) {
    if (byte !== 0) out[to++] = byte;
    // A full run ends without a zero of its own, unless nothing follows it.
    const full = to - codeAt === 0xff && index + 1 < bytes.length;
    if (byte !== 0 && !full) continue;
    out[codeAt] = to - codeAt;
    codeAt = to++;
  }
  out[codeAt] = to - codeAt;
  return out.subarray(0, to);
}

/** The bytes, or `undefined` when they are not COBS. */
export function cobsDecode(encoded: Uint8Array): Uint8Array | undefined {
  const out = new Uint8Array(encoded.length);
  let to = 0;
  for (let at = 0; at < encoded.length;) {
    const code = encoded[at] ?? 0;
    const end = at + code;
    if (code === 0 || end > encoded.length) return undefined;
    for (at += 1; at < end; at += 1) {
      const byte = encoded[at] ?? 0;
      if (byte === 0) return undefined;
      out[to++] = byte;
    }
    if (code < 0xff && at < encoded.length) out[to++] = 0;
  }
  return out.subarray(0, to);
}

const encodedLimit = (length: number): number => length + Math.ceil(length / 254) + 1;

/** What is dropped, and how often. */
export interface CobsCounters {
  tooLong: number;
  badCobs: number;
}

/**
 * Cuts a byte stream into COBS frames at zero bytes. Holds one frame of at most `maxBytes` decoded bytes, and after
 * garbage begins afresh at the next zero byte. Empty frames are skipped.
 */
export class CobsFramer {
  readonly #held: Uint8Array;
  #heldBytes = 0;
  #skipping = false;
  readonly counters: CobsCounters = { tooLong: 0, badCobs: 0 };
  readonly #maxBytes: number;

  constructor({ maxBytes }: { readonly maxBytes: number }) {
    this.#maxBytes = maxBytes;
    this.#held = new Uint8Array(encodedLimit(maxBytes));
  }

  /** The frames that end in this chunk, `undefined` for each that was damaged. */
  push(chunk: Uint8Array): (Uint8Array | undefined)[] {
    const frames: (Uint8Array | undefined)[] = [];
    for (let at = 0; at < chunk.length;) {
      const zero = chunk.indexOf(0, at);
      this.#hold(chunk.subarray(at, zero === -1 ? chunk.length : zero));
      if (zero === -1) break;
      at = zero + 1;
      if (this.#skipping || this.#heldBytes > 0) frames.push(this.#end());
    }
    return frames;
  }

  #hold(part: Uint8Array): void {
    if (this.#skipping || part.length === 0) return;
    if (this.#heldBytes + part.length > this.#held.length) {
      this.#skipping = true;
      return;
    }
    this.#held.set(part, this.#heldBytes);
    this.#heldBytes += part.length;
  }

  #end(): Uint8Array | undefined {
    const skipped = this.#skipping;
    const frame = skipped ? undefined : cobsDecode(this.#held.subarray(0, this.#heldBytes));
    this.#heldBytes = 0;
    this.#skipping = false;
    if (skipped || (frame && frame.length > this.#maxBytes)) {
      this.counters.tooLong += 1;
      return undefined;
    }
    if (!frame) this.counters.badCobs += 1;
    return frame;
  }
}
