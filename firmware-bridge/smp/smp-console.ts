import { fromBase64 } from "../../core/bytes.js";
import { LineFramer } from "../../core/line-framer.js";
import { crc16Xmodem } from "../crc.js";

/** SMP Transport Specification (Zephyr), "UART/serial and console": a frame's bytes with its marker and newline. */
const MAX_FRAME_BYTES = 127;
/** What fits a frame before base64: (127 - 2 - 1) / 4 * 3. */
const RAW_BYTES = Math.floor((MAX_FRAME_BYTES - 3) / 4) * 3;
const FIRST = Buffer.from([0x06, 0x09]);
const NEXT = Buffer.from([0x04, 0x14]);
const CRC_BYTES = 2;
const LENGTH_BYTES = 2;

/** The lines that carry a packet. */
export function formatSmpConsole(packet: Uint8Array): Uint8Array {
  const raw = Buffer.alloc(LENGTH_BYTES + packet.length + CRC_BYTES);
  raw.writeUInt16BE(packet.length + CRC_BYTES, 0);
  raw.set(packet, LENGTH_BYTES);
  raw.writeUInt16BE(crc16Xmodem(packet), LENGTH_BYTES + packet.length);
  const lines: Buffer[] = [];
  for (let at = 0; at < raw.length; at += RAW_BYTES) {
    const text = raw.subarray(at, at + RAW_BYTES).toString("base64");
    lines.push(at === 0 ? FIRST : NEXT, Buffer.from(`${text}\n`, "latin1"));
  }
  return Buffer.concat(lines);
}

export interface SmpConsoleCounters {
  /** Packets given up: bad base64, too long, wrong length or CRC, a part without a beginning. */
  bad: number;
  /** Lines that are no part of a packet: the console's own text. */
  otherLines: number;
}

/** Picks packets out of a console's output. Holds one packet of at most `maxBytes`; a new beginning drops an old one. */
export class SmpConsoleFramer {
  readonly counters: SmpConsoleCounters = { bad: 0, otherLines: 0 };
  readonly #maxBytes: number;
  readonly #lines: LineFramer;
  #held = Buffer.alloc(0);

  constructor({ maxBytes }: { readonly maxBytes: number }) {
    this.#maxBytes = maxBytes;
    // Servers are known that send longer lines than the specification says.
    this.#lines = new LineFramer({ maxBytes: 4 * Math.ceil((maxBytes + 8) / 3) + 256, onLimit: "drop" });
  }

  push(chunk: Uint8Array): Uint8Array[] {
    return this.#lines.push(chunk).flatMap((line) => this.#line(line));
  }

  #line(line: Buffer): Uint8Array[] {
    // A console may have printed something before the marker, without a newline.
    const first = line.lastIndexOf(FIRST);
    const next = line.lastIndexOf(NEXT);
    if (first === -1 && next === -1) {
      this.counters.otherLines += 1;
      return [];
    }
    const begins = first > next;
    if (begins) {
      if (this.#held.length > 0) this.counters.bad += 1;
      this.#held = Buffer.alloc(0);
    } else if (this.#held.length === 0) {
      return this.#bad();
    }
    const part = decoded(line.subarray(Math.max(first, next) + 2));
    if (!part) return this.#bad();
    this.#held = Buffer.concat([this.#held, part]);
    return this.#whole();
  }

  #whole(): Uint8Array[] {
    const held = this.#held;
    if (held.length < LENGTH_BYTES) return this.#bad();
    const length = held.readUInt16BE(0);
    if (length < CRC_BYTES || length > this.#maxBytes + CRC_BYTES || held.length > length + LENGTH_BYTES)
      return this.#bad();
    if (held.length < length + LENGTH_BYTES) return [];
    const packet = held.subarray(LENGTH_BYTES, -CRC_BYTES);
    if (crc16Xmodem(packet) !== held.readUInt16BE(held.length - CRC_BYTES)) return this.#bad();
    this.#held = Buffer.alloc(0);
    return [packet];
  }

  #bad(): Uint8Array[] {
    this.counters.bad += 1;
    this.#held = Buffer.alloc(0);
    return [];
  }
}

function decoded(text: Buffer): Buffer | undefined {
  try {
    return fromBase64(text.toString("latin1").trimEnd());
  } catch {
    return undefined;
  }
}
