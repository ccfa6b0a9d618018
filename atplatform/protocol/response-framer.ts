import { fromUtf8 } from "../../core/bytes.js";
import { LimitExceeded, SyntaxInvalid } from "../../core/errors.js";

/** What an atServer says. Bodies are as sent after `word:`, but for the blank after `notification:`. */
export type Frame =
  | { readonly type: "data" | "error" | "stream" | "notification"; readonly body: string }
  /** The answer to `pol`: a prompt with an atSign and nothing else. */
  | { readonly type: "handshake"; readonly atSign: string };

export interface ResponseFramerOptions {
  /** Of one response, its prompt included. */
  readonly maxBytes: number;
  /**
   * `command` (default): a reply ends at a newline followed by `@`, the start of the prompt, because usage texts and
   * values can contain newlines. `monitor`: every newline ends a line, as servers differ in their prompts there.
   */
  readonly mode?: "command" | "monitor";
}

/** A limit that fits every reply of the reference atServer: 10 MiB and 64 KiB. */
export const MAX_RESPONSE_BYTES = (10 * 1024 + 64) * 1024;

/** No atSign is as long. */
const MAX_HANDSHAKE_BYTES = 1024;
const LF = 0x0a;
const AT = 0x40;
const CR = 0x0d;

/**
 * Turns the bytes of an atServer into frames, and takes the prompts away. No matter where chunks were cut; no byte is
 * looked at twice. After a throw the connection is of no use any more: replies carry no id.
 *
 * A reply that no prompt follows is held back: call {@link settle} when nothing has come for 250 ms.
 *
 * @see client.md, 3.3
 */
export class ResponseFramer {
  readonly #maxBytes: number;
  readonly #command: boolean;
  /** The line that has begun, with room to grow: a buffer a chunk would cost a peer's every byte a hundred of ours. */
  #held = Buffer.alloc(0);
  #heldBytes = 0;
  /** A reply of which a line has ended; the next byte tells whether the reply has, too. */
  #reply: { readonly type: "data" | "error"; readonly lines: string[]; bytes: number } | undefined;
  #atLineStart = true;
  #handshake = false;

  constructor({ maxBytes, mode = "command" }: ResponseFramerOptions) {
    this.#maxBytes = maxBytes;
    this.#command = mode === "command";
  }

  /** A reply is complete but for the prompt that tells so. */
  get unsettled(): boolean {
    return this.#reply !== undefined && this.#atLineStart;
  }

  /** To be called before `pol` is sent: its answer has no newline. An `error:` reply ends the expectation, too. */
  expectHandshake(): void {
    this.#handshake = true;
  }

  /**
   * @throws {LimitExceeded} on a response over `maxBytes`.
   * @throws {SyntaxInvalid} on a line that is not UTF-8 or begins with none of the known words.
   */
  push(chunk: Uint8Array): Frame[] {
    let rest = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    const frames: Frame[] = [];
    while (rest.length > 0) {
      if (this.unsettled && rest[0] === AT) frames.push(...this.settle());
      const end = rest.indexOf(LF);
      this.#atLineStart = end !== -1;
      if (end === -1) {
        this.#hold(rest);
        break;
      }
      frames.push(...this.#endLine(rest.subarray(0, end)));
      rest = rest.subarray(end + 1);
    }
    return this.#handshake ? [...frames, ...this.#handshakeResult()] : frames;
  }

  /** Takes the newline alone as the end of a reply. Gives nothing when no reply is held. */
  settle(): Frame[] {
    const reply = this.#reply;
    if (!reply || !this.#atLineStart) return [];
    this.#reply = undefined;
    this.#handshake = false;
    return [{ type: reply.type, body: reply.lines.join("\n") }];
  }

  /** The connection has ended: a whole reply is given, a cut one is forgotten. */
  end(): Frame[] {
    const frames = this.settle();
    this.#forget();
    this.#reply = undefined;
    return frames;
  }

  #hold(part: Buffer): void {
    const bytes = this.#check(part);
    if (bytes > this.#held.length) {
      const larger = Buffer.allocUnsafeSlow(Math.max(256, bytes, this.#held.length * 2));
      this.#held.copy(larger, 0, 0, this.#heldBytes);
      this.#held = larger;
    }
    part.copy(this.#held, this.#heldBytes);
    this.#heldBytes = bytes;
  }

  /** Bytes held when the part is. */
  #check(part: Buffer): number {
    const bytes = this.#heldBytes + part.length;
    if (bytes + (this.#reply?.bytes ?? 0) <= this.#maxBytes) return bytes;
    throw new LimitExceeded(`a response is longer than ${this.#maxBytes} bytes`);
  }

  #forget(): void {
    this.#held = Buffer.alloc(0);
    this.#heldBytes = 0;
  }

  #endLine(part: Buffer): Frame[] {
    const heldBytes = this.#check(part);
    if (this.#heldBytes > 0) this.#hold(part);
    const bytes = this.#heldBytes > 0 ? this.#held.subarray(0, heldBytes) : part;
    const line = fromUtf8(bytes.at(-1) === CR ? bytes.subarray(0, -1) : bytes);
    this.#forget();
    if (this.#reply) {
      this.#reply.lines.push(line);
      this.#reply.bytes += heldBytes + 1;
      return [];
    }
    const frame = parseLine(line);
    if (!frame) return [];
    const isReply = frame.type === "data" || frame.type === "error";
    if (!isReply || !this.#command) return [frame];
    this.#reply = { type: frame.type, lines: [frame.body], bytes: heldBytes + 1 };
    return [];
  }

  #handshakeResult(): Frame[] {
    if (this.#reply || this.#heldBytes > MAX_HANDSHAKE_BYTES) return [];
    const text = this.#held.toString("latin1", 0, this.#heldBytes);
    // The prompt of the reply before may still stand in front: `@` and `@alice@`.
    if (!/^@?@[^@:]+@$/u.test(text)) return [];
    const atSign = fromUtf8(Buffer.from(text, "latin1")).slice(text.startsWith("@@") ? 1 : 0, -1);
    this.#forget();
    this.#atLineStart = true;
    this.#handshake = false;
    return [{ type: "handshake", atSign }];
  }
}

function parseLine(line: string): Exclude<Frame, { type: "handshake" }> | undefined {
  const colon = line.indexOf(":");
  const before = colon === -1 ? line : line.slice(0, colon);
  const word = before.slice(before.lastIndexOf("@") + 1);
  const body = line.slice(colon + 1);
  if (colon === -1 && word === "") return undefined;
  switch (colon === -1 ? "" : word) {
    case "data":
    case "error":
    case "stream":
      return { type: word as "data" | "error" | "stream", body };
    case "notification":
      return { type: "notification", body: body.startsWith(" ") ? body.slice(1) : body };
    default:
      throw new SyntaxInvalid(
        `expected data:, error:, stream: or notification:, got ${JSON.stringify(line.slice(0, 40))}`,
      );
  }
}
