import { createHash, type KeyObject } from "node:crypto";
import { EdgeError } from "../core/errors.js";
import { signText, verifiedText, type Envelope } from "./envelope.js";
import { parseJson } from "./json-field.js";

/** Who vouches for which AES key: `from` encrypts with it what it sends to `to`. AtSigns canonical, with `@`. */
export interface KeyProofParties {
  readonly from: string;
  readonly to: string;
  readonly aesKey: Uint8Array;
}

/** A proof record that does not vouch for this AES key between these two. */
export class KeyProofInvalid extends EdgeError {
  override readonly code = "KEY_PROOF_INVALID";
}

const TYP = "atedge-key/1";
const MEMBERS = ["typ", "from", "to", "sha256"];

/** Body of the record `@to:proof.<device>.<ns>@from`, to be sealed with the same AES key. */
export function signKeyProof({ from, to, aesKey }: KeyProofParties, privateKey: KeyObject): Envelope {
  return signText(JSON.stringify({ typ: TYP, from, to, sha256: keyHashOf(aesKey) }), privateKey);
}

/**
 * Checks the body of a proof record (after {@link openSealed}) against the pinned public key of `from`: signature over
 * the exact text first, then type, both atSigns, and the hash of the AES key that was used.
 *
 * @throws {KeyProofInvalid} with what did not fit.
 */
export function verifyKeyProof(value: unknown, { from, to, aesKey }: KeyProofParties, pinned: KeyObject): void {
  const wanted = { typ: TYP, from, to, sha256: keyHashOf(aesKey) };
  try {
    const fields = parseJson(verifiedText(value, pinned, "proof"), "proof.signed", 4096).object();
    fields.only(MEMBERS);
    for (const [name, expected] of Object.entries(wanted)) fields.at(name).exactly(expected);
  } catch (error) {
    if (!(error instanceof EdgeError)) throw error;
    throw new KeyProofInvalid(`${from} does not vouch for this AES key: ${error.message}`, { cause: error });
  }
}

/** SHA-256 of the 32 key bytes, lower-case hex: names a key without telling it; also what verified keys are cached by. */
export function keyHashOf(aesKey: Uint8Array): string {
  return createHash("sha256").update(aesKey).digest("hex");
}
