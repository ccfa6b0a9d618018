import { codeOf, EdgeError } from "../core/errors.js";

/** A failure together with what to do about it. */
export class CommandFailed extends EdgeError {
  override readonly code: string = "COMMAND_FAILED";
}

/** Arguments that do not go together: exit code 2. */
export class ArgumentInvalid extends CommandFailed {
  override readonly code = "ARGUMENT_INVALID";
}

/** Puts the next step under the failure; without one the failure stays as it is. */
export function withNextStep(error: unknown, nextStep: string | undefined): unknown {
  if (nextStep === undefined || !(error instanceof Error)) return error;
  return new CommandFailed(`${error.message}\n${nextStep}`, { cause: error });
}

/** For failures on the way to an atServer, whatever was to be done there. */
export function nextStepToReach(error: unknown, atSign: string): string | undefined {
  switch (codeOf(error)) {
    case "ATSIGN_UNKNOWN":
      return `the atDirectory does not know ${atSign}: look at the spelling and at --directory`;
    case "CERTIFICATE_REFUSED":
      return "a platform of one's own has its own certificate authority: name it with --ca FILE";
    default:
      return undefined;
  }
}
