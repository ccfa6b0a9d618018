import { UnknownAlgorithm } from "./errors.js";

export type SigningAlgo = "rsa2048" | "ecc_secp256r1";
export type HashingAlgo = "sha256" | "sha512";

/**
 * Every algorithm name that is met on the wire or in a key file, by the place where it is met. `encAlgo` and `skeEncAlgo` are sent by
 * nobody by default; the names are the ones upstream uses for the only data path there is.
 */
const KNOWN = {
  signingAlgo: ["rsa2048", "ecc_secp256r1"],
  hashingAlgo: ["sha256", "sha512"],
  encAlgo: ["aes256", "AES/SIC/PKCS7", "AES/SIC/PKCS7Padding", "AES/CTR/PKCS7", "AES/CTR/PKCS7Padding"],
  skeEncAlgo: ["rsa2048"],
  // Of key files. Dart also names sha512, sha256 and md5, which give no usable key.
  hashingAlgoType: ["argon2id"],
} as const;

/** The name itself, once it is known. @throws {UnknownAlgorithm} */
export function knownAlgorithm<Place extends keyof typeof KNOWN>(
  place: Place,
  name: string,
): (typeof KNOWN)[Place][number] {
  const names: readonly (typeof KNOWN)[Place][number][] = KNOWN[place];
  const found = names.find((known) => known === name);
  if (found === undefined) {
    throw new UnknownAlgorithm(`${place}: expected ${names.join(" or ")}, got ${JSON.stringify(name.slice(0, 40))}`);
  }
  return found;
}
