import { crc32 } from "../crc.js";
import { cobsEncode } from "./cobs.js";

/** First byte of a frame; docs/reference/link.md, section 1. */
export const FrameType = {
  knock: 0x10,
  refuse: 0x11,
  resume: 0x20,
  renew: 0x21,
  openClear: 0x22,
  resumed: 0x30,
  renewed: 0x31,
  openedClear: 0x32,
  pair1: 0x40,
  pair2: 0x41,
  pair3: 0x42,
  pair4: 0x43,
  sealed: 0x50,
  clear: 0x51,
} as const;

export const LINK_VERSION = 1;

/** Bytes of a frame around a piece of a message: type, counter, tag, and the packet's flags, ack and sequence number. */
export const FRAME_OVERHEAD_BYTES = 24;

export const MIN_FRAME_BYTES = 80;
export const MAX_FRAME_BYTES = 2048;

/** What a side takes. */
export interface Hello {
  /** Random, new at each start of that side. */
  readonly boot: number;
  /** Longest frame it takes, before COBS. */
  readonly frameBytes: number;
  /** Packets with data that it holds at once. */
  readonly window: number;
}

export const KNOCK_REASONS: Readonly<Record<number, string>> = {
  0: "power-on",
  1: "reset-pin",
  2: "watchdog",
  3: "software",
  4: "brown-out",
  5: "fault",
  6: "other",
  16: "no-session",
  17: "counter-nearly-used-up",
};

export type BoardFrame =
  | { readonly type: "knock"; readonly version: number; readonly boot: number; readonly reason: number }
  | { readonly type: "refuse"; readonly reason: number }
  | {
      readonly type: "resumed";
      readonly hello: Hello;
      readonly index: number;
      readonly signed: Uint8Array;
      readonly tag: Uint8Array;
    }
  | {
      readonly type: "renewed";
      readonly hello: Hello;
      readonly ephemeral: Uint8Array;
      readonly signed: Uint8Array;
      readonly tag: Uint8Array;
    }
  | { readonly type: "openedClear"; readonly hello: Hello; readonly nonce: Uint8Array }
  | { readonly type: "pair2"; readonly boardKey: Uint8Array; readonly commitment: Uint8Array }
  | { readonly type: "pair4"; readonly nonce: Uint8Array; readonly tag: Uint8Array }
  | { readonly type: "sealed"; readonly counter: number; readonly box: Uint8Array }
  | { readonly type: "clear"; readonly packet: Uint8Array };

const CRC_BYTES = 4;

/** The host's hello: version, boot, frame, window, keep-alive. */
export function helloBytes({ boot, frameBytes, window }: Hello, keepAliveMs: number): Uint8Array {
  const bytes = Buffer.alloc(10);
  bytes.writeUInt8(LINK_VERSION, 0);
  bytes.writeUInt32LE(boot, 1);
  bytes.writeUInt16LE(frameBytes, 5);
  bytes.writeUInt8(window, 7);
  bytes.writeUInt16LE(keepAliveMs, 8);
  return bytes;
}

export const uint32 = (value: number): Uint8Array => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};

/** Type and fields with their CRC-32. */
export const withCrc = (fields: Uint8Array): Uint8Array => Buffer.concat([fields, uint32(crc32(fields))]);

/** COBS and the zero byte that ends a frame. */
export const toWire = (frame: Uint8Array): Uint8Array => Buffer.concat([cobsEncode(frame), Buffer.alloc(1)]);

const BOARD_TYPES: ReadonlySet<number> = new Set([
  FrameType.knock,
  FrameType.refuse,
  FrameType.resumed,
  FrameType.renewed,
  FrameType.openedClear,
  FrameType.pair2,
  FrameType.pair4,
  FrameType.clear,
]);

/** A frame from the board, or `undefined` when it is damaged, of unknown type, or of wrong length or limits. */
export function parseBoardFrame(frame: Uint8Array): BoardFrame | undefined {
  const bytes = Buffer.from(frame.buffer, frame.byteOffset, frame.byteLength);
  const type = bytes[0];
  if (type === FrameType.sealed) {
    return bytes.length < 1 + 4 + 16 + 2
      ? undefined
      : { type: "sealed", counter: bytes.readUInt32LE(1), box: bytes.subarray(5) };
  }
  if (type === undefined || !BOARD_TYPES.has(type) || bytes.length < 1 + CRC_BYTES) return undefined;
  const end = bytes.length - CRC_BYTES;
  if (bytes.readUInt32LE(end) !== crc32(bytes.subarray(0, end))) return undefined;
  return parseFields(type, bytes.subarray(0, end));
}

function parseFields(type: number, fields: Buffer): BoardFrame | undefined {
  const is = (length: number): boolean => fields.length === length;
  switch (type) {
    case FrameType.knock:
      if (!is(7)) return undefined;
      return { type: "knock", version: fields.readUInt8(1), boot: fields.readUInt32LE(2), reason: fields.readUInt8(6) };
    case FrameType.refuse:
      return is(2) ? { type: "refuse", reason: fields.readUInt8(1) } : undefined;
    case FrameType.resumed: {
      const hello = is(45) ? parseHello(fields) : undefined;
      return hello && { type: "resumed", hello, index: fields.readUInt32LE(9), ...signed(fields) };
    }
    case FrameType.renewed: {
      const hello = is(73) ? parseHello(fields) : undefined;
      return hello && { type: "renewed", hello, ephemeral: fields.subarray(9, 41), ...signed(fields) };
    }
    case FrameType.openedClear: {
      const hello = is(25) ? parseHello(fields) : undefined;
      return hello && { type: "openedClear", hello, nonce: fields.subarray(9) };
    }
    case FrameType.pair2:
      return is(65) ? { type: "pair2", boardKey: fields.subarray(1, 33), commitment: fields.subarray(33) } : undefined;
    case FrameType.pair4:
      return is(33) ? { type: "pair4", nonce: fields.subarray(1, 17), tag: fields.subarray(17) } : undefined;
    default:
      return fields.length < 3 ? undefined : { type: "clear", packet: fields.subarray(1) };
  }
}

const signed = (fields: Buffer) => ({ signed: fields.subarray(0, -16), tag: fields.subarray(-16) });

function parseHello(fields: Buffer): Hello | undefined {
  const hello = { boot: fields.readUInt32LE(2), frameBytes: fields.readUInt16LE(6), window: fields.readUInt8(8) };
  const fits =
    fields.readUInt8(1) === LINK_VERSION &&
    hello.frameBytes >= MIN_FRAME_BYTES &&
    hello.frameBytes <= MAX_FRAME_BYTES &&
    hello.window >= 1 &&
    hello.window <= 15;
  return fits ? hello : undefined;
}
