import { createHash } from "node:crypto";
import { fromBase64 } from "../core/bytes.js";
import { SyntaxInvalid } from "../core/errors.js";

const FINGERPRINT = /^sha256:[0-9a-f]{64}$/u;

/** What is to be done with the encryption public key that an atServer gives for a peer. */
export type PinDecision =
  /** It is the one that the configuration names, or the one seen first. */
  | { readonly verdict: "trusted"; readonly by: "configured" | "remembered" }
  /** Never seen before: remember it, and say so loudly. */
  | { readonly verdict: "first-use" }
  /** Traffic with this peer stops until a human accepts the new key. */
  | { readonly verdict: "changed"; readonly expected: string };

/** `sha256:` and 64 lower-case hex digits over the DER bytes (not the text) of the key. @throws {SyntaxInvalid} */
export function fingerprintOf(spkiBase64: string): string {
  const der = fromBase64(spkiBase64.trim());
  return `sha256:${createHash("sha256").update(der).digest("hex")}`;
}

/** @throws {SyntaxInvalid} */
export function parseFingerprint(text: string): string {
  if (!FINGERPRINT.test(text)) throw new SyntaxInvalid("key: expected sha256: and 64 lower-case hex digits");
  return text;
}

/** A configured fingerprint is the only one that counts; without it the remembered one is. */
export function decidePin(pin: {
  readonly configured?: string | undefined;
  readonly remembered?: string | undefined;
  readonly actual: string;
}): PinDecision {
  const expected = pin.configured ?? pin.remembered;
  if (expected === undefined) return { verdict: "first-use" };
  if (expected !== pin.actual) return { verdict: "changed", expected };
  return { verdict: "trusted", by: pin.configured === undefined ? "remembered" : "configured" };
}
