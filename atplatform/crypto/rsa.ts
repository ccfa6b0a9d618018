import {
  constants,
  createHash,
  createHmac,
  createPrivateKey,
  createPublicKey,
  generateKeyPair,
  type KeyObject,
  privateDecrypt,
  publicEncrypt,
} from "node:crypto";
import { promisify } from "node:util";
import { fromBase64, utf8 } from "../../core/bytes.js";
import { AES_KEY_BYTES, AES_KEY_TEXT_CHARS } from "./aes-ctr.js";
import { DecryptionFailed, KeyInvalid } from "./errors.js";

/** A key pair with the one text of its public half that the platform compares, hashes and publishes. */
export interface KeyPair {
  /** Base64 of the DER SubjectPublicKeyInfo, one line; 392 characters for RSA-2048. */
  readonly publicText: string;
  readonly publicKey: KeyObject;
  readonly privateKey: KeyObject;
}

const MODULUS_BITS = 2048; // C has fixed buffers of 256 bytes

/** A new RSA-2048 pair; takes some 100 ms off the event loop. */
export async function newRsaKeyPair(): Promise<KeyPair> {
  const { privateKey } = await promisify(generateKeyPair)("rsa", { modulusLength: MODULUS_BITS });
  return keyPairOf(privateKey);
}

export function keyPairOf(privateKey: KeyObject): KeyPair {
  const publicKey = createPublicKey(privateKey);
  return { publicText: publicKeyText(publicKey), publicKey, privateKey };
}

export const publicKeyText = (key: KeyObject): string => key.export({ format: "der", type: "spki" }).toString("base64");

/** Base64 of the DER PKCS#8: the secret itself, as `.atKeys` files and enrolments carry it. */
export const privateKeyText = (key: KeyObject): string =>
  key.export({ format: "der", type: "pkcs8" }).toString("base64");

/** @throws {KeyInvalid} on anything but an RSA public key of 2048 bits as base64 SPKI. */
export function parsePublicKey(text: string): KeyObject {
  return rsaOnly(() => createPublicKey({ key: fromBase64(text.trim()), format: "der", type: "spki" }), "public");
}

/** @throws {KeyInvalid} on anything but an RSA private key of 2048 bits as base64 PKCS#8; the text is not repeated. */
export function parsePrivateKey(text: string): KeyObject {
  return rsaOnly(() => createPrivateKey({ key: fromBase64(text.trim()), format: "der", type: "pkcs8" }), "private");
}

function rsaOnly(create: () => KeyObject, half: "public" | "private"): KeyObject {
  let key: KeyObject;
  try {
    key = create();
  } catch {
    // No cause: OpenSSL's errors and ours are about the content of a key.
    throw new KeyInvalid(`expected a ${half} key in base64 DER`);
  }
  if (key.asymmetricKeyType !== "rsa" || key.asymmetricKeyDetails?.modulusLength !== MODULUS_BITS) {
    throw new KeyInvalid(`expected an RSA ${half} key of 2048 bits`);
  }
  return key;
}

/** PKCS#1 v1.5 of the AES key's base64 **text**, in base64: what `sharedKeyEnc` and the shared key records hold. */
export function encryptAesKey(aesKey: Uint8Array, recipient: KeyObject): string {
  const text = utf8(Buffer.from(aesKey).toString("base64"));
  return publicEncrypt({ key: recipient, padding: constants.RSA_PKCS1_PADDING }, text).toString("base64");
}

/**
 * The reverse of {@link encryptAesKey}, with implicit rejection: when padding, length or alphabet are wrong, the result
 * is a key that depends on ciphertext and private key alone, and the failure shows later, as a value that does not
 * decrypt. So nobody learns from errors or time whether a forged ciphertext was well padded (Bleichenbacher).
 *
 * @throws {DecryptionFailed} only for what anybody can see: not base64, not 256 bytes, not a number below the modulus.
 */
export function decryptAesKey(encryptedBase64: string, privateKey: KeyObject): Buffer {
  let encrypted: Buffer;
  try {
    encrypted = fromBase64(encryptedBase64.trim());
  } catch (cause) {
    throw new DecryptionFailed("the encrypted key is not base64", { cause });
  }
  const { message, valid } = unpad(encrypted, privateKey, AES_KEY_TEXT_CHARS);
  const decoded = decodeKeyText(message);
  const otherwise = rejection(encrypted, privateKey, AES_KEY_BYTES);
  return select(valid & decoded.valid, decoded.key, otherwise);
}

/** PKCS#1 v1.5 decryption of a message whose length is known; implicit rejection as in {@link decryptAesKey}. */
export function decryptRsa(encrypted: Uint8Array, privateKey: KeyObject, messageBytes: number): Buffer {
  const { message, valid } = unpad(encrypted, privateKey, messageBytes);
  return select(valid, message, rejection(encrypted, privateKey, messageBytes));
}

/**
 * Node 20 refuses PKCS#1 v1.5 in `privateDecrypt`, so the padding is ours: 00 02, non-zero bytes, 00, message
 * (RFC 8017, section 7.2.2). `valid` is 1 or 0, without a branch on secret bytes.
 */
function unpad(
  encrypted: Uint8Array,
  privateKey: KeyObject,
  messageBytes: number,
): { readonly message: Buffer; readonly valid: number } {
  if (encrypted.length !== MODULUS_BITS / 8) throw new DecryptionFailed("the encrypted key has not 256 bytes");
  let block: Buffer;
  try {
    block = privateDecrypt({ key: privateKey, padding: constants.RSA_NO_PADDING }, encrypted);
  } catch (cause) {
    throw new DecryptionFailed("the encrypted key is not a number below the modulus", { cause });
  }
  const separator = block.length - messageBytes - 1;
  let bad = byteAt(block, 0) | (byteAt(block, 1) ^ 2) | byteAt(block, separator);
  for (let at = 2; at < separator; at += 1) bad |= isZero(byteAt(block, at));
  return { message: block.subarray(separator + 1), valid: isZero(bad) };
}

/** 44 base64 characters to 32 bytes, without a branch or a table look-up on them. */
function decodeKeyText(text: Buffer): { readonly key: Buffer; readonly valid: number } {
  const key = Buffer.alloc(AES_KEY_BYTES + 1);
  let bad = 0;
  for (let group = 0; group < AES_KEY_TEXT_CHARS / 4; group += 1) {
    let bits = 0;
    for (let at = group * 4; at < group * 4 + 4; at += 1) {
      const char = byteAt(text, at);
      const isPad = at === AES_KEY_TEXT_CHARS - 1;
      const value = isPad ? -(char ^ 0x3d) : sextetOf(char);
      bad |= value >>> 31; // its sign
      bits = (bits << 6) | (value & 0x3f);
    }
    key[group * 3] = bits >> 16;
    key[group * 3 + 1] = bits >> 8;
    key[group * 3 + 2] = bits;
  }
  bad |= byteAt(key, AES_KEY_BYTES); // the two bits left over must be zero
  return { key: key.subarray(0, AES_KEY_BYTES), valid: isZero(bad) };
}

/** Value of a base64 character, or a negative number. */
function sextetOf(char: number): number {
  return (
    -1 +
    (inRange(char, 0x41, 0x5a) & (char - 0x40)) + // A..Z: 0..25
    (inRange(char, 0x61, 0x7a) & (char - 0x46)) + // a..z: 26..51
    (inRange(char, 0x30, 0x39) & (char + 5)) + // 0..9: 52..61
    (inRange(char, 0x2b, 0x2b) & 63) + // +
    (inRange(char, 0x2f, 0x2f) & 64) // /
  );
}

/** All bits set when `low <= value <= high`, none otherwise. */
const inRange = (value: number, low: number, high: number): number => ~((value - low) | (high - value)) >> 31;

/** 1 for zero, 0 for any other byte or sum of bytes. */
const isZero = (value: number): number => 1 - ((value | -value) >>> 31);

const byteAt = (bytes: Uint8Array, at: number): number => bytes[at] ?? 0;

function select(choice: number, yes: Uint8Array, no: Uint8Array): Buffer {
  const mask = -choice & 0xff;
  return Buffer.from(yes.map((byte, at) => (byte & mask) | (byteAt(no, at) & ~mask & 0xff)));
}

const rejectionKeys = new WeakMap<KeyObject, Buffer>();

/** What stands in for a message that was not well padded (draft-irtf-cfrg-rsa-guidance, "implicit rejection"). */
function rejection(encrypted: Uint8Array, privateKey: KeyObject, bytes: number): Buffer {
  let secret = rejectionKeys.get(privateKey);
  if (!secret) {
    const exponent = privateKey.export({ format: "jwk" }).d ?? "";
    secret = createHash("sha256").update(Buffer.from(exponent, "base64url")).digest();
    rejectionKeys.set(privateKey, secret);
  }
  const derivationKey = createHmac("sha256", secret).update(encrypted).digest();
  const blocks: Buffer[] = [];
  for (let at = 0; at * 32 < bytes; at += 1) {
    blocks.push(
      createHmac("sha256", derivationKey)
        .update(Uint8Array.of(at >> 8, at))
        .update("message")
        .digest(),
    );
  }
  return Buffer.concat(blocks, bytes);
}
