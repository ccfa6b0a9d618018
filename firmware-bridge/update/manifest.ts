import nacl from "tweetnacl";
import * as v from "valibot";
import { fromBase64, utf8 } from "../../core/bytes.js";
import { EdgeError, SyntaxInvalid } from "../../core/errors.js";

/** What an image is, and for what; signed as its exact JSON text. */
export interface Manifest {
  readonly typ: "atedge-fw/1";
  /** The driver's id on the device. */
  readonly target: string;
  /** What the board calls its hardware. */
  readonly hardware: string;
  readonly version: string;
  /** Of the whole image file, lower-case hex. */
  readonly sha256: string;
  readonly size: number;
  /** The board must run this version or a later one. */
  readonly minVersion?: string | undefined;
  /** Anti-rollback: refused when below the floor of the device. */
  readonly counter: number;
}

export interface SignedManifest {
  readonly signed: string;
  /** Ed25519 over the UTF-8 of `signed`, base64. */
  readonly signature: string;
}

/** The manifest or its image is not what this device may install. */
export class ManifestRefused extends EdgeError {
  override readonly code: string = "MANIFEST_REFUSED";
}

const TYP = "atedge-fw/1";
export const MAX_IMAGE_BYTES = 16 << 20;
const version = v.pipe(v.string(), v.regex(/^\d{1,9}(?:\.\d{1,9}){0,3}(?:[-+][A-Za-z0-9.+-]{1,20})?$/u));

const manifestSchema = v.strictObject({
  typ: v.literal(TYP),
  target: v.pipe(v.string(), v.regex(/^[a-z0-9][a-z0-9_-]{0,29}$/u)),
  hardware: v.pipe(v.string(), v.minLength(1), v.maxLength(64)),
  version,
  sha256: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/u)),
  size: v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(MAX_IMAGE_BYTES)),
  minVersion: v.optional(version),
  counter: v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(2 ** 31)),
});

const signedSchema = v.strictObject({ signed: v.pipe(v.string(), v.maxLength(4096)), signature: v.string() });

/** @throws {SyntaxInvalid} when a field is wrong. */
export function signManifest(manifest: Omit<Manifest, "typ">, secretKey: Uint8Array): SignedManifest {
  const text = JSON.stringify(parseManifest({ typ: TYP, ...manifest }));
  return { signed: text, signature: Buffer.from(nacl.sign.detached(utf8(text), secretKey)).toString("base64") };
}

/**
 * The manifest, if one of the keys has signed it; the text is verified before it is parsed.
 *
 * @throws {ManifestRefused} when no key fits, {SyntaxInvalid} when what was signed is no manifest.
 */
export function openManifest({ signed, signature }: SignedManifest, publicKeys: readonly Uint8Array[]): Manifest {
  let signatureBytes: Uint8Array;
  try {
    signatureBytes = fromBase64(signature);
  } catch (cause) {
    throw new ManifestRefused("the manifest's signature is not base64", { cause });
  }
  const fits = (key: Uint8Array): boolean => nacl.sign.detached.verify(utf8(signed), signatureBytes, key);
  if (signatureBytes.length !== nacl.sign.signatureLength || !publicKeys.some(fits)) {
    throw new ManifestRefused("the manifest is not signed by a key that this device allows");
  }
  let parsed: unknown;
  try {
    parsed = JSON.parse(signed);
  } catch (cause) {
    throw new SyntaxInvalid("the manifest is not JSON", { cause });
  }
  return parseManifest(parsed);
}

/** @throws {SyntaxInvalid} */
export function parseSignedManifest(value: unknown): SignedManifest {
  const result = v.safeParse(signedSchema, value);
  if (!result.success) throw new SyntaxInvalid("expected a signed manifest: { signed, signature }");
  return result.output;
}

function parseManifest(value: unknown): Manifest {
  const result = v.safeParse(manifestSchema, value);
  if (result.success) return result.output;
  const [issue] = result.issues;
  throw new SyntaxInvalid(`manifest.${v.getDotPath(issue) ?? ""}: ${issue.message}`);
}
