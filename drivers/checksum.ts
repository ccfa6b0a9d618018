/** `crc16-modbus` is polynomial 0xA001 reflected, from 0xFFFF, low byte first; the others are one byte. */
export type ChecksumKind = "none" | "xor8" | "sum8" | "crc16-modbus";

export const checksumLength = (kind: ChecksumKind): number => (kind === "none" ? 0 : kind === "crc16-modbus" ? 2 : 1);

export function checksumOf(kind: ChecksumKind, bytes: Uint8Array): Buffer {
  switch (kind) {
    case "none":
      return Buffer.alloc(0);
    case "xor8":
      return Buffer.from([bytes.reduce((sum, byte) => sum ^ byte, 0)]);
    case "sum8":
      return Buffer.from([bytes.reduce((sum, byte) => (sum + byte) & 0xff, 0)]);
    case "crc16-modbus": {
      const crc = crc16Modbus(bytes);
      return Buffer.from([crc & 0xff, crc >> 8]);
    }
  }
}

/** Modbus over Serial Line, specification and implementation guide V1.02, section 6.2.2. */
export function crc16Modbus(bytes: Uint8Array): number {
  let crc = 0xffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >> 1) ^ 0xa001 : crc >> 1;
  }
  return crc;
}
