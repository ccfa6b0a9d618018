import { createCipheriv, createDecipheriv, createHmac, randomBytes } from "node:crypto";
import { fromBase64, fromUtf8, utf8 } from "../../core/bytes.js";
import { EdgeError, SyntaxInvalid } from "../../core/errors.js";
import { DecryptionFailed, KeyInvalid } from "./errors.js";

const BLOCK_BYTES = 16;
const ZERO_IV: Uint8Array = new Uint8Array(BLOCK_BYTES);

export const AES_KEY_BYTES = 32;

/** A text of 44 characters: what every SDK stores and RSA-encrypts is the base64 text of an AES key, not its bytes. */
export const AES_KEY_TEXT_CHARS = 44;

export const newAesKey = (): Buffer => randomBytes(AES_KEY_BYTES);

/** For every single encryption a new one: two values under one key and IV give away the XOR of their texts. */
export function newIv(): Buffer {
  if (unused.length < BLOCK_BYTES) unused = randomBytes(IVS_AT_ONCE * BLOCK_BYTES);
  const iv = unused.subarray(0, BLOCK_BYTES);
  unused = unused.subarray(BLOCK_BYTES);
  return iv;
}

/** IVs are no secret, and to ask for few random bytes takes as long as for many. */
const IVS_AT_ONCE = 64;
let unused: Buffer = Buffer.alloc(0);

/**
 * The IV of a message that may have to be sent again under its own id: the same for the same message, and for any other
 * as good as random (a keyed hash of all of it). So a repeat is recognised by its ciphertext, wherever it is met.
 */
export const ivOfMessage = (aesKey: Uint8Array, message: readonly string[]): Buffer =>
  createHmac("sha256", aesKey)
    .update(JSON.stringify(["atedge-iv/1", ...message]))
    .digest()
    .subarray(0, BLOCK_BYTES);

/** @throws {KeyInvalid} on anything but 32 bytes in base64. */
export function parseAesKey(text: string): Buffer {
  let key: Buffer;
  try {
    key = fromBase64(text.trim());
  } catch (cause) {
    throw new KeyInvalid("expected an AES-256 key in base64", { cause });
  }
  if (key.length !== AES_KEY_BYTES) throw new KeyInvalid(`expected an AES key of 32 bytes, got ${key.length}`);
  return key;
}

/**
 * The IV that `ivNonce` names. Absent, or the text `null` (at_c): 16 zero bytes. Dart pads a shorter one with zeros on
 * the right.
 *
 * @throws {DecryptionFailed} when it is not base64 or longer than a block.
 */
export function parseIv(ivNonce: string | null | undefined): Uint8Array {
  if (ivNonce === undefined || ivNonce === null || ivNonce === "null" || ivNonce === "") return ZERO_IV;
  let iv: Buffer;
  try {
    iv = fromBase64(ivNonce);
  } catch (cause) {
    throw new DecryptionFailed("ivNonce is not base64", { cause });
  }
  if (iv.length > BLOCK_BYTES) throw new DecryptionFailed(`ivNonce has ${iv.length} bytes, at most 16 can be used`);
  return iv.length === BLOCK_BYTES ? iv : Buffer.concat([iv], BLOCK_BYTES);
}

/** AES-256-CTR (big-endian counter that starts at `iv`) over the plaintext **with PKCS#7 padding**, as all SDKs do it. */
export function encryptAes(plain: Uint8Array, key: Uint8Array, iv: Uint8Array): Buffer {
  const padBytes = BLOCK_BYTES - (plain.length % BLOCK_BYTES);
  const padded = Buffer.allocUnsafe(plain.length + padBytes);
  padded.set(plain);
  padded.fill(padBytes, plain.length);
  return createCipheriv("aes-256-ctr", key, iv).update(padded); // in one step: a second update costs half as much again
}

export interface AesPlaintext {
  readonly bytes: Buffer;
  /** False: there was no valid padding, `bytes` are as decrypted. Treat as a failure unless you know the sender. */
  readonly padded: boolean;
}

/** The reverse of {@link encryptAes}; padding is taken off by the strict rule (1..16, all pad bytes equal) only. */
export function decryptAes(cipherBytes: Uint8Array, key: Uint8Array, iv: Uint8Array): AesPlaintext {
  const bytes = createDecipheriv("aes-256-ctr", key, iv).update(cipherBytes);
  const padBytes = bytes.at(-1) ?? 0;
  const padded =
    bytes.length % BLOCK_BYTES === 0 &&
    padBytes >= 1 &&
    padBytes <= BLOCK_BYTES &&
    bytes.subarray(-padBytes).every((byte) => byte === padBytes);
  return padded ? { bytes: bytes.subarray(0, -padBytes), padded } : { bytes, padded };
}

/**
 * Base64 of the encrypted UTF-8 text.
 *
 * @throws {SyntaxInvalid} on an empty text: Dart and C cannot handle one, send `""` as JSON instead.
 */
export function encryptText(text: string, key: Uint8Array, iv: Uint8Array): string {
  if (text === "") throw new SyntaxInvalid("an empty value cannot be encrypted");
  return encryptAes(utf8(text), key, iv).toString("base64");
}

/**
 * The reverse of {@link encryptText}. CTR has no integrity check: a changed value can still come out as text.
 *
 * @throws {DecryptionFailed} on what is not base64, has no valid padding or is not UTF-8.
 */
export function decryptText(cipherBase64: string, key: Uint8Array, iv: Uint8Array): string {
  try {
    const { bytes, padded } = decryptAes(fromBase64(cipherBase64.trim()), key, iv);
    if (padded) return fromUtf8(bytes);
  } catch (cause) {
    if (!(cause instanceof EdgeError)) throw cause;
    throw new DecryptionFailed("the value is not text encrypted with this key and IV", { cause });
  }
  throw new DecryptionFailed("the value has no valid padding under this key and IV");
}
