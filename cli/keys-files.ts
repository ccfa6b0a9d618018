import { loadKeys } from "../agent/keys/load-keys.js";
import type { AtKeys } from "../atplatform/crypto/at-keys.js";
import { atKeysPath, readAtKeysFile, writeAtKeysFile } from "../atplatform/crypto/at-keys-file.js";
import { codeOf } from "../core/errors.js";
import type { Secret } from "../core/secret.js";
import { parseAtSign } from "../atplatform/protocol/at-sign.js";
import { fingerprintOf } from "../messages/pins.js";
import type { FileOptions } from "./keys.js";
import { ArgumentInvalid, CommandFailed } from "./next-step.js";
import { askedPassphrase, chosenPassphrase } from "./passphrase.js";

/** Short ones are guessed from a stolen copy: Argon2id makes a guess dear, not impossible. */
const LEAST_CHARACTERS = 10;

/** Writes a sealed copy, and reads it back before it says so. */
export async function backUp({ out = "", ...options }: FileOptions): Promise<void> {
  const file = keyFileOf(options);
  const keys = await load(file, options.oldPassphraseFile);
  const passphrase = await strongPassphrase(options.passphraseFile, "the copy");
  // The later form has a salt of its own; only `atedge` has to read this file.
  await writeAtKeysFile(out, atSignOf(options, file), keys, { passphrase, form: "salted" });
  const back = await readAtKeysFile(out, { passphrase });
  if (fingerprintOf(back.pkam.publicText) !== fingerprintOf(keys.pkam.publicText))
    throw new CommandFailed(`${out} does not hold what was written: is the disk all right?`);
  tell(options, { keys: file, backup: out, ...shown(keys) }, [
    `${file} is copied to ${out}, sealed with the passphrase; the copy was read back`,
    "without the passphrase nobody can read it, and you cannot either: keep the two apart",
  ]);
}

export async function restore(backup: string, options: FileOptions): Promise<void> {
  const file = keyFileOf(options);
  const keys = await readAtKeysFile(backup, { passphrase: askedPassphrase(options.passphraseFile, backup) }).catch(
    (cause: unknown) => {
      if (codeOf(cause) !== "ENOENT") throw cause;
      throw new CommandFailed(`there is no ${backup}`, { cause });
    },
  );
  await writeAtKeysFile(file, atSignOf(options, file), keys);
  tell(options, { keys: file, backup, ...shown(keys) }, [
    `${file} holds the keys of ${backup} again, mode 0600`,
    "whether the atServer still takes them shows `atedge enrollments` or, on a board, `atedge doctor`",
  ]);
}

export async function seal(options: FileOptions): Promise<void> {
  const file = keyFileOf(options);
  const keys = await load(file, undefined, `${file} is sealed already: \`atedge keys unseal\` first`);
  const passphrase = await strongPassphrase(options.passphraseFile, file);
  await writeAtKeysFile(file, atSignOf(options, file), keys, { passphrase, overwrite: true });
  tell(options, { keys: file, sealed: true, ...shown(keys) }, [
    `${file} is sealed with the passphrase`,
    "the clear text that was there may be on the disk still, on a card above all: to be sure, rotate the keys as well",
  ]);
}

export async function unseal(options: FileOptions): Promise<void> {
  const file = keyFileOf(options);
  const keys = await load(file, options.passphraseFile);
  await writeAtKeysFile(file, atSignOf(options, file), keys, { overwrite: true });
  tell(options, { keys: file, sealed: false, ...shown(keys) }, [
    `${file} is not sealed any more: mode 0600 protects it`,
  ]);
}

function keyFileOf({ keys, as }: FileOptions): string {
  if (keys !== undefined) return keys;
  if (as !== undefined) return atKeysPath(parseAtSign(as));
  throw new ArgumentInvalid("name the key file with --keys, or the atSign with --as");
}

/** Only repeats a name inside the file, which nobody reads; taken from the file's own name otherwise. */
function atSignOf({ as }: FileOptions, file: string): string {
  if (as !== undefined) return parseAtSign(as);
  return /(?<atSign>@[^@/]+)_key\.atKeys$/u.exec(file)?.groups?.["atSign"] ?? "@";
}

async function load(file: string, passphraseFile: string | undefined, whenSealed?: string): Promise<AtKeys> {
  return await loadKeys(file, {
    whenAbsent: "name it with --keys FILE",
    ...(whenSealed === undefined ? { passphrase: askedPassphrase(passphraseFile, file) } : { whenSealed }),
  });
}

async function strongPassphrase(file: string | undefined, subject: string): Promise<Secret> {
  const passphrase = await chosenPassphrase(file, subject);
  if (passphrase.reveal().length >= LEAST_CHARACTERS) return passphrase;
  throw new ArgumentInvalid(
    `a passphrase of at least ${LEAST_CHARACTERS} characters is needed: several words are best`,
  );
}

const shown = ({ encryption, enrollmentId }: AtKeys) => ({
  fingerprint: fingerprintOf(encryption.publicText),
  enrollmentId: enrollmentId ?? null,
});

function tell({ json = false }: FileOptions, fact: object, lines: readonly string[]): void {
  process.stdout.write(`${json ? JSON.stringify(fact) : lines.join("\n")}\n`);
}
