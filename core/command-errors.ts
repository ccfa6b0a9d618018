import { EdgeError } from "./errors.js";

/** The command was not carried out, and the device is as it was. The message goes to the caller. */
export class CommandRefused extends EdgeError {
  override readonly code: string = "COMMAND_REFUSED";
}

/** The command was sent, but what became of it is not known: the device went away or did not answer. */
export class CommandUncertain extends EdgeError {
  override readonly code: string = "UNKNOWN_OUTCOME";
}
