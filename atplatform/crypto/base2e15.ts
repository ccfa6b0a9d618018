const SEVEN_BITS_AT = 0x3400;

/**
 * Bytes as text of 15 bits a character (CJK and Hangul), most significant bit first: what `isBinary:true` values hold.
 * A rest of 1 to 7 bits becomes one character of its own range; a longer rest is filled with zero bits.
 */
export function encodeBase2e15(bytes: Uint8Array): string {
  let text = "";
  let bits = 0;
  let count = 0;
  for (const byte of bytes) {
    bits = (bits << 8) | byte;
    count += 8;
    if (count >= 15) {
      count -= 15;
      text += String.fromCharCode(charOf(bits >> count));
      bits &= (1 << count) - 1;
    }
  }
  if (count > 7) text += String.fromCharCode(charOf(bits << (15 - count)));
  else if (count > 0) text += String.fromCharCode(SEVEN_BITS_AT + (bits << (7 - count)));
  return text;
}

/** The reverse; skips characters outside the ranges and stops after a 7-bit one. Bits short of a byte are dropped. */
export function decodeBase2e15(text: string): Buffer {
  const bytes = Buffer.alloc(Math.floor((text.length * 15) / 8));
  let length = 0;
  let bits = 0;
  let count = 0;
  for (let at = 0; at < text.length; at += 1) {
    const code = text.charCodeAt(at);
    const isLast = code >= SEVEN_BITS_AT && code < SEVEN_BITS_AT + 128;
    const value = isLast ? code - SEVEN_BITS_AT : valueOf(code);
    if (value === undefined) continue;
    const width = isLast ? 7 : 15;
    bits = (bits << width) | value;
    count += width;
    while (count >= 8) {
      count -= 8;
      bytes[length] = bits >> count;
      length += 1;
    }
    bits &= (1 << count) - 1;
    if (isLast) break;
  }
  return bytes.subarray(0, length);
}

function charOf(value: number): number {
  if (value < 0x1936) return value + 0x3480;
  return value < 0x545c ? value + 0x34ca : value + 0x57a4;
}

function valueOf(code: number): number | undefined {
  if (code >= 0x3480 && code < 0x4db6) return code - 0x3480;
  if (code >= 0x4e00 && code < 0x8926) return code - 0x34ca;
  if (code >= 0xac00 && code < 0xd7a4) return code - 0x57a4;
  return undefined;
}
