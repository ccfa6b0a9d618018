import { DeviceGone, EdgeError } from "../../core/errors.js";

/** The board, or somebody on the wire, refused; `code` tells why. The supervisor opens the link again later. */
export class LinkRefused extends DeviceGone {
  override readonly code: string;

  constructor(code: LinkRefusal, message: string) {
    super(message);
    this.code = code;
  }
}

export type LinkRefusal =
  | "LINK_NOT_PAIRED"
  | "LINK_WRONG_KEY"
  | "LINK_VERSION"
  | "LINK_CLEAR_REFUSED"
  | "LINK_NO_ANSWER"
  | "LINK_SILENT"
  | "LINK_STUCK"
  | "LINK_PROTOCOL";

/** Pairing did not come to its end; nothing was stored. */
export class PairingFailed extends EdgeError {
  override readonly code: string = "PAIRING_FAILED";
}

/** What a person asked for cannot be; exit code 2. */
export class ArgumentInvalid extends EdgeError {
  override readonly code: string = "ARGUMENT_INVALID";
}
