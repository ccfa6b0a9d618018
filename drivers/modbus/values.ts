export const REGISTER_TYPES = ["u16", "i16", "u32", "i32", "f32", "f64"] as const;
export type RegisterType = (typeof REGISTER_TYPES)[number];

/** Which register comes first. Within one, the high byte does (Modbus Application Protocol V1.1b3, section 4.2). */
export type WordOrder = "big" | "little";

export const registersOf = (type: RegisterType): number => Number(type.slice(1)) / 16;

/** The number in registers, two bytes each. */
export function decodeRegisters(data: Buffer, type: RegisterType, order: WordOrder): number {
  const bytes = ordered(data.subarray(0, registersOf(type) * 2), order);
  switch (type) {
    case "u16":
      return bytes.readUInt16BE(0);
    case "i16":
      return bytes.readInt16BE(0);
    case "u32":
      return bytes.readUInt32BE(0);
    case "i32":
      return bytes.readInt32BE(0);
    case "f32":
      return bytes.readFloatBE(0);
    case "f64":
      return bytes.readDoubleBE(0);
  }
}

/** @throws {RangeError} for a number that the type does not have. */
export function encodeRegisters(value: number, type: RegisterType, order: WordOrder): Buffer {
  const bytes = Buffer.alloc(registersOf(type) * 2);
  const whole = type.startsWith("f") ? value : Math.round(value);
  switch (type) {
    case "u16":
      bytes.writeUInt16BE(whole);
      break;
    case "i16":
      bytes.writeInt16BE(whole);
      break;
    case "u32":
      bytes.writeUInt32BE(whole);
      break;
    case "i32":
      bytes.writeInt32BE(whole);
      break;
    case "f32":
      bytes.writeFloatBE(whole);
      break;
    case "f64":
      bytes.writeDoubleBE(whole);
      break;
  }
  return ordered(bytes, order);
}

function ordered(bytes: Buffer, order: WordOrder): Buffer {
  if (order === "big") return bytes;
  const swapped = Buffer.alloc(bytes.length);
  for (let at = 0; at < bytes.length; at += 2) bytes.copy(swapped, bytes.length - at - 2, at, at + 2);
  return swapped;
}
