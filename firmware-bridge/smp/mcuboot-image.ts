const MAGIC = 0x96f3b83d;
const TLV_MAGIC = 0x6907;
const TLV_PROTECTED_MAGIC = 0x6908;
const SHA256_TLV = 0x10;

/**
 * The SHA-256 in the trailer of an MCUboot image, by which image lists name it; `undefined` when it is no such image.
 * MCUboot design, "Image format": header (magic, header size at 8, protected TLV size at 10, image size at 12), image,
 * protected TLVs, TLVs; all little-endian.
 */
export function mcubootHash(image: Uint8Array): Uint8Array | undefined {
  const bytes = Buffer.from(image.buffer, image.byteOffset, image.byteLength);
  if (bytes.length < 32 || bytes.readUInt32LE(0) !== MAGIC) return undefined;
  let at = bytes.readUInt16LE(8) + bytes.readUInt32LE(12);
  for (;;) {
    if (at + 4 > bytes.length) return undefined;
    const magic = bytes.readUInt16LE(at);
    const end = at + bytes.readUInt16LE(at + 2);
    if (magic !== TLV_MAGIC && magic !== TLV_PROTECTED_MAGIC) return undefined;
    const found = magic === TLV_MAGIC ? findTlv(bytes.subarray(at + 4, end)) : undefined;
    if (found || magic === TLV_MAGIC || end <= at) return found;
    at = end;
  }
}

function findTlv(tlvs: Buffer): Uint8Array | undefined {
  for (let at = 0; at + 4 <= tlvs.length;) {
    const type = tlvs.readUInt16LE(at);
    const value = tlvs.subarray(at + 4, at + 4 + tlvs.readUInt16LE(at + 2));
    if (type === SHA256_TLV && value.length === 32) return value;
    at += 4 + value.length;
  }
  return undefined;
}
