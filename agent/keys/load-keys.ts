import { stat } from "node:fs/promises";
import { type AtKeys } from "../../atplatform/crypto/at-keys.js";
import { readAtKeysFile } from "../../atplatform/crypto/at-keys-file.js";
import { codeOf, EdgeError } from "../../core/errors.js";

/** The key file cannot be used; the message says what to do. */
export class KeysUnusable extends EdgeError {
  override readonly code = "KEYS_UNUSABLE";
}

/** Reads the agent's `.atKeys` file. @throws {KeysUnusable} @throws {KeyFileInvalid} */
export async function loadKeys(path: string, atSign: string): Promise<AtKeys> {
  const { mode } = await stat(path).catch((cause: unknown) => {
    throw new KeysUnusable(unreadable(path, atSign, codeOf(cause)), { cause });
  });
  // Whoever reads the file is the atSign: its content is not protected in itself.
  if ((mode & 0o077) !== 0) {
    const octal = (mode & 0o777).toString(8).padStart(4, "0");
    throw new KeysUnusable(`${path} has mode ${octal}, so others can read or change it: chmod 600 ${path}`);
  }
  return readAtKeysFile(path).catch((cause: unknown) => {
    if (cause instanceof EdgeError) throw cause;
    throw new KeysUnusable(unreadable(path, atSign, codeOf(cause)), { cause });
  });
}

function unreadable(path: string, atSign: string, code: string | undefined): string {
  switch (code) {
    case "ENOENT":
      return `there is no key file ${path}: make one with \`atedge onboard ${atSign} --keys ${path}\`, or name another with keys = "FILE" in the configuration`;
    case "EACCES":
      return `${path} may not be read by this user: run as the owner of the file, or chown it`;
    default:
      return `${path} cannot be read (${code ?? "unknown error"})`;
  }
}
