import { createHash } from "node:crypto";
import { utf8 } from "../../core/bytes.js";
import { KeyInvalid } from "./errors.js";
import { md5Hex } from "./md5.js";
import { parsePublicKey } from "./rsa.js";

/** `pubKeyCS`: lower-case hex MD5 of the public key's base64 **text** (not of its DER bytes). */
export const publicKeyChecksum = (publicKeyText: string): string => md5Hex(utf8(publicKeyText.trim()));

/** What `cram:` sends: lower-case hex SHA-512 of the secret, taken as text, and the challenge. */
export const cramDigest = (secret: string, challenge: string): string =>
  createHash("sha512")
    .update(secret + challenge)
    .digest("hex");

export type Fingerprint = string & { readonly Fingerprint: true };

const FINGERPRINT = /^sha256:[0-9a-f]{64}$/u;

/** How people and configurations name an encryption public key: `sha256:` and 64 hex digits over its DER bytes. */
export function fingerprintOf(publicKeyText: string): Fingerprint {
  const der = parsePublicKey(publicKeyText).export({ format: "der", type: "spki" });
  return parseFingerprint(`sha256:${createHash("sha256").update(der).digest("hex")}`);
}

/** @throws {KeyInvalid} */
export function parseFingerprint(text: string): Fingerprint {
  if (!FINGERPRINT.test(text)) throw new KeyInvalid('expected "sha256:" and 64 lower-case hex digits');
  return text as Fingerprint;
}
