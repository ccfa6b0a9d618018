import { EdgeError } from "../../core/errors.js";

/** Ciphertext, key and IV do not belong together, or the bytes were changed on the way. */
export class DecryptionFailed extends EdgeError {
  override readonly code = "DECRYPTION_FAILED";
}

/** A name of an algorithm that this version does not know; the message lists the known ones. */
export class UnknownAlgorithm extends EdgeError {
  override readonly code = "UNKNOWN_ALGORITHM";
}

/** A text that should be a key is none, or is one of another kind. */
export class KeyInvalid extends EdgeError {
  override readonly code = "KEY_INVALID";
}

/** A `.atKeys` file that cannot be used; the message names the member. */
export class KeyFileInvalid extends EdgeError {
  override readonly code: string = "KEY_FILE_INVALID";
}

/** There is a key file already, and it is never overwritten unless asked for. */
export class KeyFileExists extends KeyFileInvalid {
  override readonly code = "KEY_FILE_EXISTS";
}

/** The key file is wrapped with a passphrase, and none was given. */
export class PassphraseNeeded extends KeyFileInvalid {
  override readonly code = "PASSPHRASE_NEEDED";
}

/** Wrong passphrase or damaged file: the format has no authentication tag, so nobody can tell which. */
export class PassphraseWrong extends KeyFileInvalid {
  override readonly code = "PASSPHRASE_WRONG";
}
