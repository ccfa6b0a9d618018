import { LineFramer } from "../../core/line-framer.js";
import type { FrameCodec } from "./frame-codec.js";
import { HeldBytes } from "./held-bytes.js";

/** Frames that end with LF or CR LF. */
export class LineFrames implements FrameCodec {
  readonly #lines: LineFramer;

  constructor(maxBytes: number) {
    this.#lines = new LineFramer({ maxBytes, onLimit: "drop" });
  }

  get dropped(): number {
    return this.#lines.dropped;
  }

  push(chunk: Uint8Array): Uint8Array[] {
    return this.#lines.push(chunk);
  }

  encode(frame: Uint8Array): Uint8Array {
    if (frame.includes(0x0a)) throw new RangeError("a line holds no line end");
    return Buffer.concat([frame, Buffer.from([0x0a])]);
  }
}

/** Frames that end with a sequence of bytes. Empty ones are passed over. */
export class DelimitedFrames implements FrameCodec {
  readonly #delimiter: Buffer;
  readonly #maxBytes: number;
  readonly #held = new HeldBytes();
  /** How far `#held` is known to hold no delimiter. */
  #searched = 0;
  #skipping = false;
  dropped = 0;

  constructor(delimiter: Uint8Array, maxBytes: number) {
    if (delimiter.length === 0) throw new RangeError("the delimiter is empty");
    this.#delimiter = Buffer.from(delimiter);
    this.#maxBytes = maxBytes;
  }

  push(chunk: Uint8Array): Uint8Array[] {
    const frames: Uint8Array[] = [];
    this.#held.append(chunk);
    const bytes = this.#held.view();
    let from = 0;
    for (
      let at = bytes.indexOf(this.#delimiter, this.#searched);
      at !== -1;
      at = bytes.indexOf(this.#delimiter, from)
    ) {
      if (this.#skipping || at - from > this.#maxBytes) this.dropped += 1;
      else if (at > from) frames.push(Buffer.from(bytes.subarray(from, at)));
      this.#skipping = false;
      from = at + this.#delimiter.length;
    }
    const tail = this.#delimiter.length - 1;
    if (this.#skipping || bytes.length - from > this.#maxBytes + tail) {
      this.#skipping = true;
      from = Math.max(from, bytes.length - tail);
    }
    this.#held.discard(from);
    this.#searched = Math.max(0, this.#held.length - tail);
    return frames;
  }

  encode(frame: Uint8Array): Uint8Array {
    if (Buffer.from(frame).includes(this.#delimiter)) throw new RangeError("a frame holds no delimiter");
    return Buffer.concat([frame, this.#delimiter]);
  }
}

/** Consistent Overhead Byte Stuffing (Cheshire and Baker, 1999), frames apart by 0. */
export class CobsFrames implements FrameCodec {
  readonly #stuffed: DelimitedFrames;
  readonly #maxBytes: number;
  #malformed = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
    this.#stuffed = new DelimitedFrames(Buffer.from([0]), maxBytes + Math.ceil(maxBytes / 254) + 1);
  }

  get dropped(): number {
    return this.#stuffed.dropped + this.#malformed;
  }

  push(chunk: Uint8Array): Uint8Array[] {
    return this.#stuffed.push(chunk).flatMap((stuffed) => {
      const frame = cobsDecode(stuffed);
      if (frame && frame.length <= this.#maxBytes) return [frame];
      this.#malformed += 1;
      return [];
    });
  }

  encode(frame: Uint8Array): Uint8Array {
    return Buffer.concat([cobsEncode(frame), Buffer.from([0])]);
  }
}

/** Serial Line IP framing (RFC 1055), END before and after each frame. */
export class SlipFrames implements FrameCodec {
  readonly #escaped: DelimitedFrames;
  readonly #maxBytes: number;
  #malformed = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
    this.#escaped = new DelimitedFrames(Buffer.from([END]), maxBytes * 2);
  }

  get dropped(): number {
    return this.#escaped.dropped + this.#malformed;
  }

  push(chunk: Uint8Array): Uint8Array[] {
    return this.#escaped.push(chunk).flatMap((escaped) => {
      const frame = slipDecode(escaped);
      if (frame && frame.length <= this.#maxBytes) return [frame];
      this.#malformed += 1;
      return [];
    });
  }

  encode(frame: Uint8Array): Uint8Array {
    const bytes = [END];
    for (const byte of frame) {
      if (byte === END) bytes.push(ESC, ESC_END);
      else if (byte === ESC) bytes.push(ESC, ESC_ESC);
      else bytes.push(byte);
    }
    return Buffer.from([...bytes, END]);
  }
}

const END = 0xc0;
const ESC = 0xdb;
const ESC_END = 0xdc;
const ESC_ESC = 0xdd;

function slipDecode(escaped: Uint8Array): Uint8Array | undefined {
  const bytes: number[] = [];
  for (let at = 0; at < escaped.length; at += 1) {
    const byte = escaped[at] ?? 0;
    if (byte !== ESC) {
      bytes.push(byte);
      continue;
    }
    at += 1;
    const next = escaped[at];
    if (next === ESC_END) bytes.push(END);
    else if (next === ESC_ESC) bytes.push(ESC);
    else return undefined;
  }
  return Buffer.from(bytes);
}

function cobsEncode(frame: Uint8Array): Uint8Array {
  const out: number[] = [0];
  let codeAt = 0;
  for (const byte of frame) {
    if (byte !== 0) out.push(byte);
    const code = out.length - codeAt;
    if (byte !== 0 && code < 0xff) continue;
    out[codeAt] = code;
    codeAt = out.length;
    out.push(0);
  }
  out[codeAt] = out.length - codeAt;
  return Buffer.from(out);
}

function cobsDecode(stuffed: Uint8Array): Uint8Array | undefined {
  const out: number[] = [];
  let at = 0;
  while (at < stuffed.length) {
    const code = stuffed[at] ?? 0;
    const end = at + code;
    if (code === 0 || end > stuffed.length) return undefined;
    for (at += 1; at < end; at += 1) out.push(stuffed[at] ?? 0);
    if (code < 0xff && at < stuffed.length) out.push(0);
  }
  return Buffer.from(out);
}
