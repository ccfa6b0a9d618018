import { EdgeError } from "../../core/errors.js";

/** The connection went before the command was written: nothing has happened, it can be sent again. */
export class NotSent extends EdgeError {
  override readonly code = "NOT_SENT";
}

/** The command was written, but no answer came: it may have been carried out or not. */
export class AnswerLost extends EdgeError {
  override readonly code = "ANSWER_LOST";
}

/** The peer answered with something that the protocol does not know at this place. */
export class AnswerInvalid extends EdgeError {
  override readonly code = "ANSWER_INVALID";
}

/** The monitor connection answers, but notifications do not arrive on it. */
export class InboundSilent extends EdgeError {
  override readonly code = "INBOUND_SILENT";
}

/** The atSign has not shared an AES key with us, so nothing of it can be read. */
export class NoSharedKey extends EdgeError {
  override readonly code = "NO_SHARED_KEY";
}

/** The value was encrypted for another public key of ours, an older one as a rule. */
export class PublicKeyChanged extends EdgeError {
  override readonly code = "PUBLIC_KEY_CHANGED";
}

/** The atSign has no `public:publickey`: it was never onboarded. */
export class NotActivated extends EdgeError {
  override readonly code = "NOT_ACTIVATED";
}

/** The atSign belongs to somebody already, or to keys that are not at hand. */
export class AlreadyActivated extends EdgeError {
  override readonly code = "ALREADY_ACTIVATED";
}

/** An enrolment will not come about: denied, revoked or expired. Another one has to be requested. */
export class EnrollmentRefused extends EdgeError {
  override readonly code = "ENROLLMENT_REFUSED";
}

/** What an approver was to approve is not what the device has asked for. */
export class EnrollmentMismatch extends EdgeError {
  override readonly code = "ENROLLMENT_MISMATCH";
}

/** The atServer does not keep what a device would need to read its keys, see `ApproveOptions.zeroIv`. */
export class IvsDropped extends EdgeError {
  override readonly code = "IVS_DROPPED";
}
