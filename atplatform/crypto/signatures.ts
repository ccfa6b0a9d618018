import { createPublicKey, type KeyObject, sign, verify } from "node:crypto";
import { fromBase64, utf8 } from "../../core/bytes.js";
import { EdgeError } from "../../core/errors.js";
import type { HashingAlgo, SigningAlgo } from "./algorithms.js";
import { KeyInvalid } from "./errors.js";
import { parsePublicKey } from "./rsa.js";

/** Base64 of the RSASSA-PKCS1-v1_5 signature over the UTF-8 bytes of `text`. */
export function signText(text: string, privateKey: KeyObject, hashingAlgo: HashingAlgo = "sha256"): string {
  return sign(hashingAlgo, utf8(text), privateKey).toString("base64");
}

/** Whether `signature` (base64, from a peer) is right; false as well for what is no base64. */
export function verifyText(
  text: string,
  signature: string,
  publicKey: KeyObject,
  hashingAlgo: HashingAlgo = "sha256",
): boolean {
  const bytes = bytesOrNone(signature);
  return bytes !== undefined && verify(hashingAlgo, utf8(text), publicKey, bytes);
}

/** Signs a `pkam:` challenge with an RSA or P-256 key, in the encoding that each has on the wire. */
export function signChallenge(challenge: string, privateKey: KeyObject, hashingAlgo: HashingAlgo = "sha256"): string {
  if (signingAlgoOf(privateKey) === "rsa2048") return signText(challenge, privateKey, hashingAlgo);
  const compact = sign(hashingAlgo, utf8(challenge), { key: privateKey, dsaEncoding: "ieee-p1363" });
  return utf8(compact.toString("hex")).toString("base64");
}

export interface ChallengeAnswer {
  readonly challenge: string;
  readonly signature: string;
  readonly signingAlgo: SigningAlgo;
  readonly hashingAlgo: HashingAlgo;
  /** As stored at enrolment: base64 SPKI for RSA; for P-256 the uncompressed point in hex or base64. */
  readonly publicKeyText: string;
}

/** @throws {KeyInvalid} when the stored key is none. */
export function verifyChallenge(answer: ChallengeAnswer): boolean {
  const { challenge, signature, hashingAlgo } = answer;
  if (answer.signingAlgo === "rsa2048") {
    return verifyText(challenge, signature, parsePublicKey(answer.publicKeyText), hashingAlgo);
  }
  const key = parseEccPublicKey(answer.publicKeyText);
  const compact = compactOf(bytesOrNone(signature));
  return compact !== undefined && verify(hashingAlgo, utf8(challenge), { key, dsaEncoding: "ieee-p1363" }, compact);
}

/** @throws {KeyInvalid} on a key that can sign no challenge. */
export function signingAlgoOf(key: KeyObject): SigningAlgo {
  if (key.asymmetricKeyType === "rsa") return "rsa2048";
  if (key.asymmetricKeyType === "ec" && key.asymmetricKeyDetails?.namedCurve === "prime256v1") return "ecc_secp256r1";
  throw new KeyInvalid("expected an RSA or P-256 key");
}

/** The uncompressed point `04 x y` in hex, as the studied revision stores it. */
export function eccPublicKeyText(key: KeyObject): string {
  const { x = "", y = "" } = key.export({ format: "jwk" });
  return `04${Buffer.from(x, "base64url").toString("hex")}${Buffer.from(y, "base64url").toString("hex")}`;
}

/** @throws {KeyInvalid} on anything but an uncompressed P-256 point in hex or base64. */
export function parseEccPublicKey(text: string): KeyObject {
  const trimmed = text.trim();
  const point = /^04[0-9a-f]{128}$/iu.test(trimmed) ? Buffer.from(trimmed, "hex") : bytesOrNone(trimmed);
  if (point?.length !== 65 || point[0] !== 4) throw new KeyInvalid("expected an uncompressed P-256 point");
  const x = point.subarray(1, 33).toString("base64url");
  const y = point.subarray(33).toString("base64url");
  try {
    return createPublicKey({ key: { kty: "EC", crv: "P-256", x, y }, format: "jwk" });
  } catch (cause) {
    throw new KeyInvalid("the point is not on P-256", { cause });
  }
}

/** 64 bytes `r s`, sent as 128 hex characters (studied revision) or as they are (later ones). */
function compactOf(bytes: Buffer | undefined): Buffer | undefined {
  if (bytes?.length === 64) return bytes;
  const text = bytes?.toString("latin1");
  return text !== undefined && /^[0-9a-f]{128}$/iu.test(text) ? Buffer.from(text, "hex") : undefined;
}

function bytesOrNone(base64: string): Buffer | undefined {
  try {
    return fromBase64(base64.trim());
  } catch (error) {
    if (error instanceof EdgeError) return undefined;
    throw error;
  }
}
