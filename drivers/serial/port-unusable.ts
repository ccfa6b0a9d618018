import { EdgeError } from "../../core/errors.js";

/** The port is there but cannot be used: no permission, in use by another program, no tty, no RS-485. */
export class PortUnusable extends EdgeError {
  override readonly code: string = "PORT_UNUSABLE";
}
