import { stat } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { type AtKeys } from "../../atplatform/crypto/at-keys.js";
import { readAtKeysFile } from "../../atplatform/crypto/at-keys-file.js";
import { codeOf, EdgeError } from "../../core/errors.js";

/** The key file cannot be used; the message says what to do. */
export class KeysUnusable extends EdgeError {
  override readonly code = "KEYS_UNUSABLE";
}

/**
 * Reads a `.atKeys` file that only its owner can read.
 *
 * @param whenAbsent what to do when there is none.
 * @throws {KeysUnusable} @throws {KeyFileInvalid}
 */
export async function loadKeys(path: string, whenAbsent: string): Promise<AtKeys> {
  const { mode } = await stat(path).catch((cause: unknown) => {
    throw new KeysUnusable(unreadable(path, whenAbsent, codeOf(cause)), { cause });
  });
  // Whoever reads the file is the atSign: its content is not protected in itself.
  if ((mode & 0o077) !== 0 && !isCredential(path)) {
    const octal = (mode & 0o777).toString(8).padStart(4, "0");
    throw new KeysUnusable(`${path} has mode ${octal}, so others can read or change it: chmod 600 ${path}`);
  }
  return readAtKeysFile(path).catch((cause: unknown) => {
    if (cause instanceof EdgeError) throw cause;
    throw new KeysUnusable(unreadable(path, whenAbsent, codeOf(cause)), { cause });
  });
}

/** systemd lets its service alone read a credential, by an ACL whose mask shows as mode 0440 (systemd.exec(5)). */
function isCredential(path: string): boolean {
  const folder = process.env["CREDENTIALS_DIRECTORY"];
  return folder !== undefined && folder !== "" && dirname(resolve(path)) === resolve(folder);
}

function unreadable(path: string, whenAbsent: string, code: string | undefined): string {
  switch (code) {
    case "ENOENT":
      return `there is no key file ${path}: ${whenAbsent}`;
    case "EACCES":
      return `${path} may not be read by this user: run as the owner of the file, or chown it`;
    default:
      return `${path} cannot be read (${code ?? "unknown error"})`;
  }
}
