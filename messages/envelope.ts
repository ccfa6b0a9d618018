import { createPublicKey, sign, verify, type KeyObject } from "node:crypto";
import { fromBase64, utf8 } from "../core/bytes.js";
import { EdgeError } from "../core/errors.js";
import { JsonField } from "./json-field.js";

/** A signed text and its signature, as it stands in proof records and in commands. */
export interface Envelope {
  /** JSON text of a statement; signed byte for byte, never parsed before it is verified. */
  readonly signed: string;
  readonly signature: string;
  readonly signingAlgo: "rsa2048";
  readonly hashingAlgo: "sha256";
}

/** No signature of the pinned key over exactly this text. */
export class SignatureInvalid extends EdgeError {
  override readonly code = "SIGNATURE_INVALID";
}

/** The longest signed text, in UTF-16 code units; also bounds the arguments of a command. */
export const MAX_SIGNED_LENGTH = 65_536;

/** Signs with the encryption private key of an atSign: RSASSA-PKCS1-v1_5 with SHA-256 over the UTF-8 of the text. */
export function signText(signed: string, privateKey: KeyObject): Envelope {
  if (signed.length > MAX_SIGNED_LENGTH) throw new SignatureInvalid(`signed: longer than ${MAX_SIGNED_LENGTH}`);
  const signature = sign("sha256", utf8(signed), privateKey).toString("base64");
  return { signed, signature, signingAlgo: "rsa2048", hashingAlgo: "sha256" };
}

/**
 * The signed text, once the signature of `publicKey` over it is verified. Other members of the envelope are ignored.
 *
 * @throws {SyntaxInvalid} when `value` is no envelope. @throws {SignatureInvalid}
 */
export function verifiedText(value: unknown, publicKey: KeyObject, path = "envelope"): string {
  const fields = new JsonField(value, path).object();
  const signed = fields.at("signed").text({ max: MAX_SIGNED_LENGTH });
  const signature = fromBase64(fields.at("signature").text({ max: 1024 }));
  if (fields.at("signingAlgo").value !== "rsa2048") throw new SignatureInvalid(`${path}.signingAlgo: only "rsa2048"`);
  if (fields.at("hashingAlgo").value !== "sha256") throw new SignatureInvalid(`${path}.hashingAlgo: only "sha256"`);
  if (!verify("sha256", utf8(signed), publicKey, signature))
    throw new SignatureInvalid(`${path}: not signed by the pinned key`);
  return signed;
}

/** The RSA key in a `public:publickey` record: base64 of DER SubjectPublicKeyInfo. @throws {SignatureInvalid} */
export function publicKeyFromText(spkiBase64: string): KeyObject {
  try {
    const key = createPublicKey({ key: fromBase64(spkiBase64.trim()), format: "der", type: "spki" });
    if (key.asymmetricKeyType === "rsa" && (key.asymmetricKeyDetails?.modulusLength ?? 0) >= 2048) return key;
  } catch (cause) {
    throw new SignatureInvalid("public key: expected base64 of an RSA key", { cause });
  }
  throw new SignatureInvalid("public key: expected an RSA key of at least 2048 bits");
}
