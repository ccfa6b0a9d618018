import { createHmac, hkdfSync } from "node:crypto";
import { equalSecrets, utf8 } from "../core/bytes.js";
import { EdgeError } from "../core/errors.js";
import { MAX_MESSAGE_BYTES, parseJson, type JsonObject } from "./json-field.js";
import { canonicalAtKey } from "./names.js";

/** The text was not sealed with this AES key for this atKey, or is not as it was sent. */
export class SealInvalid extends EdgeError {
  override readonly code = "SEAL_INVALID";
}

/** HKDF (RFC 5869) with SHA-256, no salt; the text keeps this key apart from the AES key and from any other use of it. */
const INFO = "atedge-seal/1";
const AES_KEY_BYTES = 32;
// `"mac":"` + 44 characters of base64 + `"}`
const OPENING = '"mac":"';
const MAC_CHARACTERS = 44;
const MEMBER_CHARACTERS = OPENING.length + MAC_CHARACTERS + 2;

/**
 * JSON text of `body` with `"mac"` as its last member, to be encrypted the atPlatform way and sent under `atKey`.
 *
 * mac = base64 of HMAC-SHA256 over canonical atKey, LF, and every byte of the text before `"mac"`, comma included.
 *
 * @param aesKey the shared AES key, 32 bytes, that the text will be encrypted with.
 */
export function seal(body: JsonObject, atKey: string, aesKey: Uint8Array): string {
  if (Object.hasOwn(body, "mac")) throw new Error("a body to seal has no member mac");
  const json = JSON.stringify(body);
  const before = json === "{}" ? "{" : `${json.slice(0, -1)},`;
  const text = `${before}${OPENING}${macOf(before, atKey, aesKey).toString("base64")}"}`;
  if (Buffer.byteLength(text) > MAX_MESSAGE_BYTES)
    throw new SealInvalid(`a message may have at most ${MAX_MESSAGE_BYTES} bytes`);
  return text;
}

/**
 * The JSON object that was sealed, without its `mac`.
 *
 * The check is made on the text as received. Only a top-level, last and only member `mac` without white space counts,
 * so there is one text a seal fits.
 *
 * @throws {SealInvalid} for whatever reason: a peer that tries keys or bits learns nothing from it.
 */
export function openSealed(text: string, atKey: string, aesKey: Uint8Array): JsonObject {
  if (text.length > MAX_MESSAGE_BYTES) throw new SealInvalid(`longer than ${MAX_MESSAGE_BYTES} bytes`);
  const member = text.slice(-MEMBER_CHARACTERS);
  const before = text.slice(0, -MEMBER_CHARACTERS);
  if (!member.startsWith(OPENING) || !member.endsWith('"}')) throw new SealInvalid("no mac as the last member");
  try {
    // As text, since base64 of 32 bytes has two bits that decode to nothing.
    const claimed = utf8(member.slice(OPENING.length, -2));
    const expected = utf8(macOf(before, atKey, aesKey).toString("base64"));
    if (!equalSecrets(claimed, expected)) throw new SealInvalid("the mac does not fit");
    return objectBefore(before);
  } catch (error) {
    if (error instanceof SealInvalid) throw error;
    throw new SealInvalid("not a sealed message", { cause: error });
  }
}

/** What stands before the member is an object by itself: then `mac` is at the top level and not said twice. */
function objectBefore(before: string): JsonObject {
  if (before === "{") return {};
  if (!before.endsWith(",")) throw new SealInvalid("no comma before mac");
  const { object } = parseJson(`${before.slice(0, -1)}}`, "sealed").object();
  if (Object.keys(object).length === 0) throw new SealInvalid("a comma after nothing");
  if (Object.hasOwn(object, "mac")) throw new SealInvalid("mac is said twice");
  return object;
}

function macOf(before: string, atKey: string, aesKey: Uint8Array): Buffer {
  if (aesKey.byteLength !== AES_KEY_BYTES) throw new SealInvalid(`an AES key has ${AES_KEY_BYTES} bytes`);
  const macKey = Buffer.from(hkdfSync("sha256", aesKey, new Uint8Array(0), INFO, 32));
  return createHmac("sha256", macKey)
    .update(utf8(`${canonicalAtKey(atKey)}\n`))
    .update(utf8(before))
    .digest();
}
