import { isAscii } from "node:buffer";
import { timingSafeEqual } from "node:crypto";
import { SyntaxInvalid } from "./errors.js";

const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** UTF-8 bytes of a text. */
export const utf8 = (text: string): Buffer => Buffer.from(text, "utf8");

/** Text of UTF-8 bytes. @throws {SyntaxInvalid} on bytes that are not UTF-8. */
export function fromUtf8(bytes: Uint8Array): string {
  // Several times faster than the decoder, and what most text is.
  if (isAscii(bytes)) return asBuffer(bytes).toString("latin1");
  try {
    return strictUtf8.decode(bytes);
  } catch (cause) {
    throw new SyntaxInvalid("expected UTF-8 text", { cause });
  }
}

const asBuffer = (bytes: Uint8Array): Buffer =>
  Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);

const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/u;

/**
 * Bytes of standard base64 with padding (RFC 4648, section 4).
 *
 * Node's own decoder skips invalid characters silently, so alphabet, length and padding are checked first.
 *
 * @throws {SyntaxInvalid} on anything else.
 */
export function fromBase64(text: string): Buffer {
  if (!BASE64.test(text)) throw new SyntaxInvalid("expected base64 with padding");
  return Buffer.from(text, "base64");
}

/** Compares secrets without telling by time where they differ; only a difference in length shows. */
export function equalSecrets(a: Uint8Array, b: Uint8Array): boolean {
  return a.byteLength === b.byteLength && timingSafeEqual(a, b);
}
