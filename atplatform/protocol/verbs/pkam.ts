import { CommandScanner } from "../command-scanner.js";
import { field, oneLine, type VerbCodec } from "../verb-codec.js";

export type SigningAlgo = "rsa2048" | "ecc_secp256r1";
export type HashingAlgo = "sha256" | "sha512";

export interface Pkam {
  /** `rsa2048` when left out. */
  readonly signingAlgo?: SigningAlgo;
  /** `sha256` when left out. */
  readonly hashingAlgo?: HashingAlgo;
  /** Left out: the login with the atSign's first key. */
  readonly enrollmentId?: string;
  /** Base64; whether it is, is for the check of the signature to find out. */
  readonly signature: string;
}

/** `pkam:[signingAlgo:…:][hashingAlgo:…:][enrollmentId:…:]<signature>`: logs in with a signed challenge. */
export const pkam: VerbCodec<Pkam> = {
  usage: "pkam:<signature>",

  format({ signingAlgo, hashingAlgo, enrollmentId, signature }) {
    const options = [
      signingAlgo === undefined ? "" : `signingAlgo:${signingAlgo}:`,
      hashingAlgo === undefined ? "" : `hashingAlgo:${hashingAlgo}:`,
      enrollmentId === undefined ? "" : `enrollmentId:${field("enrollmentId", enrollmentId, /^[^:\s]+$/u)}:`,
    ];
    return oneLine(`pkam:${options.join("")}${field("signature", signature, /^[A-Za-z0-9+/=]+$/u)}`);
  },

  parse(line) {
    const scanner = new CommandScanner(line, pkam.usage);
    scanner.expect("pkam");
    const signingAlgo = scanner.choiceBeforeColon(":signingAlgo:", ["rsa2048", "ecc_secp256r1"]);
    const hashingAlgo = scanner.choiceBeforeColon(":hashingAlgo:", ["sha256", "sha512"]);
    const enrollmentId = scanner.skip(":enrollmentId:") ? (scanner.until(":") ?? scanner.refuse()) : undefined;
    if (enrollmentId === undefined) scanner.expect(":");
    else if (enrollmentId === "") scanner.refuse();
    const signature = scanner.rest();
    if (signature === "") scanner.refuse();
    return {
      ...(signingAlgo && { signingAlgo }),
      ...(hashingAlgo && { hashingAlgo }),
      ...(enrollmentId !== undefined && { enrollmentId }),
      signature,
    };
  },
};
