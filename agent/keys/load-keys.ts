import { readFile, stat } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { type AtKeys } from "../../atplatform/crypto/at-keys.js";
import { type PassphraseSource, readAtKeysFile } from "../../atplatform/crypto/at-keys-file.js";
import { PassphraseNeeded } from "../../atplatform/crypto/errors.js";
import { codeOf, EdgeError } from "../../core/errors.js";
import { Secret } from "../../core/secret.js";

/** The key file cannot be used; the message says what to do. */
export class KeysUnusable extends EdgeError {
  override readonly code = "KEYS_UNUSABLE";
}

export interface LoadKeysOptions {
  /** What to do when there is no key file. */
  readonly whenAbsent: string;
  /** Asked for when the key file is sealed with one. */
  readonly passphrase?: PassphraseSource | undefined;
  /** What to do when the key file is sealed and there is none. */
  readonly whenSealed?: string;
}

/**
 * Reads a `.atKeys` file that only its owner can read.
 *
 * @throws {KeysUnusable} @throws {KeyFileInvalid}
 */
export async function loadKeys(
  path: string,
  { whenAbsent, passphrase, whenSealed = "name a file with its passphrase" }: LoadKeysOptions,
): Promise<AtKeys> {
  await refuseExposed(path, `there is no key file ${path}: ${whenAbsent}`);
  return readAtKeysFile(path, { passphrase }).catch((cause: unknown) => {
    if (cause instanceof PassphraseNeeded)
      throw new KeysUnusable(`${path} is sealed with a passphrase: ${whenSealed}`, { cause });
    if (cause instanceof EdgeError) throw cause;
    throw new KeysUnusable(unreadable(path, `there is no key file ${path}: ${whenAbsent}`, codeOf(cause)), { cause });
  });
}

/** Reads a passphrase from a file that only its owner can read; one line end at its end is none of it. */
export function passphraseOf(path: string): () => Promise<Secret> {
  return async () => {
    const absent = `there is no passphrase file ${path}: is the medium that holds it there?`;
    await refuseExposed(path, absent);
    const text = await readFile(path, "utf8").catch((cause: unknown) => {
      throw new KeysUnusable(unreadable(path, absent, codeOf(cause)), { cause });
    });
    const passphrase = text.replace(/\r?\n$/u, "");
    if (passphrase === "") throw new KeysUnusable(`the passphrase file ${path} is empty`);
    return new Secret(passphrase);
  };
}

/** Whoever reads such a file is the atSign: its content is not protected in itself. @throws {KeysUnusable} */
async function refuseExposed(path: string, whenAbsent: string): Promise<void> {
  const { mode } = await stat(path).catch((cause: unknown) => {
    throw new KeysUnusable(unreadable(path, whenAbsent, codeOf(cause)), { cause });
  });
  if ((mode & 0o077) === 0 || isCredential(path)) return;
  const octal = (mode & 0o777).toString(8).padStart(4, "0");
  throw new KeysUnusable(`${path} has mode ${octal}, so others can read or change it: chmod 600 ${path}`);
}

/** systemd lets its service alone read a credential, by an ACL whose mask shows as mode 0440 (systemd.exec(5)). */
function isCredential(path: string): boolean {
  const folder = process.env["CREDENTIALS_DIRECTORY"];
  return folder !== undefined && folder !== "" && dirname(resolve(path)) === resolve(folder);
}

function unreadable(path: string, whenAbsent: string, code: string | undefined): string {
  switch (code) {
    case "ENOENT":
      return whenAbsent;
    case "EACCES":
      return `${path} may not be read by this user: run as the owner of the file, or chown it`;
    default:
      return `${path} cannot be read (${code ?? "unknown error"})`;
  }
}
