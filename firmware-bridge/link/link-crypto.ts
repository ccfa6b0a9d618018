import { createHash } from "node:crypto";
import nacl from "tweetnacl";
import { equalSecrets } from "../../core/bytes.js";
import { EdgeError } from "../../core/errors.js";

/** A random source as an ability, so that tests can fix it. */
export type RandomBytes = (length: number) => Uint8Array;

const LABEL_BYTES = 16;
const KEY_BYTES = 32;
export const TAG_BYTES = 16;

/** SHA-512 over the label, padded with zero bytes to 16, and the parts; docs/reference/link.md, first paragraph. */
export function hash(label: string, ...parts: readonly Uint8Array[]): Uint8Array {
  const digest = createHash("sha512").update(label.padEnd(LABEL_BYTES, "\0"), "latin1");
  for (const part of parts) digest.update(part);
  return digest.digest();
}

export const hash32 = (label: string, ...parts: readonly Uint8Array[]): Uint8Array =>
  hash(label, ...parts).subarray(0, KEY_BYTES);

export const hash16 = (label: string, ...parts: readonly Uint8Array[]): Uint8Array =>
  hash(label, ...parts).subarray(0, TAG_BYTES);

/** The peer's public key is one of the few that give the same secret with every key: only an attacker sends it. */
export class WeakKey extends EdgeError {
  override readonly code: string = "LINK_WEAK_KEY";
}

export const publicKeyOf = (secret: Uint8Array): Uint8Array => nacl.scalarMult.base(secret);

/** X25519. @throws {WeakKey} when the result is all zero (RFC 7748, 6.1). */
export function agree(secret: Uint8Array, peerPublic: Uint8Array): Uint8Array {
  const shared = nacl.scalarMult(secret, peerPublic);
  if (equalSecrets(shared, new Uint8Array(KEY_BYTES))) throw new WeakKey("the board's public key is a weak one");
  return shared;
}

export const ratchet = (root: Uint8Array): Uint8Array => hash32("atedge1 ratchet", root);

export const rootIdOf = (root0: Uint8Array): Uint8Array => hash("atedge1 root id", root0).subarray(0, 4);

export interface SessionKeys {
  readonly hostToBoard: Uint8Array;
  readonly boardToHost: Uint8Array;
}

/** Tag and keys of the session that `root` serves, over all that both sides said. */
export function sessionOf(
  root: Uint8Array,
  script: Uint8Array,
): { readonly tag: Uint8Array; readonly keys: SessionKeys } {
  const keys = hash("atedge1 session", root, script);
  return {
    tag: hash16("atedge1 tag", root, script),
    keys: { hostToBoard: keys.subarray(0, KEY_BYTES), boardToHost: keys.subarray(KEY_BYTES) },
  };
}

export function nonceOf(counter: number): Uint8Array {
  const nonce = new Uint8Array(24);
  new DataView(nonce.buffer).setUint32(0, counter, true);
  return nonce;
}

export const sealBox = (packet: Uint8Array, counter: number, key: Uint8Array): Uint8Array =>
  nacl.secretbox(packet, nonceOf(counter), key);

/** The packet, or `undefined` when the box was changed, or sealed with another key or counter. */
export const openBox = (box: Uint8Array, counter: number, key: Uint8Array): Uint8Array | undefined =>
  nacl.secretbox.open(box, nonceOf(counter), key) ?? undefined;

/** The six digits that people compare at pairing. */
export function pairingDigits(
  hostKey: Uint8Array,
  boardKey: Uint8Array,
  hostNonce: Uint8Array,
  boardNonce: Uint8Array,
): string {
  const digest = hash("atedge1 digits", hostKey, boardKey, hostNonce, boardNonce);
  const number = new DataView(digest.buffer, digest.byteOffset).getBigUint64(0, true) % 1_000_000n;
  return number.toString().padStart(6, "0");
}
