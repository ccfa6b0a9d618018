import type { Fields } from "./line-codec.js";

export const BINARY_TYPES = ["u8", "i8", "u16", "i16", "u32", "i32", "f32", "f64"] as const;
export type BinaryType = (typeof BINARY_TYPES)[number];

/** A number at a fixed place of a frame. */
export interface BinaryField {
  readonly name: string;
  /** Bytes from the beginning of the frame. */
  readonly at: number;
  readonly type: BinaryType;
  readonly order: "big" | "little";
}

/** The fields of a frame, or `undefined` when it is too short for one of them. */
export function readBinaryFields(frame: Uint8Array, fields: readonly BinaryField[]): Fields | undefined {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  const read: Record<string, number> = {};
  for (const { name, at, type, order } of fields) {
    if (at + Number(type.slice(1)) / 8 > view.byteLength) return undefined;
    read[name] = readNumber(view, at, type, order === "little");
  }
  return read;
}

function readNumber(view: DataView, at: number, type: BinaryType, little: boolean): number {
  switch (type) {
    case "u8":
      return view.getUint8(at);
    case "i8":
      return view.getInt8(at);
    case "u16":
      return view.getUint16(at, little);
    case "i16":
      return view.getInt16(at, little);
    case "u32":
      return view.getUint32(at, little);
    case "i32":
      return view.getInt32(at, little);
    case "f32":
      return view.getFloat32(at, little);
    case "f64":
      return view.getFloat64(at, little);
  }
}
