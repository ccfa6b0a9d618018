import { deflateRawSync, inflateRawSync } from "node:zlib";
import { fromBase64, utf8 } from "../core/bytes.js";
import { LimitExceeded } from "../core/errors.js";
import type { JsonField } from "./json-field.js";
import { MAX_MESSAGE_BYTES, parseJson } from "./json-field.js";

/**
 * JSON of `value`, compressed (RFC 1951) and in base64; `undefined` when that saves nothing. What is compressed with
 * it shows in the length of the message, so nothing goes in here but what one sender has measured.
 */
export function deflated(value: unknown): string | undefined {
  const json = JSON.stringify(value);
  const text = deflateRawSync(utf8(json)).toString("base64");
  return text.length < json.length ? text : undefined;
}

/** The value of which {@link deflated} gave the text; of at most so many bytes as a message. @throws {SyntaxInvalid} @throws {LimitExceeded} */
export function inflated(field: JsonField, path: string): JsonField {
  const text = field.text({ max: MAX_MESSAGE_BYTES });
  let bytes: Buffer;
  try {
    bytes = inflateRawSync(fromBase64(text), { maxOutputLength: MAX_MESSAGE_BYTES });
  } catch (cause) {
    if (cause instanceof RangeError) throw new LimitExceeded(`${path}: inflates to over ${MAX_MESSAGE_BYTES} bytes`);
    return field.refuse("base64 of deflated bytes");
  }
  return parseJson(bytes.toString("utf8"), path);
}
