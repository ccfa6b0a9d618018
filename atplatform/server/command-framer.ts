import { LimitExceeded } from "../../core/errors.js";

const LF = 0x0a;

/** Before authentication; the largest honest command then is `enroll:request`. */
export const UNAUTHENTICATED_MAX_BYTES = 64 * 1024;
/** What the reference accepts from everybody (spec 2.6). */
export const AUTHENTICATED_MAX_BYTES = 10_240_000;

/**
 * Cuts what a client sends into lines, at every newline, however the bytes were cut (spec 2.6, superset). Lines are
 * bytes without their newline; they may be views of the chunk just pushed. The limit may grow while a line is held.
 * Memory is at most twice the bytes held, also when they come one by one.
 */
export class CommandFramer {
  maxBytes = UNAUTHENTICATED_MAX_BYTES;
  #held = Buffer.alloc(0);
  #heldBytes = 0;

  /**
   * Adds the lines that `chunk` completes.
   *
   * @throws {LimitExceeded} on a line over `maxBytes`; `lines` then has what came before it, and nothing more may be
   * pushed.
   */
  push(chunk: Buffer, lines: Buffer[]): void {
    let from = 0;
    for (let at = chunk.indexOf(LF); at !== -1; at = chunk.indexOf(LF, from)) {
      lines.push(this.#complete(chunk.subarray(from, at)));
      from = at + 1;
    }
    if (from < chunk.length) this.#hold(chunk.subarray(from));
  }

  #complete(end: Buffer): Buffer {
    if (this.#heldBytes === 0) {
      this.#check(end.length);
      return end;
    }
    this.#hold(end);
    const line = this.#held.subarray(0, this.#heldBytes);
    this.#held = Buffer.alloc(0);
    this.#heldBytes = 0;
    return line;
  }

  #hold(part: Buffer): void {
    const bytes = this.#heldBytes + part.length;
    this.#check(bytes);
    if (bytes > this.#held.length) {
      const larger = Buffer.allocUnsafeSlow(Math.max(256, bytes, this.#held.length * 2));
      this.#held.copy(larger, 0, 0, this.#heldBytes);
      this.#held = larger;
    }
    part.copy(this.#held, this.#heldBytes);
    this.#heldBytes = bytes;
  }

  #check(bytes: number): void {
    if (bytes <= this.maxBytes) return;
    this.#held = Buffer.alloc(0);
    this.#heldBytes = 0;
    throw new LimitExceeded(`a command has at most ${this.maxBytes} bytes`);
  }
}
