import { createHmac, timingSafeEqual } from "node:crypto";
import { parse, stringify } from "smol-toml";
import * as v from "valibot";
import { type AtSign, parseAtSign } from "../../atplatform/protocol/at-sign.js";
import { LimitExceeded, SyntaxInvalid } from "../../core/errors.js";
import { Secret } from "../../core/secret.js";
import { type DeviceAddress, parseAddress } from "../../messages/names.js";

/**
 * What a board needs to become one of an atSign's devices: no private key, for the board makes its own. Written as
 * `atedge-provision.toml`; it is a secret until it was used, and worth nothing afterwards.
 */
export interface Provision extends DeviceAddress {
  readonly atSign: AtSign;
  /** `host:port` of the atDirectory. */
  readonly directory: string;
  /** PEM text of a platform's own certificate authority. */
  readonly ca?: string;
  /** Good for one request each: when an answer is lost, the next one is there. */
  readonly passcodes: readonly Secret[];
  /** Absent when a person made the file, and approves by fingerprint. */
  readonly proof?: ProvisionProof;
  /** The agent's configuration, TOML text. */
  readonly config?: string;
}

export interface ProvisionProof {
  /** Of the bundle, 16 lower-case hexadecimal digits. */
  readonly bundle: string;
  readonly secret: Secret;
  /** Of the hardware as the manifest has it: an inventory number, no proof by itself. */
  readonly serial: string;
}

const MAX_BYTES = 256 * 1024;
const BUNDLE = /^[0-9a-f]{16}$/u;
const MAC = /^atedge\.(?<bundle>[0-9a-f]{16})\.(?<mac>[\w-]{43})$/u;

const text = (max: number) => v.pipe(v.string(), v.minLength(1), v.maxLength(max));

const FILE = v.strictObject({
  atsign: text(60),
  device: text(30),
  namespace: v.optional(text(55), "atedge"),
  directory: v.optional(text(300), "root.atsign.org:64"),
  ca: v.optional(text(100_000)),
  passcodes: v.pipe(v.array(v.pipe(v.string(), v.regex(/^\w{6,64}$/u))), v.minLength(1), v.maxLength(20)),
  proof: v.optional(
    v.strictObject({
      bundle: v.pipe(v.string(), v.regex(BUNDLE)),
      secret: v.pipe(v.string(), v.regex(/^[\w+/]{43}=$/u)),
      serial: text(100),
    }),
  ),
  config: v.optional(text(MAX_BYTES)),
});

/** @throws {SyntaxInvalid} that names the place, never a secret; {@link LimitExceeded} */
export function parseProvision(toml: string, where: string): Provision {
  if (Buffer.byteLength(toml) > MAX_BYTES)
    throw new LimitExceeded(`${where}: a provisioning file has at most ${MAX_BYTES} bytes`);
  let value: unknown;
  try {
    value = parse(toml);
  } catch (error) {
    const line = error instanceof Error && "line" in error ? `, line ${String(error.line)}` : "";
    throw new SyntaxInvalid(`${where}${line}: this is no TOML`); // no cause: it quotes the line
  }
  const result = v.safeParse(FILE, value);
  if (!result.success) {
    const [issue] = result.issues;
    throw new SyntaxInvalid(`${where}: ${v.getDotPath(issue) ?? "the file"} is missing, unknown or not of its form`);
  }
  const { atsign, device, namespace, directory, ca, passcodes, proof, config } = result.output;
  return {
    ...parseAddress(device, namespace),
    atSign: parseAtSign(atsign),
    directory,
    ...(ca !== undefined && { ca }),
    passcodes: passcodes.map((passcode) => new Secret(passcode)),
    ...(proof && { proof: { ...proof, secret: new Secret(proof.secret) } }),
    ...(config !== undefined && { config }),
  };
}

export function formatProvision({ atSign, device, ns, directory, ca, passcodes, proof, config }: Provision): string {
  const head =
    "# Makes a board a device: `sudo atedge provision FILE`, or put it on the boot partition of an atedge image.\n" +
    "# It is a secret until it was used; the board wipes it then.\n";
  return (
    head +
    stringify({
      atsign: atSign,
      device,
      namespace: ns,
      directory,
      passcodes: passcodes.map((passcode) => passcode.reveal()),
      ...(ca !== undefined && { ca }),
      ...(config !== undefined && { config }),
      ...(proof && { proof: { ...proof, secret: proof.secret.reveal() } }),
    }) +
    "\n"
  );
}

/**
 * What stands behind `atedge.` in the application name of a bundle's request: `<bundle>.<mac>`. Only who holds the bundle
 * can make it, and only for this request: whoever sees or changes one cannot make another of it.
 */
export const proofOf = (proof: ProvisionProof, device: string, encryptedSymmetricKey: string): string =>
  `${proof.bundle}.${macOf(proof, device, encryptedSymmetricKey)}`;

/** The bundle that a request's application name speaks of, or `undefined` when it is none of a fleet. */
export const bundleOf = (appName: string): string | undefined => MAC.exec(appName)?.groups?.["bundle"];

/** Whether `appName` was made with this bundle for this very request. */
export function isProved(
  appName: string,
  proof: ProvisionProof,
  device: string,
  encryptedSymmetricKey: string,
): boolean {
  const { bundle, mac } = MAC.exec(appName)?.groups ?? {};
  if (bundle !== proof.bundle || mac === undefined) return false;
  return timingSafeEqual(Buffer.from(mac), Buffer.from(macOf(proof, device, encryptedSymmetricKey)));
}

function macOf({ bundle, secret, serial }: ProvisionProof, device: string, encryptedSymmetricKey: string): string {
  return createHmac("sha256", Buffer.from(secret.reveal(), "base64"))
    .update(JSON.stringify(["atedge-fleet/1", bundle, device, serial, encryptedSymmetricKey]))
    .digest("base64url");
}
