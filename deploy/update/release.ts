import nacl from "tweetnacl";
import * as v from "valibot";
import { fromBase64, utf8 } from "../../core/bytes.js";
import { VERSION_TEXT } from "../../core/compare-versions.js";
import { EdgeError, SyntaxInvalid } from "../../core/errors.js";
import { MAX_RELEASE_BYTES } from "../../core/update-request.js";

/** What a file is; signed as its exact JSON text. */
export interface Release {
  readonly typ: "atedge-release/1";
  readonly version: string;
  /** `deb`: a Debian package. `tar`: a gzip'd tar with the program's folder, for where dpkg has not installed it. */
  readonly kind: "deb" | "tar";
  /** As Debian calls processors. */
  readonly arch: "amd64" | "arm64" | "armhf";
  /** Of the file, lower-case hex. */
  readonly sha256: string;
  readonly bytes: number;
}

export interface SignedRelease {
  readonly signed: string;
  /** Ed25519 over the UTF-8 of `signed`, base64. */
  readonly signature: string;
}

/** The release is not what this machine may install; nothing was changed. */
export class ReleaseRefused extends EdgeError {
  override readonly code = "RELEASE_REFUSED";
}

const TYP = "atedge-release/1";

const releaseSchema = v.strictObject({
  typ: v.literal(TYP),
  version: v.pipe(v.string(), v.regex(VERSION_TEXT)),
  kind: v.picklist(["deb", "tar"]),
  arch: v.picklist(["amd64", "arm64", "armhf"]),
  sha256: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/u)),
  bytes: v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(MAX_RELEASE_BYTES)),
});
const signedSchema = v.strictObject({ signed: v.pipe(v.string(), v.maxLength(4096)), signature: v.string() });

/** @throws {SyntaxInvalid} when a field is wrong. */
export function signRelease(release: Omit<Release, "typ">, secretKey: Uint8Array): SignedRelease {
  const signed = JSON.stringify(parseRelease({ typ: TYP, ...release }));
  return { signed, signature: Buffer.from(nacl.sign.detached(utf8(signed), secretKey)).toString("base64") };
}

/**
 * The release, if one of the keys has signed it; the text is verified before it is parsed.
 *
 * @param publicKeys base64
 * @throws {ReleaseRefused} when no key fits, {SyntaxInvalid} when what was signed is no release.
 */
export function openRelease({ signed, signature }: SignedRelease, publicKeys: readonly string[]): Release {
  if (publicKeys.length === 0)
    throw new ReleaseRefused("this machine takes no updates: /etc/atedge/update.toml names no key");
  let bytes: Uint8Array;
  try {
    bytes = fromBase64(signature);
  } catch (cause) {
    throw new ReleaseRefused("the signature is not base64", { cause });
  }
  const fits = (key: string): boolean => nacl.sign.detached.verify(utf8(signed), bytes, fromBase64(key));
  if (bytes.length !== nacl.sign.signatureLength || !publicKeys.some(fits))
    throw new ReleaseRefused("the release is not signed by a key of /etc/atedge/update.toml");
  try {
    return parseRelease(JSON.parse(signed));
  } catch (cause) {
    if (cause instanceof SyntaxInvalid) throw cause;
    throw new SyntaxInvalid("the release is not JSON", { cause });
  }
}

/** @throws {SyntaxInvalid} */
export function parseSignedRelease(value: unknown): SignedRelease {
  const result = v.safeParse(signedSchema, value);
  if (!result.success) throw new SyntaxInvalid("expected a signed release: { signed, signature }");
  return result.output;
}

export const isPublicKey = (text: string): boolean => {
  try {
    return fromBase64(text).length === nacl.sign.publicKeyLength;
  } catch {
    return false;
  }
};

function parseRelease(value: unknown): Release {
  const result = v.safeParse(releaseSchema, value);
  if (result.success) return result.output;
  const [issue] = result.issues;
  throw new SyntaxInvalid(`release.${v.getDotPath(issue) ?? ""}: ${issue.message}`);
}
