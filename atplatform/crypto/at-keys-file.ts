import { randomUUID } from "node:crypto";
import { link, mkdir, open, readFile, rename, rm } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { codeOf } from "../../core/errors.js";
import type { Secret } from "../../core/secret.js";
import { type AtKeys, formatAtKeys, parseAtKeys } from "./at-keys.js";
import { KeyFileExists, KeyFileInvalid, PassphraseNeeded, PassphraseWrong } from "./errors.js";
import { unwrapAtKeys, type WrapForm, wrapAtKeys } from "./passphrase.js";

/** Where all SDKs look: `~/.atsign/keys/@alice_key.atKeys`. */
export function atKeysPath(atSign: string, home: string = homedir()): string {
  return join(home, ".atsign", "keys", `${atSign}_key.atKeys`);
}

/** The passphrase itself, or who asks for it. */
export type PassphraseSource = Secret | (() => Promise<Secret>);

/**
 * Reads a key file; `passphrase` is looked at, or asked for, only when the file is wrapped with one.
 *
 * @throws {KeyFileInvalid} naming path and member, {@link PassphraseNeeded}, {@link PassphraseWrong}. System errors
 *   (`ENOENT`, `EACCES`) go through.
 */
export async function readAtKeysFile(
  path: string,
  { passphrase }: { readonly passphrase?: PassphraseSource | undefined } = {},
): Promise<AtKeys> {
  const text = await readFile(path, "utf8");
  try {
    return await parse(text, passphrase);
  } catch (cause) {
    if (!(cause instanceof KeyFileInvalid)) throw cause;
    const message = `${path}: ${cause.message}`;
    if (cause instanceof PassphraseNeeded) throw new PassphraseNeeded(message, { cause });
    if (cause instanceof PassphraseWrong) throw new PassphraseWrong(message, { cause });
    throw new KeyFileInvalid(message, { cause });
  }
}

async function parse(text: string, passphrase: PassphraseSource | undefined): Promise<AtKeys> {
  try {
    return parseAtKeys(text);
  } catch (error) {
    if (!(error instanceof PassphraseNeeded) || !passphrase) throw error;
    return parseAtKeys(await unwrapAtKeys(text, typeof passphrase === "function" ? await passphrase() : passphrase));
  }
}

export interface WriteOptions {
  readonly overwrite?: boolean;
  /** Wraps the file with it. Without, the file is as good as clear text and only its mode protects it. */
  readonly passphrase?: Secret | undefined;
  /** `compatible` unless given. */
  readonly form?: WrapForm;
}

/**
 * Writes a key file so that after a crash there is either all of it or none: temporary file, fsync, rename, fsync of
 * the directory. The file gets mode 0600, a directory made for it 0700.
 *
 * @throws {KeyFileExists} when there is one already and `overwrite` is not set.
 */
export async function writeAtKeysFile(
  path: string,
  atSign: string,
  keys: AtKeys,
  { overwrite = false, passphrase, form = "compatible" }: WriteOptions = {},
): Promise<void> {
  const inner = formatAtKeys(atSign, keys);
  const text = passphrase ? await wrapAtKeys(inner, passphrase, form) : inner.reveal();
  const temporary = await writeBeside(path, text);
  try {
    if (overwrite) await rename(temporary, path);
    else await link(temporary, path); // unlike rename, it fails when the name is taken
  } catch (cause) {
    if (codeOf(cause) !== "EEXIST") throw cause;
    throw new KeyFileExists(`${path} exists already and is not overwritten`, { cause });
  } finally {
    await rm(temporary, { force: true });
  }
  await syncDirectory(dirname(path));
}

/**
 * Finds out before anything is asked of a server whether a key file could be written there: an enrolment whose file
 * cannot be written is lost.
 *
 * @throws {KeyFileExists}, or the system error that writing would meet.
 */
export async function checkAtKeysPath(path: string): Promise<void> {
  await rm(await writeBeside(path, "{}"));
  try {
    await (await open(path, "r")).close();
  } catch (error) {
    if (codeOf(error) === "ENOENT") return;
    throw error;
  }
  throw new KeyFileExists(`${path} exists already and is not overwritten`);
}

/** Writes any text that only the owner may read, in one piece or not at all, over what was there. */
export async function replaceSecretFile(path: string, text: string): Promise<void> {
  const temporary = await writeBeside(path, text);
  try {
    await rename(temporary, path);
  } finally {
    await rm(temporary, { force: true });
  }
  await syncDirectory(dirname(path));
}

async function writeBeside(path: string, text: string): Promise<string> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  const temporary = `${path}.${randomUUID()}.tmp`;
  const file = await open(temporary, "wx", 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  } finally {
    await file.close();
  }
  return temporary;
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, "r");
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
