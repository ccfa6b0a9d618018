import { LimitExceeded } from "./errors.js";

export interface LineFramerOptions {
  readonly maxBytes: number;
  /** `throw` (default) at a line over the limit, or `drop` it up to its newline and count it. */
  readonly onLimit?: "throw" | "drop";
}

const LF = 0x0a;
const CR = 0x0d;
const MAX_PARTS = 64;

/**
 * Splits bytes at LF and takes off one CR before it. Holds at most `maxBytes`, looks at no byte twice, and does not
 * care where chunks were cut. Lines are bytes, decode them whole; they may be views of the chunk just pushed.
 */
export class LineFramer {
  readonly #maxBytes: number;
  readonly #onLimit: "throw" | "drop";
  #held: Buffer[] = [];
  #heldBytes = 0;
  #skipping = false;
  /** Lines dropped for being over the limit. */
  dropped = 0;

  constructor({ maxBytes, onLimit = "throw" }: LineFramerOptions) {
    this.#maxBytes = maxBytes;
    this.#onLimit = onLimit;
  }

  /** @throws {LimitExceeded} at a line over `maxBytes` (without its line end), unless told to drop it. */
  push(chunk: Uint8Array): Buffer[] {
    const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    const lines: Buffer[] = [];
    let from = 0;
    for (let at = bytes.indexOf(LF); at !== -1; at = bytes.indexOf(LF, from)) {
      // A line that is whole in the chunk needs no holding.
      if (this.#heldBytes === 0 && !this.#skipping && at - from <= this.#maxBytes) {
        lines.push(withoutCr(bytes.subarray(from, at)));
        from = at + 1;
        continue;
      }
      this.#hold(bytes.subarray(from, at));
      from = at + 1;
      const line = withoutCr(this.#held.length === 1 && this.#held[0] ? this.#held[0] : Buffer.concat(this.#held));
      const fits = !this.#skipping && line.length <= this.#maxBytes;
      if (!this.#skipping && !fits) this.#tooLong();
      this.reset();
      if (fits) lines.push(line);
    }
    // A copy: the rest must not keep the whole chunk alive, nor change with a reused buffer.
    if (from < bytes.length) this.#hold(Buffer.from(bytes.subarray(from)));
    return lines;
  }

  /** Forgets a line that has begun, as after a reconnect. */
  reset(): void {
    this.#held = [];
    this.#heldBytes = 0;
    this.#skipping = false;
  }

  #hold(part: Buffer): void {
    if (this.#skipping) return;
    this.#heldBytes += part.length;
    // One more for a CR that the newline may still turn into a line end.
    if (this.#heldBytes <= this.#maxBytes + 1) {
      // Few parts: a peer that sends byte by byte must not cost a Buffer a byte.
      if (this.#held.length === MAX_PARTS) this.#held = [Buffer.concat(this.#held)];
      this.#held.push(part);
      return;
    }
    this.#tooLong();
    this.#skipping = true;
  }

  #tooLong(): void {
    this.reset();
    if (this.#onLimit === "throw") throw new LimitExceeded(`a line is longer than ${this.#maxBytes} bytes`);
    this.dropped += 1;
  }
}

function withoutCr(line: Buffer): Buffer {
  return line.at(-1) === CR ? line.subarray(0, -1) : line;
}
